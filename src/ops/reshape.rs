//! The same words under another shape. Costs nothing where the plan lets input and output share their memory.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::GpuBuilder;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;

/// Input `x`; output `y` of the given shape with as many elements.
#[derive(Debug)]
pub struct Reshape {
    /// Of the output.
    pub shape: Vec<usize>,
}

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let output = TensorType { dtype: inputs[0].dtype, shape: self.shape.clone() };
        expect("reshape", output.len() == inputs[0].len(), || format!("{} cannot become {:?}", inputs[0], self.shape))?;
        Ok(vec![output])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn reference(&self, _inputs: &[&Array], _outputs: &mut [Array]) {}

    fn cpu(&self, _io: &mut CpuIo) {}

    fn gpu(&self, _builder: &mut GpuBuilder) {}

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let shape = vjp.ty(vjp.input(0)).shape;
        let dx = vjp.add(Reshape { shape }, &[dy])?[0];
        vjp.accumulate(0, dx)
    }

    fn cost(&self, _inputs: &[&TensorType], _outputs: &[&TensorType]) -> Cost {
        Cost::default()
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("reshape", build)];

fn build(b: &mut Builder) -> Result<()> {
    let x = b.input("x")?;
    let rows = b.attr_usize("rows")?;
    let width = b.graph.ty(x).len() / rows;
    let y = b.graph.add1(Reshape { shape: vec![rows, width] }, &[x])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new(KERNELS[0], "6x35 to 10x21").attr("rows", 10).normal("x", &[6, 35], 1.0)]
}
