//! `softmax(x)_i = e^(x_i) / sum_j e^(x_j)` and `log_softmax(x)_i = x_i - log sum_j e^(x_j)`, over the last axis.
//!
//! Gradients come from the output: `dx = y (dy - sum(y dy))`, and `dx = dy - e^y sum(dy)` of the logarithm.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, DType, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;

/// Input `x[.., D]`; output `y` of the same shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Softmax {
    /// `e^x / sum e^x`
    Plain,
    /// `x - ln sum e^x`
    Log,
}

const ROW_BLOCK: usize = 64;

impl Op for Softmax {
    fn name(&self) -> &'static str {
        match self {
            Softmax::Plain => "softmax",
            Softmax::Log => "log_softmax",
        }
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let fits = inputs[0].dtype == DType::F32 && inputs[0].width() > 0;
        expect(self.name(), fits, || format!("x is {}, its last axis must hold numbers", inputs[0]))?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let width = inputs[0].width();
        for (x, y) in inputs[0].f().chunks_exact(width).zip(outputs[0].f_mut().chunks_exact_mut(width)) {
            let peak = x.iter().fold(f64::MIN, |m, &x| m.max(x));
            let lse = peak + x.iter().map(|x| (x - peak).exp()).sum::<f64>().ln();
            for (x, y) in x.iter().zip(y) {
                *y = if *self == Softmax::Log { x - lse } else { (x - lse).exp() };
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let width = io.inputs[0].width();
        let x = io.inputs[0].f().par_chunks(ROW_BLOCK * width);
        io.outputs[0].f().par_chunks_mut(ROW_BLOCK * width).zip(x).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let peak = simd::max(x);
                if *self == Softmax::Log {
                    let log_total = simd::sum_exp_sub(x, peak).ln();
                    // Two subtractions: peak + log_total would round away the smaller one.
                    y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - peak) - log_total);
                } else {
                    y.copy_from_slice(x);
                    let total = simd::exp_sub_sum(y, peak);
                    simd::scale(y, 1.0 / total);
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let rows = b.inputs[0].rows();
        let (bindings, params) =
            ([(b.input(0), Read), (b.output(0), Write)], [rows.into(), b.inputs[0].width().into()]);
        b.dispatch(shader!("softmax"), &self.consts(), &bindings, &params, rows.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let dx = vjp.add(SoftmaxGradient(*self), &[vjp.output(0), dy])?[0];
        vjp.accumulate(0, dx)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(5 * inputs[0].len(), inputs, outputs)
    }
}

impl Softmax {
    fn consts(self) -> [(&'static str, u32); 1] {
        [("LOG", u32::from(self == Softmax::Log))]
    }
}

/// Inputs `y[.., D]` (the output of the forward op), `dy`; output `dx`.
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxGradient(pub Softmax);

impl Op for SoftmaxGradient {
    fn name(&self) -> &'static str {
        match self.0 {
            Softmax::Plain => "softmax_gradient",
            Softmax::Log => "log_softmax_gradient",
        }
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let width = inputs[0].width();
        for (n, dx) in outputs[0].f_mut().chunks_exact_mut(width).enumerate() {
            let (y, dy) = (inputs[0].row(n), inputs[1].row(n));
            let sum: f64 = match self.0 {
                Softmax::Plain => y.iter().zip(dy).map(|(y, dy)| y * dy).sum(),
                Softmax::Log => dy.iter().sum(),
            };
            for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = match self.0 {
                    Softmax::Plain => y * (dy - sum),
                    Softmax::Log => dy - y.exp() * sum,
                };
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let width = io.inputs[0].width();
        let (y, dy) = (io.inputs[0].f().par_chunks(ROW_BLOCK * width), io.inputs[1].f().par_chunks(ROW_BLOCK * width));
        io.outputs[0].f().par_chunks_mut(ROW_BLOCK * width).zip(y).zip(dy).for_each(|((dx, y), dy)| {
            let rows = dx.chunks_exact_mut(width).zip(y.chunks_exact(width)).zip(dy.chunks_exact(width));
            for ((dx, y), dy) in rows {
                match self.0 {
                    Softmax::Plain => {
                        let sum = simd::dot(y, dy);
                        dx.iter_mut().zip(y).zip(dy).for_each(|((dx, y), dy)| *dx = y * (dy - sum));
                    }
                    Softmax::Log => {
                        let sum: f32 = dy.iter().sum();
                        dx.copy_from_slice(y);
                        simd::exp_in_place(dx);
                        dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy - *dx * sum);
                    }
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let rows = b.inputs[0].rows();
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.output(0), Write)];
        let params = [rows.into(), b.inputs[0].width().into()];
        b.dispatch(shader!("softmax_gradient"), &self.0.consts(), &bindings, &params, rows.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(5 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] =
    &[("softmax", |b| build(b, Softmax::Plain)), ("log_softmax", |b| build(b, Softmax::Log))];

fn build(b: &mut Builder, op: Softmax) -> Result<()> {
    let x = b.input("x")?;
    let y = b.graph.add1(op, &[x])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &kernel in KERNELS {
        let sizes = [(1, 2), (3, 63), (64, 3), (65, 65), (2, 130)];
        cases.extend(sizes.map(|(n, d)| Case::new(kernel, format!("{n}x{d}")).normal("x", &[n, d], 2.0)));
        let one_column = Case::new(kernel, "one column").attr("zero_gradient", true);
        cases.push(one_column.normal("x", &[3, 1], 1.0));
        cases.push(Case::new(kernel, "three axes").normal("x", &[2, 3, 5], 1.0));
        // Common offsets of 1e4; the third row has one dominating element.
        let offset = (0..24).map(|i| [1e4, -1e4, 0.0][i / 8] + (i % 8) as f32 * if i == 23 { 10.0 } else { 0.25 });
        cases.push(Case::new(kernel, "large and dominating").tensor("x", &[3, 8], offset.collect()));
    }
    cases
}
