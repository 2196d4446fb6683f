//! `y = factor * x`, elementwise. The smallest op: see CONTRIBUTING.md.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Update, GpuBuilder};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;

/// Input `x`; output `y`, which updates `x` in place.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// What every element is multiplied by.
    pub factor: f64,
}

/// Elements that one worker computes.
const BLOCK: usize = 8192;

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone()])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn reference(&self, _inputs: &[&Array], outputs: &mut [Array]) {
        outputs[0].f_mut().iter_mut().for_each(|y| *y *= self.factor);
    }

    fn cpu(&self, io: &mut CpuIo) {
        let factor = self.factor as f32;
        io.outputs[0].f().par_chunks_mut(BLOCK).for_each(|y| y.iter_mut().for_each(|y| *y *= factor));
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let len = builder.outputs[0].len();
        let params = [len.into(), self.factor.into()];
        builder.dispatch(shader!("scale"), &[], &[(builder.output(0), Update)], &params, len.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let dx = vjp.add(*self, &[dy])?[0];
        vjp.accumulate(0, dx)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(outputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("scale", build)];

fn build(b: &mut Builder) -> Result<()> {
    let (x, factor) = (b.input("x")?, b.attr_f64("factor")?);
    let y = b.graph.add1(Scale { factor }, &[x])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    [1, 63, 65].map(|n| Case::new(KERNELS[0], n.to_string()).attr("factor", -0.3).normal("x", &[n], 1e4)).into()
}
