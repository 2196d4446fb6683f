//! The temporal-difference loss of SNQN and the advantage of SA2C (Xin et al., WSDM 2022, Eq. 4 to 6, with the constants of the
//! authors' code).
//!
//! ```text
//! y+ = r + gamma (1 - done) Q'(s', a*)            y- = r_neg + gamma Q'(s, b*)
//! loss = 1/2 (y+ - Q(s, a+))^2 + w sum_j 1/2 (y- - Q(s, a-_j))^2
//! A = clip(Q(s, a+) - mean of Q over a+ and all a-_j)
//! ```
//!
//! The bootstraps Q' come from the other network at the actions a*, b* that this one prefers; they, and A, are constants.
//! Gradients: `dQ+ = dloss (Q+ - y+)`, `dQ-_j = w dloss (Q-_j - y-)`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder, Param};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::detach::Detach;
use crate::shader;
use serde::{Deserialize, Serialize};

/// Inputs `q_pos[B]`, `q_neg[B, K]`, `reward[B]`, `done[B]` (0 or 1), `q_next_target[B]`, `q_now_target[B]`; outputs `loss[B]`,
/// `advantage[B]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnqnTd {
    /// What a reward one step later is worth.
    pub gamma: f64,
    /// Of an action that was not taken.
    pub reward_negative: f64,
    /// What the errors of the negatives count beside that of the action; 0 leaves them out (SQN).
    pub negative_weight: f64,
    /// Bounds of the advantage; none where it is not clipped.
    pub advantage_clip: Option<[f64; 2]>,
}

impl SnqnTd {
    fn targets(&self, reward: f64, done: f64, next: f64, now: f64) -> [f64; 2] {
        [reward + self.gamma * (1.0 - done) * next, self.reward_negative + self.gamma * now]
    }

    fn advantage(&self, positive: f64, negatives: impl ExactSizeIterator<Item = f64>) -> f64 {
        let count = negatives.len() + 1;
        let advantage = positive - (positive + negatives.sum::<f64>()) / count as f64;
        self.advantage_clip.map_or(advantage, |[low, high]| advantage.clamp(low, high))
    }

    fn params(&self, b: &GpuBuilder) -> [Param; 8] {
        let (rows, negatives) = (b.inputs[0].len(), b.inputs[1].width());
        let [low, high] = self.advantage_clip.unwrap_or([f64::from(f32::MIN), f64::from(f32::MAX)]);
        let clipped = self.advantage_clip.is_some();
        let numbers = [self.gamma, self.reward_negative, self.negative_weight, low, high].map(Param::from);
        let [gamma, reward, weight, low, high] = numbers;
        [rows.into(), negatives.into(), clipped.into(), gamma, reward, weight, low, high]
    }
}

impl Op for SnqnTd {
    fn name(&self) -> &'static str {
        "snqn_td"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let row = inputs[0];
        let fits = row.shape.len() == 1 && inputs[2..].iter().all(|ty| *ty == row) && inputs.len() == 6;
        let fits = fits && inputs[1].shape.len() == 2 && inputs[1].rows() == row.len();
        expect("snqn_td", fits, || format!("q_pos is {row}, q_neg {}", inputs[1]))?;
        Ok(vec![row.clone(); 2])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let [pos, neg, reward, done, next, now] = inputs else { unreachable!("inferred") };
        for (b, &q) in pos.f().iter().enumerate() {
            let [good, bad] = self.targets(reward.f()[b], done.f()[b], next.f()[b], now.f()[b]);
            let negatives = neg.row(b).iter();
            let errors = negatives.clone().map(|q| (bad - q).powi(2)).sum::<f64>();
            outputs[0].f_mut()[b] = 0.5 * ((good - q).powi(2) + self.negative_weight * errors);
            outputs[1].f_mut()[b] = self.advantage(q, negatives.copied());
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let mut bindings: Vec<_> = (0..6).map(|i| (b.input(i), Read)).collect();
        bindings.extend([(b.output(0), Write), (b.output(1), Write)]);
        b.dispatch(shader!("snqn_td"), &[], &bindings, &self.params(b), b.inputs[0].len().div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        expect("snqn_td", vjp.cotangent(1).is_none(), || "the advantage is a constant".into())?;
        let Some(dloss) = vjp.cotangent(0) else { return Ok(()) };
        let inputs: Vec<_> = (0..6).map(|i| vjp.input(i)).chain([dloss]).collect();
        let gradients = vjp.add(SnqnTdGradient { forward: *self }, &inputs)?;
        for (i, gradient) in gradients.into_iter().enumerate().filter(|(i, _)| vjp.needs(*i)).collect::<Vec<_>>() {
            vjp.accumulate(i, gradient)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(4 * inputs[1].len(), inputs, outputs)
    }
}

/// Inputs: those of `forward`, then `dloss[B]`; outputs `dq_pos[B]`, `dq_neg[B, K]`.
#[derive(Clone, Copy, Debug)]
pub struct SnqnTdGradient {
    /// The op that this is the gradient of.
    pub forward: SnqnTd,
}

impl Op for SnqnTdGradient {
    fn name(&self) -> &'static str {
        "snqn_td_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone(), inputs[1].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let [pos, neg, reward, done, next, now, dloss] = inputs else { unreachable!("inferred") };
        let negatives = neg.width();
        for (b, &dloss) in dloss.f().iter().enumerate() {
            let [good, bad] = self.forward.targets(reward.f()[b], done.f()[b], next.f()[b], now.f()[b]);
            outputs[0].f_mut()[b] = dloss * (pos.f()[b] - good);
            let dneg = outputs[1].f_mut()[b * negatives..].iter_mut();
            dneg.zip(neg.row(b)).for_each(|(dneg, q)| *dneg = self.forward.negative_weight * dloss * (q - bad));
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        // The error of the positive reads other inputs than those of the negatives.
        let len = b.inputs[1].len();
        let params = self.forward.params(b);
        let (pos, neg, reward, done) = (b.input(0), b.input(1), b.input(2), b.input(3));
        let (next, now, dloss) = (b.input(4), b.input(5), b.input(6));
        let bindings = [(pos, Read), (reward, Read), (done, Read), (next, Read), (dloss, Read), (b.output(0), Write)];
        b.dispatch(shader!("snqn_td_positive_gradient"), &[], &bindings, &params, pos.len.div_ceil(64));
        let bindings = [(neg, Read), (now, Read), (dloss, Read), (b.output(1), Write)];
        b.dispatch(shader!("snqn_td_negative_gradient"), &[], &bindings, &params, len.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * inputs[1].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("snqn_td", build)];

fn build(b: &mut Builder) -> Result<()> {
    let names = ["q_pos", "q_neg", "reward", "done", "q_next_target", "q_now_target"];
    let inputs = names.iter().map(|name| b.input(name)).collect::<Result<Vec<_>>>()?;
    let clip = b.optional_numbers("advantage_clip").and_then(|bounds| bounds.try_into().ok());
    let (gamma, reward_negative) = (b.attr_f64("gamma")?, b.attr_f64("reward_negative")?);
    let negative_weight = b.optional_f64("negative_weight").unwrap_or(1.0);
    let outputs = b.graph.add(SnqnTd { gamma, reward_negative, negative_weight, advantage_clip: clip }, &inputs)?;
    b.output("loss", outputs[0]);
    if b.attr_bool("loss_only").unwrap_or(false) {
        return Ok(());
    }
    let advantage = b.graph.add1(Detach, &[outputs[1]])?;
    b.output("advantage", advantage);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, rows: usize, negatives: usize, clip: Option<[f64; 2]>| {
        let case = Case::new(KERNELS[0], name).attr("gamma", 0.5).attr("reward_negative", -0.25);
        let case = match clip {
            Some(clip) => case.attr("advantage_clip", clip.to_vec()),
            None => case.attr("advantage_clip", serde_json::Value::Null),
        };
        let values = |step: usize| (0..rows).map(|i| ((i * step) % 17) as f32 / 8.0 - 1.0).collect();
        let done = (0..rows).map(|i| [0.0, 1.0, 0.0][i % 3]).collect();
        let case = case.constant("reward", &[rows], values(5)).constant("done", &[rows], done);
        let case = case.constant("q_next_target", &[rows], values(7)).constant("q_now_target", &[rows], values(11));
        let differentiated = case.clone().attr("loss_only", true).normal("q_pos", &[rows], 1.0);
        let negative = (0..rows * negatives).map(|i| ((i * 13) % 29) as f32 / 9.0 - 1.5).collect();
        let constant = Case { name: format!("{name}, advantage"), ..case }.constant("q_pos", &[rows], values(13));
        [
            differentiated.normal("q_neg", &[rows, negatives], 1.0),
            constant.constant("q_neg", &[rows, negatives], negative),
        ]
    };
    let one = case("one", 1, 1, Some([0.0, 10.0]));
    let half = case("half weight", 5, 2, None).map(|case| case.attr("negative_weight", 0.5));
    [one, case("ten negatives", 65, 10, Some([0.0, 0.5])), case("not clipped", 130, 3, None), half].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OP: SnqnTd =
        SnqnTd { gamma: 0.5, reward_negative: 0.0, negative_weight: 1.0, advantage_clip: Some([0.0, 10.0]) };

    #[test]
    fn targets_are_those_of_the_specification() {
        assert_eq!(OP.targets(1.0, 0.0, 7.0, 2.0), [4.5, 1.0]);
        assert_eq!(OP.targets(1.0, 1.0, 7.0, 2.0), [1.0, 1.0]);
    }

    #[test]
    fn advantages_are_those_of_the_specification_and_never_negative() {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-4;
        assert!(near(OP.advantage(4.0, [1.0, 0.0].into_iter()), 2.3333));
        assert_eq!(OP.advantage(0.0, [4.0, 1.0].into_iter()), 0.0);
        // Where negatives sit at their fixed point, half the maximum, A is 1 - 6/11 of it.
        assert!(near(OP.advantage(0.4, [0.2; 10].into_iter()), 0.1818));
        assert!(near(OP.advantage(1.2, [0.6; 10].into_iter()), 0.5455));
    }
}
