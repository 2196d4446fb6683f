//! Adam over a flat buffer, in place: `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
//! `p -= step_size m / (sqrt(v / (1 - b2^t)) + eps)`, `step_size = lr / (1 - b1^t)` (Kingma & Ba, arXiv 1412.6980).
//!
//! `g = scale * grad + weight_decay * p`: the optional scale clips, the decay is coupled (L2). Everything that depends on
//! the step is computed on the host in f64. Dense: rows without a gradient still move by their momentum.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, Tensor, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;

/// The hyper-parameters of `hyper`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamConfig {
    /// The step's length.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Added to the gradient as `weight_decay * param`.
    pub weight_decay: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        AdamConfig { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// The input `hyper[8]` of step `step`, counted from 1:
/// `lr / (1 - beta1^t), 1 / (1 - beta2^t), beta1, 1 - beta1, beta2, 1 - beta2, eps, weight_decay`.
pub fn hyper(config: &AdamConfig, step: u64) -> Tensor {
    let AdamConfig { learning_rate, beta1, beta2, eps, weight_decay } = *config;
    let correction = |beta: f64| 1.0 - beta.powf(step.max(1) as f64);
    let step_size = learning_rate / correction(beta1);
    let values = [step_size, 1.0 / correction(beta2), beta1, 1.0 - beta1, beta2, 1.0 - beta2, eps, weight_decay];
    Tensor::f32(&[8], values.map(|x| x as f32).into())
}

/// `hyper` of a first step that forgets the moments it finds: they begin at zero, whatever another optimizer has left there.
pub fn hyper_anew(config: &AdamConfig) -> Tensor {
    let mut hyper = hyper(config, 1);
    (hyper.words[2], hyper.words[4]) = (0.0, 0.0);
    hyper
}

/// Inputs `param[P]`, `grad[P]`, `m[P]`, `v[P]`, `hyper[8]`, and `scale[1]` of the gradient (optional);
/// outputs `param`, `m`, `v`, updated in place.
#[derive(Clone, Copy, Debug)]
pub struct Adam;

/// Elements that one worker updates: long runs, so that the hardware reads ahead in all four streams.
const BLOCK: usize = 256 * 1024;

impl Op for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let fits = inputs[1..4].iter().all(|ty| *ty == inputs[0]) && inputs[4].len() == 8;
        let problem = || format!("param, grad, m, v are {}, {}, {}, {}", inputs[0], inputs[1], inputs[2], inputs[3]);
        expect("adam", fits, problem)?;
        expect("adam", inputs.get(5).is_none_or(|ty| ty.len() == 1), || "scale must be one number".into())?;
        Ok(vec![inputs[0].clone(); 3])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (2, 1), (3, 2)]
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let scale = inputs.get(5).map_or(1.0, |scale| scale.f()[0]);
        let [step_size, inv_bias2, beta1, rest1, beta2, rest2, eps, decay] = *inputs[4].f() else {
            unreachable!("inferred")
        };
        for (i, grad) in inputs[1].f().iter().enumerate() {
            let g = scale * grad + decay * outputs[0].f()[i];
            let m = beta1 * outputs[1].f()[i] + rest1 * g;
            let v = beta2 * outputs[2].f()[i] + rest2 * g * g;
            outputs[0].f_mut()[i] -= step_size * m / ((v * inv_bias2).sqrt() + eps);
            outputs[1].f_mut()[i] = m;
            outputs[2].f_mut()[i] = v;
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (grad, hyper) = (io.inputs[1].f(), io.inputs[4].f().try_into().expect("inferred"));
        let scale = io.inputs.get(5).map_or(1.0, |scale| scale.f()[0]);
        let [param, m, v] = &mut io.outputs[..] else { unreachable!("inferred") };
        let moments = m.f().par_chunks_mut(BLOCK).zip(v.f().par_chunks_mut(BLOCK));
        let blocks = param.f().par_chunks_mut(BLOCK).zip(grad.par_chunks(BLOCK)).zip(moments);
        blocks.for_each(|((param, grad), (m, v))| {
            simd::vectorised(
                #[inline(always)]
                || update(hyper, scale, param, grad, m, v),
            )
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let len = b.inputs[0].len();
        let piece = b.limits.binding_words / 64 * 64;
        let scaled = b.inputs.len() > 5;
        let scale = b.input(if scaled { 5 } else { 4 });
        for first in (0..len).step_by(piece) {
            let words = piece.min(len - first);
            let bindings = [
                (b.input(1).slice(first, words), Read),
                (b.input(4), Read),
                (scale, Read),
                (b.output(0).slice(first, words), Update),
                (b.output(1).slice(first, words), Update),
                (b.output(2).slice(first, words), Update),
            ];
            b.dispatch(shader!("adam"), &[], &bindings, &[words.into(), scaled.into()], words.div_ceil(256));
        }
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(14 * inputs[0].len(), inputs, outputs)
    }
}

#[inline(always)]
fn update(hyper: [f32; 8], scale: f32, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
    let [step_size, inv_bias2, beta1, rest1, beta2, rest2, eps, decay] = hyper;
    for (((p, grad), m), v) in param.iter_mut().zip(grad).zip(m).zip(v) {
        let g = scale * grad + decay * *p;
        *m = beta1 * *m + rest1 * g;
        *v = beta2 * *v + rest2 * g * g;
        *p -= step_size * *m / ((*v * inv_bias2).sqrt() + eps);
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("adam", build)];

fn build(b: &mut Builder) -> Result<()> {
    let config = AdamConfig {
        learning_rate: b.attr_f64("lr")?,
        beta1: b.attr_f64("beta1")?,
        beta2: b.attr_f64("beta2")?,
        eps: b.attr_f64("eps")?,
        weight_decay: b.optional_f64("weight_decay").unwrap_or(0.0),
    };
    let mut inputs = vec![b.input("param")?, b.input("grad")?, b.input("m")?, b.input("v")?];
    let step = b.attr_usize("step")? as u64;
    inputs.push(b.feed("hyper", hyper(&config, step)));
    if b.has("scale") {
        inputs.push(b.input("scale")?);
    }
    let outputs = b.graph.add(Adam, &inputs)?;
    for (name, value) in ["param", "m", "v"].into_iter().zip(outputs) {
        b.output(name, value);
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, step: u64, weight_decay: f64| {
        let values = |factor: usize, scale: f32| (0..n).map(|i| ((i * factor) % 101) as f32 * scale).collect();
        let case = Case::new(KERNELS[0], format!("{n} step {step} decay {weight_decay}")).attr("step", step);
        let case = case.attr("lr", 1e-2).attr("beta1", 0.9).attr("beta2", 0.999).attr("eps", 1e-8);
        let case = case.attr("weight_decay", weight_decay).constant("param", &[n], values(37, 0.1));
        let grad = (0..n).map(|i| ((i * 53) % 101) as f32 - 50.0).collect();
        case.constant("grad", &[n], grad).constant("m", &[n], values(11, 0.01)).constant("v", &[n], values(29, 0.01))
    };
    let zeros = Case { name: "no gradient yet".into(), ..case(3, 1, 0.0) };
    let zeros = Case { tensors: Vec::new(), ..zeros }
        .constant("param", &[3], vec![1.0, -1.0, 0.0])
        .constant("grad", &[3], vec![0.0, 1e-4, 1e4])
        .constant("m", &[3], vec![0.0; 3])
        .constant("v", &[3], vec![0.0; 3]);
    vec![
        case(1, 1, 0.0),
        case(65, 2, 0.01),
        case(130, 100_000, 0.0).constant("scale", &[1], vec![0.125]),
        case(40_000, 7, 0.1).constant("scale", &[1], vec![1.0]),
        zeros,
    ]
}
