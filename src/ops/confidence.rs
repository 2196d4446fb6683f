//! `c_n = 1 - e_n / (max_m e_m + 1e-6)`, `e_n = (value_n - goal_n)^2`: how much a value is to be trusted beside the others of
//! the batch (DRL-Rec's confidence). Computed as `(max e - e_n + 1e-6) / (max e + 1e-6)`, which keeps small ones exact.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;

/// Inputs `value[N]`, `goal[N]`; output `c[N]`. No gradient.
#[derive(Clone, Copy, Debug)]
pub struct Confidence;

/// Where all errors are zero, nothing is divided by zero.
const LEAST: f64 = 1e-6;

impl Op for Confidence {
    fn name(&self) -> &'static str {
        "confidence"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        expect("confidence", inputs[0] == inputs[1], || format!("value is {}, goal {}", inputs[0], inputs[1]))?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let errors: Vec<f64> = inputs[0].f().iter().zip(inputs[1].f()).map(|(v, g)| (v - g).powi(2)).collect();
        let largest = errors.iter().copied().fold(0.0, f64::max);
        outputs[0].f_mut().iter_mut().zip(errors).for_each(|(c, e)| *c = (largest - e + LEAST) / (largest + LEAST));
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (value, goal) = (io.inputs[0].f(), io.inputs[1].f());
        let error = |n: usize| (value[n] - goal[n]) * (value[n] - goal[n]);
        let (largest, least) = ((0..value.len()).map(error).fold(0.0, f32::max), LEAST as f32);
        let confidence = |n: usize| (largest - error(n) + least) / (largest + least);
        io.outputs[0].f().iter_mut().enumerate().for_each(|(n, c)| *c = confidence(n));
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.output(0), Write)];
        b.dispatch(shader!("confidence"), &[], &bindings, &[b.inputs[0].len().into(), LEAST.into()], 1);
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(5 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("confidence", build)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("value")?, b.input("goal")?];
    let c = b.graph.add1(Confidence, &inputs)?;
    b.output("c", c);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, value: Vec<f32>, goal: Vec<f32>| {
        let n = value.len();
        Case::new(KERNELS[0], name).constant("value", &[n], value).constant("goal", &[n], goal)
    };
    let ramp = |n: usize, step: usize| (0..n).map(|i| ((i * step) % 101) as f32 / 50.0).collect::<Vec<f32>>();
    vec![
        case("errors 0, 1, 4", vec![0.5, 1.0, 2.0], vec![0.5, 2.0, 0.0]),
        case("no error", vec![1.0; 5], vec![1.0; 5]),
        case("one value", vec![0.3], vec![0.1]),
        case("300 values", ramp(300, 37), ramp(300, 29)),
        case("2560 values", ramp(2560, 7), ramp(2560, 11)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confidence(value: &[f64], goal: &[f64]) -> Vec<f64> {
        let n = value.len();
        let mut output = vec![Array::from_f64(&TensorType::f32(&[n]), vec![0.0; n])];
        let inputs = [
            Array::from_f64(&TensorType::f32(&[n]), value.to_vec()),
            Array::from_f64(&TensorType::f32(&[n]), goal.to_vec()),
        ];
        Confidence.reference(&[&inputs[0], &inputs[1]], &mut output);
        output[0].f().to_vec()
    }

    #[test]
    fn the_largest_error_has_no_confidence_and_no_error_has_all() {
        let c = confidence(&[0.0, 1.0, 2.0], &[0.0; 3]);
        assert!((c[0] - 1.0).abs() < 1e-9 && (c[1] - 0.75).abs() < 1e-6 && (c[2] - 2.5e-7).abs() < 1e-9);
        assert_eq!(confidence(&[3.0; 4], &[3.0; 4]), [1.0; 4]);
        assert!(confidence(&[1.0], &[0.0])[0] < 1e-5);
    }
}
