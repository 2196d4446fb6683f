//! Softmax cross-entropy on a GPU: the loss, its gradient, and both in one sweep.

use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, GpuBuilder, Region};
use crate::ops::column_sum::column_sum_gpu;
use crate::ops::matmul::{Gemm, Matmul, Sizes, gemm_gpu};
use crate::ops::tiles::{GpuChunks, item_ranges};
use crate::shader;
use std::ops::Range;

/// What is scored, and the targets: inputs `hidden`, `weight`, (`bias`), `target`, ...
pub(super) struct GpuProblem {
    rows: usize,
    width: usize,
    table_rows: usize,
    items: usize,
    has_bias: bool,
    target: Region,
}

impl GpuProblem {
    pub fn new(b: &GpuBuilder, has_bias: bool, target: usize, items: Option<usize>) -> Self {
        let (rows, width, table_rows) = (b.inputs[0].rows(), b.inputs[0].width(), b.inputs[1].rows());
        let items = items.unwrap_or(table_rows);
        GpuProblem { rows, width, table_rows, items, has_bias, target: b.input(target) }
    }
}

/// Outputs 0 and 1: `loss`, `lse`.
pub(super) fn loss(b: &mut GpuBuilder, problem: &GpuProblem) {
    let &GpuProblem { rows, items, has_bias, target, .. } = problem;
    let chunks = GpuChunks::new(b, items).rounding();
    let stats = b.scratch(3 * rows);
    chunks.each(b, |b, first, len| {
        let z = chunks.scores(b, first, len, has_bias);
        let places = [target, stats, b.output(0), b.output(1)];
        fold(b, (z, rows, len), (first, len), items, places);
    });
}

/// Takes the logits `z[rows, stride]` of `len` items from `first` on into the rows' statistics; behind the last of all
/// `items` gives loss and lse.
fn fold(
    b: &mut GpuBuilder,
    (z, rows, stride): (Region, usize, usize),
    (first, len): (usize, usize),
    items: usize,
    [target, stats, loss, lse]: [Region; 4],
) {
    let bindings = [(z, Read), (target, Read), (stats, Update), (loss, Update), (lse, Update)];
    let (is_first, is_last) = (first == 0, first + len == items);
    let params = [rows.into(), len.into(), stride.into(), first.into(), is_first.into(), is_last.into()];
    b.dispatch(shader!("linear_cross_entropy"), &[], &bindings, &params, rows);
}

/// Turns the logits of `len` items from `first` on into `dz`, which is zero behind the last of all `items`.
fn to_dz(
    b: &mut GpuBuilder,
    (z, rows): (Region, usize),
    (first, len): (usize, usize),
    items: usize,
    [target, lse, dloss]: [Region; 3],
) {
    let bindings = [(z, Update), (target, Read), (lse, Read), (dloss, Read)];
    let params = [rows.into(), len.into(), first.into(), items.into()];
    b.dispatch(shader!("linear_cross_entropy_gradient"), &[], &bindings, &params, (rows * len).div_ceil(64));
}

/// Outputs from `outputs` on: `dhidden`, `dweight`, (`dbias`); `saved` are `lse` and `dloss`.
pub(super) fn gradient(b: &mut GpuBuilder, problem: &GpuProblem, saved: [Region; 2], outputs: usize) {
    let &GpuProblem { rows, items, has_bias, .. } = problem;
    // All rows of the table, so that those behind the vocabulary get their zeros.
    let chunks = GpuChunks::new(b, problem.table_rows).rounding();
    chunks.each(b, |b, first, len| {
        let dz = chunks.scores(b, first, len, has_bias);
        to_dz(b, (dz, rows), (first, len), items, [problem.target, saved[0], saved[1]]);
        chunks.products(b, dz, (first, len), [b.output(outputs), b.output(outputs + 1)]);
        if has_bias {
            let dbias = b.output(outputs + 2).slice(first, len);
            column_sum_gpu(b, dz, (rows, len), dbias, false);
        }
    });
}

/// Fewest rows whose logits are worth keeping: adding to `dW` after each block must cost less than the product saved.
const KEPT_ROWS: usize = 256;

/// Outputs `loss`, `lse`, `dhidden`, `dweight`, (`dbias`): from logits that are kept for a block of rows where enough of
/// them fit the scratch, else one after the other.
pub(super) fn together(b: &mut GpuBuilder, problem: &GpuProblem, dloss: Region) {
    let &GpuProblem { rows, width, table_rows, items, target, .. } = problem;
    let most = b.limits.scratch_words.min(b.limits.binding_words);
    let fits = most / table_rows / 64 * 64;
    let table_binds = table_rows * width <= b.limits.binding_words;
    if fits < KEPT_ROWS.min(rows.next_multiple_of(64)) || !table_binds {
        loss(b, problem);
        return gradient(b, problem, [b.output(1), dloss], 2);
    }
    let block = fits.min(rows);
    let (logits, stats) = (b.scratch(block * table_rows), b.scratch(3 * block));
    let (weight, dweight, has_bias) = (b.input(1), b.output(3), problem.has_bias);
    let chunks = item_ranges(table_rows, table_rows.next_multiple_of(64));
    b.repeat((0..rows).step_by(block), |b, first_row| {
        let m = block.min(rows - first_row);
        let of_rows = |region: Region, words: usize| region.slice(first_row * words, m * words);
        let of_items = |region: Region, items: &Range<usize>| region.slice(items.start * width, items.len() * width);
        let logits_of = |items: &Range<usize>| logits.slice(items.start * m, items.len() * m);
        let [hidden, target, dloss] = [of_rows(b.input(0), width), of_rows(target, 1), of_rows(dloss, 1)];
        let [loss, lse] = [of_rows(b.output(0), 1), of_rows(b.output(1), 1)];
        let dhidden = of_rows(b.output(2), width);
        for chunk in &chunks {
            let (z, n) = (logits_of(chunk), chunk.len());
            let bias = has_bias.then(|| b.input(2).slice(chunk.start, n));
            let sizes = Sizes { batch: 1, m, n, k: width };
            let product = Gemm::new(Matmul::NT, sizes, hidden, of_items(weight, chunk), z);
            gemm_gpu(b, Gemm { bias, may_round: true, ..product });
            // Items behind the vocabulary take no part in the loss.
            let counted = n.min(items.saturating_sub(chunk.start));
            if counted > 0 {
                fold(b, (z, m, n), (chunk.start, counted), items, [target, stats, loss, lse]);
            }
        }
        b.repeat(&chunks, |b, chunk| {
            let (z, n) = (logits_of(chunk), chunk.len());
            to_dz(b, (z, m), (chunk.start, n), items, [target, lse, dloss]);
            let sizes = Sizes { batch: 1, m: n, n: width, k: m };
            let product = Gemm::new(Matmul::TN, sizes, z, hidden, of_items(dweight, chunk));
            gemm_gpu(b, Gemm { accumulate: first_row > 0, ..product });
            let sizes = Sizes { batch: 1, m, n: width, k: n };
            let product = Gemm::new(Matmul::NN, sizes, z, of_items(weight, chunk), dhidden);
            gemm_gpu(b, Gemm { accumulate: chunk.start > 0, ..product });
            if has_bias {
                let dbias = b.output(4).slice(chunk.start, n);
                column_sum_gpu(b, z, (m, n), dbias, first_row > 0);
            }
        });
    });
}
