//! `loss_n = lse_n - z_nt`, `z = H W^T (+ b)`, `lse_n = log sum_v exp z_nv`: softmax cross-entropy over a whole catalogue.
//!
//! The `N x V` logits are never stored: they are made in tiles, folded into a running (maximum, sum) per row, and made
//! again for the gradient `dz_nv = dloss_n (exp(z_nv - lse_n) - [v = t_n])`, from which `dH = dz W` and `dW = dz^T H`
//! (four products instead of three, for memory that does not grow with `N V`; after Wijmans et al., Cut Your Losses).
//! On the host, groups of items own their rows of `dW`; their shares of `dH` are added in fixed order.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, Access::Write, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::matmul::sum_slabs_gpu;
use crate::ops::tiles;
use crate::ops::tiles::{
    GpuChunks, Gradients, ITEM_GROUPS, NONE, ROW_PARTS, Scorer, TILE, TILE_ROWS, TILE_STRIDE, chunks_of_group,
    gradient, gradient_scratch, part_rows, reference_score, with_target,
};
use crate::shader;
use rayon::prelude::*;

/// Inputs `hidden[N, D]`, `weight[V, D]`, (`bias[V]`), `target[N]` (u32; `NONE`: loss 0, no gradient).
/// Outputs `loss[N]` and `lse[N]`, which is for the gradient and has none of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinearCrossEntropy {
    /// The vocabulary is the first so many rows of the weight; further rows (padding) take no part.
    pub items: Option<usize>,
}

/// Takes logits into a row's running maximum and sum of `exp(z - maximum)`.
fn fold(stats: &mut [f32], z: &[f32]) {
    let max = simd::max(z);
    if max > stats[0] {
        stats[1] *= (stats[0] - max).exp();
        stats[0] = max;
    }
    stats[1] += simd::sum_exp_sub(z, stats[0]);
}

impl Op for LinearCrossEntropy {
    fn name(&self) -> &'static str {
        "linear_cross_entropy"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        tiles::check(self.name(), inputs, (inputs.len() > 3).then(|| inputs[2]), self.items)?;
        let (rows, target) = (inputs[0].rows(), inputs[inputs.len() - 1]);
        expect(self.name(), *target == TensorType::u32(&[rows]), || {
            format!("target is {target}, hidden {}", inputs[0])
        })?;
        Ok(vec![TensorType::f32(&[rows]); 2])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (hidden, weight, target) = (inputs[0], inputs[1], inputs[inputs.len() - 1].u());
        let bias = (inputs.len() > 3).then(|| inputs[2]);
        for (n, &t) in target.iter().enumerate().filter(|(_, t)| **t != NONE) {
            let items = 0..self.items.unwrap_or(weight.rows());
            let z: Vec<f64> = items.map(|v| reference_score(hidden, weight, bias, n, v)).collect();
            let max = z.iter().copied().fold(f64::MIN, f64::max);
            let lse = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
            outputs[0].f_mut()[n] = lse - z[t as usize];
            outputs[1].f_mut()[n] = lse;
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        let (rows, width) = (inputs[0].rows(), inputs[0].width());
        rows + ITEM_GROUPS * (3 * rows + ROW_PARTS * (TILE + TILE_ROWS * width))
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (target, scorer) = (io.inputs[io.inputs.len() - 1].u(), Scorer::new(io, io.inputs.len() > 3));
        let items = self.items.unwrap_or(io.inputs[1].rows());
        let n = target.len();
        let (rows, scratch) = with_target(target, io.scratch);
        let (all_stats, lanes) = scratch.split_at_mut(ITEM_GROUPS * 3 * n);
        let (lane, part) = (TILE + TILE_ROWS * scorer.width, part_rows(rows.len()));
        // (maximum, sum of exp(z - maximum), target's logit) of each row, per group of items.
        let groups = lanes.par_chunks_mut(ROW_PARTS * lane).zip(all_stats.par_chunks_mut(3 * n));
        groups.enumerate().for_each(|(group, (lanes, stats))| {
            let parts = lanes.par_chunks_mut(lane).zip(stats.par_chunks_mut(3 * part)).zip(rows.par_chunks(part));
            parts.for_each(|((lane, stats), rows)| {
                stats.chunks_exact_mut(3).for_each(|row| row.copy_from_slice(&[-1e30, 0.0, 0.0]));
                let (tile, gathered) = lane.split_at_mut(TILE);
                for chunk in chunks_of_group(group, items) {
                    for (rows, stats) in rows.chunks(TILE_ROWS).zip(stats.chunks_mut(3 * TILE_ROWS)) {
                        scorer.tile(scorer.gather(rows, gathered), chunk.clone(), tile);
                        let logits = tile.chunks_exact(TILE_STRIDE).map(|row| &row[..chunk.len()]);
                        for ((&row, z), stats) in rows.iter().zip(logits).zip(stats.chunks_exact_mut(3)) {
                            fold(stats, z);
                            let t = target[row as usize] as usize;
                            if chunk.contains(&t) {
                                stats[2] = z[t - chunk.start];
                            }
                        }
                    }
                }
            });
        });
        let [loss, lse] = &mut io.outputs[..] else { unreachable!("inferred") };
        loss.f().fill(0.0);
        lse.f().fill(0.0);
        for (i, &row) in rows.iter().enumerate() {
            let stats = || all_stats.chunks_exact(3 * n).map(|group| &group[3 * i..3 * i + 3]);
            let max = stats().fold(-1e30f32, |max, s| max.max(s[0]));
            let sum: f32 = stats().map(|s| s[1] * (s[0] - max).exp()).sum();
            lse.f()[row as usize] = max + sum.ln();
            loss.f()[row as usize] = max - stats().map(|s| s[2]).sum::<f32>() + sum.ln();
        }
    }

    fn gpu(&self, builder: &mut GpuBuilder) -> Result<()> {
        let (rows, last) = (builder.inputs[0].rows(), builder.inputs.len() - 1);
        let items = self.items.unwrap_or(builder.inputs[1].rows());
        let chunks = GpuChunks::new(builder, items);
        let stats = builder.scratch(3 * rows);
        chunks.each(builder, |builder, first, len| {
            let z = chunks.scores(builder, first, len, last > 2)?;
            let (loss, lse) = (builder.output(0), builder.output(1));
            let bindings = [(z, Read), (builder.input(last), Read), (stats, Update), (loss, Update), (lse, Update)];
            let params = [rows.into(), len.into(), first.into(), (first == 0).into(), (first + len == items).into()];
            builder.dispatch(shader!("linear_cross_entropy"), &[], &bindings, &params, rows)
        })
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dloss) = vjp.cotangent(0) else { return Ok(()) };
        let mut inputs: Vec<_> = (0..vjp.n_inputs()).map(|i| vjp.input(i)).collect();
        inputs.extend([vjp.output(1), dloss]);
        let gradients = vjp.add(LinearCrossEntropyGradient { items: self.items }, &inputs)?;
        for (i, gradient) in gradients.into_iter().enumerate() {
            if vjp.needs(i) {
                vjp.accumulate(i, gradient)?;
            }
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let items = self.items.unwrap_or(inputs[1].rows());
        Cost::new(2 * inputs[0].len() * items, inputs, outputs)
    }
}

/// Inputs `hidden`, `weight`, (`bias`), `target`, `lse`, `dloss[N]`; outputs `dhidden`, `dweight`, (`dbias`).
#[derive(Clone, Copy, Debug)]
pub struct LinearCrossEntropyGradient {
    pub items: Option<usize>,
}

impl Op for LinearCrossEntropyGradient {
    fn name(&self) -> &'static str {
        "linear_cross_entropy_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(inputs[..inputs.len() - 3].iter().map(|&ty| ty.clone()).collect())
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let [parameters @ .., target, lse, dloss] = inputs else { unreachable!("inferred") };
        let (hidden, weight, bias) = (parameters[0], parameters[1], parameters.get(2).copied());
        let width = hidden.width();
        for (n, &t) in target.u().iter().enumerate().filter(|(_, t)| **t != NONE) {
            for v in 0..self.items.unwrap_or(weight.rows()) {
                let p = (reference_score(hidden, weight, bias, n, v) - lse.f()[n]).exp();
                let dz = dloss.f()[n] * (p - f64::from(u8::from(v == t as usize)));
                for d in 0..width {
                    outputs[0].f_mut()[n * width + d] += dz * weight.row(v)[d];
                    outputs[1].f_mut()[v * width + d] += dz * hidden.row(n)[d];
                }
                if bias.is_some() {
                    outputs[2].f_mut()[v] += dz;
                }
            }
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        inputs[0].rows() + gradient_scratch(inputs[0].rows(), inputs[0].width(), 0)
    }

    fn cpu(&self, io: &mut CpuIo) {
        let scorer = Scorer::new(io, io.inputs.len() > 5);
        let items = self.items.unwrap_or(io.inputs[1].rows());
        let [.., target, lse, dloss] = io.inputs[..] else { unreachable!("inferred") };
        let (target, lse, dloss) = (target.u(), lse.f(), dloss.f());
        let (rows, scratch) = with_target(target, io.scratch);
        let [hidden, weight, bias @ ..] = &mut io.outputs[..] else { unreachable!("inferred") };
        let bias = bias.first_mut().map(|bias| bias.f());
        let gradients = Gradients { hidden: hidden.f(), weight: weight.f(), bias };
        gradient(scorer, (rows, items, 0), gradients, scratch, |rows, chunk, tile, _| {
            for (&row, z) in rows.iter().zip(tile.chunks_exact_mut(TILE_STRIDE)) {
                let (z, row, t) = (&mut z[..chunk.len()], row as usize, target[row as usize] as usize);
                simd::exp_sub_scale(z, lse[row], dloss[row]);
                if chunk.contains(&t) {
                    z[t - chunk.start] -= dloss[row];
                }
            }
        });
    }

    fn gpu(&self, builder: &mut GpuBuilder) -> Result<()> {
        const ROW_BLOCK: usize = 256;
        let (rows, table_rows) = (builder.inputs[0].rows(), builder.inputs[1].rows());
        let (has_bias, last) = (builder.inputs.len() > 5, builder.inputs.len() - 1);
        let items = self.items.unwrap_or(table_rows);
        // All rows of the table, so that those behind the vocabulary get their zeros.
        let chunks = GpuChunks::new(builder, table_rows);
        let blocks = rows.div_ceil(ROW_BLOCK);
        let partial = has_bias.then(|| builder.scratch(blocks * chunks.chunk));
        chunks.each(builder, |builder, first, len| {
            let dz = chunks.scores(builder, first, len, has_bias)?;
            let row_inputs = [builder.input(last - 2), builder.input(last - 1), builder.input(last)];
            let bindings = [(dz, Update), (row_inputs[0], Read), (row_inputs[1], Read), (row_inputs[2], Read)];
            let params = [rows.into(), len.into(), first.into(), items.into()];
            let groups = (rows * len).div_ceil(64);
            builder.dispatch(shader!("linear_cross_entropy_gradient"), &[], &bindings, &params, groups)?;
            chunks.products(builder, dz, first, len)?;
            if let Some(partial) = partial {
                let (partial, dbias) = (partial.slice(0, blocks * len), builder.output(2).slice(first, len));
                let params = [rows.into(), len.into(), ROW_BLOCK.into()];
                let groups = blocks * len.div_ceil(64);
                builder.dispatch(shader!("column_sum"), &[], &[(dz, Read), (partial, Write)], &params, groups)?;
                sum_slabs_gpu(builder, partial, dbias, blocks, false)?;
            }
            Ok(())
        })
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let items = self.items.unwrap_or(inputs[1].rows());
        Cost::new(6 * inputs[0].len() * items, inputs, outputs)
    }
}

pub const KERNELS: &[Kernel] = &[("linear_cross_entropy", build)];

fn build(b: &mut Builder) -> Result<()> {
    let mut inputs = vec![b.input("hidden")?, b.input("weight")?];
    if b.has("bias") {
        inputs.push(b.input("bias")?);
    }
    inputs.push(b.input("target")?);
    let items = b.optional_f64("items").map(|items| items as usize);
    let loss = b.graph.add1(LinearCrossEntropy { items }, &inputs)?;
    b.output("loss", loss);
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name: &str, n: usize, v: usize, d: usize, scale: f64| {
        let case = Case::new(KERNELS[0], format!("{name}{n}x{v}x{d}"));
        case.normal("hidden", &[n, d], scale).normal("weight", &[v, d], 1.0)
    };
    let some =
        |n: usize, v: u32| (0..n as u32).map(|i| if i % 3 == 1 { NONE } else { (i * 7) % v }).collect::<Vec<_>>();
    let mut dominating = vec![0.0; 65];
    dominating[7] = 1e4;
    vec![
        case("", 1, 1, 1, 1.0).ids("target", &[1], &[0]).attr("zero_gradient", true),
        case("", 2, 3, 2, 1.0).normal("bias", &[3], 1.0).ids("target", &[2], &[2, 0]),
        case("", 65, 130, 63, 0.3).random_ids("target", &[65], 130),
        case("no target ", 63, 127, 3, 1.0).normal("bias", &[127], 1.0).ids("target", &[63], &some(63, 127)),
        case("all equal, extra rows ", 3, 66, 5, 1.0).attr("items", 64).ids("target", &[3], &[9; 3]),
        case("many items ", 2, 4300, 2, 1.0).normal("bias", &[4300], 1.0).ids("target", &[2], &[4299, NONE]),
        case("many rows ", 530, 9, 2, 1.0)
            .normal("bias", &[9], 1.0)
            .ids("target", &[530], &some(530, 8))
            .attr("items", 8),
        case("large ", 4, 64, 3, 1e4).ids("target", &[4], &[0, 1, 2, 63]),
        case("dominating ", 5, 65, 2, 1.0).tensor("bias", &[65], dominating).ids("target", &[5], &[7, 7, 8, NONE, 0]),
    ]
}
