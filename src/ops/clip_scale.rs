//! `scale = min(1, max_norm / ||grads||)`: the factor that clips a gradient by its global norm; Adam reads it on the device.
//!
//! Squares are summed in blocks of fixed size, the blocks in order.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;

/// Input `grads[P]`; output `scale[1]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipScale {
    /// Positive.
    pub max_norm: f64,
}

/// Elements whose squares one worker or workgroup sums.
const BLOCK: usize = 4096;

impl ClipScale {
    fn scale(&self, square_sum: f64) -> f64 {
        if square_sum > self.max_norm * self.max_norm { self.max_norm / square_sum.sqrt() } else { 1.0 }
    }
}

impl Op for ClipScale {
    fn name(&self) -> &'static str {
        "clip_scale"
    }

    fn infer(&self, _inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        expect("clip_scale", self.max_norm > 0.0, || format!("the norm {} must be positive", self.max_norm))?;
        Ok(vec![TensorType::f32(&[1])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        outputs[0].f_mut()[0] = self.scale(inputs[0].f().iter().map(|g| g * g).sum());
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        inputs[0].len().div_ceil(BLOCK)
    }

    fn cpu(&self, io: &mut CpuIo) {
        let blocks = io.scratch.par_iter_mut().zip(io.inputs[0].f().par_chunks(BLOCK));
        blocks.for_each(|(partial, grads)| {
            *partial = simd::vectorised(
                #[inline(always)]
                || square_sum(grads),
            ) as f32
        });
        io.outputs[0].f()[0] = self.scale(io.scratch.iter().map(|x| f64::from(*x)).sum()) as f32;
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let len = b.inputs[0].len();
        let partial = b.scratch(len.div_ceil(BLOCK));
        // A piece starts on a whole block, and its partial sums on a whole 256 bytes.
        let piece = (b.limits.binding_words / (64 * BLOCK)).max(1) * 64 * BLOCK;
        for first in (0..len).step_by(piece) {
            let words = piece.min(len - first);
            let sums = partial.slice(first / BLOCK, words.div_ceil(BLOCK));
            let bindings = [(b.input(0).slice(first, words), Read), (sums, Write)];
            b.dispatch(shader!("square_sum"), &[], &bindings, &[words.into()], words.div_ceil(BLOCK));
        }
        let bindings = [(partial, Read), (b.output(0), Write)];
        b.dispatch(shader!("clip_scale"), &[], &bindings, &[partial.len.into(), self.max_norm.into()], 1);
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * inputs[0].len(), inputs, outputs)
    }
}

#[inline(always)]
fn square_sum(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    let (groups, rest) = x.as_chunks::<16>();
    for group in groups {
        lanes.iter_mut().zip(group).for_each(|(lane, x)| *lane += f64::from(*x) * f64::from(*x));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane += f64::from(*x) * f64::from(*x));
    lanes.iter().sum()
}

pub(crate) const KERNELS: &[Kernel] = &[("clip_scale", build)];

fn build(b: &mut Builder) -> Result<()> {
    let op = ClipScale { max_norm: b.attr_f64("max_norm")? };
    let grads = b.input("grads")?;
    let scale = b.graph.add1(op, &[grads])?;
    b.output("scale", scale);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, max_norm: f64, factor: f32| {
        let values = (0..n).map(|i| (((i * 37) % 101) as f32 - 50.0) * factor).collect();
        let case = Case::new(KERNELS[0], format!("{n} of {factor}, norm {max_norm}")).attr("max_norm", max_norm);
        case.constant("grads", &[n], values)
    };
    vec![
        case(1, 1.0, 0.01),
        case(65, 5.0, 1.0),
        case(130, 1.0, 0.0),
        case(4096, 1.0, 1e4),
        case(4097, 1e-3, 1e-6),
        case(300_000, 5.0, 1.0),
    ]
}
