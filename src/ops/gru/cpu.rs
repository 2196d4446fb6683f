//! The recurrence on the host: blocks of sequences, each on one core from the first step to the last. Within a block the
//! sequences are in order of their lengths, so that those which a step still concerns lie side by side.

use super::{Gru, Reset};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::simd;
use crate::ops::activation::{Activation, activate};
use crate::ops::attention::cut;
use crate::ops::matmul::{Matrix, gemm};
use rayon::prelude::*;

/// Sequences of a block: enough rows for a product.
const BLOCK: usize = 64;

/// A block's sequences by descending length: the row in the block where each begins, and its length.
struct Block {
    /// The sequence's number in the block, its first row, its length.
    order: Vec<(usize, usize, usize)>,
}

impl Block {
    fn new(borders: &[u32]) -> Self {
        let mut order: Vec<(usize, usize, usize)> = (borders.windows(2).enumerate())
            .map(|(s, ends)| (s, (ends[0] - borders[0]) as usize, (ends[1] - ends[0]) as usize))
            .collect();
        order.sort_by_key(|(s, _, length)| (usize::MAX - length, *s));
        Block { order }
    }

    fn steps(&self) -> usize {
        self.order.first().map_or(0, |longest| longest.2)
    }

    /// The rows that step `t` concerns, in order.
    fn rows(&self, t: usize) -> impl ExactSizeIterator<Item = usize> {
        let active = self.order.partition_point(|(_, _, length)| *length > t);
        self.order[..active].iter().map(move |(_, first, _)| first + t)
    }
}

/// Borders of blocks among those of sequences.
fn block_borders(borders: &[u32]) -> Vec<u32> {
    let sequences = borders.len() - 1;
    (0..=sequences.div_ceil(BLOCK)).map(|block| borders[(block * BLOCK).min(sequences)]).collect()
}

/// Borders of the sequences of each block.
fn blocks(borders: &[u32]) -> Vec<&[u32]> {
    let sequences = borders.len() - 1;
    let ends = |block: usize| (block * BLOCK)..(block * BLOCK + BLOCK).min(sequences) + 1;
    (0..sequences.div_ceil(BLOCK)).map(|block| &borders[ends(block)]).collect()
}

/// `c = a b` of `rows` rows, row-major.
fn product(rows: usize, a: &[f32], b: Matrix, (k, n): (usize, usize), c: &mut [f32]) {
    gemm((rows, n, k), Matrix::new(a, k), b, c, n, false);
}

pub(super) fn forward(op: Gru, io: &mut CpuIo) {
    let [x, h0, borders, a, b] = &io.inputs[..] else { unreachable!("inferred") };
    let (x, h0, borders, a, b, hidden) = (x.f(), h0.f(), borders.u(), a.f(), b.f(), h0.width());
    let [y, h_n, gates, previous] = &mut io.outputs[..] else { unreachable!("inferred") };
    let of_blocks = block_borders(borders);
    let pieces = [(y, 1), (gates, 4), (previous, 1)].map(|(out, parts)| {
        let (pieces, inert) = cut(out.f(), &of_blocks, parts * hidden);
        inert.fill(0.0);
        pieces
    });
    let [y, gates, previous] = pieces;
    let h_n = h_n.f().chunks_mut(BLOCK * hidden).zip(h0.chunks(BLOCK * hidden)).collect::<Vec<_>>();
    let outputs = y.into_par_iter().zip(gates).zip(previous).zip(h_n);
    outputs.zip(blocks(borders)).for_each(|((((y, gates), previous), (h_n, h0)), borders)| {
        let x = &x[borders[0] as usize * 3 * hidden..];
        let block = Block::new(borders);
        let mut h = sorted(&block, h0, hidden);
        let (mut pre, mut m, mut n) =
            (vec![0.0; block.order.len() * 3 * hidden], vec![0.0; h.len()], vec![0.0; h.len()]);
        for t in 0..block.steps() {
            let active = block.rows(t).len();
            let columns = match op.reset {
                Reset::After => 3 * hidden,
                Reset::Before => 2 * hidden,
            };
            let weights = match op.reset {
                Reset::After => Matrix::transposed(a, hidden),
                Reset::Before => Matrix::new(a, 2 * hidden),
            };
            product(active, &h, weights, (hidden, columns), &mut pre);
            for (i, row) in block.rows(t).enumerate() {
                let (pre, x) = (&mut pre[i * columns..][..columns], &x[row * 3 * hidden..][..3 * hidden]);
                let (h, gates) = (&h[i * hidden..][..hidden], &mut gates[row * 4 * hidden..][..4 * hidden]);
                previous[row * hidden..][..hidden].copy_from_slice(h);
                if op.reset == Reset::After {
                    simd::axpy(1.0, b, pre);
                }
                let (rz, rest) = gates.split_at_mut(2 * hidden);
                simd::axpy(1.0, &x[..2 * hidden], &mut pre[..2 * hidden]);
                activate(Activation::Sigmoid, &pre[..2 * hidden], rz);
                let saved = &mut rest[hidden..];
                match op.reset {
                    Reset::After => saved.copy_from_slice(&pre[2 * hidden..]),
                    Reset::Before => {
                        saved.copy_from_slice(h);
                        simd::multiply(saved, &rz[..hidden]);
                        m[i * hidden..][..hidden].copy_from_slice(saved);
                    }
                }
            }
            if op.reset == Reset::Before {
                product(active, &m, Matrix::new(b, hidden), (hidden, hidden), &mut n);
            }
            for (i, row) in block.rows(t).enumerate() {
                let gates = &mut gates[row * 4 * hidden..][..4 * hidden];
                let (rz, rest) = gates.split_at_mut(2 * hidden);
                let (candidate, q) = rest.split_at_mut(hidden);
                let own = &mut n[i * hidden..][..hidden];
                if op.reset == Reset::After {
                    own.copy_from_slice(q);
                    simd::multiply(own, &rz[..hidden]);
                }
                simd::axpy(1.0, &x[row * 3 * hidden + 2 * hidden..][..hidden], own);
                activate(Activation::Tanh, own, candidate);
                let h = &mut h[i * hidden..][..hidden];
                for ((h, z), n) in h.iter_mut().zip(&rz[hidden..]).zip(&*candidate) {
                    *h = (1.0 - z) * n + z * *h;
                }
                y[row * hidden..][..hidden].copy_from_slice(h);
            }
        }
        unsorted(&block, &h, h_n, hidden);
    });
}

/// Rows by sequence in the block's order.
fn sorted(block: &Block, rows: &[f32], width: usize) -> Vec<f32> {
    block.order.iter().flat_map(|(s, ..)| &rows[s * width..(s + 1) * width]).copied().collect()
}

/// The other way.
fn unsorted(block: &Block, rows: &[f32], out: &mut [f32], width: usize) {
    for ((s, ..), row) in block.order.iter().zip(rows.chunks_exact(width)) {
        out[s * width..(s + 1) * width].copy_from_slice(row);
    }
}

pub(super) fn backward(op: Gru, io: &mut CpuIo) {
    let [gates, previous, borders, a, b, dy, dh_n] = &io.inputs[..] else { unreachable!("inferred") };
    let (gates, previous, borders, hidden) = (gates.f(), previous.f(), borders.u(), previous.width());
    let (a, b, dy, dh_n) = (a.f(), b.f(), dy.f(), dh_n.f());
    let [dx, dh0, weights @ ..] = &mut io.outputs[..] else { unreachable!("inferred") };
    let (of_blocks, blocks) = (block_borders(borders), blocks(borders));
    let mut rows_of: Vec<Vec<&mut [f32]>> = blocks.iter().map(|_| Vec::new()).collect();
    for out in std::iter::once(dx).chain(weights) {
        let width = out.ty.width();
        let (pieces, inert) = cut(out.f(), &of_blocks, width);
        inert.fill(0.0);
        rows_of.iter_mut().zip(pieces).for_each(|(of_block, piece)| of_block.push(piece));
    }
    let states = dh0.f().chunks_mut(BLOCK * hidden).zip(dh_n.chunks(BLOCK * hidden)).collect::<Vec<_>>();
    rows_of.into_par_iter().zip(states).zip(blocks).for_each(|((mut out, (dh0, dh_n)), borders)| {
        let block = Block::new(borders);
        let first = borders[0] as usize;
        let mut dh = sorted(&block, dh_n, hidden);
        let size = block.order.len() * hidden;
        let (mut d, mut dn, mut dm, mut sum) = (vec![0.0; 3 * size], vec![0.0; size], vec![0.0; size], vec![0.0; size]);
        for t in (0..block.steps()).rev() {
            let active = block.rows(t).len();
            for (i, row) in block.rows(t).enumerate() {
                let own = i * hidden..(i + 1) * hidden;
                simd::axpy(1.0, &dy[(first + row) * hidden..][..hidden], &mut dh[own.clone()]);
                let gates = &gates[(first + row) * 4 * hidden..][..4 * hidden];
                for (j, (dn, dh)) in dn[own.clone()].iter_mut().zip(&dh[own]).enumerate() {
                    let (z, n) = (gates[hidden + j], gates[2 * hidden + j]);
                    *dn = dh * (1.0 - z) * (1.0 - n * n);
                }
            }
            if op.reset == Reset::Before {
                product(active, &dn, Matrix::transposed(b, hidden), (hidden, hidden), &mut dm);
            }
            let columns = if op.reset == Reset::After { 3 * hidden } else { 2 * hidden };
            for (i, row) in block.rows(t).enumerate() {
                let gates = &gates[(first + row) * 4 * hidden..][..4 * hidden];
                let h = &previous[(first + row) * hidden..][..hidden];
                let d = &mut d[i * columns..][..columns];
                for j in 0..hidden {
                    let (r, z, n, saved) = (gates[j], gates[hidden + j], gates[2 * hidden + j], gates[3 * hidden + j]);
                    let at = i * hidden + j;
                    let through = if op.reset == Reset::After { dn[at] * saved } else { dm[at] * h[j] };
                    d[j] = through * r * (1.0 - r);
                    d[hidden + j] = dh[at] * (h[j] - n) * z * (1.0 - z);
                    if op.reset == Reset::After {
                        d[2 * hidden + j] = dn[at] * r;
                    }
                }
                let dx = &mut out[0][row * 3 * hidden..][..3 * hidden];
                dx[..2 * hidden].copy_from_slice(&d[..2 * hidden]);
                dx[2 * hidden..].copy_from_slice(&dn[i * hidden..][..hidden]);
                out[1][row * columns..][..columns].copy_from_slice(d);
                if op.reset == Reset::Before {
                    out[2][row * hidden..][..hidden].copy_from_slice(&dn[i * hidden..][..hidden]);
                    out[3][row * hidden..][..hidden].copy_from_slice(&gates[3 * hidden..]);
                }
            }
            let weights = match op.reset {
                Reset::After => Matrix::new(a, hidden),
                Reset::Before => Matrix::transposed(a, 2 * hidden),
            };
            product(active, &d, weights, (columns, hidden), &mut sum);
            for (i, row) in block.rows(t).enumerate() {
                let gates = &gates[(first + row) * 4 * hidden..][..4 * hidden];
                for j in 0..hidden {
                    let at = i * hidden + j;
                    let through = if op.reset == Reset::After { 0.0 } else { dm[at] * gates[j] };
                    dh[at] = dh[at] * gates[hidden + j] + through + sum[at];
                }
            }
        }
        unsorted(&block, &dh, dh0, hidden);
    });
}
