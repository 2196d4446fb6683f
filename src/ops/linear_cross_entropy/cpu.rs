//! Softmax cross-entropy on the host's cores: the loss, its gradient, and both in one sweep.

use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::simd;
use crate::ops::matmul::{Matrix, gemm, transpose};
use crate::ops::tiles::{
    GROUPS, Gradients, Scorer, TILE, TILE_ITEMS, TILE_ROWS, TILE_STRIDE, chunks, gradient as tile_gradient,
    gradient_scratch, items_of_group, target_words, with_target,
};
use rayon::prelude::*;
use std::ops::Range;

/// What is scored, and the targets.
#[derive(Clone, Copy)]
pub(super) struct Problem<'a> {
    pub scorer: Scorer<'a>,
    pub items: usize,
    pub target: &'a [u32],
}

impl<'a> Problem<'a> {
    /// Of an op whose inputs are `hidden`, `weight`, (`bias`), `target`, ...
    pub fn new(io: &CpuIo<'a>, has_bias: bool, target: usize, items: Option<usize>) -> Self {
        let items = items.unwrap_or(io.inputs[1].rows());
        Problem { scorer: Scorer::new(io, has_bias), items, target: io.inputs[target].u() }
    }
}

/// Where losses go, `[N]` each.
pub(super) struct Losses<'a> {
    pub loss: &'a mut [f32],
    pub lse: &'a mut [f32],
}

/// The loss: groups of items times parts of the rows may run at the same time.
const ITEM_GROUPS: usize = 4;
const ROW_PARTS: usize = 2;

/// The chunks of one group of items.
fn chunks_of_group(group: usize, items: usize, groups: usize) -> impl Iterator<Item = Range<usize>> {
    let len = items.div_ceil(TILE_ITEMS).div_ceil(groups) * TILE_ITEMS;
    chunks(items.min(group * len)..items.min((group + 1) * len))
}

pub(super) fn loss_scratch(rows: usize, width: usize) -> usize {
    target_words(rows) + ITEM_GROUPS * (3 * rows + ROW_PARTS * (TILE + TILE_ROWS * width))
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

/// `(loss, lse)` of a row from the maximum, the sum of exponentials and the target's logit within each share of the items.
fn combine(stats: impl Iterator<Item = [f32; 3]> + Clone) -> (f32, f32) {
    let max = stats.clone().fold(-1e30f32, |max, s| max.max(s[0]));
    let log = stats.clone().map(|s| s[1] * (s[0] - max).exp()).sum::<f32>().ln();
    (max - stats.map(|s| s[2]).sum::<f32>() + log, max + log)
}

pub(super) fn loss(problem: Problem, losses: Losses, scratch: &mut [f32]) {
    let Problem { scorer, items, target } = problem;
    let n = target.len();
    let (rows, scratch) = with_target(target, scratch);
    let (all_stats, lanes) = scratch.split_at_mut(ITEM_GROUPS * 3 * n);
    let (lane, part) = (TILE + TILE_ROWS * scorer.width, rows.len().div_ceil(ROW_PARTS).next_multiple_of(16).max(16));
    let groups = lanes.par_chunks_mut(ROW_PARTS * lane).zip(all_stats.par_chunks_mut(3 * n.max(1)));
    groups.enumerate().for_each(|(group, (lanes, stats))| {
        let parts = lanes.par_chunks_mut(lane).zip(stats.par_chunks_mut(3 * part)).zip(rows.par_chunks(part));
        parts.for_each(|((lane, stats), rows)| {
            stats.chunks_exact_mut(3).for_each(|row| row.copy_from_slice(&[-1e30, 0.0, 0.0]));
            let (tile, gathered) = lane.split_at_mut(TILE);
            for chunk in chunks_of_group(group, items, ITEM_GROUPS) {
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
    losses.loss.fill(0.0);
    losses.lse.fill(0.0);
    for (i, &row) in rows.iter().enumerate() {
        let stats = all_stats.chunks_exact(3 * n).map(|group| [group[3 * i], group[3 * i + 1], group[3 * i + 2]]);
        (losses.loss[row as usize], losses.lse[row as usize]) = combine(stats);
    }
}

pub(super) fn separate_gradient_scratch(rows: usize, width: usize) -> usize {
    target_words(rows) + gradient_scratch(rows, width, 0)
}

/// The gradient from `lse`, with logits made anew.
pub(super) fn gradient(problem: Problem, lse: &[f32], dloss: &[f32], gradients: Gradients, scratch: &mut [f32]) {
    let Problem { scorer, items, target } = problem;
    let (rows, scratch) = with_target(target, scratch);
    tile_gradient(scorer, (rows, items, 0), gradients, scratch, |rows, chunk, tile, _| {
        for (&row, z) in rows.iter().zip(tile.chunks_exact_mut(TILE_STRIDE)) {
            let (z, row, t) = (&mut z[..chunk.len()], row as usize, target[row as usize] as usize);
            simd::exp_sub_scale(z, lse[row], dloss[row]);
            if chunk.contains(&t) {
                z[t - chunk.start] -= dloss[row];
            }
        }
    });
}

/// Rows whose logits are kept until their gradient is made: enough that adding to `dW` after each block costs less than
/// the product that it saves.
const KEPT_ROWS: usize = 128;

/// Words from one item's logits to the next: rows lie side by side, so that the products read both operands as they lie,
/// and sixteen rows are worked on at a time.
fn kept_stride(rows: usize) -> usize {
    rows.min(KEPT_ROWS).next_multiple_of(16)
}

/// Words for the logits of a block, if they are worth it: not much more than the gradients themselves take.
fn kept_logits(rows: usize, width: usize, items: usize) -> Option<usize> {
    let words = items.div_ceil(TILE_ITEMS) * TILE_ITEMS * kept_stride(rows);
    (2 * words <= 3 * (rows + items) * width).then_some(words)
}

pub(super) fn together_scratch(rows: usize, width: usize, items: usize) -> usize {
    let separate = loss_scratch(rows, width).max(separate_gradient_scratch(rows, width));
    let kept = |logits: usize| {
        let stats = items.div_ceil(TILE_ITEMS) * 3 * kept_stride(rows);
        target_words(rows) + logits + stats + (GROUPS + 2) * kept_stride(rows) * width
    };
    kept_logits(rows, width, items).map_or(separate, kept)
}

/// Loss and gradient: from logits that are kept for a block of rows where that pays, else one after the other.
pub(super) fn together(problem: Problem, dloss: &[f32], losses: Losses, gradients: Gradients, scratch: &mut [f32]) {
    let Problem { scorer, items, target } = problem;
    let (width, stride) = (scorer.width, kept_stride(target.len()));
    let Some(logits_words) = kept_logits(target.len(), width, items) else {
        loss(problem, Losses { loss: losses.loss, lse: losses.lse }, scratch);
        return gradient(problem, losses.lse, dloss, gradients, scratch);
    };
    let (rows, scratch) = with_target(target, scratch);
    let (logits, scratch) = scratch.split_at_mut(logits_words);
    let (stats, scratch) = scratch.split_at_mut(items.div_ceil(TILE_ITEMS) * 3 * stride);
    let (gathered, scratch) = scratch.split_at_mut(stride * width);
    let (queries_t, shares) = scratch.split_at_mut(stride * width);
    let Gradients { hidden: dhidden, weight: dweight, bias: mut dbias } = gradients;
    dhidden.fill(0.0);
    dweight[if rows.is_empty() { 0 } else { items * width }..].fill(0.0);
    dbias.iter_mut().for_each(|dbias| dbias.fill(0.0));
    losses.loss.fill(0.0);
    losses.lse.fill(0.0);
    for (index, rows) in rows.chunks(KEPT_ROWS).enumerate() {
        let queries = scorer.gather(rows, gathered);
        transpose(queries, width, queries_t, stride);
        let block = Block { problem, rows, queries, queries_t, stride, is_first: index == 0 };
        block.exponentials(logits, stats);
        for (i, &row) in rows.iter().enumerate() {
            let stats = stats.chunks_exact(3 * stride).map(|chunk| [0, 1, 2].map(|s| chunk[s * stride + i]));
            (losses.loss[row as usize], losses.lse[row as usize]) = combine(stats);
        }
        block.products(logits, stats, (losses.lse, dloss), (dweight, dbias.as_deref_mut()), shares);
        let groups = items.div_ceil(items_of_group(items));
        for (i, &row) in rows.iter().enumerate() {
            let dhidden = &mut dhidden[row as usize * width..][..width];
            let shares = shares.chunks_exact(stride * width).take(groups);
            shares.for_each(|share| simd::axpy(1.0, &share[i * width..][..width], dhidden));
        }
    }
}

/// Rows whose logits are kept, `[items, stride]`. Statistics are `[chunks, 3, stride]`: maximum, sum of exponentials,
/// target's logit of each row within the chunk.
struct Block<'a> {
    problem: Problem<'a>,
    rows: &'a [u32],
    queries: &'a [f32],
    queries_t: &'a [f32],
    stride: usize,
    is_first: bool,
}

impl Block<'_> {
    /// `exp(z - maximum)` of each row within each chunk, and its statistics.
    fn exponentials(&self, logits: &mut [f32], stats: &mut [f32]) {
        let Problem { scorer, items, target } = self.problem;
        let (stride, m) = (self.stride, self.rows.len());
        let tiles = logits.par_chunks_mut(TILE_ITEMS * stride).zip(stats.par_chunks_mut(3 * stride)).enumerate();
        tiles.for_each(|(index, (tile, stats))| {
            let chunk = index * TILE_ITEMS..items.min((index + 1) * TILE_ITEMS);
            let tile = &mut tile[..chunk.len() * stride];
            if let Some(bias) = scorer.bias {
                tile.chunks_exact_mut(stride).zip(&bias[chunk.clone()]).for_each(|(z, bias)| z[..m].fill(*bias));
            }
            let sizes = (chunk.len(), m, scorer.width);
            let queries = Matrix::new(self.queries_t, stride);
            gemm(sizes, scorer.items(&chunk), queries, tile, stride, scorer.bias.is_some());
            let (max, rest) = stats.split_at_mut(stride);
            let (sum, own) = rest.split_at_mut(stride);
            for ((own, &row), n) in own.iter_mut().zip(self.rows).zip(0..) {
                let t = target[row as usize] as usize;
                *own = if chunk.contains(&t) { tile[(t - chunk.start) * stride + n] } else { 0.0 };
            }
            simd::column_exponentials(tile, stride, &mut max[..m], &mut sum[..m]);
        });
    }

    /// Turns exponentials into `dz`, adds to `dW` and `db`, and writes a share of `dH` per group of items.
    fn products(
        &self,
        logits: &mut [f32],
        stats: &mut [f32],
        (lse, dloss): (&[f32], &[f32]),
        (dweight, dbias): (&mut [f32], Option<&mut [f32]>),
        shares: &mut [f32],
    ) {
        let Problem { scorer, items, target } = self.problem;
        let (m, width, stride, group_items) = (self.rows.len(), scorer.width, self.stride, items_of_group(items));
        let group_chunks = group_items / TILE_ITEMS;
        let mut no_bias = [0.0; GROUPS];
        let (dbias, bias_len) = dbias.map_or((&mut no_bias[..], 1), |dbias| (&mut dbias[..items], group_items));
        let logits = logits.par_chunks_mut(group_items * stride);
        let stats = stats.par_chunks_mut(group_chunks * 3 * stride);
        let owned = dweight[..items * width].par_chunks_mut(group_items * width).zip(dbias.par_chunks_mut(bias_len));
        let groups = logits.zip(stats).zip(owned).zip(shares.par_chunks_mut(stride * width));
        groups.enumerate().for_each(|(group, (((logits, stats), (dweight, dbias)), share))| {
            let first = group * group_items;
            let tiles = logits.chunks_exact_mut(TILE_ITEMS * stride).zip(stats.chunks_exact_mut(3 * stride));
            for ((index, (tile, stats)), chunk) in tiles.enumerate().zip(chunks(first..items.min(first + group_items)))
            {
                let n = chunk.len();
                let tile = &mut tile[..n * stride];
                let factor = &mut stats[..m];
                for (factor, &row) in factor.iter_mut().zip(self.rows) {
                    *factor = dloss[row as usize] * (*factor - lse[row as usize]).exp();
                }
                tile.chunks_exact_mut(stride).for_each(|dz| simd::multiply(dz, factor));
                for (i, &row) in self.rows.iter().enumerate() {
                    let t = target[row as usize] as usize;
                    if chunk.contains(&t) {
                        tile[(t - chunk.start) * stride + i] -= dloss[row as usize];
                    }
                }
                if bias_len > 1 {
                    let dbias = &mut dbias[index * TILE_ITEMS..][..n];
                    dbias.iter_mut().zip(tile.chunks_exact(stride)).for_each(|(db, dz)| *db += simd::sum(&dz[..m]));
                }
                let (dz_t, dz) = (Matrix::new(tile, stride), Matrix::transposed(tile, stride));
                let dweight = &mut dweight[index * TILE_ITEMS * width..][..n * width];
                gemm((n, width, m), dz_t, Matrix::new(self.queries, width), dweight, width, !self.is_first);
                gemm((m, width, n), dz, scorer.items(&chunk), share, width, index > 0);
            }
        });
    }
}
