//! Test cases of ops. One list per op feeds every check of the kernel-correctness suite, and golden files are read into
//! the same form: attributes, named input tensors, and which of them are differentiated.

use super::exec::Feed;
use super::graph::{Graph, ValueId};
use super::params::ParamLayout;
use super::rng::{RngState, Site};
use super::tensor::{DType, Tensor};
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// Builds the graph of a case: declares inputs, adds the op, names outputs.
pub type BuildFn = fn(&mut Builder) -> Result<()>;

/// An op as golden files know it: its name there, and how to build its graph.
pub type Kernel = (&'static str, BuildFn);

/// One input of a case.
#[derive(Clone, Debug)]
pub struct CaseTensor {
    /// Its name in golden files, without `in.`.
    pub name: String,
    /// Its content.
    pub tensor: Tensor,
    /// Whether the checks take its gradient.
    pub differentiable: bool,
}

/// One call of an op: attributes and inputs. Every check, suite and golden file comes down to these.
#[derive(Clone, Debug)]
pub struct Case {
    /// The op's name in golden files.
    pub op: &'static str,
    /// What is special about this case.
    pub name: String,
    /// What the op is configured by.
    pub attrs: Map<String, Value>,
    /// The inputs.
    pub tensors: Vec<CaseTensor>,
    /// How its graph is built.
    pub build: BuildFn,
}

impl Case {
    /// A case without attributes and inputs.
    pub fn new(kernel: Kernel, name: impl Into<String>) -> Self {
        Case { op: kernel.0, name: name.into(), attrs: Map::new(), tensors: Vec::new(), build: kernel.1 }
    }

    /// Sets an attribute.
    pub fn attr(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.attrs.insert(name.into(), value.into());
        self
    }

    /// A differentiable input.
    pub fn tensor(mut self, name: &str, shape: &[usize], data: Vec<f32>) -> Self {
        self.tensors.push(CaseTensor { name: name.into(), tensor: Tensor::f32(shape, data), differentiable: true });
        self
    }

    /// A differentiable input of standard normals times `scale`, drawn from the case's own name.
    pub fn normal(self, name: &str, shape: &[usize], scale: f64) -> Self {
        let mut stream = self.stream(name);
        let data = (0..shape.iter().product()).map(|_| (stream.normal() * scale) as f32).collect();
        self.tensor(name, shape, data)
    }

    /// A float input that is not differentiated.
    pub fn constant(mut self, name: &str, shape: &[usize], data: Vec<f32>) -> Self {
        self.tensors.push(CaseTensor { name: name.into(), tensor: Tensor::f32(shape, data), differentiable: false });
        self
    }

    /// An input of integers.
    pub fn ids(mut self, name: &str, shape: &[usize], data: &[u32]) -> Self {
        self.tensors.push(CaseTensor { name: name.into(), tensor: Tensor::u32(shape, data), differentiable: false });
        self
    }

    /// Ids uniform in `0..bound`.
    pub fn random_ids(self, name: &str, shape: &[usize], bound: u32) -> Self {
        let mut stream = self.stream(name);
        let data: Vec<u32> = (0..shape.iter().product()).map(|_| stream.below(bound)).collect();
        self.ids(name, shape, &data)
    }

    fn stream(&self, name: &str) -> super::rng::Stream {
        let hash = format!("{}/{}/{name}", self.op, self.name)
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        RngState { seed: hash, step: 0 }.stream(Site(0), 0)
    }

    /// The input of this name.
    pub fn find(&self, name: &str) -> Option<&CaseTensor> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// `attention/causal 3x2`.
    pub fn label(&self) -> String {
        format!("{}/{}", self.op, self.name)
    }

    /// The graph of the case with its feed.
    pub fn instantiate(&self) -> Result<Built> {
        let graph = Graph::new(ParamLayout::default());
        let mut builder = Builder { case: self, graph, feed: Feed::default(), inputs: Vec::new(), outputs: Vec::new() };
        (self.build)(&mut builder)?;
        let Builder { mut graph, feed, inputs, outputs, .. } = builder;
        for (name, value) in &outputs {
            graph.output(name, *value);
        }
        Ok(Built { graph, feed, inputs, outputs })
    }
}

/// A case as a graph.
#[derive(Debug)]
pub struct Built {
    /// The op with its inputs and outputs.
    pub graph: Graph,
    /// The content of the inputs.
    pub feed: Feed,
    /// The case's own tensors that the graph uses, by name.
    pub inputs: Vec<(String, ValueId)>,
    /// Named outputs, in the order in which the op's `build` gave them.
    pub outputs: Vec<(String, ValueId)>,
}

impl Built {
    /// The inputs to differentiate.
    pub fn differentiable(&self, case: &Case) -> Vec<(String, ValueId)> {
        let wanted = |name: &str| case.find(name).is_some_and(|t| t.differentiable);
        self.inputs.iter().filter(|(name, _)| wanted(name)).cloned().collect()
    }
}

/// What an op's `build` works with.
pub struct Builder<'a> {
    case: &'a Case,
    /// The graph that is being built.
    pub graph: Graph,
    feed: Feed,
    inputs: Vec<(String, ValueId)>,
    outputs: Vec<(String, ValueId)>,
}

impl Builder<'_> {
    /// The case's tensor of this name as an input of the graph.
    pub fn input(&mut self, name: &str) -> Result<ValueId> {
        let tensor = self.tensor(name)?.clone();
        let id = self.feed(name, tensor);
        self.inputs.push((name.into(), id));
        Ok(id)
    }

    /// Whether the case holds a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.case.find(name).is_some()
    }

    /// The case's tensor as the host sees it.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        let missing = || Error::graph(self.case.label(), format!("tensor `{name}` is missing"));
        Ok(&self.case.find(name).ok_or_else(missing)?.tensor)
    }

    /// The case's tensor as integers.
    pub fn u32s(&self, name: &str) -> Result<Vec<u32>> {
        let tensor = self.tensor(name)?;
        let wrong = || Error::graph(self.case.label(), format!("tensor `{name}` must hold integers"));
        if tensor.ty.dtype == DType::U32 { Ok(tensor.as_u32().to_vec()) } else { Err(wrong()) }
    }

    /// An input that is derived on the host from the case's tensors.
    pub fn feed(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let id = self.graph.input(name, tensor.ty.clone());
        self.feed.set(name, tensor);
        id
    }

    /// The input `rng` for ops that draw random numbers, from the attributes `seed` and `step` (0 when absent).
    pub fn rng(&mut self) -> ValueId {
        let attr = |name: &str| self.case.attrs.get(name).and_then(Value::as_u64).unwrap_or(0);
        let words = RngState { seed: attr("seed"), step: attr("step") as u32 }.words();
        self.feed("rng", Tensor::u32(&[4], &words))
    }

    /// Names an output, as golden files do behind `out.`.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.outputs.push((name.into(), value));
    }

    /// A required attribute; so are the next three.
    pub fn attr_f64(&self, name: &str) -> Result<f64> {
        self.attr(name, Value::as_f64)
    }

    /// A required truth value.
    pub fn attr_bool(&self, name: &str) -> Result<bool> {
        self.attr(name, Value::as_bool)
    }

    /// A required whole number.
    pub fn attr_usize(&self, name: &str) -> Result<usize> {
        Ok(self.attr(name, Value::as_u64)? as usize)
    }

    /// A required text.
    pub fn attr_str(&self, name: &str) -> Result<String> {
        self.attr(name, |v| v.as_str().map(String::from))
    }

    /// `None` when the attribute is absent or null.
    pub fn optional_f64(&self, name: &str) -> Option<f64> {
        self.case.attrs.get(name).and_then(Value::as_f64)
    }

    /// A list of numbers; `None` when the attribute is absent or null.
    pub fn optional_numbers(&self, name: &str) -> Option<Vec<f64>> {
        self.case.attrs.get(name)?.as_array()?.iter().map(Value::as_f64).collect()
    }

    fn attr<T>(&self, name: &str, read: impl FnOnce(&Value) -> Option<T>) -> Result<T> {
        let missing = || Error::graph(self.case.label(), format!("attribute `{name}` is missing or of another type"));
        self.case.attrs.get(name).and_then(read).ok_or_else(missing)
    }
}
