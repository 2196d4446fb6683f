//! Softmax cross-entropy over the positive and its sampled negatives:
//! `loss_n = log sum_k exp(score_nk) - score_n0`, where column 0 is the positive.
//!
//! A row without a positive (`u32::MAX`) has loss 0; a negative that is no item takes no part.
//! Gradient: `dscore_nk = dloss_n (exp(score_nk - lse_n) - [k = 0])`; `ops/row_dot.rs` carries it on.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, DType, NONE, Tensor, TensorType};
use crate::error::Result;
use crate::ops::row_dot::RowDot;
use crate::ops::segments::segments;
use crate::shader;
use rayon::prelude::*;

/// `[positive, negatives..]` per row: `u32[N, 1 + K]` from `positive[N]` and `negative[N, K]`.
pub fn candidates(positive: &[u32], negative: &[u32]) -> Tensor {
    let per_row = negative.len() / positive.len().max(1);
    let row = |(n, positive): (usize, &u32)| [&[*positive], &negative[n * per_row..(n + 1) * per_row]].concat();
    let ids: Vec<u32> = positive.iter().enumerate().flat_map(row).collect();
    Tensor::u32(&[positive.len(), 1 + per_row], &ids)
}

/// Inputs `scores[N, 1 + K]`, `candidates[N, 1 + K]`; outputs `loss[N]`, `lse[N]` (saved).
#[derive(Clone, Copy, Debug)]
pub struct SampledSoftmax;

/// Rows that one worker computes.
const ROW_BLOCK: usize = 64;

/// The scores that take part.
fn present<'a, T: Copy>(scores: &'a [T], ids: &'a [u32]) -> impl Iterator<Item = T> + Clone + 'a {
    scores.iter().zip(ids).filter(|(_, id)| **id != NONE).map(|(score, _)| *score)
}

impl Op for SampledSoftmax {
    fn name(&self) -> &'static str {
        "sampled_softmax"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let [scores, ids] = [inputs[0], inputs[1]];
        let fits = scores.shape.len() == 2 && scores.shape == ids.shape && ids.dtype == DType::U32;
        expect("sampled_softmax", fits, || format!("scores are {scores}, candidates {ids}"))?;
        Ok(vec![TensorType::f32(&[scores.rows()]); 2])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (scores, ids) = (inputs[0], inputs[1].u().chunks_exact(inputs[0].width()));
        for (n, ids) in ids.enumerate().filter(|(_, ids)| ids[0] != NONE) {
            let max = present(scores.row(n), ids).fold(f64::MIN, f64::max);
            let lse = max + present(scores.row(n), ids).map(|s| (s - max).exp()).sum::<f64>().ln();
            outputs[0].f_mut()[n] = lse - scores.row(n)[0];
            outputs[1].f_mut()[n] = lse;
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (scores, ids, width) = (io.inputs[0].f(), io.inputs[1].u(), io.inputs[0].width());
        let [loss, lse] = &mut io.outputs[..] else { unreachable!("inferred") };
        let blocks = loss.f().par_chunks_mut(ROW_BLOCK).zip(lse.f().par_chunks_mut(ROW_BLOCK));
        blocks.enumerate().for_each(|(block, (loss, lse))| {
            for (n, (loss, lse)) in (block * ROW_BLOCK..).zip(loss.iter_mut().zip(lse)) {
                let (scores, ids) = (&scores[n * width..(n + 1) * width], &ids[n * width..(n + 1) * width]);
                let max = present(scores, ids).fold(-1e30, f32::max);
                let log_sum = present(scores, ids).map(|s| (s - max).exp()).sum::<f32>().ln();
                (*loss, *lse) = if ids[0] == NONE { (0.0, 0.0) } else { ((max - scores[0]) + log_sum, max + log_sum) };
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (rows, width) = (b.inputs[0].rows(), b.inputs[0].width());
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.output(0), Write), (b.output(1), Write)];
        b.dispatch(shader!("sampled_softmax"), &[], &bindings, &[rows.into(), width.into()], rows.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dloss) = vjp.cotangent(0) else { return Ok(()) };
        let inputs = [vjp.input(0), vjp.input(1), vjp.output(1), dloss];
        let dscores = vjp.add(SampledSoftmaxGradient, &inputs)?[0];
        vjp.accumulate(0, dscores)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(3 * inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `scores`, `candidates`, `lse[N]`, `dloss[N]`; output `dscores[N, 1 + K]`.
#[derive(Clone, Copy, Debug)]
pub struct SampledSoftmaxGradient;

impl Op for SampledSoftmaxGradient {
    fn name(&self) -> &'static str {
        "sampled_softmax_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (scores, ids, lse, dloss, width) =
            (inputs[0].f(), inputs[1].u(), inputs[2].f(), inputs[3].f(), inputs[0].width());
        for (i, dscore) in outputs[0].f_mut().iter_mut().enumerate() {
            let (n, k) = (i / width, i % width);
            if ids[n * width] != NONE && ids[i] != NONE {
                *dscore = dloss[n] * ((scores[i] - lse[n]).exp() - if k == 0 { 1.0 } else { 0.0 });
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (scores, ids, width) = (io.inputs[0].f(), io.inputs[1].u(), io.inputs[0].width());
        let (lse, dloss) = (io.inputs[2].f(), io.inputs[3].f());
        io.outputs[0].f().par_chunks_mut(ROW_BLOCK * width).enumerate().for_each(|(block, rows)| {
            for (n, row) in (block * ROW_BLOCK..).zip(rows.chunks_exact_mut(width)) {
                let (scores, ids) = (&scores[n * width..(n + 1) * width], &ids[n * width..(n + 1) * width]);
                for ((dscore, score), id) in row.iter_mut().zip(scores).zip(ids) {
                    *dscore = if ids[0] == NONE || *id == NONE { 0.0 } else { dloss[n] * (score - lse[n]).exp() };
                }
                row[0] -= if ids[0] == NONE { 0.0 } else { dloss[n] };
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (len, width) = (b.inputs[0].len(), b.inputs[0].width());
        let mut bindings: Vec<_> = (0..4).map(|i| (b.input(i), Read)).collect();
        bindings.push((b.output(0), Write));
        let params = [len.into(), width.into()];
        b.dispatch(shader!("sampled_softmax_gradient"), &[], &bindings, &params, len.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(3 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("sampled_softmax", build)];

fn build(b: &mut Builder) -> Result<()> {
    let (hidden, table) = (b.input("hidden")?, b.input("table")?);
    let ids = candidates(&b.u32s("positive")?, &b.u32s("negative")?);
    let grouped = b.feed("segments", segments(ids.as_u32(), None));
    let ids = b.feed("candidates", ids);
    let scores = b.graph.add1(RowDot, &[hidden, table, ids, grouped])?;
    let loss = b.graph.add1(SampledSoftmax, &[scores, ids])?;
    b.output("loss", loss);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |(n, k, items, width): (usize, usize, usize, usize), scale: f64| {
        let case = Case::new(KERNELS[0], format!("{n}x{k} of {items}x{width}, scale {scale}"));
        let case = case.normal("hidden", &[n, width], scale).normal("table", &[items, width], 1.0);
        let id = |i: usize| if i % 11 == 5 { NONE } else { (i * 37 % items) as u32 };
        case.ids("positive", &[n], &(0..n).map(id).collect::<Vec<u32>>()).ids(
            "negative",
            &[n, k],
            &(0..n * k).map(|i| id(i + 1)).collect::<Vec<u32>>(),
        )
    };
    vec![
        case((1, 1, 2, 1), 1.0),
        case((65, 1, 300, 64), 1.0),
        case((7, 99, 130, 63), 0.3),
        case((130, 3, 3, 2), 1.0),
        case((63, 2, 65, 3), 100.0),
    ]
}
