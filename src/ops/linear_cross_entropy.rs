//! `loss_n = lse_n - z_nt`, `z = H W^T (+ b)`, `lse_n = log sum_v exp z_nv`: softmax cross-entropy over a whole catalogue.
//!
//! The `N x V` logits are never stored: they are made in tiles, folded into a running (maximum, sum) per row, and made
//! again for the gradient `dz_nv = dloss_n (exp(z_nv - lse_n) - [v = t_n])`, from which `dH = dz W` and `dW = dz^T H`
//! (four products instead of three, for memory that does not grow with `N V`; after Wijmans et al., Cut Your Losses).
//! Where `dloss` is known beforehand, as in training, loss and gradient are made together: a block of rows keeps its
//! logits, if memory for them is small beside the gradients, and the fourth product is saved.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::GpuBuilder;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, WithForward, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::tiles::{self, Gradients, NONE, reference_score};
use cpu::{Losses, Problem};
use gpu::GpuProblem;
use std::sync::Arc;

#[path = "linear_cross_entropy/cpu.rs"]
mod cpu;
#[path = "linear_cross_entropy/gpu.rs"]
mod gpu;

/// Inputs `hidden[N, D]`, `weight[V, D]`, (`bias[V]`), `target[N]` (u32; `NONE`: loss 0, no gradient).
/// Outputs `loss[N]` and `lse[N]`, which is for the gradient and has none of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinearCrossEntropy {
    /// The vocabulary is the first so many rows of the weight; further rows (padding) take no part.
    pub items: Option<usize>,
}

impl Op for LinearCrossEntropy {
    fn name(&self) -> &'static str {
        "linear_cross_entropy"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        tiles::check(self.name(), inputs, (inputs.len() > 3).then(|| inputs[2]), self.items)?;
        let (rows, target) = (inputs[0].rows(), inputs[inputs.len() - 1]);
        expect(self.name(), *target == TensorType::u32(&[rows]), || {
            format!("target is {target}, hidden {}", inputs[0])
        })?;
        Ok(vec![TensorType::f32(&[rows]); 2])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (hidden, weight, target) = (inputs[0], inputs[1], inputs[inputs.len() - 1].u());
        let bias = (inputs.len() > 3).then(|| inputs[2]);
        for (n, &t) in target.iter().enumerate().filter(|(_, t)| **t != NONE) {
            let items = 0..self.items.unwrap_or(weight.rows());
            let z: Vec<f64> = items.map(|v| reference_score(hidden, weight, bias, n, v)).collect();
            let max = z.iter().copied().fold(f64::MIN, f64::max);
            let lse = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
            outputs[0].f_mut()[n] = lse - z[t as usize];
            outputs[1].f_mut()[n] = lse;
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        cpu::loss_scratch(inputs[0].rows(), inputs[0].width())
    }

    fn cpu(&self, io: &mut CpuIo) {
        let problem = Problem::new(io, io.inputs.len() > 3, io.inputs.len() - 1, self.items);
        let [loss, lse] = &mut io.outputs[..] else { unreachable!("inferred") };
        cpu::loss(problem, Losses { loss: loss.f(), lse: lse.f() }, io.scratch);
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let problem = GpuProblem::new(builder, builder.inputs.len() > 3, builder.inputs.len() - 1, self.items);
        gpu::loss(builder, &problem);
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dloss) = vjp.cotangent(0) else { return Ok(()) };
        let mut inputs: Vec<_> = (0..vjp.n_inputs()).map(|i| vjp.input(i)).collect();
        inputs.extend([vjp.output(1), dloss]);
        let gradients = vjp.add(LinearCrossEntropyGradient { items: self.items }, &inputs)?;
        for (i, gradient) in gradients.into_iter().enumerate() {
            if vjp.needs(i) {
                vjp.accumulate(i, gradient)?;
            }
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let items = self.items.unwrap_or(inputs[1].rows());
        Cost::new(2 * inputs[0].len() * items, inputs, outputs)
    }
}

/// Inputs `hidden`, `weight`, (`bias`), `target`, `lse`, `dloss[N]`; outputs `dhidden`, `dweight`, (`dbias`).
#[derive(Clone, Copy, Debug)]
pub struct LinearCrossEntropyGradient {
    /// As of the forward op.
    pub items: Option<usize>,
}

impl Op for LinearCrossEntropyGradient {
    fn name(&self) -> &'static str {
        "linear_cross_entropy_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(inputs[..inputs.len() - 3].iter().map(|&ty| ty.clone()).collect())
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let [parameters @ .., target, lse, dloss] = inputs else { unreachable!("inferred") };
        let (hidden, weight, bias) = (parameters[0], parameters[1], parameters.get(2).copied());
        let width = hidden.width();
        for (n, &t) in target.u().iter().enumerate().filter(|(_, t)| **t != NONE) {
            for v in 0..self.items.unwrap_or(weight.rows()) {
                let p = (reference_score(hidden, weight, bias, n, v) - lse.f()[n]).exp();
                let dz = dloss.f()[n] * (p - f64::from(u8::from(v == t as usize)));
                for d in 0..width {
                    outputs[0].f_mut()[n * width + d] += dz * weight.row(v)[d];
                    outputs[1].f_mut()[v * width + d] += dz * hidden.row(n)[d];
                }
                if bias.is_some() {
                    outputs[2].f_mut()[v] += dz;
                }
            }
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        cpu::separate_gradient_scratch(inputs[0].rows(), inputs[0].width())
    }

    fn cpu(&self, io: &mut CpuIo) {
        let last = io.inputs.len() - 1;
        let problem = Problem::new(io, last > 4, last - 2, self.items);
        let (lse, dloss) = (io.inputs[last - 1].f(), io.inputs[last].f());
        let gradients = Gradients::of(&mut io.outputs);
        cpu::gradient(problem, lse, dloss, gradients, io.scratch);
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let last = builder.inputs.len() - 1;
        let problem = GpuProblem::new(builder, last > 4, last - 2, self.items);
        let saved = [builder.input(last - 1), builder.input(last)];
        gpu::gradient(builder, &problem, saved, 0);
    }

    /// Inputs without `lse`, which becomes an output.
    fn with_forward(&self) -> Option<WithForward> {
        Some(WithForward { op: Arc::new(LinearCrossEntropyWithGradient { items: self.items }), saved_from_end: 2 })
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let items = self.items.unwrap_or(inputs[1].rows());
        Cost::new(4 * inputs[0].len() * items, inputs, outputs)
    }
}

/// Both at once: inputs `hidden`, `weight`, (`bias`), `target`, `dloss[N]`; outputs `loss`, `lse`, `dhidden`, `dweight`,
/// (`dbias`).
#[derive(Clone, Copy, Debug)]
pub struct LinearCrossEntropyWithGradient {
    /// As of the forward op.
    pub items: Option<usize>,
}

impl Op for LinearCrossEntropyWithGradient {
    fn name(&self) -> &'static str {
        "linear_cross_entropy_with_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let (dloss, rest) = inputs.split_last().expect("inputs of the gradient");
        let gradients = rest[..rest.len() - 1].iter().map(|&ty| ty.clone());
        Ok([(*dloss).clone(), (*dloss).clone()].into_iter().chain(gradients).collect())
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (dloss, forward) = inputs.split_last().expect("inputs of the gradient");
        let (losses, gradients) = outputs.split_at_mut(2);
        LinearCrossEntropy { items: self.items }.reference(forward, losses);
        let inputs = [forward, &[&losses[1], dloss]].concat();
        LinearCrossEntropyGradient { items: self.items }.reference(&inputs, gradients);
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        let items = self.items.unwrap_or(inputs[1].rows());
        cpu::together_scratch(inputs[0].rows(), inputs[0].width(), items)
    }

    fn cpu(&self, io: &mut CpuIo) {
        let last = io.inputs.len() - 1;
        let problem = Problem::new(io, last > 3, last - 1, self.items);
        let dloss = io.inputs[last].f();
        let [loss, lse, gradients @ ..] = &mut io.outputs[..] else { unreachable!("inferred") };
        let losses = Losses { loss: loss.f(), lse: lse.f() };
        cpu::together(problem, dloss, losses, Gradients::of(gradients), io.scratch);
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let last = builder.inputs.len() - 1;
        let problem = GpuProblem::new(builder, last > 3, last - 1, self.items);
        gpu::together(builder, &problem, builder.input(last));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let items = self.items.unwrap_or(inputs[1].rows());
        Cost::new(6 * inputs[0].len() * items, inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("linear_cross_entropy", build)];

fn build(b: &mut Builder) -> Result<()> {
    let mut inputs = vec![b.input("hidden")?, b.input("weight")?];
    if b.has("bias") {
        inputs.push(b.input("bias")?);
    }
    inputs.push(b.input("target")?);
    let items = b.optional_f64("items").map(|items| items as usize);
    let loss = b.graph.add1(LinearCrossEntropy { items }, &inputs)?;
    b.output("loss", loss);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, n: usize, v: usize, d: usize, scale: f64| {
        let case = Case::new(KERNELS[0], format!("{name}{n}x{v}x{d}"));
        case.normal("hidden", &[n, d], scale).normal("weight", &[v, d], 1.0)
    };
    let some =
        |n: usize, v: u32| (0..n as u32).map(|i| if i % 3 == 1 { NONE } else { (i * 7) % v }).collect::<Vec<_>>();
    let mut dominating = vec![0.0; 65];
    dominating[7] = 1e4;
    vec![
        case("", 1, 1, 1, 1.0).ids("target", &[1], &[0]).attr("zero_gradient", true),
        case("", 2, 3, 2, 1.0).normal("bias", &[3], 1.0).ids("target", &[2], &[2, 0]),
        case("", 65, 130, 63, 0.3).random_ids("target", &[65], 130),
        case("no target ", 63, 127, 3, 1.0).normal("bias", &[127], 1.0).ids("target", &[63], &some(63, 127)),
        case("all equal, extra rows ", 3, 66, 5, 1.0).attr("items", 64).ids("target", &[3], &[9; 3]),
        case("many items ", 2, 4300, 2, 1.0).normal("bias", &[4300], 1.0).ids("target", &[2], &[4299, NONE]),
        case("many rows ", 530, 9, 2, 1.0)
            .normal("bias", &[9], 1.0)
            .ids("target", &[530], &some(530, 8))
            .attr("items", 8),
        case("large ", 4, 64, 3, 1e4).ids("target", &[4], &[0, 1, 2, 63]),
        // Wide enough that a block of rows keeps its logits; more rows than a block, and a last chunk that is not full.
        case("wide ", 100, 300, 80, 0.3)
            .normal("bias", &[300], 1.0)
            .ids("target", &[100], &some(100, 290))
            .attr("items", 290),
        case("wide, no target ", 5, 9, 70, 1.0).ids("target", &[5], &[NONE; 5]).attr("zero_gradient", true),
        case("dominating ", 5, 65, 2, 1.0).tensor("bias", &[65], dominating).ids("target", &[5], &[7, 7, 8, NONE, 0]),
    ]
}
