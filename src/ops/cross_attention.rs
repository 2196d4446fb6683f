//! Attention of queries that are no rows of the sequences they read: per head `y_i = sum_j keep_ij p_ij v_j`,
//! `p_i = softmax_j(scale <q_i, k_j>)`, over the rows j of the query's sequence and, with `own_keys`, one row of its own.
//!
//! Every sequence has the same number of queries, S = Q / B. With S = 1 and without own keys it is the last layer of an
//! encoder of which one row per sequence is wanted; with own keys, S queries share the keys of a sequence that none of them
//! changes (the seeds and steps of a diffusion model whose history does not see the noisy slot).
//!
//! Saved are `lse_i = log sum_j exp(scale <q_i, k_j>)`. With `delta_i = <dy_i, y_i>` and
//! `ds_ij = p_ij (keep_ij <dy_i, v_j> - delta_i)`: `dq_i = scale sum_j ds_ij k_j`, `dk_j = scale sum_i ds_ij q_i`,
//! `dv_j = sum_i keep_ij p_ij dy_i`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::{CpuIo, In};
use crate::engine::exec::gpu::kernel::{Access, Access::Read, Access::Write, GpuBuilder, Region, Shader};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::rng::{RngState, Site, drop_threshold};
use crate::engine::tensor::{Array, DType, TensorType};
use crate::error::Result;
use crate::ops::attention::{AttentionDropout, HIDDEN, MAX_WIDTH, cut, head_of};
use crate::shader;
use rayon::prelude::*;

/// Inputs `q[Q, H * D]`, `k[R, H * D]`, `v[R, H * D]`, `cu_seqlens[B + 1]`, then `rng[4]`, `row_keys[Q, 2]` (logical sequence,
/// position of the query) when `dropout`; outputs `y[Q, H * D]`, `lse[Q, H]` (saved).
///
/// Query i reads the rows of sequence `i / (Q / B)`. A query that may attend to nothing gets `y = 0`, `lse = -1e30`.
#[derive(Clone, Copy, Debug)]
pub struct CrossAttention {
    /// Heads, each with its share of the columns.
    pub heads: usize,
    /// What scores are multiplied by, usually `head width ^ -1/2`.
    pub scale: f64,
    /// Query i also attends to row `R - Q + i`: the last rows belong to no sequence, but to the queries.
    pub own_keys: bool,
    /// On the probabilities; draws by (row key of the query, head, place of the key in the sequence).
    pub dropout: Option<AttentionDropout>,
}

/// Queries that one worker computes.
const QUERY_BLOCK: usize = 16;

impl CrossAttention {
    fn arity(&self) -> usize {
        if self.dropout.is_some() { 6 } else { 4 }
    }

    /// The key rows of query `i`, in order; the place of its own is behind all others.
    fn keys(
        &self,
        borders: &[u32],
        queries: usize,
        rows: usize,
        i: usize,
    ) -> impl Iterator<Item = usize> + Clone + use<> {
        let sequence = i / (queries / (borders.len() - 1));
        let own = rows - queries.min(rows) + i;
        let shared = borders[sequence] as usize..borders[sequence + 1] as usize;
        shared.chain(own..own + usize::from(self.own_keys))
    }

    /// The specification's `(j, p_ij, keep_ij)` of one query, and its `lse`.
    fn probabilities(&self, inputs: &[&Array], head: usize, i: usize) -> (Vec<(usize, f64, f64)>, f64) {
        let q = head_of(inputs[0], self.heads, head, i);
        let score = |j: usize| {
            let k = head_of(inputs[1], self.heads, head, j);
            self.scale * q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>()
        };
        let keys = self.keys(inputs[3].u(), inputs[0].rows(), inputs[1].rows(), i);
        let scores: Vec<(usize, f64)> = keys.map(|j| (j, score(j))).collect();
        if scores.is_empty() {
            return (Vec::new(), f64::from(HIDDEN));
        }
        let peak = scores.iter().fold(f64::MIN, |m, s| m.max(s.1));
        let lse = peak + scores.iter().map(|s| (s.1 - peak).exp()).sum::<f64>().ln();
        let keep = |place: usize| {
            let Some(AttentionDropout { probability, site }) = self.dropout else { return 1.0 };
            let (rng, keys) = (inputs[4].u(), inputs[5].u());
            let feature = (head as u32) << 20 | place as u32;
            let word = RngState::from_words(rng).word(site, keys[2 * i], keys[2 * i + 1], feature);
            if word >= drop_threshold(probability) { 1.0 / (1.0 - probability) } else { 0.0 }
        };
        let weighed = scores.iter().enumerate().map(|(place, &(j, s))| (j, (s - lse).exp(), keep(place)));
        (weighed.collect(), lse)
    }

    /// Multiply-adds of one product over all pairs, from the mean length.
    fn pairs_flops(&self, inputs: &[&TensorType]) -> usize {
        let (queries, rows, sequences) = (inputs[0].rows(), inputs[1].rows(), inputs[3].len() - 1);
        let shared = if self.own_keys { rows - queries } else { rows };
        2 * inputs[0].len() * (shared / sequences + usize::from(self.own_keys))
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
        let own = !self.own_keys || k.rows() >= q.rows();
        expect(self.name(), own, || format!("k is {k}, too few rows for own keys of queries {q}"))?;
        Ok(vec![q.clone(), TensorType::f32(&[q.rows(), self.heads])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let width = inputs[0].width() / self.heads;
        for (i, head) in (0..inputs[0].rows()).flat_map(|i| (0..self.heads).map(move |head| (i, head))) {
            let (pairs, lse) = self.probabilities(inputs, head, i);
            outputs[1].f_mut()[i * self.heads + head] = lse;
            let y = &mut outputs[0].f_mut()[(i * self.heads + head) * width..][..width];
            for (j, p, keep) in pairs {
                let v = head_of(inputs[2], self.heads, head, j);
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
                    simd::axpy(p * keep, worker.head(2, j, head), y);
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) -> Result<()> {
        let places = self.places(b)?;
        let bindings = [(places, Read), (b.output(0), Write), (b.output(1), Write)];
        self.run(b, shader!("cross_attention"), &bindings, self.heads * b.inputs[0].rows())
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        expect(self.name(), vjp.cotangent(1).is_none(), || "lse is saved, not differentiated".into())?;
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let mut inputs: Vec<_> = (0..vjp.n_inputs()).map(|i| vjp.input(i)).collect();
        inputs.extend([vjp.output(0), vjp.output(1), dy]);
        let gradients = vjp.add(CrossAttentionGradient { forward: *self }, &inputs)?;
        for i in (0..3).filter(|&i| vjp.needs(i)).collect::<Vec<_>>() {
            vjp.accumulate(i, gradients[i])?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * self.pairs_flops(inputs), inputs, outputs)
    }
}

/// Inputs: those of `forward`, then its outputs `y` and `lse`, then `dy`; outputs `dq`, `dk`, `dv`, like `q`, `k`, `v`.
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
        Ok(vec![inputs[0].clone(), inputs[1].clone(), inputs[2].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let CrossAttention { heads, scale, .. } = self.forward;
        let width = inputs[0].width() / heads;
        for (i, head) in (0..inputs[0].rows()).flat_map(|i| (0..heads).map(move |head| (i, head))) {
            let at = |row: usize| (row * heads + head) * width;
            let dy = head_of(inputs[self.forward.arity() + 2], heads, head, i);
            let pairs = self.forward.probabilities(inputs, head, i).0;
            let dp = |j: usize, keep: f64| {
                let v = head_of(inputs[2], heads, head, j);
                keep * dy.iter().zip(v).map(|(dy, v)| dy * v).sum::<f64>()
            };
            let delta: f64 = pairs.iter().map(|&(j, p, keep)| p * dp(j, keep)).sum();
            for &(j, p, keep) in &pairs {
                let ds = scale * p * (dp(j, keep) - delta);
                for (d, dy) in dy.iter().enumerate() {
                    outputs[0].f_mut()[at(i) + d] += ds * inputs[1].f()[at(j) + d];
                    outputs[1].f_mut()[at(j) + d] += ds * inputs[0].f()[at(i) + d];
                    outputs[2].f_mut()[at(j) + d] += keep * p * dy;
                }
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let worker = Worker::new(&self.forward, &io.inputs);
        let saved = [0, 2].map(|i| io.inputs[self.forward.arity() + i].f());
        let borders = io.inputs[3].u();
        let [dq, dk, dv] = &mut io.outputs[..] else { unreachable!("inferred") };
        let (stride, per_sequence) = (worker.stride, worker.queries / (borders.len() - 1) * worker.stride);
        let dq = dq.f().par_chunks_mut(per_sequence);
        let [dk, dv] = [dk, dv].map(|out| {
            let (shared, rest) = cut(out.f(), borders, stride);
            let behind = if self.forward.own_keys { rest.len() - worker.queries * stride } else { rest.len() };
            let (inert, own) = rest.split_at_mut(behind);
            inert.fill(0.0);
            let mut own: Vec<&mut [f32]> = own.chunks_mut(per_sequence).collect();
            own.resize_with(borders.len() - 1, Default::default);
            shared.into_iter().zip(own).collect::<Vec<_>>()
        });
        dq.zip(dk).zip(dv).enumerate().for_each(|(sequence, ((dq, dk), dv))| {
            worker.backward(sequence, borders[sequence] as usize, saved, dq, [dk, dv]);
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) -> Result<()> {
        let op = &self.forward;
        let [y, lse, dy] = [0, 1, 2].map(|i| b.input(op.arity() + i));
        let places = op.places(b)?;
        let stats = b.scratch(2 * lse.len);
        let sizes = [lse.len.into(), (b.inputs[0].width() / op.heads).into()];
        let bindings = [(y, Read), (dy, Read), (lse, Read), (stats, Write)];
        b.dispatch(shader!("attention_stats"), &[], &bindings, &sizes, lse.len.div_ceil(64))?;
        let bindings = [(places, Read), (stats, Read), (dy, Read), (b.output(0), Write)];
        op.run(b, shader!("cross_attention_query_gradient"), &bindings, lse.len)?;
        let bindings = [(places, Read), (stats, Read), (dy, Read), (b.output(1), Write), (b.output(2), Write)];
        let groups = (op.heads * b.inputs[1].rows()).div_ceil(64);
        op.run(b, shader!("cross_attention_key_gradient"), &bindings, groups)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(5 * self.forward.pairs_flops(inputs), inputs, outputs)
    }
}

impl CrossAttention {
    /// What the kernels ask of a query: the rows that it reads, and what its random numbers are counted by.
    fn places(&self, b: &mut GpuBuilder) -> Result<Region> {
        let (queries, borders, keyed) = (b.inputs[0].rows(), b.input(3), self.dropout.is_some());
        let places = b.scratch(4 * (1 + queries));
        let [rng, keys] = if keyed { [b.input(4), b.input(5)] } else { [borders; 2] };
        let params = [queries.into(), (queries / (borders.len - 1)).into(), keyed.into()];
        let bindings = [(borders, Read), (rng, Read), (keys, Read), (places, Write)];
        b.dispatch(shader!("cross_attention_places"), &[], &bindings, &params, queries.div_ceil(64))?;
        Ok(places)
    }

    fn run(&self, b: &mut GpuBuilder, shader: Shader, more: &[(Region, Access)], groups: usize) -> Result<()> {
        let (queries, sequences) = (b.inputs[0].rows(), b.inputs[3].len() - 1);
        let dropout = self.dropout.unwrap_or(AttentionDropout { probability: 0.0, site: Site(0) });
        let params = [
            queries.into(),
            (queries / sequences).into(),
            b.inputs[1].rows().into(),
            self.heads.into(),
            (b.inputs[0].width() / self.heads).into(),
            self.scale.into(),
            self.own_keys.into(),
            dropout.site.0.into(),
            drop_threshold(dropout.probability).into(),
            (1.0 / (1.0 - dropout.probability)).into(),
        ];
        let mut bindings = vec![(b.input(0), Read), (b.input(1), Read), (b.input(2), Read)];
        bindings.extend(more);
        b.dispatch(shader, &[("DROPOUT", u32::from(self.dropout.is_some()))], &bindings, &params, groups)
    }
}

/// Probabilities and dropout factors of one query and head, by the place of the key.
#[derive(Default)]
struct Weights {
    p: Vec<f32>,
    keep: Vec<f32>,
}

/// What the CPU kernels share.
struct Worker<'a> {
    op: &'a CrossAttention,
    /// `q`, `k`, `v`
    data: [&'a [f32]; 3],
    borders: &'a [u32],
    random: Option<(AttentionDropout, RngState, &'a [u32])>,
    queries: usize,
    rows: usize,
    /// Words of a row, and of a head.
    stride: usize,
    width: usize,
}

impl<'a> Worker<'a> {
    fn new(op: &'a CrossAttention, inputs: &[In<'a>]) -> Self {
        let stride = inputs[0].width();
        Worker {
            op,
            data: [inputs[0].f(), inputs[1].f(), inputs[2].f()],
            borders: inputs[3].u(),
            random: op.dropout.map(|dropout| (dropout, RngState::from_words(inputs[4].u()), inputs[5].u())),
            queries: inputs[0].rows(),
            rows: inputs[1].rows(),
            stride,
            width: stride / op.heads,
        }
    }

    fn keys(&self, i: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        self.op.keys(self.borders, self.queries, self.rows, i)
    }

    /// Columns of a head of `q`, `k` or `v`, by their place among the inputs.
    fn head(&self, which: usize, row: usize, head: usize) -> &'a [f32] {
        &self.data[which][row * self.stride + head * self.width..][..self.width]
    }

    /// Softmax and dropout factors of a query; its `lse`.
    fn weigh(&self, i: usize, head: usize, weights: &mut Weights) -> f32 {
        let q = self.head(0, i, head);
        let score = |j| self.op.scale as f32 * simd::dot(q, self.head(1, j, head));
        weights.p.clear();
        weights.p.extend(self.keys(i).map(score));
        weights.keep.clear();
        weights.keep.resize(weights.p.len(), 1.0);
        if weights.p.is_empty() {
            return HIDDEN;
        }
        let peak = simd::max(&weights.p);
        let sum = simd::exp_sub_sum(&mut weights.p, peak);
        simd::scale(&mut weights.p, 1.0 / sum);
        if let Some((AttentionDropout { probability, site }, state, keys)) = self.random {
            let (threshold, scale) = (drop_threshold(probability), (1.0 / (1.0 - probability)) as f32);
            for (keep, block) in weights.keep.chunks_mut(4).zip((head as u32) << 18..) {
                let words = state.block(site, keys[2 * i], keys[2 * i + 1], block);
                keep.iter_mut().zip(words).for_each(|(keep, word)| *keep = if word >= threshold { scale } else { 0.0 });
            }
        }
        peak + sum.ln()
    }

    /// All gradients of one sequence: its queries, its rows from `first` on, the rows of its queries.
    fn backward(
        &self,
        sequence: usize,
        first: usize,
        [y, dy]: [&[f32]; 2],
        dq: &mut [f32],
        [(dk, dk_own), (dv, dv_own)]: [(&mut [f32], &mut [f32]); 2],
    ) {
        let (stride, width, scale) = (self.stride, self.width, self.op.scale as f32);
        [&mut *dk, &mut *dk_own, &mut *dv, &mut *dv_own].into_iter().for_each(|out| out.fill(0.0));
        let (mut weights, queries) = (Weights::default(), dq.len() / stride);
        let shared = dk.len() / stride;
        for (place, dq) in dq.chunks_exact_mut(width).enumerate() {
            let (query, head) = (place / self.op.heads, place % self.op.heads);
            let i = sequence * queries + query;
            self.weigh(i, head, &mut weights);
            let of_head = |row: usize| row * stride + head * width..row * stride + (head + 1) * width;
            let (q, dy, y) = (self.head(0, i, head), &dy[of_head(i)], &y[of_head(i)]);
            let delta = simd::dot(dy, y);
            dq.fill(0.0);
            for ((j, p), keep) in self.keys(i).zip(&weights.p).zip(&weights.keep) {
                let is_shared = j < first + shared && j >= first;
                let (dk, dv, row) =
                    if is_shared { (&mut *dk, &mut *dv, j - first) } else { (&mut *dk_own, &mut *dv_own, query) };
                let ds = scale * p * (keep * simd::dot(dy, self.head(2, j, head)) - delta);
                simd::axpy(ds, self.head(1, j, head), dq);
                simd::axpy(ds, q, &mut dk[of_head(row)]);
                simd::axpy(keep * p, dy, &mut dv[of_head(row)]);
            }
        }
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("cross_attention", build)];

fn build(b: &mut Builder) -> Result<()> {
    let mut inputs = vec![b.input("q")?, b.input("k")?, b.input("v")?, b.input("cu_seqlens")?];
    let dropout = b.optional_f64("dropout").map(|probability| AttentionDropout { probability, site: Site(12) });
    if dropout.is_some() {
        inputs.push(b.rng());
        inputs.push(b.input("row_keys")?);
    }
    let (heads, scale) = (b.attr_usize("heads")?, b.attr_f64("scale")?);
    let op = CrossAttention { heads, scale, own_keys: b.attr_bool("own_keys")?, dropout };
    let y = b.graph.add1(op, &inputs)?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, lengths: &[usize], per_sequence: usize, own: bool, (heads, width): (usize, usize)| {
        let borders: Vec<u32> = (0..=lengths.len()).map(|s| lengths[..s].iter().sum::<usize>() as u32).collect();
        let queries = lengths.len() * per_sequence;
        // Three inert rows behind the sequences, then those of the queries.
        let rows = lengths.iter().sum::<usize>() + 3 + if own { queries } else { 0 };
        let case = Case::new(KERNELS[0], name).attr("heads", heads).attr("own_keys", own);
        let case = case.attr("scale", 1.0 / (width as f64).sqrt()).ids("cu_seqlens", &[borders.len()], &borders);
        let case = case.normal("q", &[queries, heads * width], 1.0).normal("k", &[rows, heads * width], 1.0);
        case.normal("v", &[rows, heads * width], 1.0)
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
