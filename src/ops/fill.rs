//! `y = value` everywhere: the cotangent of a loss, and gradients of parameters that a graph does not use.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Write, GpuBuilder};
use crate::engine::op::{Cost, Op};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;

/// No inputs; output `y` of the given shape.
#[derive(Debug)]
pub struct Fill {
    /// What every element is.
    pub value: f32,
    /// Of the output.
    pub shape: Vec<usize>,
}

impl Op for Fill {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn infer(&self, _inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::f32(&self.shape)])
    }

    fn reference(&self, _inputs: &[&Array], outputs: &mut [Array]) {
        outputs[0].f_mut().fill(f64::from(self.value));
    }

    fn cpu(&self, io: &mut CpuIo) {
        io.outputs[0].f().fill(self.value);
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let len = builder.outputs[0].len();
        let params = [len.into(), f64::from(self.value).into()];
        builder.dispatch(shader!("fill"), &[], &[(builder.output(0), Write)], &params, len.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(0, inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("fill", build)];

fn build(b: &mut Builder) -> Result<()> {
    let (value, len) = (b.attr_f64("value")? as f32, b.attr_usize("len")?);
    let y = b.graph.add1(Fill { value, shape: vec![len] }, &[])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    [1, 64, 65].map(|n| Case::new(KERNELS[0], n.to_string()).attr("value", -2.5).attr("len", n)).into()
}
