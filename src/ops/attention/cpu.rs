//! Attention of one sequence on one core: blocks of `GROUP` query rows against the keys they can reach.

use super::panels::{Form, LANES, Lanes, Out, Product, QUAD, Reach, View, pack, pack_transposed};
use super::{Attention, KEY_VISIBLE, QUERY_UNMASKED};
use crate::engine::exec::cpu::In;
use crate::engine::exec::simd;
use crate::engine::rng::{RngState, draw_from, drop_threshold};
use crate::engine::tensor::LOWEST;
use crate::ops::dropout::Dropout;
use bytemuck::cast_slice_mut;
use std::cell::RefCell;
use std::ops::Range;

/// Query rows that are worked on together; a multiple of `QUAD`.
const GROUP: usize = 64;
/// Up to so many keys their random words are drawn block by block: side by side most would be drawn in vain.
const FEW_KEYS: usize = 12;

thread_local! {
    /// Panels and probabilities of the sequence at hand. Its size depends on the longest sequence, which no plan knows;
    /// a scratch for all sequences at once would be large and cold.
    static WORKSPACE: RefCell<Vec<Lanes>> = const { RefCell::new(Vec::new()) };
}

/// What the workers of all sequences share.
pub(super) struct Worker<'a> {
    op: &'a Attention,
    qkv: [&'a [f32]; 3],
    flags: Option<&'a [u32]>,
    random: Option<(Dropout, RngState, &'a [u32])>,
    /// Words of a row: heads times width.
    pub stride: usize,
    /// Columns of a head.
    width: usize,
}

impl<'a> Worker<'a> {
    pub fn new(op: &'a Attention, inputs: &[In<'a>]) -> Self {
        let width = op.head_dim(inputs[0].ty);
        let random = |dropout| (dropout, RngState::from_words(inputs[op.rng_at()].u()), inputs[op.rng_at() + 1].u());
        Worker {
            op,
            qkv: [inputs[0].f(), inputs[1].f(), inputs[2].f()],
            flags: op.key_flags.then(|| inputs[4].u()),
            random: op.dropout.map(random),
            stride: op.heads * width,
            width,
        }
    }

    fn head(&self, x: &'a [f32], head: usize, rows: Range<usize>) -> View<'a> {
        View {
            data: &x[rows.start * self.stride + head * self.width..],
            stride: self.stride,
            rows: rows.len(),
            width: self.width,
        }
    }

    fn unmasked(&self, row: usize) -> bool {
        self.flags.is_some_and(|flags| flags[row] & QUERY_UNMASKED != 0)
    }

    /// Blocks of query rows with the keys that they can reach.
    fn groups(&self, rows: Range<usize>) -> impl Iterator<Item = (Range<usize>, Reach)> {
        let mut reached = 0;
        rows.clone().step_by(GROUP).map(move |first| {
            let group = first..(first + GROUP).min(rows.end);
            let all = !self.op.causal || group.clone().any(|i| self.unmasked(i));
            let reach = match all {
                true => Reach { keys: rows.len(), diagonal: None, reached },
                false => Reach { keys: group.end - rows.start, diagonal: Some(first - rows.start), reached },
            };
            reached = reached.max(reach.keys);
            (group, reach)
        })
    }

    /// Sets to `LOWEST` what query `i` may not see of the scores, which begin at key `first` and end in whole panels.
    fn mask(&self, scores: &mut [f32], i: usize, rows: &Range<usize>) {
        let unmasked = self.unmasked(i);
        let end = if self.op.causal && !unmasked { i + 1 } else { rows.end };
        scores[end - rows.start..].fill(LOWEST);
        if let (Some(flags), false) = (self.flags, unmasked) {
            let hidden = scores.iter_mut().zip(&flags[rows.start..end]).filter(|(_, flag)| *flag & KEY_VISIBLE == 0);
            hidden.for_each(|(score, _)| *score = LOWEST);
        }
    }

    /// Whether the random words of a sequence's keys lie side by side.
    fn consecutive(&self, rows: &Range<usize>) -> bool {
        let Some((_, _, keys)) = self.random else { return false };
        (keys[2 * rows.start + 1]..).zip(rows.clone()).all(|(position, j)| keys[2 * j + 1] == position)
    }

    /// `keep_ij` for the first keys of the sequence.
    fn keep(&self, head: usize, i: usize, first: usize, consecutive: bool, keep: &mut [f32]) {
        let Some((Dropout { probability, site }, state, keys)) = self.random else { return };
        let (threshold, scale) = (drop_threshold(probability), (1.0 / (1.0 - probability)) as f32);
        // By bits: behind a reference, `if word >= threshold { scale }` becomes a gather.
        let scale = scale.to_bits();
        let factor = move |word: u32| f32::from_bits(u32::from(word >= threshold).wrapping_neg() & scale);
        let feature = |j: usize| (head as u32) << 20 | keys[2 * j + 1];
        let row_key = &keys[2 * i..2 * i + 2];
        if keep.len() <= FEW_KEYS || !consecutive {
            let (mut words, mut held) = ([0; 4], None);
            for (keep, feature) in keep.iter_mut().zip((first..).map(feature)) {
                if held != Some(feature >> 2) {
                    held = Some(feature >> 2);
                    words = state.block(site, row_key[0], row_key[1], feature >> 2);
                }
                *keep = factor(words[(feature & 3) as usize]);
            }
            return;
        }
        // Blocks of words side by side; the first block may begin with words of positions before the sequence.
        let (block, before) = (feature(first) >> 2, (feature(first) & 3) as usize);
        simd::vectorised(
            #[inline(always)]
            || {
                draw_from(block, state, site, row_key, before + keep.len(), |at, words| {
                    let skipped = before.saturating_sub(at);
                    let own = keep[(at + skipped) - before..].iter_mut();
                    own.zip(&words[skipped..]).for_each(|(keep, word)| *keep = factor(*word));
                });
            },
        );
    }

    /// A product whose result has the columns of a head.
    fn product(&self, form: Form, a: View, panels: &[Lanes], reach: Reach, out: &mut [f32]) {
        let out = Out { data: out, stride: self.stride, width: self.width };
        Product { form, a, panels, reach, out }.run();
    }

    /// Brings a sequence into the cache: heads read their own part of its rows.
    fn fetch(&self, rows: &Range<usize>, tensors: &[&[f32]]) {
        tensors.iter().for_each(|x| simd::fetch(&x[rows.start * self.stride..rows.end * self.stride]));
    }

    /// Lends areas of these sizes.
    fn with_workspace<const N: usize>(sizes: [usize; N], work: impl FnOnce([&mut [Lanes]; N])) {
        WORKSPACE.with_borrow_mut(|workspace| {
            let needed: usize = sizes.iter().sum();
            if workspace.len() < needed {
                workspace.resize(needed, Lanes([0.0; LANES]));
            }
            let mut rest = &mut workspace[..];
            work(sizes.map(|size| rest.split_off_mut(..size).expect("resized")));
        });
    }

    /// `y` and `lse` of one sequence.
    pub fn forward(&self, rows: Range<usize>, y: &mut [f32], lse: &mut [f32]) {
        if rows.is_empty() {
            return;
        }
        self.fetch(&rows, &self.qkv);
        let (key_panels, column_panels) = (rows.len().div_ceil(LANES), self.width.div_ceil(LANES));
        let sizes = [key_panels * self.width, column_panels * rows.len(), GROUP * key_panels, key_panels];
        Self::with_workspace(sizes, |[keys, values, scores, keep]| {
            let (padded, consecutive) = (key_panels * LANES, self.consecutive(&rows));
            for head in 0..self.op.heads {
                let [_, k, v] = self.qkv.map(|x| self.head(x, head, rows.clone()));
                pack_transposed(k, self.op.scale as f32, keys);
                pack(v, values);
                for (group, reach) in self.groups(rows.clone()) {
                    let (first, len) = (group.start - rows.start, group.len());
                    let scores = &mut cast_slice_mut::<_, f32>(scores)[..len * padded];
                    against_keys(self.head(self.qkv[0], head, group.clone()), keys, reach, scores, padded);
                    for (n, row) in scores.chunks_exact_mut(padded).enumerate() {
                        let row = &mut row[..reach.of_quad(n / QUAD * QUAD).next_multiple_of(LANES)];
                        let lse = &mut lse[(first + n) * self.op.heads + head];
                        self.mask(row, group.start + n, &rows);
                        *lse = softmax(row);
                        if self.random.is_some() {
                            let keep = &mut cast_slice_mut::<_, f32>(keep)[..row.len().min(rows.len())];
                            self.keep(head, group.start + n, rows.start, consecutive, keep);
                            row.iter_mut().zip(&*keep).for_each(|(p, keep)| *p *= keep);
                        }
                    }
                    let p = View { data: scores, stride: padded, rows: len, width: rows.len() };
                    let y = &mut y[first * self.stride + head * self.width..];
                    self.product(Form::Mix, p, values, reach, y);
                }
            }
        });
    }

    /// `dq`, `dk`, `dv` of one sequence from `y`, `lse` and `dy` of all.
    pub fn backward(&self, rows: Range<usize>, saved: [&[f32]; 3], gradients: [&mut [f32]; 3]) {
        if rows.is_empty() {
            return;
        }
        let ([y, lse, dy], [dq, dk, dv]) = (saved, gradients);
        self.fetch(&rows, &self.qkv);
        self.fetch(&rows, &[y, dy]);
        let (key_panels, column_panels) = (rows.len().div_ceil(LANES), self.width.div_ceil(LANES));
        let (by_key, by_column) = (key_panels * self.width, column_panels * rows.len());
        let (block, group_panels) = (GROUP * key_panels, column_panels * GROUP);
        let sizes = [by_key, by_key, by_column, group_panels, group_panels, block, block, key_panels];
        Self::with_workspace(sizes, |[keys, values, key_columns, queries, cotangents, p, ds, keep]| {
            let (padded, scale, consecutive) = (key_panels * LANES, self.op.scale as f32, self.consecutive(&rows));
            for head in 0..self.op.heads {
                let at = head * self.width;
                let [_, k, v] = self.qkv.map(|x| self.head(x, head, rows.clone()));
                pack_transposed(k, scale, keys);
                pack_transposed(v, 1.0, values);
                pack(k, key_columns);
                for (group, reach) in self.groups(rows.clone()) {
                    let (first, len) = (group.start - rows.start, group.len());
                    let [q, cotangent, out] = [self.qkv[0], dy, y].map(|x| self.head(x, head, group.clone()));
                    let p = &mut cast_slice_mut::<_, f32>(p)[..len * padded];
                    let ds = &mut cast_slice_mut::<_, f32>(ds)[..len * padded];
                    against_keys(q, keys, reach, p, padded);
                    against_keys(cotangent, values, reach, ds, padded);
                    for (n, (p, ds)) in p.chunks_exact_mut(padded).zip(ds.chunks_exact_mut(padded)).enumerate() {
                        let end = reach.of_quad(n / QUAD * QUAD).next_multiple_of(LANES);
                        let (p, ds, i) = (&mut p[..end], &mut ds[..end], group.start + n);
                        self.mask(p, i, &rows);
                        let lse = lse[i * self.op.heads + head];
                        let own = n * self.stride..n * self.stride + self.width;
                        let delta = simd::dot(&cotangent.data[own.clone()], &out.data[own]);
                        // A query without keys has lse = -1e30: its probabilities are zero, not one.
                        simd::exp_sub_scale(p, lse, if lse > LOWEST { 1.0 } else { 0.0 });
                        if self.random.is_some() {
                            let keep = &mut cast_slice_mut::<_, f32>(keep)[..end.min(rows.len())];
                            self.keep(head, i, rows.start, consecutive, keep);
                            ds.iter_mut().zip(&*keep).for_each(|(ds, keep)| *ds *= keep);
                            simd::vectorised(
                                #[inline(always)]
                                || score_gradients(p, ds, delta, scale),
                            );
                            p.iter_mut().zip(&*keep).for_each(|(p, keep)| *p *= keep);
                        } else {
                            simd::vectorised(
                                #[inline(always)]
                                || score_gradients(p, ds, delta, scale),
                            );
                        }
                    }
                    let queries = &mut queries[..column_panels * len];
                    let cotangents = &mut cotangents[..column_panels * len];
                    pack(q, queries);
                    pack(cotangent, cotangents);
                    let view = |data| View { data, stride: padded, rows: len, width: rows.len() };
                    self.product(Form::SendBack, view(p), cotangents, reach, &mut dv[at..]);
                    self.product(Form::SendBack, view(ds), queries, reach, &mut dk[at..]);
                    self.product(Form::Mix, view(ds), key_columns, reach, &mut dq[first * self.stride + at..]);
                }
            }
        });
    }
}

/// The scores of a group against the keys in reach, in whole panels.
fn against_keys(a: View, panels: &[Lanes], reach: Reach, scores: &mut [f32], padded: usize) {
    let out = Out { data: scores, stride: padded, width: padded };
    Product { form: Form::AgainstKeys, a, panels, reach, out }.run();
}

/// Softmax of a row in place; returns its lse. A row with nothing but `LOWEST` becomes zeros.
fn softmax(row: &mut [f32]) -> f32 {
    let peak = simd::max(row);
    if peak <= LOWEST {
        row.fill(0.0);
        return LOWEST;
    }
    let total = simd::exp_sub_sum(row, peak);
    simd::scale(row, 1.0 / total);
    peak + total.ln()
}

/// `ds = scale p (ds - delta)`, from the gradient of the probabilities to that of the scores.
#[inline(always)]
fn score_gradients(p: &[f32], ds: &mut [f32], delta: f32, scale: f32) {
    ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = scale * p * (*ds - delta));
}
