//! `y_n = 1/D sum_d (a_nd - b_nd)^2`: the mean squared error of each row. Gradients: `da = 2/D dy (a - b)`, `db = -da`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::scale::Scale;
use crate::shader;
use rayon::prelude::*;

/// Inputs `a[N, D]`, `b[N, D]`; output `y[N]`.
#[derive(Clone, Copy, Debug)]
pub struct RowMse;

/// Rows that one worker computes.
const ROW_BLOCK: usize = 64;

impl Op for RowMse {
    fn name(&self) -> &'static str {
        "row_mse"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let fits = inputs[0] == inputs[1] && inputs[0].shape.len() == 2;
        expect("row_mse", fits, || format!("a is {}, b {}", inputs[0], inputs[1]))?;
        Ok(vec![TensorType::f32(&[inputs[0].rows()])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let [a, b] = [inputs[0], inputs[1]];
        for (n, y) in outputs[0].f_mut().iter_mut().enumerate() {
            *y = a.row(n).iter().zip(b.row(n)).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / a.width() as f64;
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (a, b, width) = (io.inputs[0].f(), io.inputs[1].f(), io.inputs[0].width());
        let rows = a.par_chunks(ROW_BLOCK * width).zip(b.par_chunks(ROW_BLOCK * width));
        io.outputs[0].f().par_chunks_mut(ROW_BLOCK).zip(rows).for_each(|(y, (a, b))| {
            let mut difference = vec![0.0; width];
            for ((y, a), b) in y.iter_mut().zip(a.chunks_exact(width)).zip(b.chunks_exact(width)) {
                difference.copy_from_slice(a);
                simd::axpy(-1.0, b, &mut difference);
                *y = simd::dot(&difference, &difference) / width as f32;
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (rows, width) = (b.inputs[0].rows(), b.inputs[0].width());
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.output(0), Write)];
        b.dispatch(shader!("row_mse"), &[], &bindings, &[rows.into(), width.into()], rows);
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let da = vjp.add(RowMseGradient, &[vjp.input(0), vjp.input(1), dy])?[0];
        if vjp.needs(1) {
            let db = vjp.add(Scale { factor: -1.0 }, &[da])?[0];
            vjp.accumulate(1, db)?;
        }
        if vjp.needs(0) { vjp.accumulate(0, da) } else { Ok(()) }
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(3 * inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `a[N, D]`, `b[N, D]`, `dy[N]`; output `da[N, D]`.
#[derive(Clone, Copy, Debug)]
pub struct RowMseGradient;

impl Op for RowMseGradient {
    fn name(&self) -> &'static str {
        "row_mse_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (a, b, width) = (inputs[0].f(), inputs[1].f(), inputs[0].width());
        for (i, da) in outputs[0].f_mut().iter_mut().enumerate() {
            *da = 2.0 / width as f64 * inputs[2].f()[i / width] * (a[i] - b[i]);
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (a, b, dy, width) = (io.inputs[0].f(), io.inputs[1].f(), io.inputs[2].f(), io.inputs[0].width());
        io.outputs[0].f().par_chunks_mut(ROW_BLOCK * width).enumerate().for_each(|(block, da)| {
            for (n, da) in (block * ROW_BLOCK..).zip(da.chunks_exact_mut(width)) {
                da.copy_from_slice(&a[n * width..][..width]);
                simd::axpy(-1.0, &b[n * width..][..width], da);
                simd::scale(da, 2.0 / width as f32 * dy[n]);
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (len, width) = (b.inputs[0].len(), b.inputs[0].width());
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.input(2), Read), (b.output(0), Write)];
        b.dispatch(shader!("row_mse_gradient"), &[], &bindings, &[len.into(), width.into()], len.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(3 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("row_mse", build)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("a")?, b.input("b")?];
    let y = b.graph.add1(RowMse, &inputs)?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, d: usize, scale: f64| {
        let case = Case::new(KERNELS[0], format!("{n}x{d} of {scale}"));
        case.normal("a", &[n, d], scale).normal("b", &[n, d], scale)
    };
    let target = Case::new(KERNELS[0], "towards a constant, a row met").tensor("a", &[2, 2], vec![1.0, 2.0, 3.0, 5.0]);
    let target = target.constant("b", &[2, 2], vec![1.0, 2.0, 1.0, 1.0]);
    vec![case(1, 1, 1.0), case(3, 65, 100.0), case(65, 64, 0.01), case(130, 127, 1.0), target]
}
