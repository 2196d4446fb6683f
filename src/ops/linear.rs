//! `Y = f(X W^T + b)`, bias and activation optional: one GEMM with the rest in its epilogue, on a GPU before the store, on a CPU
//! while the rows are in its cache.
//!
//! Gradients: `dZ = f'(Z) dY` with the saved `Z = X W^T + b`, `dX = dZ W`, `dW = dZ^T X` (split-K: the inner dimension is the number of rows), `db = column sums of dZ`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::{Error, Result};
use crate::ops::activation::{Activation, ActivationGradient, activate};
use crate::ops::column_sum::ColumnSum;
use crate::ops::matmul::{Gemm, Launch, Matmul, Matrix, Sizes, gemm, gemm_gpu, row_block, transpose_columns};
use crate::shader;
use rayon::prelude::*;

/// Inputs `x[N, I]`, `weight[O, I]`, then `bias[O]` or not; outputs `y[N, O]`, and the pre-activation `z[N, O]` (saved) when
/// `activation`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linear {
    /// Applied to the sum; the sum itself is then the second output.
    pub activation: Option<Activation>,
}

/// The input that is the bias, where there is one.
const BIAS: usize = 2;

/// Most rows that one worker computes, product and activation.
const MOST_ROWS: usize = 256;

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let [x, weight] = [inputs[0], inputs[1]];
        let fits = x.shape.len() == 2 && weight.shape.len() == 2 && x.width() == weight.width();
        expect("linear", fits, || format!("x is {x}, weight is {weight}; both must end in the input width"))?;
        let y = TensorType::f32(&[x.shape[0], weight.shape[0]]);
        let bias_fits = inputs.get(BIAS).is_none_or(|bias| bias.len() == weight.shape[0]);
        expect("linear", bias_fits, || format!("bias is {}, weight is {weight}", inputs[BIAS]))?;
        Ok(vec![y; if self.activation.is_some() { 2 } else { 1 }])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (x, weight) = (inputs[0], inputs[1]);
        let width = weight.shape()[0];
        for i in 0..outputs[0].f().len() {
            let (n, o) = (i / width, i % width);
            let bias = inputs.get(BIAS).map_or(0.0, |bias| bias.f()[o]);
            let mut y = bias + x.row(n).iter().zip(weight.row(o)).map(|(x, w)| x * w).sum::<f64>();
            if let Some(activation) = self.activation {
                outputs[1].f_mut()[i] = y;
                y = activation.exact(y).0;
            }
            outputs[0].f_mut()[i] = y;
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        inputs[1].len()
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (x, weight, bias) = (io.inputs[0], io.inputs[1], io.inputs.get(BIAS).map(|bias| bias.f()));
        let (width_in, width_out) = (x.width(), weight.ty.shape[0]);
        // Once, not for every block of rows: a product wants the outputs of one input side by side.
        let weight_t = &mut io.scratch[..width_in * width_out];
        weight_t.par_chunks_mut(32 * width_out).enumerate().for_each(|(block, weight_t)| {
            transpose_columns(weight.f(), width_in, 32 * block, weight_t, width_out);
        });
        let row_block = row_block(x.rows()).min(MOST_ROWS);
        let weight_t = Matrix::new(weight_t, width_out);
        let product = |block: usize, z: &mut [f32]| {
            let rows = z.len() / width_out;
            if let Some(bias) = bias {
                z.chunks_exact_mut(width_out).for_each(|row| row.copy_from_slice(bias));
            }
            let x = &x.f()[block * row_block * width_in..][..rows * width_in];
            simd::fetch(x);
            let x = Matrix::new(x, width_in);
            gemm((rows, width_out, width_in), x, weight_t, z, width_out, bias.is_some());
        };
        let [y, z @ ..] = &mut io.outputs[..] else { unreachable!("inferred") };
        let blocks = y.f().par_chunks_mut(row_block * width_out);
        match (self.activation, z) {
            (Some(activation), [z]) => {
                blocks.zip(z.f().par_chunks_mut(row_block * width_out)).enumerate().for_each(|(block, (y, z))| {
                    product(block, z);
                    activate(activation, z, y);
                });
            }
            _ => blocks.enumerate().for_each(|(block, y)| product(block, y)),
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (x, weight) = (b.inputs[0], b.inputs[1]);
        let sizes = Sizes { batch: 1, m: x.rows(), n: weight.shape[0], k: x.width() };
        let product = Gemm::new(Matmul::NT, sizes, b.input(0), b.input(1), b.output(0));
        let bias = (b.inputs.len() > BIAS).then(|| b.input(BIAS));
        let product = Gemm { bias, may_round: true, ..product };
        let Some(activation) = self.activation else { return gemm_gpu(b, product) };
        let Launch { mut consts, params, groups, .. } = Gemm { split_k: false, ..product }.launch(b.limits);
        consts.extend([("BIAS", u32::from(bias.is_some())), ("KIND", activation as u32)]);
        let bindings = [
            (b.input(0), Read),
            (b.input(1), Read),
            (bias.unwrap_or(b.input(0)), Read),
            (b.output(0), Write),
            (b.output(1), Write),
        ];
        b.dispatch(shader!("linear"), &consts, &bindings, &params, groups);
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let (x, weight, mut dz) = (vjp.input(0), vjp.input(1), dy);
        if let Some(activation) = self.activation {
            dz = vjp.add(ActivationGradient(activation), &[vjp.output(1), dz])?[0];
        }
        if vjp.needs(0) {
            let dx = vjp.add(Matmul::NN, &[dz, weight])?[0];
            vjp.accumulate(0, dx)?;
        }
        if vjp.needs(1) {
            let dw = vjp.add(Matmul::TN, &[dz, x])?[0];
            vjp.accumulate(1, dw)?;
        }
        if vjp.n_inputs() > BIAS && vjp.needs(BIAS) {
            let db = vjp.add(ColumnSum, &[dz])?[0];
            vjp.accumulate(BIAS, db)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * outputs[0].len() * inputs[0].width(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("linear", build)];

fn build(b: &mut Builder) -> Result<()> {
    let mut inputs = vec![b.input("x")?, b.input("weight")?];
    if b.has("bias") {
        inputs.push(b.input("bias")?);
    }
    let activation = b.attr_str("activation").ok().map(|name| serde_json::from_value(name.into()));
    let activation = activation.transpose().map_err(|e| Error::graph("linear", e.to_string()))?;
    let y = b.graph.add1(Linear { activation }, &inputs)?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, n: usize, o: usize, i: usize| {
        let case = Case::new(KERNELS[0], format!("{name}{n}x{o}x{i}"));
        case.normal("x", &[n, i], 1.0).normal("weight", &[o, i], 0.3)
    };
    let with_bias = |name: &str, n, o, i| case(name, n, o, i).normal("bias", &[o], 1.0);
    let mut cases = vec![
        with_bias("", 1, 1, 1),
        with_bias("", 2, 65, 3),
        with_bias("", 127, 64, 63),
        case("", 130, 2, 64),
        with_bias("", 2100, 3, 5),
        case("", 64, 64, 600),
        case("relu without a bias ", 3, 7, 5).attr("activation", "relu"),
        // Large enough for the large tiles, with parts of tiles at both ends.
        with_bias("gelu ", 131, 132, 68).attr("activation", "gelu"),
    ];
    // For widths that are and are not a multiple of 4; both ends of the enumeration that the shader counts through.
    for (kind, n, o) in [(Activation::Relu, 5, 6), (Activation::Softplus, 66, 8)] {
        cases.push(with_bias(&format!("{} ", kind.name()), n, o, 9).attr("activation", kind.name()));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::exec::DeviceChoice;
    use crate::engine::params::ParamLayout;
    use crate::engine::{Feed, Graph, Tensor};

    #[test]
    fn a_row_has_the_same_bits_whatever_rows_are_around_it() {
        let (width_in, width_out) = (1100, 96);
        let values =
            |n: usize, step: usize| -> Vec<f32> { (0..n).map(|i| ((i * step) % 1009) as f32 / 7.0 - 72.0).collect() };
        let y = |rows: usize| {
            let (layout, mut feed) = (ParamLayout::default(), Feed::default());
            let mut graph = Graph::new(layout.clone());
            let inputs = [("x", [rows, width_in], 7919), ("weight", [width_out, width_in], 6007)];
            let inputs = inputs.map(|(name, shape, step)| {
                feed.set(name, Tensor::f32(&shape, values(shape[0] * shape[1], step)));
                graph.input(name, TensorType::f32(&shape))
            });
            let y = graph.add1(Linear::default(), &inputs).unwrap();
            graph.output("y", y);
            let mut executor = DeviceChoice::Cpu.open(2).unwrap();
            executor.load(&layout, &layout.initial_state(1)).unwrap();
            let plan = executor.compile(graph).unwrap();
            executor.run(plan, &feed).unwrap();
            executor.fetch(plan, "y").unwrap().words
        };
        let all = y(1700);
        for rows in [64, 192, 704] {
            assert_eq!(y(rows), all[..rows * width_out], "{rows} rows");
        }
    }
}
