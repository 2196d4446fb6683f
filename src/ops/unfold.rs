//! `y_t = [x_(t - (K-1) s), ..., x_(t - s), x_t]`: the window of K rows, s apart, that ends at each row of a packed sequence;
//! zeros before its start. A linear layer on it is a causal convolution with dilation s.
//!
//! Gradient: `dx_t = sum_k dy_(t + (K-1-k) s), tap k`, over the rows of the sequence.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder, Shader};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::engine::{Tensor, ValueId};
use crate::error::Result;
use crate::ops::attention::cut;
use crate::ops::linear::Linear;
use crate::ops::reshape::Reshape;
use crate::shader;
use rayon::prelude::*;

/// Inputs `x[N, D]`, `cu_seqlens[B + 1]`; output `y[N, K * D]`, zeros on inert rows.
#[derive(Clone, Copy, Debug)]
pub struct Unfold {
    /// K
    pub taps: usize,
    /// s: rows from one tap to the next.
    pub dilation: usize,
    /// Whether the taps of a column lie together (`d K + k`, as the weights `[O, D, K]` of a convolution), or the columns of a
    /// tap (`k D + d`, as those `[O, K, D]` of a filter over whole rows).
    pub by_column: bool,
}

impl Unfold {
    /// The column of the output that tap `k` of column `d` has.
    fn place(&self, k: usize, d: usize, width: usize) -> usize {
        if self.by_column { d * self.taps + k } else { k * width + d }
    }

    /// Of a row that is `at` rows behind its sequence's first: each tap with how many rows back it reads.
    fn reach(&self, at: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let Unfold { taps, dilation, .. } = *self;
        (0..taps).map(move |k| (k, (taps - 1 - k) * dilation)).filter(move |(_, back)| *back <= at)
    }

    fn run(&self, b: &mut GpuBuilder, shader: Shader, width: usize) {
        let (sequences, len) = (b.inputs[1].len() - 1, b.outputs[0].len());
        let params =
            [len.into(), width.into(), sequences.into(), self.taps.into(), self.dilation.into(), self.by_column.into()];
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.output(0), Write)];
        b.dispatch(shader, &[], &bindings, &params, len.div_ceil(64));
    }
}

impl Op for Unfold {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let fits = inputs[0].shape.len() == 2 && self.taps > 0 && self.dilation > 0;
        expect("unfold", fits, || format!("x is {}, for {} taps {} apart", inputs[0], self.taps, self.dilation))?;
        Ok(vec![TensorType::f32(&[inputs[0].rows(), self.taps * inputs[0].width()])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (x, width) = (inputs[0], inputs[0].width());
        for ends in inputs[1].u().windows(2) {
            for row in ends[0] as usize..ends[1] as usize {
                for (k, back) in self.reach(row - ends[0] as usize) {
                    for (d, x) in x.row(row - back).iter().enumerate() {
                        outputs[0].f_mut()[row * self.taps * width + self.place(k, d, width)] = *x;
                    }
                }
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (x, width, borders) = (io.inputs[0].f(), io.inputs[0].width(), io.inputs[1].u());
        let (pieces, inert) = cut(io.outputs[0].f(), borders, self.taps * width);
        inert.fill(0.0);
        pieces.into_par_iter().enumerate().for_each(|(sequence, y)| {
            y.fill(0.0);
            let first = borders[sequence] as usize;
            for (at, y) in y.chunks_exact_mut(self.taps * width).enumerate() {
                for (k, back) in self.reach(at) {
                    let x = &x[(first + at - back) * width..][..width];
                    match self.by_column {
                        false => y[k * width..][..width].copy_from_slice(x),
                        true => y[k..].iter_mut().step_by(self.taps).zip(x).for_each(|(y, x)| *y = *x),
                    }
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        self.run(b, shader!("unfold"), b.inputs[0].width());
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0).filter(|_| vjp.needs(0)) else { return Ok(()) };
        let dx = vjp.add(UnfoldGradient { forward: *self }, &[dy, vjp.input(1)])?[0];
        vjp.accumulate(0, dx)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(0, inputs, outputs)
    }
}

/// Inputs `dy[N, K * D]`, `cu_seqlens[B + 1]`; output `dx[N, D]`.
#[derive(Clone, Copy, Debug)]
pub struct UnfoldGradient {
    /// The op that this is the gradient of.
    pub forward: Unfold,
}

impl Op for UnfoldGradient {
    fn name(&self) -> &'static str {
        "unfold_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::f32(&[inputs[0].rows(), inputs[0].width() / self.forward.taps])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let width = outputs[0].width();
        for ends in inputs[1].u().windows(2) {
            for row in ends[0] as usize..ends[1] as usize {
                for (k, back) in self.forward.reach(row - ends[0] as usize) {
                    let dx = &mut outputs[0].f_mut()[(row - back) * width..][..width];
                    let dy = inputs[0].row(row);
                    dx.iter_mut().enumerate().for_each(|(d, dx)| *dx += dy[self.forward.place(k, d, width)]);
                }
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (dy, borders, Unfold { taps, by_column, .. }) = (io.inputs[0].f(), io.inputs[1].u(), self.forward);
        let width = io.outputs[0].ty.width();
        let (pieces, inert) = cut(io.outputs[0].f(), borders, width);
        inert.fill(0.0);
        pieces.into_par_iter().enumerate().for_each(|(sequence, dx)| {
            dx.fill(0.0);
            let first = borders[sequence] as usize;
            for at in 0..dx.len() / width {
                let dy = &dy[(first + at) * taps * width..][..taps * width];
                for (k, back) in self.forward.reach(at) {
                    let dx = &mut dx[(at - back) * width..][..width];
                    match by_column {
                        false => simd::axpy(1.0, &dy[k * width..][..width], dx),
                        true => dx.iter_mut().zip(dy[k..].iter().step_by(taps)).for_each(|(dx, dy)| *dx += dy),
                    }
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        self.forward.run(b, shader!("unfold_gradient"), b.outputs[0].width());
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("unfold", build), ("conv1d_causal", build_conv)];

fn build(b: &mut Builder) -> Result<()> {
    let (taps, dilation) = (b.attr_usize("taps")?, b.attr_usize("dilation")?);
    let op = Unfold { taps, dilation, by_column: b.attr_bool("by_column")? };
    let inputs = [b.input("x")?, b.input("cu_seqlens")?];
    let y = b.graph.add1(op, &inputs)?;
    b.output("y", y);
    Ok(())
}

/// `x[B, T, D]` as packed rows `[B * T, D]`, with their borders.
pub(crate) fn packed(b: &mut Builder, x: ValueId) -> Result<(ValueId, ValueId)> {
    let [sequences, steps, width] = b.graph.shape(x)[..] else { unreachable!("three axes") };
    let rows = b.graph.add1(Reshape { shape: vec![sequences * steps, width] }, &[x])?;
    let borders: Vec<u32> = (0..=sequences).map(|s| (s * steps) as u32).collect();
    Ok((rows, b.feed("cu_seqlens", Tensor::u32(&[sequences + 1], &borders))))
}

/// A linear layer with `weight[O, ..]`, all further axes as one.
pub(crate) fn linear_of(b: &mut Builder, x: ValueId, layer: Linear) -> Result<ValueId> {
    let (weight, bias) = (b.input("weight")?, b.input("bias")?);
    let shape = b.graph.shape(weight).to_vec();
    let weight = b.graph.add1(Reshape { shape: vec![shape[0], shape[1] * shape[2]] }, &[weight])?;
    b.graph.add1(layer, &[x, weight, bias])
}

fn build_conv(b: &mut Builder) -> Result<()> {
    let x = b.input("x")?;
    let shape = b.graph.shape(x).to_vec();
    let taps = b.tensor("weight")?.ty.shape[2];
    let (rows, borders) = packed(b, x)?;
    let op = Unfold { taps, dilation: b.attr_usize("dilation")?, by_column: true };
    let windows = b.graph.add1(op, &[rows, borders])?;
    let y = linear_of(b, windows, Linear::default())?;
    let channels = b.graph.ty(y).width();
    let y = b.graph.add1(Reshape { shape: vec![shape[0], shape[1], channels] }, &[y])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, borders: &[u32], rows: usize, width: usize, (taps, dilation): (usize, usize)| {
        let case = Case::new(KERNELS[0], name)
            .attr("taps", taps)
            .attr("dilation", dilation)
            .attr("by_column", rows.is_multiple_of(2));
        case.normal("x", &[rows, width], 1.0).ids("cu_seqlens", &[borders.len()], borders)
    };
    vec![
        case("one row", &[0, 1], 1, 1, (1, 1)),
        case("empty, short and inert", &[0, 0, 2, 9, 10], 14, 3, (3, 2)),
        case("by tap", &[0, 65], 65, 2, (2, 1)),
        case("wide, far apart", &[0, 30, 63], 63, 130, (3, 8)),
        case("by column", &[0, 7, 64], 64, 65, (4, 4)),
    ]
}
