//! A case as a runnable program: the op, a random cotangent for every float output, and all gradients.

use crate::engine::case::{Built, Case};
use crate::engine::exec::{Executor, Feed, reference};
use crate::engine::graph::{Graph, ValueId};
use crate::engine::rng::{RngState, Site};
use crate::engine::tensor::{Array, DType, Tensor};
use crate::error::Result;
use std::collections::{BTreeMap, HashMap};

/// Results by name: `out.NAME` and `grad.NAME`, as in golden files.
pub type Results<T> = BTreeMap<String, T>;

/// A case with its gradient, as every executor runs it.
#[derive(Debug)]
pub struct Program {
    /// Forward and backward.
    pub graph: Graph,
    /// Inputs and cotangents.
    pub feed: Feed,
    /// Differentiable inputs, as `(name, value)`.
    pub wrt: Vec<(String, ValueId)>,
    /// Float outputs with their cotangents.
    pub cotangents: Vec<(ValueId, ValueId)>,
}

impl Program {
    /// Cotangents come from `given` where it has them, else they are standard normals.
    pub fn new(case: &Case, given: &BTreeMap<String, Tensor>) -> Result<Program> {
        let built: Built = case.instantiate()?;
        let wrt = built.differentiable(case);
        let Built { mut graph, mut feed, outputs, .. } = built;
        graph.outputs.clear();
        let mut cotangents = Vec::new();
        for (name, value) in &outputs {
            graph.output(&format!("out.{name}"), *value);
            if wrt.is_empty() || !graph.is_float(*value) {
                continue;
            }
            let ty = graph.ty(*value).clone();
            let mut stream = RngState { seed: 77, step: 0 }.stream(Site(1), cotangents.len() as u32);
            let random = || Tensor { ty: ty.clone(), words: (0..ty.len()).map(|_| stream.normal() as f32).collect() };
            let cotangent = given.get(name).cloned().unwrap_or_else(random);
            let input = graph.input(&format!("cot.{name}"), ty.clone());
            feed.set(&format!("cot.{name}"), cotangent);
            cotangents.push((*value, input));
        }
        let values: Vec<ValueId> = wrt.iter().map(|(_, value)| *value).collect();
        let gradients = graph.vjp(&cotangents, &values)?;
        for (name, value) in &wrt {
            if let Some(gradient) = gradients.get(value) {
                graph.output(&format!("grad.{name}"), *gradient);
            }
        }
        Ok(Program { graph, feed, wrt, cotangents })
    }

    /// The f64 inputs of the reference.
    pub fn wide_inputs(&self) -> Result<HashMap<ValueId, Array>> {
        let mut inputs = HashMap::new();
        for (id, value) in self.graph.inputs() {
            inputs.insert(id, Array::from_words(&value.ty, &self.feed.for_input(&self.graph, id)?.words));
        }
        Ok(inputs)
    }

    /// The reference's results for given inputs.
    pub fn reference(&self, inputs: &HashMap<ValueId, Array>) -> Result<Results<Array>> {
        let values = reference::evaluate(&self.graph, inputs)?;
        let named = |(name, value): (&String, &ValueId)| {
            let array = values[value.0].clone().or_else(|| inputs.get(value).cloned());
            (name.clone(), array.expect("every output is computed or fed"))
        };
        Ok(self.graph.outputs.iter().map(named).collect())
    }

    /// How far each result moves when every float input moves by one ulp, up or down at random: largest of three draws.
    pub fn noise(&self, exact: &Results<Array>) -> Result<Results<f64>> {
        let mut moved: Results<f64> = exact.keys().map(|name| (name.clone(), 0.0)).collect();
        for draw in 0..3 {
            let mut inputs = self.wide_inputs()?;
            let mut ids: Vec<ValueId> = inputs.keys().copied().collect();
            ids.sort();
            for id in ids {
                let array = inputs.get_mut(&id).expect("listed");
                if array.ty.dtype == DType::F32 {
                    let mut stream = RngState { seed: 78, step: draw }.stream(Site(2), id.0 as u32);
                    for x in array.f_mut() {
                        let ulp = f64::from((*x as f32).abs().next_up() - (*x as f32).abs());
                        *x += if stream.next_u32() & 1 == 0 { ulp } else { -ulp };
                    }
                }
            }
            for (name, array) in self.reference(&inputs)? {
                if array.ty.dtype == DType::F32 {
                    let change = array.f().iter().zip(exact[&name].f()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                    let largest = moved.get_mut(&name).expect("same program");
                    *largest = largest.max(change);
                }
            }
        }
        Ok(moved)
    }

    /// Runs on an executor and fetches everything.
    pub fn run(case: &Case, given: &BTreeMap<String, Tensor>, executor: &mut dyn Executor) -> Result<Results<Tensor>> {
        Self::run_times(case, given, executor, 1).map(|mut runs| runs.remove(0))
    }

    /// Runs `times` times on one compiled plan, with another plan's work in the shared slots in between.
    pub fn run_times(
        case: &Case,
        given: &BTreeMap<String, Tensor>,
        executor: &mut dyn Executor,
        times: usize,
    ) -> Result<Vec<Results<Tensor>>> {
        let Program { graph, feed, .. } = Program::new(case, given)?;
        let names: Vec<String> = graph.outputs.keys().cloned().collect();
        let plan = executor.compile(graph)?;
        let other = if times > 1 { Some(executor.compile(case.instantiate()?.graph)?) } else { None };
        let mut runs = Vec::new();
        for turn in 0..times {
            if let (Some(other), true) = (other, turn > 0) {
                executor.run(other, &feed)?;
            }
            executor.run(plan, &feed)?;
            let mut results = Results::new();
            for name in &names {
                results.insert(name.clone(), executor.fetch(plan, name)?);
            }
            runs.push(results);
        }
        Ok(runs)
    }
}
