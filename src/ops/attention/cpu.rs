//! Attention of one sequence on one core: blocks of `GROUP` query rows against the keys they can reach.
//!
//! The three products have inner dimensions of 10 to 200, where a general GEMM spends most of its time on preparation.
//! Here both operands of a product are laid out once per head: *panels* of sixteen columns, read row after row, against
//! four rows at a time whose sums stay in registers. With a causal mask four rows stop at their own diagonal.

use super::{Attention, AttentionDropout, HIDDEN, KEY_VISIBLE, MAX_WIDTH, QUERY_UNMASKED};
use crate::engine::exec::cpu::In;
use crate::engine::exec::simd;
use crate::engine::rng::{RngState, drop_threshold};
use std::cell::RefCell;
use std::ops::Range;

/// Query rows that are worked on together; a multiple of `QUAD`.
const GROUP: usize = 64;
const QUAD: usize = 4;
const LANES: usize = 16;
type Lanes = [f32; LANES];

thread_local! {
    /// Panels and probabilities of the sequence at hand. Its size depends on the longest sequence, which no plan knows;
    /// a scratch for all sequences at once would be large and cold.
    static WORKSPACE: RefCell<Vec<Lanes>> = const { RefCell::new(Vec::new()) };
}

/// Rows of a matrix in a larger one.
#[derive(Clone, Copy)]
struct View<'a> {
    data: &'a [f32],
    stride: usize,
    rows: usize,
    width: usize,
}

/// How many keys a query row of a group can reach, counted from the start of the sequence.
#[derive(Clone, Copy)]
struct Reach {
    keys: usize,
    /// With a causal mask: the place of the group's first row in the sequence.
    diagonal: Option<usize>,
    /// Keys that an earlier group of the sequence reached.
    reached: usize,
}

impl Reach {
    /// Keys in reach of the rows `quad..quad + 4` of the group.
    fn of_quad(self, quad: usize) -> usize {
        self.diagonal.map_or(self.keys, |first| self.keys.min(first + quad + QUAD))
    }
}

/// Columns of `x` in panels: panel `c` holds columns `16 c..` of all rows, filled up with zeros.
fn pack(x: View, panels: &mut [Lanes]) {
    for (c, panel) in panels.chunks_exact_mut(x.rows.max(1)).enumerate() {
        let columns = c * LANES..x.width.min((c + 1) * LANES);
        for (row, lanes) in panel.iter_mut().enumerate() {
            let from = &x.data[row * x.stride..][columns.clone()];
            match from.first_chunk() {
                Some(whole) => *lanes = *whole,
                None => {
                    lanes[..from.len()].copy_from_slice(from);
                    lanes[from.len()..].fill(0.0);
                }
            }
        }
    }
}

/// Columns of `factor x^T` in panels: panel `c` holds rows `16 c..` of `x`, column after column, filled up with zeros.
fn pack_transposed(x: View, factor: f32, panels: &mut [Lanes]) {
    const ZEROS: [f32; MAX_WIDTH] = [0.0; MAX_WIDTH];
    let line = |row: usize| if row < x.rows { &x.data[row * x.stride..][..x.width] } else { &ZEROS[..x.width] };
    for (c, panel) in panels.chunks_exact_mut(x.width).enumerate() {
        for quad in (0..LANES).step_by(QUAD) {
            let row = c * LANES + quad;
            let lines = [line(row), line(row + 1), line(row + 2), line(row + 3)];
            for (d, lanes) in panel.iter_mut().enumerate() {
                let values = [lines[0][d], lines[1][d], lines[2][d], lines[3][d]];
                lanes[quad..quad + QUAD].copy_from_slice(&values.map(|x| factor * x));
            }
        }
    }
}

#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: &Lanes, sum: Lanes) -> Lanes {
    let mut out = sum;
    for i in 0..LANES {
        out[i] = if FMA { a.mul_add(b[i], sum[i]) } else { a * b[i] + sum[i] };
    }
    out
}

/// Writes the first `out.len()` sums; a whole panel without a call.
#[inline(always)]
fn store(sums: &Lanes, out: &mut [f32]) {
    match out.first_chunk_mut() {
        Some(whole) => *whole = *sums,
        None => out.copy_from_slice(&sums[..out.len()]),
    }
}

/// The rows `row..row + 4` of `a`, the last one repeated behind the end, times a panel.
#[inline(always)]
fn tile<const FMA: bool>(a: View, row: usize, panel: &[Lanes]) -> [Lanes; QUAD] {
    let mut sums = [[0.0; LANES]; QUAD];
    let line = |r: usize| &a.data[(row + r).min(a.rows - 1) * a.stride..][..panel.len()];
    let rows = [line(0), line(1), line(2), line(3)];
    for (l, lanes) in panel.iter().enumerate() {
        for r in 0..QUAD {
            sums[r] = multiply_add::<FMA>(rows[r][l], lanes, sums[r]);
        }
    }
    sums
}

/// Defines a function of the panels, compiled for several instruction sets.
macro_rules! product {
    ($(#[$doc:meta])* $name:ident, $body:ident) => {
        $(#[$doc])*
        fn $name(a: View, panels: &[Lanes], reach: Reach, out: &mut [f32], stride: usize, width: usize) {
            if simd::has_fma() {
                simd::vectorised(#[inline(always)] || $body::<true>(a, panels, reach, out, stride, width))
            } else {
                $body::<false>(a, panels, reach, out, stride, width)
            }
        }
    };
}

product! {
    /// `out = a B` for the columns in reach, in whole panels: the scores of queries `a` against the keys `B`.
    against_keys, against_keys_body
}

#[inline(always)]
fn against_keys_body<const FMA: bool>(
    a: View,
    panels: &[Lanes],
    reach: Reach,
    out: &mut [f32],
    stride: usize,
    depth: usize,
) {
    for row in (0..a.rows).step_by(QUAD) {
        let in_reach = reach.of_quad(row).div_ceil(LANES);
        for (c, panel) in panels.chunks_exact(depth).take(in_reach).enumerate() {
            for (r, sums) in tile::<FMA>(a, row, panel).iter().enumerate().take(a.rows - row) {
                store(sums, &mut out[(row + r) * stride + c * LANES..][..LANES]);
            }
        }
    }
}

product! {
    /// `out = a B` over the rows of `B` in reach: probabilities `a` times the values `B`; `out` has `width` columns.
    mix, mix_body
}

#[inline(always)]
fn mix_body<const FMA: bool>(a: View, panels: &[Lanes], reach: Reach, out: &mut [f32], stride: usize, width: usize) {
    for row in (0..a.rows).step_by(QUAD) {
        for (c, panel) in panels.chunks_exact(a.width).enumerate() {
            let columns = LANES.min(width - c * LANES);
            let sums = tile::<FMA>(a, row, &panel[..reach.of_quad(row)]);
            for (r, sums) in sums.iter().enumerate().take(a.rows - row) {
                store(sums, &mut out[(row + r) * stride + c * LANES..][..columns]);
            }
        }
    }
}

product! {
    /// `out += a^T B`: what the rows of `a` send back to the keys they reach; `out` has `width` columns. What no earlier
    /// group reached is written, not added to.
    send_back, send_back_body
}

#[inline(always)]
fn send_back_body<const FMA: bool>(
    a: View,
    panels: &[Lanes],
    reach: Reach,
    out: &mut [f32],
    stride: usize,
    width: usize,
) {
    for key in (0..reach.keys).step_by(QUAD) {
        let first = reach.diagonal.map_or(0, |first| key.saturating_sub(first));
        for (c, panel) in panels.chunks_exact(a.rows).enumerate() {
            let mut sums = [[0.0; LANES]; QUAD];
            let column = &a.data[first * a.stride + key..];
            for (row, lanes) in column.chunks(a.stride).zip(&panel[first..]) {
                let row: &[f32; QUAD] = row.first_chunk().expect("rows are padded");
                for r in 0..QUAD {
                    sums[r] = multiply_add::<FMA>(row[r], lanes, sums[r]);
                }
            }
            let columns = LANES.min(width - c * LANES);
            for (r, sums) in sums.iter_mut().enumerate().take(reach.keys - key) {
                let out = &mut out[(key + r) * stride + c * LANES..][..columns];
                if key < reach.reached {
                    sums.iter_mut().zip(&*out).for_each(|(sum, out)| *sum += out);
                }
                store(sums, out);
            }
        }
    }
}

/// What the workers of all sequences share.
pub(super) struct Worker<'a> {
    op: &'a Attention,
    qkv: [&'a [f32]; 3],
    flags: Option<&'a [u32]>,
    random: Option<(AttentionDropout, RngState, &'a [u32])>,
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

    /// Sets to `HIDDEN` what query `i` may not see of the scores, which begin at key `first` and end in whole panels.
    fn mask(&self, scores: &mut [f32], i: usize, rows: &Range<usize>) {
        let unmasked = self.unmasked(i);
        let end = if self.op.causal && !unmasked { i + 1 } else { rows.end };
        scores[end - rows.start..].fill(HIDDEN);
        if let (Some(flags), false) = (self.flags, unmasked) {
            let hidden = scores.iter_mut().zip(&flags[rows.start..end]).filter(|(_, flag)| *flag & KEY_VISIBLE == 0);
            hidden.for_each(|(score, _)| *score = HIDDEN);
        }
    }

    /// `keep_ij` for the first keys of the sequence; neighbouring positions share a block of random words.
    fn keep(&self, head: usize, i: usize, first: usize, keep: &mut [f32]) {
        let Some((AttentionDropout { probability, site }, state, keys)) = self.random else { return };
        let (threshold, scale) = (drop_threshold(probability), (1.0 / (1.0 - probability)) as f32);
        let (mut words, mut held) = ([0; 4], None);
        for (j, keep) in (first..).zip(keep) {
            let feature = (head as u32) << 20 | keys[2 * j + 1];
            if held != Some(feature >> 2) {
                held = Some(feature >> 2);
                words = state.block(site, keys[2 * i], keys[2 * i + 1], feature >> 2);
            }
            *keep = if words[(feature & 3) as usize] >= threshold { scale } else { 0.0 };
        }
    }

    /// Lends areas of these sizes.
    fn with_workspace<const N: usize>(sizes: [usize; N], work: impl FnOnce([&mut [Lanes]; N])) {
        WORKSPACE.with_borrow_mut(|workspace| {
            let needed: usize = sizes.iter().sum();
            if workspace.len() < needed {
                workspace.resize(needed, [0.0; LANES]);
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
        let (key_panels, column_panels) = (rows.len().div_ceil(LANES), self.width.div_ceil(LANES));
        let sizes = [key_panels * self.width, column_panels * rows.len(), GROUP * key_panels, key_panels];
        Self::with_workspace(sizes, |[keys, values, scores, keep]| {
            let padded = key_panels * LANES;
            for head in 0..self.op.heads {
                let [_, k, v] = self.qkv.map(|x| self.head(x, head, rows.clone()));
                pack_transposed(k, self.op.scale as f32, keys);
                pack(v, values);
                for (group, reach) in self.groups(rows.clone()) {
                    let (first, len) = (group.start - rows.start, group.len());
                    let scores = &mut scores.as_flattened_mut()[..len * padded];
                    against_keys(self.head(self.qkv[0], head, group.clone()), keys, reach, scores, padded, self.width);
                    for (n, row) in scores.chunks_exact_mut(padded).enumerate() {
                        let row = &mut row[..reach.of_quad(n / QUAD * QUAD).next_multiple_of(LANES)];
                        let lse = &mut lse[(first + n) * self.op.heads + head];
                        self.mask(row, group.start + n, &rows);
                        *lse = softmax(row);
                        if self.random.is_some() {
                            let keep = &mut keep.as_flattened_mut()[..row.len().min(rows.len())];
                            self.keep(head, group.start + n, rows.start, keep);
                            row.iter_mut().zip(&*keep).for_each(|(p, keep)| *p *= keep);
                        }
                    }
                    let p = View { data: scores, stride: padded, rows: len, width: rows.len() };
                    mix(p, values, reach, &mut y[first * self.stride + head * self.width..], self.stride, self.width);
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
        let (key_panels, column_panels) = (rows.len().div_ceil(LANES), self.width.div_ceil(LANES));
        let (by_key, by_column) = (key_panels * self.width, column_panels * rows.len());
        let (block, group_panels) = (GROUP * key_panels, column_panels * GROUP);
        let sizes = [by_key, by_key, by_column, group_panels, group_panels, block, block, key_panels];
        Self::with_workspace(sizes, |[keys, values, key_columns, queries, cotangents, p, ds, keep]| {
            let (padded, scale) = (key_panels * LANES, self.op.scale as f32);
            for head in 0..self.op.heads {
                let at = head * self.width;
                let [_, k, v] = self.qkv.map(|x| self.head(x, head, rows.clone()));
                pack_transposed(k, scale, keys);
                pack_transposed(v, 1.0, values);
                pack(k, key_columns);
                for (group, reach) in self.groups(rows.clone()) {
                    let (first, len) = (group.start - rows.start, group.len());
                    let [q, cotangent, out] = [self.qkv[0], dy, y].map(|x| self.head(x, head, group.clone()));
                    let p = &mut p.as_flattened_mut()[..len * padded];
                    let ds = &mut ds.as_flattened_mut()[..len * padded];
                    against_keys(q, keys, reach, p, padded, self.width);
                    against_keys(cotangent, values, reach, ds, padded, self.width);
                    for (n, (p, ds)) in p.chunks_exact_mut(padded).zip(ds.chunks_exact_mut(padded)).enumerate() {
                        let end = reach.of_quad(n / QUAD * QUAD).next_multiple_of(LANES);
                        let (p, ds, i) = (&mut p[..end], &mut ds[..end], group.start + n);
                        self.mask(p, i, &rows);
                        let lse = lse[i * self.op.heads + head];
                        let own = n * self.stride..n * self.stride + self.width;
                        let delta = simd::dot(&cotangent.data[own.clone()], &out.data[own]);
                        // A query without keys has lse = -1e30: its probabilities are zero, not one.
                        simd::exp_sub_scale(p, lse, if lse > HIDDEN { 1.0 } else { 0.0 });
                        if self.random.is_some() {
                            let keep = &mut keep.as_flattened_mut()[..end.min(rows.len())];
                            self.keep(head, i, rows.start, keep);
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
                    send_back(view(p), cotangents, reach, &mut dv[at..], self.stride, self.width);
                    send_back(view(ds), queries, reach, &mut dk[at..], self.stride, self.width);
                    mix(view(ds), key_columns, reach, &mut dq[first * self.stride + at..], self.stride, self.width);
                }
            }
        });
    }
}

/// Softmax of a row in place; returns its lse. A row with nothing but `HIDDEN` becomes zeros.
fn softmax(row: &mut [f32]) -> f32 {
    let peak = simd::max(row);
    if peak <= HIDDEN {
        row.fill(0.0);
        return HIDDEN;
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
