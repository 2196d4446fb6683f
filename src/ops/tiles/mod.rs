//! Scores `z = H W^T (+ b)` of queries against a catalogue, tile by tile: what cross-entropy, distillation, ranking and
//! top-k have in common. A tile stays in the cache of its core; on a GPU a chunk of scores stays below the scratch limit.

use crate::engine::exec::cpu::CpuIo;
use crate::engine::op::expect;
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::matmul::{Matrix, gemm};
use std::ops::Range;

mod gpu;
mod gradient;
mod steady;

pub use crate::engine::tensor::{LOWEST, NONE};
pub use gpu::{GpuChunks, item_ranges};
pub use gradient::{Gradients, gradient, gradient_scratch};
pub use steady::SteadyScorer;

/// Most rows of a tile.
pub const TILE_ROWS: usize = 128;
/// Most items of a tile.
pub const TILE_ITEMS: usize = 256;
/// Words from one row of a tile to the next. Not a power of two: else a column would fall on few sets of the cache.
pub const TILE_STRIDE: usize = TILE_ITEMS + 16;
/// Words of a tile.
pub const TILE: usize = TILE_ROWS * TILE_STRIDE;

/// Checks `hidden[N, D]`, `weight[V, D]` and the bias, if there is one.
pub fn check(op: &str, inputs: &[&TensorType], bias: Option<&TensorType>, items: Option<usize>) -> Result<()> {
    let (hidden, weight) = (inputs[0], inputs[1]);
    let fits = hidden.shape.len() == 2 && weight.shape.len() == 2 && hidden.width() == weight.width();
    expect(op, fits, || format!("hidden is {hidden}, weight is {weight}; both must end in the same width"))?;
    if let Some(bias) = bias {
        expect(op, bias.len() == weight.rows(), || format!("bias is {bias}, weight is {weight}"))?;
    }
    let items = items.unwrap_or(weight.rows());
    expect(op, (1..=weight.rows()).contains(&items), || format!("{items} items, but weight is {weight}"))
}

/// The score of an item, in f64.
pub fn reference_score(hidden: &Array, weight: &Array, bias: Option<&Array>, row: usize, item: usize) -> f64 {
    let products = hidden.row(row).iter().zip(weight.row(item)).map(|(h, w)| h * w);
    products.sum::<f64>() + bias.map_or(0.0, |bias| bias.f()[item])
}

/// Queries and a catalogue in host memory.
#[derive(Clone, Copy)]
pub struct Scorer<'a> {
    pub hidden: &'a [f32],
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub width: usize,
}

impl<'a> Scorer<'a> {
    /// Of an op whose inputs are `hidden`, `weight`, (`bias`), ...
    pub fn new(io: &CpuIo<'a>, has_bias: bool) -> Self {
        let bias = has_bias.then(|| io.inputs[2].f());
        Scorer { hidden: io.inputs[0].f(), weight: io.inputs[1].f(), bias, width: io.inputs[0].width() }
    }

    /// The queries of ascending `rows`, as they lie or copied to `space`.
    pub fn gather<'s>(&'s self, rows: &[u32], space: &'s mut [f32]) -> &'s [f32] {
        let (first, last) = (rows[0] as usize, rows[rows.len() - 1] as usize);
        if last - first + 1 == rows.len() {
            return &self.hidden[first * self.width..(last + 1) * self.width];
        }
        for (to, &row) in space.chunks_exact_mut(self.width).zip(rows) {
            to.copy_from_slice(&self.hidden[row as usize * self.width..][..self.width]);
        }
        &space[..rows.len() * self.width]
    }

    /// The table's rows of a range of items.
    pub fn items(&self, items: &Range<usize>) -> Matrix<'a> {
        Matrix::new(&self.weight[items.start * self.width..items.end * self.width], self.width)
    }

    /// Scores of queries (`[rows, D]`) for a range of items.
    pub fn tile(&self, queries: &[f32], items: Range<usize>, tile: &mut [f32]) {
        let rows = queries.len() / self.width;
        if let Some(bias) = self.bias {
            let rows = tile.chunks_exact_mut(TILE_STRIDE).take(rows);
            rows.for_each(|row| row[..items.len()].copy_from_slice(&bias[items.clone()]));
        }
        let weight = Matrix { row_stride: 1, column_stride: self.width, ..self.items(&items) };
        let sizes = (rows, items.len(), self.width);
        gemm(sizes, Matrix::new(queries, self.width), weight, tile, TILE_STRIDE, self.bias.is_some());
    }
}

/// Consecutive ranges of items, `TILE_ITEMS` each but the last.
pub fn chunks(items: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    items.clone().step_by(TILE_ITEMS).map(move |first| first..items.end.min(first + TILE_ITEMS))
}

/// Groups of items that may run at the same time where a block of rows keeps its logits, each with a share of the block's `dH`.
pub const GROUPS: usize = 8;

/// Items of such a group; whole chunks.
pub fn items_of_group(items: usize) -> usize {
    items.div_ceil(TILE_ITEMS).div_ceil(GROUPS) * TILE_ITEMS
}

/// Words of scratch that `with_target` takes: whole lines of the cache, so that the rest begins on one.
pub fn target_words(rows: usize) -> usize {
    rows.next_multiple_of(16)
}

/// The rows that have a target, in the first words of the scratch; and the rest of it.
pub fn with_target<'a>(target: &[u32], scratch: &'a mut [f32]) -> (&'a [u32], &'a mut [f32]) {
    let (list, rest) = scratch.split_at_mut(target_words(target.len()));
    let list: &mut [u32] = bytemuck::cast_slice_mut(list);
    let mut len = 0;
    for (row, _) in target.iter().enumerate().filter(|(_, t)| **t != NONE) {
        list[len] = row as u32;
        len += 1;
    }
    (&list[..len], rest)
}

/// Cuts rows into lanes that may run at the same time, each with its own scratch; a lane takes blocks of `TILE_ROWS`.
pub const LANES: usize = 8;

/// Rows of a lane.
pub fn lane_rows(rows: usize) -> usize {
    rows.div_ceil(LANES).next_multiple_of(64).max(TILE_ROWS)
}

/// A row's history within a range of items; `seen` holds ascending items, row `n` from `offsets[n]` to `offsets[n + 1]`.
pub fn seen_within<'a>(offsets: &[u32], seen: &'a [u32], row: usize, items: &Range<usize>) -> &'a [u32] {
    let seen = &seen[offsets[row] as usize..offsets[row + 1] as usize];
    let from = seen.partition_point(|&item| (item as usize) < items.start);
    let to = seen.partition_point(|&item| (item as usize) < items.end);
    &seen[from..to]
}
