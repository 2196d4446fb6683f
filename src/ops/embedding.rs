//! `y_n = table[ids_n]`: item and position embeddings, and the gather of chosen rows of hidden states. An id of
//! `u32::MAX` gives zeros.
//!
//! Gradient without atomics: the host groups the places of equal ids into *segments* (a stable counting sort), so that
//! every row of the table has one owner who sums `dtable_v = sum_{n: ids_n = v} dy_n` in the order of `n`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, Access::Write, GpuBuilder, GpuLimits};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, DType, NONE, Tensor, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;
use std::ops::Range;

/// Inputs `table[V, D]`, `ids[..]`, `segments` of those ids (may be left out when the table is not differentiated);
/// output `y[.., D]`. The row `padding_idx` is read as it is and gets no gradient.
#[derive(Clone, Copy, Debug, Default)]
pub struct Embedding {
    pub padding_idx: Option<u32>,
}

/// Words of the segments of `n` ids.
pub fn segments_len(n: usize) -> usize {
    3 * n + 2
}

/// Groups the places `0..N` of `ids` by id, without `padding_idx` and `NONE`:
/// `[count U, places in order of (id, place) (N), starts (N + 1; U + 1 in use), ids (N; U in use, ascending)]`.
pub fn segments(ids: &[u32], padding_idx: Option<u32>) -> Tensor {
    let n = ids.len();
    let mut words = vec![0; segments_len(n)];
    let (count, lists) = words.split_at_mut(1);
    let (places, lists) = lists.split_at_mut(n);
    let (starts, unique) = lists.split_at_mut(n + 1);
    let mut order: Vec<u64> = (ids.iter().zip(0u64..))
        .filter(|&(&id, _)| id != NONE && Some(id) != padding_idx)
        .map(|(&id, place)| u64::from(id) << 32 | place)
        .collect();
    order.sort_unstable();
    for (i, key) in order.iter().enumerate() {
        let id = (key >> 32) as u32;
        places[i] = *key as u32;
        if i == 0 || unique[count[0] as usize - 1] != id {
            starts[count[0] as usize] = i as u32;
            unique[count[0] as usize] = id;
            count[0] += 1;
        }
    }
    starts[count[0] as usize] = order.len() as u32;
    Tensor::u32(&[segments_len(n)], &words)
}

/// Segments as they are read back.
#[derive(Clone, Copy)]
struct Segments<'a> {
    places: &'a [u32],
    starts: &'a [u32],
    ids: &'a [u32],
}

impl<'a> Segments<'a> {
    fn new(words: &'a [u32]) -> Self {
        let (n, count) = ((words.len() - 2) / 3, words[0] as usize);
        Segments { places: &words[1..=n], starts: &words[n + 1..][..count + 1], ids: &words[2 * n + 2..][..count] }
    }

    /// The segments of the table rows `rows`: each id with its places.
    fn of_rows(self, rows: Range<usize>) -> impl Iterator<Item = (usize, &'a [u32])> {
        let first = self.ids.partition_point(|&id| (id as usize) < rows.start);
        let last = self.ids.partition_point(|&id| (id as usize) < rows.end);
        let places = move |s: usize| &self.places[self.starts[s] as usize..self.starts[s + 1] as usize];
        (first..last).map(move |s| (self.ids[s] as usize, places(s)))
    }
}

/// Row ranges of a table of `rows` rows whose words fit one binding and whose borders are 256-byte aligned.
fn table_chunks(rows: usize, width: usize, limits: GpuLimits) -> impl Iterator<Item = Range<usize>> {
    let fitting = limits.binding_words / width.max(1);
    let chunk = if fitting >= rows { rows } else { (fitting / 64 * 64).max(64) };
    (0..rows).step_by(chunk.max(1)).map(move |first| first..(first + chunk).min(rows))
}

const ROW_BLOCK: usize = 256;

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let [table, ids] = [inputs[0], inputs[1]];
        let fits = table.shape.len() == 2 && ids.dtype == DType::U32;
        expect("embedding", fits, || format!("table is {table}, ids are {ids}; expected f32[V, D] and u32"))?;
        let segmented = inputs.get(2).is_none_or(|s| s.len() == segments_len(ids.len()));
        expect("embedding", segmented, || format!("segments are {}, ids are {ids}", inputs[2]))?;
        let mut shape = ids.shape.clone();
        shape.push(table.width());
        Ok(vec![TensorType::f32(&shape)])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let width = inputs[0].width();
        for (n, &id) in inputs[1].u().iter().enumerate().filter(|(_, id)| **id != NONE) {
            outputs[0].f_mut()[n * width..][..width].copy_from_slice(inputs[0].row(id as usize));
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (table, width, ids) = (io.inputs[0].f(), io.inputs[0].width(), io.inputs[1].u());
        let blocks = io.outputs[0].f().par_chunks_mut(ROW_BLOCK * width).zip(ids.par_chunks(ROW_BLOCK));
        blocks.for_each(|(y, ids)| {
            for (y, &id) in y.chunks_exact_mut(width).zip(ids) {
                match id {
                    NONE => y.fill(0.0),
                    id => y.copy_from_slice(&table[id as usize * width..][..width]),
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) -> Result<()> {
        let (rows, width, n) = (b.inputs[0].shape[0], b.inputs[0].width(), b.inputs[1].len());
        for chunk in table_chunks(rows, width, b.limits) {
            let table = b.input(0).slice(chunk.start * width, chunk.len() * width);
            // Every chunk writes its rows; the first also the zeros of missing ids.
            let access = if chunk.len() == rows { Write } else { Update };
            let bindings = [(table, Read), (b.input(1), Read), (b.output(0), access)];
            let params = [(n * width).into(), width.into(), chunk.start.into(), chunk.len().into()];
            b.dispatch(shader!("embedding"), &[], &bindings, &params, (n * width).div_ceil(64))?;
        }
        Ok(())
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        if !vjp.needs(0) {
            return Ok(());
        }
        expect("embedding", vjp.n_inputs() == 3, || "the gradient of the table wants the segments of the ids".into())?;
        let rows = vjp.ty(vjp.input(0)).shape[0];
        let partial = vjp.take_partial(0);
        let op = EmbeddingGradient { rows, padding_idx: self.padding_idx, accumulate: partial.is_some() };
        let inputs: Vec<_> = partial.into_iter().chain([vjp.input(1), vjp.input(2), dy]).collect();
        let total = vjp.add(op, &inputs)?[0];
        vjp.accumulate(0, total)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: 0, bytes: 4 * (inputs[1].len() + 2 * outputs[0].len()) as u64 }
    }
}

/// Inputs: the gradient gathered so far `[V, D]` when `accumulate`, then `ids`, `segments`, `dy[.., D]`; output
/// `dtable[V, D]`. With `accumulate` only the rows of the segments are touched, in place; else all rows are written.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingGradient {
    pub rows: usize,
    pub padding_idx: Option<u32>,
    pub accumulate: bool,
}

impl EmbeddingGradient {
    fn ids_at(&self) -> usize {
        usize::from(self.accumulate)
    }
}

impl Op for EmbeddingGradient {
    fn name(&self) -> &'static str {
        "embedding_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::f32(&[self.rows, inputs[self.ids_at() + 2].width()])])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        if self.accumulate { &[(0, 0)] } else { &[] }
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (ids, dy) = (inputs[self.ids_at()].u(), inputs[self.ids_at() + 2]);
        for (n, &id) in ids.iter().enumerate() {
            if id != NONE && Some(id) != self.padding_idx {
                let row = &mut outputs[0].f_mut()[id as usize * dy.width()..][..dy.width()];
                row.iter_mut().zip(dy.row(n)).for_each(|(sum, dy)| *sum += dy);
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let segments = Segments::new(io.inputs[self.ids_at() + 1].u());
        let dy = io.inputs[self.ids_at() + 2];
        let width = dy.width();
        let block = (self.rows / 64).clamp(1, ROW_BLOCK);
        io.outputs[0].f().par_chunks_mut(block * width).enumerate().for_each(|(index, rows)| {
            if !self.accumulate {
                rows.fill(0.0);
            }
            let first = index * block;
            for (id, places) in segments.of_rows(first..first + rows.len() / width) {
                let sum = &mut rows[(id - first) * width..][..width];
                for &n in places {
                    simd::axpy(1.0, &dy.f()[n as usize * width..][..width], sum);
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) -> Result<()> {
        let (segments, dy) = (b.input(self.ids_at() + 1), b.input(self.ids_at() + 2));
        let (n, width) = (b.inputs[self.ids_at()].len(), b.outputs[0].width());
        for chunk in table_chunks(self.rows, width, b.limits) {
            let len = chunk.len() * width;
            let table = b.output(0).slice(chunk.start * width, len);
            if !self.accumulate {
                b.dispatch(shader!("fill"), &[], &[(table, Write)], &[len.into(), 0.0.into()], len.div_ceil(64))?;
            }
            let bindings = [(segments, Read), (dy, Read), (table, Update)];
            let params = [n.into(), width.into(), chunk.start.into(), chunk.len().into()];
            b.dispatch(shader!("embedding_gradient"), &[], &bindings, &params, (n * width).div_ceil(64))?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let (dy, table) = (inputs[self.ids_at() + 2].len(), outputs[0].len());
        Cost { flops: dy as u64, bytes: 4 * (if self.accumulate { 3 * dy } else { dy + table }) as u64 }
    }
}

pub const KERNELS: &[Kernel] = &[("embedding", build)];

fn build(b: &mut Builder) -> Result<()> {
    let padding_idx = b.optional_f64("padding_idx").map(|id| id as u32);
    let (table, ids) = (b.input("table")?, b.u32s("ids")?);
    let segments = b.feed("segments", segments(&ids, padding_idx));
    let ids = b.input("ids")?;
    let y = b.graph.add1(Embedding { padding_idx }, &[table, ids, segments])?;
    b.output("y", y);
    if b.has("more_ids") {
        // A second use of the table: its gradient is added to the first one's in place.
        let more = b.u32s("more_ids")?;
        let segments = b.feed("more_segments", self::segments(&more, None));
        let more = b.input("more_ids")?;
        let y = b.graph.add1(Embedding::default(), &[table, more, segments])?;
        b.output("more_y", y);
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name: &str, rows: usize, width: usize| Case::new(KERNELS[0], name).normal("table", &[rows, width], 1.0);
    let none = NONE;
    vec![
        case("one id", 1, 1).ids("ids", &[1], &[0]),
        case("63x65 of 130", 130, 65).random_ids("ids", &[63], 130),
        case("all equal", 3, 64).ids("ids", &[127], &[2; 127]),
        // A padding row would fail gradcheck: it is read, yet it gets no gradient. Golden files have it.
        case("missing", 7, 3).ids("ids", &[8], &[0, none, 6, 0, 1, 6, none, 6]),
        case("two axes", 300, 2).random_ids("ids", &[5, 13], 300),
        case("gather of every other row", 130, 4).ids("ids", &[65], &(0..65).map(|i| 2 * i).collect::<Vec<u32>>()),
        case("nothing but missing", 2, 3).attr("zero_gradient", true).ids("ids", &[3], &[none; 3]),
        case("two uses", 20, 5).random_ids("ids", &[30], 20).random_ids("more_ids", &[65], 20),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_list_each_id_once_with_its_places_in_order() {
        let tensor = segments(&[5, 1, u32::MAX, 5, 0, 1, 5], Some(0));
        let segments = Segments::new(tensor.as_u32());
        let all: Vec<(usize, Vec<u32>)> = segments.of_rows(0..9).map(|(id, places)| (id, places.to_vec())).collect();
        assert_eq!(all, [(1, vec![1, 5]), (5, vec![0, 3, 6])]);
        assert_eq!(segments.of_rows(2..5).count(), 0);
    }

    #[test]
    fn chunks_cover_the_table_at_aligned_borders() {
        for (rows, width, binding_words) in [(1000, 3, 900), (1000, 64, 64 * 70), (5, 3, 1 << 20), (64, 1, 64)] {
            let limits = GpuLimits { binding_words, scratch_words: 0, software: false };
            let chunks: Vec<Range<usize>> = table_chunks(rows, width, limits).collect();
            assert_eq!(chunks.iter().map(|c| c.len()).sum::<usize>(), rows);
            assert!(chunks.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(chunks.iter().all(|c| (c.start * width).is_multiple_of(64) && c.len() * width <= binding_words));
        }
    }
}
