//! `sum = residual + dropout(x)`, `y = (sum - mean) * rstd * weight + bias` per row, with
//! `rstd = 1 / sqrt(var + eps)` and the biased variance: residual connection, dropout and LayerNorm in one pass.
//!
//! Gradient, with `xhat = (sum - mean) rstd` and `g = dy weight`:
//! `dsum = rstd (g - mean(g) - xhat mean(g xhat))`, `dweight = sum_n dy xhat`, `dbias = sum_n dy`,
//! `dresidual = dsum`, `dx = dsum * keep / (1 - p)`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::rng::Site;
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::dropout::{Draws, Dropout, drop_params, drop_rows};
use crate::ops::matmul::sum_slabs_gpu;
use crate::shader;
use cpu::{Affine, Block, Saved};
use rayon::prelude::*;

#[path = "layer_norm/cpu.rs"]
mod cpu;

/// Inputs `x[N, D]`, `weight[D]`, `bias[D]`, then `residual[N, D]` when `residual`, then `rng[4]`, `row_keys[N, 2]`
/// (logical sequence, position) when `dropout`; outputs `y[N, D]`, `stats[N, 2]` (saved: mean, rstd), and `sum[N, D]` where
/// that differs from `x`.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
    /// Whether an input is added before normalising.
    pub residual: bool,
    /// On `x`, before `residual` is added.
    pub dropout: Option<Dropout>,
}

impl LayerNorm {
    /// Plain LayerNorm of `x`.
    pub fn plain(eps: f64) -> Self {
        LayerNorm { eps, residual: false, dropout: None }
    }

    fn rng_at(&self) -> usize {
        if self.residual { 4 } else { 3 }
    }

    /// Whether what is normalised is more than `x`.
    fn has_sum(&self) -> bool {
        self.residual || self.dropout.is_some()
    }
}

const ROW_BLOCK: usize = 64;

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let x = inputs[0];
        let fits = x.shape.len() == 2 && inputs[1].len() == x.width() && inputs[2].len() == x.width();
        expect("layer_norm", fits, || format!("x is {x}, weight {}, bias {}", inputs[1], inputs[2]))?;
        expect("layer_norm", !self.residual || inputs[3] == x, || "the residual must look like x".into())?;
        let mut outputs = vec![x.clone(), TensorType::f32(&[x.rows(), 2])];
        outputs.extend(self.has_sum().then(|| x.clone()));
        Ok(outputs)
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (x, width) = (inputs[0], inputs[0].width());
        for n in 0..x.rows() {
            let sum: Vec<f64> = (0..width)
                .map(|d| {
                    let drawn = |drop: Dropout| drop.factor(inputs[self.rng_at()], inputs[self.rng_at() + 1], n, d);
                    let factor = self.dropout.map_or(1.0, drawn);
                    x.row(n)[d] * factor + if self.residual { inputs[3].row(n)[d] } else { 0.0 }
                })
                .collect();
            let mean = sum.iter().sum::<f64>() / width as f64;
            let variance = sum.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / width as f64;
            let rstd = 1.0 / (variance + self.eps).sqrt();
            for (d, s) in sum.iter().enumerate() {
                outputs[0].f_mut()[n * width + d] = (s - mean) * rstd * inputs[1].f()[d] + inputs[2].f()[d];
            }
            outputs[1].f_mut()[2 * n..2 * n + 2].copy_from_slice(&[mean, rstd]);
            if self.has_sum() {
                outputs[2].f_mut()[n * width..(n + 1) * width].copy_from_slice(&sum);
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (width, rng_at) = (io.inputs[0].width(), self.rng_at());
        let (x, residual) = (io.inputs[0].f(), self.residual.then(|| io.inputs[3].f()));
        let affine = Affine { weight: io.inputs[1].f(), bias: io.inputs[2].f(), eps: self.eps as f32 };
        let draws = |dropout| Draws { dropout, rng: io.inputs[rng_at].u(), row_keys: io.inputs[rng_at + 1].u() };
        let draws = self.dropout.map(draws);
        let [y, stats, sum @ ..] = &mut io.outputs[..] else { unreachable!("inferred") };
        let blocks = y.f().par_chunks_mut(ROW_BLOCK * width).zip(stats.f().par_chunks_mut(ROW_BLOCK * 2));
        let normalise = |block: usize, y: &mut [f32], stats: &mut [f32], sum: Option<&mut [f32]>| {
            let mut block = Block { first: block * ROW_BLOCK, y, sum, stats };
            simd::vectorised(
                #[inline(always)]
                || cpu::normalise(&mut block, x, residual, draws, affine),
            );
        };
        match sum {
            [sum] => (blocks.zip(sum.f().par_chunks_mut(ROW_BLOCK * width)).enumerate())
                .for_each(|(block, ((y, stats), sum))| normalise(block, y, stats, Some(sum))),
            _ => blocks.enumerate().for_each(|(block, (y, stats))| normalise(block, y, stats, None)),
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (rows, width) = (b.inputs[0].rows(), b.inputs[0].width());
        let consts = [
            ("RESIDUAL", u32::from(self.residual)),
            ("DROPOUT", u32::from(self.dropout.is_some())),
            ("SUM", u32::from(self.has_sum())),
        ];
        // Without a sum of its own, the kernel works on x; what is bound in its place stays as it is.
        let sum = if self.has_sum() { b.output(2) } else { b.scratch(64) };
        let mut bindings = vec![(b.input(0), Read), (b.input(1), Read), (b.input(2), Read)];
        let (rng, keys) = if self.dropout.is_some() { (self.rng_at(), self.rng_at() + 1) } else { (0, 0) };
        bindings.push((b.input(if self.residual { 3 } else { 0 }), Read));
        bindings.extend([(b.input(rng), Read), (b.input(keys), Read)]);
        bindings.extend([(b.output(0), Write), (sum, Write)]);
        let mut params = vec![rows.into(), width.into(), self.eps.into()];
        params.extend(drop_params(self.dropout));
        b.dispatch(shader!("layer_norm"), &consts, &bindings, &params, rows.div_ceil(64));
        // Eight storage buffers are all that every adapter allows, and the first kernel has them: the statistics come after.
        let bindings = [(if self.has_sum() { sum } else { b.input(0) }, Read), (b.output(1), Write)];
        let params = [rows.into(), width.into(), self.eps.into()];
        b.dispatch(shader!("row_stats"), &[], &bindings, &params, rows.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let further = if self.has_sum() { vjp.cotangent(2) } else { None };
        if vjp.cotangent(0).is_none() && further.is_none() {
            return Ok(());
        }
        let dy = vjp.cotangent_or_zero(0)?;
        let sum = if self.has_sum() { vjp.output(2) } else { vjp.input(0) };
        let mut inputs = vec![dy, sum, vjp.output(1), vjp.input(1)];
        if self.dropout.is_some() {
            inputs.extend([vjp.input(self.rng_at()), vjp.input(self.rng_at() + 1)]);
        }
        inputs.extend(further);
        let gradient = LayerNormGradient { dropout: self.dropout, sum_cotangent: further.is_some() };
        let outputs = vjp.add(gradient, &inputs)?;
        vjp.accumulate(0, if self.dropout.is_some() { outputs[3] } else { outputs[0] })?;
        vjp.accumulate(1, outputs[1])?;
        vjp.accumulate(2, outputs[2])?;
        if self.residual { vjp.accumulate(3, outputs[0]) } else { Ok(()) }
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(8 * inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `dy`, `sum`, `stats`, `weight`, (`rng`, `row_keys`), (`dsum` from other uses of the sum); outputs
/// `dsum[N, D]` (the residual's gradient), `dweight[D]`, `dbias[D]`, and `dx[N, D]` when there is dropout.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormGradient {
    /// As of the forward op.
    pub dropout: Option<Dropout>,
    /// Whether another gradient of the residual is an input, to be added to this one.
    pub sum_cotangent: bool,
}

impl LayerNormGradient {
    fn further_at(&self) -> usize {
        if self.dropout.is_some() { 6 } else { 4 }
    }
}

impl Op for LayerNormGradient {
    fn name(&self) -> &'static str {
        "layer_norm_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let (dy, weight) = (inputs[0].clone(), inputs[3].clone());
        let mut outputs = vec![dy.clone(), weight.clone(), weight];
        outputs.extend(self.dropout.map(|_| dy));
        Ok(outputs)
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (dy, sum, stats, weight) = (inputs[0], inputs[1], inputs[2], inputs[3].f());
        let width = dy.width();
        for n in 0..dy.rows() {
            let [mean, rstd] = [stats.row(n)[0], stats.row(n)[1]];
            let xhat: Vec<f64> = sum.row(n).iter().map(|s| (s - mean) * rstd).collect();
            let g: Vec<f64> = dy.row(n).iter().zip(weight).map(|(dy, w)| dy * w).collect();
            let mean_g = g.iter().sum::<f64>() / width as f64;
            let mean_gx = g.iter().zip(&xhat).map(|(g, x)| g * x).sum::<f64>() / width as f64;
            for d in 0..width {
                let further = if self.sum_cotangent { inputs[self.further_at()].row(n)[d] } else { 0.0 };
                let dsum = rstd * (g[d] - mean_g - xhat[d] * mean_gx) + further;
                outputs[0].f_mut()[n * width + d] = dsum;
                outputs[1].f_mut()[d] += dy.row(n)[d] * xhat[d];
                outputs[2].f_mut()[d] += dy.row(n)[d];
                if let Some(dropout) = self.dropout {
                    let factor = dropout.factor(inputs[4], inputs[5], n, d);
                    outputs[3].f_mut()[n * width + d] = dsum * factor;
                }
            }
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        inputs[0].rows().div_ceil(ROW_BLOCK) * 2 * inputs[0].width()
    }

    fn cpu(&self, io: &mut CpuIo) {
        let width = io.inputs[0].width();
        let [dy, sum, stats, weight] = [0, 1, 2, 3].map(|i| io.inputs[i].f());
        let further = self.sum_cotangent.then(|| io.inputs[self.further_at()].f());
        let saved = Saved { dy, sum, stats, weight, further };
        let blocks = io.outputs[0].f().par_chunks_mut(ROW_BLOCK * width).zip(io.scratch.par_chunks_mut(2 * width));
        blocks.enumerate().for_each(|(block, (dsum, partial))| {
            simd::vectorised(
                #[inline(always)]
                || cpu::gradient(block * ROW_BLOCK, saved, dsum, partial),
            )
        });
        let [dsum, dweight, dbias, dx @ ..] = &mut io.outputs[..] else { unreachable!("inferred") };
        dweight.f().fill(0.0);
        dbias.f().fill(0.0);
        for partial in io.scratch.chunks_exact(2 * width) {
            dweight.f().iter_mut().zip(&partial[..width]).for_each(|(y, x)| *y += x);
            dbias.f().iter_mut().zip(&partial[width..]).for_each(|(y, x)| *y += x);
        }
        if let (Some(dropout), [dx]) = (self.dropout, dx) {
            let (dsum, draws) = (&*dsum.f(), Draws { dropout, rng: io.inputs[4].u(), row_keys: io.inputs[5].u() });
            dx.f().par_chunks_mut(ROW_BLOCK * width).enumerate().for_each(|(block, rows)| {
                rows.copy_from_slice(&dsum[block * ROW_BLOCK * width..][..rows.len()]);
                drop_rows(block * ROW_BLOCK, width, rows, draws);
            });
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        const BLOCK: usize = 64;
        let (rows, width) = (b.inputs[0].rows(), b.inputs[0].width());
        let consts = [("FURTHER", u32::from(self.sum_cotangent))];
        let further = b.input(if self.sum_cotangent { self.further_at() } else { 0 });
        let statistics = [(b.input(0), Read), (b.input(1), Read), (b.input(2), Read)];
        let mut bindings = statistics.to_vec();
        bindings.extend([(b.input(3), Read), (further, Read), (b.output(0), Write)]);
        let params = [rows.into(), width.into()];
        b.dispatch(shader!("layer_norm_gradient"), &consts, &bindings, &params, rows.div_ceil(64));
        let blocks = rows.div_ceil(BLOCK);
        let partial = [b.scratch(blocks * width), b.scratch(blocks * width)];
        let mut bindings = statistics.to_vec();
        bindings.extend(partial.map(|region| (region, Write)));
        let params = [rows.into(), width.into(), BLOCK.into()];
        b.dispatch(shader!("layer_norm_affine"), &[], &bindings, &params, blocks * width.div_ceil(64));
        sum_slabs_gpu(b, partial[0], b.output(1), blocks, false);
        sum_slabs_gpu(b, partial[1], b.output(2), blocks, false);
        if self.dropout.is_some() {
            let bindings = [(b.output(0), Read), (b.input(4), Read), (b.input(5), Read), (b.output(3), Write)];
            let mut params = vec![(rows * width).into(), width.into()];
            params.extend(drop_params(self.dropout));
            b.dispatch(shader!("dropout"), &[], &bindings, &params, (rows * width.div_ceil(4)).div_ceil(64));
        }
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(14 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("layer_norm", build)];

fn build(b: &mut Builder) -> Result<()> {
    let mut inputs = vec![b.input("x")?, b.input("weight")?, b.input("bias")?];
    let residual = b.has("residual");
    if residual {
        inputs.push(b.input("residual")?);
    }
    let dropout = b.optional_f64("dropout").map(|probability| Dropout { probability, site: Site(7) });
    if dropout.is_some() {
        inputs.push(b.rng());
        inputs.push(b.input("row_keys")?);
    }
    let outputs = b.graph.add(LayerNorm { eps: b.attr_f64("eps")?, residual, dropout }, &inputs)?;
    b.output("y", outputs[0]);
    if residual {
        b.output("sum", outputs[2]);
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, d: usize, name: &str| {
        let case = Case::new(KERNELS[0], format!("{n}x{d}{name}")).attr("eps", 1e-5);
        case.normal("x", &[n, d], 2.0).normal("weight", &[d], 1.0).normal("bias", &[d], 1.0)
    };
    let keys = |n: usize| (0..n as u32).flat_map(|i| [i / 5, i % 5]).collect::<Vec<u32>>();
    let fused = |n, d| {
        let case = case(n, d, " residual dropout").attr("dropout", 0.4).attr("seed", 5).attr("step", 3);
        case.normal("residual", &[n, d], 1.0).ids("row_keys", &[n, 2], &keys(n))
    };
    let half_constant = (0..128).map(|i| if i < 64 { 3.0 } else { (i % 7) as f32 }).collect();
    let constant_row = Case::new(KERNELS[0], "a constant row").attr("eps", 1e-3);
    vec![
        case(1, 3, ""),
        case(3, 63, ""),
        case(65, 64, ""),
        case(130, 7, " residual").normal("residual", &[130, 7], 1.0),
        fused(2, 3),
        fused(127, 65),
        constant_row.tensor("x", &[2, 64], half_constant).normal("weight", &[64], 1.0).normal("bias", &[64], 1.0),
    ]
}
