//! Diffusion's noising and denoising: rows mixed by coefficients that follow from their step, `y_nd = sum_k c_nk x^k_nd`, and
//! the schedules that the coefficients come from.
//!
//! ```text
//! q_sample       h_n  = sqrt(abar_n) h_0 + sqrt(1 - abar_n) eps                        (DiffRec, Eq. 2)
//! denoise_step   mean = c0_n x_hat + c1_n h_n,   h_(n-1) = mean + sqrt(beta_n) z       (DiffRec, Eq. 11, Algorithm 2)
//!                c0_n = sqrt(abar_(n-1)) beta_n / (1 - abar_n)
//!                c1_n = sqrt(1 - beta_n) (1 - abar_(n-1)) / (1 - abar_n)
//! ```
//!
//! Steps count from 1, `abar_n = prod (1 - beta_i)` up to n, `abar_0 = 1`. The gradient of each term is the same op on `dy`.

use crate::engine::ValueId;
use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, Tensor, TensorType};
use crate::error::{Error, Result};
use crate::shader;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How the noise grows with the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Noise {
    /// `abar_n = f(n / N) / f(0)`, `f(t) = 1 - sqrt(t + 1e-4)`.
    Sqrt,
    /// `f(t) = cos^2(pi / 2 (t + 0.008) / 1.008)`.
    Cosine,
    /// `beta` from 1e-4 to 0.02 in equal steps, times `1000 / N`.
    Linear,
}

/// `beta_n` and `abar_n` of the steps 1 to N. No `beta` is above 0.999: it keeps `abar_N` above 0, where the `f` of `Noise`
/// would end below it.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// At n - 1: the variance of the noise that step n adds.
    pub beta: Vec<f64>,
    /// At n - 1: the share of the signal's variance that is left after step n.
    pub alpha_bar: Vec<f64>,
}

impl Schedule {
    /// Of `steps` steps.
    pub fn new(noise: Noise, steps: usize) -> Self {
        let at = |n: usize| n as f64 / steps as f64;
        let from = |f: fn(f64) -> f64| move |n: usize| 1.0 - f(at(n)) / f(at(n - 1));
        let beta: Vec<f64> = match noise {
            Noise::Sqrt => (1..=steps).map(from(|t| 1.0 - (t + 1e-4).sqrt())).collect(),
            Noise::Cosine => {
                let f = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                (1..=steps).map(from(f)).collect()
            }
            Noise::Linear => {
                let (low, high, last) = (1e-4, 0.02, (steps - 1).max(1) as f64);
                let scale = 1000.0 / steps as f64;
                (0..steps).map(|i| scale * (low + (high - low) * i as f64 / last)).collect()
            }
        };
        let beta: Vec<f64> = beta.into_iter().map(|beta| beta.min(0.999)).collect();
        let left = |left: &mut f64, beta: &f64| {
            *left *= 1.0 - beta;
            Some(*left)
        };
        Schedule { alpha_bar: beta.iter().scan(1.0, left).collect(), beta }
    }

    fn alpha_bar_before(&self, step: u32) -> f64 {
        if step == 1 { 1.0 } else { self.alpha_bar[step as usize - 2] }
    }

    /// What `h_0` and `eps` are multiplied by to give `h_n`, n = `step`.
    pub fn q_sample(&self, step: u32) -> [f64; 2] {
        let left = self.alpha_bar[step as usize - 1];
        [left.sqrt(), (1.0 - left).sqrt()]
    }

    /// What `x_hat`, `h_n` and `z` are multiplied by to give `h_(n-1)`; the first two give its mean.
    pub fn denoise_step(&self, step: u32) -> [f64; 3] {
        let (beta, left) = (self.beta[step as usize - 1], self.alpha_bar[step as usize - 1]);
        let before = self.alpha_bar_before(step);
        let spread = 1.0 - left;
        [before.sqrt() * beta / spread, (1.0 - beta).sqrt() * (1.0 - before) / spread, beta.sqrt()]
    }
}

/// Inputs `x^0[N, D]`, up to two more of the kind, `coefficients[N, K]`; output `y[N, D]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepMix {
    /// The column of the coefficients that belongs to `x^0`; the others follow.
    pub first: usize,
}

/// Rows that one worker mixes.
const ROW_BLOCK: usize = 64;

impl Op for StepMix {
    fn name(&self) -> &'static str {
        "step_mix"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let (coefficients, terms) = inputs.split_last().expect("coefficients");
        let alike = (1..=3).contains(&terms.len()) && terms.iter().all(|x| *x == terms[0] && x.shape.len() == 2);
        let fits = alike && coefficients.rows() == terms[0].rows() && self.first + terms.len() <= coefficients.width();
        expect("step_mix", fits, || format!("{} terms and coefficients {coefficients}", terms.len()))?;
        Ok(vec![terms[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (coefficients, terms) = inputs.split_last().expect("coefficients");
        let width = terms[0].width();
        for (i, y) in outputs[0].f_mut().iter_mut().enumerate() {
            let c = &coefficients.row(i / width)[self.first..];
            *y = terms.iter().zip(c).map(|(x, c)| c * x.f()[i]).sum();
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (coefficients, terms) = io.inputs.split_last().expect("coefficients");
        let (width, columns) = (terms[0].width(), coefficients.width());
        let blocks =
            io.outputs[0].f().par_chunks_mut(ROW_BLOCK * width).zip(coefficients.f().par_chunks(ROW_BLOCK * columns));
        blocks.enumerate().for_each(|(block, (y, coefficients))| {
            y.fill(0.0);
            for (row, (y, c)) in y.chunks_exact_mut(width).zip(coefficients.chunks_exact(columns)).enumerate() {
                let at = (block * ROW_BLOCK + row) * width;
                terms.iter().zip(&c[self.first..]).for_each(|(x, c)| simd::axpy(*c, &x.f()[at..at + width], y));
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (terms, len) = (b.inputs.len() - 1, b.outputs[0].len());
        let (width, columns) = (b.inputs[0].width(), b.inputs[terms].width());
        // Absent terms are not read, but the kernel has their bindings.
        let term = |b: &GpuBuilder, k: usize| (b.input(if k < terms { k } else { 0 }), Read);
        let bindings = [term(b, 0), term(b, 1), term(b, 2), (b.input(terms), Read), (b.output(0), Write)];
        let params = [len.into(), width.into(), columns.into(), self.first.into()];
        b.dispatch(shader!("step_mix"), &[("TERMS", terms as u32)], &bindings, &params, len.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let terms = vjp.n_inputs() - 1;
        let coefficients = vjp.input(terms);
        for k in (0..terms).filter(|k| vjp.needs(*k)).collect::<Vec<_>>() {
            let dx = vjp.add(StepMix { first: self.first + k }, &[dy, coefficients])?[0];
            vjp.accumulate(k, dx)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * (inputs.len() - 1) * outputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("q_sample", build_q_sample), ("denoise_step", build_denoise_step)];

/// The input `coefficients[N, K]` of the case's steps.
fn coefficients<const K: usize>(b: &mut Builder, of_step: fn(&Schedule, u32) -> [f64; K]) -> Result<ValueId> {
    let noise = serde_json::from_value(b.attr_str("kind")?.into());
    let noise = noise.map_err(|e| Error::graph("step_mix", e.to_string()))?;
    let schedule = Schedule::new(noise, b.attr_usize("steps")?);
    let steps = b.u32s("step")?;
    let rows = steps.iter().flat_map(|&step| of_step(&schedule, step).map(|c| c as f32)).collect();
    Ok(b.feed("coefficients", Tensor::f32(&[steps.len(), K], rows)))
}

fn build_q_sample(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("h0")?, b.input("eps")?, coefficients(b, Schedule::q_sample)?];
    let h_n = b.graph.add1(StepMix::default(), &inputs)?;
    b.output("h_n", h_n);
    Ok(())
}

fn build_denoise_step(b: &mut Builder) -> Result<()> {
    let [x0_hat, h_n, z] = ["x0_hat", "h_n", "z"].map(|name| b.input(name));
    let (x0_hat, h_n, z, coefficients) = (x0_hat?, h_n?, z?, coefficients(b, Schedule::denoise_step)?);
    let mean = b.graph.add1(StepMix::default(), &[x0_hat, h_n, coefficients])?;
    let h_prev = b.graph.add1(StepMix::default(), &[x0_hat, h_n, z, coefficients])?;
    b.output("mean", mean);
    b.output("h_prev", h_prev);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |kernel: usize, (rows, width): (usize, usize), kind: &str, steps: u32| {
        let case = Case::new(KERNELS[kernel], format!("{rows}x{width} {kind} {steps}"));
        // The first step, the last one, and some between.
        let step: Vec<u32> = (0..rows as u32).map(|i| [1, steps, 1 + i * 7 % steps][i as usize % 3]).collect();
        case.attr("kind", kind).attr("steps", steps).ids("step", &[rows], &step)
    };
    let forward = |size: (usize, usize), kind: &str, steps: u32| {
        let shape = [size.0, size.1];
        case(0, size, kind, steps).normal("h0", &shape, 1.0).normal("eps", &shape, 1.0)
    };
    let back = |size: (usize, usize), kind: &str, steps: u32| {
        let shape = [size.0, size.1];
        case(1, size, kind, steps).normal("x0_hat", &shape, 1.0).normal("h_n", &shape, 1.0).normal("z", &shape, 1.0)
    };
    vec![
        forward((1, 1), "sqrt", 1),
        forward((130, 3), "sqrt", 1000),
        forward((65, 64), "linear", 2000),
        back((3, 63), "cosine", 1000),
        back((127, 2), "sqrt", 10),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_have_the_values_of_the_specification() {
        let sqrt = Schedule::new(Noise::Sqrt, 1000);
        // The specification gives five digits or six.
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 3e-5;
        assert!(near(sqrt.beta[0], 0.0234003) && near(sqrt.beta[499], 0.00240994) && sqrt.beta[999] == 0.999);
        assert!(near(sqrt.alpha_bar[99], 0.690519) && near(sqrt.alpha_bar[999], 4.5465e-7));
        let cosine = Schedule::new(Noise::Cosine, 1000);
        assert!(near(cosine.alpha_bar[499], 0.493844) && near(cosine.alpha_bar[999], 2.4288e-9));
        let linear = Schedule::new(Noise::Linear, 1000);
        assert!(near(linear.alpha_bar[99], 0.897018) && (linear.alpha_bar[999] - 4.036e-5).abs() < 1e-8);
    }

    #[test]
    fn the_last_step_back_gives_the_prediction_and_weights_keep_a_noiseless_signal() {
        let schedule = Schedule::new(Noise::Sqrt, 1000);
        let [prediction, state, _] = schedule.denoise_step(1);
        assert!((prediction - 1.0).abs() < 1e-12 && state == 0.0);
        for step in [2, 500, 1000] {
            // h_n = sqrt(abar_n) x and x_hat = x give sqrt(abar_(n-1)) x.
            let [c0, c1, _] = schedule.denoise_step(step);
            let before = schedule.alpha_bar_before(step).sqrt();
            assert!((c0 + c1 * schedule.q_sample(step)[0] - before).abs() < 1e-12, "{step}");
        }
    }
}
