//! Times a graph on an executor. Runs may be asynchronous: fetching one number waits for everything before it.

use crate::engine::exec::PlanId;
use crate::engine::params::Init;
use crate::engine::plan::node_cost;
use crate::engine::{Executor, Feed, Graph};
use crate::error::Result;
use crate::ops::scale::Scale;
use serde::Serialize;
use std::time::{Duration, Instant};

const DONE: &str = "done";
/// Shortest time between two looks at the clock.
const SAMPLE: Duration = Duration::from_millis(30);
const MIN_SAMPLES: usize = 3;

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measured {
    pub median_ms: f64,
    pub gflops_per_second: f64,
    pub gb_per_second: f64,
}

/// Measures a graph that holds `copies` of what is to be measured. Its tensors are parameters, so that a run uploads
/// next to nothing.
pub fn measure(
    executor: &mut dyn Executor,
    mut graph: Graph,
    feed: &Feed,
    copies: usize,
    time: Duration,
) -> Result<Measured> {
    let costs: Vec<_> = graph.nodes.iter().map(|node| node_cost(&graph, node)).collect();
    let (flops, bytes) = (costs.iter().map(|c| c.flops).sum::<u64>(), costs.iter().map(|c| c.bytes).sum::<u64>());
    let tick = graph.param("tick", &[1], Init::Constant(1.0));
    let done = graph.add1(Scale { factor: 1.0 }, &[tick])?;
    graph.output(DONE, done);
    executor.load(&graph.layout, &graph.layout.initial_state(1))?;
    let plan = executor.compile(graph)?;
    let seconds = median_seconds(executor, plan, feed, time)?;
    Ok(Measured {
        median_ms: 1e3 * seconds / copies as f64,
        gflops_per_second: 1e-9 * flops as f64 / seconds,
        gb_per_second: 1e-9 * bytes as f64 / seconds,
    })
}

/// The median time of a run, over samples of several runs each.
fn median_seconds(executor: &mut dyn Executor, plan: PlanId, feed: &Feed, time: Duration) -> Result<f64> {
    let mut sample = |runs: usize| -> Result<f64> {
        let started = Instant::now();
        for _ in 0..runs {
            executor.run(plan, feed)?;
        }
        executor.fetch(plan, DONE)?;
        Ok(started.elapsed().as_secs_f64() / runs as f64)
    };
    sample(1)?;
    let warm = sample(1)?;
    let runs = (SAMPLE.as_secs_f64() / warm).ceil().clamp(1.0, 1000.0) as usize;
    let started = Instant::now();
    let mut samples = Vec::new();
    while samples.len() < MIN_SAMPLES || started.elapsed() < time {
        samples.push(sample(runs)?);
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[samples.len() / 2])
}
