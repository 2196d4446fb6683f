//! What networks are made of: an op with the parameters it reads, and how these begin.

use super::tokens::Random;
use crate::engine::graph::Flat;
use crate::engine::params::Init;
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::ops::activation::Activation;
use crate::ops::batch_norm::BatchNorm;
use crate::ops::dropout::Dropout;
use crate::ops::layer_norm::LayerNorm;
use crate::ops::linear::Linear;
use crate::ops::soft_sync::SoftSync;

/// Glorot's uniform initialisation of `[outputs, inputs]`: within `sqrt(6 / (inputs + outputs))`.
pub fn glorot(inputs: usize, outputs: usize) -> Init {
    Init::Uniform((6.0 / (inputs + outputs) as f32).sqrt())
}

/// A linear layer `f(x W^T + b)` before it has a name: `NAME.weight[outputs, inputs]`, `NAME.bias[outputs]`.
#[derive(Clone, Copy, Debug)]
pub struct Dense {
    outputs: usize,
    weight: Option<Init>,
    bias: Init,
    activation: Option<Activation>,
}

impl Dense {
    /// Glorot's weights, no bias to begin with, no activation.
    pub fn new(outputs: usize) -> Dense {
        Dense { outputs, weight: None, bias: Init::Constant(0.0), activation: None }
    }

    /// With other initial weights.
    pub fn weight(self, init: Init) -> Dense {
        Dense { weight: Some(init), ..self }
    }

    /// With other initial biases.
    pub fn bias(self, init: Init) -> Dense {
        Dense { bias: init, ..self }
    }

    /// With a function behind it.
    pub fn then(self, activation: Activation) -> Dense {
        Dense { activation: Some(activation), ..self }
    }

    /// Weight and bias in the current set.
    pub fn declare(self, graph: &mut Graph, name: &str, inputs: usize) -> [ValueId; 2] {
        let init = self.weight.unwrap_or(glorot(inputs, self.outputs));
        let weight = graph.param(&format!("{name}.weight"), &[self.outputs, inputs], init);
        [weight, graph.param(&format!("{name}.bias"), &[self.outputs], self.bias)]
    }

    /// The layer of `x[N, inputs]`, by parameters of the current set: `[N, outputs]`.
    pub fn of(self, graph: &mut Graph, name: &str, x: ValueId) -> Result<ValueId> {
        let [weight, bias] = self.declare(graph, name, graph.ty(x).width());
        graph.add1(Linear { activation: self.activation }, &[x, weight, bias])
    }
}

/// `NAME.weight[D]` and `NAME.bias[D]` of a layer normalisation, in the current set.
pub fn norm_parameters(graph: &mut Graph, name: &str, width: usize) -> [ValueId; 2] {
    let weight = graph.param(&format!("{name}.weight"), &[width], Init::Constant(1.0));
    [weight, graph.param(&format!("{name}.bias"), &[width], Init::Constant(0.0))]
}

/// Layer normalisation of `x[N, D]`; `behind` are the op's inputs after weight and bias.
pub fn layer_norm(graph: &mut Graph, name: &str, op: LayerNorm, x: ValueId, behind: &[ValueId]) -> Result<ValueId> {
    let [weight, bias] = norm_parameters(graph, name, graph.ty(x).width());
    graph.add1(op, &[&[x, weight, bias], behind].concat())
}

/// How far the statistics of a batch normalisation move towards those of a batch: PyTorch's `momentum`.
const STATISTICS_RATE: f64 = 0.1;

/// Batch normalisation of `x[N, D]`: by the statistics of the batch in training, otherwise by those that training left in the
/// set `NAME.running`.
pub fn batch_norm(graph: &mut Graph, name: &str, x: ValueId, training: bool) -> Result<ValueId> {
    let width = graph.ty(x).width();
    let [weight, bias] = norm_parameters(graph, name, width);
    let set = format!("{name}.running");
    graph.in_set(&set, |graph| {
        graph.param("mean", &[width], Init::Constant(0.0));
        graph.param("variance", &[width], Init::Constant(1.0));
    });
    let index = graph.layout.set_index(&set);
    let running = graph.flat(index, Flat::Params);
    let op = BatchNorm { eps: 1e-5, given: !training };
    if !training {
        return graph.add1(op, &[x, weight, bias, running]);
    }
    let [y, statistics] = graph.add(op, &[x, weight, bias])?[..] else { unreachable!("two outputs") };
    graph.add1(SoftSync { rate: STATISTICS_RATE }, &[running, statistics])?;
    Ok(y)
}

/// Dropout on `[N, D]`, where it is wanted and random numbers are drawn.
pub fn dropout(graph: &mut Graph, x: ValueId, op: Dropout, random: Random) -> Result<ValueId> {
    match random {
        Some([rng, keys]) if op.probability > 0.0 => graph.add1(op, &[x, rng, keys]),
        _ => Ok(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::exec::DeviceChoice;
    use crate::engine::params::ParamLayout;
    use crate::engine::{Feed, Tensor, TensorType};

    #[test]
    fn statistics_move_a_tenth_of_the_way_to_those_of_a_batch_and_are_what_inference_uses() {
        let x = Tensor::f32(&[4, 2], vec![1.0, -3.0, 3.0, 1.0, 1.0, -3.0, 3.0, 1.0]);
        let graph = |layout: ParamLayout, training: bool| {
            let mut graph = Graph::new(layout);
            let x = graph.input("x", TensorType::f32(&[4, 2]));
            let y = batch_norm(&mut graph, "norm", x, training).unwrap();
            graph.output("y", y);
            graph
        };
        let layout = graph(ParamLayout::default(), true).layout;
        let (mut executor, mut feed) = (DeviceChoice::Cpu.open(1).unwrap(), Feed::default());
        executor.load(&layout, &layout.initial_state(1)).unwrap();
        feed.set("x", x);
        let mut y = |training: bool| {
            let plan = executor.compile(graph(layout.clone(), training)).unwrap();
            executor.run(plan, &feed).unwrap();
            (executor.fetch(plan, "y").unwrap().words, executor.state().unwrap())
        };
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
        let (of_batch, state) = y(true);
        assert!(close(&of_batch[..4], &[-1.0, -1.0, 1.0, 1.0]), "{of_batch:?}");
        let running = |name: &str| state.parameter(&layout, "norm.running", name).unwrap();
        assert!(close(running("mean"), &[0.2, -0.1]), "{:?}", running("mean"));
        assert!(close(running("variance"), &[1.0, 1.3]), "{:?}", running("variance"));
        let (inferred, after) = y(false);
        assert!(close(&inferred[..2], &[0.8, -2.9 / 1.3f32.sqrt()]), "{inferred:?}");
        assert_eq!(state, after, "inference changes nothing");
    }
}
