//! `y = ln max(|x|, floor)`, elementwise. Gradient: `dx = dy / x` where `|x|` is above the floor, 0 elsewhere.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;

/// Input `x`; output `y` of its shape.
#[derive(Clone, Copy, Debug)]
pub struct LogMagnitude {
    /// What smaller magnitudes count as; above 0.
    pub floor: f64,
}

/// Elements that one worker computes.
const BLOCK: usize = 8192;

impl Op for LogMagnitude {
    fn name(&self) -> &'static str {
        "log_magnitude"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        expect(self.name(), self.floor > 0.0, || format!("a floor of {}", self.floor))?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        outputs[0].f_mut().iter_mut().zip(inputs[0].f()).for_each(|(y, x)| *y = x.abs().max(self.floor).ln());
    }

    fn cpu(&self, io: &mut CpuIo) {
        let floor = self.floor as f32;
        let blocks = io.outputs[0].f().par_chunks_mut(BLOCK).zip(io.inputs[0].f().par_chunks(BLOCK));
        blocks.for_each(|(y, x)| y.iter_mut().zip(x).for_each(|(y, x)| *y = x.abs().max(floor).ln()));
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let len = b.inputs[0].len();
        let bindings = [(b.input(0), Read), (b.output(0), Write)];
        b.dispatch(shader!("log_magnitude"), &[], &bindings, &[len.into(), self.floor.into()], len.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let dx = vjp.add(LogMagnitudeGradient(*self), &[vjp.input(0), dy])?[0];
        vjp.accumulate(0, dx)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(10 * inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `x`, `dy`; output `dx`, all of one shape.
#[derive(Clone, Copy, Debug)]
pub struct LogMagnitudeGradient(pub LogMagnitude);

impl Op for LogMagnitudeGradient {
    fn name(&self) -> &'static str {
        "log_magnitude_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let pairs = inputs[0].f().iter().zip(inputs[1].f());
        let slope = |x: f64, dy: f64| if x.abs() > self.0.floor { dy / x } else { 0.0 };
        outputs[0].f_mut().iter_mut().zip(pairs).for_each(|(dx, (x, dy))| *dx = slope(*x, *dy));
    }

    fn cpu(&self, io: &mut CpuIo) {
        let floor = self.0.floor as f32;
        let pairs = io.inputs[0].f().par_chunks(BLOCK).zip(io.inputs[1].f().par_chunks(BLOCK));
        io.outputs[0].f().par_chunks_mut(BLOCK).zip(pairs).for_each(|(dx, (x, dy))| {
            let slopes = x.iter().zip(dy).map(|(x, dy)| if x.abs() > floor { dy / x } else { 0.0 });
            dx.iter_mut().zip(slopes).for_each(|(dx, slope)| *dx = slope);
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let len = b.inputs[0].len();
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.output(0), Write)];
        let params = [len.into(), self.0.floor.into()];
        b.dispatch(shader!("log_magnitude_gradient"), &[], &bindings, &params, len.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("log_magnitude", build)];

fn build(b: &mut Builder) -> Result<()> {
    let (x, floor) = (b.input("x")?, b.attr_f64("floor")?);
    let y = b.graph.add1(LogMagnitude { floor }, &[x])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    // Both signs, above the floor and below it.
    let ramp = |n: usize| (0..n).map(|i| (i as f32 - n as f32 / 2.0 + 0.25) / 9.0).collect();
    let case = |n: usize, floor: f64| {
        Case::new(KERNELS[0], format!("{n} above {floor}")).attr("floor", floor).tensor("x", &[n], ramp(n))
    };
    vec![case(1, 1e-7), case(65, 1e-7), case(130, 1.5), case(8200, 1e-5)]
}
