//! The memory plan: where each value lives, decided once per graph.
//!
//! Values are grouped into classes that share memory (an output that updates its input in place, a gradient that must
//! land in its flat buffer). Classes without a home of their own share *slots*: two classes may use one slot when their
//! live intervals are apart. Larger classes are placed first (greedy by size, arXiv 2001.03288, section 4). A slot is one
//! buffer, because WebGPU tracks usage per whole buffer: an op never finds an input and an output in one slot.

use super::graph::{Flat, Graph, Node, Source, ValueId};
use super::op::Cost;
use super::params::ALIGN_WORDS;
use std::collections::{BTreeMap, HashMap};

/// What a value lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Buffer {
    /// The one upload of a step: all inputs, each on a 256-byte boundary.
    Inputs,
    /// A flat buffer of a parameter set.
    Flat {
        /// The set's index.
        set: usize,
        /// Which of its buffers.
        flat: Flat,
    },
    /// Memory that values with lifetimes apart share.
    Slot(usize),
}

/// A range of 32-bit words in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which.
    pub buffer: Buffer,
    /// The first word.
    pub offset: usize,
    /// How many words.
    pub len: usize,
}

/// One execution of a node.
#[derive(Clone, Debug)]
pub struct Step {
    /// Of the graph.
    pub node: usize,
    /// What it takes at least.
    pub cost: Cost,
    /// Inputs whose content must be copied to an output first, because the op updates it but others still read it.
    pub copies: Vec<(Place, Place)>,
    /// The op's scratch areas.
    pub scratch: Vec<Place>,
}

/// Steps and memory of a graph.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By value; `None` for values that no step touches.
    pub places: Vec<Option<Place>>,
    /// In order.
    pub steps: Vec<Step>,
    /// The length of each slot.
    pub slot_words: Vec<usize>,
    /// The length of the upload.
    pub input_words: usize,
    /// What the slots would need without sharing.
    pub unshared_words: usize,
}

/// Values that share memory, and from which to which step it is in use.
struct Class {
    len: usize,
    first: usize,
    last: usize,
    home: Option<Place>,
}

/// Words of a slot that holds so many: a multiple of what a binding may start at.
fn slot_words(words: usize) -> usize {
    words.next_multiple_of(ALIGN_WORDS)
}

/// Something that needs a slot from its first to its last step.
#[derive(Clone, Copy)]
struct Want {
    words: usize,
    first: usize,
    last: usize,
    owner: Owner,
}

#[derive(Clone, Copy)]
enum Owner {
    Class(usize),
    Scratch { step: usize, area: usize },
}

impl Plan {
    /// `scratch[node]` lists the scratch areas of each node, in words. With `share` off every class has its own slot.
    pub fn new(graph: &Graph, scratch: &[Vec<usize>], share: bool) -> Plan {
        let mut planner = Planner::new(graph);
        planner.assign_homes();
        planner.join_in_place();
        planner.measure_lifetimes();
        planner.place(scratch, share)
    }

    /// Where a value lives. Only for values that a step touches.
    pub fn place(&self, value: ValueId) -> Place {
        self.places[value.0].expect("the plan places every value that a step uses")
    }

    /// The gradients and moments that it works on, with their words.
    pub fn buffers_of_training(&self, graph: &Graph) -> BTreeMap<Buffer, usize> {
        let of_training = |place: &Place| match place.buffer {
            Buffer::Flat { set, flat } if flat != Flat::Params => {
                Some((place.buffer, graph.layout.sets[set].flat_len()))
            }
            _ => None,
        };
        self.places.iter().flatten().filter_map(of_training).collect()
    }

    /// Words of all parameters, and of the gradients and moments that it works on.
    fn flat_words(&self, graph: &Graph) -> usize {
        let parameters: usize = graph.layout.sets.iter().map(|set| set.flat_len()).sum();
        parameters + self.buffers_of_training(graph).values().sum::<usize>()
    }

    /// Bytes of everything that a step of this plan needs: parameters, gradients, moments, inputs, slots.
    pub fn total_bytes(&self, graph: &Graph) -> u64 {
        self.activation_bytes() + 4 * (self.input_words + self.flat_words(graph)) as u64
    }

    /// Bytes of all slots together.
    pub fn activation_bytes(&self) -> u64 {
        4 * self.slot_words.iter().sum::<usize>() as u64
    }
}

struct Planner<'g> {
    graph: &'g Graph,
    class_of: Vec<usize>,
    classes: Vec<Class>,
    last_use: Vec<usize>,
    copies: HashMap<usize, Vec<(ValueId, ValueId)>>,
    input_words: usize,
}

impl<'g> Planner<'g> {
    fn new(graph: &'g Graph) -> Self {
        let mut last_use = vec![0; graph.values.len()];
        for (step, node) in graph.nodes.iter().enumerate() {
            node.inputs.iter().chain(&node.outputs).for_each(|v| last_use[v.0] = step);
        }
        let end = graph.nodes.len();
        graph.outputs.values().chain(graph.metrics.iter().map(|(_, v)| v)).for_each(|v| last_use[v.0] = end);
        let classes =
            graph.values.iter().map(|v| Class { len: v.ty.len(), first: usize::MAX, last: 0, home: None }).collect();
        let class_of = (0..graph.values.len()).collect();
        Planner { graph, class_of, classes, last_use, copies: HashMap::new(), input_words: 0 }
    }

    fn class(&self, value: ValueId) -> usize {
        let mut class = value.0;
        while self.class_of[class] != class {
            class = self.class_of[class];
        }
        class
    }

    fn assign_homes(&mut self) {
        for (i, value) in self.graph.values.iter().enumerate() {
            let len = value.ty.len();
            self.classes[i].home = match &value.source {
                Source::Input => {
                    let offset = self.input_words;
                    // Also what is empty has a place to be bound at.
                    self.input_words += len.max(1).next_multiple_of(ALIGN_WORDS);
                    Some(Place { buffer: Buffer::Inputs, offset, len })
                }
                Source::Parameter { set, range } => {
                    Some(Place { buffer: Buffer::Flat { set: *set, flat: Flat::Params }, offset: range.start, len })
                }
                Source::Flat { set, flat } => {
                    Some(Place { buffer: Buffer::Flat { set: *set, flat: *flat }, offset: 0, len })
                }
                Source::Node { .. } => self.graph.gradient_homes.get(&ValueId(i)).map(|(set, range)| Place {
                    buffer: Buffer::Flat { set: *set, flat: Flat::Grads },
                    offset: range.start,
                    len,
                }),
            };
        }
    }

    /// An output joins the class of the input it updates, when nothing reads that input afterwards; else it gets a copy.
    /// Later pairs are joined first, so that a chain of updates is drawn as a whole into the home at its end.
    fn join_in_place(&mut self) {
        for (step, node) in self.graph.nodes.iter().enumerate().rev() {
            for &(input, output) in node.op.in_place() {
                let (input, output) = (node.inputs[input], node.outputs[output]);
                let source = &self.graph.values[input.0].source;
                // What has a home of its own is read from there once the graph has run.
                let kept = self.graph.gradient_homes.contains_key(&input);
                let mutable = matches!(source, Source::Node { .. } | Source::Flat { .. }) && !kept;
                let (from, to) = (self.class(input), self.class(output));
                let homes_agree = self.classes[from].home.is_none() || self.classes[to].home.is_none();
                let sole_reader = node.inputs.iter().filter(|v| **v == input).count() == 1;
                if mutable && homes_agree && sole_reader && self.last_use[input.0] == step {
                    self.classes[to].home = self.classes[to].home.or(self.classes[from].home);
                    self.class_of[from] = to;
                } else {
                    self.copies.entry(step).or_default().push((input, output));
                }
            }
        }
    }

    fn measure_lifetimes(&mut self) {
        for (step, node) in self.graph.nodes.iter().enumerate() {
            for &value in node.inputs.iter().chain(&node.outputs) {
                let last_use = self.last_use[value.0];
                let class = self.class(value);
                let class = &mut self.classes[class];
                class.first = class.first.min(step);
                class.last = class.last.max(last_use);
            }
        }
    }

    fn place(self, scratch: &[Vec<usize>], share: bool) -> Plan {
        let homeless = (0..self.classes.len()).filter(|&c| {
            self.class_of[c] == c && self.classes[c].home.is_none() && self.classes[c].first != usize::MAX
        });
        let mut wanted: Vec<Want> = homeless
            .map(|c| {
                let Class { len, first, last, .. } = self.classes[c];
                Want { words: len.max(1), first, last, owner: Owner::Class(c) }
            })
            .collect();
        for (step, areas) in scratch.iter().enumerate() {
            let area = |(area, &words): (usize, &usize)| Want {
                words: words.max(1),
                first: step,
                last: step,
                owner: Owner::Scratch { step, area },
            };
            wanted.extend(areas.iter().enumerate().map(area));
        }
        wanted.sort_by_key(|want| (std::cmp::Reverse(want.words), want.first));
        let mut slots: Vec<(usize, Vec<(usize, usize)>)> = Vec::new();
        let mut class_places: HashMap<usize, Place> = HashMap::new();
        let mut scratch_places: Vec<Vec<Option<Place>>> = scratch.iter().map(|areas| vec![None; areas.len()]).collect();
        for &Want { words, first, last, owner } in &wanted {
            let free = slots.iter().position(|(_, busy)| share && busy.iter().all(|&(f, l)| last < f || l < first));
            let slot = free.unwrap_or_else(|| {
                slots.push((slot_words(words), Vec::new()));
                slots.len() - 1
            });
            slots[slot].1.push((first, last));
            let place = Place { buffer: Buffer::Slot(slot), offset: 0, len: words };
            match owner {
                Owner::Class(class) => drop(class_places.insert(class, place)),
                Owner::Scratch { step, area } => scratch_places[step][area] = Some(place),
            }
        }
        let places: Vec<Option<Place>> = (0..self.graph.values.len())
            .map(|v| {
                let class = self.class(ValueId(v));
                let place = self.classes[class].home.or_else(|| class_places.get(&class).copied());
                place.map(|place| Place { len: self.graph.values[v].ty.len(), ..place })
            })
            .collect();
        let steps = self.graph.nodes.iter().enumerate().map(|(index, node)| Step {
            node: index,
            cost: node_cost(self.graph, node),
            copies: (self.copies.get(&index).into_iter().flatten())
                .map(|(from, to)| (places[from.0].expect("placed"), places[to.0].expect("placed")))
                .collect(),
            scratch: scratch_places[index].iter().map(|place| place.expect("placed")).collect(),
        });
        Plan {
            steps: steps.collect(),
            places,
            slot_words: slots.iter().map(|(words, _)| *words).collect(),
            input_words: self.input_words,
            unshared_words: wanted.iter().map(|want| slot_words(want.words)).sum(),
        }
    }
}

/// What one execution of a node takes at least.
pub fn node_cost(graph: &Graph, node: &Node) -> Cost {
    let (inputs, outputs) = graph.node_types(node);
    node.op.cost(&inputs, &outputs)
}

/// The table of `gpurec run --plan`: step, op, grid, FLOPs, bytes, slots; and the totals.
pub fn table(graph: &Graph, plan: &Plan, grids: &[String]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(["step", "op", "grid", "MFLOP", "MB", "out"]);
    for step in &plan.steps {
        let node = &graph.nodes[step.node];
        let out: Vec<String> =
            node.outputs.iter().filter_map(|v| plan.places[v.0]).map(|p| describe(graph, &p)).collect();
        table.add_row([
            step.node.to_string(),
            node.label.clone(),
            grids.get(step.node).cloned().unwrap_or_default(),
            format!("{:.2}", step.cost.flops as f64 / 1e6),
            format!("{:.2}", step.cost.bytes as f64 / 1e6),
            out.join(" "),
        ]);
    }
    let flops: u64 = plan.steps.iter().map(|s| s.cost.flops).sum();
    let bytes: u64 = plan.steps.iter().map(|s| s.cost.bytes).sum();
    let flat = plan.flat_words(graph);
    let mb = |words: usize| 4.0 * words as f64 / 1e6;
    format!(
        "{table}\n\n{} steps, {:.2} GFLOP, {:.1} MB moved\nparameters, gradients, Adam moments: {:.2} MB\n\
         activations and scratch: {:.2} MB in {} slots ({:.2} MB without sharing)\ninputs: {:.2} MB\ntogether: {:.2} MB\n",
        plan.steps.len(),
        flops as f64 / 1e9,
        bytes as f64 / 1e6,
        mb(flat),
        plan.activation_bytes() as f64 / 1e6,
        plan.slot_words.len(),
        mb(plan.unshared_words),
        mb(plan.input_words),
        plan.total_bytes(graph) as f64 / 1e6,
    )
}

fn describe(graph: &Graph, place: &Place) -> String {
    match place.buffer {
        Buffer::Inputs => "inputs".into(),
        Buffer::Slot(slot) => format!("slot {slot}"),
        Buffer::Flat { set, flat } => format!("{}.{flat:?}", graph.layout.sets[set].name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::TensorType;
    use crate::ops::scale::Scale;

    /// Adam reads gradients where they are at home, after everything that the graph makes of them.
    #[test]
    fn nothing_is_drawn_over_a_gradient_at_home() {
        let mut graph = Graph::default();
        let x = graph.input("x", TensorType::f32(&[4]));
        let gradient = graph.add1(Scale { factor: 2.0 }, &[x]).unwrap();
        graph.gradient_homes.insert(gradient, (0, 0..4));
        let more = graph.add1(Scale { factor: 3.0 }, &[gradient]).unwrap();
        graph.output("more", more);
        let plan = Plan::new(&graph, &[vec![], vec![]], true);
        assert!(matches!(plan.place(gradient).buffer, Buffer::Flat { flat: Flat::Grads, .. }));
        assert!(matches!(plan.place(more).buffer, Buffer::Slot(_)));
    }
}
