//! Attention over packed sequences, per head: `y_i = sum_j keep_ij p_ij v_j`, `p_i = softmax_j(scale <q_i, k_j>)`.
//!
//! The rows of all sequences lie end to end, `cu_seqlens` holds their borders; rows behind the last border are inert.
//! Of the scores only `lse_i = log sum_j exp(scale <q_i, k_j>)` is saved; the gradient recomputes `p_ij` from it
//! (FlashAttention-2, arXiv 2307.08691). With `delta_i = <dy_i, y_i>` and `ds_ij = p_ij (keep_ij <dy_i, v_j> - delta_i)`:
//! `dq_i = scale sum_j ds_ij k_j`, `dk_j = scale sum_i ds_ij q_i`, `dv_j = sum_i keep_ij p_ij dy_i`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::GpuBuilder;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::rng::{RngState, Site, drop_threshold};
use crate::engine::tensor::{Array, DType, LOWEST, TensorType};
use crate::error::Result;
use crate::ops::dropout::Dropout;
use rayon::prelude::*;
use std::ops::Range;

#[path = "attention/cpu.rs"]
mod cpu;
#[path = "attention/gpu.rs"]
mod gpu;
#[path = "attention/panels.rs"]
mod panels;

/// Inputs `q`, `k`, `v` (`[N, H, D]` or `[N, H * D]`), `cu_seqlens[B + 1]`, then `row_flags[N]` when `key_flags`, then
/// `rng[4]`, `row_keys[N, 2]` (logical sequence, position) when `dropout`; outputs `y` (like `q`), `lse[N, H]` (saved).
///
/// A query that may attend to nothing gets `y = 0`, `lse = -1e30`.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Heads, each with its share of the columns.
    pub heads: usize,
    /// What scores are multiplied by, usually `head width ^ -1/2`.
    pub scale: f64,
    /// A row attends to itself and to what comes before it.
    pub causal: bool,
    /// On the probabilities; draws by (sequence, head, query, key).
    pub dropout: Option<Dropout>,
    /// Whether `row_flags` say what may be attended to.
    pub key_flags: bool,
}

/// Bit of `row_flags`: this row may be attended to.
pub const KEY_VISIBLE: u32 = 1;
/// Bit of `row_flags`: this query attends to all rows of its sequence, whatever their flags and whatever comes later. It
/// is what an additive mask makes of a row whose keys are all masked (CoSeRec's padding rows).
pub const QUERY_UNMASKED: u32 = 2;

/// Most columns of a head.
pub(crate) const MAX_WIDTH: usize = 128;

impl Attention {
    fn rng_at(&self) -> usize {
        if self.key_flags { 5 } else { 4 }
    }

    /// Number of the op's inputs.
    fn arity(&self) -> usize {
        self.rng_at() + if self.dropout.is_some() { 2 } else { 0 }
    }

    /// Whether query `i` may attend to key `j` of the same sequence.
    fn may_attend(&self, flags: Option<&[u32]>, i: usize, j: usize) -> bool {
        let flag = |row: usize| flags.map_or(KEY_VISIBLE, |flags| flags[row]);
        flag(i) & QUERY_UNMASKED != 0 || (flag(j) & KEY_VISIBLE != 0 && (!self.causal || j <= i))
    }

    /// The specification's `(j, p_ij, keep_ij)` of one query in the sequence `rows`, and its `lse`.
    fn probabilities(&self, inputs: &[&Array], head: usize, i: usize, rows: Range<usize>) -> (Vec<[f64; 3]>, f64) {
        let flags = self.key_flags.then(|| inputs[4].u());
        let (q, k) = (head_of(inputs[0], self.heads, head, i), |j| head_of(inputs[1], self.heads, head, j));
        let scores: Vec<(usize, f64)> = rows
            .filter(|&j| self.may_attend(flags, i, j))
            .map(|j| (j, self.scale * q.iter().zip(k(j)).map(|(q, k)| q * k).sum::<f64>()))
            .collect();
        if scores.is_empty() {
            return (Vec::new(), f64::from(LOWEST));
        }
        let peak = scores.iter().fold(f64::MIN, |m, s| m.max(s.1));
        let lse = peak + scores.iter().map(|s| (s.1 - peak).exp()).sum::<f64>().ln();
        let keep = |j: usize| {
            let Some(Dropout { probability, site }) = self.dropout else { return 1.0 };
            let (rng, keys) = (inputs[self.rng_at()].u(), inputs[self.rng_at() + 1].u());
            let feature = (head as u32) << 20 | keys[2 * j + 1];
            let word = RngState::from_words(rng).word(site, keys[2 * i], keys[2 * i + 1], feature);
            if word >= drop_threshold(probability) { 1.0 / (1.0 - probability) } else { 0.0 }
        };
        (scores.iter().map(|&(j, s)| [j as f64, (s - lse).exp(), keep(j)]).collect(), lse)
    }

    /// Multiply-adds of one product over all pairs, from the mean length.
    fn pairs_flops(&self, inputs: &[&TensorType]) -> usize {
        let (words, sequences) = (inputs[0].len(), inputs[3].len() - 1);
        let mean = inputs[0].shape[0] / sequences.max(1);
        2 * words * mean / if self.causal { 2 } else { 1 }
    }

    fn head_dim(&self, q: &TensorType) -> usize {
        q.shape[1..].iter().product::<usize>() / self.heads
    }
}

/// One head of one row.
pub(crate) fn head_of(x: &Array, heads: usize, head: usize, row: usize) -> &[f64] {
    let stride = x.shape()[1..].iter().product::<usize>();
    let width = stride / heads;
    &x.f()[row * stride + head * width..][..width]
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let q = inputs[0];
        let same = inputs.len() == self.arity() && inputs[1] == q && inputs[2] == q && q.shape.len() >= 2;
        expect("attention", same, || {
            format!("q is {q}, k {}, v {}, of {} inputs", inputs[1], inputs[2], inputs.len())
        })?;
        let heads_fit = match q.shape[1..] {
            [width] => self.heads > 0 && width > 0 && width % self.heads == 0,
            [heads, width] => heads > 0 && width > 0 && heads == self.heads,
            _ => false,
        };
        expect("attention", heads_fit && self.head_dim(q) <= MAX_WIDTH, || {
            format!("q is {q} for {} heads; a head may have up to {MAX_WIDTH} columns", self.heads)
        })?;
        expect("attention", self.scale > 0.0, || format!("the scale is {}, it must be positive", self.scale))?;
        let borders = inputs[3].dtype == DType::U32 && inputs[3].len() > 0;
        expect("attention", borders, || format!("cu_seqlens is {}, not u32[B + 1]", inputs[3]))?;
        Ok(vec![q.clone(), TensorType::f32(&[q.shape[0], self.heads])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        outputs[1].f_mut().fill(f64::from(LOWEST));
        let width = self.head_dim(&inputs[0].ty);
        for (rows, head) in sequences(inputs[3].u()).flat_map(|rows| (0..self.heads).map(move |h| (rows.clone(), h))) {
            for i in rows.clone() {
                let (pairs, lse) = self.probabilities(inputs, head, i, rows.clone());
                outputs[1].f_mut()[i * self.heads + head] = lse;
                let y = &mut outputs[0].f_mut()[(i * self.heads + head) * width..][..width];
                for [j, p, keep] in pairs {
                    let v = head_of(inputs[2], self.heads, head, j as usize);
                    y.iter_mut().zip(v).for_each(|(y, v)| *y += keep * p * v);
                }
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let worker = cpu::Worker::new(self, &io.inputs);
        let borders = io.inputs[3].u();
        let [y, lse] = &mut io.outputs[..] else { unreachable!("inferred") };
        let (y, inert_y) = cut(y.f(), borders, worker.stride);
        let (lse, inert_lse) = cut(lse.f(), borders, self.heads);
        inert_y.fill(0.0);
        inert_lse.fill(LOWEST);
        y.into_par_iter().zip(lse).enumerate().for_each(|(sequence, (y, lse))| {
            worker.forward(borders[sequence] as usize..borders[sequence + 1] as usize, y, lse);
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        gpu::forward(self, b);
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        expect("attention", vjp.cotangent(1).is_none(), || "lse is saved, not differentiated".into())?;
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let mut inputs: Vec<_> = (0..vjp.n_inputs()).map(|i| vjp.input(i)).collect();
        inputs.extend([vjp.output(0), vjp.output(1), dy]);
        let gradients = vjp.add(AttentionGradient { forward: *self }, &inputs)?;
        for i in (0..3).filter(|&i| vjp.needs(i)).collect::<Vec<_>>() {
            vjp.accumulate(i, gradients[i])?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * self.pairs_flops(inputs), inputs, outputs)
    }
}

/// Inputs: those of `forward`, then its outputs `y` and `lse`, then `dy`; outputs `dq`, `dk`, `dv`, each like `q`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionGradient {
    /// The op that this is the gradient of.
    pub forward: Attention,
}

impl Op for AttentionGradient {
    fn name(&self) -> &'static str {
        "attention_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone(); 3])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let Attention { heads, scale, .. } = self.forward;
        let width = self.forward.head_dim(&inputs[0].ty);
        let dy = inputs[self.forward.arity() + 2];
        for (rows, head) in sequences(inputs[3].u()).flat_map(|rows| (0..heads).map(move |h| (rows.clone(), h))) {
            for i in rows.clone() {
                let at = |row: usize| (row * heads + head) * width;
                let dy = head_of(dy, heads, head, i);
                let pairs = self.forward.probabilities(inputs, head, i, rows.clone()).0;
                let dp = |[j, _, keep]: [f64; 3]| {
                    let v = head_of(inputs[2], heads, head, j as usize);
                    keep * dy.iter().zip(v).map(|(dy, v)| dy * v).sum::<f64>()
                };
                let delta: f64 = pairs.iter().map(|&pair| pair[1] * dp(pair)).sum();
                for &pair in &pairs {
                    let ([j, p, keep], ds) = (pair, scale * pair[1] * (dp(pair) - delta));
                    let j = j as usize;
                    for (d, dy) in dy.iter().enumerate() {
                        outputs[0].f_mut()[at(i) + d] += ds * inputs[1].f()[at(j) + d];
                        outputs[1].f_mut()[at(j) + d] += ds * inputs[0].f()[at(i) + d];
                        outputs[2].f_mut()[at(j) + d] += keep * p * dy;
                    }
                }
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let worker = cpu::Worker::new(&self.forward, &io.inputs);
        let borders = io.inputs[3].u();
        let saved = [0, 1, 2].map(|i| io.inputs[self.forward.arity() + i].f());
        let [dq, dk, dv] = &mut io.outputs[..] else { unreachable!("inferred") };
        let [dq, dk, dv] = [dq, dk, dv].map(|out| {
            let (pieces, inert) = cut(out.f(), borders, worker.stride);
            inert.fill(0.0);
            pieces
        });
        dq.into_par_iter().zip(dk).zip(dv).enumerate().for_each(|(sequence, ((dq, dk), dv))| {
            worker.backward(borders[sequence] as usize..borders[sequence + 1] as usize, saved, [dq, dk, dv]);
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        gpu::backward(&self.forward, b);
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(5 * self.forward.pairs_flops(inputs), inputs, outputs)
    }
}

fn sequences(borders: &[u32]) -> impl Iterator<Item = Range<usize>> {
    borders.windows(2).map(|pair| pair[0] as usize..pair[1] as usize)
}

/// Cuts a row-wise buffer at the borders of the sequences; what remains are the inert rows.
pub(crate) fn cut<'a>(
    words: &'a mut [f32],
    borders: &[u32],
    words_per_row: usize,
) -> (Vec<&'a mut [f32]>, &'a mut [f32]) {
    let mut rest = words;
    let pieces = sequences(borders).map(|rows| rest.split_off_mut(..rows.len() * words_per_row).expect("borders fit"));
    (pieces.collect(), rest)
}

pub(crate) const KERNELS: &[Kernel] = &[("attention", build)];

fn build(b: &mut Builder) -> Result<()> {
    let mut inputs = vec![b.input("q")?, b.input("k")?, b.input("v")?, b.input("cu_seqlens")?];
    let heads = match b.graph.shape(inputs[0]) {
        [_, heads, _] => *heads,
        _ => b.attr_usize("heads")?,
    };
    let key_flags = b.has("row_flags");
    if key_flags {
        inputs.push(b.input("row_flags")?);
    }
    let dropout = b.optional_f64("dropout").map(|probability| Dropout { probability, site: Site(11) });
    if dropout.is_some() {
        inputs.push(b.rng());
        inputs.push(b.input("row_keys")?);
    }
    let op = Attention { heads, scale: b.attr_f64("scale")?, causal: b.attr_bool("causal")?, dropout, key_flags };
    let y = b.graph.add1(op, &inputs)?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, causal: bool, lengths: &[usize], inert: usize, (heads, width): (usize, usize)| {
        let borders: Vec<u32> = (0..=lengths.len()).map(|s| lengths[..s].iter().sum::<usize>() as u32).collect();
        let shape = [lengths.iter().sum::<usize>() + inert, heads, width];
        let case = Case::new(KERNELS[0], name).attr("causal", causal).attr("scale", 1.0 / (width as f64).sqrt());
        let case = case.normal("q", &shape, 1.0).normal("k", &shape, 1.0).normal("v", &shape, 1.0);
        case.ids("cu_seqlens", &[borders.len()], &borders)
    };
    let flags = |case: Case, n: usize, value: fn(usize) -> u32| {
        case.ids("row_flags", &[n], &(0..n).map(value).collect::<Vec<u32>>())
    };
    let drop = |case: Case, lengths: &[usize], inert: usize| {
        let rows = lengths.iter().enumerate().flat_map(|(s, &len)| (0..len).map(move |t| [7 - s as u32, 3 + t as u32]));
        let keys: Vec<u32> = rows.chain((0..inert).map(|_| [u32::MAX; 2])).flatten().collect();
        case.attr("dropout", 0.3).attr("seed", 5).attr("step", 2).ids("row_keys", &[keys.len() / 2, 2], &keys)
    };
    let far_apart = |mut case: Case| {
        let keys = &mut case.tensors.last_mut().expect("row_keys").tensor.words;
        let scattered = |position: &mut f32| *position = f32::from_bits(position.to_bits() * 37 % 64);
        keys.chunks_exact_mut(2).for_each(|key| scattered(&mut key[1]));
        case
    };
    let flat = |mut case: Case, heads: usize| {
        for t in case.tensors.iter_mut().filter(|t| t.tensor.ty.shape.len() == 3) {
            let [n, h, d] = t.tensor.ty.shape[..] else { unreachable!("just filtered") };
            t.tensor.ty = TensorType::f32(&[n, h * d]);
        }
        case.attr("heads", heads)
    };
    let mut large = case("logits of 30, values of 1e4", true, &[5, 3], 0, (1, 8));
    large.tensors[0].tensor.words.iter_mut().for_each(|q| *q *= 15.0);
    large.tensors[2].tensor.words.iter_mut().for_each(|v| *v *= 1e4);
    vec![
        case("causal", true, &[3, 1, 0, 2], 2, (2, 4)),
        case("bidirectional, one head, odd width", false, &[0, 1, 7, 0], 3, (1, 5)),
        case("causal, 65 rows", true, &[65, 2], 1, (1, 16)),
        flat(case("four heads in one axis", false, &[33, 30], 64, (4, 3)), 4),
        case("only inert rows", true, &[0, 0], 3, (1, 2)).attr("zero_gradient", true),
        large,
        flags(case("hidden keys", true, &[6, 4, 1], 1, (2, 8)), 12, |i| u32::from(i % 3 != 0)),
        flags(case("hidden keys, unmasked queries", true, &[9, 40], 2, (1, 6)), 51, |i| [2, 1, 3, 1, 0][i % 5]),
        flags(case("one unmasked query of 130", true, &[130], 0, (1, 4)), 130, |i| [3, 1][usize::from(i != 70)]),
        drop(case("dropout", true, &[5, 0, 37], 2, (2, 4)), &[5, 0, 37], 2),
        drop(case("dropout, long", true, &[70], 0, (1, 4)), &[70], 0),
        case("wide head", true, &[9, 12], 1, (1, 128)),
        case("head of 64", true, &[19, 50], 1, (1, 64)),
        drop(case("dropout, two heads of 32", true, &[5, 0, 37], 2, (2, 32)), &[5, 0, 37], 2),
        far_apart(drop(case("dropout, positions in no order", false, &[30, 3], 0, (1, 4)), &[30, 3], 0)),
        drop(flags(case("dropout, flags", false, &[4, 9], 0, (2, 6)), 13, |i| [1, 0, 3][i % 3]), &[4, 9], 0),
    ]
}
