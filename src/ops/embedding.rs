//! `y_n = table[ids_n]`: item and position embeddings, and the gather of chosen rows of hidden states. An id of
//! `u32::MAX` gives zeros.
//!
//! Gradient without atomics, by `segments`: `dtable_v = sum_{n: ids_n = v} dy_n`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, Access::Write, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, DType, NONE, TensorType};
use crate::error::Result;
use crate::ops::segments::{SegmentSum, Segments, segments, segments_len, table_chunks};
use crate::shader;
use rayon::prelude::*;

/// Inputs `table[V, D]`, `ids[..]`, `segments` of those ids (may be left out when the table is not differentiated);
/// output `y[.., D]`. The row `padding_idx` is read as it is and gets no gradient.
#[derive(Clone, Copy, Debug, Default)]
pub struct Embedding {
    /// A row that gathers like any other and gets no gradient.
    pub padding_idx: Option<u32>,
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

    fn gpu(&self, b: &mut GpuBuilder) {
        let (rows, width, n) = (b.inputs[0].shape[0], b.inputs[0].width(), b.inputs[1].len());
        for chunk in table_chunks(rows, width, b.limits) {
            let table = b.input(0).slice(chunk.start * width, chunk.len() * width);
            // Every chunk writes its rows; the first also the zeros of missing ids.
            let access = if chunk.len() == rows { Write } else { Update };
            let bindings = [(table, Read), (b.input(1), Read), (b.output(0), access)];
            let params = [(n * width).into(), width.into(), chunk.start.into(), chunk.len().into()];
            b.dispatch(shader!("embedding"), &[], &bindings, &params, (n * width).div_ceil(64));
        }
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
    /// Rows of the table.
    pub rows: usize,
    /// As of the forward op.
    pub padding_idx: Option<u32>,
    /// Whether a gradient of the table is an input, to which this one is added.
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

    fn gpu(&self, b: &mut GpuBuilder) {
        let sum = SegmentSum {
            segments: b.input(self.ids_at() + 1),
            x: b.input(self.ids_at() + 2),
            places_per_row: 1,
            weights: None,
            places: b.inputs[self.ids_at()].len(),
            width: b.outputs[0].width(),
            accumulate: self.accumulate,
        };
        sum.dispatch(b, b.output(0));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let (dy, table) = (inputs[self.ids_at() + 2].len(), outputs[0].len());
        Cost { flops: dy as u64, bytes: 4 * (if self.accumulate { 3 * dy } else { dy + table }) as u64 }
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("embedding", build)];

fn build(b: &mut Builder) -> Result<()> {
    let padding_idx = b.optional_f64("padding_idx").map(|id| id as u32);
    let (table, ids) = (b.input("table")?, b.u32s("ids")?);
    let grouped = b.feed("segments", segments(&ids, padding_idx));
    let ids = b.input("ids")?;
    let y = b.graph.add1(Embedding { padding_idx }, &[table, ids, grouped])?;
    b.output("y", y);
    if b.has("more_ids") {
        // A second use of the table: its gradient is added to the first one's in place.
        let more = b.u32s("more_ids")?;
        let grouped = b.feed("more_segments", segments(&more, None));
        let more = b.input("more_ids")?;
        let y = b.graph.add1(Embedding::default(), &[table, more, grouped])?;
        b.output("more_y", y);
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
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
        case("segments of 64, 1, 128 and 129", 9, 3).ids(
            "ids",
            &[322],
            &(0..322)
                .map(|i| [2, 7, 3, 5][[64, 65, 193].iter().filter(|end| i >= **end).count()])
                .collect::<Vec<u32>>(),
        ),
        case("two popular uses", 20, 5).ids("ids", &[130], &[4; 130]).ids("more_ids", &[200], &[4; 200]),
        case("two uses", 20, 5).random_ids("ids", &[30], 20).random_ids("more_ids", &[65], 20),
    ]
}
