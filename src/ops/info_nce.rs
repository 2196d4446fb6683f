//! Contrastive cross-entropy: row `i` of `query` must find its partner `p(i)` among the rows of `key`,
//! `loss_i = log sum_j exp(s_ij) - s_ip(i)`, `s = scale query key^T`, `loss = mean_i loss_i`.
//!
//! `Pairing::TwoViews` is InfoNCE: query and key are both `z[2N, D]`, rows `i` and `i + N` are partners, and a row does not
//! see itself. `Pairing::Diagonal` is the one-way form: `p(i) = i`, nothing excluded.
//!
//! Gradient, with `P_ij = exp(s_ij - lse_i)` and `T` the partner matrix: `dquery = c (P - T) key`,
//! `dkey = c (P - T)^T query`, `c = dloss scale / N`. The trick: the transposed factor is the same expression with the
//! *column's* lse, and for `z` both add up (`s` is symmetric), so every case is "rows of logits, turned into factors in
//! place, times the other side", and the matrix exists only a block of rows at a time.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, Access::Write, GpuBuilder, Region};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::graph::{Graph, ValueId};
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::{Error, Result};
use crate::ops::arm_gradient::sum_all_gpu;
use crate::ops::matmul::{Gemm, Matmul, Matrix, Sizes, gemm, gemm_gpu, transpose_columns};
use crate::ops::unit_rows::UnitRows;
use crate::shader;
use rayon::prelude::*;

/// How two representations are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Similarity {
    /// `<a, b>`
    Dot,
    /// `<a, b> / (|a| |b|)`
    Cosine,
}

/// Which rows belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Rows `i` and `i + B` of the same `2B`, and no row with itself: NT-Xent.
    TwoViews,
    /// Row `i` of the queries and row `i` of the keys.
    Diagonal,
}

impl Pairing {
    /// The partner of row `i` of `rows`.
    fn partner(self, i: usize, rows: usize) -> usize {
        (i + self.shift(rows)) % rows
    }

    fn shift(self, rows: usize) -> usize {
        if self == Pairing::TwoViews { rows / 2 } else { 0 }
    }

    fn excludes(self, i: usize, j: usize) -> bool {
        self == Pairing::TwoViews && i == j
    }
}

/// Adds InfoNCE of `z[2N, D]` to a graph; returns `loss[1]` and the rows' losses `[2N]` (to be read, not differentiated).
pub fn info_nce(graph: &mut Graph, z: ValueId, similarity: Similarity, temperature: f64) -> Result<[ValueId; 2]> {
    let z = if similarity == Similarity::Cosine { graph.add1(UnitRows, &[z])? } else { z };
    let outputs = graph.add(InfoNce { scale: 1.0 / temperature, pairing: Pairing::TwoViews }, &[z, z])?;
    Ok([outputs[0], outputs[1]])
}

/// Adds the one-way form for `query[N, D]`, `key[N, D]`; returns `loss[1]` and the rows' losses `[N]`.
pub fn info_nce_one_way(graph: &mut Graph, query: ValueId, key: ValueId, scale: f64) -> Result<[ValueId; 2]> {
    let outputs = graph.add(InfoNce { scale, pairing: Pairing::Diagonal }, &[query, key])?;
    Ok([outputs[0], outputs[1]])
}

/// Inputs `query[N, D]`, `key[N, D]` (the same value for two views); outputs `loss[1]`, `rows[N]`, `lse[N]` (saved).
/// Only `loss` is differentiated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InfoNce {
    /// What inner products are multiplied by: 1 / temperature.
    pub scale: f64,
    /// Which rows belong together.
    pub pairing: Pairing,
}

/// Rows of logits that one worker holds, and how many workers hold some at a time.
const ROWS: usize = 128;
const WORKERS: usize = 4;

impl Op for InfoNce {
    fn name(&self) -> &'static str {
        "info_nce"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let (query, rows) = (inputs[0], inputs[0].rows());
        let fits = query.shape.len() == 2 && inputs[1] == query && rows > 0;
        expect("info_nce", fits, || format!("query is {query}, key {}", inputs[1]))?;
        let even = self.pairing == Pairing::Diagonal || rows.is_multiple_of(2);
        expect("info_nce", even, || format!("two views must have an even number of rows, not {rows}"))?;
        Ok(vec![TensorType::f32(&[1]), TensorType::f32(&[rows]), TensorType::f32(&[rows])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (query, key, rows) = (inputs[0], inputs[1], inputs[0].rows());
        for i in 0..rows {
            let logits: Vec<f64> = (0..rows).map(|j| self.scale * dot(query.row(i), key.row(j))).collect();
            let seen = || (0..rows).filter(|&j| !self.pairing.excludes(i, j)).map(|j| logits[j]);
            let max = seen().fold(f64::MIN, f64::max);
            let lse = max + seen().map(|s| (s - max).exp()).sum::<f64>().ln();
            let loss = lse - logits[self.pairing.partner(i, rows)];
            outputs[0].f_mut()[0] += loss / rows as f64;
            outputs[1].f_mut()[i] = loss;
            outputs[2].f_mut()[i] = lse;
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        let rows = inputs[0].rows();
        inputs[1].len() + ROWS * rows * WORKERS.min(rows.div_ceil(ROWS))
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (query, key, n) = (io.inputs[0].f(), io.inputs[1].f(), io.inputs[0].rows());
        let width = io.inputs[0].width();
        let [loss, rows, lse] = &mut io.outputs[..] else { unreachable!("inferred") };
        let (keys, scratch) = io.scratch.split_at_mut(n * width);
        let keys = columns_cpu(key, width, keys, n);
        let waves = rows.f().chunks_mut(WORKERS * ROWS).zip(lse.f().chunks_mut(WORKERS * ROWS));
        for (wave, (rows, lse)) in waves.enumerate() {
            let blocks = scratch.par_chunks_mut(ROWS * n).zip(rows.par_chunks_mut(ROWS)).zip(lse.par_chunks_mut(ROWS));
            blocks.enumerate().for_each(|(block, ((logits, rows), lse))| {
                let first = (wave * WORKERS + block) * ROWS;
                let logits = &mut logits[..rows.len() * n];
                logits_cpu(&query[first * width..], keys, width, self.scale as f32, logits, n);
                for ((i, logits), (loss, lse)) in
                    (first..).zip(logits.chunks_exact_mut(n)).zip(rows.iter_mut().zip(lse))
                {
                    let partner = logits[self.pairing.partner(i, n)];
                    if self.pairing.excludes(i, i) {
                        logits[i] = -1e30;
                    }
                    let max = simd::max(logits);
                    let log_sum = simd::sum_exp_sub(logits, max).ln();
                    (*loss, *lse) = ((max - partner) + log_sum, max + log_sum);
                }
            });
        }
        let sum: f64 = rows.f().iter().map(|x| f64::from(*x)).sum();
        loss.f()[0] = (sum / n as f64) as f32;
    }

    fn gpu(&self, b: &mut GpuBuilder) -> Result<()> {
        let (rows, lse) = (b.output(1), b.output(2));
        let n = b.inputs[0].rows();
        let (scale, shift) = (self.scale, self.pairing.shift(n));
        logits_gpu(b, |b, first, logits| {
            let bindings = [(logits, Read), (rows, Write), (lse, Write)];
            let params = [n.into(), (logits.len / n).into(), first.into(), scale.into(), shift.into()];
            b.dispatch(shader!("info_nce"), &[], &bindings, &params, logits.len / n)
        })?;
        sum_all_gpu(b, rows, b.output(0), 1.0 / n as f64)
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        if vjp.cotangent(1).is_some() || vjp.cotangent(2).is_some() {
            return Err(Error::graph("info_nce", "only `loss` is differentiable, not the rows' losses"));
        }
        let Some(dloss) = vjp.cotangent(0) else { return Ok(()) };
        let (query, key, lse) = (vjp.input(0), vjp.input(1), vjp.output(2));
        let two_views = self.pairing == Pairing::TwoViews;
        let gradient = |by_row, by_column| InfoNceGradient { op: *self, by_row, by_column };
        if vjp.needs(0) {
            let dquery = vjp.add(gradient(true, two_views), &[query, key, lse, dloss])?[0];
            vjp.accumulate(0, dquery)?;
        }
        if vjp.needs(1) && !two_views {
            let dkey = vjp.add(gradient(false, true), &[key, query, lse, dloss])?[0];
            vjp.accumulate(1, dkey)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * inputs[0].rows() * inputs[0].len(), inputs, outputs)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `b[n, width]` by columns, as products with its rows want it: once, not for every block of logits.
fn columns_cpu<'s>(b: &[f32], width: usize, columns: &'s mut [f32], n: usize) -> Matrix<'s> {
    const COLUMNS: usize = 64;
    let blocks = columns.par_chunks_mut(COLUMNS * n).enumerate();
    blocks.for_each(|(block, columns)| transpose_columns(b, width, block * COLUMNS, columns, n));
    Matrix::new(columns, n)
}

/// `logits[rows, n] = scale * (the first rows of a) b^T`, on the calling thread.
fn logits_cpu(a: &[f32], b_t: Matrix, width: usize, scale: f32, logits: &mut [f32], n: usize) {
    let sizes = (logits.len() / n, n, width);
    gemm(sizes, Matrix::new(a, width), b_t, logits, n, false);
    simd::scale(logits, scale);
}

/// Appends, for each block of rows that fits the scratch, the product `a b^T` of inputs 0 and 1 and what `consume` adds:
/// it gets the index of the block's first row and its unscaled logits `[rows, N]`.
fn logits_gpu(b: &mut GpuBuilder, mut consume: impl FnMut(&mut GpuBuilder, usize, Region) -> Result<()>) -> Result<()> {
    let (n, width) = (b.inputs[0].rows(), b.inputs[0].width());
    let most = b.limits.scratch_words.min(b.limits.binding_words) / n;
    let block = (most / 64 * 64).clamp(64, n.next_multiple_of(64));
    let scratch = b.scratch(block.min(n) * n);
    for first in (0..n).step_by(block) {
        let rows = block.min(n - first);
        let logits = scratch.slice(0, rows * n);
        let a = b.input(0).slice(first * width, rows * width);
        let sizes = Sizes { batch: 1, m: rows, n, k: width };
        gemm_gpu(b, Gemm::new(Matmul::NT, sizes, a, b.input(1), logits))?;
        consume(b, first, logits)?;
    }
    Ok(())
}

/// Inputs `a[N, D]`, `b[N, D]`, `lse[N]`, `dloss[1]`; output `da[N, D] = c G b` with
/// `G_ij = by_row (exp(s_ij - lse_i) - T_ij) + by_column (exp(s_ij - lse_j) - T_ji)`, `s = scale a b^T`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InfoNceGradient {
    /// The op that this is the gradient of.
    pub op: InfoNce,
    /// Whether the queries want a gradient.
    pub by_row: bool,
    /// Whether the keys want one.
    pub by_column: bool,
}

impl InfoNceGradient {
    /// How often the partner is subtracted; partnership is mutual, so `T` is symmetric.
    fn terms(&self) -> f32 {
        f32::from(u8::from(self.by_row) + u8::from(self.by_column))
    }

    /// Turns a row of logits into a row of `G`; `spare` is as long as the row.
    fn factors_cpu(&self, i: usize, row: &mut [f32], lse: &[f32], spare: &mut [f32]) {
        if self.by_column {
            spare.iter_mut().zip(row.iter().zip(lse)).for_each(|(spare, (s, lse))| *spare = s - lse);
            simd::exp_in_place(spare);
        }
        match (self.by_row, self.by_column) {
            (true, true) => {
                simd::exp_sub_scale(row, lse[i], 1.0);
                simd::axpy(1.0, spare, row);
            }
            (true, false) => simd::exp_sub_scale(row, lse[i], 1.0),
            _ => row.copy_from_slice(spare),
        }
        row[self.op.pairing.partner(i, lse.len())] -= self.terms();
        if self.op.pairing.excludes(i, i) {
            row[i] = 0.0;
        }
    }
}

impl Op for InfoNceGradient {
    fn name(&self) -> &'static str {
        "info_nce_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (a, b, lse, n) = (inputs[0], inputs[1], inputs[2].f(), inputs[0].rows());
        let c = inputs[3].f()[0] * self.op.scale / n as f64;
        for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).filter(|&(i, j)| !self.op.pairing.excludes(i, j))
        {
            let s = self.op.scale * dot(a.row(i), b.row(j));
            let partner = f64::from(u8::from(self.op.pairing.partner(i, n) == j));
            let by_row = if self.by_row { (s - lse[i]).exp() - partner } else { 0.0 };
            let by_column = if self.by_column { (s - lse[j]).exp() - partner } else { 0.0 };
            let da = outputs[0].f_mut()[i * a.width()..].iter_mut();
            da.zip(b.row(j)).for_each(|(da, b)| *da += c * (by_row + by_column) * b);
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        let rows = inputs[0].rows();
        inputs[1].len() + (ROWS + 1) * rows * WORKERS.min(rows.div_ceil(ROWS))
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (a, b, lse, n) = (io.inputs[0].f(), io.inputs[1].f(), io.inputs[2].f(), io.inputs[0].rows());
        let (width, scale) = (io.inputs[0].width(), self.op.scale as f32);
        let c = io.inputs[3].f()[0] * scale / n as f32;
        let (keys, scratch) = io.scratch.split_at_mut(n * width);
        let keys = columns_cpu(b, width, keys, n);
        for (wave, da) in io.outputs[0].f().chunks_mut(WORKERS * ROWS * width).enumerate() {
            let blocks = scratch.par_chunks_mut((ROWS + 1) * n).zip(da.par_chunks_mut(ROWS * width));
            blocks.enumerate().for_each(|(block, (scratch, da))| {
                let (first, rows) = ((wave * WORKERS + block) * ROWS, da.len() / width);
                let (spare, logits) = scratch.split_at_mut(n);
                let logits = &mut logits[..rows * n];
                logits_cpu(&a[first * width..], keys, width, scale, logits, n);
                for (i, row) in (first..).zip(logits.chunks_exact_mut(n)) {
                    self.factors_cpu(i, row, lse, spare);
                }
                gemm((rows, width, n), Matrix::new(logits, n), Matrix::new(b, width), da, width, false);
                simd::scale(da, c);
            });
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) -> Result<()> {
        let (n, width) = (b.inputs[0].rows(), b.inputs[0].width());
        let (lse, dloss, da) = (b.input(2), b.input(3), b.output(0));
        let op = *self;
        logits_gpu(b, |b, first, logits| {
            let rows = logits.len / n;
            let bindings = [(lse, Read), (dloss, Read), (logits, Update)];
            let [by_row, by_column, shift] = [op.by_row.into(), op.by_column.into(), op.op.pairing.shift(n).into()];
            let params = [n.into(), logits.len.into(), first.into(), op.op.scale.into(), shift, by_row, by_column];
            b.dispatch(shader!("info_nce_gradient"), &[], &bindings, &params, logits.len.div_ceil(64))?;
            let sizes = Sizes { batch: 1, m: rows, n: width, k: n };
            let da = da.slice(first * width, rows * width);
            gemm_gpu(b, Gemm::new(Matmul::NN, sizes, logits, b.input(1), da))
        })
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(4 * inputs[0].rows() * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] =
    &[("info_nce", build), ("info_nce_one_way", build_one_way), ("info_nce_rows", build_rows)];

fn two_views(b: &mut Builder) -> Result<[ValueId; 2]> {
    let similarity = match b.attr_str("similarity")?.as_str() {
        "dot" => Similarity::Dot,
        "cosine" => Similarity::Cosine,
        other => return Err(Error::graph("info_nce", format!("similarity is dot or cosine, not `{other}`"))),
    };
    let (z, temperature) = (b.input("z")?, b.attr_f64("temperature")?);
    info_nce(&mut b.graph, z, similarity, temperature)
}

fn build(b: &mut Builder) -> Result<()> {
    let [loss, _] = two_views(b)?;
    b.output("loss", loss);
    Ok(())
}

fn build_rows(b: &mut Builder) -> Result<()> {
    let [loss, rows] = two_views(b)?;
    b.output("loss", loss);
    b.output("rows", rows);
    Ok(())
}

fn build_one_way(b: &mut Builder) -> Result<()> {
    let (query, key, scale) = (b.input("query")?, b.input("key")?, b.attr_f64("scale")?);
    let [loss, _] = info_nce_one_way(&mut b.graph, query, key, scale)?;
    b.output("loss", loss);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let views = |kernel: usize, (rows, width): (usize, usize), similarity: &str, temperature: f64| {
        let case = Case::new(KERNELS[kernel], format!("{rows}x{width} {similarity} {temperature}"));
        case.attr("similarity", similarity).attr("temperature", temperature)
    };
    let trained = |rows, width, similarity, temperature, scale| {
        views(0, (rows, width), similarity, temperature).normal("z", &[rows, width], scale)
    };
    let one_way = |n: usize, width: usize, scale: f64| {
        let case = Case::new(KERNELS[1], format!("{n}x{width} scale {scale}")).attr("scale", scale);
        case.normal("query", &[n, width], 1.0).normal("key", &[n, width], 1.0)
    };
    let ramp = (0..66 * 3).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
    vec![
        trained(4, 3, "dot", 1.0, 1.0),
        trained(126, 64, "dot", 0.5, 0.2),
        trained(130, 65, "cosine", 0.1, 1.0),
        trained(6, 700, "dot", 1.0, 1.5),
        one_way(2, 1, 1.0),
        one_way(65, 63, 0.125),
        one_way(127, 2, 3.0),
        views(2, (66, 3), "dot", 1.0).constant("z", &[66, 3], ramp),
        views(2, (2, 8), "cosine", 0.1).constant("z", &[2, 8], vec![0.5; 16]),
    ]
}
