//! `y_sf = max over the rows n of sequence s of x_nf`, without the first `skip` rows of each: max-pooling over time. The gradient
//! goes to the row that has the maximum, the first of equals. A sequence without such rows has 0.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, NONE, TensorType};
use crate::error::Result;
use crate::ops::activation::Activation;
use crate::ops::linear::Linear;
use crate::ops::unfold::{Unfold, linear_of, packed};
use crate::shader;
use rayon::prelude::*;

/// Inputs `x[N, F]`, `cu_seqlens[B + 1]`; outputs `max[B, F]`, `row[B, F]` (u32, saved).
#[derive(Clone, Copy, Debug, Default)]
pub struct SequenceMax {
    /// Rows at the beginning of each sequence that take no part: windows that reach before it.
    pub skip: usize,
}

impl Op for SequenceMax {
    fn name(&self) -> &'static str {
        "sequence_max"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        expect("sequence_max", inputs[0].shape.len() == 2, || format!("x is {}", inputs[0]))?;
        let shape = [inputs[1].len() - 1, inputs[0].width()];
        Ok(vec![TensorType::f32(&shape), TensorType::u32(&shape)])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (x, width) = (inputs[0], inputs[0].width());
        for (s, ends) in inputs[1].u().windows(2).enumerate() {
            for f in 0..width {
                let rows = ends[0] as usize + self.skip..ends[1] as usize;
                let best = rows.reduce(|best, n| if x.row(n)[f] > x.row(best)[f] { n } else { best });
                outputs[0].f_mut()[s * width + f] = best.map_or(0.0, |n| x.row(n)[f]);
                outputs[1].u_mut()[s * width + f] = best.map_or(NONE, |n| n as u32);
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (x, width, borders) = (io.inputs[0].f(), io.inputs[0].width(), io.inputs[1].u());
        let [max, row] = &mut io.outputs[..] else { unreachable!("inferred") };
        let sequences = max.f().par_chunks_exact_mut(width).zip(row.u().par_chunks_exact_mut(width));
        sequences.enumerate().for_each(|(s, (max, row))| {
            let rows = borders[s] as usize + self.skip..borders[s + 1] as usize;
            if rows.is_empty() {
                max.fill(0.0);
                return row.fill(NONE);
            }
            max.copy_from_slice(&x[rows.start * width..][..width]);
            row.fill(rows.start as u32);
            for n in rows.skip(1) {
                for ((max, row), x) in max.iter_mut().zip(&mut *row).zip(&x[n * width..]) {
                    if *x > *max {
                        (*max, *row) = (*x, n as u32);
                    }
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (len, width) = (b.outputs[0].len(), b.inputs[0].width());
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.output(0), Write), (b.output(1), Write)];
        b.dispatch(
            shader!("sequence_max"),
            &[],
            &bindings,
            &[len.into(), width.into(), self.skip.into()],
            len.div_ceil(64),
        );
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0).filter(|_| vjp.needs(0)) else { return Ok(()) };
        let rows = vjp.ty(vjp.input(0)).rows();
        let dx = vjp.add(SequenceMaxGradient { rows }, &[dy, vjp.output(1), vjp.input(1)])?[0];
        vjp.accumulate(0, dx)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `dy[B, F]`, `row[B, F]`, `cu_seqlens[B + 1]`; output `dx[N, F]`.
#[derive(Clone, Copy, Debug)]
pub struct SequenceMaxGradient {
    /// N
    pub rows: usize,
}

impl Op for SequenceMaxGradient {
    fn name(&self) -> &'static str {
        "sequence_max_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::f32(&[self.rows, inputs[0].width()])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let width = inputs[0].width();
        for (i, &row) in inputs[1].u().iter().enumerate().filter(|(_, row)| **row != NONE) {
            outputs[0].f_mut()[row as usize * width + i % width] = inputs[0].f()[i];
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (dy, row, width) = (io.inputs[0].f(), io.inputs[1].u(), io.inputs[0].width());
        let dx = io.outputs[0].f();
        dx.fill(0.0);
        for (i, &row) in row.iter().enumerate().filter(|(_, row)| **row != NONE) {
            dx[row as usize * width + i % width] = dy[i];
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (len, width, sequences) = (b.outputs[0].len(), b.inputs[0].width(), b.inputs[2].len() - 1);
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.input(2), Read), (b.output(0), Write)];
        let params = [len.into(), width.into(), sequences.into()];
        b.dispatch(shader!("sequence_max_gradient"), &[], &bindings, &params, len.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(0, inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("sequence_max", build), ("conv_relu_max", build_conv)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("x")?, b.input("cu_seqlens")?];
    let max = b.graph.add1(SequenceMax { skip: b.attr_usize("skip")? }, &inputs)?;
    b.output("max", max);
    Ok(())
}

/// `x[B, T, D]` under the filters `weight[F, h, D]`: windows, linear layer with ReLU, maximum.
fn build_conv(b: &mut Builder) -> Result<()> {
    let x = b.input("x")?;
    let taps = b.tensor("weight")?.ty.shape[1];
    let (rows, borders) = packed(b, x)?;
    let windows = b.graph.add1(Unfold { taps, dilation: 1, by_column: false }, &[rows, borders])?;
    let relu = Linear { activation: Some(Activation::Relu) };
    let filtered = linear_of(b, windows, relu)?;
    let y = b.graph.add1(SequenceMax { skip: taps - 1 }, &[filtered, borders])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, borders: &[u32], rows: usize, width: usize, skip: usize| {
        let case = Case::new(KERNELS[0], name).attr("skip", skip).normal("x", &[rows, width], 1.0);
        case.ids("cu_seqlens", &[borders.len()], borders)
    };
    vec![
        case("one row", &[0, 1], 1, 1, 0),
        case("empty, short and inert", &[0, 0, 2, 9, 10], 14, 3, 2),
        case("long", &[0, 130, 195], 195, 65, 1),
    ]
}
