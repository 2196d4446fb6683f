//! `y = e^x`, elementwise; arguments above 88 count as 88, so that nothing becomes infinite. Gradient: `dx = y dy`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Update, GpuBuilder};
use crate::engine::exec::simd::exp_in_place;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::multiply::Multiply;
use crate::shader;
use rayon::prelude::*;

/// Input `x`; output `y`, which updates `x` in place.
#[derive(Clone, Copy, Debug)]
pub struct Exp;

/// The largest exponent.
const MOST: f64 = 88.0;
/// Elements that one worker computes.
const BLOCK: usize = 8192;

impl Op for Exp {
    fn name(&self) -> &'static str {
        "exp"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone()])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn reference(&self, _inputs: &[&Array], outputs: &mut [Array]) {
        outputs[0].f_mut().iter_mut().for_each(|y| *y = y.min(MOST).exp());
    }

    fn cpu(&self, io: &mut CpuIo) {
        io.outputs[0].f().par_chunks_mut(BLOCK).for_each(exp_in_place);
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let len = b.outputs[0].len();
        b.dispatch(shader!("exp"), &[], &[(b.output(0), Update)], &[len.into(), MOST.into()], len.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let dx = vjp.add(Multiply, &[vjp.output(0), dy])?[0];
        vjp.accumulate(0, dx)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(10 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("exp", build)];

fn build(b: &mut Builder) -> Result<()> {
    let x = b.input("x")?;
    let y = b.graph.add1(Exp, &[x])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let tail = [-100.0, -50.0, 0.0, 1e-3, 20.0].to_vec();
    let case = |n: usize| Case::new(KERNELS[0], n.to_string()).normal("x", &[n], 2.0);
    vec![case(1), case(65), case(8200), Case::new(KERNELS[0], "small and large").tensor("x", &[5], tail)]
}
