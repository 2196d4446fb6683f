//! `y = sum_i x_i w_i`: the loss of a batch from per-row losses. A mean over valid rows has weights 1/count there, 0 elsewhere.
//!
//! `w` is a constant of the batch; only `x` is differentiated: `dx_i = dy w_i`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;

/// Inputs `x[N]`, `weight[N]`; output `y[1]`.
#[derive(Debug)]
pub struct WeightedSum;

impl Op for WeightedSum {
    fn name(&self) -> &'static str {
        "weighted_sum"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let fits = inputs[0].len() == inputs[1].len();
        expect("weighted_sum", fits, || format!("{} and {} differ in length", inputs[0], inputs[1]))?;
        Ok(vec![TensorType::f32(&[1])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        outputs[0].f_mut()[0] = inputs[0].f().iter().zip(inputs[1].f()).map(|(x, w)| x * w).sum();
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (x, weight) = (io.inputs[0].f(), io.inputs[1].f());
        let sum: f64 = x.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        io.outputs[0].f()[0] = sum as f32;
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let bindings = [(builder.input(0), Read), (builder.input(1), Read), (builder.output(0), Write)];
        builder.dispatch(shader!("weighted_sum"), &[], &bindings, &[builder.inputs[0].len().into()], 1);
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let shape = vjp.ty(vjp.input(0)).shape;
        let dx = vjp.add(WeightedSumGradient { shape }, &[vjp.input(1), dy])?[0];
        vjp.accumulate(0, dx)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `weight[N]`, `dy[1]`; output `dx`, of the shape of `x`.
#[derive(Debug)]
pub struct WeightedSumGradient {
    /// Of the forward op's input.
    pub shape: Vec<usize>,
}

impl Op for WeightedSumGradient {
    fn name(&self) -> &'static str {
        "weighted_sum_gradient"
    }

    fn infer(&self, _inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::f32(&self.shape)])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let dy = inputs[1].f()[0];
        outputs[0].f_mut().iter_mut().zip(inputs[0].f()).for_each(|(dx, w)| *dx = dy * w);
    }

    fn cpu(&self, io: &mut CpuIo) {
        let dy = io.inputs[1].f()[0];
        io.outputs[0].f().iter_mut().zip(io.inputs[0].f()).for_each(|(dx, w)| *dx = dy * w);
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let len = builder.inputs[0].len();
        let bindings = [(builder.input(0), Read), (builder.input(1), Read), (builder.output(0), Write)];
        builder.dispatch(shader!("weighted_sum_gradient"), &[], &bindings, &[len.into()], len.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("weighted_sum", build)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("x")?, b.input("weight")?];
    let y = b.graph.add1(WeightedSum, &inputs)?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize| {
        let weight = (0..n).map(|i| if i % 3 == 1 { 0.0 } else { 0.25 }).collect();
        Case::new(KERNELS[0], n.to_string()).normal("x", &[n], 1.0).constant("weight", &[n], weight)
    };
    [1, 2, 65, 1000].map(case).into()
}
