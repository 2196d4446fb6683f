//! `y = f(f(... f(x)))`, `f(x) = a x + b`, elementwise, `rounds` times: nothing but fused multiply-adds on registers.
//! `gpurec bench` takes its rate as the ceiling of a device's arithmetic.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Update, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;

/// Input `x`; output `y`, which updates `x` in place.
#[derive(Clone, Copy, Debug)]
pub struct FmaLoop {
    /// The factor.
    pub a: f64,
    /// The summand.
    pub b: f64,
    /// A multiple of `UNROLLED`.
    pub rounds: usize,
}

/// Rounds per turn of the loop on a GPU, and elements of a thread there.
pub const UNROLLED: usize = 4;
const GPU_ELEMENTS: usize = 32;
const CPU_BLOCK: usize = 1024;

impl Op for FmaLoop {
    fn name(&self) -> &'static str {
        "fma_loop"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let whole = self.rounds.is_multiple_of(UNROLLED);
        expect("fma_loop", whole, || format!("{} rounds are no multiple of {UNROLLED}", self.rounds))?;
        Ok(vec![inputs[0].clone()])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn reference(&self, _inputs: &[&Array], outputs: &mut [Array]) {
        for y in outputs[0].f_mut() {
            (0..self.rounds).for_each(|_| *y = self.a * *y + self.b);
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (a, b) = (self.a as f32, self.b as f32);
        io.outputs[0].f().par_chunks_mut(CPU_BLOCK).for_each(|y| simd::iterate_affine(y, a, b, self.rounds));
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let len = builder.outputs[0].len();
        let params = [len.into(), (self.rounds / UNROLLED).into(), self.a.into(), self.b.into()];
        let groups = len.div_ceil(64 * GPU_ELEMENTS);
        builder.dispatch(shader!("fma_loop"), &[], &[(builder.output(0), Update)], &params, groups);
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * self.rounds * outputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("fma_loop", build)];

fn build(b: &mut Builder) -> Result<()> {
    let (x, rounds) = (b.input("x")?, b.attr_usize("rounds")?);
    let y = b.graph.add1(FmaLoop { a: b.attr_f64("a")?, b: b.attr_f64("b")?, rounds }, &[x])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, rounds: usize| {
        let x = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
        let case = Case::new(KERNELS[0], format!("{n} x {rounds}")).constant("x", &[n], x);
        case.attr("a", -0.75).attr("b", 0.5).attr("rounds", rounds)
    };
    vec![case(1, 0), case(63, 4), case(2049, 8)]
}
