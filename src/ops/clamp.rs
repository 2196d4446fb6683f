//! `y = min(max(x, low), high)`, elementwise, as an update: keeps parameters in their range after an optimizer step.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Update, GpuBuilder};
use crate::engine::op::{Cost, Op};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;

/// Input `x`; output `y`, which updates `x` in place. Not differentiable: it follows the optimizer.
#[derive(Clone, Copy, Debug)]
pub struct Clamp {
    /// The least value that stays.
    pub low: f64,
    /// The largest value that stays.
    pub high: f64,
}

impl Op for Clamp {
    fn name(&self) -> &'static str {
        "clamp"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone()])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn reference(&self, _inputs: &[&Array], outputs: &mut [Array]) {
        outputs[0].f_mut().iter_mut().for_each(|y| *y = y.clamp(self.low, self.high));
    }

    fn cpu(&self, io: &mut CpuIo) {
        io.outputs[0].f().iter_mut().for_each(|y| *y = y.clamp(self.low as f32, self.high as f32));
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let len = builder.outputs[0].len();
        let params = [len.into(), self.low.into(), self.high.into()];
        builder.dispatch(shader!("clamp"), &[], &[(builder.output(0), Update)], &params, len.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(outputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("clamp", build)];

fn build(b: &mut Builder) -> Result<()> {
    let x = b.input("x")?;
    let y = b.graph.add1(Clamp { low: -1.0, high: 2.5 }, &[x])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize| {
        let data = (0..n).map(|i| i as f32 - 3.0).collect();
        Case::new(KERNELS[0], n.to_string()).constant("x", &[n], data)
    };
    [1, 7, 65].map(case).into()
}
