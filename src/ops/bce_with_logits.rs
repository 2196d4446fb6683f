//! Binary cross-entropy of a logit: `loss_n = softplus(z_n) - t_n z_n`, not reduced.
//!
//! `softplus(z) = max(z, 0) + log(1 + exp(-|z|))` neither overflows nor loses small losses.
//! Gradient: `dz_n = dloss_n (sigmoid(z_n) - t_n)`; targets are constants.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::activation::{sigmoid, softplus};
use crate::shader;
use rayon::prelude::*;

/// Elements that one worker computes.
const BLOCK: usize = 2048;

/// Inputs `logits[N]`, `target[N]` in 0..=1; output `loss[N]`. Any equal shapes will do.
#[derive(Clone, Copy, Debug)]
pub struct BceWithLogits;

impl Op for BceWithLogits {
    fn name(&self) -> &'static str {
        "bce_with_logits"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let fits = inputs[0] == inputs[1];
        expect("bce_with_logits", fits, || format!("logits are {}, targets {}", inputs[0], inputs[1]))?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let pairs = inputs[0].f().iter().zip(inputs[1].f());
        outputs[0].f_mut().iter_mut().zip(pairs).for_each(|(loss, (z, t))| *loss = softplus(*z) - t * z);
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (logits, target) = (io.inputs[0].f(), io.inputs[1].f());
        let blocks =
            io.outputs[0].f().par_chunks_mut(BLOCK).zip(logits.par_chunks(BLOCK)).zip(target.par_chunks(BLOCK));
        blocks.for_each(|((loss, logits), target)| {
            for ((loss, z), t) in loss.iter_mut().zip(logits).zip(target) {
                // softplus(z) - t z, where t z cancels the large part first.
                let rest = if *z >= 0.0 { z * (1.0 - t) } else { -t * z };
                *loss = rest + (-z.abs()).exp().ln_1p();
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let len = b.inputs[0].len();
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.output(0), Write)];
        b.dispatch(shader!("bce_with_logits"), &[], &bindings, &[len.into()], len.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dloss) = vjp.cotangent(0).filter(|_| vjp.needs(0)) else { return Ok(()) };
        let dz = vjp.add(BceWithLogitsGradient, &[vjp.input(0), vjp.input(1), dloss])?[0];
        vjp.accumulate(0, dz)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(6 * inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `logits`, `target`, `dloss`; output `dlogits`.
#[derive(Clone, Copy, Debug)]
pub struct BceWithLogitsGradient;

impl Op for BceWithLogitsGradient {
    fn name(&self) -> &'static str {
        "bce_with_logits_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let [z, t, dloss] = [0, 1, 2].map(|i| inputs[i].f());
        for (i, dz) in outputs[0].f_mut().iter_mut().enumerate() {
            *dz = dloss[i] * (sigmoid(z[i]) - t[i]);
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let [z, t, dloss] = [0, 1, 2].map(|i| io.inputs[i].f());
        io.outputs[0].f().par_chunks_mut(BLOCK).enumerate().for_each(|(block, dz)| {
            for (i, dz) in (block * BLOCK..).zip(dz) {
                *dz = dloss[i] * (sigmoid(z[i].into()) - f64::from(t[i])) as f32;
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let len = b.inputs[0].len();
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.input(2), Read), (b.output(0), Write)];
        b.dispatch(shader!("bce_with_logits_gradient"), &[], &bindings, &[len.into()], len.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(6 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("bce_with_logits", build)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("logits")?, b.input("target")?];
    let loss = b.graph.add1(BceWithLogits, &inputs)?;
    b.output("loss", loss);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, scale: f64| {
        let target = (0..n).map(|i| [0.0, 1.0, 0.25][i % 3]).collect();
        let case = Case::new(KERNELS[0], format!("{n} logits of {scale}"));
        case.normal("logits", &[n], scale).constant("target", &[n], target)
    };
    let ends = Case::new(KERNELS[0], "large logits")
        .tensor("logits", &[8], vec![100.0, -100.0, 100.0, -100.0, 1e4, -1e4, 20.0, 0.0])
        .constant("target", &[8], vec![1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.5, 0.5]);
    vec![case(1, 1.0), case(3, 0.01), case(65, 3.0), case(130, 30.0), case(5000, 1.0), ends]
}
