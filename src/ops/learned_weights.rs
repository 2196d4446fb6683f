//! Losses with learned weights, as SSI has them (Yuan et al., IJCAI 2021, Eq. 8):
//!
//! ```text
//! total = sum_k lambda_k L_k + sum_k 1 / lambda_k + (sum_k 1 / lambda_k)^2,     lambda_k = softplus(rho_k) + 0.001
//! ```
//!
//! Left to itself a weight settles where `L_k lambda_k^2 = 1 + 2 sum_j 1 / lambda_j`: the smaller the loss, the larger. As a
//! free number it could fall through 0 into a basin of negative weights, hence `rho`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::activation::{sigmoid, softplus};
use crate::shader;

/// The least weight.
const LEAST: f64 = 1e-3;

/// The `rho` of weight 1.
pub fn rho_of_one() -> f64 {
    (1.0 - LEAST).exp_m1().ln()
}

/// Inputs `rho[K]`, `losses[K]`; outputs `total[1]`, then each weight `lambda_k[1]` (to be read, not differentiated).
#[derive(Clone, Copy, Debug)]
pub struct LearnedWeights;

fn weights(rho: &[f64]) -> Vec<f64> {
    rho.iter().map(|rho| softplus(*rho) + LEAST).collect()
}

fn total(lambda: &[f64], losses: &[f64]) -> f64 {
    let inverse = lambda.iter().map(|lambda| 1.0 / lambda).sum::<f64>();
    lambda.iter().zip(losses).map(|(lambda, loss)| lambda * loss).sum::<f64>() + inverse + inverse * inverse
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

impl Op for LearnedWeights {
    fn name(&self) -> &'static str {
        "learned_weights"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let fits = inputs[0] == inputs[1] && inputs[0].shape.len() == 1 && inputs[0].len() > 0;
        expect("learned_weights", fits, || format!("rho is {}, losses {}", inputs[0], inputs[1]))?;
        Ok(vec![TensorType::f32(&[1]); 1 + inputs[0].len()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let lambda = weights(inputs[0].f());
        outputs[0].f_mut()[0] = total(&lambda, inputs[1].f());
        outputs[1..].iter_mut().zip(lambda).for_each(|(output, lambda)| output.f_mut()[0] = lambda);
    }

    fn cpu(&self, io: &mut CpuIo) {
        let lambda = weights(&wide(io.inputs[0].f()));
        io.outputs[0].f()[0] = total(&lambda, &wide(io.inputs[1].f())) as f32;
        io.outputs[1..].iter_mut().zip(lambda).for_each(|(output, lambda)| output.f()[0] = lambda as f32);
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        // The kernel gives the total, or one weight.
        for place in 0..=b.inputs[0].len() {
            let bindings = [(b.input(0), Read), (b.input(1), Read), (b.output(place), Write)];
            b.dispatch(shader!("learned_weights"), &[], &bindings, &[b.inputs[0].len().into(), place.into()], 1);
        }
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        if !vjp.needs(0) {
            // The weights are those of `rho` alone.
            (1..=vjp.ty(vjp.input(0)).len()).for_each(|weight| vjp.stop(weight));
        }
        let Some(dtotal) = vjp.cotangent(0) else { return Ok(()) };
        let gradients = vjp.add(LearnedWeightsGradient, &[vjp.input(0), vjp.input(1), dtotal])?;
        for (i, gradient) in gradients.into_iter().enumerate() {
            if vjp.needs(i) {
                vjp.accumulate(i, gradient)?;
            }
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(6 * inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `rho[K]`, `losses[K]`, `dtotal[1]`; outputs `drho[K]`, `dlosses[K]`:
/// `drho_k = dtotal sigmoid(rho_k) (L_k - (1 + 2 sum_j 1 / lambda_j) / lambda_k^2)`, `dL_k = dtotal lambda_k`.
#[derive(Clone, Copy, Debug)]
pub struct LearnedWeightsGradient;

/// `drho_k / dtotal` and `dL_k / dtotal`.
fn gradients<'a>(rho: &'a [f64], losses: &'a [f64]) -> impl Iterator<Item = [f64; 2]> + 'a {
    let lambda = weights(rho);
    let inverse = lambda.iter().map(|lambda| 1.0 / lambda).sum::<f64>();
    rho.iter()
        .zip(losses)
        .zip(lambda)
        .map(move |((rho, loss), lambda)| [sigmoid(*rho) * (loss - (1.0 + 2.0 * inverse) / (lambda * lambda)), lambda])
}

impl Op for LearnedWeightsGradient {
    fn name(&self) -> &'static str {
        "learned_weights_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone(), inputs[1].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let dtotal = inputs[2].f()[0];
        for (k, [drho, dloss]) in gradients(inputs[0].f(), inputs[1].f()).enumerate() {
            outputs[0].f_mut()[k] = dtotal * drho;
            outputs[1].f_mut()[k] = dtotal * dloss;
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (rho, losses, dtotal) = (wide(io.inputs[0].f()), wide(io.inputs[1].f()), f64::from(io.inputs[2].f()[0]));
        for (k, [drho, dloss]) in gradients(&rho, &losses).enumerate() {
            io.outputs[0].f()[k] = (dtotal * drho) as f32;
            io.outputs[1].f()[k] = (dtotal * dloss) as f32;
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let inputs = [(b.input(0), Read), (b.input(1), Read), (b.input(2), Read)];
        let bindings = [inputs[0], inputs[1], inputs[2], (b.output(0), Write), (b.output(1), Write)];
        b.dispatch(shader!("learned_weights_gradient"), &[], &bindings, &[b.inputs[0].len().into()], 1);
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(10 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("learned_weights", build)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("rho")?, b.input("losses")?];
    let outputs = b.graph.add(LearnedWeights, &inputs)?;
    b.output("total", outputs[0]);
    if b.attr_bool("weights")? {
        outputs[1..].iter().enumerate().for_each(|(k, weight)| b.output(&format!("lambda{k}"), *weight));
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |rho: &[f32], losses: &[f32], weights: bool| {
        let k = rho.len();
        let case = Case::new(KERNELS[0], format!("{k} losses from {}", losses[0])).attr("weights", weights);
        let case = case.tensor("losses", &[k], losses.to_vec());
        // The weights can be read where `rho` is not differentiated.
        if weights { case.constant("rho", &[k], rho.to_vec()) } else { case.tensor("rho", &[k], rho.to_vec()) }
    };
    vec![
        case(&[0.5], &[3.0], false),
        case(&[0.5, 0.5, 0.5], &[1.0, 1.0, 1.0], false),
        case(&[-2.0, 0.0, 12.0], &[0.01, 7.0, 50.0], false),
        case(&[-2.0, 0.0, 12.0], &[0.01, 7.0, 50.0], true),
        case(&[-5.0, 1.0], &[2.0, 5.0], false),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain Adam from weights of 1, with losses that stay as they are.
    fn settled(losses: &[f64], steps: i32) -> Vec<f64> {
        let mut rho = vec![rho_of_one(); losses.len()];
        let (mut m, mut v) = (vec![0.0; losses.len()], vec![0.0; losses.len()]);
        for step in 1..=steps {
            let all: Vec<[f64; 2]> = gradients(&rho, losses).collect();
            for (k, [g, _]) in all.into_iter().enumerate() {
                m[k] = 0.9 * m[k] + 0.1 * g;
                v[k] = 0.999 * v[k] + 0.001 * g * g;
                let (m, v) = (m[k] / (1.0 - 0.9f64.powi(step)), v[k] / (1.0 - 0.999f64.powi(step)));
                rho[k] -= 1e-3 * m / (v.sqrt() + 1e-8);
            }
        }
        weights(&rho)
    }

    #[test]
    fn weights_begin_at_one_and_settle_where_the_equation_says() {
        assert!((weights(&[rho_of_one()])[0] - 1.0).abs() < 1e-12);
        // With n equal losses c: c lambda^3 = lambda + 2 n.
        for (count, loss, expected) in
            [(3, 1.0, 2.0), (3, 7.0, 1.0), (1, 3.0, 1.0), (3, 0.01, 12.2120), (3, 50.0, 0.50676)]
        {
            for lambda in settled(&vec![loss; count], 40_000) {
                assert!((lambda - expected).abs() < 1e-3, "{count} losses of {loss}: {lambda}");
            }
        }
    }

    #[test]
    fn the_smaller_of_two_losses_gets_the_larger_weight() {
        let lambda = settled(&[0.5, 2.0], 20_000);
        let inverse = 1.0 / lambda[0] + 1.0 / lambda[1];
        for (lambda, loss) in lambda.iter().zip([0.5, 2.0]) {
            assert!((loss * lambda * lambda - (1.0 + 2.0 * inverse)).abs() < 1e-3);
        }
        assert!(lambda[0] > lambda[1]);
    }
}
