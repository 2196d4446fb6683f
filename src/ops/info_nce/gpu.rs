//! InfoNCE on a GPU: a product makes the logits of a block of rows, further dispatches make of them what is wanted.

use super::{InfoNce, InfoNceGradient};
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, Access::Write, GpuBuilder, Region};
use crate::ops::matmul::{Gemm, Matmul, Sizes, gemm_gpu, sum_all_gpu};
use crate::shader;

/// Logits on a GPU: as many rows at a time as a scratch may hold.
pub struct Blocks {
    scratch: Region,
    pub rows: usize,
}

impl Blocks {
    pub fn new(b: &mut GpuBuilder) -> Blocks {
        let n = b.inputs[0].rows();
        let most = b.limits.scratch_words.min(b.limits.binding_words) / n;
        let rows = (most / 64 * 64).clamp(64, n.next_multiple_of(64)).min(n);
        Blocks { scratch: b.scratch(rows * n), rows }
    }

    /// Appends, for each block of rows, the product `a b^T` of inputs 0 and 1 and what `consume` adds: it gets the index of the
    /// block's first row and its unscaled logits `[rows, N]`.
    pub fn each(&self, b: &mut GpuBuilder, mut consume: impl FnMut(&mut GpuBuilder, usize, Region)) {
        let (n, width) = (b.inputs[0].rows(), b.inputs[0].width());
        b.repeat((0..n).step_by(self.rows), |b, first| {
            let rows = self.rows.min(n - first);
            let logits = self.scratch.slice(0, rows * n);
            let a = b.input(0).slice(first * width, rows * width);
            let sizes = Sizes { batch: 1, m: rows, n, k: width };
            gemm_gpu(b, Gemm::new(Matmul::NT, sizes, a, b.input(1), logits));
            consume(b, first, logits);
        });
    }
}

/// Outputs 1 and 2, of the rows from `first` on.
pub fn losses(op: InfoNce, b: &mut GpuBuilder, first: usize, logits: Region) {
    let (n, bindings) = (b.inputs[0].rows(), [(logits, Read), (b.output(1), Write), (b.output(2), Write)]);
    let shift = op.pairing.shift(n);
    let params = [n.into(), (logits.len / n).into(), first.into(), op.scale.into(), shift.into()];
    b.dispatch(shader!("info_nce"), &[], &bindings, &params, logits.len / n);
}

/// Output 0.
pub fn mean(b: &mut GpuBuilder) {
    sum_all_gpu(b, b.output(1), b.output(0), 1.0 / b.inputs[0].rows() as f64);
}

/// What the gradient reads and writes beside logits, on a GPU.
#[derive(Clone, Copy)]
pub struct Places {
    pub lse: Region,
    pub dloss: Region,
    pub da: Region,
}

/// The rows of `da` from `first` on; the logits are used up.
pub fn gradient(by: InfoNceGradient, b: &mut GpuBuilder, places: Places, first: usize, logits: Region) {
    let (n, width) = (b.inputs[0].rows(), b.inputs[0].width());
    let Places { lse, dloss, da } = places;
    let rows = logits.len / n;
    let bindings = [(lse, Read), (dloss, Read), (logits, Update)];
    let [by_row, by_column, shift] = [by.by_row.into(), by.by_column.into(), by.op.pairing.shift(n).into()];
    let params = [n.into(), logits.len.into(), first.into(), by.op.scale.into(), shift, by_row, by_column];
    b.dispatch(shader!("info_nce_gradient"), &[], &bindings, &params, logits.len.div_ceil(64));
    let sizes = Sizes { batch: 1, m: rows, n: width, k: n };
    let da = da.slice(first * width, rows * width);
    gemm_gpu(b, Gemm::new(Matmul::NN, sizes, logits, b.input(1), da));
}
