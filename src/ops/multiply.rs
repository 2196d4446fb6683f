//! `y = a b`, elementwise: what a gate lets through. Gradients: `da = dy b`, `db = dy a`, the same op again.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;

/// Inputs `a`, `b` of one shape; output `y`.
#[derive(Clone, Copy, Debug)]
pub struct Multiply;

/// Elements that one worker computes.
const BLOCK: usize = 8192;

impl Op for Multiply {
    fn name(&self) -> &'static str {
        "multiply"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        expect("multiply", inputs[0] == inputs[1], || format!("cannot multiply {} and {}", inputs[0], inputs[1]))?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let pairs = inputs[0].f().iter().zip(inputs[1].f());
        outputs[0].f_mut().iter_mut().zip(pairs).for_each(|(y, (a, b))| *y = a * b);
    }

    fn cpu(&self, io: &mut CpuIo) {
        let pairs = io.inputs[0].f().par_chunks(BLOCK).zip(io.inputs[1].f().par_chunks(BLOCK));
        io.outputs[0].f().par_chunks_mut(BLOCK).zip(pairs).for_each(|(y, (a, b))| {
            y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = a * b);
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let len = b.outputs[0].len();
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.output(0), Write)];
        b.dispatch(shader!("multiply"), &[], &bindings, &[len.into()], len.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        for i in (0..2).filter(|i| vjp.needs(*i)).collect::<Vec<_>>() {
            let gradient = vjp.add(Multiply, &[dy, vjp.input(1 - i)])?[0];
            vjp.accumulate(i, gradient)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(outputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("multiply", build)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("a")?, b.input("b")?];
    let y = b.graph.add1(Multiply, &inputs)?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, d: usize| {
        Case::new(KERNELS[0], format!("{n}x{d}")).normal("a", &[n, d], 1.0).normal("b", &[n, d], 1.0)
    };
    vec![case(1, 1), case(3, 65), case(130, 127)]
}
