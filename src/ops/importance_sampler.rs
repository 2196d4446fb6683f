//! Which noise step n each sample of a batch is trained at: steps with large losses are drawn more often, and count for less,
//! so that the mean stays what uniform steps would give (Nichol and Dhariwal, ICML 2021, section 3.3; DiffRec, Eq. 18).
//!
//! ```text
//! q_n = sqrt(mean of L^2 over the last K losses at step n)
//! p_n = (1 - u) q_n / sum q + u / N,  u = 0.001
//! w_n = 1 / (N p_n)
//! ```
//!
//! Until every step has K losses, and where all losses are 0, `p_n = 1 / N`. The history `[N, K]` lies on the device, in a
//! parameter set that no optimizer updates, so that a step needs no reading back and checkpoints hold it.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, Access::Write, GpuBuilder};
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, DType, TensorType};
use crate::error::Result;
use crate::shader;

/// What the history holds where there is no loss yet.
pub const EMPTY: f32 = -1.0;
/// Share of the draws that are uniform.
const UNIFORM: f64 = 0.001;

/// Inputs `history[H]` (`[N, K]` in its first words), `uniform[B]` in (0, 1); outputs `step[B]` (u32, from 1 to N),
/// `weight[B]`.
#[derive(Clone, Copy, Debug)]
pub struct ImportanceSampler {
    /// N
    pub steps: usize,
    /// K
    pub kept: usize,
}

impl ImportanceSampler {
    fn history_fits(&self, history: &TensorType) -> Result<()> {
        let fits = history.len() >= self.steps * self.kept && self.steps > 0 && self.kept > 0;
        expect(self.name(), fits, || format!("history is {history}, for {} steps of {}", self.steps, self.kept))
    }

    /// `p_n` at n - 1.
    fn probabilities(&self, history: impl Fn(usize) -> f64) -> Vec<f64> {
        let uniform = 1.0 / self.steps as f64;
        let losses = |n: usize| (n * self.kept..(n + 1) * self.kept).map(&history);
        let root = |n: usize| (losses(n).map(|loss| loss * loss).sum::<f64>() / self.kept as f64).sqrt();
        let full = (0..self.steps).all(|n| losses(n).all(|loss| loss >= 0.0));
        let roots: Vec<f64> = (0..self.steps).map(root).collect();
        let sum: f64 = roots.iter().sum();
        match full && sum >= 1e-12 {
            true => roots.iter().map(|q| (1.0 - UNIFORM) * q / sum + UNIFORM * uniform).collect(),
            false => vec![uniform; self.steps],
        }
    }

    /// The step that a uniform number draws, and its weight.
    fn draw(&self, probabilities: &[f64], uniform: f64) -> (u32, f64) {
        let mut below = 0.0;
        let drawn = probabilities.iter().position(|p| {
            below += p;
            uniform < below
        });
        let n = drawn.unwrap_or(self.steps - 1);
        (n as u32 + 1, 1.0 / (self.steps as f64 * probabilities[n]))
    }
}

impl Op for ImportanceSampler {
    fn name(&self) -> &'static str {
        "importance_sampler"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        self.history_fits(inputs[0])?;
        Ok(vec![TensorType::u32(&inputs[1].shape), inputs[1].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let probabilities = self.probabilities(|i| inputs[0].f()[i]);
        for (b, uniform) in inputs[1].f().iter().enumerate() {
            let (step, weight) = self.draw(&probabilities, *uniform);
            outputs[0].u_mut()[b] = step;
            outputs[1].f_mut()[b] = weight;
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (history, uniform) = (io.inputs[0].f(), io.inputs[1].f());
        let probabilities = self.probabilities(|i| f64::from(history[i]));
        let [step, weight] = &mut io.outputs[..] else { unreachable!("inferred") };
        for ((step, weight), uniform) in step.u().iter_mut().zip(weight.f()).zip(uniform) {
            let (drawn, w) = self.draw(&probabilities, f64::from(*uniform));
            (*step, *weight) = (drawn, w as f32);
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        // p_n, then its running sums.
        let table = b.scratch(2 * self.steps);
        let params = [self.steps.into(), self.kept.into(), UNIFORM.into()];
        b.dispatch(shader!("importance_table"), &[], &[(b.input(0), Read), (table, Write)], &params, 1);
        let len = b.inputs[1].len();
        let bindings = [(table, Read), (b.input(1), Read), (b.output(0), Write), (b.output(1), Write)];
        b.dispatch(shader!("importance_draw"), &[], &bindings, &[len.into(), self.steps.into()], len.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `history[H]`, `step[B]` (u32), `loss[B]`; output `history`, updated in place: the losses of the batch, in its order,
/// push out the oldest of their steps.
#[derive(Clone, Copy, Debug)]
pub struct ImportanceRecord {
    /// Whose history it is.
    pub sampler: ImportanceSampler,
}

impl Op for ImportanceRecord {
    fn name(&self) -> &'static str {
        "importance_record"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        self.sampler.history_fits(inputs[0])?;
        let fits = inputs[1].dtype == DType::U32 && inputs[1].len() == inputs[2].len();
        expect("importance_record", fits, || format!("step is {}, loss {}", inputs[1], inputs[2]))?;
        Ok(vec![inputs[0].clone()])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let kept = self.sampler.kept;
        for (step, loss) in inputs[1].u().iter().zip(inputs[2].f()) {
            let losses = &mut outputs[0].f_mut()[(*step as usize - 1) * kept..][..kept];
            losses.rotate_left(1);
            losses[kept - 1] = *loss;
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (kept, history) = (self.sampler.kept, io.outputs[0].f());
        for (step, loss) in io.inputs[1].u().iter().zip(io.inputs[2].f()) {
            let losses = &mut history[(*step as usize - 1) * kept..][..kept];
            losses.rotate_left(1);
            losses[kept - 1] = *loss;
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let ImportanceSampler { steps, kept } = self.sampler;
        let bindings = [(b.input(1), Read), (b.input(2), Read), (b.output(0), Update)];
        let params = [b.inputs[1].len().into(), steps.into(), kept.into()];
        b.dispatch(shader!("importance_record"), &[], &bindings, &params, steps.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(0, &inputs[1..], outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("importance_sampler", build), ("importance_record", build_record)];

fn sampler(b: &Builder) -> Result<ImportanceSampler> {
    Ok(ImportanceSampler { steps: b.attr_usize("steps")?, kept: b.attr_usize("kept")? })
}

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("history")?, b.input("uniform")?];
    let outputs = b.graph.add(sampler(b)?, &inputs)?;
    b.output("step", outputs[0]);
    b.output("weight", outputs[1]);
    Ok(())
}

fn build_record(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("history")?, b.input("step")?, b.input("loss")?];
    let history = b.graph.add1(ImportanceRecord { sampler: sampler(b)? }, &inputs)?;
    b.output("history", history);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |kernel: usize, name: &str, steps: usize, kept: usize, loss: &dyn Fn(usize) -> f32| {
        // Words behind the history are nobody's.
        let history: Vec<f32> = (0..steps * kept).map(loss).chain([7.0; 3]).collect();
        let case = Case::new(KERNELS[kernel], name).attr("steps", steps).attr("kept", kept);
        case.constant("history", &[history.len()], history)
    };
    let draw = |name: &str, batch: usize, steps: usize, kept: usize, loss: &dyn Fn(usize) -> f32| {
        let uniform = (0..batch).map(|i| (i as f32 + 0.5) / batch as f32).collect();
        case(0, name, steps, kept, loss).constant("uniform", &[batch], uniform)
    };
    let record = |name: &str, steps: usize, kept: usize, at: &[u32]| {
        let loss = (0..at.len()).map(|i| i as f32 + 0.25).collect();
        let case = case(1, name, steps, kept, &|i| [EMPTY, 0.5][i % 2]);
        case.ids("step", &[at.len()], at).constant("loss", &[at.len()], loss)
    };
    let falling = |i: usize| 3.0 / (1.0 + i as f32) + (i % 7) as f32 * 0.01;
    vec![
        draw("one step", 3, 1, 1, &|_| 2.0),
        draw("two steps of the specification", 7, 2, 1, &|i| [1.0, 3.0][i]),
        draw("not full yet", 9, 4, 2, &|i| [1.0, 2.0, 3.0, 4.0, 5.0, EMPTY, 6.0, 7.0][i]),
        draw("all losses zero", 5, 3, 10, &|_| 0.0),
        draw("falling losses", 130, 1000, 10, &falling),
        draw("one step has all the loss", 65, 257, 3, &|i| if i / 3 == 200 { 1e4 } else { 0.0 }),
        record("two steps, one three times", 2, 2, &[2, 2, 1, 2]),
        record("the last of many", 130, 10, &[130, 1, 130, 65]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rng::{RngState, Site};

    const TWO: ImportanceSampler = ImportanceSampler { steps: 2, kept: 1 };

    #[test]
    fn probabilities_and_weights_are_those_of_the_specification() {
        let p = TWO.probabilities(|i| [1.0, 3.0][i]);
        assert!((p[0] - 0.25025).abs() < 1e-9 && (p[1] - 0.74975).abs() < 1e-9);
        let (first, last) = (TWO.draw(&p, 0.1), TWO.draw(&p, 0.9));
        assert!(first.0 == 1 && (first.1 - 1.9980).abs() < 1e-4 && last.0 == 2 && (last.1 - 0.66689).abs() < 1e-5);
    }

    #[test]
    fn weighted_losses_have_the_mean_of_uniform_steps() {
        let losses = [0.3, 1.7, 0.05, 4.0, 0.9];
        let sampler = ImportanceSampler { steps: 5, kept: 1 };
        let p = sampler.probabilities(|i| losses[i]);
        let mut stream = RngState { seed: 4, step: 0 }.stream(Site(1), 0);
        let draws: Vec<f64> = (0..200_000)
            .map(|_| {
                let (n, weight) = sampler.draw(&p, f64::from(stream.uniform()));
                weight * losses[n as usize - 1]
            })
            .collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let deviation = (draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64).sqrt();
        let wanted = losses.iter().sum::<f64>() / 5.0;
        assert!((mean - wanted).abs() < 4.0 * deviation / (draws.len() as f64).sqrt(), "{mean}, not {wanted}");
    }
}
