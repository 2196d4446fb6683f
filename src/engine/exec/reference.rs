//! The specification: every op by its plain f64 loops, one value after the other, nothing shared.

use super::{Executor, Feed, PlanId, output_to_fetch};
use crate::engine::graph::{Flat, Graph, Source, ValueId};
use crate::engine::params::ParamLayout;
use crate::engine::plan::{self, Plan};
use crate::engine::tensor::{Array, Tensor, TensorType};
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Instant;

/// The four flat buffers of one set, in f64.
#[derive(Clone, Debug, Default)]
struct Buffers {
    params: Vec<f64>,
    grads: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
}

impl Buffers {
    fn flat(&mut self, flat: Flat) -> &mut Vec<f64> {
        match flat {
            Flat::Params => &mut self.params,
            Flat::Grads => &mut self.grads,
            Flat::FirstMoment => &mut self.m,
            Flat::SecondMoment => &mut self.v,
        }
    }
}

/// Evaluates a graph without parameters of its own: inputs in, all values out. For tests that perturb inputs in f64.
pub fn evaluate(graph: &Graph, inputs: &HashMap<ValueId, Array>) -> Result<Vec<Option<Array>>> {
    run_nodes(graph, inputs, &mut [])
}

fn run_nodes(graph: &Graph, inputs: &HashMap<ValueId, Array>, sets: &mut [Buffers]) -> Result<Vec<Option<Array>>> {
    let mut values: Vec<Option<Array>> = vec![None; graph.values.len()];
    for node in &graph.nodes {
        for &id in &node.inputs {
            let value = &graph.values[id.0];
            match &value.source {
                Source::Node { .. } => {}
                Source::Input => {
                    let given = inputs.get(&id);
                    let given =
                        given.ok_or_else(|| Error::graph("feed", format!("input `{}` is missing", value.name)))?;
                    values[id.0].get_or_insert_with(|| given.clone());
                }
                Source::Parameter { set, range } => {
                    let content = sets[*set].params[range.clone()].to_vec();
                    values[id.0].get_or_insert_with(|| Array::from_f64(&value.ty, content));
                }
                Source::Flat { set, flat } => {
                    values[id.0] = Some(Array::from_f64(&value.ty, sets[*set].flat(*flat).clone()));
                }
            }
        }
        let mut outputs: Vec<Array> = node.outputs.iter().map(|&v| Array::zeros(graph.ty(v))).collect();
        let get = |id: &ValueId| values[id.0].as_ref().expect("nodes are in order");
        for &(input, output) in node.op.in_place() {
            outputs[output] = get(&node.inputs[input]).clone().with_type(graph.ty(node.outputs[output]));
        }
        node.op.reference(&node.inputs.iter().map(get).collect::<Vec<_>>(), &mut outputs);
        for &(input, output) in node.op.in_place() {
            if let Source::Flat { set, flat } = graph.values[node.inputs[input].0].source {
                sets[set].flat(flat).copy_from_slice(outputs[output].f());
            }
        }
        for (&id, output) in node.outputs.iter().zip(outputs) {
            if let Some((set, range)) = graph.gradient_homes.get(&id) {
                sets[*set].grads[range.clone()].copy_from_slice(output.f());
            }
            values[id.0] = Some(output);
        }
    }
    Ok(values)
}

/// The reference as an executor, for trajectories beside the others.
#[derive(Default)]
pub struct ReferenceExecutor {
    layout: ParamLayout,
    sets: Vec<Buffers>,
    plans: Vec<(Graph, Plan)>,
    last: Option<(PlanId, Vec<Option<Array>>)>,
    metrics: Vec<Vec<f32>>,
}

impl ReferenceExecutor {
    /// Nothing is loaded yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Executor for ReferenceExecutor {
    fn describe(&self) -> String {
        "reference (f64)".into()
    }

    fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    fn set_layout(&mut self, layout: ParamLayout) {
        self.sets.resize_with(layout.sets.len(), Buffers::default);
        self.layout = layout;
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    fn write(&mut self, set: usize, flat: Flat, words: Option<&[f32]>) -> Result<()> {
        let len = self.layout.sets[set].flat_len();
        let wide = |words: &[f32]| words.iter().map(|&x| f64::from(x)).collect();
        *self.sets[set].flat(flat) = words.map_or_else(|| vec![0.0; len], wide);
        Ok(())
    }

    fn read(&mut self, set: usize, flat: Flat) -> Result<Cow<'_, [f32]>> {
        Ok(self.sets[set].flat(flat).iter().map(|&x| x as f32).collect())
    }

    fn compile(&mut self, graph: Graph) -> Result<PlanId> {
        let plan = Plan::new(&graph, &vec![Vec::new(); graph.nodes.len()], false);
        self.plans.push((graph, plan));
        Ok(PlanId(self.plans.len() - 1))
    }

    fn run(&mut self, plan: PlanId, feed: &Feed) -> Result<()> {
        let graph = &self.plans[plan.0].0;
        let mut inputs = HashMap::new();
        for (id, value) in graph.inputs() {
            inputs.insert(id, Array::from_words(&value.ty, &feed.for_input(graph, id)?.words));
        }
        let values = run_nodes(graph, &inputs, &mut self.sets)?;
        if !graph.metrics.is_empty() {
            let scalar = |id: &ValueId| values[id.0].as_ref().map_or(f32::NAN, |a| a.f()[0] as f32);
            self.metrics.push(graph.metrics.iter().map(|(_, id)| scalar(id)).collect());
        }
        self.last = Some((plan, values));
        Ok(())
    }

    fn run_timed(&mut self, plan: PlanId, feed: &Feed) -> Result<Vec<f64>> {
        let started = Instant::now();
        self.run(plan, feed)?;
        // Its steps have no clock of their own: nobody trains with it.
        let steps = self.plans[plan.0].1.steps.len();
        Ok(vec![started.elapsed().as_secs_f64() / steps as f64; steps])
    }

    fn fetch(&mut self, plan: PlanId, output: &str) -> Result<Tensor> {
        let last = self.last.as_ref().filter(|(ran, _)| *ran == plan);
        let id = output_to_fetch(&self.plans[plan.0].0, output, last.is_some())?;
        let array = last.and_then(|(_, values)| values[id.0].as_ref());
        let array = array.ok_or_else(|| Error::graph("fetch", format!("`{output}` has not been computed")))?;
        let ty: TensorType = array.ty.clone();
        Ok(Tensor { ty, words: array.to_words() })
    }

    fn drain_metrics(&mut self) -> Result<Vec<Vec<f32>>> {
        Ok(std::mem::take(&mut self.metrics))
    }

    fn graph(&self, plan: PlanId) -> &Graph {
        &self.plans[plan.0].0
    }

    fn plan(&self, plan: PlanId) -> &Plan {
        &self.plans[plan.0].1
    }

    fn allocated_bytes(&self) -> u64 {
        self.sets.iter().map(|set| 4 * 8 * set.params.len() as u64).sum()
    }

    fn plan_table(&self, plan: PlanId) -> String {
        plan::table(self.graph(plan), self.plan(plan), &[])
    }
}
