//! Bayesian personalised ranking: `loss_n = -log sigmoid(positive_n - negative_n) = softplus(negative_n - positive_n)`.
//!
//! Gradient, with `g_n = dloss_n sigmoid(negative_n - positive_n)`: `dnegative = g`, `dpositive = -g`.

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

/// Inputs `positive[N]`, `negative[N]`; output `loss[N]`. Any equal shapes will do.
#[derive(Clone, Copy, Debug)]
pub struct Bpr;

impl Op for Bpr {
    fn name(&self) -> &'static str {
        "bpr"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        expect("bpr", inputs[0] == inputs[1], || format!("positive is {}, negative {}", inputs[0], inputs[1]))?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let pairs = inputs[0].f().iter().zip(inputs[1].f());
        outputs[0].f_mut().iter_mut().zip(pairs).for_each(|(loss, (pos, neg))| *loss = softplus(neg - pos));
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (positive, negative) = (io.inputs[0].f(), io.inputs[1].f());
        io.outputs[0].f().par_chunks_mut(BLOCK).enumerate().for_each(|(block, loss)| {
            for (i, loss) in (block * BLOCK..).zip(loss) {
                *loss = softplus((negative[i] - positive[i]).into()) as f32;
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let len = b.inputs[0].len();
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.output(0), Write)];
        b.dispatch(shader!("bpr"), &[], &bindings, &[len.into()], len.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dloss) = vjp.cotangent(0) else { return Ok(()) };
        let gradients = vjp.add(BprGradient, &[vjp.input(0), vjp.input(1), dloss])?;
        for i in (0..2).filter(|&i| vjp.needs(i)).collect::<Vec<_>>() {
            vjp.accumulate(i, gradients[i])?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(5 * inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `positive`, `negative`, `dloss`; outputs `dpositive`, `dnegative`.
#[derive(Clone, Copy, Debug)]
pub struct BprGradient;

impl Op for BprGradient {
    fn name(&self) -> &'static str {
        "bpr_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone(), inputs[1].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let [positive, negative, dloss] = [0, 1, 2].map(|i| inputs[i].f());
        for i in 0..dloss.len() {
            let g = dloss[i] * sigmoid(negative[i] - positive[i]);
            outputs[0].f_mut()[i] = -g;
            outputs[1].f_mut()[i] = g;
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let [positive, negative, dloss] = [0, 1, 2].map(|i| io.inputs[i].f());
        let [dpositive, dnegative] = &mut io.outputs[..] else { unreachable!("inferred") };
        let blocks = dpositive.f().par_chunks_mut(BLOCK).zip(dnegative.f().par_chunks_mut(BLOCK));
        blocks.enumerate().for_each(|(block, (dpositive, dnegative))| {
            for (i, (dpositive, dnegative)) in (block * BLOCK..).zip(dpositive.iter_mut().zip(dnegative)) {
                *dnegative = dloss[i] * sigmoid((negative[i] - positive[i]).into()) as f32;
                *dpositive = -*dnegative;
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let len = b.inputs[0].len();
        let mut bindings = vec![(b.input(0), Read), (b.input(1), Read), (b.input(2), Read)];
        bindings.extend([(b.output(0), Write), (b.output(1), Write)]);
        b.dispatch(shader!("bpr_gradient"), &[], &bindings, &[len.into()], len.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(6 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("bpr", build)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("positive")?, b.input("negative")?];
    let loss = b.graph.add1(Bpr, &inputs)?;
    b.output("loss", loss);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, scale: f64| {
        let case = Case::new(KERNELS[0], format!("{n} scores of {scale}"));
        case.normal("positive", &[n], scale).normal("negative", &[n], scale)
    };
    let ends = Case::new(KERNELS[0], "large scores")
        .tensor("positive", &[5], vec![100.0, -100.0, 1e4, -1e4, 7.0])
        .tensor("negative", &[5], vec![-100.0, 100.0, -1e4, 1e4, 7.0]);
    vec![case(1, 1.0), case(63, 0.01), case(65, 3.0), case(130, 30.0), case(5000, 1.0), ends]
}
