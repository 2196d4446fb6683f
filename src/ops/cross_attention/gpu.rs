//! Dispatches of cross attention.

use super::CrossAttention;
use crate::engine::exec::gpu::kernel::{
    Access, Access::Read, Access::Update, Access::Write, GpuBuilder, Region, Shader,
};
use crate::engine::tensor::TensorType;
use crate::ops::dropout::drop_params;
use crate::shader;

/// Copies `len` words, from one place of a buffer to one of another.
pub(super) fn copy_gpu(b: &mut GpuBuilder, from: (Region, usize), to: (Region, usize), len: usize) {
    let params = [len.into(), from.1.into(), to.1.into()];
    b.dispatch(shader!("copy_words"), &[], &[(from.0, Read), (to.0, Update)], &params, len.div_ceil(64));
}

impl CrossAttention {
    /// Rows of the keys as the kernels see them: those of the sequences, then the queries' own.
    pub(super) fn rows(&self, inputs: &[&TensorType]) -> usize {
        inputs[1].rows() + if self.own_keys { inputs[0].rows() } else { 0 }
    }

    /// `q`, `k`, `v`, own keys and values behind the others, and what the kernels ask of a query: the rows that it reads, and
    /// what its random numbers are counted by.
    pub(super) fn operands(&self, b: &mut GpuBuilder) -> [Region; 4] {
        let (queries, borders, keyed) = (b.inputs[0].rows(), b.input(3), self.dropout.is_some());
        let places = b.scratch(4 * (1 + queries));
        let [rng, keys] = if keyed { [b.input(self.rng_at()), b.input(self.rng_at() + 1)] } else { [borders; 2] };
        let params = [queries.into(), (queries / (borders.len - 1)).into(), keyed.into()];
        let bindings = [(borders, Read), (rng, Read), (keys, Read), (places, Write)];
        b.dispatch(shader!("cross_attention_places"), &[], &bindings, &params, queries.div_ceil(64));
        let mut operands = [b.input(0), b.input(1), b.input(2), places];
        if self.own_keys {
            for (operand, own) in operands[1..3].iter_mut().zip([b.input(4), b.input(5)]) {
                let joined = b.scratch(operand.len + own.len);
                copy_gpu(b, (*operand, 0), (joined, 0), operand.len);
                copy_gpu(b, (own, 0), (joined, operand.len), own.len);
                *operand = joined;
            }
        }
        operands
    }

    pub(super) fn run(
        &self,
        b: &mut GpuBuilder,
        shader: Shader,
        operands: [Region; 4],
        more: &[(Region, Access)],
        groups: usize,
    ) {
        let (queries, sequences) = (b.inputs[0].rows(), b.inputs[3].len() - 1);
        let [site, threshold, keep_scale] = drop_params(self.dropout);
        let params = [
            queries.into(),
            (queries / sequences).into(),
            self.rows(b.inputs).into(),
            self.heads.into(),
            (b.inputs[0].width() / self.heads).into(),
            self.scale.into(),
            self.own_keys.into(),
            site,
            threshold,
            keep_scale,
        ];
        let bindings: Vec<_> = operands.map(|region| (region, Read)).into_iter().chain(more.iter().copied()).collect();
        b.dispatch(shader, &[("DROPOUT", u32::from(self.dropout.is_some()))], &bindings, &params, groups);
    }
}
