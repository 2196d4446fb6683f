//! Vectorised functions on slices of f32, compiled for several instruction sets and chosen when the program runs.
//!
//! Sums run over `LANES` partial sums that are added as a tree at the end, whatever the instruction set: results differ
//! between machines only by the rounding of a fused multiply-add.

use pulp::{Arch, Simd, WithSimd};

/// Partial sums of a reduction: one AVX-512 register, or two of AVX2, or four of NEON.
const LANES: usize = 16;

/// Runs a body that is compiled for AVX-512, AVX2 with FMA, NEON and the plain instruction set, as the best of those that
/// this machine has. The body and what it calls must be `#[inline(always)]`: `vectorised(#[inline(always)] || work(x))`.
#[inline(always)]
pub fn vectorised<R>(body: impl FnMut() -> R) -> R {
    Arch::new().dispatch(Body(body))
}

/// Called as `FnMut`, a closure is itself and can be inlined; as `FnOnce` it is a call to it, compiled without the
/// instruction set.
struct Body<F>(F);

impl<R, F: FnMut() -> R> WithSimd for Body<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) -> R {
        (self.0)()
    }
}

/// Brings words into the cache, line after line, for code that reads them in strips: too few at a time to hide the way from
/// memory.
pub fn fetch(x: &[f32]) {
    std::hint::black_box(x.iter().step_by(LANES).fold(0, |all, word| all | word.to_bits()));
}

/// Whether `vectorised` has fused multiply-adds: without them `f32::mul_add` is a slow library call.
#[inline(always)]
pub fn has_fma() -> bool {
    !matches!(Arch::new(), Arch::Scalar)
}

/// `exp` is good to 2 ulp between these bounds; below the first it gives 0, above the second `exp(EXP_MAX)`.
pub const EXP_MIN: f32 = -87.0;
/// The largest argument: `exp` of more is `exp(EXP_MAX)`.
pub const EXP_MAX: f32 = 88.0;

/// `a b + c`, rounded once where the instruction set can.
#[inline(always)]
pub fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x = 2^n e^r` with `n = round(x / ln 2)`, `|r| <= ln 2 / 2`, and a polynomial for `e^r`; `x` at most `EXP_MAX`.
#[inline(always)]
pub fn exp_lane<const FMA: bool>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the mantissa; 127 more make it the
    // biased exponent of 2^n. The smallest argument gives exponent 0, which is the number 0.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    const SMALLEST: f32 = -88.0;
    // ln 2 in two parts; the first has few bits, so that n * LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < SMALLEST { SMALLEST } else { x };
    let rounded = multiply_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = multiply_add::<FMA>(n, -LN2_LOW, multiply_add::<FMA>(n, -LN2_HIGH, x));
    let mut poly = 1.392_621_3e-3;
    for c in [8.363_203e-3, 4.166_655_6e-2, 1.666_657_6e-1, 0.5, 1.0, 1.0] {
        poly = multiply_add::<FMA>(poly, r, c);
    }
    poly * f32::from_bits(rounded.to_bits() << 23)
}

#[inline(always)]
fn tree_sum(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Declares a function with one body for all instruction sets; the body's parameter says whether there is `multiply_add`.
macro_rules! per_instruction_set {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)?, $body:ident) => {
        $(#[$doc])*
        pub fn $name($($arg: $ty),*) $(-> $out)? {
            if $crate::engine::exec::simd::has_fma() {
                $crate::engine::exec::simd::vectorised(#[inline(always)] || $body::<true>($($arg),*))
            } else {
                $body::<false>($($arg),*)
            }
        }
    };
}

pub(crate) use per_instruction_set;

per_instruction_set! {
    /// `row_i = e^(row_i)`.
    exp_in_place(row: &mut [f32]), exp_in_place_body
}

#[inline(always)]
fn exp_in_place_body<const FMA: bool>(row: &mut [f32]) {
    row.iter_mut().for_each(|x| *x = exp_lane::<FMA>(if *x > EXP_MAX { EXP_MAX } else { *x }));
}

per_instruction_set! {
    /// `row_i = e^(row_i - shift)` for rows up to `shift + EXP_MAX`; returns their sum.
    exp_sub_sum(row: &mut [f32], shift: f32) -> f32, exp_sub_sum_body
}

#[inline(always)]
fn exp_sub_sum_body<const FMA: bool>(row: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (groups, rest) = row.as_chunks_mut::<LANES>();
    for group in groups {
        for (lane, x) in lanes.iter_mut().zip(group) {
            *x = exp_lane::<FMA>(*x - shift);
            *lane += *x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *x = exp_lane::<FMA>(*x - shift);
        *lane += *x;
    }
    tree_sum(lanes)
}

per_instruction_set! {
    /// `sum_i e^(row_i - shift)`; the row stays as it is.
    sum_exp_sub(row: &[f32], shift: f32) -> f32, sum_exp_sub_body
}

#[inline(always)]
fn sum_exp_sub_body<const FMA: bool>(row: &[f32], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (groups, rest) = row.as_chunks::<LANES>();
    for group in groups {
        for (lane, x) in lanes.iter_mut().zip(group) {
            *lane += exp_lane::<FMA>(*x - shift);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += exp_lane::<FMA>(*x - shift);
    }
    tree_sum(lanes)
}

per_instruction_set! {
    /// `row_i = scale e^(row_i - shift)`.
    exp_sub_scale(row: &mut [f32], shift: f32, scale: f32), exp_sub_scale_body
}

#[inline(always)]
fn exp_sub_scale_body<const FMA: bool>(row: &mut [f32], shift: f32, scale: f32) {
    row.iter_mut().for_each(|x| *x = scale * exp_lane::<FMA>(*x - shift));
}

per_instruction_set! {
    /// The largest element; -1e30 when the row is empty.
    max(row: &[f32]) -> f32, max_body
}

#[inline(always)]
fn max_body<const FMA: bool>(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [-1e30; LANES];
    let (groups, rest) = row.as_chunks::<LANES>();
    for group in groups {
        lanes.iter_mut().zip(group).for_each(|(lane, &x)| *lane = larger(*lane, x));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, &x)| *lane = larger(*lane, x));
    lanes.into_iter().fold(-1e30, larger)
}

per_instruction_set! {
    /// The smallest element; 1e30 when the row is empty.
    min(row: &[f32]) -> f32, min_body
}

#[inline(always)]
fn min_body<const FMA: bool>(row: &[f32]) -> f32 {
    let smaller = |a: f32, b: f32| if b < a { b } else { a };
    let mut lanes = [1e30; LANES];
    let (groups, rest) = row.as_chunks::<LANES>();
    for group in groups {
        lanes.iter_mut().zip(group).for_each(|(lane, &x)| *lane = smaller(*lane, x));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, &x)| *lane = smaller(*lane, x));
    lanes.into_iter().fold(1e30, smaller)
}

per_instruction_set! {
    /// `sum_i row_i`.
    sum(row: &[f32]) -> f32, sum_body
}

#[inline(always)]
fn sum_body<const FMA: bool>(row: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (groups, rest) = row.as_chunks::<LANES>();
    for group in groups {
        lanes.iter_mut().zip(group).for_each(|(lane, x)| *lane += x);
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane += x);
    tree_sum(lanes)
}

per_instruction_set! {
    /// `row_i = s row_i`.
    scale(row: &mut [f32], s: f32), scale_body
}

#[inline(always)]
fn scale_body<const FMA: bool>(row: &mut [f32], s: f32) {
    row.iter_mut().for_each(|x| *x *= s);
}

per_instruction_set! {
    /// `sum_i a_i b_i` over the shorter length.
    dot(a: &[f32], b: &[f32]) -> f32, dot_body
}

#[inline(always)]
fn dot_body<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let mut lanes = [0.0; LANES];
    let ((a_groups, a_rest), (b_groups, b_rest)) = (a[..len].as_chunks::<LANES>(), b[..len].as_chunks::<LANES>());
    for (a, b) in a_groups.iter().zip(b_groups) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = multiply_add::<FMA>(*a, *b, *lane);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane = multiply_add::<FMA>(*a, *b, *lane);
    }
    tree_sum(lanes)
}

per_instruction_set! {
    /// `y_i += a x_i` over the shorter length.
    axpy(a: f32, x: &[f32], y: &mut [f32]), axpy_body
}

#[inline(always)]
fn axpy_body<const FMA: bool>(a: f32, x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = multiply_add::<FMA>(a, *x, *y));
}

per_instruction_set! {
    /// How many elements are greater than the threshold, and how many equal to it.
    count_above(row: &[f32], threshold: f32) -> (u32, u32), count_above_body
}

#[inline(always)]
fn count_above_body<const FMA: bool>(row: &[f32], threshold: f32) -> (u32, u32) {
    let (mut above, mut equal) = (0, 0);
    for x in row {
        above += u32::from(*x > threshold);
        equal += u32::from(*x == threshold);
    }
    (above, equal)
}

per_instruction_set! {
    /// The place of the first element that is greater than the threshold.
    first_above(row: &[f32], threshold: f32) -> Option<usize>, first_above_body
}

#[inline(always)]
fn first_above_body<const FMA: bool>(row: &[f32], threshold: f32) -> Option<usize> {
    let (groups, rest) = row.as_chunks::<LANES>();
    let group = groups.iter().position(|group| group.iter().fold(false, |any, x| any | (*x > threshold)));
    let (start, among) = group.map_or((row.len() - rest.len(), rest), |i| (LANES * i, &groups[i]));
    among.iter().position(|x| *x > threshold).map(|place| start + place)
}

per_instruction_set! {
    /// `row_i *= factor_i` over the shorter length.
    multiply(row: &mut [f32], factor: &[f32]), multiply_body
}

#[inline(always)]
fn multiply_body<const FMA: bool>(row: &mut [f32], factor: &[f32]) {
    row.iter_mut().zip(factor).for_each(|(x, factor)| *x *= factor);
}

per_instruction_set! {
    /// Of the first columns of a tile, as many as there are maxima: their maxima, `exp(z - maximum)` in place, and sums.
    column_exponentials(tile: &mut [f32], stride: usize, max: &mut [f32], sum: &mut [f32]), column_exponentials_body
}

#[inline(always)]
fn column_exponentials_body<const FMA: bool>(tile: &mut [f32], stride: usize, max: &mut [f32], sum: &mut [f32]) {
    max.fill(-1e30);
    sum.fill(0.0);
    for row in tile.chunks_exact(stride) {
        max.iter_mut().zip(row).for_each(|(max, x)| *max = if *x > *max { *x } else { *max });
    }
    for row in tile.chunks_exact_mut(stride) {
        for ((x, max), sum) in row.iter_mut().zip(&*max).zip(&mut *sum) {
            *x = exp_lane::<FMA>(*x - max);
            *sum += *x;
        }
    }
}

per_instruction_set! {
    /// `row_i = a row_i + b`, `rounds` times.
    iterate_affine(row: &mut [f32], a: f32, b: f32, rounds: usize), iterate_affine_body
}

#[inline(always)]
fn iterate_affine_body<const FMA: bool>(row: &mut [f32], a: f32, b: f32, rounds: usize) {
    // As many independent chains as hide the latency of a multiply-add in the registers of either width.
    const CHAINS: usize = 8 * LANES;
    let (groups, rest) = row.as_chunks_mut::<CHAINS>();
    for group in groups {
        for _ in 0..rounds {
            group.iter_mut().for_each(|x| *x = multiply_add::<FMA>(a, *x, b));
        }
    }
    for _ in 0..rounds {
        rest.iter_mut().for_each(|x| *x = multiply_add::<FMA>(a, *x, b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulps(got: f32, wanted: f64) -> f64 {
        let ulp = f64::from(f32::from_bits((wanted as f32).to_bits() + 1)) - f64::from(wanted as f32);
        (f64::from(got) - wanted).abs() / ulp
    }

    #[test]
    fn exp_is_within_two_ulp() {
        let grid: Vec<f32> = (0..2_000_000).map(|i| EXP_MIN + (EXP_MAX - EXP_MIN) * i as f32 / 2e6).collect();
        let mut fast = grid.clone();
        exp_in_place(&mut fast);
        for (&x, &y) in grid.iter().zip(&fast) {
            let wanted = f64::from(x).exp();
            assert!(ulps(y, wanted) <= 2.0, "exp({x}) = {y:e}, not {wanted:e}");
            let plain = exp_lane::<false>(x);
            assert!(ulps(plain, wanted) <= 2.0, "exp({x}) = {plain:e} without fused operations, not {wanted:e}");
        }
        let mut ends = [0.0, -88.0, -1e30, 89.0, 1e30];
        exp_in_place(&mut ends);
        assert_eq!(ends[..3], [1.0, 0.0, 0.0]);
        assert!(ends[3..].iter().all(|x| x.is_finite() && *x > 1e38));
    }

    #[test]
    fn reductions_agree_with_plain_loops_at_odd_lengths() {
        for len in [0, 1, 2, 15, 16, 17, 63, 130] {
            let row: Vec<f32> = (0..len).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
            let largest = row.iter().copied().fold(-1e30, f32::max);
            assert_eq!(max(&row), largest);
            let sum: f64 = row.iter().map(|x| f64::from(x - 0.5).exp()).sum();
            let mut exps = row.clone();
            assert!((f64::from(exp_sub_sum(&mut exps, 0.5)) - sum).abs() <= 1e-6 * sum);
            assert_eq!(sum_exp_sub(&row, 0.5), exp_sub_sum(&mut row.clone(), 0.5));
            let product: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            assert!((f64::from(dot(&row, &row)) - product).abs() <= 1e-6 * product.max(1e-9));
            let above = row.iter().filter(|x| **x > 0.1).count() as u32;
            let equal = row.iter().filter(|x| **x == 0.1).count() as u32;
            assert_eq!(count_above(&row, 0.1), (above, equal));
            for threshold in [-2.0, 0.1, 0.9, largest] {
                assert_eq!(first_above(&row, threshold), row.iter().position(|x| *x > threshold));
            }
        }
    }
}
