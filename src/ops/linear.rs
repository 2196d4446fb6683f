//! `Y = X W^T + b`: one GEMM with the bias in its epilogue.
//!
//! Gradients: `dX = dY W`, `dW = dY^T X` (split-K: the inner dimension is the number of rows), `db = column sums of dY`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::GpuBuilder;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::column_sum::ColumnSum;
use crate::ops::matmul::{Gemm, Matmul, Matrix, Sizes, gemm, gemm_gpu};
use rayon::prelude::*;

/// Inputs `x[N, I]`, `weight[O, I]`, `bias[O]` (optional); output `y[N, O]`.
#[derive(Debug)]
pub struct Linear;

const ROW_BLOCK: usize = 512;

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let [x, weight] = [inputs[0], inputs[1]];
        let fits = x.shape.len() == 2 && weight.shape.len() == 2 && x.width() == weight.width();
        expect("linear", fits, || format!("x is {x}, weight is {weight}; both must end in the input width"))?;
        let outputs = weight.shape[0];
        let bias_fits = inputs.get(2).is_none_or(|bias| bias.len() == outputs);
        expect("linear", bias_fits, || format!("bias is {}, weight is {weight}", inputs[2]))?;
        Ok(vec![TensorType::f32(&[x.shape[0], outputs])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (x, weight) = (inputs[0], inputs[1]);
        let width = weight.shape()[0];
        for (i, y) in outputs[0].f_mut().iter_mut().enumerate() {
            let (n, o) = (i / width, i % width);
            let bias = inputs.get(2).map_or(0.0, |bias| bias.f()[o]);
            *y = bias + x.row(n).iter().zip(weight.row(o)).map(|(x, w)| x * w).sum::<f64>();
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (x, weight, bias) = (io.inputs[0], io.inputs[1], io.inputs.get(2).map(|b| b.f()));
        let (width_in, width_out) = (x.width(), weight.ty.shape[0]);
        let y = io.outputs[0].f();
        let blocks = y.par_chunks_mut(ROW_BLOCK * width_out).zip(x.f().par_chunks(ROW_BLOCK * width_in));
        blocks.for_each(|(y, x)| {
            if let Some(bias) = bias {
                y.chunks_exact_mut(width_out).for_each(|row| row.copy_from_slice(bias));
            }
            let sizes = (y.len() / width_out, width_out, width_in);
            let (x, weight) = (Matrix::new(x, width_in), Matrix::transposed(weight.f(), width_in));
            gemm(sizes, x, weight, y, width_out, bias.is_some());
        });
    }

    fn gpu(&self, builder: &mut GpuBuilder) -> Result<()> {
        let (x, weight) = (builder.inputs[0], builder.inputs[1]);
        let sizes = Sizes { batch: 1, m: x.rows(), n: weight.shape[0], k: x.width() };
        let bias = (builder.inputs.len() > 2).then(|| builder.input(2));
        let product = Gemm::new(Matmul::NT, sizes, builder.input(0), builder.input(1), builder.output(0));
        gemm_gpu(builder, Gemm { bias, ..product })
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let (x, weight) = (vjp.input(0), vjp.input(1));
        if vjp.needs(0) {
            let dx = vjp.add(Matmul::NN, &[dy, weight])?[0];
            vjp.accumulate(0, dx)?;
        }
        if vjp.needs(1) {
            let dw = vjp.add(Matmul::TN, &[dy, x])?[0];
            vjp.accumulate(1, dw)?;
        }
        if vjp.n_inputs() > 2 && vjp.needs(2) {
            let db = vjp.add(ColumnSum, &[dy])?[0];
            vjp.accumulate(2, db)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * outputs[0].len() * inputs[0].width(), inputs, outputs)
    }
}

pub const KERNELS: &[Kernel] = &[("linear", build)];

fn build(b: &mut Builder) -> Result<()> {
    let mut inputs = vec![b.input("x")?, b.input("weight")?];
    if b.has("bias") {
        inputs.push(b.input("bias")?);
    }
    let y = b.graph.add1(Linear, &inputs)?;
    b.output("y", y);
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |n: usize, o: usize, i: usize| {
        Case::new(KERNELS[0], format!("{n}x{o}x{i}")).normal("x", &[n, i], 1.0).normal("weight", &[o, i], 0.3)
    };
    let with_bias = |n, o, i| case(n, o, i).normal("bias", &[o], 1.0);
    vec![
        with_bias(1, 1, 1),
        with_bias(2, 65, 3),
        with_bias(127, 64, 63),
        case(130, 2, 64),
        with_bias(2100, 3, 5),
        case(64, 64, 600),
    ]
}
