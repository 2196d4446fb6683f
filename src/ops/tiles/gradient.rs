//! `dH = dz W`, `dW = dz^T H`, `db = column sums of dz`, where `dz` is made from scores a tile at a time.
//!
//! All parts of the rows work on one chunk of items at a time. A part owns its rows of `dH`, to which it adds chunk after
//! chunk; its share of the chunk's rows of `dW` is added to those of the other parts. So memory beyond the gradients is a
//! tile and a share per part, however many rows and items there are, and the sums do not depend on the threads.

use super::{Scorer, TILE, TILE_ITEMS, TILE_ROWS, TILE_STRIDE, chunks};
use crate::engine::exec::cpu::Out;
use crate::engine::exec::simd;
use crate::ops::matmul::{Matrix, gemm};
use rayon::prelude::*;
use std::ops::Range;

/// Parts of the rows: what may run at the same time.
const PARTS: usize = 8;

/// Rows of a part.
fn part_rows(rows: usize) -> usize {
    rows.div_ceil(PARTS).next_multiple_of(16).max(64)
}

/// What `gradient` writes, as tensors of the scorer's shapes.
pub struct Gradients<'a> {
    pub hidden: &'a mut [f32],
    pub weight: &'a mut [f32],
    pub bias: Option<&'a mut [f32]>,
}

impl<'a> Gradients<'a> {
    /// The outputs of an op: `dH`, `dW`, and `db` if there is a third.
    pub fn of(outputs: &'a mut [Out]) -> Self {
        let [hidden, weight, bias @ ..] = outputs else { unreachable!("inferred") };
        Gradients { hidden: hidden.f(), weight: weight.f(), bias: bias.first_mut().map(|bias| bias.f()) }
    }
}

/// Words of scratch for `gradient`; `extra` of them per part are handed to `to_dz`.
pub fn gradient_scratch(rows: usize, width: usize, extra: usize) -> usize {
    rows.div_ceil(part_rows(rows)) * part_words(width, extra)
}

/// Scratch of a part: a tile, shares of `dW` and `db` for a chunk of items, gathered queries.
fn part_words(width: usize, extra: usize) -> usize {
    TILE + TILE_ITEMS * (width + 1) + TILE_ROWS * width + extra
}

/// Some of the rows, with what they own.
struct Part<'a> {
    rows: &'a [u32],
    /// From the part's first row to the next part's; its `dH` is packed to the front until the end.
    dhidden: &'a mut [f32],
    tile: &'a mut [f32],
    dweight: &'a mut [f32],
    dbias: &'a mut [f32],
    gathered: &'a mut [f32],
    extra: &'a mut [f32],
}

/// The gradients over the given ascending rows and the first `items` rows of the table; zeros elsewhere.
/// `to_dz(rows, chunk, tile, extra)` turns a tile of scores into `dz`.
pub fn gradient(
    scorer: Scorer,
    (rows, items, extra): (&[u32], usize, usize),
    gradients: Gradients,
    scratch: &mut [f32],
    to_dz: impl Fn(&[u32], &Range<usize>, &mut [f32], &mut [f32]) + Sync,
) {
    let width = scorer.width;
    let Gradients { hidden: dhidden, weight: dweight, bias: mut dbias } = gradients;
    dweight[items * width..].fill(0.0);
    dbias.iter_mut().for_each(|dbias| dbias[items..].fill(0.0));
    let mut parts = cut(rows, width, extra, dhidden, scratch);
    for chunk in chunks(0..items) {
        let (with_bias, first) = (dbias.is_some(), chunk.start == 0);
        parts.par_iter_mut().for_each(|part| part.work(scorer, &chunk, (first, with_bias), &to_dz));
        let words = chunk.start * width..chunk.end * width;
        dweight[words].par_chunks_mut(32 * width).enumerate().for_each(|(block, dweight)| {
            dweight.fill(0.0);
            parts.iter().for_each(|part| simd::axpy(1.0, &part.dweight[block * 32 * width..], dweight));
        });
        if let Some(dbias) = &mut dbias {
            let dbias = &mut dbias[chunk];
            dbias.fill(0.0);
            parts.iter().for_each(|part| simd::axpy(1.0, part.dbias, dbias));
        }
    }
    parts.par_iter_mut().for_each(|part| part.spread(width));
}

/// The parts, with `dH` cut at the first row of each. Rows before the first get zeros.
fn cut<'a>(
    rows: &'a [u32],
    width: usize,
    extra: usize,
    mut dhidden: &'a mut [f32],
    mut scratch: &'a mut [f32],
) -> Vec<Part<'a>> {
    let first = rows.first().map_or(dhidden.len(), |&row| row as usize * width);
    dhidden.split_off_mut(..first).expect("rows exist").fill(0.0);
    let len = part_rows(rows.len());
    let part = |(index, own): (usize, &'a [u32])| {
        let end = rows.get((index + 1) * len).map_or(dhidden.len(), |&next| (next - own[0]) as usize * width);
        let mut take = |words: usize| scratch.split_off_mut(..words).expect("scratch as asked for");
        let [tile, dweight] = [TILE, TILE_ITEMS * width].map(&mut take);
        let [dbias, gathered, extra] = [TILE_ITEMS, TILE_ROWS * width, extra].map(take);
        let dhidden = dhidden.split_off_mut(..end).expect("rows ascend");
        Part { rows: own, dhidden, tile, dweight, dbias, gathered, extra }
    };
    rows.chunks(len).enumerate().map(part).collect()
}

impl Part<'_> {
    /// Takes a chunk of items into `dH`, and writes the part's shares of `dW` and `db`.
    fn work(
        &mut self,
        scorer: Scorer,
        chunk: &Range<usize>,
        (first, with_bias): (bool, bool),
        to_dz: &(impl Fn(&[u32], &Range<usize>, &mut [f32], &mut [f32]) + Sync),
    ) {
        let (n, width) = (chunk.len(), scorer.width);
        self.dbias.fill(0.0);
        let blocks = self.rows.chunks(TILE_ROWS).zip(self.dhidden.chunks_mut(TILE_ROWS * width));
        for (block, (rows, dhidden)) in blocks.enumerate() {
            let m = rows.len();
            let hidden = scorer.gather(rows, self.gathered);
            scorer.tile(hidden, chunk.clone(), self.tile);
            to_dz(rows, chunk, self.tile, self.extra);
            if with_bias {
                let dz = self.tile.chunks_exact(TILE_STRIDE).take(m);
                dz.for_each(|dz| simd::axpy(1.0, &dz[..n], self.dbias));
            }
            let (dz, dz_t) = (Matrix::new(self.tile, TILE_STRIDE), Matrix::transposed(self.tile, TILE_STRIDE));
            gemm((n, width, m), dz_t, Matrix::new(hidden, width), self.dweight, width, block > 0);
            gemm((m, width, n), dz, scorer.items(chunk), dhidden, width, !first);
        }
    }

    /// Moves the packed rows of `dH` to their places; zeros between them.
    fn spread(&mut self, width: usize) {
        let place = |row: u32| (row - self.rows[0]) as usize;
        let mut end = self.dhidden.len() / width;
        for (i, &row) in self.rows.iter().enumerate().rev() {
            let at = place(row);
            self.dhidden[(at + 1) * width..end * width].fill(0.0);
            self.dhidden.copy_within(i * width..(i + 1) * width, at * width);
            end = at;
        }
    }
}
