//! The place of a target among all items, from which every full-catalogue metric follows; scores are never stored.
//!
//! An item ranks before the target when its score is greater, or equal with a lower index. The target's own score comes
//! out of the same product as all others, so that equal items tie exactly and a rank does not depend on the batch.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, Access::Write, GpuBuilder, Region};
use crate::engine::exec::simd::count_above;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::matmul::{Gemm, Matmul, Sizes, gemm_gpu};
use crate::ops::tiles::{
    self, GpuChunks, NONE, Scorer, SteadyScorer, TILE, TILE_ROWS, TILE_STRIDE, lane_rows, reference_score, seen_within,
};
use crate::shader;
use rayon::prelude::*;
use std::ops::Range;

/// Inputs `hidden[N, D]`, `weight[V, D]`, (`bias[V]`), `target[N]` (u32; `NONE`: all outputs 0), `seen_offsets[N + 1]` and
/// `seen_items[S]` (u32): the histories, ascending without repeats, row `n` from `seen_offsets[n]` to the next.
/// Outputs, u32 `[N]`: `better`, the items before the target; `better_seen`, those of them in the history; `ties`, the
/// other items with exactly the target's score. The rank is `better + 1`, and without the history `better_seen` less.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rank {
    /// The catalogue is the first so many rows of the weight.
    pub items: Option<usize>,
}

impl Op for Rank {
    fn name(&self) -> &'static str {
        "rank"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        tiles::check(self.name(), inputs, (inputs.len() > 5).then(|| inputs[2]), self.items)?;
        rank_types(self.name(), inputs)
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let [hidden, weight, bias @ .., target, offsets, seen] = inputs else { unreachable!("inferred") };
        let items = self.items.unwrap_or(weight.rows());
        let score = |n: usize, v: usize| reference_score(hidden, weight, bias.first().copied(), n, v);
        rank_in_reference(target.u(), [offsets, seen], 0..items, score, outputs);
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        let (rows, width) = (inputs[0].rows(), inputs[0].width());
        SteadyScorer::scratch(width) + rows.div_ceil(lane_rows(rows)) * lane_words(width)
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (items, width) = (self.items.unwrap_or(io.inputs[1].rows()), io.inputs[0].width());
        let [.., target, offsets, seen] = io.inputs[..] else { unreachable!("inferred") };
        let (target, offsets, seen) = (target.u(), offsets.u(), seen.u());
        let plain = Scorer::new(io, io.inputs.len() > 5);
        let (tail, lanes) = io.scratch.split_at_mut(SteadyScorer::scratch(width));
        let scorer = SteadyScorer::new(plain, items, tail);
        let lane_len = lane_rows(target.len());
        let [better, better_seen, ties] = &mut io.outputs[..] else { unreachable!("inferred") };
        let counts = better.u().par_chunks_mut(lane_len).zip(better_seen.u().par_chunks_mut(lane_len));
        let counts = counts.zip(ties.u().par_chunks_mut(lane_len));
        lanes.par_chunks_mut(lane_words(width)).zip(counts).enumerate().for_each(|(lane, (space, counts))| {
            let ((better, better_seen), ties) = counts;
            let (tile, space) = space.split_at_mut(TILE);
            let (own, space) = space.split_at_mut(TILE_ROWS);
            let (queries, space) = space.split_at_mut(TILE_ROWS * width);
            better.fill(0);
            better_seen.fill(0);
            ties.fill(0);
            for block in (0..better.len()).step_by(TILE_ROWS) {
                let first = lane * lane_len + block;
                let rows = first..first + TILE_ROWS.min(better.len() - block);
                let queries = scorer.queries(rows.clone(), queries);
                scorer.pairs(queries, &target[rows.clone()], tile, space);
                own[..rows.len()].copy_from_slice(&tile[..rows.len()]);
                for chunk in tiles::chunks(0..items) {
                    scorer.tile(queries, &chunk, tile);
                    for (i, row) in rows.clone().enumerate().filter(|(_, row)| target[*row] != NONE) {
                        let z = &tile[i * TILE_STRIDE..][..chunk.len()];
                        let history = seen_within(offsets, seen, row, &chunk);
                        let counts = count(z, &chunk, own[i], target[row] as usize, history);
                        better[block + i] += counts[0];
                        better_seen[block + i] += counts[1];
                        ties[block + i] += counts[2];
                    }
                }
            }
        });
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        const BLOCK: usize = 64;
        let (rows, width) = (builder.inputs[0].rows(), builder.inputs[0].width());
        let (has_bias, last) = (builder.inputs.len() > 5, builder.inputs.len() - 1);
        let items = self.items.unwrap_or(builder.inputs[1].rows());
        let (hidden, target) = (builder.input(0), builder.input(last - 2));
        let chunks = GpuChunks::new(builder, items);
        let blocks = rows.div_ceil(BLOCK);
        let own_items = builder.scratch(blocks * BLOCK * width);
        let pairs = builder.scratch(blocks * BLOCK * BLOCK);
        let own = builder.scratch(rows);
        chunks.each(builder, |builder, first, len| {
            let weight = builder.input(1).slice(first * width, len * width);
            let bindings = [(weight, Read), (target, Read), (own_items, Update)];
            let params = [rows.into(), width.into(), first.into(), len.into(), own_items.len.into()];
            builder.dispatch(shader!("rank_targets"), &[], &bindings, &params, own_items.len.div_ceil(64));
        });
        // The targets' scores are the diagonals of products of 64 queries with their 64 targets.
        for (first, batch, m) in [(0, rows / BLOCK, BLOCK), (rows / BLOCK, 1, rows % BLOCK)] {
            if batch * m > 0 {
                let sizes = Sizes { batch, m, n: BLOCK, k: width };
                let a = hidden.slice(first * BLOCK * width, batch * m * width);
                let b = own_items.slice(first * BLOCK * width, batch * BLOCK * width);
                let y = pairs.slice(first * BLOCK * BLOCK, batch * m * BLOCK);
                gemm_gpu(builder, Gemm { split_k: false, ..Gemm::new(Matmul::NT, sizes, a, b, y) });
            }
        }
        let bias = if has_bias { builder.input(2) } else { pairs };
        let bindings = [(pairs, Read), (target, Read), (bias, Read), (own, Write)];
        builder.dispatch(shader!("rank_scores"), &[], &bindings, &[rows.into(), has_bias.into()], rows.div_ceil(64));
        chunks.each(builder, |builder, first, len| {
            let z = chunks.scores(builder, first, len, has_bias);
            count_gpu(builder, [z, own], last - 2, (first, len));
        });
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * inputs[0].len() * self.items.unwrap_or(inputs[1].rows()), inputs, outputs)
    }
}

/// Of the scores `z` of a chunk of items: those before the target `t`, those of them in the history, those that tie with it.
fn count(z: &[f32], chunk: &Range<usize>, own: f32, t: usize, history: &[u32]) -> [u32; 3] {
    // What lies before the target in the catalogue, and behind it.
    let before = t.clamp(chunk.start, chunk.end) - chunk.start;
    let behind = (before + usize::from(chunk.contains(&t))).min(chunk.len());
    let (above, equal) = count_above(&z[..before], own);
    let (above_behind, equal_behind) = count_above(&z[behind..], own);
    let is_better = |v: usize| z[v - chunk.start] > own || (z[v - chunk.start] == own && v < t);
    let seen = history.iter().map(|&v| v as usize).filter(|&v| v != t && is_better(v)).count();
    [above + equal + above_behind, seen as u32, equal + equal_behind]
}

/// The same for scores that are there already: inputs `scores[N, V]`, then those of `Rank` behind the catalogue; the same
/// outputs.
#[derive(Clone, Copy, Debug)]
pub struct RankOfScores;

impl Op for RankOfScores {
    fn name(&self) -> &'static str {
        "rank_of_scores"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        rank_types(self.name(), inputs)
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let [scores, target, offsets, seen] = inputs else { unreachable!("inferred") };
        rank_in_reference(target.u(), [offsets, seen], 0..scores.width(), |n, v| scores.row(n)[v], outputs);
    }

    fn cpu(&self, io: &mut CpuIo) {
        let [scores, target, offsets, seen] = io.inputs[..] else { unreachable!("inferred") };
        let (items, scores, target) = (0..scores.width(), scores.f(), target.u());
        let (offsets, seen) = (offsets.u(), seen.u());
        let [better, better_seen, ties] = &mut io.outputs[..] else { unreachable!("inferred") };
        let counts = better.u().par_iter_mut().zip(better_seen.u().par_iter_mut()).zip(ties.u().par_iter_mut());
        counts.zip(target).zip(scores.par_chunks(items.len())).enumerate().for_each(|(row, ((counts, t), z))| {
            let ((better, better_seen), ties) = counts;
            [*better, *better_seen, *ties] = match *t {
                NONE => [0; 3],
                t => count(z, &items, z[t as usize], t as usize, seen_within(offsets, seen, row, &items)),
            };
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (rows, items, scores, target) = (b.inputs[0].rows(), b.inputs[0].width(), b.input(0), b.input(1));
        let own = b.scratch(rows);
        let bindings = [(scores, Read), (target, Read), (own, Write)];
        let params = [rows.into(), items.into()];
        b.dispatch(shader!("rank_own"), &[], &bindings, &params, rows.div_ceil(64));
        count_gpu(b, [scores, own], 1, (0, items));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(inputs[0].len(), inputs, outputs)
    }
}

/// Checks the inputs from `target` on; the outputs.
fn rank_types(op: &str, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
    let [.., target, offsets, _] = inputs else { unreachable!("target and history come last") };
    let rows = inputs[0].rows();
    let fits = **target == TensorType::u32(&[rows]) && **offsets == TensorType::u32(&[rows + 1]);
    expect(op, fits, || format!("{rows} queries, but target is {target}, seen_offsets is {offsets}"))?;
    Ok(vec![TensorType::u32(&[rows]); 3])
}

fn rank_in_reference(
    target: &[u32],
    [offsets, seen]: [&Array; 2],
    items: Range<usize>,
    score: impl Fn(usize, usize) -> f64,
    outputs: &mut [Array],
) {
    for (n, &t) in target.iter().enumerate().filter(|(_, t)| **t != NONE) {
        let own = score(n, t as usize);
        let history = seen_within(offsets.u(), seen.u(), n, &items);
        for v in items.clone().filter(|v| *v != t as usize) {
            let better = score(n, v) > own || (score(n, v) == own && v < t as usize);
            outputs[0].u_mut()[n] += u32::from(better);
            outputs[1].u_mut()[n] += u32::from(better && history.contains(&(v as u32)));
            outputs[2].u_mut()[n] += u32::from(score(n, v) == own);
        }
    }
}

/// Counts in a chunk of `len` items from `first` on, from its scores and the targets' own; `target` is the input's place.
fn count_gpu(b: &mut GpuBuilder, [z, own]: [Region; 2], target: usize, (first, len): (usize, usize)) {
    let rows = b.inputs[0].rows();
    let mut bindings = vec![(z, Read), (b.input(target), Read), (own, Read)];
    bindings.extend([(b.input(target + 1), Read), (b.input(target + 2), Read)]);
    bindings.extend((0..3).map(|i| (b.output(i), Update)));
    let params = [rows.into(), len.into(), first.into(), (first == 0).into()];
    b.dispatch(shader!("rank"), &[], &bindings, &params, rows);
}

/// Scratch of a lane: a tile, the targets' scores, the queries, the targets' rows of the table with their bias.
fn lane_words(width: usize) -> usize {
    TILE + TILE_ROWS + TILE_ROWS * width + SteadyScorer::scratch(width)
}

pub(crate) const KERNELS: &[Kernel] = &[("rank", build), ("rank_of_scores", build_of_scores)];

fn build(b: &mut Builder) -> Result<()> {
    let mut inputs = vec![b.input("hidden")?, b.input("weight")?];
    if b.has("bias") {
        inputs.push(b.input("bias")?);
    }
    inputs.extend([b.input("target")?, b.input("seen_offsets")?, b.input("seen_items")?]);
    let items = b.optional_f64("items").map(|items| items as usize);
    let outputs = b.graph.add(Rank { items }, &inputs)?;
    for (name, output) in ["better", "better_seen", "ties"].iter().zip(outputs) {
        b.output(name, output);
    }
    Ok(())
}

fn build_of_scores(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("scores")?, b.input("target")?, b.input("seen_offsets")?, b.input("seen_items")?];
    let outputs = b.graph.add(RankOfScores, &inputs)?;
    for (name, output) in ["better", "better_seen", "ties"].iter().zip(outputs) {
        b.output(name, output);
    }
    Ok(())
}

/// Multiples of 1/16, of which sums of products are exact: many scores are equal, in f32 as in f64.
pub fn sixteenths(len: usize, step: usize, range: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * step) % range) as f32 / 16.0 - (range / 2) as f32 / 16.0).collect()
}

/// Histories of every `n % 5`-th row: each third item from the row's number on.
pub fn histories(rows: usize, items: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut offsets, mut seen) = (vec![0], Vec::new());
    for n in 0..rows {
        seen.extend((n % 7..items).step_by(3).take(if n % 5 == 4 { 0 } else { n % 5 * 9 }).map(|v| v as u32));
        offsets.push(seen.len() as u32);
    }
    seen.extend([0; 3]);
    (offsets, seen)
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, n: usize, v: usize, d: usize| {
        let (offsets, seen) = histories(n, v);
        let case =
            Case::new(KERNELS[0], format!("{name}{n}x{v}x{d}")).constant("hidden", &[n, d], sixteenths(n * d, 37, 101));
        let case = case.constant("weight", &[v, d], sixteenths(v * d, 29, 43));
        case.ids("seen_offsets", &[n + 1], &offsets).ids("seen_items", &[seen.len()], &seen)
    };
    let some =
        |n: usize, v: u32| (0..n as u32).map(|i| if i % 6 == 1 { NONE } else { (i * 7) % v }).collect::<Vec<_>>();
    // Scores that are rounded, each several times: the target's is the same product in another place of another shape.
    let (wide_rows, wide_items, wide) = (200, 610, 600);
    let some_values = |len: usize, step: usize| (0..len).map(move |i| ((i * step) % 1009) as f32 / 997.0 - 0.5);
    let repeated = some_values(10 * wide, 7919).collect::<Vec<_>>().repeat(wide_items / 10);
    let (offsets, seen) = histories(wide_rows, wide_items);
    let wide_case = Case::new(KERNELS[0], "every score several times")
        .constant("hidden", &[wide_rows, wide], some_values(wide_rows * wide, 104_729).collect())
        .constant("weight", &[wide_items, wide], repeated)
        .random_ids("target", &[wide_rows], wide_items as u32);
    let wide_case = wide_case.ids("seen_offsets", &[wide_rows + 1], &offsets).ids("seen_items", &[seen.len()], &seen);
    let of_scores = |n: usize, v: usize| {
        let (offsets, seen) = histories(n, v);
        let case =
            Case::new(KERNELS[1], format!("scores {n}x{v}")).constant("scores", &[n, v], sixteenths(n * v, 37, 101));
        let case = case.ids("target", &[n], &some(n, v as u32)).ids("seen_offsets", &[n + 1], &offsets);
        case.ids("seen_items", &[seen.len()], &seen)
    };
    let equal = Case::new(KERNELS[0], "all scores equal").constant("hidden", &[3, 2], vec![1.0; 6]);
    let equal = equal.constant("weight", &[70, 2], vec![0.5; 140]).ids("target", &[3], &[0, 35, 69]);
    vec![
        case("", 1, 1, 1).ids("target", &[1], &[0]),
        case("", 2, 3, 3).ids("target", &[2], &[2, 0]),
        case("", 65, 130, 2).random_ids("target", &[65], 130),
        case("bias ", 63, 127, 64).constant("bias", &[127], sixteenths(127, 11, 53)).ids(
            "target",
            &[63],
            &some(63, 127),
        ),
        case("many rows ", 650, 300, 1).ids("target", &[650], &some(650, 290)).attr("items", 290),
        case("many items ", 3, 4300, 2).ids("target", &[3], &[4299, 0, 4096]),
        wide_case,
        equal.ids("seen_offsets", &[4], &[0, 1, 3, 4]).ids("seen_items", &[4], &[0, 34, 36, 68]),
        of_scores(1, 1),
        of_scores(65, 130),
        of_scores(3, 4300),
    ]
}
