//! Times a graph on an executor. Runs may be asynchronous: fetching one number waits for everything before it.

use crate::engine::graph::{Flat, Graph, Source, ValueId};
use crate::engine::params::Init;
use crate::engine::plan::node_cost;
use crate::engine::{Executor, Feed};
use crate::error::Result;
use crate::ops::scale::Scale;
use std::time::{Duration, Instant};

const DONE: &str = "done";
const MIN_SAMPLES: usize = 5;
/// A run that takes so long is believed the first time.
const LONG: Duration = Duration::from_secs(5);

/// What is to be timed: a graph whose tensors are parameters, so that a run uploads next to nothing.
pub struct Work {
    /// What runs.
    pub graph: Graph,
    /// Its inputs.
    pub feed: Feed,
    /// What the kernel is asked for. Gradients of parameters go to their buffers; other outputs count as asked for.
    pub outputs: Vec<ValueId>,
}

impl Work {
    /// Asks for `outputs`.
    pub fn new(graph: Graph, feed: Feed, outputs: Vec<ValueId>) -> Work {
        Work { graph, feed, outputs }
    }

    /// Adds the gradients of the named parameters, with `cotangent` for the output.
    pub fn with_gradients(mut self, output: ValueId, cotangent: ValueId, wrt: &[ValueId]) -> Result<Work> {
        let gradients = self.graph.vjp(&[(output, cotangent)], wrt)?;
        for parameter in wrt {
            let Source::Parameter { set, range } = &self.graph.values[parameter.0].source else {
                continue;
            };
            self.graph.gradient_homes.insert(gradients[parameter], (*set, range.clone()));
        }
        Ok(self)
    }

    /// Makes the flat buffer of a parameter set available, as the optimizer sees it.
    pub fn flats(graph: &mut Graph) -> [ValueId; 4] {
        [Flat::Params, Flat::Grads, Flat::FirstMoment, Flat::SecondMoment].map(|flat| graph.flat(0, flat))
    }
}

/// What was found of one graph or step.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Seconds of one run, ascending.
    pub samples: Vec<f64>,
    /// Of one run.
    pub flops: u64,
    /// That one run must move at least.
    pub bytes: u64,
    /// Memory of the plan beyond parameters, gradients, inputs and what was asked for.
    pub extra_bytes: u64,
    /// Kernels of one run.
    pub dispatches: usize,
}

impl Measured {
    /// The sample below which the share `q` of all samples lies.
    pub fn quantile(&self, q: f64) -> f64 {
        self.samples[((self.samples.len() - 1) as f64 * q).round() as usize]
    }

    /// The median, in seconds.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// How long to look at one thing, and the shortest time between two looks at the clock: long where runs are only
/// queued, so that waiting for the last of them costs little beside them.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To look at one thing for.
    pub total: Duration,
    /// Between two looks at the clock.
    pub sample: Duration,
}

/// Times one graph on an executor, which is loaded with its parameters.
pub fn measure(executor: &mut dyn Executor, work: Work, patience: Patience) -> Result<Measured> {
    let Work { mut graph, feed, outputs } = work;
    let costs: Vec<_> = graph.nodes.iter().map(|node| node_cost(&graph, node)).collect();
    let (flops, bytes) = (costs.iter().map(|c| c.flops).sum(), costs.iter().map(|c| c.bytes).sum());
    for (i, output) in outputs.iter().enumerate() {
        graph.output(&format!("out{i}"), *output);
    }
    let asked_for: u64 = outputs.iter().map(|&v| 4 * graph.ty(v).len() as u64).sum();
    let tick = graph.param("tick", &[1], Init::Constant(1.0));
    let done = graph.add1(Scale { factor: 1.0 }, &[tick])?;
    graph.output(DONE, done);
    executor.load(&graph.layout, &graph.layout.initial_state(1))?;
    let plan = executor.compile(graph)?;
    let extra_bytes = executor.plan(plan).activation_bytes().saturating_sub(asked_for + 4);
    let dispatches = executor.dispatches(plan) - 1;
    let samples = sample(patience, |runs| {
        for _ in 0..runs {
            executor.run(plan, &feed)?;
        }
        executor.fetch(plan, DONE).map(drop)
    })?;
    Ok(Measured { samples, flops, bytes, extra_bytes, dispatches })
}

/// Seconds of one run, ascending: the first two calls warm up and decide how many runs make a sample.
pub fn sample(patience: Patience, mut run: impl FnMut(usize) -> Result<()>) -> Result<Vec<f64>> {
    let mut seconds = |runs: usize| -> Result<f64> {
        let started = Instant::now();
        run(runs)?;
        Ok(started.elapsed().as_secs_f64() / runs as f64)
    };
    seconds(1)?;
    let warm = seconds(1)?;
    let least = if warm >= LONG.as_secs_f64() { 1 } else { MIN_SAMPLES };
    let runs = (patience.sample.as_secs_f64() / warm).ceil().clamp(1.0, 1000.0) as usize;
    let started = Instant::now();
    let mut samples = Vec::new();
    while samples.len() < least || started.elapsed() < patience.total {
        samples.push(seconds(runs)?);
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples)
}
