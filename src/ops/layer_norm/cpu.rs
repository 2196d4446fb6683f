//! LayerNorm of a block of rows on one core. Sums run in sixteen lanes that are added in a fixed order, so the compiler
//! can keep them in vector registers and the result does not depend on the instruction set's width.

use crate::ops::dropout::Draws;

const LANES: usize = 16;

/// `sum_i f(a_i, b_i)`
#[inline(always)]
fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[i] += f(*a, *b);
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

/// Parameters of a LayerNorm.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f32,
}

/// Rows of one block: the first is row `first` of the tensor.
pub struct Block<'a> {
    pub first: usize,
    pub y: &'a mut [f32],
    pub sum: Option<&'a mut [f32]>,
    pub stats: &'a mut [f32],
}

#[inline(always)]
pub fn normalise(block: &mut Block, x: &[f32], residual: Option<&[f32]>, draws: Option<Draws>, affine: Affine) {
    let Affine { weight, bias, eps } = affine;
    let width = weight.len();
    let rows = block.y.chunks_exact_mut(width).zip(block.stats.chunks_exact_mut(2));
    for (index, (y, stats)) in rows.enumerate() {
        let n = block.first + index;
        let row = n * width..(n + 1) * width;
        let sum = match &mut block.sum {
            None => &x[row],
            Some(sum) => {
                let sum = &mut sum[index * width..][..width];
                sum.copy_from_slice(&x[row.clone()]);
                if let Some(draws) = draws {
                    draws.apply(n, sum);
                }
                if let Some(residual) = residual {
                    sum.iter_mut().zip(&residual[row]).for_each(|(s, r)| *s += r);
                }
                &*sum
            }
        };
        let mean = sum2(sum, sum, |s, _| s) / width as f32;
        let variance = sum2(sum, sum, |s, _| (s - mean) * (s - mean)) / width as f32;
        let rstd = 1.0 / (variance + eps).sqrt();
        let affine = weight.iter().zip(bias).zip(sum.iter());
        y.iter_mut().zip(affine).for_each(|(y, ((w, b), s))| *y = (s - mean) * rstd * w + b);
        stats.copy_from_slice(&[mean, rstd]);
    }
}

/// What the gradient reads, of the whole tensor.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    pub dy: &'a [f32],
    pub sum: &'a [f32],
    pub stats: &'a [f32],
    pub weight: &'a [f32],
    /// A further cotangent of the sum.
    pub further: Option<&'a [f32]>,
}

/// `dsum` of the rows from `first` on, and their share of `dweight` and `dbias` in `partial[2, D]`.
#[inline(always)]
pub fn gradient(first: usize, saved: Saved, dsum: &mut [f32], partial: &mut [f32]) {
    let width = saved.weight.len();
    let (dweight, dbias) = partial.split_at_mut(width);
    dweight.fill(0.0);
    dbias.fill(0.0);
    for (n, dsum) in (first..).zip(dsum.chunks_exact_mut(width)) {
        let row = n * width..(n + 1) * width;
        let (dy, sum) = (&saved.dy[row.clone()], &saved.sum[row.clone()]);
        let [mean, rstd] = [saved.stats[2 * n], saved.stats[2 * n + 1]];
        // dsum holds g = dy weight until the means are known.
        dsum.iter_mut().zip(dy).zip(saved.weight).for_each(|((g, dy), w)| *g = dy * w);
        let mean_g = sum2(dsum, sum, |g, _| g) / width as f32;
        let mean_gx = sum2(dsum, sum, |g, s| g * (s - mean) * rstd) / width as f32;
        for ((((g, dy), s), dw), db) in dsum.iter_mut().zip(dy).zip(sum).zip(&mut *dweight).zip(&mut *dbias) {
            let xhat = (s - mean) * rstd;
            *dw += dy * xhat;
            *db += dy;
            *g = rstd * (*g - mean_g - xhat * mean_gx);
        }
        if let Some(further) = saved.further {
            dsum.iter_mut().zip(&further[row]).for_each(|(s, f)| *s += f);
        }
    }
}
