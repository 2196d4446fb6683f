//! The divergence on the host's cores: the losses, their gradient, and both in one sweep.

use super::LinearKlDiv;
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::simd;
use crate::ops::matmul::{Matrix, gemm};
use crate::ops::tiles::{
    GROUPS, Gradients, LOWEST, Scorer, TILE, TILE_ITEMS, TILE_ROWS, TILE_STRIDE, chunks, gradient as tile_gradient,
    gradient_scratch, items_of_group, lane_rows, target_words,
};
use rayon::prelude::*;
use std::ops::Range;

/// Student and teachers.
pub(super) struct Problem<'a> {
    student: Scorer<'a>,
    teachers: Vec<Scorer<'a>>,
    rows: usize,
    items: usize,
    /// The scale of the logits.
    scale: f32,
}

impl<'a> Problem<'a> {
    /// Of an op whose inputs begin with those of the forward op.
    pub fn new(op: &LinearKlDiv, io: &CpuIo<'a>) -> Self {
        let scorer = |side: usize| {
            let (first, has_bias) = op.side(side);
            let bias = has_bias.then(|| io.inputs[first + 2].f());
            let (hidden, weight) = (io.inputs[first], io.inputs[first + 1]);
            Scorer { hidden: hidden.f(), weight: weight.f(), bias, width: hidden.width() }
        };
        let (rows, items) = (io.inputs[0].rows(), op.items(io.inputs[1].rows()));
        let teachers = (1..=op.teachers).map(scorer).collect();
        Problem { student: scorer(0), teachers, rows, items, scale: op.scale() as f32 }
    }

    fn sides(&self) -> usize {
        1 + self.teachers.len()
    }
}

/// The queries of a range of rows.
fn queries<'a>(scorer: &Scorer<'a>, rows: &Range<usize>) -> &'a [f32] {
    &scorer.hidden[rows.start * scorer.width..rows.end * scorer.width]
}

/// A row's loss, and the log-sum-exps of student and teacher.
fn finish(stats: &[f32]) -> (f32, [f32; 2]) {
    let &[max_s, max_t, sum_s, sum_t, difference, weighted] = stats else { unreachable!("six numbers") };
    let close = difference.abs() < 0.25 * sum_t;
    let log_ratio = if close { (difference / sum_t).ln_1p() } else { sum_s.ln() - sum_t.ln() };
    (log_ratio - weighted / sum_t, [max_s + sum_s.ln(), max_t + sum_t.ln()])
}

/// Numbers that a row carries from chunk to chunk: both maxima, `sum e^S`, `sum e^T`, `sum e^S - e^T`, `sum e^T x`.
const STATS: usize = 6;

/// Logits may rise so far above the maximum of the first chunk before sums are rescaled, which costs accuracy.
const HEADROOM: f32 = 30.0;

/// Takes a chunk of both logits into a row's numbers. The logits are used up.
fn fold_pair(stats: &mut [f32], s: &mut [f32], t: &mut [f32], scale: f32) {
    simd::scale(s, scale);
    simd::scale(t, scale);
    let shift = |before: f32, max: f32| if max > before + HEADROOM { max } else { before };
    let (max_s, max_t) = (shift(stats[0], simd::max(s)), shift(stats[1], simd::max(t)));
    if stats[3] > 0.0 && (max_s, max_t) != (stats[0], stats[1]) {
        let (rise_s, rise_t) = (max_s - stats[0], max_t - stats[1]);
        let (shrink_s, shrink_t) = ((-rise_s).exp(), (-rise_t).exp());
        stats[5] = (stats[5] + stats[3] * (rise_t - rise_s)) * shrink_t;
        stats[4] = stats[4] * shrink_s + stats[3] * (shrink_s - shrink_t);
        stats[2] *= shrink_s;
        stats[3] *= shrink_t;
    }
    (stats[0], stats[1]) = (max_s, max_t);
    let of_chunk = exponentials((max_s, max_t), s, t);
    stats[2..].iter_mut().zip(of_chunk).for_each(|(sum, x)| *sum += x);
}

/// `e^S` and `e^T` from logits over the temperature and their maxima; the chunk's part of all numbers but the maxima. The
/// student's place holds nothing of use afterwards.
fn exponentials((max_s, max_t): (f32, f32), s: &mut [f32], t: &mut [f32]) -> [f32; 4] {
    let mut x = [0.0; TILE_ITEMS];
    let x = &mut x[..s.len()];
    x.iter_mut().zip(s.iter().zip(t.iter())).for_each(|(x, (s, t))| *x = (s - max_s) - (t - max_t));
    let (sum_s, sum_t) = (simd::exp_sub_sum(s, max_s), simd::exp_sub_sum(t, max_t));
    let weighted = simd::dot(t, x);
    simd::axpy(-1.0, t, s);
    [sum_s, sum_t, simd::sum(s), weighted]
}

/// Scratch for a lane of `loss`: a tile of the student, one of a teacher, a row, and all rows' numbers.
fn lane_words(teachers: usize) -> usize {
    2 * TILE + TILE_ITEMS + teachers * STATS * TILE_ROWS
}

pub(super) fn loss_scratch(rows: usize, teachers: usize) -> usize {
    rows.div_ceil(lane_rows(rows)) * lane_words(teachers)
}

/// The loss of each teacher, `[N]`, and `lse[N, 1 + K]` behind them.
pub(super) fn loss(problem: &Problem, outputs: Vec<&mut [f32]>, scratch: &mut [f32]) {
    let Problem { student, teachers, rows, items, scale } = problem;
    let (rows, lane_len, count) = (*rows, lane_rows(*rows), teachers.len());
    // A lane's part of each output.
    let mut of_lanes: Vec<Vec<&mut [f32]>> = (0..rows.div_ceil(lane_len)).map(|_| Vec::new()).collect();
    for (k, output) in outputs.into_iter().enumerate() {
        let parts = output.chunks_mut(lane_len * if k < count { 1 } else { 1 + count });
        of_lanes.iter_mut().zip(parts).for_each(|(of_lane, part)| of_lane.push(part));
    }
    let lanes = scratch.par_chunks_mut(lane_words(count)).zip(of_lanes);
    lanes.enumerate().for_each(|(lane, (space, mut outputs))| {
        let (student_tile, space) = space.split_at_mut(TILE);
        let (teacher_tile, space) = space.split_at_mut(TILE);
        let (copy, all_stats) = space.split_at_mut(TILE_ITEMS);
        let lane = lane * lane_len..rows.min((lane + 1) * lane_len);
        for first in lane.clone().step_by(TILE_ROWS) {
            let block = first..lane.end.min(first + TILE_ROWS);
            let stats = &mut all_stats[..count * STATS * block.len()];
            let start = [LOWEST, LOWEST, 0.0, 0.0, 0.0, 0.0];
            stats.chunks_exact_mut(STATS).for_each(|row| row.copy_from_slice(&start));
            for chunk in chunks(0..*items) {
                student.tile(queries(student, &block), chunk.clone(), student_tile);
                for (teacher, stats) in teachers.iter().zip(stats.chunks_exact_mut(STATS * block.len())) {
                    teacher.tile(queries(teacher, &block), chunk.clone(), teacher_tile);
                    let tiles = student_tile.chunks_exact(TILE_STRIDE).zip(teacher_tile.chunks_exact_mut(TILE_STRIDE));
                    for (stats, (s, t)) in stats.chunks_exact_mut(STATS).zip(tiles) {
                        let copy = &mut copy[..chunk.len()];
                        copy.copy_from_slice(&s[..chunk.len()]);
                        fold_pair(stats, copy, &mut t[..chunk.len()], *scale);
                    }
                }
            }
            for (k, stats) in stats.chunks_exact(STATS * block.len()).enumerate() {
                for (row, stats) in (first - lane.start..).zip(stats.chunks_exact(STATS)) {
                    let (loss, [lse_s, lse_t]) = finish(stats);
                    outputs[k][row] = loss;
                    let lse = &mut outputs[count][row * (1 + count)..];
                    (lse[0], lse[k + 1]) = (lse_s, lse_t);
                }
            }
        }
    });
}

pub(super) fn separate_gradient_scratch(rows: usize, width: usize) -> usize {
    target_words(rows) + gradient_scratch(rows, width, TILE)
}

/// The gradient from `lse` and each teacher's `dloss[N]`, with logits made anew.
pub(super) fn gradient(problem: &Problem, lse: &[f32], dloss: &[&[f32]], gradients: Gradients, scratch: &mut [f32]) {
    let Problem { student, teachers, rows: count, items, scale } = problem;
    let sides = problem.sides();
    let (rows, scratch) = scratch.split_at_mut(target_words(*count));
    let rows: &mut [u32] = bytemuck::cast_slice_mut(&mut rows[..*count]);
    rows.iter_mut().zip(0..).for_each(|(row, n)| *row = n);
    tile_gradient(*student, (rows, *items, TILE), gradients, scratch, |rows, chunk, tile, teacher_tile| {
        let first = rows[0] as usize;
        for (&row, s) in rows.iter().zip(tile.chunks_exact_mut(TILE_STRIDE)) {
            let (s, row) = (&mut s[..chunk.len()], row as usize);
            let dloss = dloss.iter().map(|dloss| dloss[row]).sum::<f32>();
            simd::scale(s, *scale);
            simd::exp_sub_scale(s, lse[sides * row], dloss * scale);
        }
        for (k, (teacher, dloss)) in (1..).zip(teachers.iter().zip(dloss)) {
            teacher.tile(queries(teacher, &(first..first + rows.len())), chunk.clone(), teacher_tile);
            let tiles = tile.chunks_exact_mut(TILE_STRIDE).zip(teacher_tile.chunks_exact_mut(TILE_STRIDE));
            for (&row, (s, t)) in rows.iter().zip(tiles) {
                let (s, t, row) = (&mut s[..chunk.len()], &mut t[..chunk.len()], row as usize);
                simd::scale(t, *scale);
                simd::exp_sub_scale(t, lse[sides * row + k], dloss[row] * scale);
                simd::axpy(-1.0, t, s);
            }
        }
    });
}

/// Numbers of a row within a chunk, while logits are kept: those of `exponentials`, or the maximum.
const KEPT_STATS: usize = 4;

/// Words in which `together` keeps logits, if they are worth it: no more than twice what the gradients take. There are the
/// student's, the teachers' part of the gradient, and where there are several the logits of one teacher.
fn kept_words(rows: usize, width: usize, items: usize, teachers: usize) -> Option<usize> {
    let words = items.div_ceil(TILE_ITEMS) * TILE * if teachers > 1 { 3 } else { 2 };
    (words <= 2 * (rows + items) * width).then_some(words)
}

pub(super) fn together_scratch(rows: usize, width: usize, items: usize, teachers: usize) -> usize {
    let separate = loss_scratch(rows, teachers).max(separate_gradient_scratch(rows, width));
    let stats = items.div_ceil(TILE_ITEMS) * KEPT_STATS * TILE_ROWS;
    kept_words(rows, width, items, teachers).map_or(separate, |kept| kept + stats + GROUPS * TILE_ROWS * width)
}

/// Loss and gradient: from logits that are kept for a block of rows where that pays, else one after the other. `losses` are as
/// of `loss`.
pub(super) fn together(
    problem: &Problem,
    dloss: &[&[f32]],
    mut losses: Vec<&mut [f32]>,
    gradients: Gradients,
    scratch: &mut [f32],
) {
    let (width, count) = (problem.student.width, problem.teachers.len());
    let Some(kept) = kept_words(problem.rows, width, problem.items, count) else {
        loss(problem, losses.iter_mut().map(|output| &mut **output).collect(), scratch);
        return gradient(problem, losses[count], dloss, gradients, scratch);
    };
    let tiles = problem.items.div_ceil(TILE_ITEMS) * TILE;
    let (logits, rest) = scratch.split_at_mut(tiles);
    let (lessons, rest) = rest.split_at_mut(tiles);
    let (further, rest) = rest.split_at_mut(kept - 2 * tiles);
    let (stats, shares) = rest.split_at_mut(tiles / TILE * KEPT_STATS * TILE_ROWS);
    let Gradients { hidden: dhidden, weight: dweight, bias: mut dbias } = gradients;
    dweight[problem.items * width..].fill(0.0);
    dbias.iter_mut().for_each(|dbias| dbias.fill(0.0));
    for first in (0..problem.rows).step_by(TILE_ROWS) {
        let block = Block { problem, rows: first..problem.rows.min(first + TILE_ROWS) };
        let max_s = block.maxima(&problem.student, logits, stats);
        let mut student = [0.0; TILE_ROWS];
        for (k, teacher) in problem.teachers.iter().enumerate() {
            let own = if k == 0 { &mut *lessons } else { &mut *further };
            let max_t = block.maxima(teacher, own, stats);
            let sums = block.pairs(logits, own, (&max_s, &max_t), stats);
            let mut factors = [0.0; TILE_ROWS];
            for (n, row) in block.rows.clone().enumerate() {
                let [sum_s, sum_t, difference, weighted] = sums[n];
                let (value, lse) = finish(&[max_s[n], max_t[n], sum_s, sum_t, difference, weighted]);
                let of_row = problem.sides() * row;
                losses[k][row] = value;
                (losses[count][of_row], losses[count][of_row + k + 1]) = (lse[0], lse[1]);
                factors[n] = dloss[k][row] * problem.scale / sum_t;
                student[n] += dloss[k][row] * problem.scale / sum_s;
            }
            block.teach(lessons, (k > 0).then_some(&*further), &factors);
        }
        block.products((logits, lessons), (&max_s, &student), (dweight, dbias.as_deref_mut()), shares);
        let dhidden = &mut dhidden[block.rows.start * width..block.rows.end * width];
        dhidden.fill(0.0);
        let groups = problem.items.div_ceil(items_of_group(problem.items));
        let shares = shares.chunks_exact(TILE_ROWS * width).take(groups);
        shares.for_each(|share| simd::axpy(1.0, &share[..dhidden.len()], dhidden));
    }
}

/// Rows whose logits are kept, a tile for each chunk of items.
struct Block<'a> {
    problem: &'a Problem<'a>,
    rows: Range<usize>,
}

type OfRows<T> = [T; TILE_ROWS];

impl Block<'_> {
    /// A scorer's logits over the temperature, and the maximum of each row.
    fn maxima(&self, scorer: &Scorer, tiles: &mut [f32], stats: &mut [f32]) -> OfRows<f32> {
        let (items, scale) = (self.problem.items, self.problem.scale);
        let pieces = tiles.par_chunks_mut(TILE).zip(stats.par_chunks_mut(KEPT_STATS * TILE_ROWS)).enumerate();
        pieces.for_each(|(index, (tile, maxima))| {
            let chunk = index * TILE_ITEMS..items.min((index + 1) * TILE_ITEMS);
            scorer.tile(queries(scorer, &self.rows), chunk.clone(), tile);
            for (z, max) in tile.chunks_exact_mut(TILE_STRIDE).take(self.rows.len()).zip(maxima) {
                let z = &mut z[..chunk.len()];
                simd::scale(z, scale);
                *max = simd::max(z);
            }
        });
        let mut max = [LOWEST; TILE_ROWS];
        for maxima in stats.chunks_exact(KEPT_STATS * TILE_ROWS) {
            max[..self.rows.len()].iter_mut().zip(maxima).for_each(|(max, x)| *max = max.max(*x));
        }
        max
    }

    /// Makes `e^T` of a teacher's logits; each row's sums.
    fn pairs(
        &self,
        logits: &[f32],
        teacher: &mut [f32],
        (max_s, max_t): (&OfRows<f32>, &OfRows<f32>),
        stats: &mut [f32],
    ) -> OfRows<[f32; KEPT_STATS]> {
        let items = self.problem.items;
        let pairs = logits.par_chunks(TILE).zip(teacher.par_chunks_mut(TILE));
        let pieces = pairs.zip(stats.par_chunks_mut(KEPT_STATS * TILE_ROWS)).enumerate();
        pieces.for_each(|(index, ((s, t), stats))| {
            let len = TILE_ITEMS.min(items - index * TILE_ITEMS);
            let pairs = s.chunks_exact(TILE_STRIDE).zip(t.chunks_exact_mut(TILE_STRIDE));
            for (n, ((s, t), stats)) in pairs.zip(stats.chunks_exact_mut(KEPT_STATS)).take(self.rows.len()).enumerate()
            {
                let mut copy = [0.0; TILE_ITEMS];
                copy[..len].copy_from_slice(&s[..len]);
                stats.copy_from_slice(&exponentials((max_s[n], max_t[n]), &mut copy[..len], &mut t[..len]));
            }
        });
        let mut sums = [[0.0; KEPT_STATS]; TILE_ROWS];
        for stats in stats.chunks_exact(KEPT_STATS * TILE_ROWS) {
            for (sums, stats) in sums.iter_mut().zip(stats.chunks_exact(KEPT_STATS)).take(self.rows.len()) {
                sums.iter_mut().zip(stats).for_each(|(sum, x)| *sum += x);
            }
        }
        sums
    }

    /// Multiplies the lessons of the first teacher by a factor for each row, or adds so much of another's `e^T` to them.
    fn teach(&self, lessons: &mut [f32], further: Option<&[f32]>, factors: &OfRows<f32>) {
        let m = self.rows.len();
        lessons.par_chunks_mut(TILE).enumerate().for_each(|(index, tile)| {
            for ((n, row), factor) in tile.chunks_exact_mut(TILE_STRIDE).enumerate().zip(factors).take(m) {
                match further {
                    None => simd::scale(row, *factor),
                    Some(further) => {
                        simd::axpy(*factor, &further[index * TILE + n * TILE_STRIDE..][..TILE_STRIDE], row);
                    }
                }
            }
        });
    }

    /// Turns logits into `dz = student e^S - lessons`, adds to `dW` and `db`, and writes a share of `dH` per group of items.
    fn products(
        &self,
        (logits, lessons): (&mut [f32], &[f32]),
        (max_s, student): (&OfRows<f32>, &OfRows<f32>),
        (dweight, dbias): (&mut [f32], Option<&mut [f32]>),
        shares: &mut [f32],
    ) {
        let Problem { student: scorer, items, .. } = self.problem;
        let (m, width, group_items) = (self.rows.len(), scorer.width, items_of_group(*items));
        let (queries, is_first) = (Matrix::new(queries(scorer, &self.rows), width), self.rows.start == 0);
        let mut no_bias = [0.0; GROUPS];
        let (dbias, bias_len) = dbias.map_or((&mut no_bias[..], 1), |dbias| (&mut dbias[..*items], group_items));
        let group_words = group_items / TILE_ITEMS * TILE;
        let owned = dweight[..items * width].par_chunks_mut(group_items * width).zip(dbias.par_chunks_mut(bias_len));
        let logits = logits.par_chunks_mut(group_words).zip(lessons.par_chunks(group_words));
        let groups = logits.zip(owned).zip(shares.par_chunks_mut(TILE_ROWS * width));
        groups.enumerate().for_each(|(group, (((logits, lessons), (dweight, dbias)), share))| {
            let first = group * group_items;
            let tiles = logits.chunks_exact_mut(TILE).zip(lessons.chunks_exact(TILE));
            for ((index, (tile, lessons)), chunk) in
                tiles.enumerate().zip(chunks(first..(*items).min(first + group_items)))
            {
                let n = chunk.len();
                let rows = tile.chunks_exact_mut(TILE_STRIDE).zip(lessons.chunks_exact(TILE_STRIDE)).take(m);
                for (row, (dz, lessons)) in rows.enumerate() {
                    simd::exp_sub_scale(&mut dz[..n], max_s[row], student[row]);
                    simd::axpy(-1.0, &lessons[..n], &mut dz[..n]);
                    if bias_len > 1 {
                        simd::axpy(1.0, &dz[..n], &mut dbias[index * TILE_ITEMS..][..n]);
                    }
                }
                let (dz, dz_t) = (Matrix::new(tile, TILE_STRIDE), Matrix::transposed(tile, TILE_STRIDE));
                let dweight = &mut dweight[index * TILE_ITEMS * width..][..n * width];
                gemm((n, width, m), dz_t, queries, dweight, width, !is_first);
                gemm((m, width, n), dz, scorer.items(&chunk), share, width, index > 0);
            }
        });
    }
}
