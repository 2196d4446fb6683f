//! The static list of nodes. Built once per shape bucket, then replayed for every step.

use super::op::Op;
use super::params::{FROZEN, Init, ParamLayout};
use super::tensor::{DType, TensorType};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A value of a graph, by its place in `Graph::values`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub usize);

/// One of the four flat buffers of a parameter set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flat {
    /// What is trained.
    Params,
    /// The gradients of one step.
    Grads,
    /// Adam's `m`.
    FirstMoment,
    /// Adam's `v`.
    SecondMoment,
}

impl Flat {
    /// What training has beside the parameters.
    pub const OF_TRAINING: [Flat; 3] = [Flat::Grads, Flat::FirstMoment, Flat::SecondMoment];
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Uploaded before each step.
    Input,
    /// A range of the parameters of a set.
    Parameter {
        /// Its index.
        set: usize,
        /// Words of its flat buffers.
        range: Range<usize>,
    },
    /// A whole flat buffer, as the optimizer sees it.
    Flat {
        /// The set's index.
        set: usize,
        /// Which of its buffers.
        flat: Flat,
    },
    /// Output `output` of node `node`.
    Node {
        /// Its place in the graph.
        node: usize,
        /// Its place among the op's outputs.
        output: usize,
    },
}

/// A tensor of the graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// Of an input or parameter its own; of others where it comes from.
    pub name: String,
    /// Shape and element type.
    pub ty: TensorType,
    /// Where its content comes from.
    pub source: Source,
}

/// One application of an op.
#[derive(Debug)]
pub struct Node {
    /// What is computed.
    pub op: Arc<dyn Op>,
    /// In the op's order.
    pub inputs: Vec<ValueId>,
    /// In the op's order.
    pub outputs: Vec<ValueId>,
    /// The scopes it was added in, and the op's name.
    pub label: String,
}

/// Values, and the nodes that compute them, each behind those it reads from.
#[derive(Debug, Default)]
pub struct Graph {
    /// By `ValueId`.
    pub values: Vec<Value>,
    /// In the order in which they run.
    pub nodes: Vec<Node>,
    /// The parameters that the graph, or another of the same method, has declared.
    pub layout: ParamLayout,
    /// Values that can be fetched after a run.
    pub outputs: BTreeMap<String, ValueId>,
    /// Scalars recorded at every run and drained in batches, in this order.
    pub metrics: Vec<(String, ValueId)>,
    /// Gradients that must land in their range of a set's flat gradient buffer.
    pub gradient_homes: BTreeMap<ValueId, (usize, Range<usize>)>,
    set: usize,
    scope: String,
}

impl Graph {
    /// An empty graph over parameters that may be declared already by another graph of the same method.
    pub fn new(layout: ParamLayout) -> Self {
        let mut graph = Graph { layout, ..Graph::default() };
        graph.set = graph.layout.set_index("model");
        graph
    }

    /// A value that the feed of every run must hold.
    pub fn input(&mut self, name: &str, ty: TensorType) -> ValueId {
        self.push_value(name.into(), ty, Source::Input)
    }

    /// The input of this name, declared on first use.
    pub fn input_once(&mut self, name: &str, ty: TensorType) -> ValueId {
        match self.values.iter().position(|v| v.source == Source::Input && v.name == name) {
            Some(known) => ValueId(known),
            None => self.input(name, ty),
        }
    }

    /// A parameter of the current set, declared on first use.
    pub fn param(&mut self, name: &str, shape: &[usize], init: Init) -> ValueId {
        let range = self.layout.declare(self.set, name, shape, init);
        let source = Source::Parameter { set: self.set, range };
        match self.values.iter().position(|v| v.source == source) {
            Some(known) => ValueId(known),
            None => self.push_value(name.into(), TensorType::f32(shape), source),
        }
    }

    /// Declares parameters in another set (another optimizer) for the length of `build`.
    pub fn in_set<T>(&mut self, set: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        let index = self.layout.set_index(set);
        let before = std::mem::replace(&mut self.set, index);
        let result = build(self);
        self.set = before;
        result
    }

    /// A parameter that training reads and does not change, zero until a state says otherwise.
    pub fn frozen(&mut self, name: &str, shape: &[usize]) -> ValueId {
        self.in_set(FROZEN, |graph| graph.param(name, shape, Init::Constant(0.0)))
    }

    /// Prefixes the labels of the nodes that `build` adds.
    pub fn in_scope<T>(&mut self, scope: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.scope.clone();
        self.scope = if before.is_empty() { scope.into() } else { format!("{before}.{scope}") };
        let result = build(self);
        self.scope = before;
        result
    }

    /// A whole flat buffer of a parameter set.
    pub fn flat(&mut self, set: usize, flat: Flat) -> ValueId {
        let ty = TensorType::f32(&[self.layout.sets[set].flat_len()]);
        self.push_value(format!("{}.{flat:?}", self.layout.sets[set].name), ty, Source::Flat { set, flat })
    }

    /// Appends a node; returns its outputs.
    pub fn add(&mut self, op: impl Op + 'static, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        let types: Vec<&TensorType> = inputs.iter().map(|id| &self.values[id.0].ty).collect();
        let output_types = op.infer(&types).map_err(|error| match error {
            Error::Graph { op, problem } if !self.scope.is_empty() => {
                Error::Graph { op: format!("{op} in {}", self.scope), problem }
            }
            other => other,
        })?;
        let node = self.nodes.len();
        let label = if self.scope.is_empty() { op.name().into() } else { format!("{}.{}", self.scope, op.name()) };
        let mut outputs = Vec::with_capacity(output_types.len());
        for (output, ty) in output_types.into_iter().enumerate() {
            outputs.push(self.push_value(format!("{label}#{node}.{output}"), ty, Source::Node { node, output }));
        }
        self.nodes.push(Node { op: Arc::new(op), inputs: inputs.to_vec(), outputs: outputs.clone(), label });
        Ok(outputs)
    }

    /// Appends a node with one output of interest: the first.
    pub fn add1(&mut self, op: impl Op + 'static, inputs: &[ValueId]) -> Result<ValueId> {
        Ok(self.add(op, inputs)?[0])
    }

    /// Lets a value be fetched by this name.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.outputs.insert(name.into(), value);
    }

    /// Records a scalar at every run.
    pub fn metric(&mut self, name: &str, value: ValueId) {
        assert_eq!(self.ty(value).len(), 1, "metric {name} must be a scalar");
        self.metrics.push((name.into(), value));
    }

    /// Shape and element type of a value.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        &self.values[value.0].ty
    }

    /// The shape of a value.
    pub fn shape(&self, value: ValueId) -> &[usize] {
        &self.values[value.0].ty.shape
    }

    /// Whether a value holds f32, not u32.
    pub fn is_float(&self, value: ValueId) -> bool {
        self.ty(value).dtype == DType::F32
    }

    /// Input values by name, in order of declaration.
    pub fn inputs(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().filter(|(_, v)| v.source == Source::Input).map(|(i, v)| (ValueId(i), v))
    }

    /// Types of a node's inputs and of its outputs.
    pub fn node_types(&self, node: &Node) -> (Vec<&TensorType>, Vec<&TensorType>) {
        (node.inputs.iter().map(|&v| self.ty(v)).collect(), node.outputs.iter().map(|&v| self.ty(v)).collect())
    }

    fn push_value(&mut self, name: String, ty: TensorType, source: Source) -> ValueId {
        self.values.push(Value { name, ty, source });
        ValueId(self.values.len() - 1)
    }
}
