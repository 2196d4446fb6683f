//! `y_nd = (x_nd - mean_d) rstd_d weight_d + bias_d` with mean and biased variance of column d over the batch and
//! `rstd = 1 / sqrt(variance + eps)` (Ioffe and Szegedy, ICML 2015); or with statistics that are given, as a trained model has
//! them.
//!
//! Gradient, with `xhat = (x - mean) rstd`: `dbias = sum_n dy`, `dweight = sum_n dy xhat`,
//! `dx = weight rstd (dy - dbias / N - xhat dweight / N)`; with given statistics `dx = weight rstd dy`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::params::ALIGN_WORDS;
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;

/// Inputs `x[N, D]`, `weight[D]`, `bias[D]`, and `statistics` when they are given; outputs `y[N, D]`, and `statistics` when
/// they are the batch's. Statistics lie as the parameters `mean[D]` and `variance[D]` of a set do, each from a boundary of 64
/// words on, so that `SoftSync` moves those of a model towards the batch's. They have no gradient.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm {
    /// Added to the variance.
    pub eps: f64,
    /// Whether statistics are an input.
    pub given: bool,
}

/// Rows that one worker sums.
const BLOCK: usize = 256;

/// Where the variances begin; twice this are the words of the statistics.
fn variances_at(width: usize) -> usize {
    width.next_multiple_of(ALIGN_WORDS)
}

/// `out_d = sum_n term(n D + d, d)`, the rows in blocks, the blocks in order.
fn column_sums(out: &mut [f32], scratch: &mut [f32], rows: usize, term: impl Fn(usize, usize) -> f32 + Sync) {
    let width = out.len();
    scratch[..rows.div_ceil(BLOCK) * width].par_chunks_mut(width).enumerate().for_each(|(block, sums)| {
        sums.fill(0.0);
        for n in block * BLOCK..rows.min((block + 1) * BLOCK) {
            sums.iter_mut().enumerate().for_each(|(d, sum)| *sum += term(n * width + d, d));
        }
    });
    out.fill(0.0);
    for sums in scratch[..rows.div_ceil(BLOCK) * width].chunks_exact(width) {
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
    }
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let (x, width) = (inputs[0], inputs[0].width());
        let words = 2 * variances_at(width);
        let fits = x.shape.len() == 2
            && x.rows() > 0
            && inputs[1..3].iter().all(|affine| affine.len() == width)
            && (!self.given || inputs[3].len() == words);
        expect(self.name(), fits, || format!("x is {x}, weight {}, bias {}", inputs[1], inputs[2]))?;
        Ok([x.clone()].into_iter().chain((!self.given).then(|| TensorType::f32(&[words]))).collect())
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (x, rows, width) = (inputs[0], inputs[0].rows(), inputs[0].width());
        for d in 0..width {
            let column: Vec<f64> = (0..rows).map(|n| x.row(n)[d]).collect();
            let (mean, variance) = match self.given {
                true => (inputs[3].f()[d], inputs[3].f()[variances_at(width) + d]),
                false => {
                    let mean = column.iter().sum::<f64>() / rows as f64;
                    (mean, column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / rows as f64)
                }
            };
            for (n, x) in column.iter().enumerate() {
                let xhat = (x - mean) / (variance + self.eps).sqrt();
                outputs[0].f_mut()[n * width + d] = xhat * inputs[1].f()[d] + inputs[2].f()[d];
            }
            if !self.given {
                outputs[1].f_mut()[d] = mean;
                outputs[1].f_mut()[variances_at(width) + d] = variance;
            }
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        let width = inputs[0].width();
        inputs[0].rows().div_ceil(BLOCK) * width + 2 * variances_at(width)
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (x, rows, width) = (io.inputs[0].f(), io.inputs[0].rows(), io.inputs[0].width());
        let (weight, bias) = (io.inputs[1].f(), io.inputs[2].f());
        let [y, of_batch @ ..] = &mut io.outputs[..] else { unreachable!("inferred") };
        let statistics = match of_batch {
            [] => io.inputs[3].f(),
            [statistics, ..] => {
                let statistics = statistics.f();
                statistics.fill(0.0);
                let (means, variances) = statistics.split_at_mut(variances_at(width));
                let (means, variances) = (&mut means[..width], &mut variances[..width]);
                column_sums(means, io.scratch, rows, |i, _| x[i]);
                means.iter_mut().for_each(|mean| *mean /= rows as f32);
                column_sums(variances, io.scratch, rows, |i, d| (x[i] - means[d]) * (x[i] - means[d]));
                variances.iter_mut().for_each(|variance| *variance /= rows as f32);
                statistics
            }
        };
        let (mean, variance) = statistics.split_at(variances_at(width));
        let factor: Vec<f32> = (0..width).map(|d| weight[d] / (variance[d] + self.eps as f32).sqrt()).collect();
        y.f().par_chunks_mut(BLOCK * width).zip(x.par_chunks(BLOCK * width)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                for d in 0..width {
                    y[d] = (x[d] - mean[d]) * factor[d] + bias[d];
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (rows, width) = (b.inputs[0].rows(), b.inputs[0].width());
        let second = variances_at(width);
        let mut statistics = b.input(if self.given { 3 } else { 0 });
        if !self.given {
            statistics = b.output(1);
            let params = [rows.into(), width.into(), second.into()];
            b.dispatch(
                shader!("batch_norm_statistics"),
                &[],
                &[(b.input(0), Read), (statistics, Write)],
                &params,
                second,
            );
        }
        let bindings =
            [(b.input(0), Read), (b.input(1), Read), (b.input(2), Read), (statistics, Read), (b.output(0), Write)];
        let params = [(rows * width).into(), width.into(), second.into(), self.eps.into()];
        b.dispatch(shader!("batch_norm"), &[], &bindings, &params, (rows * width).div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let statistics = if self.given { vjp.input(3) } else { vjp.output(1) };
        let gradient = BatchNormGradient(*self);
        let outputs = vjp.add(gradient, &[dy, vjp.input(0), vjp.input(1), statistics])?;
        (0..3).try_for_each(|i| vjp.accumulate(i, outputs[i]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(8 * inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `dy[N, D]`, `x[N, D]`, `weight[D]`, `statistics`; outputs `dx[N, D]`, `dweight[D]`, `dbias[D]`.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormGradient(pub BatchNorm);

impl BatchNormGradient {
    fn rstd(&self, variance: f32) -> f32 {
        1.0 / (variance + self.0.eps as f32).sqrt()
    }
}

impl Op for BatchNormGradient {
    fn name(&self) -> &'static str {
        "batch_norm_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone(), inputs[2].clone(), inputs[2].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (dy, x, weight, statistics) = (inputs[0], inputs[1], inputs[2].f(), inputs[3].f());
        let (rows, width) = (x.rows(), x.width());
        for d in 0..width {
            let rstd = 1.0 / (statistics[variances_at(width) + d] + self.0.eps).sqrt();
            let xhat = |n: usize| (x.row(n)[d] - statistics[d]) * rstd;
            let dweight: f64 = (0..rows).map(|n| dy.row(n)[d] * xhat(n)).sum();
            let dbias: f64 = (0..rows).map(|n| dy.row(n)[d]).sum();
            for n in 0..rows {
                let through = if self.0.given { 0.0 } else { (dbias + xhat(n) * dweight) / rows as f64 };
                outputs[0].f_mut()[n * width + d] = weight[d] * rstd * (dy.row(n)[d] - through);
            }
            outputs[1].f_mut()[d] = dweight;
            outputs[2].f_mut()[d] = dbias;
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        inputs[0].rows().div_ceil(BLOCK) * inputs[0].width()
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (rows, width) = (io.inputs[0].rows(), io.inputs[0].width());
        let [dy, x, weight, statistics] = [0, 1, 2, 3].map(|i| io.inputs[i].f());
        let (mean, variance) = statistics.split_at(variances_at(width));
        let rstd: Vec<f32> = variance[..width].iter().map(|variance| self.rstd(*variance)).collect();
        let [dx, dweight, dbias] = &mut io.outputs[..] else { unreachable!("inferred") };
        let (dweight, dbias) = (dweight.f(), dbias.f());
        column_sums(dbias, io.scratch, rows, |i, _| dy[i]);
        column_sums(dweight, io.scratch, rows, |i, d| dy[i] * (x[i] - mean[d]) * rstd[d]);
        let share = if self.0.given { 0.0 } else { 1.0 / rows as f32 };
        let pairs = dy.par_chunks(BLOCK * width).zip(x.par_chunks(BLOCK * width));
        dx.f().par_chunks_mut(BLOCK * width).zip(pairs).for_each(|(dx, (dy, x))| {
            let pairs = dy.chunks_exact(width).zip(x.chunks_exact(width));
            for (dx, (dy, x)) in dx.chunks_exact_mut(width).zip(pairs) {
                for d in 0..width {
                    let through = share * (dbias[d] + (x[d] - mean[d]) * rstd[d] * dweight[d]);
                    dx[d] = weight[d] * rstd[d] * (dy[d] - through);
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (rows, width) = (b.inputs[0].rows(), b.inputs[0].width());
        let second = variances_at(width);
        let [dy, x, weight, statistics] = [0, 1, 2, 3].map(|i| (b.input(i), Read));
        let bindings = [dy, x, statistics, (b.output(1), Write), (b.output(2), Write)];
        let params = [rows.into(), width.into(), second.into(), self.0.eps.into()];
        b.dispatch(shader!("batch_norm_affine"), &[], &bindings, &params, width);
        let sums = [(b.output(1), Read), (b.output(2), Read)];
        let bindings = [dy, x, weight, statistics, sums[0], sums[1], (b.output(0), Write)];
        let share = if self.0.given { 0.0 } else { 1.0 / rows as f64 };
        let params = [(rows * width).into(), width.into(), second.into(), self.0.eps.into(), share.into()];
        b.dispatch(shader!("batch_norm_gradient"), &[], &bindings, &params, (rows * width).div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(14 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("batch_norm", build)];

fn build(b: &mut Builder) -> Result<()> {
    let mut inputs = vec![b.input("x")?, b.input("weight")?, b.input("bias")?];
    let given = b.has("statistics");
    if given {
        inputs.push(b.input("statistics")?);
    }
    let outputs = b.graph.add(BatchNorm { eps: b.attr_f64("eps")?, given }, &inputs)?;
    b.output("y", outputs[0]);
    // They have no gradient: cases that differentiate leave them out.
    if b.attr_bool("shows_statistics").unwrap_or(false) {
        b.output("statistics", outputs[1]);
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, d: usize, name: &str| {
        let case = Case::new(KERNELS[0], format!("{n}x{d}{name}")).attr("eps", 1e-3);
        case.normal("x", &[n, d], 2.0).normal("weight", &[d], 1.0).normal("bias", &[d], 1.0)
    };
    let given = |n: usize, d: usize| {
        let words = (0..2 * variances_at(d)).map(|i| ((i * 37) % 29) as f32 / 20.0 + 0.1).collect();
        case(n, d, " given").constant("statistics", &[2 * variances_at(d)], words)
    };
    let constant_column = Case::new(KERNELS[0], "a constant column").attr("eps", 1e-3);
    let column = (0..140).map(|i| if i % 2 == 0 { 3.0 } else { (i % 7) as f32 }).collect();
    let (ramp, one) = ((0..300 * 66).map(|i| ((i * 37) % 101) as f32 / 25.0 - 1.0).collect(), |x: f32| vec![x; 66]);
    let statistics = Case::new(KERNELS[0], "statistics").attr("eps", 1e-5).attr("shows_statistics", true);
    let statistics = statistics.constant("x", &[300, 66], ramp);
    // A single row is its own mean: y is the bias, and gradients are zero.
    let one_row = Case::new(KERNELS[0], "one row").attr("eps", 1e-3).constant("x", &[1, 3], vec![1.0, -2.0, 1e3]);
    let one_row = one_row.constant("weight", &[3], vec![2.0; 3]).normal("bias", &[3], 1.0);
    vec![
        statistics.constant("weight", &[66], one(2.0)).constant("bias", &[66], one(-1.0)),
        one_row,
        case(3, 1, ""),
        case(255, 65, ""),
        case(600, 7, ""),
        given(3, 64),
        given(300, 5),
        constant_column.tensor("x", &[70, 2], column).normal("weight", &[2], 1.0).normal("bias", &[2], 1.0),
    ]
}
