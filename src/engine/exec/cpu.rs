//! The f32 executor for the host's cores. Steps run one after the other; each op spreads its own work over the
//! thread pool in pieces that do not depend on the number of threads.

use super::memory::Words;
use super::{ExecOptions, Executor, Feed, GUARD, GUARD_WORDS, POISON, PlanId, output_to_fetch};
use crate::engine::fuse::fuse;
use crate::engine::graph::{Flat, Graph};
use crate::engine::op::Op;
use crate::engine::params::ParamLayout;
use crate::engine::plan::{self, Buffer, Place, Plan};
use crate::engine::share::share;
use crate::engine::tensor::{Array, Tensor, TensorType};
use crate::error::Result;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

/// A tensor that a CPU kernel reads.
#[derive(Clone, Copy)]
pub struct In<'a> {
    /// Shape and element type.
    pub ty: &'a TensorType,
    words: &'a [f32],
}

impl<'a> In<'a> {
    /// The content as floats.
    pub fn f(&self) -> &'a [f32] {
        self.words
    }

    /// The content as integers.
    pub fn u(&self) -> &'a [u32] {
        bytemuck::cast_slice(self.words)
    }

    /// Rows when everything but the last axis is flattened.
    pub fn rows(&self) -> usize {
        self.ty.rows()
    }

    /// Length of the last axis.
    pub fn width(&self) -> usize {
        self.ty.width()
    }
}

/// A tensor that a CPU kernel writes.
pub struct Out<'a> {
    /// Shape and element type.
    pub ty: &'a TensorType,
    words: &'a mut [f32],
}

impl Out<'_> {
    /// The content as floats.
    pub fn f(&mut self) -> &mut [f32] {
        self.words
    }

    /// The content as integers.
    pub fn u(&mut self) -> &mut [u32] {
        bytemuck::cast_slice_mut(self.words)
    }
}

/// What a CPU kernel works on. Inputs that are updated in place read as empty: their content is in the output.
pub struct CpuIo<'a> {
    /// In the op's order.
    pub inputs: Vec<In<'a>>,
    /// In the op's order; what they hold on entry is anything, but for those updated in place.
    pub outputs: Vec<Out<'a>>,
    /// As many words as `Op::cpu_scratch` asked for, holding anything.
    pub scratch: &'a mut [f32],
    in_place: &'static [(usize, usize)],
}

impl CpuIo<'_> {
    /// The fallback of ops without a CPU kernel: widen, run the reference, narrow.
    pub fn run_reference(&mut self, reference: impl FnOnce(&[&Array], &mut [Array])) {
        let mut inputs: Vec<Array> = Vec::new();
        for (i, input) in self.inputs.iter().enumerate() {
            inputs.push(match self.in_place.iter().find(|pair| pair.0 == i) {
                Some(&(_, output)) => Array::from_words(input.ty, self.outputs[output].words),
                None => Array::from_words(input.ty, input.words),
            });
        }
        let mut outputs: Vec<Array> = self.outputs.iter().map(|out| Array::zeros(out.ty)).collect();
        for &(input, output) in self.in_place {
            outputs[output] = inputs[input].clone().with_type(self.outputs[output].ty);
        }
        reference(&inputs.iter().collect::<Vec<_>>(), &mut outputs);
        for (out, array) in self.outputs.iter_mut().zip(&outputs) {
            out.words.copy_from_slice(&array.to_words());
        }
    }
}

struct Compiled {
    graph: Graph,
    plan: Plan,
}

/// Runs graphs in f32 on the host's cores.
pub struct CpuExecutor {
    options: ExecOptions,
    pool: rayon::ThreadPool,
    layout: ParamLayout,
    /// All memory, by place in the plans. Slots and inputs are shared by all plans: only one runs at a time.
    buffers: BTreeMap<Buffer, Words>,
    plans: Vec<Compiled>,
    /// The plan whose values the slots hold.
    ran: Option<PlanId>,
    metrics: Vec<Vec<f32>>,
}

impl CpuExecutor {
    /// `threads` = 0 uses every core.
    pub fn new(threads: usize, options: ExecOptions) -> Self {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("the thread pool starts");
        CpuExecutor {
            options,
            pool,
            layout: ParamLayout::default(),
            buffers: BTreeMap::new(),
            plans: Vec::new(),
            ran: None,
            metrics: Vec::new(),
        }
    }

    fn reserve(&mut self, buffer: Buffer, words: usize) {
        let guard = if self.options.poison { GUARD_WORDS } else { 0 };
        let held = self.buffers.entry(buffer).or_default();
        if held.len() < words + guard {
            *held = Words::zeroed(words + guard);
            self.ran = None;
        }
        if self.options.poison {
            let len = held.len();
            held[len - guard..].fill(f32::from_bits(GUARD));
        }
    }

    /// A flat buffer, which is made if there is none.
    fn flat(&mut self, set: usize, flat: Flat, words: usize) -> &mut [f32] {
        let buffer = Buffer::Flat { set, flat };
        self.reserve(buffer, words);
        &mut self.buffers.get_mut(&buffer).expect("reserved")[..words]
    }

    fn poison_slots(&mut self) {
        for (buffer, words) in &mut self.buffers {
            if matches!(buffer, Buffer::Slot(_)) {
                let len = words.len() - GUARD_WORDS;
                words[..len].fill(f32::from_bits(POISON));
            }
        }
    }

    /// Calls `done` after each step of the plan.
    fn run_steps(&mut self, id: PlanId, feed: &Feed, mut done: impl FnMut(usize) + Send) -> Result<()> {
        if self.options.poison {
            self.poison_slots();
        }
        self.ran = Some(id);
        let Compiled { graph, plan } = &self.plans[id.0];
        let inputs = self.buffers.get_mut(&Buffer::Inputs).expect("reserved at compile time");
        for (value, _) in graph.inputs() {
            let place = plan.place(value);
            inputs[place.offset..place.offset + place.len].copy_from_slice(&feed.for_input(graph, value)?.words);
        }
        let buffers = &mut self.buffers;
        self.pool.install(|| {
            for (index, step) in plan.steps.iter().enumerate() {
                run_step(graph, plan, step, buffers);
                done(index);
            }
        });
        if !graph.metrics.is_empty() {
            let row = graph.metrics.iter().map(|(_, value)| self.words(plan.place(*value))[0]).collect();
            self.metrics.push(row);
        }
        Ok(())
    }

    fn words(&self, place: Place) -> &[f32] {
        &self.buffers[&place.buffer][place.offset..place.offset + place.len]
    }
}

impl Executor for CpuExecutor {
    fn describe(&self) -> String {
        format!("cpu ({} threads)", self.pool.current_num_threads())
    }

    fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    fn set_layout(&mut self, layout: ParamLayout) {
        self.layout = layout;
    }

    fn clear(&mut self) {
        self.plans.clear();
        self.ran = None;
        self.buffers.clear();
        self.metrics.clear();
    }

    fn write(&mut self, set: usize, flat: Flat, words: Option<&[f32]>) -> Result<()> {
        let len = self.layout.sets[set].flat_len();
        match words {
            Some(words) => self.flat(set, flat, len).copy_from_slice(words),
            None if !self.buffers.contains_key(&Buffer::Flat { set, flat }) => {}
            None => self.flat(set, flat, len).fill(0.0),
        }
        Ok(())
    }

    fn read(&mut self, set: usize, flat: Flat) -> Result<Cow<'_, [f32]>> {
        let words = self.layout.sets[set].flat_len();
        Ok(self
            .buffers
            .get(&Buffer::Flat { set, flat })
            .map_or_else(|| vec![0.0; words].into(), |own| own[..words].into()))
    }

    fn compile(&mut self, mut graph: Graph) -> Result<PlanId> {
        share(&mut graph);
        fuse(&mut graph)?;
        let scratch: Vec<Vec<usize>> = (graph.nodes.iter())
            .map(|node| {
                let (inputs, outputs) = graph.node_types(node);
                Some(node.op.cpu_scratch(&inputs, &outputs)).filter(|&words| words > 0).into_iter().collect()
            })
            .collect();
        let plan = Plan::new(&graph, &scratch, self.options.share_slots);
        self.reserve(Buffer::Inputs, plan.input_words);
        plan.buffers_of_training(&graph).into_iter().for_each(|(buffer, words)| self.reserve(buffer, words));
        for (slot, &words) in plan.slot_words.iter().enumerate() {
            self.reserve(Buffer::Slot(slot), words);
        }
        self.plans.push(Compiled { graph, plan });
        Ok(PlanId(self.plans.len() - 1))
    }

    fn run(&mut self, id: PlanId, feed: &Feed) -> Result<()> {
        self.run_steps(id, feed, |_| {})
    }

    fn run_timed(&mut self, id: PlanId, feed: &Feed) -> Result<Vec<f64>> {
        let mut ends = vec![Instant::now()];
        self.run_steps(id, feed, |_| ends.push(Instant::now()))?;
        Ok(ends.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect())
    }

    fn fetch(&mut self, id: PlanId, output: &str) -> Result<Tensor> {
        let Compiled { graph, plan } = &self.plans[id.0];
        let value = output_to_fetch(graph, output, self.ran == Some(id))?;
        Ok(Tensor { ty: graph.ty(value).clone(), words: self.words(plan.place(value)).to_vec() })
    }

    fn drain_metrics(&mut self) -> Result<Vec<Vec<f32>>> {
        Ok(std::mem::take(&mut self.metrics))
    }

    fn graph(&self, plan: PlanId) -> &Graph {
        &self.plans[plan.0].graph
    }

    fn plan(&self, plan: PlanId) -> &Plan {
        &self.plans[plan.0].plan
    }

    fn allocated_bytes(&self) -> u64 {
        self.buffers.values().map(|words| 4 * words.len() as u64).sum()
    }

    fn plan_table(&self, plan: PlanId) -> String {
        plan::table(self.graph(plan), self.plan(plan), &[])
    }

    fn guards_intact(&mut self) -> Result<bool> {
        let intact = |words: &Words| words[words.len() - GUARD_WORDS..].iter().all(|w| w.to_bits() == GUARD);
        Ok(!self.options.poison || self.buffers.values().all(intact))
    }
}

/// Lends a node its inputs and outputs. Buffers that are written are taken out of the map for the length of the call
/// and cut at the outputs' borders, so that the borrow checker sees what the plan promises: nothing overlaps.
fn run_step(graph: &Graph, plan: &Plan, step: &plan::Step, buffers: &mut BTreeMap<Buffer, Words>) {
    for (from, to) in &step.copies {
        let source = from.offset..from.offset + from.len;
        let mut target = std::mem::take(buffers.get_mut(&to.buffer).expect("reserved"));
        match from.buffer == to.buffer {
            true => target.copy_within(source, to.offset),
            false => target[to.offset..to.offset + to.len].copy_from_slice(&buffers[&from.buffer][source]),
        }
        buffers.insert(to.buffer, target);
    }
    let node = &graph.nodes[step.node];
    let op: &dyn Op = node.op.as_ref();
    let mut writes: Vec<(Place, usize)> =
        node.outputs.iter().map(|&v| plan.place(v)).chain(step.scratch.iter().copied()).zip(0..).collect();
    writes.sort_by_key(|(place, _)| (place.buffer, place.offset));
    let mut taken: Vec<(Buffer, Words)> = Vec::new();
    for (place, _) in &writes {
        if taken.last().is_none_or(|(buffer, _)| *buffer != place.buffer) {
            taken.push((place.buffer, std::mem::take(buffers.get_mut(&place.buffer).expect("reserved"))));
        }
    }
    {
        let mut lent: Vec<Option<&mut [f32]>> = (0..writes.len()).map(|_| None).collect();
        let mut rest_of: Vec<(Buffer, usize, &mut [f32])> =
            taken.iter_mut().map(|(buffer, words)| (*buffer, 0, &mut words[..])).collect();
        for (place, index) in &writes {
            let (_, start, rest) = rest_of.iter_mut().find(|(buffer, ..)| *buffer == place.buffer).expect("taken");
            let (_, tail) = std::mem::take(rest).split_at_mut(place.offset - *start);
            let (piece, tail) = tail.split_at_mut(place.len);
            (*start, *rest) = (place.offset + place.len, tail);
            lent[*index] = Some(piece);
        }
        let scratch = if step.scratch.is_empty() { None } else { lent.pop().flatten() };
        let in_place = op.in_place();
        let updated = |i: usize| in_place.iter().any(|pair| pair.0 == i);
        let inputs = node.inputs.iter().enumerate().map(|(i, &v)| {
            let place = plan.place(v);
            let words =
                if updated(i) { &[][..] } else { &buffers[&place.buffer][place.offset..place.offset + place.len] };
            In { ty: graph.ty(v), words }
        });
        let outputs =
            node.outputs.iter().zip(lent).map(|(&v, piece)| Out { ty: graph.ty(v), words: piece.expect("lent") });
        op.cpu(&mut CpuIo {
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            scratch: scratch.unwrap_or(&mut []),
            in_place,
        });
    }
    for (buffer, words) in taken {
        buffers.insert(buffer, words);
    }
}
