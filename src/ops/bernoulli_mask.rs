//! Learnable Bernoulli dropout (LMA4Rec, section 4.2): `y = x z / s` with `s = sigmoid(logit)`, `u` uniform in (0, 1) and
//! `z = [u < s]`, or, for the second pass of the ARM estimator, the antithetic `z = [u > 1 - s] = [u > sigmoid(-logit)]`.
//!
//! Both masks keep with probability `s` and share their `u`. `1 / s` counts as a constant and `z` has no derivative: the
//! logit learns from `ops/arm_gradient.rs` alone, and `dx = dy z / s` is the same op on `dy`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::rng::{RngState, Site, draw_row, uniform};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::activation::sigmoid;
use crate::ops::dropout::{ROW_BLOCK, case_keys, expect_random_rows};
use crate::shader;
use rayon::prelude::*;

/// Inputs `x[N, D]`, `logit[1]` or `[D]`, `rng[4]`, `row_keys[N, 2]` (logical sequence, position); output `y[N, D]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BernoulliMask {
    /// Where the uniform numbers are drawn.
    pub site: Site,
    /// Keep where `u > sigmoid(-logit)`, not where `u < sigmoid(logit)`: ARM's second pass.
    pub antithetic: bool,
}

impl BernoulliMask {
    fn keeps(&self, u: f64, logit: f64) -> bool {
        if self.antithetic { u > sigmoid(-logit) } else { u < sigmoid(logit) }
    }
}

impl Op for BernoulliMask {
    fn name(&self) -> &'static str {
        "bernoulli_mask"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        expect_random_rows("bernoulli_mask", inputs[0], inputs[2], inputs[3])?;
        let fits = inputs[1].len() == 1 || inputs[1].len() == inputs[0].width();
        expect("bernoulli_mask", fits, || format!("x is {}, logit {}", inputs[0], inputs[1]))?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (x, logit) = (inputs[0], inputs[1].f());
        let (state, keys) = (RngState::from_words(inputs[2].u()), inputs[3].u());
        for (i, y) in outputs[0].f_mut().iter_mut().enumerate() {
            let (n, d) = (i / x.width(), i % x.width());
            let u = uniform(state.word(self.site, keys[2 * n], keys[2 * n + 1], d as u32));
            let logit = logit[d % logit.len()];
            *y = if self.keeps(u.into(), logit) { x.f()[i] / sigmoid(logit) } else { 0.0 };
        }
    }

    /// `s` and `1 - s` of every feature.
    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        2 * inputs[0].width()
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (x, width, logit) = (io.inputs[0].f(), io.inputs[0].width(), io.inputs[1].f());
        let (state, keys) = (RngState::from_words(io.inputs[2].u()), io.inputs[3].u());
        let (keep, drop) = io.scratch.split_at_mut(width);
        for d in 0..width {
            let logit = f64::from(logit[d % logit.len()]);
            (keep[d], drop[d]) = (sigmoid(logit) as f32, sigmoid(-logit) as f32);
        }
        let blocks = io.outputs[0].f().par_chunks_mut(ROW_BLOCK * width).zip(x.par_chunks(ROW_BLOCK * width));
        blocks.zip(keys.par_chunks(2 * ROW_BLOCK)).for_each(|((y, x), keys)| {
            simd::vectorised(
                #[inline(always)]
                || mask_rows(*self, state, keys, (&*keep, &*drop), x, y),
            );
        });
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let (rows, width) = (builder.inputs[0].rows(), builder.inputs[0].width());
        let mut bindings: Vec<_> = (0..4).map(|i| (builder.input(i), Read)).collect();
        bindings.push((builder.output(0), Write));
        let per_feature = builder.inputs[1].len() > 1;
        let params = [rows.into(), width.into(), self.site.0.into(), per_feature.into(), self.antithetic.into()];
        let groups = (rows * width.div_ceil(4)).div_ceil(64);
        builder.dispatch(shader!("bernoulli_mask"), &[], &bindings, &params, groups);
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0).filter(|_| vjp.needs(0)) else { return Ok(()) };
        let dx = vjp.add(*self, &[dy, vjp.input(1), vjp.input(2), vjp.input(3)])?[0];
        vjp.accumulate(0, dx)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(outputs[0].len(), inputs, outputs)
    }
}

#[inline(always)]
fn mask_rows(
    op: BernoulliMask,
    state: RngState,
    keys: &[u32],
    (keep, drop): (&[f32], &[f32]),
    x: &[f32],
    y: &mut [f32],
) {
    let width = keep.len();
    for ((y, x), key) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(keys.chunks_exact(2)) {
        draw_row(state, op.site, key, width, |first, words| {
            let probabilities = keep[first..].iter().zip(&drop[first..]);
            for (((y, x), word), (keep, drop)) in y[first..].iter_mut().zip(&x[first..]).zip(words).zip(probabilities) {
                let u = uniform(*word);
                let kept = if op.antithetic { u > *drop } else { u < *keep };
                *y = if kept { x / keep } else { 0.0 };
            }
        });
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("bernoulli_mask", build)];

fn build(b: &mut Builder) -> Result<()> {
    let op = BernoulliMask { site: Site(b.attr_usize("site")? as u32), antithetic: b.attr_bool("antithetic")? };
    let inputs = [b.input("x")?, b.input("logit")?, b.rng(), b.input("row_keys")?];
    let y = b.graph.add1(op, &inputs)?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, d: usize, antithetic: bool, logit: &[f32]| {
        let name = format!("{n}x{d}{}", if antithetic { " antithetic" } else { "" });
        let case = Case::new(KERNELS[0], name).attr("site", 4).attr("seed", 99).attr("step", 2);
        let case = case.attr("antithetic", antithetic).constant("logit", &[logit.len()], logit.to_vec());
        case.normal("x", &[n, d], 1.0).ids("row_keys", &[n, 2], &case_keys(n))
    };
    let per_feature: Vec<f32> = (0..65).map(|d| (d as f32 - 32.0) / 10.0).collect();
    vec![
        case(1, 130, false, &[0.0]),
        case(3, 64, true, &[0.0]),
        case(127, 3, false, &[1.3]),
        case(63, 1, true, &[-2.0]),
        case(65, 65, false, &per_feature),
        case(65, 65, true, &per_feature),
    ]
}
