//! What networks are made of: an op with the parameters it reads, and how these begin.

use super::tokens::Random;
use crate::engine::params::Init;
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::ops::activation::Activation;
use crate::ops::dropout::Dropout;
use crate::ops::layer_norm::LayerNorm;
use crate::ops::linear::Linear;

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

/// Dropout on `[N, D]`, where it is wanted and random numbers are drawn.
pub fn dropout(graph: &mut Graph, x: ValueId, op: Dropout, random: Random) -> Result<ValueId> {
    match random {
        Some([rng, keys]) if op.probability > 0.0 => graph.add1(op, &[x, rng, keys]),
        _ => Ok(x),
    }
}
