//! `score_nk = <hidden_n, table[id_nk]>`: scores of a few items per row, the base of every loss with sampled negatives.
//! An id of `u32::MAX` is no item: score 0, no gradient.
//!
//! Gradients: `dhidden_n = sum_k dscore_nk table[id_nk]`; `dtable_v = sum over (n, k) with id_nk = v of dscore_nk hidden_n`.
//! The second goes by `segments` of the places `(n, k)`; it is added in place to the gradient that the table has from
//! elsewhere.

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

/// Inputs `hidden[N, D]`, `table[V, D]`, `ids[N]` or `[N, K]`, `segments(ids, None)` (may be left out when the table is not
/// differentiated); output `score`, shaped like `ids`.
#[derive(Clone, Copy, Debug)]
pub struct RowDot;

/// Rows that one worker computes.
const ROW_BLOCK: usize = 64;
/// Rows of the table that one worker owns in the gradient.
const ITEM_BLOCK: usize = 256;

impl Op for RowDot {
    fn name(&self) -> &'static str {
        "row_dot"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let [hidden, table, ids] = [inputs[0], inputs[1], inputs[2]];
        let fits = hidden.shape.len() == 2 && table.shape.len() == 2 && hidden.width() == table.width();
        expect("row_dot", fits, || format!("hidden is {hidden}, table {table}"))?;
        let fits = ids.dtype == DType::U32 && ids.shape.first() == Some(&hidden.rows());
        let fits = fits && inputs.get(3).is_none_or(|s| **s == TensorType::u32(&[segments_len(ids.len())]));
        expect("row_dot", fits, || format!("hidden is {hidden}, ids {ids}, of {} inputs", inputs.len()))?;
        Ok(vec![TensorType::f32(&ids.shape)])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (hidden, table, ids) = (inputs[0], inputs[1], inputs[2].u());
        let per_row = ids.len() / hidden.rows().max(1);
        for (place, score) in outputs[0].f_mut().iter_mut().enumerate().filter(|(place, _)| ids[*place] != NONE) {
            let item = table.row(ids[place] as usize);
            *score = hidden.row(place / per_row).iter().zip(item).map(|(h, t)| h * t).sum();
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (hidden, table, ids) = (io.inputs[0].f(), io.inputs[1].f(), io.inputs[2].u());
        let (width, per_row) = (io.inputs[0].width(), ids.len() / io.inputs[0].rows().max(1));
        let blocks = io.outputs[0].f().par_chunks_mut(ROW_BLOCK * per_row).zip(ids.par_chunks(ROW_BLOCK * per_row));
        blocks.zip(hidden.par_chunks(ROW_BLOCK * width)).for_each(|((score, ids), hidden)| {
            for (place, (score, &id)) in score.iter_mut().zip(ids).enumerate() {
                let row = place / per_row * width;
                *score = item_row(table, id, width).map_or(0.0, |item| simd::dot(&hidden[row..row + width], item));
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (ids, width, items) = (b.inputs[2].len(), b.inputs[0].width(), b.inputs[1].rows());
        let per_row = ids / b.inputs[0].rows().max(1);
        for chunk in table_chunks(items, width, b.limits) {
            let table = b.input(1).slice(chunk.start * width, chunk.len() * width);
            let access = if chunk.start == 0 { Write } else { Update };
            let bindings = [(b.input(0), Read), (table, Read), (b.input(2), Read), (b.output(0), access)];
            let params = [ids.into(), per_row.into(), width.into(), chunk.start.into(), chunk.len().into()];
            b.dispatch(shader!("row_dot"), &[], &bindings, &params, ids.div_ceil(64));
        }
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dscore) = vjp.cotangent(0) else { return Ok(()) };
        let (hidden, table, ids) = (vjp.input(0), vjp.input(1), vjp.input(2));
        if vjp.needs(0) {
            let dhidden = vjp.add(RowDotHiddenGradient, &[dscore, table, ids])?[0];
            vjp.accumulate(0, dhidden)?;
        }
        if vjp.needs(1) {
            let segmented = vjp.n_inputs() == 4;
            expect("row_dot", segmented, || "the gradient of the table wants the segments of the ids".into())?;
            let partial = vjp.take_partial(1);
            let op = RowDotTableGradient { items: vjp.ty(table).rows(), accumulate: partial.is_some() };
            let mut inputs = vec![dscore, hidden, ids, vjp.input(3)];
            inputs.extend(partial);
            let dtable = vjp.add(op, &inputs)?[0];
            vjp.accumulate(1, dtable)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        gathered_cost(inputs[2].len(), inputs[0].width(), outputs[0].len())
    }
}

/// The row of an item, unless there is none.
fn item_row(table: &[f32], id: u32, width: usize) -> Option<&[f32]> {
    (id != NONE).then(|| &table[id as usize * width..][..width])
}

/// Each place moves a row of the table and of the other side at most.
fn gathered_cost(places: usize, width: usize, outputs: usize) -> Cost {
    Cost { flops: (2 * places * width) as u64, bytes: 4 * (2 * places * width + outputs) as u64 }
}

/// Inputs `dscore`, `table[V, D]`, `ids`; output `dhidden[N, D]`.
#[derive(Clone, Copy, Debug)]
pub struct RowDotHiddenGradient;

impl Op for RowDotHiddenGradient {
    fn name(&self) -> &'static str {
        "row_dot_hidden_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::f32(&[inputs[2].shape[0], inputs[1].width()])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (dscore, table, ids, width) = (inputs[0].f(), inputs[1], inputs[2].u(), inputs[1].width());
        let per_row = ids.len() / outputs[0].rows().max(1);
        for (place, &id) in ids.iter().enumerate().filter(|(_, id)| **id != NONE) {
            let dhidden = outputs[0].f_mut()[place / per_row * width..].iter_mut();
            dhidden.zip(table.row(id as usize)).for_each(|(dh, t)| *dh += dscore[place] * t);
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (dscore, table, ids) = (io.inputs[0].f(), io.inputs[1].f(), io.inputs[2].u());
        let (width, per_row) = (io.inputs[1].width(), ids.len() / io.outputs[0].ty.rows().max(1));
        io.outputs[0].f().par_chunks_mut(ROW_BLOCK * width).enumerate().for_each(|(block, dhidden)| {
            for (n, dhidden) in (block * ROW_BLOCK..).zip(dhidden.chunks_exact_mut(width)) {
                dhidden.fill(0.0);
                for place in n * per_row..(n + 1) * per_row {
                    if let Some(item) = item_row(table, ids[place], width) {
                        simd::axpy(dscore[place], item, dhidden);
                    }
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (len, width, items) = (b.outputs[0].len(), b.inputs[1].width(), b.inputs[1].rows());
        let per_row = b.inputs[2].len() / b.outputs[0].rows().max(1);
        for chunk in table_chunks(items, width, b.limits) {
            let table = b.input(1).slice(chunk.start * width, chunk.len() * width);
            let access = if chunk.start == 0 { Write } else { Update };
            let bindings = [(b.input(0), Read), (table, Read), (b.input(2), Read), (b.output(0), access)];
            let params = [len.into(), per_row.into(), width.into(), chunk.start.into(), chunk.len().into()];
            b.dispatch(shader!("row_dot_hidden_gradient"), &[], &bindings, &params, len.div_ceil(64));
        }
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        gathered_cost(inputs[2].len(), inputs[1].width(), outputs[0].len())
    }
}

/// Inputs `dscore`, `hidden[N, D]`, `ids`, `segments`, and the table's gradient so far when `accumulate`; output
/// `dtable[V, D]`: the latter updated in place, or all rows written.
#[derive(Clone, Copy, Debug)]
pub struct RowDotTableGradient {
    /// Rows of the table.
    pub items: usize,
    /// Whether a gradient of the table is an input, to which this one is added.
    pub accumulate: bool,
}

impl Op for RowDotTableGradient {
    fn name(&self) -> &'static str {
        "row_dot_table_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::f32(&[self.items, inputs[1].width()])])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        if self.accumulate { &[(4, 0)] } else { &[] }
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (dscore, hidden, ids) = (inputs[0].f(), inputs[1], inputs[2].u());
        let (width, per_row) = (hidden.width(), ids.len() / hidden.rows().max(1));
        for (place, &id) in ids.iter().enumerate().filter(|(_, id)| **id != NONE) {
            let dtable = outputs[0].f_mut()[id as usize * width..].iter_mut();
            dtable.zip(hidden.row(place / per_row)).for_each(|(dt, h)| *dt += dscore[place] * h);
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (dscore, hidden, segments) = (io.inputs[0].f(), io.inputs[1].f(), Segments::new(io.inputs[3].u()));
        let (width, per_row) = (io.inputs[1].width(), dscore.len() / io.inputs[1].rows().max(1));
        io.outputs[0].f().par_chunks_mut(ITEM_BLOCK * width).enumerate().for_each(|(block, dtable)| {
            if !self.accumulate {
                dtable.fill(0.0);
            }
            let first = block * ITEM_BLOCK;
            for (item, places) in segments.of_rows(first..first + dtable.len() / width) {
                let dtable = &mut dtable[(item - first) * width..][..width];
                for &place in places {
                    let row = place as usize / per_row * width;
                    simd::axpy(dscore[place as usize], &hidden[row..row + width], dtable);
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let places = b.inputs[0].len();
        let sum = SegmentSum {
            segments: b.input(3),
            x: b.input(1),
            places_per_row: places / b.inputs[1].rows().max(1),
            weights: Some(b.input(0)),
            places,
            width: b.inputs[1].width(),
            accumulate: self.accumulate,
        };
        sum.dispatch(b, b.output(0));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let written = if self.accumulate { 0 } else { outputs[0].len() };
        gathered_cost(inputs[0].len(), inputs[1].width(), written)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("row_dot", build)];

/// With `twice`, the table is read by two nodes, so that the second gradient is added to the first in place.
fn build(b: &mut Builder) -> Result<()> {
    let (hidden, table, ids) = (b.input("hidden")?, b.input("table")?, b.input("ids")?);
    let grouped = segments(&b.u32s("ids")?, None);
    let segments = b.feed("segments", grouped);
    let score = b.graph.add1(RowDot, &[hidden, table, ids, segments])?;
    b.output("score", score);
    if b.attr_bool("twice").unwrap_or(false) {
        let again = b.graph.add1(RowDot, &[hidden, table, ids, segments])?;
        b.output("again", again);
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, (items, width): (usize, usize), shape: &[usize], id: &dyn Fn(usize) -> u32| {
        let ids: Vec<u32> = (0..shape.iter().product()).map(id).collect();
        let case = Case::new(KERNELS[0], format!("{name} {items}x{width} {shape:?}")).ids("ids", shape, &ids);
        case.normal("hidden", &[shape[0], width], 1.0).normal("table", &[items, width], 1.0)
    };
    let scattered = |items: usize| move |i: usize| if i % 7 == 3 { NONE } else { (i * 37 % items) as u32 };
    vec![
        case("one", (1, 1), &[1], &|_| 0),
        case("scattered", (300, 64), &[65], &scattered(300)),
        case("many per row", (130, 63), &[3, 50], &scattered(130)).attr("twice", true),
        case("all the same", (3, 65), &[127], &|_| 1),
        case("popular items", (9, 5), &[150, 3], &|i| [1, 1, 4, 7][i % 4]).attr("twice", true),
        case("last item", (600, 2), &[2, 2], &|i| if i == 1 { 0 } else { 599 }),
    ]
}
