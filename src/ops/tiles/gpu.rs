//! The same on a GPU.

use crate::engine::exec::gpu::kernel::{GpuBuilder, Region};
use crate::ops::matmul::{Gemm, Matmul, Sizes, gemm_gpu};
use std::ops::Range;

/// Most items of a chunk on a GPU: enough to fill one, few enough for a test to have two.
const MOST_CHUNK: usize = 4096;

/// Chunks of at most `most` items (a multiple of 64). An odd width keeps products from moving four words at a time, so the
/// odd end of a long chunk goes alone.
pub fn item_ranges(items: usize, most: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut first = 0;
    while first < items {
        let rest = items - first;
        let even = if rest >= 1024 && !rest.is_multiple_of(4) { rest / 64 * 64 } else { rest };
        ranges.push(first..first + even.min(most));
        first += even.min(most);
    }
    ranges
}

/// Scores on a GPU, a chunk of items at a time in scratch.
pub struct GpuChunks {
    /// Items per chunk, a multiple of 64: slices of tables then begin where bindings may begin.
    pub chunk: usize,
    items: usize,
    /// The input `hidden`; the table and its bias come behind it.
    hidden: usize,
    z: Region,
    may_round: bool,
}

impl GpuChunks {
    pub fn new(builder: &mut GpuBuilder, items: usize) -> Self {
        let (rows, width) = (builder.inputs[0].rows(), builder.inputs[1].width());
        let limits = builder.limits;
        let most = (limits.scratch_words / rows.max(1)).min(limits.binding_words / width.max(1));
        let chunk = (most / 64 * 64).clamp(64, items.next_multiple_of(64).min(MOST_CHUNK));
        let z = builder.scratch(rows * chunk);
        GpuChunks { chunk, items, hidden: 0, z, may_round: false }
    }

    /// The same, with products whose inputs mixed precision may round: those of losses, not of ranks and lists.
    pub fn rounding(self) -> Self {
        GpuChunks { may_round: true, ..self }
    }

    /// The same chunks with scratch of their own.
    pub fn beside(&self, builder: &mut GpuBuilder) -> Self {
        GpuChunks { z: builder.scratch(self.z.len), ..*self }
    }

    /// The same scratch for the scorer whose inputs begin at `hidden`.
    pub fn of(&self, hidden: usize) -> Self {
        GpuChunks { hidden, ..*self }
    }

    /// The first words of the scratch.
    pub fn region(&self, len: usize) -> Region {
        self.z.slice(0, len)
    }

    /// Calls `each(builder, first, len)` for every chunk.
    pub fn each(&self, builder: &mut GpuBuilder, mut each: impl FnMut(&mut GpuBuilder, usize, usize)) {
        let ranges = item_ranges(self.items, self.chunk);
        builder.repeat(ranges, |builder, items| each(builder, items.start, items.len()));
    }

    /// Appends the product that makes `z[N, len]` for the items from `first` on.
    pub fn scores(&self, builder: &mut GpuBuilder, first: usize, len: usize, has_bias: bool) -> Region {
        let (rows, width) = (builder.inputs[self.hidden].rows(), builder.inputs[self.hidden].width());
        let z = self.z.slice(0, rows * len);
        let weight = builder.input(self.hidden + 1).slice(first * width, len * width);
        let bias = has_bias.then(|| builder.input(self.hidden + 2).slice(first, len));
        let sizes = Sizes { batch: 1, m: rows, n: len, k: width };
        let product = Gemm::new(Matmul::NT, sizes, builder.input(self.hidden), weight, z);
        gemm_gpu(builder, Gemm { bias, split_k: false, may_round: self.may_round, ..product });
        z
    }

    /// Appends `dH (+)= dz W` and `dW = dz^T H` for the items from `first` on; `gradients` are `dH` and `dW`.
    pub fn products(&self, builder: &mut GpuBuilder, dz: Region, (first, len): (usize, usize), gradients: [Region; 2]) {
        let (rows, width) = (builder.inputs[self.hidden].rows(), builder.inputs[self.hidden].width());
        let (hidden, weight) = (builder.input(self.hidden), builder.input(self.hidden + 1));
        let slice = |table: Region| table.slice(first * width, len * width);
        let sizes = Sizes { batch: 1, m: len, n: width, k: rows };
        gemm_gpu(builder, Gemm::new(Matmul::TN, sizes, dz, hidden, slice(gradients[1])));
        let sizes = Sizes { batch: 1, m: rows, n: width, k: len };
        let product = Gemm::new(Matmul::NN, sizes, dz, slice(weight), gradients[0]);
        gemm_gpu(builder, Gemm { accumulate: first > 0, ..product });
    }
}
