//! Attention of queries that are no rows of the sequences they read: per head `y_i = sum_j keep_ij p_ij v_j`,
//! `p_i = softmax_j(scale <q_i, k_j>)`, over the rows j of the query's sequence and, with `own_keys`, a key of its own.
//!
//! Every sequence has the same number of queries, S = Q / B. With S = 1 and without own keys it is the last layer of an
//! encoder of which one row per sequence is wanted; with own keys, S queries share the keys of a sequence that none of them
//! changes (the seeds and steps of a diffusion model whose history does not see the noisy slot).
//!
//! Saved are `lse_i = log sum_j exp(scale <q_i, k_j>)`. With `delta_i = <dy_i, y_i>` and
//! `ds_ij = p_ij (keep_ij <dy_i, v_j> - delta_i)`: `dq_i = scale sum_j ds_ij k_j`, `dk_j = scale sum_i ds_ij q_i`,
//! `dv_j = sum_i keep_ij p_ij dy_i`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::rng::{RngState, Site, drop_threshold};
use crate::engine::tensor::{Array, DType, LOWEST, TensorType};
use crate::error::Result;
use crate::ops::attention::{MAX_WIDTH, cut, head_of};
use crate::ops::dropout::Dropout;
use crate::shader;
use cpu::{Weights, Worker};
use gpu::copy_gpu;
use rayon::prelude::*;

#[path = "cross_attention/cpu.rs"]
mod cpu;
#[path = "cross_attention/gpu.rs"]
mod gpu;

/// Inputs `q[Q, H * D]`, `k[R, H * D]`, `v[R, H * D]`, `cu_seqlens[B + 1]`, then `own_k`, `own_v` (like `q`) when `own_keys`, then
/// `rng[4]`, `row_keys[Q, 2]` (logical sequence, position of the query) when `dropout`; outputs `y[Q, H * D]`, `lse[Q, H]` (saved).
///
/// Query i reads the rows of sequence `i / (Q / B)`. A query that may attend to nothing gets `y = 0`, `lse = -1e30`.
#[derive(Clone, Copy, Debug)]
pub struct CrossAttention {
    /// Heads, each with its share of the columns.
    pub heads: usize,
    /// What scores are multiplied by, usually `head width ^ -1/2`.
    pub scale: f64,
    /// Query i also attends to key i of `own_k`, which no other query sees.
    pub own_keys: bool,
    /// On the probabilities; draws by (row key of the query, head, place of the key in the sequence).
    pub dropout: Option<Dropout>,
}

/// Queries that one worker computes.
const QUERY_BLOCK: usize = 16;

impl CrossAttention {
    fn rng_at(&self) -> usize {
        if self.own_keys { 6 } else { 4 }
    }

    fn arity(&self) -> usize {
        self.rng_at() + if self.dropout.is_some() { 2 } else { 0 }
    }

    /// The key rows of query `i`, in order; its own, behind all others, is row `rows + i`.
    fn keys(
        &self,
        borders: &[u32],
        queries: usize,
        rows: usize,
        i: usize,
    ) -> impl Iterator<Item = usize> + Clone + use<> {
        let sequence = i / (queries / (borders.len() - 1));
        let shared = borders[sequence] as usize..borders[sequence + 1] as usize;
        shared.chain(rows + i..rows + i + usize::from(self.own_keys))
    }

    /// Key (`which` = 1) or value (2) of a row, as `keys` numbers them.
    fn key_of<'a>(&self, inputs: &[&'a Array], which: usize, head: usize, row: usize) -> &'a [f64] {
        match row.checked_sub(inputs[1].rows()) {
            Some(own) => head_of(inputs[which + 3], self.heads, head, own),
            None => head_of(inputs[which], self.heads, head, row),
        }
    }

    /// The specification's `(j, p_ij, keep_ij)` of one query, and its `lse`.
    fn probabilities(&self, inputs: &[&Array], head: usize, i: usize) -> (Vec<(usize, f64, f64)>, f64) {
        let q = head_of(inputs[0], self.heads, head, i);
        let score = |j: usize| {
            let k = self.key_of(inputs, 1, head, j);
            self.scale * q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>()
        };
        let keys = self.keys(inputs[3].u(), inputs[0].rows(), inputs[1].rows(), i);
        let scores: Vec<(usize, f64)> = keys.map(|j| (j, score(j))).collect();
        if scores.is_empty() {
            return (Vec::new(), f64::from(LOWEST));
        }
        let peak = scores.iter().fold(f64::MIN, |m, s| m.max(s.1));
        let lse = peak + scores.iter().map(|s| (s.1 - peak).exp()).sum::<f64>().ln();
        let keep = |place: usize| {
            let Some(Dropout { probability, site }) = self.dropout else { return 1.0 };
            let (rng, keys) = (inputs[self.rng_at()].u(), inputs[self.rng_at() + 1].u());
            let feature = (head as u32) << 20 | place as u32;
            let word = RngState::from_words(rng).word(site, keys[2 * i], keys[2 * i + 1], feature);
            if word >= drop_threshold(probability) { 1.0 / (1.0 - probability) } else { 0.0 }
        };
        let weighed = scores.iter().enumerate().map(|(place, &(j, s))| (j, (s - lse).exp(), keep(place)));
        (weighed.collect(), lse)
    }

    /// Multiply-adds of one product over all pairs, from the mean length.
    fn pairs_flops(&self, inputs: &[&TensorType]) -> usize {
        2 * inputs[0].len() * (inputs[1].rows() / (inputs[3].len() - 1) + usize::from(self.own_keys))
    }
}

impl Op for CrossAttention {
    fn name(&self) -> &'static str {
        "cross_attention"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let [q, k, v, borders] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        let tables = q.shape.len() == 2 && k.shape.len() == 2 && k == v && q.width() == k.width();
        expect(self.name(), tables && inputs.len() == self.arity(), || {
            format!("q is {q}, k {k}, v {v}, of {} inputs", inputs.len())
        })?;
        let heads = self.heads > 0 && q.width().is_multiple_of(self.heads) && q.width() / self.heads <= MAX_WIDTH;
        expect(self.name(), heads, || {
            format!("q is {q} for {} heads; a head may have up to {MAX_WIDTH} columns", self.heads)
        })?;
        expect(self.name(), self.scale > 0.0, || format!("the scale is {}, it must be positive", self.scale))?;
        let fits = borders.dtype == DType::U32 && borders.len() > 1 && q.rows().is_multiple_of(borders.len() - 1);
        expect(self.name(), fits, || format!("{q} queries cannot be shared out over cu_seqlens {borders}"))?;
        let own = !self.own_keys || (inputs[4] == q && inputs[5] == q);
        expect(self.name(), own, || format!("own keys are {}, own values {}, queries {q}", inputs[4], inputs[5]))?;
        Ok(vec![q.clone(), TensorType::f32(&[q.rows(), self.heads])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let width = inputs[0].width() / self.heads;
        for (i, head) in (0..inputs[0].rows()).flat_map(|i| (0..self.heads).map(move |head| (i, head))) {
            let (pairs, lse) = self.probabilities(inputs, head, i);
            outputs[1].f_mut()[i * self.heads + head] = lse;
            let y = &mut outputs[0].f_mut()[(i * self.heads + head) * width..][..width];
            for (j, p, keep) in pairs {
                let v = self.key_of(inputs, 2, head, j);
                y.iter_mut().zip(v).for_each(|(y, v)| *y += keep * p * v);
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let worker = Worker::new(self, &io.inputs);
        let [y, lse] = &mut io.outputs[..] else { unreachable!("inferred") };
        let blocks = y.f().par_chunks_mut(QUERY_BLOCK * worker.stride);
        blocks.zip(lse.f().par_chunks_mut(QUERY_BLOCK * self.heads)).enumerate().for_each(|(block, (y, lse))| {
            let mut weights = Weights::default();
            let places = y.chunks_exact_mut(worker.width).zip(lse).enumerate();
            for (place, (y, lse)) in places {
                let (i, head) = (block * QUERY_BLOCK + place / self.heads, place % self.heads);
                *lse = worker.weigh(i, head, &mut weights);
                y.fill(0.0);
                for ((j, p), keep) in worker.keys(i).zip(&weights.p).zip(&weights.keep) {
                    simd::axpy(p * keep, worker.key(2, j, head), y);
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let operands = self.operands(b);
        let bindings = [(b.output(0), Write), (b.output(1), Write)];
        self.run(b, shader!("cross_attention"), operands, &bindings, self.heads * b.inputs[0].rows());
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        expect(self.name(), vjp.cotangent(1).is_none(), || "lse is saved, not differentiated".into())?;
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let mut inputs: Vec<_> = (0..vjp.n_inputs()).map(|i| vjp.input(i)).collect();
        inputs.extend([vjp.output(0), vjp.output(1), dy]);
        let gradients = vjp.add(CrossAttentionGradient { forward: *self }, &inputs)?;
        let differentiated = [0, 1, 2, 4, 5].into_iter().zip(gradients);
        for (i, gradient) in differentiated.filter(|(i, _)| vjp.needs(*i)).collect::<Vec<_>>() {
            vjp.accumulate(i, gradient)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * self.pairs_flops(inputs), inputs, outputs)
    }
}

/// Inputs: those of `forward`, then its outputs `y` and `lse`, then `dy`; outputs `dq`, `dk`, `dv` and, with own keys, `down_k`,
/// `down_v`, each like what it is the gradient of.
#[derive(Clone, Copy, Debug)]
pub struct CrossAttentionGradient {
    /// The op that this is the gradient of.
    pub forward: CrossAttention,
}

impl Op for CrossAttentionGradient {
    fn name(&self) -> &'static str {
        "cross_attention_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let own = if self.forward.own_keys { &inputs[4..6] } else { &[] };
        Ok(inputs[..3].iter().chain(own).map(|ty| (*ty).clone()).collect())
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let CrossAttention { heads, scale, .. } = self.forward;
        let width = inputs[0].width() / heads;
        for (i, head) in (0..inputs[0].rows()).flat_map(|i| (0..heads).map(move |head| (i, head))) {
            let at = |row: usize| (row * heads + head) * width;
            let dy = head_of(inputs[self.forward.arity() + 2], heads, head, i);
            let pairs = self.forward.probabilities(inputs, head, i).0;
            let dp = |j: usize, keep: f64| {
                let v = self.forward.key_of(inputs, 2, head, j);
                keep * dy.iter().zip(v).map(|(dy, v)| dy * v).sum::<f64>()
            };
            let delta: f64 = pairs.iter().map(|&(j, p, keep)| p * dp(j, keep)).sum();
            for &(j, p, keep) in &pairs {
                let ds = scale * p * (dp(j, keep) - delta);
                let k = self.forward.key_of(inputs, 1, head, j);
                let (dk, dv, row) = match j.checked_sub(inputs[1].rows()) {
                    Some(own) => (3, 4, own),
                    None => (1, 2, j),
                };
                for (d, dy) in dy.iter().enumerate() {
                    outputs[0].f_mut()[at(i) + d] += ds * k[d];
                    outputs[dk].f_mut()[at(row) + d] += ds * inputs[0].f()[at(i) + d];
                    outputs[dv].f_mut()[at(row) + d] += keep * p * dy;
                }
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let worker = Worker::new(&self.forward, &io.inputs);
        let saved = [0, 2].map(|i| io.inputs[self.forward.arity() + i].f());
        let borders = io.inputs[3].u();
        let [dq, dk, dv, own @ ..] = &mut io.outputs[..] else { unreachable!("inferred") };
        let per_sequence = worker.queries / (borders.len() - 1) * worker.stride;
        let [dk, dv] = [dk, dv].map(|out| {
            let (pieces, inert) = cut(out.f(), borders, worker.stride);
            inert.fill(0.0);
            pieces
        });
        let mut own = own.iter_mut().map(|out| out.f().chunks_mut(per_sequence).collect::<Vec<_>>());
        let mut own = || {
            let mut pieces = own.next().unwrap_or_default();
            pieces.resize_with(borders.len() - 1, Default::default);
            pieces
        };
        let (own_k, own_v) = (own(), own());
        let keys = dk.into_par_iter().zip(own_k).zip(dv.into_par_iter().zip(own_v));
        dq.f().par_chunks_mut(per_sequence).zip(keys).enumerate().for_each(|(sequence, (dq, (dk, dv)))| {
            worker.backward(sequence, saved, dq, [dk, dv]);
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let op = &self.forward;
        let [y, lse, dy] = [0, 1, 2].map(|i| b.input(op.arity() + i));
        let operands = op.operands(b);
        let stats = b.scratch(2 * lse.len);
        let sizes = [lse.len.into(), (b.inputs[0].width() / op.heads).into()];
        let bindings = [(y, Read), (dy, Read), (lse, Read), (stats, Write)];
        b.dispatch(shader!("attention_stats"), &[], &bindings, &sizes, lse.len.div_ceil(64));
        let bindings = [(stats, Read), (dy, Read), (b.output(0), Write)];
        op.run(b, shader!("cross_attention_query_gradient"), operands, &bindings, lse.len);
        let (rows, words) = (op.rows(b.inputs), b.inputs[1].len());
        let [dk, dv] = [1, 2].map(|i| if op.own_keys { b.scratch(operands[1].len) } else { b.output(i) });
        let bindings = [(stats, Read), (dy, Read), (dk, Write), (dv, Write)];
        op.run(b, shader!("cross_attention_key_gradient"), operands, &bindings, (op.heads * rows).div_ceil(64));
        if op.own_keys {
            for (joined, shared, own) in [(dk, 1, 3), (dv, 2, 4)] {
                copy_gpu(b, (joined, 0), (b.output(shared), 0), words);
                copy_gpu(b, (joined, words), (b.output(own), 0), joined.len - words);
            }
        }
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(5 * self.forward.pairs_flops(inputs), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("cross_attention", build)];

fn build(b: &mut Builder) -> Result<()> {
    let mut inputs = vec![b.input("q")?, b.input("k")?, b.input("v")?, b.input("cu_seqlens")?];
    let own_keys = b.has("own_k");
    if own_keys {
        inputs.extend([b.input("own_k")?, b.input("own_v")?]);
    }
    let dropout = b.optional_f64("dropout").map(|probability| Dropout { probability, site: Site(12) });
    if dropout.is_some() {
        inputs.push(b.rng());
        inputs.push(b.input("row_keys")?);
    }
    let (heads, scale) = (b.attr_usize("heads")?, b.attr_f64("scale")?);
    let op = CrossAttention { heads, scale, own_keys, dropout };
    let y = b.graph.add1(op, &inputs)?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, lengths: &[usize], per_sequence: usize, own: bool, (heads, width): (usize, usize)| {
        let borders: Vec<u32> = (0..=lengths.len()).map(|s| lengths[..s].iter().sum::<usize>() as u32).collect();
        let queries = lengths.len() * per_sequence;
        // Three inert rows behind the sequences.
        let rows = lengths.iter().sum::<usize>() + 3;
        let case = Case::new(KERNELS[0], name).attr("heads", heads).attr("scale", 1.0 / (width as f64).sqrt());
        let case = case.ids("cu_seqlens", &[borders.len()], &borders).normal("q", &[queries, heads * width], 1.0);
        let case = case.normal("k", &[rows, heads * width], 1.0).normal("v", &[rows, heads * width], 1.0);
        if !own {
            return case;
        }
        case.normal("own_k", &[queries, heads * width], 1.0).normal("own_v", &[queries, heads * width], 1.0)
    };
    let drop = |case: Case, queries: u32| {
        let keys: Vec<u32> = (0..queries).flat_map(|i| [1000 - i, 49]).collect();
        case.attr("dropout", 0.3).attr("seed", 5).attr("step", 2).ids("row_keys", &[queries as usize, 2], &keys)
    };
    let mut large = case("logits of 30, values of 1e4", &[5, 3], 2, false, (1, 8));
    large.tensors[1].tensor.words.iter_mut().for_each(|q| *q *= 15.0);
    large.tensors[3].tensor.words.iter_mut().for_each(|v| *v *= 1e4);
    vec![
        case("one key", &[1], 1, false, (1, 1)).attr("zero_gradient", true),
        case("one query each, an empty sequence", &[3, 0, 65, 2], 1, false, (2, 4)),
        case("own keys", &[3, 0, 65, 2], 1, true, (2, 5)),
        case("own keys, three queries each", &[64, 1, 0], 3, true, (1, 65)),
        case("ten queries each, wide heads", &[7, 12], 10, true, (2, 128)),
        large,
        drop(case("dropout", &[5, 0, 37], 2, false, (3, 4)), 6),
        drop(case("dropout, own keys", &[64, 2, 130], 1, true, (2, 32)), 3),
    ]
}
