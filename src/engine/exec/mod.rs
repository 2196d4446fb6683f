//! The three executors: `reference` (f64, the specification), `cpu` (f32, all cores), `gpu` (WGSL through wgpu).

pub mod cpu;
pub mod gpu;
mod memory;
pub mod reference;
pub mod simd;

use super::graph::{Flat, Graph, Source, ValueId};
use super::params::{Contents, ParamLayout, State};
use super::plan::Plan;
use super::tensor::Tensor;
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;

/// The inputs of one run, by name.
#[derive(Clone, Debug, Default)]
pub struct Feed {
    tensors: HashMap<String, Tensor>,
}

impl Feed {
    /// Gives an input its content.
    pub fn set(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(name.into(), tensor);
    }

    /// Adds the inputs of another feed, under names that begin so.
    pub fn extend(&mut self, prefix: &str, other: Feed) {
        self.tensors.extend(other.tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
    }

    /// The content of an input.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The tensor for an input of a graph, checked against its declared type.
    pub(crate) fn for_input<'a>(&'a self, graph: &Graph, id: ValueId) -> Result<&'a Tensor> {
        let value = &graph.values[id.0];
        debug_assert_eq!(value.source, Source::Input);
        match self.get(&value.name) {
            Some(tensor) if tensor.ty == value.ty => Ok(tensor),
            Some(tensor) => Err(Error::graph(
                "feed",
                format!("input `{}` is {}, the graph wants {}", value.name, tensor.ty, value.ty),
            )),
            None => Err(Error::graph("feed", format!("input `{}` is missing", value.name))),
        }
    }
}

/// A compiled graph on an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlanId(pub usize);

/// How to run; everything but `Default` is for the correctness suite.
#[derive(Clone, Copy, Debug)]
pub struct ExecOptions {
    /// Let values share memory when their lifetimes are apart.
    pub share_slots: bool,
    /// Fill slots with NaN bits before each run and put guard words behind every buffer.
    pub poison: bool,
}

/// Words behind every buffer when poisoned, and the bits they hold, which no kernel writes.
const GUARD_WORDS: usize = 64;
const GUARD: u32 = 0x7fc0_dead;
/// A NaN: what memory holds before a poisoned run.
const POISON: u32 = 0x7fc0_0bad;

impl Default for ExecOptions {
    fn default() -> Self {
        ExecOptions { share_slots: true, poison: false }
    }
}

/// Runs compiled graphs over one set of parameter buffers.
pub trait Executor: Send {
    /// What it runs on, for reports: `cpu (2 threads)`, `gpu: NAME (Vulkan)`.
    fn describe(&self) -> String;

    /// Sets the parameters and the moments, and the gradients to 0. Graphs compiled afterwards must share this layout; those
    /// that train make the memory for it.
    fn load(&mut self, layout: &ParamLayout, contents: &dyn Contents) -> Result<()> {
        self.set_layout(layout.clone());
        for set in 0..layout.sets.len() {
            let Some(params) = contents.flat(set, Flat::Params)? else { continue };
            self.write(set, Flat::Params, Some(&params))?;
            for flat in Flat::OF_TRAINING {
                self.write(set, flat, contents.flat(set, flat)?.as_deref())?;
            }
        }
        Ok(())
    }

    /// The layout of what was loaded.
    fn layout(&self) -> &ParamLayout;

    /// Takes the layout of what will be loaded.
    fn set_layout(&mut self, layout: ParamLayout);

    /// Forgets plans, parameters and memory: what comes next is another run.
    fn clear(&mut self);

    /// Writes a flat buffer of a set; nothing makes it 0, and no memory for it.
    fn write(&mut self, set: usize, flat: Flat, words: Option<&[f32]>) -> Result<()>;

    /// Reads back a flat buffer of a set.
    fn read(&mut self, set: usize, flat: Flat) -> Result<Cow<'_, [f32]>>;

    /// Reads back the parameters and the optimiser state.
    fn state(&mut self) -> Result<State> {
        let layout = self.layout().clone();
        State::read(&layout, |set, flat| self.read(set, flat).map(Cow::into_owned))
    }

    /// Plans a graph and makes its memory and kernels.
    fn compile(&mut self, graph: Graph) -> Result<PlanId>;

    /// Runs a plan once. It may only be queued; `fetch`, `state` and `drain_metrics` wait.
    fn run(&mut self, plan: PlanId, feed: &Feed) -> Result<()>;

    /// Runs the plan with a clock beside it: the seconds of each of its steps. Slower than `run`, same results.
    fn run_timed(&mut self, plan: PlanId, feed: &Feed) -> Result<Vec<f64>>;

    /// A named output of `plan`, which must be what ran last: plans share their memory.
    fn fetch(&mut self, plan: PlanId, output: &str) -> Result<Tensor>;

    /// The metrics of all runs since the last call, oldest first; one row per run that has metrics.
    fn drain_metrics(&mut self) -> Result<Vec<Vec<f32>>>;

    /// The graph behind a plan, as it was after sharing and fusing.
    fn graph(&self, plan: PlanId) -> &Graph;

    /// Steps and memory of a plan.
    fn plan(&self, plan: PlanId) -> &Plan;

    /// Bytes held for parameters, gradients, moments, inputs and slots, of all plans together.
    fn allocated_bytes(&self) -> u64;

    /// What one run hands to the device: kernels, or steps of the plan where there are no kernels.
    fn dispatches(&self, plan: PlanId) -> usize {
        self.plan(plan).steps.len()
    }

    /// The plan as a table for people.
    fn plan_table(&self, plan: PlanId) -> String;

    /// With `ExecOptions::poison`: whether every guard word is untouched.
    fn guards_intact(&mut self) -> Result<bool> {
        Ok(true)
    }
}

/// The value behind an output's name; `ran`: whether the graph is what ran last.
fn output_to_fetch(graph: &Graph, output: &str, ran: bool) -> Result<ValueId> {
    let value = graph.outputs.get(output).copied();
    let value = value.ok_or_else(|| Error::graph("fetch", format!("the graph has no output `{output}`")))?;
    match ran {
        true => Ok(value),
        false => Err(Error::graph("fetch", format!("`{output}` is gone: its plan is not what ran last"))),
    }
}

/// How exact products are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Every product in f32.
    #[default]
    F32,
    /// Forward products of layers and of logits take inputs rounded to f16, where matrix units multiply them, and sum in
    /// f32. Gradients, losses and everything else stay f32.
    Mixed,
}

/// Where to run, as `--device` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice<'a> {
    /// A discrete GPU, else an integrated one, else the cpu. Never a software adapter.
    Auto,
    /// The host's cores.
    Cpu,
    /// A real GPU, or an error.
    Gpu,
    /// The f64 specification: for comparisons, far too slow to train with.
    Reference,
    /// The adapter whose name contains this.
    Named(&'a str),
}

impl<'a> DeviceChoice<'a> {
    /// `auto`, `cpu`, `gpu`, `reference`, or a part of an adapter's name.
    pub fn parse(text: &'a str) -> Self {
        match text {
            "auto" => DeviceChoice::Auto,
            "cpu" => DeviceChoice::Cpu,
            "gpu" => DeviceChoice::Gpu,
            "reference" => DeviceChoice::Reference,
            name => DeviceChoice::Named(name),
        }
    }

    /// Opens the executor in full precision; `threads` = 0 uses every core.
    pub fn open(self, threads: usize) -> Result<Box<dyn Executor>> {
        self.open_with(threads, Precision::F32)
    }

    /// Opens the executor; `threads` = 0 uses every core.
    pub fn open_with(self, threads: usize, precision: Precision) -> Result<Box<dyn Executor>> {
        use gpu::device::{Wanted, adapters, choose};
        let options = ExecOptions::default();
        let on_gpu = |wanted: &Wanted| -> Result<Box<dyn Executor>> {
            Ok(Box::new(gpu::GpuExecutor::new(gpu::Device::open(wanted, precision)?, options)))
        };
        match self {
            DeviceChoice::Auto if choose(&adapters(), &Wanted::Hardware).is_some() => on_gpu(&Wanted::Hardware),
            DeviceChoice::Auto | DeviceChoice::Cpu | DeviceChoice::Reference if precision == Precision::Mixed => {
                Err(gpu::device::no_matrix_units("the cpu"))
            }
            DeviceChoice::Auto | DeviceChoice::Cpu => Ok(Box::new(cpu::CpuExecutor::new(threads, options))),
            DeviceChoice::Gpu => on_gpu(&Wanted::Hardware),
            DeviceChoice::Reference => Ok(Box::new(reference::ReferenceExecutor::new())),
            DeviceChoice::Named(name) => on_gpu(&Wanted::Named(name)),
        }
    }
}
