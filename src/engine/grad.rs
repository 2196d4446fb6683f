//! The reverse pass: walks the nodes backwards and lets each op append the nodes of its gradient.
//!
//! Whether a value needs a gradient, and whether a gradient is its first or a further contribution, is known while the
//! graph is built; nothing is decided at run time.

use super::graph::{Graph, Source, ValueId};
use super::op::Op;
use super::tensor::TensorType;
use crate::error::Result;
use crate::ops::{add::Add, fill::Fill};
use std::collections::HashMap;

/// Gradient values by differentiated value.
pub type Gradients = HashMap<ValueId, ValueId>;

/// What an op's `vjp` sees: the forward node, the cotangents, and the gradients gathered so far.
pub struct Vjp<'a> {
    pub graph: &'a mut Graph,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    needed: &'a [bool],
    gradients: &'a mut Gradients,
}

impl Vjp<'_> {
    pub fn input(&self, i: usize) -> ValueId {
        self.inputs[i]
    }

    pub fn n_inputs(&self) -> usize {
        self.inputs.len()
    }

    pub fn output(&self, i: usize) -> ValueId {
        self.outputs[i]
    }

    pub fn ty(&self, value: ValueId) -> TensorType {
        self.graph.ty(value).clone()
    }

    /// Whether anything differentiable stands behind input `i`.
    pub fn needs(&self, i: usize) -> bool {
        self.needed.get(self.inputs[i].0).copied().unwrap_or(false)
    }

    /// The gradient of the loss with respect to output `i`, if the loss depends on it.
    pub fn cotangent(&self, i: usize) -> Option<ValueId> {
        self.gradients.get(&self.outputs[i]).copied()
    }

    /// Like `cotangent`, with zeros where the loss does not depend on the output.
    pub fn cotangent_or_zero(&mut self, i: usize) -> Result<ValueId> {
        match self.cotangent(i) {
            Some(value) => Ok(value),
            None => {
                let shape = self.graph.shape(self.outputs[i]).to_vec();
                self.graph.add1(Fill { value: 0.0, shape }, &[])
            }
        }
    }

    pub fn add(&mut self, op: impl Op + 'static, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        self.graph.add(op, inputs)
    }

    /// Adds a contribution to the gradient of input `i`.
    pub fn accumulate(&mut self, i: usize, gradient: ValueId) -> Result<()> {
        let total = match self.gradients.get(&self.inputs[i]) {
            Some(&partial) => self.graph.add1(Add, &[partial, gradient])?,
            None => gradient,
        };
        self.gradients.insert(self.inputs[i], total);
        Ok(())
    }

    /// Takes the gradient gathered so far for input `i`, for an op that adds its own share to it in place.
    /// The op must `accumulate` the sum afterwards.
    pub fn take_partial(&mut self, i: usize) -> Option<ValueId> {
        self.gradients.remove(&self.inputs[i])
    }
}

impl Graph {
    /// Gradients of a scalar loss with respect to every parameter it depends on.
    pub fn backward(&mut self, loss: ValueId) -> Result<Gradients> {
        let shape = self.shape(loss).to_vec();
        let one = self.add1(Fill { value: 1.0, shape }, &[])?;
        let wrt: Vec<ValueId> = (0..self.values.len())
            .map(ValueId)
            .filter(|v| matches!(self.values[v.0].source, Source::Parameter { .. }))
            .collect();
        self.vjp(&[(loss, one)], &wrt)
    }

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
            // The op is lent out while its vjp appends nodes to the graph it lives in.
            let op = std::mem::replace(&mut self.nodes[index].op, Box::new(Add));
            let scope = format!("{}'", self.nodes[index].label);
            let result = self.in_scope(&scope, |graph| {
                op.vjp(&mut Vjp { graph, inputs, outputs, needed: &needed, gradients: &mut gradients })
            });
            self.nodes[index].op = op;
            result?;
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
