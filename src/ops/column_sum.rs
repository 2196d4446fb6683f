//! `y_d = sum_n x_nd`: the gradient of a bias. Summed in blocks of rows of fixed size, the blocks in fixed order.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder, Region};
use crate::engine::op::{Cost, Op};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::matmul::sum_slabs_gpu;
use crate::shader;
use rayon::prelude::*;

/// Rows that one worker sums.
const BLOCK: usize = 256;

/// Input `x[N, D]`; output `y[D]`.
#[derive(Debug)]
pub struct ColumnSum;

impl Op for ColumnSum {
    fn name(&self) -> &'static str {
        "column_sum"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::f32(&[inputs[0].width()])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let y = outputs[0].f_mut();
        for row in inputs[0].f().chunks_exact(y.len()) {
            y.iter_mut().zip(row).for_each(|(y, x)| *y += x);
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        inputs[0].rows().div_ceil(BLOCK) * inputs[0].width()
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (x, width) = (io.inputs[0].f(), io.inputs[0].width());
        let sum_rows = |y: &mut [f32], rows: &[f32]| {
            y.fill(0.0);
            rows.chunks_exact(width).for_each(|row| y.iter_mut().zip(row).for_each(|(y, x)| *y += x));
        };
        let blocks = io.scratch.par_chunks_mut(width).zip(x.par_chunks(BLOCK * width));
        blocks.for_each(|(partial, rows)| sum_rows(partial, rows));
        sum_rows(io.outputs[0].f(), io.scratch);
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let sizes = (builder.inputs[0].rows(), builder.inputs[0].width());
        column_sum_gpu(builder, builder.input(0), sizes, builder.output(0), false);
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(inputs[0].len(), inputs, outputs)
    }
}

/// `y (+)= column sums of x[rows, width]`, the blocks added in order.
pub fn column_sum_gpu(builder: &mut GpuBuilder, x: Region, (rows, width): (usize, usize), y: Region, accumulate: bool) {
    let blocks = rows.div_ceil(BLOCK);
    let direct = blocks == 1 && !accumulate;
    let partial = if direct { y } else { builder.scratch(blocks * width) };
    let params = [rows.into(), width.into(), BLOCK.into()];
    let groups = blocks * width.div_ceil(64);
    builder.dispatch(shader!("column_sum"), &[], &[(x, Read), (partial, Write)], &params, groups);
    if !direct {
        sum_slabs_gpu(builder, partial, y, blocks, accumulate);
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("column_sum", build)];

fn build(b: &mut Builder) -> Result<()> {
    let x = b.input("x")?;
    let y = b.graph.add1(ColumnSum, &[x])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    [(1, 1), (3, 65), (255, 2), (257, 64), (600, 130)]
        .map(|(n, d)| Case::new(KERNELS[0], format!("{n}x{d}")).constant("x", &[n, d], ramp(n * d)))
        .into()
}

fn ramp(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect()
}
