//! InfoNCE on the host's cores: logits of up to 512 rows at a time, a block of 128 per worker.
//!
//! Two views of up to 512 rows in all have all their logits there at once: those below the diagonal are copied from above it
//! where rows are wide, and the gradient takes over what the forward pass has computed.

use super::{InfoNce, InfoNceGradient, Pairing};
use crate::engine::exec::simd;
use crate::ops::matmul::{Matrix, gemm, transpose_columns};
use rayon::prelude::*;

/// Rows of logits that one worker computes.
const ROWS: usize = 128;
/// From this width on a logit is copied from its mirror image rather than computed.
const COPIED_WIDTH: usize = 128;
/// Rows of logits that are there at a time.
const WAVE: usize = 4 * ROWS;

/// Which rows are compared with which: `a[N, D]` with `b[N, D]`.
#[derive(Clone, Copy)]
pub struct Problem<'a> {
    pub op: InfoNce,
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub n: usize,
    pub width: usize,
}

/// Scratch of a problem with `n` rows of `width`.
pub fn scratch(n: usize, width: usize) -> usize {
    n * width + WAVE.min(n) * n + n * n.div_ceil(ROWS).min(WAVE / ROWS)
}

/// The areas of the scratch.
struct Areas<'s> {
    /// `b` by columns: laid out once, not for every block of logits.
    keys: Matrix<'s>,
    logits: &'s mut [f32],
    /// A row for each worker.
    spare: &'s mut [f32],
}

/// What the forward pass gives for each row.
pub struct Losses<'a> {
    pub rows: &'a mut [f32],
    pub lse: &'a mut [f32],
}

impl<'a> Problem<'a> {
    fn areas<'s>(&self, scratch: &'s mut [f32]) -> Areas<'s> {
        const COLUMNS: usize = 64;
        let n = self.n;
        let (keys, rest) = scratch.split_at_mut(n * self.width);
        let (logits, spare) = rest.split_at_mut(WAVE.min(n) * n);
        let blocks = keys.par_chunks_mut(COLUMNS * n).enumerate();
        blocks.for_each(|(block, keys)| transpose_columns(self.b, self.width, block * COLUMNS, keys, n));
        Areas { keys: Matrix::new(keys, n), logits, spare }
    }

    /// `logits[rows, N] = scale a b^T` for the rows from `first` on, as many as there is room for.
    fn logits(&self, keys: Matrix, first: usize, logits: &mut [f32]) {
        let Problem { op, a, n, width, .. } = *self;
        let symmetric = op.pairing == Pairing::TwoViews && logits.len() == n * n && width >= COPIED_WIDTH;
        logits.par_chunks_mut(ROWS * n).enumerate().for_each(|(block, logits)| {
            let (row, rows) = (first + block * ROWS, logits.len() / n);
            let column = if symmetric { row } else { 0 };
            let keys = Matrix { data: &keys.data[column..], ..keys };
            gemm(
                (rows, n - column, width),
                Matrix::new(&a[row * width..], width),
                keys,
                &mut logits[column..],
                n,
                false,
            );
            logits.chunks_exact_mut(n).for_each(|row| simd::scale(&mut row[column..], op.scale as f32));
        });
        if symmetric {
            for row in (ROWS..n).step_by(ROWS) {
                let (above, rows) = logits.split_at_mut(row * n);
                transpose_columns(above, n, row, &mut rows[..ROWS.min(n - row) * n], n);
            }
        }
    }

    /// Losses and lse of the rows from `first` on. The logit of a row with itself becomes -1e30 where it does not count.
    fn losses(&self, first: usize, logits: &mut [f32], losses: Losses) {
        let (n, pairing) = (self.n, self.op.pairing);
        let rows = losses.rows.par_iter_mut().zip(losses.lse).zip(logits.par_chunks_exact_mut(n)).enumerate();
        rows.with_min_len(ROWS).for_each(|(index, ((loss, lse), logits))| {
            let i = first + index;
            let partner = logits[pairing.partner(i, n)];
            if pairing.excludes(i, i) {
                logits[i] = -1e30;
            }
            let max = simd::max(logits);
            let log_sum = simd::sum_exp_sub(logits, max).ln();
            (*loss, *lse) = ((max - partner) + log_sum, max + log_sum);
        });
    }

    /// The gradient of the rows of `a` from `first` on; the logits are used up.
    fn gradient(&self, by: InfoNceGradient, first: usize, areas: &mut Areas, saved: Saved, da: &mut [f32]) {
        let Problem { b, n, width, .. } = *self;
        let Saved { lse, c } = saved;
        let blocks = areas.logits.par_chunks_mut(ROWS * n).zip(areas.spare.par_chunks_mut(n));
        blocks.zip(da.par_chunks_mut(ROWS * width)).enumerate().for_each(|(block, ((logits, spare), da))| {
            let (first, rows) = (first + block * ROWS, da.len() / width);
            let logits = &mut logits[..rows * n];
            for (i, row) in (first..).zip(logits.chunks_exact_mut(n)) {
                by.factors_cpu(i, row, lse, spare);
            }
            gemm((rows, width, n), Matrix::new(logits, n), Matrix::new(b, width), da, width, false);
            simd::scale(da, c);
        });
    }
}

/// What the gradient reads.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    pub lse: &'a [f32],
    /// `dloss scale / N`
    pub c: f32,
}

/// `loss`, and the losses and lse of all rows.
pub fn forward(problem: Problem, scratch: &mut [f32], loss: &mut [f32], losses: Losses) {
    let (areas, n) = (problem.areas(scratch), problem.n);
    let Losses { rows, lse } = losses;
    for (wave, (rows, lse)) in rows.chunks_mut(WAVE).zip(lse.chunks_mut(WAVE)).enumerate() {
        let logits = &mut areas.logits[..rows.len() * n];
        problem.logits(areas.keys, wave * WAVE, logits);
        problem.losses(wave * WAVE, logits, Losses { rows, lse });
    }
    mean(rows, loss);
}

/// `da`
pub fn gradient(problem: Problem, by: InfoNceGradient, scratch: &mut [f32], saved: Saved, da: &mut [f32]) {
    let mut areas = problem.areas(scratch);
    for (wave, da) in da.chunks_mut(WAVE * problem.width).enumerate() {
        let rows = da.len() / problem.width;
        problem.logits(areas.keys, wave * WAVE, &mut areas.logits[..rows * problem.n]);
        problem.gradient(by, wave * WAVE, &mut areas, saved, da);
    }
}

/// Both. Logits are computed once where all of them are there at a time.
pub fn together(
    problem: Problem,
    by: InfoNceGradient,
    scratch: &mut [f32],
    (loss, losses): (&mut [f32], Losses),
    (c, da): (f32, &mut [f32]),
) {
    let Losses { rows, lse } = losses;
    if problem.n > WAVE {
        forward(problem, scratch, loss, Losses { rows, lse });
        return gradient(problem, by, scratch, Saved { lse, c }, da);
    }
    let mut areas = problem.areas(scratch);
    problem.logits(areas.keys, 0, areas.logits);
    problem.losses(0, areas.logits, Losses { rows, lse });
    mean(rows, loss);
    problem.gradient(by, 0, &mut areas, Saved { lse, c }, da);
}

fn mean(rows: &[f32], loss: &mut [f32]) {
    let sum: f64 = rows.iter().map(|x| f64::from(*x)).sum();
    loss[0] = (sum / rows.len() as f64) as f32;
}
