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
use crate::engine::exec::cpu::{CpuIo, In};
use crate::engine::exec::gpu::kernel::GpuBuilder;
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::graph::{Graph, ValueId};
use crate::engine::op::{Cost, Op, WithForward, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::{Error, Result};
use crate::ops::unit_rows::UnitRows;
use cpu::{Losses, Problem, Saved};
use gpu::{Blocks, Places};
use std::sync::Arc;

#[path = "info_nce/cpu.rs"]
mod cpu;
#[path = "info_nce/gpu.rs"]
mod gpu;

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
        cpu::scratch(inputs[0].rows(), inputs[0].width())
    }

    fn cpu(&self, io: &mut CpuIo) {
        let problem = self.problem(io);
        let [loss, rows, lse] = &mut io.outputs[..] else { unreachable!("inferred") };
        cpu::forward(problem, io.scratch, loss.f(), Losses { rows: rows.f(), lse: lse.f() });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let blocks = Blocks::new(b);
        blocks.each(b, |b, first, logits| gpu::losses(*self, b, first, logits));
        gpu::mean(b);
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
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

impl InfoNce {
    fn problem<'a>(&self, io: &CpuIo<'a>) -> Problem<'a> {
        let (a, b) = (io.inputs[0], io.inputs[1]);
        Problem { op: *self, a: a.f(), b: b.f(), n: a.rows(), width: a.width() }
    }
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
        cpu::scratch(inputs[0].rows(), inputs[0].width())
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (lse, c) = (io.inputs[2].f(), self.factor(&io.inputs[3], io.inputs[0].rows()));
        cpu::gradient(self.op.problem(io), *self, io.scratch, Saved { lse, c }, io.outputs[0].f());
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let places = Places { lse: b.input(2), dloss: b.input(3), da: b.output(0) };
        let blocks = Blocks::new(b);
        blocks.each(b, |b, first, logits| gpu::gradient(*self, b, places, first, logits));
    }

    /// Two views without `lse`, which becomes an output.
    fn with_forward(&self) -> Option<WithForward> {
        let both = self.by_row && self.by_column;
        both.then(|| WithForward { op: Arc::new(InfoNceWithGradient(self.op)), saved_from_end: 2 })
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(4 * inputs[0].rows() * inputs[0].len(), inputs, outputs)
    }
}

impl InfoNceGradient {
    /// `c`
    fn factor(&self, dloss: &In, rows: usize) -> f32 {
        dloss.f()[0] * self.op.scale as f32 / rows as f32
    }
}

/// Both at once for two views: inputs `query`, `key`, `dloss[1]`; outputs `loss`, `rows`, `lse`, `dquery`.
#[derive(Clone, Copy, Debug)]
pub struct InfoNceWithGradient(InfoNce);

impl InfoNceWithGradient {
    fn gradient(&self) -> InfoNceGradient {
        InfoNceGradient { op: self.0, by_row: true, by_column: true }
    }
}

impl Op for InfoNceWithGradient {
    fn name(&self) -> &'static str {
        "info_nce_with_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok([self.0.infer(&inputs[..2])?, vec![inputs[0].clone()]].concat())
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (forward, gradient) = outputs.split_at_mut(3);
        self.0.reference(&inputs[..2], forward);
        self.gradient().reference(&[inputs[0], inputs[1], &forward[2], inputs[2]], gradient);
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        cpu::scratch(inputs[0].rows(), inputs[0].width())
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (problem, c) = (self.0.problem(io), self.gradient().factor(&io.inputs[2], io.inputs[0].rows()));
        let [loss, rows, lse, da] = &mut io.outputs[..] else { unreachable!("inferred") };
        let losses = Losses { rows: rows.f(), lse: lse.f() };
        cpu::together(problem, self.gradient(), io.scratch, (loss.f(), losses), (c, da.f()));
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (op, gradient) = (self.0, self.gradient());
        let places = Places { lse: b.output(2), dloss: b.input(2), da: b.output(3) };
        let blocks = Blocks::new(b);
        // The gradient needs the lse of all rows. Where these are one block, it takes over the logits.
        if blocks.rows == b.inputs[0].rows() {
            blocks.each(b, |b, first, logits| {
                gpu::losses(op, b, first, logits);
                gpu::gradient(gradient, b, places, first, logits);
            });
        } else {
            blocks.each(b, |b, first, logits| gpu::losses(op, b, first, logits));
            blocks.each(b, |b, first, logits| gpu::gradient(gradient, b, places, first, logits));
        }
        gpu::mean(b);
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
        // More rows than are worked on at a time.
        trained(514, 3, "dot", 1.0, 0.5),
        one_way(513, 2, 1.0),
        views(2, (66, 3), "dot", 1.0).constant("z", &[66, 3], ramp),
        views(2, (2, 8), "cosine", 0.1).constant("z", &[2, 8], vec![0.5; 16]),
    ]
}
