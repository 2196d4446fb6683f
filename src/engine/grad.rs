//! The reverse pass: walks the nodes backwards and lets each op append the nodes of its gradient.
//!
//! Whether a value needs a gradient, and whether a gradient is its first or a further contribution, is known while the
//! graph is built; nothing is decided at run time. The sums and the seed that the pass itself writes down are ops like any
//! other, so `ops/mod.rs` adds them: `Vjp::accumulate`, `Graph::backward`.

use super::graph::{Graph, Source, ValueId};
use super::op::Op;
use super::tensor::TensorType;
use crate::error::{Error, Result};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

/// Gradient values by differentiated value.
pub type Gradients = HashMap<ValueId, ValueId>;

/// What an op's `vjp` sees: the forward node, the cotangents, and the gradients gathered so far.
pub struct Vjp<'a> {
    /// The graph that grows.
    pub graph: &'a mut Graph,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    needed: &'a [bool],
    gradients: &'a mut Gradients,
    /// By output: whether the op looked at its cotangent.
    asked: Vec<Cell<bool>>,
}

impl Vjp<'_> {
    /// Input `i` of the forward node.
    pub fn input(&self, i: usize) -> ValueId {
        self.inputs[i]
    }

    /// How many inputs it has.
    pub fn n_inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Output `i` of the forward node.
    pub fn output(&self, i: usize) -> ValueId {
        self.outputs[i]
    }

    /// The type of a value.
    pub fn ty(&self, value: ValueId) -> TensorType {
        self.graph.ty(value).clone()
    }

    /// Whether anything differentiable stands behind input `i`.
    pub fn needs(&self, i: usize) -> bool {
        self.needed.get(self.inputs[i].0).copied().unwrap_or(false)
    }

    /// The gradient of the loss with respect to output `i`, if the loss depends on it. An op that never asks has no gradient
    /// through that output, and a loss that depends on it is refused.
    pub fn cotangent(&self, i: usize) -> Option<ValueId> {
        self.asked[i].set(true);
        self.gradients.get(&self.outputs[i]).copied()
    }

    /// No gradient flows through output `i`, and that is meant: to the loss it is a constant.
    pub fn stop(&self, i: usize) {
        self.asked[i].set(true);
    }

    /// Appends a node of the gradient; returns its outputs.
    pub fn add(&mut self, op: impl Op + 'static, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        self.graph.add(op, inputs)
    }

    /// Takes the gradient gathered so far for input `i`, for an op that adds its own share to it in place.
    /// The op must `accumulate` the sum afterwards.
    pub fn take_partial(&mut self, i: usize) -> Option<ValueId> {
        self.gradients.remove(&self.inputs[i])
    }

    /// Makes `gradient` the whole of what input `i` has gathered.
    pub fn set_gradient(&mut self, i: usize, gradient: ValueId) {
        self.gradients.insert(self.inputs[i], gradient);
    }
}

impl Graph {
    /// Gradients of `sum over outputs of <cotangent, output>` with respect to `wrt`.
    pub fn vjp(&mut self, cotangents: &[(ValueId, ValueId)], wrt: &[ValueId]) -> Result<Gradients> {
        let last = cotangents.iter().filter_map(|(v, _)| self.node_of(*v)).max();
        let mut needed = vec![false; self.values.len()];
        wrt.iter().for_each(|v| needed[v.0] = true);
        for node in &self.nodes {
            if node.inputs.iter().any(|v| needed[v.0]) {
                node.outputs.iter().for_each(|v| needed[v.0] = self.values[v.0].ty.dtype == super::DType::F32);
            }
        }
        let mut gradients: Gradients = cotangents.iter().copied().collect();
        for index in (0..last.map_or(0, |last| last + 1)).rev() {
            let (inputs, outputs) = (self.nodes[index].inputs.clone(), self.nodes[index].outputs.clone());
            let reached = outputs.iter().any(|v| gradients.contains_key(v));
            if !reached || !inputs.iter().any(|v| needed[v.0]) {
                continue;
            }
            let op = Arc::clone(&self.nodes[index].op);
            let scope = format!("{}'", self.nodes[index].label);
            self.in_scope(&scope, |graph| {
                let asked = vec![Cell::new(false); outputs.len()];
                let mut vjp = Vjp { graph, inputs, outputs, needed: &needed, gradients: &mut gradients, asked };
                op.vjp(&mut vjp)?;
                match (0..vjp.outputs.len()).find(|&i| !vjp.asked[i].get() && vjp.cotangent(i).is_some()) {
                    Some(i) => Err(Error::graph(op.name(), format!("no gradient flows through output {i}"))),
                    None => Ok(()),
                }
            })?;
        }
        gradients.retain(|v, _| wrt.contains(v));
        Ok(gradients)
    }

    fn node_of(&self, value: ValueId) -> Option<usize> {
        match self.values[value.0].source {
            Source::Node { node, .. } => Some(node),
            _ => None,
        }
    }
}
