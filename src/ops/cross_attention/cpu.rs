//! Queries of cross attention on a CPU.

use super::CrossAttention;
use crate::engine::exec::cpu::In;
use crate::engine::exec::simd;
use crate::engine::rng::{RngState, drop_threshold};
use crate::engine::tensor::LOWEST;
use crate::ops::dropout::Dropout;

/// Probabilities and dropout factors of one query and head, by the place of the key.
#[derive(Default)]
pub struct Weights {
    pub p: Vec<f32>,
    pub keep: Vec<f32>,
}

/// What the CPU kernels share.
pub struct Worker<'a> {
    op: &'a CrossAttention,
    /// `q`, `k`, `v`, `own_k`, `own_v`
    data: [&'a [f32]; 5],
    borders: &'a [u32],
    random: Option<(Dropout, RngState, &'a [u32])>,
    pub queries: usize,
    pub rows: usize,
    /// Words of a row, and of a head.
    pub stride: usize,
    pub width: usize,
}

impl<'a> Worker<'a> {
    pub fn new(op: &'a CrossAttention, inputs: &[In<'a>]) -> Self {
        let (stride, at) = (inputs[0].width(), op.rng_at());
        let own = |i: usize| if op.own_keys { inputs[i].f() } else { &[] };
        Worker {
            op,
            data: [inputs[0].f(), inputs[1].f(), inputs[2].f(), own(4), own(5)],
            borders: inputs[3].u(),
            random: op.dropout.map(|dropout| (dropout, RngState::from_words(inputs[at].u()), inputs[at + 1].u())),
            queries: inputs[0].rows(),
            rows: inputs[1].rows(),
            stride,
            width: stride / op.heads,
        }
    }

    pub fn keys(&self, i: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        self.op.keys(self.borders, self.queries, self.rows, i)
    }

    /// A head's columns in a row.
    fn head(&self, data: &'a [f32], row: usize, head: usize) -> &'a [f32] {
        &data[row * self.stride + head * self.width..][..self.width]
    }

    /// Those of a key (`which` = 1) or value (2), as `keys` numbers them.
    pub fn key(&self, which: usize, row: usize, head: usize) -> &'a [f32] {
        match row.checked_sub(self.rows) {
            Some(own) => self.head(self.data[which + 2], own, head),
            None => self.head(self.data[which], row, head),
        }
    }

    /// Softmax and dropout factors of a query; its `lse`.
    pub fn weigh(&self, i: usize, head: usize, weights: &mut Weights) -> f32 {
        let q = self.head(self.data[0], i, head);
        let score = |j| self.op.scale as f32 * simd::dot(q, self.key(1, j, head));
        weights.p.clear();
        weights.p.extend(self.keys(i).map(score));
        weights.keep.clear();
        weights.keep.resize(weights.p.len(), 1.0);
        if weights.p.is_empty() {
            return LOWEST;
        }
        let peak = simd::max(&weights.p);
        let sum = simd::exp_sub_sum(&mut weights.p, peak);
        simd::scale(&mut weights.p, 1.0 / sum);
        if let Some((Dropout { probability, site }, state, keys)) = self.random {
            let (threshold, scale) = (drop_threshold(probability), (1.0 / (1.0 - probability)) as f32);
            for (keep, block) in weights.keep.chunks_mut(4).zip((head as u32) << 18..) {
                let words = state.block(site, keys[2 * i], keys[2 * i + 1], block);
                keep.iter_mut().zip(words).for_each(|(keep, word)| *keep = if word >= threshold { scale } else { 0.0 });
            }
        }
        peak + sum.ln()
    }

    /// All gradients of one sequence: of its queries, its rows, its queries' own keys.
    pub fn backward(
        &self,
        sequence: usize,
        [y, dy]: [&[f32]; 2],
        dq: &mut [f32],
        [(dk, own_dk), (dv, own_dv)]: [(&mut [f32], &mut [f32]); 2],
    ) {
        let (stride, width, scale) = (self.stride, self.width, self.op.scale as f32);
        [&mut *dk, &mut *own_dk, &mut *dv, &mut *own_dv].into_iter().for_each(|out| out.fill(0.0));
        let (mut weights, queries, first) = (Weights::default(), dq.len() / stride, self.borders[sequence] as usize);
        for (place, dq) in dq.chunks_exact_mut(width).enumerate() {
            let (query, head) = (place / self.op.heads, place % self.op.heads);
            let i = sequence * queries + query;
            self.weigh(i, head, &mut weights);
            let of_head = |row: usize| row * stride + head * width..row * stride + (head + 1) * width;
            let (q, dy, y) = (self.head(self.data[0], i, head), &dy[of_head(i)], &y[of_head(i)]);
            let delta = simd::dot(dy, y);
            dq.fill(0.0);
            for ((j, p), keep) in self.keys(i).zip(&weights.p).zip(&weights.keep) {
                let (dk, dv, row) = match j < self.rows {
                    true => (&mut *dk, &mut *dv, j - first),
                    false => (&mut *own_dk, &mut *own_dv, query),
                };
                let ds = scale * p * (keep * simd::dot(dy, self.key(2, j, head)) - delta);
                simd::axpy(ds, self.key(1, j, head), dq);
                simd::axpy(ds, q, &mut dk[of_head(row)]);
                simd::axpy(keep * p, dy, &mut dv[of_head(row)]);
            }
        }
    }
}
