//! `y_n = x_n / |x_n|`: rows of unit length, for cosine similarity; `r_n = 1 / sqrt(|x_n|^2 + eps^2)` guards a zero row.
//!
//! Gradient: `dx = r (dy - y <y, dy>)`, exact for the guarded form as well.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;

/// Input `x[N, D]`; outputs `y[N, D]`, `inverse_norm[N]` (saved).
#[derive(Clone, Copy, Debug)]
pub struct UnitRows;

const EPS: f64 = 1e-8;

/// Rows that one worker computes.
const ROW_BLOCK: usize = 64;

impl Op for UnitRows {
    fn name(&self) -> &'static str {
        "unit_rows"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        expect("unit_rows", inputs[0].shape.len() == 2, || format!("x is {}, it must have two axes", inputs[0]))?;
        Ok(vec![inputs[0].clone(), TensorType::f32(&[inputs[0].rows()])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (x, width) = (inputs[0], inputs[0].width());
        for n in 0..x.rows() {
            let inverse_norm = 1.0 / (x.row(n).iter().map(|x| x * x).sum::<f64>() + EPS * EPS).sqrt();
            outputs[1].f_mut()[n] = inverse_norm;
            let y = outputs[0].f_mut()[n * width..].iter_mut();
            y.zip(x.row(n)).for_each(|(y, x)| *y = x * inverse_norm);
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (x, width) = (io.inputs[0].f(), io.inputs[0].width());
        let [y, inverse_norm] = &mut io.outputs[..] else { unreachable!("inferred") };
        let blocks = y.f().par_chunks_mut(ROW_BLOCK * width).zip(x.par_chunks(ROW_BLOCK * width));
        blocks.zip(inverse_norm.f().par_chunks_mut(ROW_BLOCK)).for_each(|((y, x), inverse_norms)| {
            let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
            for ((y, x), inverse_norm) in rows.zip(inverse_norms) {
                *inverse_norm = 1.0 / (simd::dot(x, x) + (EPS * EPS) as f32).sqrt();
                y.copy_from_slice(x);
                simd::scale(y, *inverse_norm);
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (rows, width) = (b.inputs[0].rows(), b.inputs[0].width());
        let bindings = [(b.input(0), Read), (b.output(0), Write), (b.output(1), Write)];
        let params = [rows.into(), width.into(), (EPS * EPS).into()];
        b.dispatch(shader!("unit_rows"), &[], &bindings, &params, rows);
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let dx = vjp.add(UnitRowsGradient, &[dy, vjp.output(0), vjp.output(1)])?[0];
        vjp.accumulate(0, dx)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(3 * inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `dy[N, D]`, `y[N, D]`, `inverse_norm[N]`; output `dx[N, D]`.
#[derive(Clone, Copy, Debug)]
pub struct UnitRowsGradient;

impl Op for UnitRowsGradient {
    fn name(&self) -> &'static str {
        "unit_rows_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (dy, y, width) = (inputs[0], inputs[1], inputs[0].width());
        for (i, dx) in outputs[0].f_mut().iter_mut().enumerate() {
            let n = i / width;
            let along: f64 = y.row(n).iter().zip(dy.row(n)).map(|(y, dy)| y * dy).sum();
            *dx = inputs[2].f()[n] * (dy.f()[i] - y.f()[i] * along);
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (dy, y, inverse_norm) = (io.inputs[0].f(), io.inputs[1].f(), io.inputs[2].f());
        let width = io.inputs[0].width();
        io.outputs[0].f().par_chunks_mut(ROW_BLOCK * width).enumerate().for_each(|(block, dx)| {
            for (n, dx) in (block * ROW_BLOCK..).zip(dx.chunks_exact_mut(width)) {
                let row = n * width..(n + 1) * width;
                let (dy, y) = (&dy[row.clone()], &y[row]);
                dx.copy_from_slice(dy);
                simd::axpy(-simd::dot(y, dy), y, dx);
                simd::scale(dx, inverse_norm[n]);
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (rows, width) = (b.inputs[0].rows(), b.inputs[0].width());
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.input(2), Read), (b.output(0), Write)];
        b.dispatch(shader!("unit_rows_gradient"), &[], &bindings, &[rows.into(), width.into()], rows);
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(5 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("unit_rows", build)];

fn build(b: &mut Builder) -> Result<()> {
    let x = b.input("x")?;
    let y = b.graph.add1(UnitRows, &[x])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, d: usize, scale: f64| {
        Case::new(KERNELS[0], format!("{n}x{d} of {scale}")).normal("x", &[n, d], scale)
    };
    let zero_row = Case::new(KERNELS[0], "a zero row").constant("x", &[2, 3], vec![0.0, 0.0, 0.0, 3.0, 0.0, 4.0]);
    vec![case(1, 2, 1.0), case(3, 65, 1e4), case(65, 64, 0.1), case(130, 130, 1.0), zero_row]
}
