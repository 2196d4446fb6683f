//! Memory: what a plan announces is what is allocated, and training allocates nothing that stays.

use crate::{gpu_trial, trial};
use gpurec::data;
use gpurec::engine::Graph;
use gpurec::engine::exec::reference::ReferenceExecutor;
use gpurec::engine::exec::{ExecOptions, Executor, Feed};
use gpurec::engine::params::ParamLayout;
use gpurec::engine::tensor::{Tensor, TensorType};
use gpurec::error::Result;
use gpurec::methods::{self, Batch, Method};
use gpurec::ops::scale::Scale;
use gpurec::train::Trainer;
use gpurec::verify::{Checked, Failure, Outcome, Target};
use libtest_mimic::Trial;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::Arc;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const WARM_UP: usize = 200;
const STEPS: usize = 2000;
/// Bytes by which the heap may have grown between two looks: queues and caches breathe.
const BREATH: isize = 256 * 1024;
/// Bytes that the resident set may have grown by over all steps: far less than one small buffer kept per step.
const RESIDENT_GROWTH: u64 = 16 << 20;
/// Bytes of bookkeeping that a replayed step may allocate and free again. (On the host, products pack their operands
/// into memory of their own.)
const PER_REPLAY: usize = 128 * 1024;

pub fn trials() -> Vec<Trial> {
    let cpu = || Target::Cpu { threads: 2 };
    vec![
        trial("memory::cpu::nothing_grows_in_2000_steps".into(), move || on(&mut cpu(), nothing_grows)),
        gpu_trial("memory::gpu::nothing_grows_in_2000_steps".into(), |target| on(target, nothing_grows)),
        trial("memory::cpu::the_plan_is_what_is_allocated".into(), move || on(&mut cpu(), plan_is_allocated)),
        gpu_trial("memory::gpu::the_plan_is_what_is_allocated".into(), |target| on(target, plan_is_allocated)),
        trial("memory::cpu::plans_share_what_the_largest_needs".into(), move || shared_memory(&mut cpu())),
        gpu_trial("memory::gpu::plans_share_what_the_largest_needs".into(), shared_memory),
        trial("memory::reference::values_of_the_last_plan_only".into(), || overwritten(&mut ReferenceExecutor::new())),
    ]
}

fn on(target: &mut Target, check: fn(&dyn Method, &mut Trainer, &mut dyn Executor) -> Result<Checked>) -> Checked {
    let data = Arc::new(data::resolve("kuairec", &data::ReadOptions::default())?.head(300));
    let info = methods::find("sasrec")?;
    let settings = ["loss=ce", "dim=8", "inner_dim=8", "max_len=10", "blocks=1", "batch_size=16"].map(String::from);
    let config = methods::config::resolve(info, None, None, &settings)?;
    let method = (info.build)(&config, methods::Sizes::of(&data))?;
    target.with(ExecOptions::default(), |executor| {
        let mut trainer = Trainer::new(method.as_ref(), data.clone(), 5, executor, None)?;
        check(method.as_ref(), &mut trainer, executor)
    })?
}

fn nothing_grows(_: &dyn Method, trainer: &mut Trainer, executor: &mut dyn Executor) -> Result<Checked> {
    let batches = (0..trainer.steps_per_epoch()).map(|i| trainer.batch(1, i)).collect::<Result<Vec<Batch>>>()?;
    let mut run = |steps: usize| -> Result<usize> {
        let mut most = 0;
        for (step, batch) in batches.iter().cycle().take(steps).enumerate() {
            let batch = batch.clone();
            let region = Region::new(HEAP);
            trainer.step(executor, batch)?;
            most = most.max(region.change().bytes_allocated);
            if step % 50 == 49 {
                executor.drain_metrics()?;
            }
        }
        executor.drain_metrics()?;
        Ok(most)
    };
    run(WARM_UP)?;
    let (heap, resident) = (Region::new(HEAP), resident_bytes());
    let per_step = run(STEPS)?;
    let change = heap.change();
    let grown = change.bytes_allocated as isize - change.bytes_deallocated as isize;
    let resident_grown = resident_bytes().saturating_sub(resident);
    if grown > BREATH || resident_grown > RESIDENT_GROWTH {
        let problem = format!("{STEPS} steps left {grown} bytes on the heap, {resident_grown} in the resident set");
        return Ok(Err(Failure(problem)));
    }
    if executor.describe().starts_with("gpu") && per_step > PER_REPLAY {
        return Ok(Err(Failure(format!("a step allocated {per_step} bytes"))));
    }
    Ok(Ok(Outcome { share: (grown.max(0) as f64 / BREATH as f64).max(resident_grown as f64 / RESIDENT_GROWTH as f64) }))
}

fn plan_is_allocated(_: &dyn Method, trainer: &mut Trainer, executor: &mut dyn Executor) -> Result<Checked> {
    let batch = trainer.batch(1, 0)?;
    let plan = trainer.plan(executor, batch.shape)?;
    let announced = executor.plan(plan).total_bytes(executor.graph(plan));
    let allocated = executor.allocated_bytes();
    if announced != allocated {
        return Ok(Err(Failure(format!("the plan announces {announced} bytes, {allocated} are allocated"))));
    }
    Ok(Ok(Outcome::default()))
}

/// `y = 3 (2 x)` of so many elements, and an `x`.
fn six_times(len: usize) -> Result<(Graph, Feed, Tensor)> {
    let ty = TensorType::f32(&[len]);
    let mut graph = Graph::new(ParamLayout::default());
    let x = graph.input("x", ty.clone());
    let twice = graph.add1(Scale { factor: 2.0 }, &[x])?;
    let y = graph.add1(Scale { factor: 3.0 }, &[twice])?;
    graph.output("y", y);
    let of = |factor: f32| Tensor::f32(&[len], (0..len).map(|i| factor * i as f32).collect());
    let mut feed = Feed::default();
    feed.set("x", of(1.0));
    Ok((graph, feed, of(6.0)))
}

/// A plan runs as before when a later, larger one has moved its memory; what another plan has overwritten is not handed out.
fn overwritten(executor: &mut dyn Executor) -> Checked {
    let ((graph, feed, expected), (larger, larger_feed, _)) = (six_times(100)?, six_times(5_000)?);
    let plan = executor.compile(graph)?;
    executor.run(plan, &feed)?;
    let before = executor.fetch(plan, "y")?;
    let second = executor.compile(larger)?;
    executor.run(second, &larger_feed)?;
    if let Ok(stale) = executor.fetch(plan, "y") {
        return Err(Failure(format!("y is handed out after another plan ran: {:?}", &stale.words[..4])));
    }
    executor.run(plan, &feed)?;
    let after = executor.fetch(plan, "y")?;
    match before.words == expected.words && after.words == expected.words {
        true => Ok(Outcome::default()),
        false => Err(Failure("y is not 6 x".into())),
    }
}

fn shared_memory(target: &mut Target) -> Checked {
    let alone = target.with(ExecOptions::default(), |executor| {
        executor.compile(six_times(5_000)?.0)?;
        Ok(executor.allocated_bytes())
    })?;
    target.with(ExecOptions::default(), |executor| {
        let checked = overwritten(executor);
        let together = executor.allocated_bytes();
        Ok(if together == alone {
            checked
        } else {
            Err(Failure(format!("two plans hold {together} bytes, the larger alone {alone}")))
        })
    })?
}

/// Resident memory of this process; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    4096 * pages
}
