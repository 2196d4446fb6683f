//! Softmax cross-entropy over large catalogues, forward + backward on the cpu executor: `cargo bench --bench cross_entropy`.
//!
//! Prints the median of the runs after a warm-up, GFLOP/s counting three products (6 N D V), and the memory that the
//! plan holds beyond the inputs, the table and its gradient.

use gpurec::engine::exec::cpu::CpuExecutor;
use gpurec::engine::exec::{ExecOptions, Executor, Feed};
use gpurec::engine::params::{Init, ParamLayout};
use gpurec::engine::{Graph, Tensor, TensorType};
use gpurec::ops::fill::Fill;
use gpurec::ops::linear_cross_entropy::LinearCrossEntropy;
use std::time::Instant;

/// Rows, width, items.
const SHAPES: [[usize; 3]; 3] = [[2048, 64, 12_101], [2048, 64, 70_852], [4096, 256, 12_101]];
const RUNS: usize = 9;

fn main() -> gpurec::Result<()> {
    for [rows, width, items] in SHAPES {
        let mut graph = Graph::new(ParamLayout::default());
        let hidden = graph.input("hidden", TensorType::f32(&[rows, width]));
        let target = graph.input("target", TensorType::u32(&[rows]));
        let table = graph.param("table", &[items, width], Init::Normal(0.1));
        let loss = graph.add1(LinearCrossEntropy::default(), &[hidden, table, target])?;
        let weight = graph.add1(Fill { value: 1.0 / rows as f32, shape: vec![rows] }, &[])?;
        let gradients = graph.vjp(&[(loss, weight)], &[hidden, table])?;
        graph.output("dhidden", gradients[&hidden]);
        graph.output("dtable", gradients[&table]);

        let mut executor = CpuExecutor::new(0, ExecOptions::default());
        let layout = graph.layout.clone();
        executor.load(&layout, &layout.initial_state(1))?;
        let plan = executor.compile(graph)?;
        let extra = executor.plan(plan).activation_bytes() as f64 / 1e6 - (4 * (items + rows) * width) as f64 / 1e6;
        let mut feed = Feed::default();
        let values = (0..rows * width).map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5).collect();
        feed.set("hidden", Tensor::f32(&[rows, width], values));
        let targets: Vec<u32> = (0..rows).map(|i| (i * 31 % items) as u32).collect();
        feed.set("target", Tensor::u32(&[rows], &targets));

        executor.run(plan, &feed)?;
        let mut seconds: Vec<f64> = Vec::new();
        for _ in 0..RUNS {
            let started = Instant::now();
            executor.run(plan, &feed)?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let median = seconds[RUNS / 2];
        let gflops = 6.0 * (rows * width * items) as f64 / median / 1e9;
        println!("{rows} x {width} x {items}: {:.1} ms, {gflops:.1} GFLOP/s, {extra:.1} MB extra", 1e3 * median);
    }
    Ok(())
}
