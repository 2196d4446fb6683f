//! The `k` best items of each query over a whole catalogue, descending, equal scores by the lower index.
//!
//! Scores exist a chunk at a time. On the host a row keeps its list sorted and takes a score only if it beats the last;
//! on a GPU `k` rounds each find the best after the one before, among the chunk and the list so far.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, GpuBuilder, Region};
use crate::engine::exec::simd;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::rank::{histories, sixteenths};
use crate::ops::tiles::{
    self, GpuChunks, LOWEST, NONE, Scorer, SteadyScorer, TILE, TILE_ROWS, TILE_STRIDE, lane_rows, reference_score,
    seen_within,
};
use crate::shader;
use rayon::prelude::*;
use std::cmp::Ordering;

/// Longest list: it lies in workgroup memory.
pub const MAX_K: usize = 256;

/// Inputs `hidden[N, D]`, `weight[V, D]`, (`bias[V]`), and with `exclude` `seen_offsets[N + 1]` and `seen_items[S]` as in
/// `Rank`. Outputs `values[N, k]` and `indices[N, k]` (u32); where candidates run out, -1e30 and `u32::MAX`.
#[derive(Clone, Copy, Debug)]
pub struct LinearTopK {
    /// Length of the lists, at most `MAX_K`.
    pub k: usize,
    /// The catalogue is the first so many rows of the weight.
    pub items: Option<usize>,
    /// Leaves out the items of each row's history.
    pub exclude: bool,
}

impl LinearTopK {
    fn has_bias(&self, inputs: usize) -> bool {
        inputs > 2 + 2 * usize::from(self.exclude)
    }
}

impl Op for LinearTopK {
    fn name(&self) -> &'static str {
        "linear_topk"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        tiles::check(self.name(), inputs, self.has_bias(inputs.len()).then(|| inputs[2]), self.items)?;
        let (rows, offsets) = (inputs[0].rows(), inputs[inputs.len() - 2]);
        let fits = !self.exclude || *offsets == TensorType::u32(&[rows + 1]);
        expect(self.name(), fits, || format!("{rows} queries, but seen_offsets is {offsets}"))?;
        list_types(self.name(), rows, self.k)
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (hidden, weight) = (inputs[0], inputs[1]);
        let bias = self.has_bias(inputs.len()).then(|| inputs[2]);
        let items = self.items.unwrap_or(weight.rows());
        for n in 0..hidden.rows() {
            let seen: &[u32] = match &inputs[inputs.len() - 2..] {
                [offsets, seen] if self.exclude => seen_within(offsets.u(), seen.u(), n, &(0..items)),
                _ => &[],
            };
            let candidates = (0..items as u32).filter(|v| !seen.contains(v));
            let scored = candidates.map(|v| (reference_score(hidden, weight, bias, n, v as usize), v));
            write_best(scored.collect(), n, self.k, outputs);
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        let (rows, width) = (inputs[0].rows(), inputs[0].width());
        SteadyScorer::scratch(width) + rows.div_ceil(lane_rows(rows)) * (TILE + TILE_ROWS * width)
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (items, width) = (self.items.unwrap_or(io.inputs[1].rows()), io.inputs[0].width());
        let plain = Scorer::new(io, self.has_bias(io.inputs.len()));
        let history = self.exclude.then(|| (io.inputs[io.inputs.len() - 2].u(), io.inputs[io.inputs.len() - 1].u()));
        let (tail, lanes) = io.scratch.split_at_mut(SteadyScorer::scratch(width));
        let scorer = SteadyScorer::new(plain, items, tail);
        let lane_len = lane_rows(io.inputs[0].rows());
        let [values, indices] = &mut io.outputs[..] else { unreachable!("inferred") };
        let lists = values.f().par_chunks_mut(lane_len * self.k).zip(indices.u().par_chunks_mut(lane_len * self.k));
        let lanes = lanes.par_chunks_mut(TILE + TILE_ROWS * width);
        lanes.zip(lists).enumerate().for_each(|(lane, (space, (values, indices)))| {
            values.fill(LOWEST);
            indices.fill(NONE);
            let (tile, queries) = space.split_at_mut(TILE);
            let blocks = values.chunks_mut(TILE_ROWS * self.k).zip(indices.chunks_mut(TILE_ROWS * self.k));
            for (block, (values, indices)) in blocks.enumerate() {
                let first = lane * lane_len + block * TILE_ROWS;
                let queries = scorer.queries(first..first + values.len() / self.k, queries);
                for chunk in tiles::chunks(0..items) {
                    scorer.tile(queries, &chunk, tile);
                    let lists = values.chunks_exact_mut(self.k).zip(indices.chunks_exact_mut(self.k));
                    for ((row, z), (values, indices)) in (first..).zip(tile.chunks_exact_mut(TILE_STRIDE)).zip(lists) {
                        if let Some((offsets, seen)) = history {
                            let seen = seen_within(offsets, seen, row, &chunk);
                            seen.iter().for_each(|&v| z[v as usize - chunk.start] = LOWEST);
                        }
                        offer(&z[..chunk.len()], chunk.start, values, indices);
                    }
                }
            }
        });
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let (rows, inputs) = (builder.inputs[0].rows(), builder.inputs.len());
        let chunks = GpuChunks::new(builder, self.items.unwrap_or(builder.inputs[1].rows()));
        chunks.each(builder, |builder, first, len| {
            let z = chunks.scores(builder, first, len, self.has_bias(inputs));
            if self.exclude {
                exclude_gpu(builder, inputs - 2, z, (first, len));
            }
            topk_gpu(builder, z, rows, first, len, self.k);
        });
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * inputs[0].len() * self.items.unwrap_or(inputs[1].rows()), inputs, outputs)
    }
}

/// Inputs `hidden`, `weight`, (`bias`); outputs `max[N]` and `argmax[N]` (u32; the lowest of equals).
#[derive(Clone, Copy, Debug, Default)]
pub struct LinearMax {
    /// The catalogue is the first so many rows of the weight.
    pub items: Option<usize>,
}

impl LinearMax {
    fn list(&self) -> LinearTopK {
        LinearTopK { k: 1, items: self.items, exclude: false }
    }
}

impl Op for LinearMax {
    fn name(&self) -> &'static str {
        "linear_max"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        self.list().infer(inputs)?;
        let rows = inputs[0].rows();
        Ok(vec![TensorType::f32(&[rows]), TensorType::u32(&[rows])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        self.list().reference(inputs, outputs);
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> usize {
        self.list().cpu_scratch(inputs, outputs)
    }

    fn cpu(&self, io: &mut CpuIo) {
        self.list().cpu(io);
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        self.list().gpu(builder);
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        self.list().cost(inputs, outputs)
    }
}

/// Input `scores[N, V]`, of which -1e30 is no candidate; outputs as `LinearTopK`.
#[derive(Clone, Copy, Debug)]
pub struct TopK {
    /// Length of the lists.
    pub k: usize,
}

impl Op for TopK {
    fn name(&self) -> &'static str {
        "topk"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        list_types(self.name(), inputs[0].rows(), self.k)
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        for n in 0..inputs[0].rows() {
            let candidates = inputs[0].row(n).iter().copied().zip(0..).filter(|(score, _)| *score > f64::from(LOWEST));
            write_best(candidates.collect(), n, self.k, outputs);
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (scores, width) = (io.inputs[0].f(), io.inputs[0].width());
        let [values, indices] = &mut io.outputs[..] else { unreachable!("inferred") };
        let lists = values.f().par_chunks_mut(self.k).zip(indices.u().par_chunks_mut(self.k));
        scores.par_chunks(width).zip(lists).for_each(|(row, (values, indices))| {
            values.fill(LOWEST);
            indices.fill(NONE);
            offer(row, 0, values, indices);
        });
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let (rows, width) = (builder.inputs[0].rows(), builder.inputs[0].width());
        topk_gpu(builder, builder.input(0), rows, 0, width, self.k);
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `scores[N, V]`, `seen_offsets[N + 1]`, `seen_items[S]`; output `scores`, updated in place: those of the items of each
/// row's history become -1e30, so that `TopK` leaves them out.
#[derive(Clone, Copy, Debug)]
pub struct ExcludeSeen;

impl Op for ExcludeSeen {
    fn name(&self) -> &'static str {
        "exclude_seen"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let fits = *inputs[1] == TensorType::u32(&[inputs[0].rows() + 1]);
        expect(self.name(), fits, || format!("scores are {}, seen_offsets is {}", inputs[0], inputs[1]))?;
        Ok(vec![inputs[0].clone()])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let items = outputs[0].width();
        for n in 0..inputs[0].rows() {
            let seen = seen_within(inputs[1].u(), inputs[2].u(), n, &(0..items));
            seen.iter().for_each(|&v| outputs[0].f_mut()[n * items + v as usize] = f64::from(LOWEST));
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (offsets, seen) = (io.inputs[1].u(), io.inputs[2].u());
        let items = io.outputs[0].ty.width();
        io.outputs[0].f().par_chunks_mut(items).enumerate().for_each(|(n, scores)| {
            seen_within(offsets, seen, n, &(0..items)).iter().for_each(|&v| scores[v as usize] = LOWEST);
        });
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        exclude_gpu(builder, 1, builder.output(0), (0, builder.outputs[0].width()));
    }

    fn cost(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> Cost {
        Cost::new(0, &inputs[1..], &[])
    }
}

/// Gives the items of the histories the lowest score in the scores `z` of `len` items from `first` on; the histories are the
/// inputs `offsets` and the one behind it.
fn exclude_gpu(builder: &mut GpuBuilder, offsets: usize, z: Region, (first, len): (usize, usize)) {
    let rows = builder.inputs[0].rows();
    let bindings = [(builder.input(offsets), Read), (builder.input(offsets + 1), Read), (z, Update)];
    builder.dispatch(shader!("topk_exclude"), &[], &bindings, &[rows.into(), len.into(), first.into()], rows);
}

fn list_types(op: &str, rows: usize, k: usize) -> Result<Vec<TensorType>> {
    expect(op, (1..=MAX_K).contains(&k), || format!("k is {k}; lists of 1 to {MAX_K} items are possible"))?;
    Ok(vec![TensorType::f32(&[rows, k]), TensorType::u32(&[rows, k])])
}

fn write_best(mut scored: Vec<(f64, u32)>, row: usize, k: usize, outputs: &mut [Array]) {
    scored.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1)));
    for i in 0..k {
        let (value, index) = scored.get(i).copied().unwrap_or((f64::from(LOWEST), NONE));
        outputs[0].f_mut()[row * k + i] = value;
        outputs[1].u_mut()[row * k + i] = index;
    }
}

/// Takes the scores of items `first..` into a list. Items come in ascending order, so that an equal score stays behind.
fn offer(scores: &[f32], first: usize, values: &mut [f32], indices: &mut [u32]) {
    let last = values.len() - 1;
    let mut at = 0;
    while let Some(found) = simd::first_above(&scores[at..], values[last]) {
        at += found + 1;
        let (score, item) = (scores[at - 1], (first + at - 1) as u32);
        let mut place = last;
        while place > 0 && values[place - 1] < score {
            (values[place], indices[place]) = (values[place - 1], indices[place - 1]);
            place -= 1;
        }
        (values[place], indices[place]) = (score, item);
    }
}

/// Merges the scores `z[N, len]` of the items from `first` on into the lists; the first chunk begins them.
fn topk_gpu(builder: &mut GpuBuilder, z: Region, rows: usize, first: usize, len: usize, k: usize) {
    let bindings = [(z, Read), (builder.output(0), Update), (builder.output(1), Update)];
    let params = [rows.into(), len.into(), first.into(), k.into()];
    builder.dispatch(shader!("topk"), &[], &bindings, &params, rows);
}

pub(crate) const KERNELS: &[Kernel] =
    &[("linear_topk", build), ("linear_max", build_max), ("topk", build_topk), ("exclude_seen", build_exclude)];

fn scorer_inputs(b: &mut Builder) -> Result<Vec<crate::engine::graph::ValueId>> {
    let mut inputs = vec![b.input("hidden")?, b.input("weight")?];
    if b.has("bias") {
        inputs.push(b.input("bias")?);
    }
    Ok(inputs)
}

fn build(b: &mut Builder) -> Result<()> {
    let mut inputs = scorer_inputs(b)?;
    let exclude = b.has("seen_items");
    if exclude {
        inputs.extend([b.input("seen_offsets")?, b.input("seen_items")?]);
    }
    let items = b.optional_f64("items").map(|items| items as usize);
    let outputs = b.graph.add(LinearTopK { k: b.attr_usize("k")?, items, exclude }, &inputs)?;
    b.output("values", outputs[0]);
    b.output("indices", outputs[1]);
    Ok(())
}

fn build_max(b: &mut Builder) -> Result<()> {
    let inputs = scorer_inputs(b)?;
    let outputs = b.graph.add(LinearMax::default(), &inputs)?;
    b.output("max", outputs[0]);
    b.output("argmax", outputs[1]);
    Ok(())
}

fn build_topk(b: &mut Builder) -> Result<()> {
    let scores = b.input("scores")?;
    let outputs = b.graph.add(TopK { k: b.attr_usize("k")? }, &[scores])?;
    b.output("values", outputs[0]);
    b.output("indices", outputs[1]);
    Ok(())
}

fn build_exclude(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("scores")?, b.input("seen_offsets")?, b.input("seen_items")?];
    let scores = b.graph.add1(ExcludeSeen, &inputs)?;
    b.output("scores", scores);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |kernel: usize, name: &str, n: usize, v: usize, d: usize| {
        let case = Case::new(KERNELS[kernel], format!("{name}{n}x{v}x{d}"));
        let case = case.constant("hidden", &[n, d], sixteenths(n * d, 37, 101));
        case.constant("weight", &[v, d], sixteenths(v * d, 29, 43))
    };
    let without_history = |case: Case, n: usize, v: usize| {
        let (offsets, seen) = histories(n, v);
        case.ids("seen_offsets", &[n + 1], &offsets).ids("seen_items", &[seen.len()], &seen)
    };
    let scored = |kernel: usize, n: usize, v: usize| {
        Case::new(KERNELS[kernel], format!("{n}x{v}")).constant("scores", &[n, v], sixteenths(n * v, 37, 101))
    };
    let scores = |n: usize, v: usize, k: usize| scored(2, n, v).attr("k", k);
    vec![
        case(0, "", 1, 1, 1).attr("k", 1),
        case(0, "bias ", 65, 130, 3).constant("bias", &[130], sixteenths(130, 11, 53)).attr("k", 7),
        without_history(case(0, "without history ", 127, 63, 2), 127, 63).attr("k", 64).attr("items", 61),
        without_history(case(0, "many rows ", 560, 270, 1), 560, 270).attr("k", 2),
        case(0, "many items ", 2, 4300, 2).attr("k", 256),
        case(1, "", 2, 64, 2).constant("bias", &[64], sixteenths(64, 11, 53)),
        case(1, "", 3, 300, 1),
        scores(1, 1, 3),
        scores(64, 127, 20),
        scores(3, 2, 2),
        without_history(scored(3, 65, 130), 65, 130),
    ]
}
