//! `y_(n C + c, r) = x_(n R + r, c)`: blocks of R rows, each turned on its side. Gradient: the blocks of C rows turned back.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;

/// Input `x[N R, C]`; output `y[N C, R]`.
#[derive(Clone, Copy, Debug)]
pub struct BlockTranspose {
    /// R
    pub rows: usize,
}

impl Op for BlockTranspose {
    fn name(&self) -> &'static str {
        "block_transpose"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let x = inputs[0];
        let fits = self.rows > 0 && x.shape.len() == 2 && x.rows().is_multiple_of(self.rows);
        expect(self.name(), fits, || format!("{x} has no blocks of {} rows", self.rows))?;
        Ok(vec![TensorType::f32(&[x.rows() / self.rows * x.width(), self.rows])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (rows, width) = (self.rows, inputs[0].width());
        for (i, y) in outputs[0].f_mut().iter_mut().enumerate() {
            let (block, c, r) = (i / (rows * width), i / rows % width, i % rows);
            *y = inputs[0].f()[(block * rows + r) * width + c];
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (rows, width) = (self.rows, io.inputs[0].width());
        let block = (rows * width).max(1);
        let blocks = io.outputs[0].f().par_chunks_mut(block).zip(io.inputs[0].f().par_chunks(block));
        blocks.for_each(|(y, x)| {
            for (c, y) in y.chunks_exact_mut(rows).enumerate() {
                y.iter_mut().zip(x[c..].iter().step_by(width)).for_each(|(y, x)| *y = *x);
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (len, width) = (b.inputs[0].len(), b.inputs[0].width());
        let bindings = [(b.input(0), Read), (b.output(0), Write)];
        let params = [len.into(), self.rows.into(), width.into()];
        b.dispatch(shader!("block_transpose"), &[], &bindings, &params, len.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let rows = vjp.ty(vjp.input(0)).width();
        let dx = vjp.add(BlockTranspose { rows }, &[dy])?[0];
        vjp.accumulate(0, dx)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(0, inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("block_transpose", build)];

fn build(b: &mut Builder) -> Result<()> {
    let (x, rows) = (b.input("x")?, b.attr_usize("rows")?);
    let y = b.graph.add1(BlockTranspose { rows }, &[x])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |blocks: usize, rows: usize, width: usize| {
        let case = Case::new(KERNELS[0], format!("{blocks} of {rows}x{width}")).attr("rows", rows);
        case.normal("x", &[blocks * rows, width], 1.0)
    };
    vec![case(1, 1, 1), case(3, 5, 2), case(2, 1, 65), case(7, 15, 16), case(130, 3, 1)]
}
