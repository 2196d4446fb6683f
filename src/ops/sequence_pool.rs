//! `y_s = sum_n w_n x_n` over the rows n of each packed sequence, or their mean, divided by `W_s = sum_n w_n`. A sequence of
//! no rows, or of no weight, has 0.
//!
//! Gradients: of the sum `dx_n = w_n dy_s`, `dw_n = <x_n, dy_s>`; of the mean `dx_n = w_n / W_s dy_s`,
//! `dw_n = <x_n - y_s, dy_s> / W_s`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::attention::cut;
use crate::shader;
use rayon::prelude::*;

/// Inputs `x[N, D]`, `weight[N]`, `cu_seqlens[B + 1]`; outputs `y[B, D]`, `share[B]` (saved): what the weights are multiplied
/// by, 1 for the sum, `1 / W_s` for the mean.
#[derive(Clone, Copy, Debug)]
pub struct SequencePool {
    /// Whether to divide by the sum of the weights.
    pub mean: bool,
}

/// A sum of weights below this counts as none.
const NOTHING: f64 = 1e-12;

impl Op for SequencePool {
    fn name(&self) -> &'static str {
        "sequence_pool"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let [x, weight, borders] = inputs else { unreachable!("three inputs") };
        let fits = x.shape.len() == 2 && weight.len() == x.rows() && borders.len() > 1;
        expect("sequence_pool", fits, || format!("x is {x}, weight {weight}, cu_seqlens {borders}"))?;
        let sequences = borders.len() - 1;
        Ok(vec![TensorType::f32(&[sequences, x.width()]), TensorType::f32(&[sequences])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (x, weight, width) = (inputs[0], inputs[1].f(), inputs[0].width());
        for (s, ends) in inputs[2].u().windows(2).enumerate() {
            let rows = ends[0] as usize..ends[1] as usize;
            let total: f64 = rows.clone().map(|n| weight[n]).sum();
            let share = if !self.mean {
                1.0
            } else if total > NOTHING {
                1.0 / total
            } else {
                0.0
            };
            outputs[1].f_mut()[s] = share;
            for n in rows {
                let y = outputs[0].f_mut()[s * width..].iter_mut();
                y.zip(x.row(n)).for_each(|(y, x)| *y += share * weight[n] * x);
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (x, weight, borders, width) = (io.inputs[0].f(), io.inputs[1].f(), io.inputs[2].u(), io.inputs[0].width());
        let [y, share] = &mut io.outputs[..] else { unreachable!("inferred") };
        let sequences = y.f().par_chunks_exact_mut(width).zip(share.f().par_iter_mut());
        sequences.enumerate().for_each(|(s, (y, share))| {
            let rows = borders[s] as usize..borders[s + 1] as usize;
            let total: f32 = weight[rows.clone()].iter().sum();
            *share = if !self.mean {
                1.0
            } else if f64::from(total) > NOTHING {
                1.0 / total
            } else {
                0.0
            };
            y.fill(0.0);
            rows.for_each(|n| simd::axpy(*share * weight[n], &x[n * width..][..width], y));
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (len, width) = (b.outputs[0].len(), b.inputs[0].width());
        let bindings = [(b.input(1), Read), (b.input(2), Read), (b.output(1), Write)];
        let sequences = b.outputs[1].len();
        let params = [sequences.into(), self.mean.into(), NOTHING.into()];
        b.dispatch(shader!("sequence_share"), &[], &bindings, &params, sequences.div_ceil(64));
        let bindings =
            [(b.input(0), Read), (b.input(1), Read), (b.input(2), Read), (b.output(1), Read), (b.output(0), Write)];
        b.dispatch(shader!("sequence_pool"), &[], &bindings, &[len.into(), width.into()], len.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let inputs = [vjp.input(0), vjp.input(1), vjp.input(2), vjp.output(0), vjp.output(1), dy];
        let gradients = vjp.add(SequencePoolGradient { mean: self.mean }, &inputs)?;
        for i in (0..2).filter(|i| vjp.needs(*i)).collect::<Vec<_>>() {
            vjp.accumulate(i, gradients[i])?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `x`, `weight`, `cu_seqlens`, `y`, `share`, `dy[B, D]`; outputs `dx[N, D]`, `dweight[N]`, 0 on inert rows.
#[derive(Clone, Copy, Debug)]
pub struct SequencePoolGradient {
    /// As of the forward op.
    pub mean: bool,
}

impl Op for SequencePoolGradient {
    fn name(&self) -> &'static str {
        "sequence_pool_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone(), inputs[1].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let [x, weight, borders, y, share, dy] = inputs else { unreachable!("inferred") };
        let width = x.width();
        for (s, ends) in borders.u().windows(2).enumerate() {
            for n in ends[0] as usize..ends[1] as usize {
                let (share, dy) = (share.f()[s], dy.row(s));
                let dx = outputs[0].f_mut()[n * width..].iter_mut();
                dx.zip(dy).for_each(|(dx, dy)| *dx = share * weight.f()[n] * dy);
                let centre = |d: usize| if self.mean { y.row(s)[d] } else { 0.0 };
                let along = x.row(n).iter().enumerate().map(|(d, x)| (x - centre(d)) * dy[d]);
                outputs[1].f_mut()[n] = share * along.sum::<f64>();
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let [x, weight, borders, y, share, dy] = &io.inputs[..] else { unreachable!("inferred") };
        let (x, weight, borders, width) = (x.f(), weight.f(), borders.u(), y.width());
        let (y, share, dy) = (y.f(), share.f(), dy.f());
        let [dx, dweight] = &mut io.outputs[..] else { unreachable!("inferred") };
        let (dx, inert) = cut(dx.f(), borders, width);
        inert.fill(0.0);
        let (dweight, inert) = cut(dweight.f(), borders, 1);
        inert.fill(0.0);
        dx.into_par_iter().zip(dweight).enumerate().for_each(|(s, (dx, dweight))| {
            let (y, dy) = (&y[s * width..][..width], &dy[s * width..][..width]);
            let centre = if self.mean { simd::dot(y, dy) } else { 0.0 };
            for ((n, dx), dweight) in (borders[s] as usize..).zip(dx.chunks_exact_mut(width)).zip(dweight) {
                dx.copy_from_slice(dy);
                simd::scale(dx, share[s] * weight[n]);
                *dweight = share[s] * (simd::dot(&x[n * width..][..width], dy) - centre);
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (rows, width, sequences) = (b.inputs[0].rows(), b.inputs[0].width(), b.inputs[2].len() - 1);
        let mut bindings: Vec<_> = (0..6).map(|i| (b.input(i), Read)).collect();
        bindings.extend([(b.output(0), Write), (b.output(1), Write)]);
        let params = [rows.into(), width.into(), sequences.into(), self.mean.into()];
        b.dispatch(shader!("sequence_pool_gradient"), &[], &bindings, &params, rows);
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(4 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("sequence_pool", build)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("x")?, b.input("weight")?, b.input("cu_seqlens")?];
    let y = b.graph.add1(SequencePool { mean: b.attr_bool("mean")? }, &inputs)?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, mean: bool, borders: &[u32], rows: usize, width: usize| {
        let name = format!("{name}, {}", if mean { "mean" } else { "sum" });
        let weight = (0..rows).map(|i| 0.25 + (i * 7 % 5) as f32 / 4.0).collect();
        let case = Case::new(KERNELS[0], name).attr("mean", mean).normal("x", &[rows, width], 1.0);
        case.tensor("weight", &[rows], weight).ids("cu_seqlens", &[borders.len()], borders)
    };
    let of = |mean: bool| {
        [
            case("two rows", mean, &[0, 2], 2, 1),
            case("empty, short and inert", mean, &[0, 0, 2, 9, 10], 14, 3),
            case("long and wide", mean, &[0, 130, 195], 195, 65),
        ]
    };
    [of(false), of(true)].concat()
}
