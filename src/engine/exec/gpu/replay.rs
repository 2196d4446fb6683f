//! Prebuilt lists of dispatches, replayed for every step: one upload, one compute pass, one submit, no readback.

use super::device::{Device, Pipeline};
use super::kernel::{Access, Dispatch, GpuBuilder, Operand};
use crate::engine::exec::{ExecOptions, Executor, Feed, GUARD, GUARD_WORDS, POISON, PlanId, output_to_fetch};
use crate::engine::fuse::fuse;
use crate::engine::graph::{Flat, Graph};
use crate::engine::params::ParamLayout;
use crate::engine::plan::{self, Buffer, Place, Plan};
use crate::engine::share::share;
use crate::engine::tensor::Tensor;
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

const UNIFORM_STRIDE: usize = 256;
const UNIFORM_WORDS: usize = 16;
/// Runs whose metrics wait on the device before they are read back.
const RING_ROWS: usize = 64;
/// Runs submitted but not yet finished.
const STEPS_IN_FLIGHT: usize = 3;

/// Buffers with their length in words, without the guard.
type Buffers = BTreeMap<Buffer, (wgpu::Buffer, usize)>;

enum Action {
    Copy { from: Place, to: Place },
    Dispatch { pipeline: Arc<Pipeline>, bind_group: wgpu::BindGroup, uniform_offset: u32, grid: [u32; 3] },
}

/// By node: its dispatches and the words of its scratch areas.
#[derive(Default)]
struct Recorded {
    dispatches: Vec<Vec<Dispatch>>,
    scratch: Vec<Vec<usize>>,
}

/// The actions of a plan, over the buffers that the executor holds now.
pub(super) struct Bound {
    actions: Vec<Action>,
    /// By step of the plan: how many actions there are up to its end.
    pub(super) action_ends: Vec<usize>,
    _uniforms: wgpu::Buffer,
}

pub(super) struct Compiled {
    graph: Graph,
    plan: Plan,
    /// By step of the plan.
    recorded: Vec<Vec<Dispatch>>,
    /// None once a later plan has made some buffer larger: bound again before the next run.
    bound: Option<Bound>,
    /// Label of the first kernel, to name the plan in errors.
    label: String,
}

/// Runs graphs as prebuilt dispatches on one device.
pub struct GpuExecutor {
    pub(super) device: Device,
    options: ExecOptions,
    layout: ParamLayout,
    /// All memory, by place in the plans. Slots and inputs are shared by all plans: only one runs at a time.
    pub(super) buffers: Buffers,
    /// Staging buffers, each as large as the largest upload of a plan.
    belt: Option<wgpu::util::StagingBelt>,
    belt_words: usize,
    plans: Vec<Compiled>,
    /// The plan whose values the slots hold.
    ran: Option<PlanId>,
    ring: Option<wgpu::Buffer>,
    ring_rows: Vec<usize>,
    ring_used: usize,
    metrics: Vec<Vec<f32>>,
    in_flight: std::collections::VecDeque<wgpu::SubmissionIndex>,
}

impl GpuExecutor {
    /// Nothing is compiled yet.
    pub fn new(device: Device, options: ExecOptions) -> Self {
        GpuExecutor {
            device,
            options,
            layout: ParamLayout::default(),
            buffers: BTreeMap::new(),
            belt: None,
            belt_words: 0,
            plans: Vec::new(),
            ran: None,
            ring: None,
            ring_rows: Vec::new(),
            ring_used: 0,
            metrics: Vec::new(),
            in_flight: Default::default(),
        }
    }

    /// Hands the device back, with its compiled kernels, for another executor.
    pub fn into_device(self) -> Device {
        self.device
    }

    /// The device that it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Waits until everything submitted has run.
    pub fn wait(&mut self) -> Result<()> {
        let polled = self.device.device.poll(wgpu::PollType::wait_indefinitely());
        self.in_flight.clear();
        self.device.check("the last step")?;
        polled.map(drop).map_err(|e| Error::DeviceLost { kernel: "the last step".into(), message: e.to_string() })
    }

    fn guard_words(&self) -> usize {
        if self.options.poison { GUARD_WORDS } else { 0 }
    }

    fn reserve(&mut self, buffer: Buffer, words: usize, label: &str) -> Result<()> {
        if self.buffers.get(&buffer).is_some_and(|(_, held)| *held >= words) {
            return Ok(());
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let words = words.next_multiple_of(64);
        let fresh = self.device.buffer(label, words + self.guard_words(), usage)?;
        if self.options.poison {
            let guard = vec![GUARD; GUARD_WORDS];
            self.device.queue.write_buffer(&fresh, 4 * words as u64, bytemuck::cast_slice(&guard));
        }
        if self.buffers.insert(buffer, (fresh, words)).is_some() {
            self.plans.iter_mut().for_each(|compiled| compiled.bound = None);
            self.ran = None;
        }
        Ok(())
    }

    pub(super) fn read_buffer(&mut self, buffer: &wgpu::Buffer, offset: usize, len: usize) -> Result<Vec<f32>> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.device.buffer("readback", len, usage)?;
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 4 * offset as u64, &staging, 0, Some(4 * len as u64));
        self.device.queue.submit([encoder.finish()]);
        let slice = staging.slice(..4 * len as u64);
        slice.map_async(wgpu::MapMode::Read, |_| {});
        self.wait()?;
        let lost = |e: wgpu::MapRangeError| Error::DeviceLost { kernel: "readback".into(), message: e.to_string() };
        let words = bytemuck::cast_slice(&slice.get_mapped_range().map_err(lost)?).to_vec();
        Ok(words)
    }

    /// Everything an op dispatches, with its scratch, before any memory is assigned.
    fn record(&self, graph: &Graph) -> Result<Recorded> {
        let mut recorded = Recorded::default();
        for node in &graph.nodes {
            let (inputs, outputs) = graph.node_types(node);
            let mut builder = GpuBuilder::new(&inputs, &outputs, self.device.limits);
            node.op.gpu(&mut builder);
            for dispatch in &builder.dispatches {
                for (region, _) in &dispatch.bindings {
                    if region.len > self.device.limits.binding_words {
                        return Err(Error::AdapterLimit {
                            op: node.label.clone(),
                            what: format!("a binding of kernel {}", dispatch.kernel.label()),
                            needed: 4 * region.len as u64,
                            limit: 4 * self.device.limits.binding_words as u64,
                        });
                    }
                }
            }
            recorded.dispatches.push(builder.dispatches);
            recorded.scratch.push(builder.scratch_words);
        }
        Ok(recorded)
    }

    fn bind(&mut self, id: PlanId) -> Result<Bound> {
        let Compiled { graph, plan, recorded, .. } = &self.plans[id.0];
        let count: usize = recorded.iter().map(Vec::len).sum();
        let mut uniform_bytes = vec![0u8; UNIFORM_STRIDE * count.max(1)];
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniforms = self.device.buffer("uniforms", uniform_bytes.len() / 4, usage)?;
        let (mut actions, mut action_ends) = (Vec::new(), Vec::new());
        let mut index = 0;
        for (step, dispatches) in plan.steps.iter().zip(recorded) {
            actions.extend(step.copies.iter().map(|&(from, to)| Action::Copy { from, to }));
            let node = &graph.nodes[step.node];
            let place_of = |operand| match operand {
                Operand::Input(i) => plan.place(node.inputs[i]),
                Operand::Output(i) => plan.place(node.outputs[i]),
                Operand::Scratch(i) => step.scratch[i],
            };
            for dispatch in dispatches {
                let read_only: Vec<bool> = dispatch.bindings.iter().map(|(_, a)| *a == Access::Read).collect();
                let pipeline = self.device.pipeline(&dispatch.kernel, &read_only)?;
                let bytes = &mut uniform_bytes[index * UNIFORM_STRIDE..];
                assert!(dispatch.params.len() <= UNIFORM_WORDS, "{} has too many params", dispatch.kernel.label());
                for (word, param) in dispatch.params.iter().enumerate() {
                    bytes[4 * word..4 * word + 4].copy_from_slice(&param.bits().to_le_bytes());
                }
                let mut entries = vec![wgpu::BindGroupEntry {
                    binding: 0,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &uniforms,
                        offset: 0,
                        size: std::num::NonZeroU64::new(4 * UNIFORM_WORDS as u64),
                    }),
                }];
                for ((region, _), binding) in dispatch.bindings.iter().zip(1..) {
                    let place = place_of(region.operand);
                    // Shaders may see vectors of four words; every place has room up to a multiple of 64.
                    let words = region.len.max(1).next_multiple_of(4);
                    let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &self.buffers[&place.buffer].0,
                        offset: 4 * (place.offset + region.offset) as u64,
                        size: std::num::NonZeroU64::new(4 * words as u64),
                    });
                    entries.push(wgpu::BindGroupEntry { binding, resource });
                }
                let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &pipeline.layout, entries: &entries };
                let bind_group = self.device.device.create_bind_group(&descriptor);
                let uniform_offset = (index * UNIFORM_STRIDE) as u32;
                actions.push(Action::Dispatch { pipeline, bind_group, uniform_offset, grid: dispatch.grid() });
                index += 1;
            }
            action_ends.push(actions.len());
        }
        self.device.queue.write_buffer(&uniforms, 0, &uniform_bytes);
        Ok(Bound { actions, action_ends, _uniforms: uniforms })
    }

    /// The actions of a plan that `before_run` has seen.
    pub(super) fn bound(&self, id: PlanId) -> &Bound {
        self.plans[id.0].bound.as_ref().expect("bound before each run")
    }

    fn before_run(&mut self, id: PlanId) -> Result<()> {
        if self.plans[id.0].bound.is_none() {
            self.plans[id.0].bound = Some(self.bind(id)?);
        }
        self.ran = Some(id);
        if self.options.poison {
            self.fill_slots(POISON);
        }
        let metrics = self.plans[id.0].graph.metrics.len();
        let full = self.ring_rows.len() >= RING_ROWS || self.ring_used + metrics > RING_ROWS * 16;
        if full { self.read_ring() } else { Ok(()) }
    }

    /// All inputs in one copy, through a staging buffer that comes back when the device has read it.
    fn upload(&mut self, id: PlanId, feed: &Feed, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let Compiled { graph, plan, .. } = &self.plans[id.0];
        let Some(size) = std::num::NonZeroU64::new(4 * plan.input_words as u64) else { return Ok(()) };
        let belt = self.belt.as_mut().expect("made with the first plan");
        let mut view = belt.write_buffer(encoder, &self.buffers[&Buffer::Inputs].0, 0, size);
        for (value, _) in graph.inputs() {
            let place = plan.place(value);
            let bytes = 4 * place.offset..4 * (place.offset + place.len);
            let words = &feed.for_input(graph, value)?.words;
            view.slice(bytes).copy_from_slice(bytemuck::cast_slice(words));
        }
        drop(view);
        belt.finish_and_recall_on_submit(encoder);
        Ok(())
    }

    fn fill_slots(&self, pattern: u32) {
        for (buffer, (held, words)) in &self.buffers {
            if matches!(buffer, Buffer::Slot(_)) {
                self.device.queue.write_buffer(held, 0, bytemuck::cast_slice(&vec![pattern; *words]));
            }
        }
    }

    /// Some of the plan's actions. Copies end a compute pass, so passes are as long as copies allow; a training step has
    /// one.
    pub(super) fn encode(&self, id: PlanId, actions: Range<usize>, encoder: &mut wgpu::CommandEncoder) {
        let (mut rest, buffers) = (&self.bound(id).actions[actions], &self.buffers);
        while let Some(action) = rest.first() {
            if let Action::Copy { from, to } = action {
                let (source, target) = (&buffers[&from.buffer].0, &buffers[&to.buffer].0);
                let (from_bytes, to_bytes) = (4 * from.offset as u64, 4 * to.offset as u64);
                encoder.copy_buffer_to_buffer(source, from_bytes, target, to_bytes, Some(4 * from.len as u64));
                rest = &rest[1..];
                continue;
            }
            let mut pass = encoder.begin_compute_pass(&Default::default());
            while let Some(Action::Dispatch { pipeline, bind_group, uniform_offset, grid }) = rest.first() {
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, bind_group, &[*uniform_offset]);
                pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
                rest = &rest[1..];
            }
        }
    }

    /// Copies the metrics of this run into the next row of the ring.
    fn record_metrics(&mut self, encoder: &mut wgpu::CommandEncoder, id: PlanId) -> Result<()> {
        let count = self.plans[id.0].graph.metrics.len();
        if count == 0 {
            return Ok(());
        }
        if self.ring.is_none() {
            let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            self.ring = Some(self.device.buffer("metrics", RING_ROWS * 16, usage)?);
        }
        let ring = self.ring.as_ref().expect("just made");
        let Compiled { graph, plan, .. } = &self.plans[id.0];
        for (_, value) in &graph.metrics {
            let place = plan.place(*value);
            let source = &self.buffers[&place.buffer].0;
            encoder.copy_buffer_to_buffer(source, 4 * place.offset as u64, ring, 4 * self.ring_used as u64, Some(4));
            self.ring_used += 1;
        }
        self.ring_rows.push(count);
        Ok(())
    }

    fn read_ring(&mut self) -> Result<()> {
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        let words = self.read_buffer(&ring, 0, self.ring_used)?;
        let mut rest = words.as_slice();
        for count in self.ring_rows.drain(..) {
            let (row, tail) = rest.split_at(count);
            self.metrics.push(row.to_vec());
            rest = tail;
        }
        self.ring_used = 0;
        Ok(())
    }
}

impl Executor for GpuExecutor {
    fn describe(&self) -> String {
        self.device.describe()
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
        self.ring_rows.clear();
        self.ring_used = 0;
    }

    fn write(&mut self, set: usize, flat: Flat, words: Option<&[f32]>) -> Result<()> {
        let buffer = Buffer::Flat { set, flat };
        let words: Cow<[f32]> = match words {
            Some(words) => words.into(),
            None if !self.buffers.contains_key(&buffer) => return Ok(()),
            None => vec![0.0; self.layout.sets[set].flat_len()].into(),
        };
        self.reserve(buffer, words.len().max(1), "parameters")?;
        self.device.queue.write_buffer(&self.buffers[&buffer].0, 0, bytemuck::cast_slice(&words));
        Ok(())
    }

    fn read(&mut self, set: usize, flat: Flat) -> Result<Cow<'_, [f32]>> {
        let words = self.layout.sets[set].flat_len();
        match self.buffers.get(&Buffer::Flat { set, flat }) {
            Some((buffer, _)) => self.read_buffer(&buffer.clone(), 0, words).map(Cow::Owned),
            None => Ok(vec![0.0; words].into()),
        }
    }

    fn compile(&mut self, mut graph: Graph) -> Result<PlanId> {
        share(&mut graph);
        fuse(&mut graph)?;
        let Recorded { dispatches: recorded, scratch } = self.record(&graph)?;
        let plan = Plan::new(&graph, &scratch, self.options.share_slots);
        self.reserve(Buffer::Inputs, plan.input_words.max(1), "inputs")?;
        for (buffer, words) in plan.buffers_of_training(&graph) {
            self.reserve(buffer, words, "gradients and moments")?;
        }
        if self.belt.is_none() || self.belt_words < plan.input_words {
            self.belt_words = plan.input_words.max(1);
            self.belt = Some(wgpu::util::StagingBelt::new(self.device.device.clone(), 4 * self.belt_words as u64));
        }
        for (slot, &words) in plan.slot_words.iter().enumerate() {
            self.reserve(Buffer::Slot(slot), words, &format!("slot {slot}"))?;
        }
        let label = graph.nodes.first().map_or("empty plan".into(), |node| format!("the plan of {}", node.label));
        let id = PlanId(self.plans.len());
        self.plans.push(Compiled { graph, plan, recorded, bound: None, label });
        let scope = self.device.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let bound = self.bind(id);
        let refused = pollster::block_on(scope.pop())
            .map(|error| Error::ShaderCompile { kernel: self.plans[id.0].label.clone(), message: error.to_string() });
        match refused.map_or(bound, Err) {
            Ok(bound) => self.plans[id.0].bound = Some(bound),
            Err(error) => {
                self.plans.pop();
                return Err(error);
            }
        }
        Ok(id)
    }

    fn run(&mut self, id: PlanId, feed: &Feed) -> Result<()> {
        self.before_run(id)?;
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        self.upload(id, feed, &mut encoder)?;
        self.encode(id, 0..self.bound(id).actions.len(), &mut encoder);
        self.record_metrics(&mut encoder, id)?;
        let submission = self.device.queue.submit([encoder.finish()]);
        self.in_flight.push_back(submission);
        let lost =
            |e: wgpu::PollError| Error::DeviceLost { kernel: self.plans[id.0].label.clone(), message: e.to_string() };
        if self.in_flight.len() > STEPS_IN_FLIGHT {
            let oldest = self.in_flight.pop_front();
            self.device.device.poll(wgpu::PollType::Wait { submission_index: oldest, timeout: None }).map_err(lost)?;
        } else {
            self.device.device.poll(wgpu::PollType::Poll).map_err(lost)?;
        }
        self.device.check(&self.plans[id.0].label)
    }

    fn run_timed(&mut self, id: PlanId, feed: &Feed) -> Result<Vec<f64>> {
        self.before_run(id)?;
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        self.upload(id, feed, &mut encoder)?;
        let seconds = match self.device.timestamps {
            true => self.timed_by_device(id, &mut encoder)?,
            false => self.timed_by_waiting(id, &mut encoder)?,
        };
        self.record_metrics(&mut encoder, id)?;
        self.device.queue.submit([encoder.finish()]);
        self.wait()?;
        Ok(seconds)
    }

    fn fetch(&mut self, id: PlanId, output: &str) -> Result<Tensor> {
        let Compiled { graph, plan, .. } = &self.plans[id.0];
        let value = output_to_fetch(graph, output, self.ran == Some(id))?;
        let (ty, place) = (graph.ty(value).clone(), plan.place(value));
        let buffer = self.buffers[&place.buffer].0.clone();
        Ok(Tensor { ty, words: self.read_buffer(&buffer, place.offset, place.len)? })
    }

    fn drain_metrics(&mut self) -> Result<Vec<Vec<f32>>> {
        self.read_ring()?;
        Ok(std::mem::take(&mut self.metrics))
    }

    fn graph(&self, plan: PlanId) -> &Graph {
        &self.plans[plan.0].graph
    }

    fn plan(&self, plan: PlanId) -> &Plan {
        &self.plans[plan.0].plan
    }

    fn dispatches(&self, plan: PlanId) -> usize {
        self.plans[plan.0].recorded.iter().map(Vec::len).sum()
    }

    fn allocated_bytes(&self) -> u64 {
        self.buffers.values().map(|(buffer, _)| buffer.size()).sum()
    }

    fn plan_table(&self, plan: PlanId) -> String {
        let shown = |[x, y, _]: [u32; 3]| if y > 1 { format!("{x}x{y}") } else { x.to_string() };
        let grids = self.plans[plan.0].recorded.iter();
        let grids = grids.map(|dispatches| dispatches.iter().map(|d| shown(d.grid())).collect::<Vec<_>>().join("+"));
        plan::table(self.graph(plan), self.plan(plan), &grids.collect::<Vec<_>>())
    }

    fn guards_intact(&mut self) -> Result<bool> {
        if !self.options.poison {
            return Ok(true);
        }
        for (buffer, words) in self.buffers.clone().values() {
            let guard = self.read_buffer(buffer, *words, GUARD_WORDS)?;
            if guard.iter().any(|w| w.to_bits() != GUARD) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
