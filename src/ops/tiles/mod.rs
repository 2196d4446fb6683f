//! Scores `z = H W^T (+ b)` of queries against a catalogue, tile by tile: what cross-entropy, distillation, ranking and
//! top-k have in common. A tile stays in the cache of its core; on a GPU a chunk of scores stays below the scratch limit.

use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{GpuBuilder, Region};
use crate::engine::exec::simd;
use crate::engine::op::expect;
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::matmul::{Gemm, Matmul, Matrix, Sizes, gemm, gemm_gpu};
use rayon::prelude::*;
use std::ops::Range;

pub use crate::engine::tensor::NONE;
/// The score of what cannot be chosen; infinities are not portable.
pub const LOWEST: f32 = -1e30;

/// Most rows of a tile.
pub const TILE_ROWS: usize = 256;
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

/// Groups of items whose shares of a row's sums are added at the end, and parts of the rows within a group: what may
/// run at the same time. More groups would need more memory for shares of `dH`.
pub const ITEM_GROUPS: usize = 4;
pub const ROW_PARTS: usize = 2;

/// Items of one group, a multiple of the tile.
fn group_items(items: usize) -> usize {
    items.div_ceil(TILE_ITEMS).div_ceil(ITEM_GROUPS) * TILE_ITEMS
}

/// The chunks of one group.
pub fn chunks_of_group(group: usize, items: usize) -> impl Iterator<Item = Range<usize>> {
    let len = group_items(items);
    chunks(items.min(group * len)..items.min((group + 1) * len))
}

/// Rows of a part.
pub fn part_rows(rows: usize) -> usize {
    rows.div_ceil(ROW_PARTS).next_multiple_of(16).max(16)
}

/// The rows that have a target, in the first words of the scratch; and the rest of it.
pub fn with_target<'a>(target: &[u32], scratch: &'a mut [f32]) -> (&'a [u32], &'a mut [f32]) {
    let (list, rest) = scratch.split_at_mut(target.len());
    let list: &mut [u32] = bytemuck::cast_slice_mut(list);
    let mut len = 0;
    for (row, _) in target.iter().enumerate().filter(|(_, t)| **t != NONE) {
        list[len] = row as u32;
        len += 1;
    }
    (&list[..len], rest)
}

/// What `gradient` writes, as tensors of the scorer's shapes.
pub struct Gradients<'a> {
    pub hidden: &'a mut [f32],
    pub weight: &'a mut [f32],
    pub bias: Option<&'a mut [f32]>,
}

/// Words of scratch for `gradient`; `extra` of them per part are handed to `to_dz`.
pub fn gradient_scratch(rows: usize, width: usize, extra: usize) -> usize {
    ITEM_GROUPS * (rows * width + ROW_PARTS * gradient_lane(width, extra))
}

/// Scratch of one part of the rows: a tile, shares of `dweight` and `dbias` for its items, gathered queries.
fn gradient_lane(width: usize, extra: usize) -> usize {
    TILE + TILE_ITEMS * (width + 1) + TILE_ROWS * width + extra
}

/// `dH = dz W`, `dW = dz^T H`, `db = column sums of dz` over the given rows and the first `items` rows of the table;
/// zeros elsewhere. `to_dz(rows, chunk, tile, extra)` turns a tile of scores into `dz`.
pub fn gradient(
    scorer: Scorer,
    (rows, items, extra): (&[u32], usize, usize),
    gradients: Gradients,
    scratch: &mut [f32],
    to_dz: impl Fn(&[u32], &Range<usize>, &mut [f32], &mut [f32]) + Sync,
) {
    let (width, has_bias) = (scorer.width, gradients.bias.is_some());
    let (share_len, part, lane) = (gradients.hidden.len().max(1), part_rows(rows.len()), gradient_lane(width, extra));
    let (shares, lanes) = scratch.split_at_mut(ITEM_GROUPS * gradients.hidden.len());
    gradients.weight[items * width..].fill(0.0);
    let mut no_bias = [0.0; ITEM_GROUPS];
    let (dbias, bias_len) = match gradients.bias {
        Some(dbias) => {
            dbias[items..].fill(0.0);
            (dbias, group_items(items))
        }
        None => (&mut no_bias[..], 1),
    };
    let groups = lanes.par_chunks_mut(ROW_PARTS * lane).zip(shares.par_chunks_mut(share_len));
    let owned = gradients.weight[..items * width].par_chunks_mut(group_items(items) * width);
    let groups = groups.zip(owned).zip(dbias.par_chunks_mut(bias_len)).enumerate();
    groups.for_each(|(group, (((lanes, dhidden), dweight), dbias))| {
        for (i, chunk) in chunks_of_group(group, items).enumerate() {
            let parts = lanes.par_chunks_mut(lane).zip(dhidden.par_chunks_mut(part * width));
            parts.zip(rows.par_chunks(part)).for_each(|((lane, dhidden), rows)| {
                let (tile, rest) = lane.split_at_mut(TILE);
                let (dweight, rest) = rest.split_at_mut(TILE_ITEMS * width);
                let (dbias, rest) = rest.split_at_mut(TILE_ITEMS);
                let (gathered, extra) = rest.split_at_mut(TILE_ROWS * width);
                dbias.fill(0.0);
                let blocks = rows.chunks(TILE_ROWS).zip(dhidden.chunks_mut(TILE_ROWS * width)).enumerate();
                for (block, (rows, dhidden)) in blocks {
                    let (m, n) = (rows.len(), chunk.len());
                    let hidden = scorer.gather(rows, gathered);
                    scorer.tile(hidden, chunk.clone(), tile);
                    to_dz(rows, &chunk, tile, extra);
                    if has_bias {
                        tile.chunks_exact(TILE_STRIDE).take(m).for_each(|dz| simd::axpy(1.0, &dz[..n], dbias));
                    }
                    let (dz, dz_t) = (Matrix::new(tile, TILE_STRIDE), Matrix::transposed(tile, TILE_STRIDE));
                    gemm((n, width, m), dz_t, Matrix::new(hidden, width), dweight, width, block > 0);
                    gemm((m, width, n), dz, scorer.items(&chunk), dhidden, width, i > 0);
                }
            });
            // The parts' shares of this chunk's gradient, in order.
            let used = || lanes.chunks_exact(lane).take(rows.len().div_ceil(part));
            let dweight = &mut dweight[i * TILE_ITEMS * width..][..chunk.len() * width];
            dweight.fill(0.0);
            used().for_each(|lane| simd::axpy(1.0, &lane[TILE..], dweight));
            if has_bias {
                let dbias = &mut dbias[i * TILE_ITEMS..][..chunk.len()];
                dbias.fill(0.0);
                used().for_each(|lane| simd::axpy(1.0, &lane[TILE + TILE_ITEMS * width..], dbias));
            }
        }
    });
    // The groups' shares of each row's gradient, in order.
    let used = items.div_ceil(group_items(items));
    gradients.hidden.par_chunks_mut(TILE_ROWS * width).enumerate().for_each(|(block, dhidden)| {
        dhidden.fill(0.0);
        for (n, dhidden) in (block * TILE_ROWS..).zip(dhidden.chunks_exact_mut(width)) {
            if let Ok(i) = rows.binary_search(&(n as u32)) {
                let shares = shares.chunks_exact(share_len).take(used);
                shares.for_each(|share| simd::axpy(1.0, &share[i * width..(i + 1) * width], dhidden));
            }
        }
    });
}

/// Cuts rows into lanes that may run at the same time, each with its own scratch; a lane takes blocks of `TILE_ROWS`.
pub const LANES: usize = 8;

/// Rows of a lane.
pub fn lane_rows(rows: usize) -> usize {
    rows.div_ceil(LANES).next_multiple_of(64).max(64)
}

/// Scores whose bits depend on the query and the item alone, not on the batch or the place in it, so that ranks and
/// lists do not either: products always span whole tiles of items and 32 rows or more, the rest being zeros.
#[derive(Clone, Copy)]
pub struct SteadyScorer<'a> {
    scorer: Scorer<'a>,
    /// The last, incomplete chunk of items, padded.
    tail: Scorer<'a>,
}

impl<'a> SteadyScorer<'a> {
    /// Words of scratch for `new`.
    pub fn scratch(width: usize) -> usize {
        TILE_ITEMS * (width + 1)
    }

    pub fn new(scorer: Scorer<'a>, items: usize, scratch: &'a mut [f32]) -> Self {
        let last = items / TILE_ITEMS * TILE_ITEMS..items;
        let tail = scorer.gather_items(last.map(|item| item as u32), scratch);
        SteadyScorer { scorer, tail }
    }

    /// Queries `rows` with zeros behind them, as `tile` and `pairs` want them; `space` holds a block of rows.
    pub fn queries<'s>(&self, rows: Range<usize>, space: &'s mut [f32]) -> &'s [f32] {
        let words = rows.len() * self.scorer.width;
        let space = &mut space[..rows.len().next_multiple_of(32) * self.scorer.width];
        space[..words].copy_from_slice(&self.scorer.hidden[rows.start * self.scorer.width..][..words]);
        space[words..].fill(0.0);
        space
    }

    /// Scores of queries for one of the `chunks` of all items.
    pub fn tile(&self, queries: &[f32], chunk: &Range<usize>, tile: &mut [f32]) {
        match chunk.len() {
            TILE_ITEMS => self.scorer.tile(queries, chunk.clone(), tile),
            _ => self.tail.tile(queries, 0..TILE_ITEMS, tile),
        }
    }

    /// The score of each query for the item of its own, `NONE` giving anything: the diagonal of a whole tile.
    pub fn pairs(&self, queries: &[f32], items: &[u32], tile: &mut [f32], space: &mut [f32]) {
        self.scorer.gather_items(items.iter().copied(), space).tile(queries, 0..TILE_ITEMS, tile);
        for i in 0..items.len() {
            tile[i] = tile[i * TILE_STRIDE + i];
        }
    }
}

impl<'a> Scorer<'a> {
    /// A catalogue of one whole tile: the given items, then zeros.
    fn gather_items<'s>(&self, items: impl Iterator<Item = u32>, space: &'s mut [f32]) -> Scorer<'s>
    where
        'a: 's,
    {
        let (weight, bias) = space[..TILE_ITEMS * (self.width + 1)].split_at_mut(TILE_ITEMS * self.width);
        weight.fill(0.0);
        bias.fill(0.0);
        for (i, item) in items.enumerate().filter(|(_, item)| *item != NONE) {
            let item = item as usize;
            weight[i * self.width..][..self.width].copy_from_slice(&self.weight[item * self.width..][..self.width]);
            bias[i] = self.bias.map_or(0.0, |bias| bias[item]);
        }
        Scorer { hidden: self.hidden, weight, bias: self.bias.map(|_| &*bias), width: self.width }
    }
}

/// A row's history within a range of items; `seen` holds ascending items, row `n` from `offsets[n]` to `offsets[n + 1]`.
pub fn seen_within<'a>(offsets: &[u32], seen: &'a [u32], row: usize, items: &Range<usize>) -> &'a [u32] {
    let seen = &seen[offsets[row] as usize..offsets[row + 1] as usize];
    let from = seen.partition_point(|&item| (item as usize) < items.start);
    let to = seen.partition_point(|&item| (item as usize) < items.end);
    &seen[from..to]
}

/// Most items of a chunk on a GPU: enough to fill one, few enough for a test to have two.
const MOST_CHUNK: usize = 4096;

/// Scores on a GPU, a chunk of items at a time in scratch.
pub struct GpuChunks {
    /// Items per chunk, a multiple of 64: slices of tables then begin where bindings may begin.
    pub chunk: usize,
    items: usize,
    /// The input `hidden`; the table and its bias come behind it.
    hidden: usize,
    z: Region,
}

impl GpuChunks {
    pub fn new(builder: &mut GpuBuilder, items: usize) -> Self {
        let (rows, width) = (builder.inputs[0].rows(), builder.inputs[1].width());
        let limits = builder.limits;
        let most = (limits.scratch_words / rows.max(1)).min(limits.binding_words / width.max(1));
        let chunk = (most / 64 * 64).clamp(64, items.next_multiple_of(64).min(MOST_CHUNK));
        let z = builder.scratch(rows * chunk);
        GpuChunks { chunk, items, hidden: 0, z }
    }

    /// Chunks of the same items for another scorer, whose inputs begin at `hidden`.
    pub fn beside(&self, builder: &mut GpuBuilder, hidden: usize) -> Self {
        let z = builder.scratch(self.z.len);
        GpuChunks { hidden, z, ..*self }
    }

    /// Calls `each(builder, first, len)` for every chunk. The chunks share the scratch that the calls take.
    pub fn each(
        &self,
        builder: &mut GpuBuilder,
        mut each: impl FnMut(&mut GpuBuilder, usize, usize) -> Result<()>,
    ) -> Result<()> {
        let shared = builder.scratch_words.len();
        let mut most: Vec<usize> = Vec::new();
        let mut first = 0;
        while first < self.items {
            let rest = self.items - first;
            // An odd width keeps products from moving four words at a time: the odd end of a long chunk goes alone.
            let len = if rest >= 1024 && !rest.is_multiple_of(4) { rest / 64 * 64 } else { rest };
            let len = len.min(self.chunk);
            each(builder, first, len)?;
            first += len;
            for (i, words) in builder.scratch_words.drain(shared..).enumerate() {
                most.resize(most.len().max(i + 1), 0);
                most[i] = most[i].max(words);
            }
        }
        builder.scratch_words.extend(most);
        Ok(())
    }

    /// Appends the product that makes `z[N, len]` for the items from `first` on.
    pub fn scores(&self, builder: &mut GpuBuilder, first: usize, len: usize, has_bias: bool) -> Result<Region> {
        let (rows, width) = (builder.inputs[self.hidden].rows(), builder.inputs[self.hidden].width());
        let z = self.z.slice(0, rows * len);
        let weight = builder.input(self.hidden + 1).slice(first * width, len * width);
        let bias = has_bias.then(|| builder.input(self.hidden + 2).slice(first, len));
        let sizes = Sizes { batch: 1, m: rows, n: len, k: width };
        let product = Gemm::new(Matmul::NT, sizes, builder.input(self.hidden), weight, z);
        gemm_gpu(builder, Gemm { bias, split_k: false, ..product })?;
        Ok(z)
    }

    /// Appends `dH (+)= dz W` (output 0) and `dW = dz^T H` (output 1) for the items from `first` on.
    pub fn products(&self, builder: &mut GpuBuilder, dz: Region, first: usize, len: usize) -> Result<()> {
        let (rows, width) = (builder.inputs[self.hidden].rows(), builder.inputs[self.hidden].width());
        let (hidden, dhidden) = (builder.input(self.hidden), builder.output(0));
        let (weight, dweight) = (builder.input(self.hidden + 1), builder.output(1));
        let slice = |table: Region| table.slice(first * width, len * width);
        let sizes = Sizes { batch: 1, m: len, n: width, k: rows };
        gemm_gpu(builder, Gemm::new(Matmul::TN, sizes, dz, hidden, slice(dweight)))?;
        let sizes = Sizes { batch: 1, m: rows, n: width, k: len };
        let product = Gemm::new(Matmul::NN, sizes, dz, slice(weight), dhidden);
        gemm_gpu(builder, Gemm { accumulate: first > 0, ..product })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_do_not_depend_on_the_batch() {
        for width in [1, 2, 63, 64, 300] {
            let (rows, items) = (200, 300);
            let data = |len: usize| (0..len).map(|i| ((i * 7919) % 10_007) as f32 / 5000.0 - 1.0).collect::<Vec<f32>>();
            let (hidden, weight) = (data(rows * width), data(items * width));
            let scorer = Scorer { hidden: &hidden, weight: &weight, bias: None, width };
            let mut tail = vec![0.0; SteadyScorer::scratch(width)];
            let steady = SteadyScorer::new(scorer, items, &mut tail);
            let (mut space, mut all, mut one) = (vec![0.0; TILE_ROWS * width], vec![0.0; TILE], vec![0.0; TILE]);
            for chunk in chunks(0..items) {
                steady.tile(steady.queries(0..rows, &mut space), &chunk, &mut all);
                for row in [0, 1, 130, 199] {
                    steady.tile(steady.queries(row..row + 1, &mut space), &chunk, &mut one);
                    let alone = &one[..chunk.len()];
                    assert_eq!(alone, &all[row * TILE_STRIDE..][..chunk.len()], "width {width}, row {row}, {chunk:?}");
                    let (item, mut pair, mut table) =
                        (chunk.end - 1, vec![0.0; TILE], vec![0.0; SteadyScorer::scratch(width)]);
                    let query = steady.queries(row..row + 1, &mut space);
                    steady.pairs(query, &[item as u32], &mut pair, &mut table);
                    assert_eq!(pair[0], alone[chunk.len() - 1], "width {width}, the pair ({row}, {item})");
                }
            }
        }
    }
}
