//! `y = a + b`, elementwise, equal shapes. Gradients that reach a value on several ways are joined by it.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, GpuBuilder};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;

/// Inputs `a`, `b`; output `y`, which updates `a` in place.
#[derive(Debug)]
pub struct Add;

/// Elements that one worker computes.
const BLOCK: usize = 8192;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        expect("add", inputs[0] == inputs[1], || format!("cannot add {} and {}", inputs[0], inputs[1]))?;
        Ok(vec![inputs[0].clone()])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        for (y, b) in outputs[0].f_mut().iter_mut().zip(inputs[1].f()) {
            *y += b;
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let blocks = io.outputs[0].f().par_chunks_mut(BLOCK).zip(io.inputs[1].f().par_chunks(BLOCK));
        blocks.for_each(|(y, b)| y.iter_mut().zip(b).for_each(|(y, b)| *y += b));
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let len = builder.inputs[0].len();
        let bindings = [(builder.input(1), Read), (builder.output(0), Update)];
        builder.dispatch(shader!("add"), &[], &bindings, &[len.into()], len.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        for input in (0..2).filter(|&i| vjp.needs(i)).collect::<Vec<_>>() {
            vjp.accumulate(input, dy)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(outputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("add", build)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("a")?, b.input("b")?];
    let y = b.graph.add1(Add, &inputs)?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    [1, 3, 63, 64, 65, 130]
        .map(|n| Case::new(KERNELS[0], format!("{n}x3")).normal("a", &[n, 3], 1.0).normal("b", &[n, 3], 100.0))
        .into()
}
