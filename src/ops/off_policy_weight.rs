//! `w_b = a_b clip(pi_b / beta_b)^kappa`, `pi_b = exp(-loss_b)`: the weight of a cross-entropy by its advantage, corrected for
//! the policy that chose the actions (SA2C, Xin et al., WSDM 2022, section 3.4). A constant to every loss. With `kappa = 0` the
//! factor is 1, whatever underflows.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;

/// Inputs `advantage[B]`, `loss[B]` (the cross-entropy of the action under the policy that learns), `beta[B]` (its share under
/// the one that acted); output `weight[B]`.
#[derive(Clone, Copy, Debug)]
pub struct OffPolicyWeight {
    /// The exponent; 0 corrects nothing.
    pub kappa: f64,
    /// Bounds of the ratio, positive.
    pub clip: [f64; 2],
}

impl Op for OffPolicyWeight {
    fn name(&self) -> &'static str {
        "off_policy_weight"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let fits = inputs.len() == 3 && inputs.iter().all(|ty| *ty == inputs[0]) && self.clip[0] > 0.0;
        expect("off_policy_weight", fits, || format!("advantage is {}, clip {:?}", inputs[0], self.clip))?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let [advantage, loss, beta] = inputs else { unreachable!("inferred") };
        for (b, weight) in outputs[0].f_mut().iter_mut().enumerate() {
            let ratio = ((-loss.f()[b]).exp() / beta.f()[b]).clamp(self.clip[0], self.clip[1]);
            *weight = advantage.f()[b] * ratio.powf(self.kappa);
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let len = b.inputs[0].len();
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.input(2), Read), (b.output(0), Write)];
        let params = [len.into(), self.kappa.into(), self.clip[0].into(), self.clip[1].into()];
        b.dispatch(shader!("off_policy_weight"), &[], &bindings, &params, len.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        vjp.stop(0);
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(5 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("off_policy_weight", build)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("advantage")?, b.input("loss")?, b.input("beta")?];
    let weight = b.graph.add1(OffPolicyWeight { kappa: b.attr_f64("kappa")?, clip: [0.1, 10.0] }, &inputs)?;
    b.output("weight", weight);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, kappa: f64| {
        let case = Case::new(KERNELS[0], format!("{n}, kappa {kappa}")).attr("kappa", kappa);
        let values = |from: f32, step: f32| (0..n).map(|i| from + step * (i % 13) as f32).collect::<Vec<f32>>();
        let case = case.constant("advantage", &[n], values(-0.3, 0.2)).constant("loss", &[n], values(0.0, 0.9));
        case.constant("beta", &[n], values(1e-4, 0.02))
    };
    let ends = Case::new(KERNELS[0], "a probability that underflows").attr("kappa", 0.0);
    let ends = ends.constant("advantage", &[2], vec![1.5, 2.0]).constant("loss", &[2], vec![200.0, 1e4]);
    vec![case(1, 1.0), case(65, 0.5), case(130, 0.0), ends.constant("beta", &[2], vec![0.01, 0.5])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_clipped_before_they_are_raised() {
        let row = |values: [f64; 3]| Array::from_f64(&TensorType::f32(&[3]), values.into());
        let (advantage, beta) = (row([1.0; 3]), row([0.001, 0.01, 0.5]));
        let loss = row([-(0.3f64.ln()), -(1e-6f64.ln()), 1e4]);
        let weights = |kappa: f64| {
            let mut out = [row([0.0; 3])];
            OffPolicyWeight { kappa, clip: [0.1, 10.0] }.reference(&[&advantage, &loss, &beta], &mut out);
            out[0].f().to_vec()
        };
        assert_eq!((weights(1.0), weights(0.0)), (vec![10.0, 0.1, 0.1], vec![1.0; 3]));
    }
}
