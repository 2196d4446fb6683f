//! Elementwise `y = f(x)`; the gradient `dx = f'(x) dy` starts from `x` again, nothing else is saved.
//!
//! On the CPU every kind is arithmetic without branches on `x` and one exponential, 16 elements at a time. With `Phi` the normal distribution and `s` the logistic function:
//! `gelu = x Phi(x)`, `gelu_tanh = x s(2u)`, `u = sqrt(2 / pi) (x + 0.044715 x^3)`, `silu = x s(x)`, `softplus = log(1 + e^x)`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder, Region};
use crate::engine::exec::simd::{exp_lane, multiply_add, per_instruction_set};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, DType, TensorType};
use crate::error::{Error, Result};
use crate::shader;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::f32::consts::FRAC_1_SQRT_2;
use std::f64::consts::PI;

/// Input `x`; output `y` of the same shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// With the error function.
    Gelu,
    /// Hendrycks and Gimpel's approximation by tanh.
    GeluTanh,
    /// `x sigmoid(x)`
    Silu,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `tanh x`
    Tanh,
    /// `ln(1 + e^x)`
    Softplus,
}

impl Activation {
    /// Every kind, in the order of their numbers in shaders.
    pub const ALL: [Activation; 7] = {
        use Activation::*;
        [Relu, Gelu, GeluTanh, Silu, Sigmoid, Tanh, Softplus]
    };

    /// The name in configurations and golden files.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(String::from)).expect("a unit variant")
    }

    /// `f(x)` and `f'(x)`.
    pub fn exact(self, x: f64) -> (f64, f64) {
        match self {
            Activation::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
            Activation::Gelu => {
                let phi = 0.5 * (1.0 + erf(x / 2f64.sqrt()));
                (x * phi, phi + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt())
            }
            Activation::GeluTanh => {
                let c = (2.0 / PI).sqrt();
                let t = (c * (x + 0.044715 * x.powi(3))).tanh();
                let du = c * (1.0 + 3.0 * 0.044715 * x * x);
                (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * du)
            }
            Activation::Silu => (x * sigmoid(x), sigmoid(x) * (1.0 + x * sigmoid(-x))),
            Activation::Sigmoid => (sigmoid(x), sigmoid(x) * sigmoid(-x)),
            Activation::Tanh => (x.tanh(), 1.0 - x.tanh().powi(2)),
            Activation::Softplus => (softplus(x), sigmoid(x)),
        }
    }

    fn dispatch(self, b: &mut GpuBuilder, x: Region, dy: Option<Region>) {
        let consts = [("KIND", self as u32), ("SLOPE", u32::from(dy.is_some()))];
        let bindings = [(x, Read), (dy.unwrap_or(x), Read), (b.output(0), Write)];
        b.dispatch(shader!("activation"), &consts, &bindings, &[x.len.into()], x.len.div_ceil(64));
    }
}

/// `log(1 + exp(x))`.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + exp(-x))` without overflow.
pub fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    (if x >= 0.0 { 1.0 } else { e }) / (1.0 + e)
}

/// The error function to about 1e-15: the series `2 / sqrt(pi) e^(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!`, whose terms
/// have one sign, and from 3 on the continued fraction of `1 - erf`.
fn erf(x: f64) -> f64 {
    let (a, gauss) = (x.abs(), (-x * x).exp());
    if a < 3.0 {
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while f64::abs(term) > 1e-18 * f64::abs(sum) {
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
            n += 1.0;
        }
        return 2.0 / PI.sqrt() * gauss * sum;
    }
    let fraction = (1..=60).rev().fold(a, |rest, n| a + 0.5 * f64::from(n) / rest);
    x.signum() * (1.0 - gauss / (PI.sqrt() * fraction))
}

/// The argument of the logistic function in `gelu_tanh`, and its derivative. Outside +-10 both ends are reached.
#[inline(always)]
fn gelu_argument(x: f32) -> (f32, f32) {
    const C: f32 = 1.595_769_2; // 2 sqrt(2 / pi)
    let x = x.clamp(-10.0, 10.0);
    (C * (x + 0.044_715 * x * x * x), C * (1.0 + 0.134_145 * x * x))
}

/// `s(z)` from `e = e^-|z|`, without overflow and without cancellation at either end.
#[inline(always)]
fn logistic(z: f32, e: f32) -> f32 {
    (if z < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// The normal distribution from `e = e^(-x^2 / 2)`; absolute error below 1.5e-7. `shaders/lib/math.wgsl` has the same.
#[inline(always)]
fn normal_distribution<const FMA: bool>(x: f32, e: f32) -> f32 {
    let z = x * FRAC_1_SQRT_2;
    let a = z.abs();
    // From 0.9 on, 1 - erf(a) = t P(t) e^(-a^2) with P fitted on [0.9, 4.2].
    let t = 1.0 / (1.0 + 0.5 * a);
    let mut poly = -0.097_508_974;
    for c in [0.076_504_85, 0.236_380_53, 0.211_442_02, 0.290_653_2, 0.281_322_4] {
        poly = multiply_add::<FMA>(poly, t, c);
    }
    let tail = 0.5 * t * poly * e;
    // Below, the Taylor series of erf.
    let s = z * z;
    let mut series = 1.458_916_9e-6;
    for c in [-1.322_751_3e-5, 1.068_376_1e-4, -7.575_757_6e-4, 4.629_629_6e-3, -0.023_809_524, 0.1, -0.333_333_34, 1.0]
    {
        series = multiply_add::<FMA>(series, s, c);
    }
    let near = 0.5 + 0.564_189_6 * z * series;
    let far = if z < 0.0 { tail } else { 1.0 - tail };
    if a < 0.9 { near } else { far }
}

/// `tanh x` from `e = e^(-2 |x|)`; near 0 a continued fraction keeps the relative accuracy.
#[inline(always)]
fn tanh(x: f32, e: f32) -> f32 {
    let far = (1.0 - e) / (1.0 + e);
    let s = x * x;
    let near = x * (945.0 + s * (105.0 + s)) / (945.0 + s * (420.0 + 15.0 * s));
    if x.abs() < 0.6 { near } else { far.copysign(x) }
}

/// `log(1 + e)` for `0 <= e <= 1` as `2 artanh(e / (2 + e))`.
#[inline(always)]
fn log_1p<const FMA: bool>(e: f32) -> f32 {
    let t = e / (2.0 + e);
    let mut series = 1.0 / 15.0;
    for odd in [13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0f32] {
        series = multiply_add::<FMA>(series, t * t, 1.0 / odd);
    }
    2.0 * t * series
}

per_instruction_set! {
    /// `y = f(x)` on the calling thread.
    activate(kind: Activation, x: &[f32], y: &mut [f32]), values
}

#[inline(always)]
fn values<const FMA: bool>(kind: Activation, x: &[f32], y: &mut [f32]) {
    let pairs = x.iter().zip(y);
    let decay = exp_lane::<FMA>;
    match kind {
        Activation::Relu => pairs.for_each(|(x, y)| *y = if *x > 0.0 { *x } else { 0.0 }),
        Activation::Gelu => pairs.for_each(|(x, y)| *y = x * normal_distribution::<FMA>(*x, decay(-0.5 * x * x))),
        Activation::GeluTanh => pairs.for_each(|(x, y)| {
            let u = gelu_argument(*x).0;
            *y = x * logistic(u, decay(-u.abs()));
        }),
        Activation::Silu => pairs.for_each(|(x, y)| *y = x * logistic(*x, decay(-x.abs()))),
        Activation::Sigmoid => pairs.for_each(|(x, y)| *y = logistic(*x, decay(-x.abs()))),
        Activation::Tanh => pairs.for_each(|(x, y)| *y = tanh(*x, decay(-2.0 * x.abs()))),
        Activation::Softplus => {
            pairs.for_each(|(x, y)| *y = (if *x > 0.0 { *x } else { 0.0 }) + log_1p::<FMA>(decay(-x.abs())));
        }
    }
}

per_instruction_set! {
    /// `dx = f'(x) dy` on the calling thread.
    activate_back(kind: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]), slopes
}

#[inline(always)]
fn slopes<const FMA: bool>(kind: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    const PEAK: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    let triples = x.iter().zip(dy).zip(dx);
    let decay = exp_lane::<FMA>;
    // The derivative of the logistic function.
    let bell = |e: f32| e / ((1.0 + e) * (1.0 + e));
    match kind {
        Activation::Relu => triples.for_each(|((x, dy), dx)| *dx = if *x > 0.0 { *dy } else { 0.0 }),
        Activation::Gelu => triples.for_each(|((x, dy), dx)| {
            let e = decay(-0.5 * x * x);
            *dx = dy * (normal_distribution::<FMA>(*x, e) + x * (PEAK * e));
        }),
        Activation::GeluTanh => triples.for_each(|((x, dy), dx)| {
            let (u, slope) = gelu_argument(*x);
            let e = decay(-u.abs());
            *dx = dy * (logistic(u, e) + x * slope * bell(e));
        }),
        Activation::Silu => triples.for_each(|((x, dy), dx)| {
            let e = decay(-x.abs());
            *dx = dy * (logistic(*x, e) + x * bell(e));
        }),
        Activation::Sigmoid => triples.for_each(|((x, dy), dx)| *dx = dy * bell(decay(-x.abs()))),
        Activation::Tanh => triples.for_each(|((x, dy), dx)| *dx = dy * 4.0 * bell(decay(-2.0 * x.abs()))),
        Activation::Softplus => triples.for_each(|((x, dy), dx)| *dx = dy * logistic(*x, decay(-x.abs()))),
    }
}

/// Elements that one worker computes.
const PIECE: usize = 8192;

impl Op for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        expect("activation", inputs[0].dtype == DType::F32, || format!("x is {}", inputs[0]))?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        outputs[0].f_mut().iter_mut().zip(inputs[0].f()).for_each(|(y, x)| *y = self.exact(*x).0);
    }

    fn cpu(&self, io: &mut CpuIo) {
        let pieces = io.outputs[0].f().par_chunks_mut(PIECE).zip(io.inputs[0].f().par_chunks(PIECE));
        pieces.for_each(|(y, x)| activate(*self, x, y));
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        self.dispatch(b, b.input(0), None);
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let dx = vjp.add(ActivationGradient(*self), &[vjp.input(0), dy])?[0];
        vjp.accumulate(0, dx)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(20 * inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `x`, `dy`; output `dx`, all of one shape.
#[derive(Clone, Copy, Debug)]
pub struct ActivationGradient(pub Activation);

impl Op for ActivationGradient {
    fn name(&self) -> &'static str {
        "activation_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let pairs = inputs[0].f().iter().zip(inputs[1].f());
        outputs[0].f_mut().iter_mut().zip(pairs).for_each(|(dx, (x, dy))| *dx = self.0.exact(*x).1 * dy);
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (x, dy) = (io.inputs[0].f().par_chunks(PIECE), io.inputs[1].f().par_chunks(PIECE));
        let pieces = io.outputs[0].f().par_chunks_mut(PIECE).zip(x).zip(dy);
        pieces.for_each(|((dx, x), dy)| activate_back(self.0, x, dy, dx));
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        self.0.dispatch(b, b.input(0), Some(b.input(1)));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(20 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("activation", build)];

fn build(b: &mut Builder) -> Result<()> {
    let kind = b.attr_str("kind")?;
    let kind: Activation =
        serde_json::from_value(kind.into()).map_err(|e| Error::graph("activation", e.to_string()))?;
    let x = b.input("x")?;
    let y = b.graph.add1(kind, &[x])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    // Both tails, the fine structure around 0 (never at 0, where ReLU has a kink), and values of 1e4.
    let grid = (0..131).map(|i| 0.2 * (i as f32 - 65.3)).chain([1e-3, -1e-3, 0.899, 1.29, -1.27, 1e4, -1e4]);
    let grid: Vec<f32> = grid.collect();
    let kinds = Activation::ALL.into_iter().flat_map(|kind| {
        let case = |name: &str| Case::new(KERNELS[0], format!("{} {name}", kind.name())).attr("kind", kind.name());
        [case("grid").tensor("x", &[grid.len()], grid.clone()), case("3x65").normal("x", &[3, 65], 1.0)]
    });
    kinds.chain([Case::new(KERNELS[0], "one").attr("kind", "gelu").normal("x", &[1], 1.0)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_function_has_its_published_values() {
        let table = [
            (0.1, 0.112_462_916_018_284_9),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (3.0, 0.999_977_909_503_001_4),
        ];
        for (x, wanted) in table {
            assert!((erf(x) - wanted).abs() < 2e-16 * 4.0, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert!((erf(3.0) - erf(3.0 - 1e-12)).abs() < 2e-15);
    }

    #[test]
    fn fast_normal_distribution_is_within_1_5e_7() {
        let grid: Vec<f32> = (-120_000..=120_000).map(|i| i as f32 * 1e-4).collect();
        for x in grid {
            let fast = normal_distribution::<false>(x, exp_lane::<false>(-0.5 * x * x));
            let exact = 0.5 * (1.0 + erf(f64::from(x) / 2f64.sqrt()));
            assert!((f64::from(fast) - exact).abs() < 1.5e-7, "Phi({x}) = {fast}, not {exact}");
        }
    }
}
