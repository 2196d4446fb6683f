//! ARM, the augment-REINFORCE-merge gradient of a Bernoulli logit from two forward passes (LMA4Rec, Eq. 2):
//! `d/dphi E f(z) = E_u [(f([u > sigmoid(-phi)]) - f([u < sigmoid(phi)])) (u - 1/2)]`.
//!
//! With the loss of each row in pass A (`z = [u < s]`) and pass B (`z = [u > 1 - s]`) as its `f`, and `u` drawn again at
//! the places where `ops/bernoulli_mask.rs` drew it: `grad_d = sum_r (loss_b[r] - loss_a[r]) (u_rd - 1/2)`, summed over
//! the features too for a shared logit. Rows are summed in blocks of fixed size, the blocks in order.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder, Region};
use crate::engine::exec::simd;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::rng::{RngState, Site, draw_row, uniform};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::activation::sigmoid;
use crate::ops::dropout::{ROW_BLOCK, case_keys, expect_random_rows};
use crate::ops::matmul::{sum_all_gpu, sum_slabs_gpu};
use crate::shader;
use rayon::prelude::*;

/// Inputs `loss_a[R]`, `loss_b[R]`, `rng[4]`, `row_keys[R, 2]`, `logit[1]` or `[D]` (only its shape counts); output
/// `grad`, shaped like `logit`. Row `r` is a token row of the masked tensor; a row without a loss has zeros.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ArmGradient {
    /// Width `D` of the masked tensor.
    pub features: usize,
    /// Of the `BernoulliMask`.
    pub site: Site,
}

/// The estimator: `grad` from the rows' losses and their `u(row, feature)`.
fn arm(loss_a: &[f64], loss_b: &[f64], features: usize, u: impl Fn(usize, usize) -> f64, grad: &mut [f64]) {
    for (i, d) in (0..loss_a.len()).flat_map(|r| (0..features).map(move |d| (r, d))) {
        grad[d % grad.len()] += (loss_b[i] - loss_a[i]) * (u(i, d) - 0.5);
    }
}

/// Sums the blocks' partial rows `[blocks, D]` into `grad[D]`, or everything into `grad[1]`.
fn sum_blocks(partial: &[f32], features: usize, grad: &mut [f32]) {
    let shared = grad.len() == 1;
    for (d, total) in grad.iter_mut().enumerate() {
        let columns = if shared { 0..features } else { d..d + 1 };
        let values = partial.chunks_exact(features).flat_map(|block| &block[columns.clone()]);
        *total = values.map(|x| f64::from(*x)).sum::<f64>() as f32;
    }
}

/// The partial rows and their sum on the GPU; `random` is `[rng, row_keys]`, or `u` twice when `uniforms`.
fn arm_gpu(
    b: &mut GpuBuilder,
    uniforms: bool,
    losses: [Region; 2],
    random: [Region; 2],
    site: u32,
    width: usize,
    grad: Region,
) {
    let rows = losses[0].len;
    let blocks = rows.div_ceil(ROW_BLOCK);
    let partial = b.scratch(blocks * width);
    let bindings = [(losses[0], Read), (losses[1], Read), (random[0], Read), (random[1], Read), (partial, Write)];
    let params = [rows.into(), width.into(), ROW_BLOCK.into(), site.into()];
    let groups = (blocks * width.div_ceil(4)).div_ceil(64);
    b.dispatch(shader!("arm_gradient"), &[("UNIFORMS", u32::from(uniforms))], &bindings, &params, groups);
    if grad.len == 1 {
        sum_all_gpu(b, partial, grad, 1.0);
    } else {
        sum_slabs_gpu(b, partial, grad, blocks, false);
    }
}

impl Op for ArmGradient {
    fn name(&self) -> &'static str {
        "arm_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let masked = TensorType::f32(&[inputs[0].len(), self.features]);
        expect_random_rows("arm_gradient", &masked, inputs[2], inputs[3])?;
        let fits = inputs[0].len() == inputs[1].len() && (inputs[4].len() == 1 || inputs[4].len() == self.features);
        let problem = || format!("losses {} and {}, logit {} for {masked}", inputs[0], inputs[1], inputs[4]);
        expect("arm_gradient", fits, problem)?;
        Ok(vec![inputs[4].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (state, keys) = (RngState::from_words(inputs[2].u()), inputs[3].u());
        let u = |r: usize, d: usize| uniform(state.word(self.site, keys[2 * r], keys[2 * r + 1], d as u32)).into();
        arm(inputs[0].f(), inputs[1].f(), self.features, u, outputs[0].f_mut());
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        inputs[0].len().div_ceil(ROW_BLOCK) * self.features
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (loss_a, loss_b) = (io.inputs[0].f(), io.inputs[1].f());
        let (state, keys) = (RngState::from_words(io.inputs[2].u()), io.inputs[3].u());
        let blocks = io.scratch.par_chunks_mut(self.features).zip(keys.par_chunks(2 * ROW_BLOCK));
        blocks.zip(loss_a.par_chunks(ROW_BLOCK).zip(loss_b.par_chunks(ROW_BLOCK))).for_each(
            |((partial, keys), (loss_a, loss_b))| {
                partial.fill(0.0);
                simd::vectorised(
                    #[inline(always)]
                    || drawn_rows(*self, state, keys, loss_a, loss_b, partial),
                );
            },
        );
        sum_blocks(io.scratch, self.features, io.outputs[0].f());
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (losses, random) = ([b.input(0), b.input(1)], [b.input(2), b.input(3)]);
        arm_gpu(b, false, losses, random, self.site.0, self.features, b.output(0));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(3 * inputs[0].len() * self.features, inputs, outputs)
    }
}

#[inline(always)]
fn drawn_rows(op: ArmGradient, state: RngState, keys: &[u32], loss_a: &[f32], loss_b: &[f32], partial: &mut [f32]) {
    for ((key, a), b) in keys.chunks_exact(2).zip(loss_a).zip(loss_b) {
        draw_row(state, op.site, key, op.features, |first, words| {
            let sums = partial[first..].iter_mut().zip(words);
            sums.for_each(|(sum, word)| *sum += (b - a) * (uniform(*word) - 0.5));
        });
    }
}

/// The same with `u` given, as golden files have it: inputs `loss_a[R]`, `loss_b[R]`, `u[R, C]`; outputs
/// `mask_a[R, C]`, `mask_b[R, C]` (0 or 1), `grad[1]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ArmGradientFromUniforms {
    /// The keep logit.
    pub logit: f64,
}

impl Op for ArmGradientFromUniforms {
    fn name(&self) -> &'static str {
        "arm_gradient_from_uniforms"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let u = inputs[2];
        let fits = u.shape.len() == 2 && inputs[0].len() == u.rows() && inputs[1].len() == u.rows();
        expect("arm_gradient", fits, || format!("losses {} and {} for u {u}", inputs[0], inputs[1]))?;
        Ok(vec![TensorType::u32(&u.shape), TensorType::u32(&u.shape), TensorType::f32(&[1])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (u, width) = (inputs[2].f(), inputs[2].width());
        for (i, u) in u.iter().enumerate() {
            outputs[0].u_mut()[i] = (*u < sigmoid(self.logit)).into();
            outputs[1].u_mut()[i] = (*u > sigmoid(-self.logit)).into();
        }
        arm(inputs[0].f(), inputs[1].f(), width, |r, d| u[r * width + d], outputs[2].f_mut());
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (u, width) = (b.input(2), b.inputs[2].width());
        let bindings = [(u, Read), (b.output(0), Write), (b.output(1), Write)];
        let params = [u.len.into(), sigmoid(self.logit).into(), sigmoid(-self.logit).into()];
        b.dispatch(shader!("arm_masks"), &[], &bindings, &params, u.len.div_ceil(64));
        arm_gpu(b, true, [b.input(0), b.input(1)], [u, u], 0, width, b.output(2));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(5 * inputs[2].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("arm_gradient", build_from_uniforms), ("arm_gradient_drawn", build)];

fn build_from_uniforms(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("loss_a")?, b.input("loss_b")?, b.input("u")?];
    let outputs = b.graph.add(ArmGradientFromUniforms { logit: b.attr_f64("logit")? }, &inputs)?;
    for (name, value) in ["mask_a", "mask_b", "grad"].into_iter().zip(outputs) {
        b.output(name, value);
    }
    Ok(())
}

fn build(b: &mut Builder) -> Result<()> {
    let op = ArmGradient { features: b.attr_usize("features")?, site: Site(4) };
    let inputs = [b.input("loss_a")?, b.input("loss_b")?, b.rng(), b.input("row_keys")?, b.input("logit")?];
    let grad = b.graph.add1(op, &inputs)?;
    b.output("grad", grad);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let losses = |case: Case, rows: usize| {
        let loss = |scale: usize| (0..rows).map(|r| ((r * scale) % 17) as f32 / 8.0).collect();
        case.constant("loss_a", &[rows], loss(5)).constant("loss_b", &[rows], loss(7))
    };
    let drawn = |rows: usize, features: usize, logits: usize| {
        let case = Case::new(KERNELS[1], format!("{rows}x{features} {logits} logits")).attr("features", features);
        let case = losses(case.attr("seed", 3).attr("step", 11), rows).constant("logit", &[logits], vec![0.3; logits]);
        case.ids("row_keys", &[rows, 2], &case_keys(rows))
    };
    let given = |rows: usize, width: usize, logit: f64| {
        let u = (0..rows * width).map(|i| ((i * 37) % 101) as f32 / 101.0 + 0.001).collect();
        losses(Case::new(KERNELS[0], format!("{rows}x{width} logit {logit}")).attr("logit", logit), rows).constant(
            "u",
            &[rows, width],
            u,
        )
    };
    vec![
        given(2, 1, 0.0),
        given(65, 3, -2.0),
        given(130, 64, 1.3),
        drawn(2, 1, 1),
        drawn(63, 65, 1),
        drawn(130, 64, 64),
        drawn(257, 7, 7),
    ]
}

#[cfg(test)]
#[path = "arm_gradient/tests.rs"]
mod tests;
