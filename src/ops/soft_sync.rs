//! `t' = t + rate (s - t)`: a target network follows the network that learns, in place.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, GpuBuilder};
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;

/// Inputs `target[P]`, `source[Q]` with `Q >= P`, whose first numbers are followed; output `target[P]`. No gradient.
#[derive(Clone, Copy, Debug)]
pub struct SoftSync {
    /// The part of the way that the target goes.
    pub rate: f64,
}

/// Elements that one worker moves.
const BLOCK: usize = 8192;

impl Op for SoftSync {
    fn name(&self) -> &'static str {
        "soft_sync"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let fits = inputs[0].len() <= inputs[1].len() && (0.0..=1.0).contains(&self.rate);
        expect("soft_sync", fits, || format!("{} cannot follow {} at a rate of {}", inputs[0], inputs[1], self.rate))?;
        Ok(vec![inputs[0].clone()])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        outputs[0].f_mut().iter_mut().zip(inputs[1].f()).for_each(|(t, s)| *t += self.rate * (s - *t));
    }

    fn cpu(&self, io: &mut CpuIo) {
        let rate = self.rate as f32;
        let source = io.inputs[1].f().par_chunks(BLOCK);
        io.outputs[0].f().par_chunks_mut(BLOCK).zip(source).for_each(|(target, source)| {
            target.iter_mut().zip(source).for_each(|(t, s)| *t += rate * (s - *t));
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let len = b.inputs[0].len();
        // A piece starts on a whole 256 bytes.
        let piece = (b.limits.binding_words / 64).max(1) * 64;
        for first in (0..len).step_by(piece) {
            let words = piece.min(len - first);
            let bindings = [(b.input(1).slice(first, words), Read), (b.output(0).slice(first, words), Update)];
            b.dispatch(shader!("soft_sync"), &[], &bindings, &[words.into(), self.rate.into()], words.div_ceil(64));
        }
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(3 * inputs[0].len(), &[inputs[0], inputs[0]], outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("soft_sync", build)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("target")?, b.input("source")?];
    let target = b.graph.add1(SoftSync { rate: b.attr_f64("rate")? }, &inputs)?;
    b.output("target", target);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |p: usize, q: usize, rate: f64| {
        let data = |n: usize, step: usize| (0..n).map(|i| ((i * step) % 101) as f32 / 25.0 - 2.0).collect();
        let case = Case::new(KERNELS[0], format!("{p} of {q} at {rate}")).attr("rate", rate);
        case.constant("target", &[p], data(p, 37)).constant("source", &[q], data(q, 29))
    };
    vec![case(1, 1, 0.005), case(65, 70, 0.1), case(8193, 8193, 1.0), case(130, 4096, 0.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_small_steps_go_two_thirds_of_the_way() {
        let mut target = vec![Array::from_f64(&TensorType::f32(&[1]), vec![0.0])];
        let source = Array::from_f64(&TensorType::f32(&[1]), vec![1.0]);
        for _ in 0..200 {
            let before = target[0].clone();
            SoftSync { rate: 0.005 }.reference(&[&before, &source], &mut target);
        }
        assert!((target[0].f()[0] - (1.0 - 0.995f64.powi(200))).abs() < 1e-12);
        assert!((target[0].f()[0] - 0.6330).abs() < 1e-4);
    }
}
