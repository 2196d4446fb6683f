//! `Y = residual + dropout(f(X W^T + b))`, everything behind the product optional: one GEMM with the rest in its epilogue,
//! on a GPU before the store, on a CPU while the rows are in its cache.
//!
//! Gradients: `dresidual = dY`, `dZ = f'(Z) (dY keep / (1 - p))` with the saved `Z = X W^T + b`, `dX = dZ W`,
//! `dW = dZ^T X` (split-K: the inner dimension is the number of rows), `db = column sums of dZ`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::rng::Site;
use crate::engine::tensor::{Array, TensorType};
use crate::error::{Error, Result};
use crate::ops::activation::{Activation, ActivationGradient, activate};
use crate::ops::column_sum::ColumnSum;
use crate::ops::dropout::{self, Draws, Dropout, drop_params, drop_rows};
use crate::ops::matmul::{Gemm, Launch, Matmul, Matrix, Sizes, gemm, gemm_gpu, transpose};
use crate::shader;
use rayon::prelude::*;

/// Inputs `x[N, I]`, `weight[O, I]`, then `bias[O]` (or not), `residual[N, O]` when `residual`, `rng[4]`,
/// `row_keys[N, 2]` (logical sequence, position) when `dropout`; outputs `y[N, O]`, and the pre-activation `z[N, O]`
/// (saved) when `activation`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linear {
    /// Applied to the sum; the sum itself is then the second output.
    pub activation: Option<Activation>,
    /// On the output, before the residual is added.
    pub dropout: Option<Dropout>,
    /// Whether an input is added at the end.
    pub residual: bool,
}

/// Where the optional inputs are.
struct Places {
    bias: Option<usize>,
    residual: Option<usize>,
    /// `rng`, before `row_keys`.
    rng: Option<usize>,
}

impl Linear {
    fn places(&self, inputs: usize) -> Places {
        let behind = usize::from(self.residual) + 2 * usize::from(self.dropout.is_some());
        Places {
            bias: (inputs > 2 + behind).then_some(2),
            residual: self.residual.then(|| inputs - behind),
            rng: self.dropout.map(|_| inputs - 2),
        }
    }

    /// Whether anything but a bias follows the product.
    fn has_epilogue(&self) -> bool {
        self.activation.is_some() || self.dropout.is_some() || self.residual
    }
}

/// Rows that one worker computes, from the product to the residual.
const ROW_BLOCK: usize = 256;

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let [x, weight] = [inputs[0], inputs[1]];
        let fits = x.shape.len() == 2 && weight.shape.len() == 2 && x.width() == weight.width();
        expect("linear", fits, || format!("x is {x}, weight is {weight}; both must end in the input width"))?;
        let (places, y) = (self.places(inputs.len()), TensorType::f32(&[x.shape[0], weight.shape[0]]));
        let bias_fits = places.bias.is_none_or(|at| inputs[at].len() == weight.shape[0]);
        expect("linear", bias_fits, || format!("bias is {}, weight is {weight}", inputs[2]))?;
        let residual_fits = places.residual.is_none_or(|at| *inputs[at] == y);
        expect("linear", residual_fits, || format!("the residual must look like the output, {y}"))?;
        if let Some(at) = places.rng {
            dropout::expect_random_rows("linear", &y, inputs[at], inputs[at + 1])?;
        }
        Ok(vec![y; if self.activation.is_some() { 2 } else { 1 }])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (x, weight, places) = (inputs[0], inputs[1], self.places(inputs.len()));
        let width = weight.shape()[0];
        for i in 0..outputs[0].f().len() {
            let (n, o) = (i / width, i % width);
            let bias = places.bias.map_or(0.0, |at| inputs[at].f()[o]);
            let mut y = bias + x.row(n).iter().zip(weight.row(o)).map(|(x, w)| x * w).sum::<f64>();
            if let Some(activation) = self.activation {
                outputs[1].f_mut()[i] = y;
                y = activation.exact(y).0;
            }
            if let (Some(dropout), Some(at)) = (self.dropout, places.rng) {
                y *= dropout.factor(inputs[at], inputs[at + 1], n, o);
            }
            outputs[0].f_mut()[i] = y + places.residual.map_or(0.0, |at| inputs[at].f()[i]);
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        inputs[1].len()
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (inputs, places) = (&io.inputs, self.places(io.inputs.len()));
        let (x, weight, bias) = (inputs[0], inputs[1], places.bias.map(|at| inputs[at].f()));
        let residual = places.residual.map(|at| inputs[at].f());
        let draws = |(dropout, at): (_, usize)| Draws { dropout, rng: inputs[at].u(), row_keys: inputs[at + 1].u() };
        let draws = self.dropout.zip(places.rng).map(draws);
        let (width_in, width_out) = (x.width(), weight.ty.shape[0]);
        // Once, not for every block of rows: a product wants the outputs of one input side by side.
        let weight_t = &mut io.scratch[..width_in * width_out];
        transpose(weight.f(), width_in, weight_t, width_out);
        let weight_t = Matrix::new(weight_t, width_out);
        let product = |block: usize, z: &mut [f32]| {
            let rows = z.len() / width_out;
            if let Some(bias) = bias {
                z.chunks_exact_mut(width_out).for_each(|row| row.copy_from_slice(bias));
            }
            let x = &x.f()[block * ROW_BLOCK * width_in..][..rows * width_in];
            simd::fetch(x);
            let x = Matrix::new(x, width_in);
            gemm((rows, width_out, width_in), x, weight_t, z, width_out, bias.is_some());
        };
        let finish = |block: usize, y: &mut [f32]| {
            let first = block * ROW_BLOCK;
            if let Some(draws) = draws {
                drop_rows(first, width_out, y, draws);
            }
            if let Some(residual) = residual {
                simd::axpy(1.0, &residual[first * width_out..], y);
            }
        };
        let [y, z @ ..] = &mut io.outputs[..] else { unreachable!("inferred") };
        let blocks = y.f().par_chunks_mut(ROW_BLOCK * width_out);
        match (self.activation, z) {
            (Some(activation), [z]) => {
                blocks.zip(z.f().par_chunks_mut(ROW_BLOCK * width_out)).enumerate().for_each(|(block, (y, z))| {
                    product(block, z);
                    activate(activation, z, y);
                    finish(block, y);
                });
            }
            _ => blocks.enumerate().for_each(|(block, y)| {
                product(block, y);
                finish(block, y);
            }),
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) -> Result<()> {
        let (x, weight, places) = (b.inputs[0], b.inputs[1], self.places(b.inputs.len()));
        let sizes = Sizes { batch: 1, m: x.rows(), n: weight.shape[0], k: x.width() };
        let product = Gemm::new(Matmul::NT, sizes, b.input(0), b.input(1), b.output(0));
        let product = Gemm { bias: places.bias.map(|at| b.input(at)), may_round: true, ..product };
        if !self.has_epilogue() {
            return gemm_gpu(b, product);
        }
        let Launch { mut consts, mut params, groups, .. } = Gemm { split_k: false, ..product }.launch(b.limits);
        let flag = |at: Option<usize>| u32::from(at.is_some());
        consts.extend([
            ("BIAS", flag(places.bias)),
            ("RESIDUAL", flag(places.residual)),
            ("DROPOUT", flag(places.rng)),
        ]);
        consts.push(("ACTIVATION", u32::from(self.activation.is_some())));
        consts.push(("KIND", self.activation.map_or(0, |kind| kind as u32)));
        params.extend(drop_params(self.dropout));
        // Without an activation nothing is saved, but the kernel has the binding.
        let saved = if self.activation.is_some() { b.output(1) } else { b.scratch(4) };
        let or_x = |at: Option<usize>| (b.input(at.unwrap_or(0)), Read);
        let bindings = [
            (b.input(0), Read),
            (b.input(1), Read),
            or_x(places.bias),
            (b.output(0), Write),
            (saved, Write),
            or_x(places.residual),
            or_x(places.rng),
            or_x(places.rng.map(|at| at + 1)),
        ];
        b.dispatch(shader!("linear"), &consts, &bindings, &params, groups)
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let (x, weight, places) = (vjp.input(0), vjp.input(1), self.places(vjp.n_inputs()));
        if let Some(at) = places.residual.filter(|at| vjp.needs(*at)) {
            vjp.accumulate(at, dy)?;
        }
        let mut dz = dy;
        if let (Some(dropout), Some(at)) = (self.dropout, places.rng) {
            dz = vjp.add(dropout, &[dz, vjp.input(at), vjp.input(at + 1)])?[0];
        }
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
        if let Some(at) = places.bias.filter(|at| vjp.needs(*at)) {
            let db = vjp.add(ColumnSum, &[dz])?[0];
            vjp.accumulate(at, db)?;
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
    let residual = b.has("residual");
    if residual {
        inputs.push(b.input("residual")?);
    }
    let dropout = b.optional_f64("dropout").map(|probability| Dropout { probability, site: Site(11) });
    if dropout.is_some() {
        inputs.extend([b.rng(), b.input("row_keys")?]);
    }
    let activation = b.attr_str("activation").ok().map(|name| serde_json::from_value(name.into()));
    let activation = activation.transpose().map_err(|e| Error::graph("linear", e.to_string()))?;
    let y = b.graph.add1(Linear { activation, dropout, residual }, &inputs)?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, n: usize, o: usize, i: usize| {
        let case = Case::new(KERNELS[0], format!("{name}{n}x{o}x{i}"));
        case.normal("x", &[n, i], 1.0).normal("weight", &[o, i], 0.3)
    };
    let with_bias = |name: &str, n, o, i| case(name, n, o, i).normal("bias", &[o], 1.0);
    let residual = |case: Case, n, o| case.normal("residual", &[n, o], 1.0);
    let dropping = |case: Case, n, p: f64| {
        let case = case.attr("dropout", p).attr("seed", 0x9876_5432_1fed_u64).attr("step", 4);
        case.ids("row_keys", &[n, 2], &dropout::case_keys(n))
    };
    let mut cases = vec![
        with_bias("", 1, 1, 1),
        with_bias("", 2, 65, 3),
        with_bias("", 127, 64, 63),
        case("", 130, 2, 64),
        with_bias("", 2100, 3, 5),
        case("", 64, 64, 600),
        residual(case("residual ", 3, 7, 5), 3, 7),
        dropping(case("dropout ", 65, 66, 3), 65, 0.25),
        dropping(with_bias("dropout ", 1, 130, 2), 1, 0.5),
        // Large enough for the large tiles, with parts of tiles at both ends.
        with_bias("gelu ", 131, 132, 68).attr("activation", "gelu"),
    ];
    // Everything at once, for widths that are and are not a multiple of 4; the first and the last kind are both ends of
    // the enumeration that the shader counts through.
    for (kind, n, o) in [(Activation::Relu, 5, 6), (Activation::Softplus, 66, 8)] {
        let case = dropping(residual(with_bias(&format!("{} ", kind.name()), n, o, 9), n, o), n, 0.3);
        cases.push(case.attr("activation", kind.name()));
    }
    cases
}
