//! Whole training steps of a method on a data set: batch after batch, each prepared before the clock starts.

use super::measure::{Measured, Patience, sample};
use crate::data;
use crate::engine::Executor;
use crate::error::{Error, Result};
use crate::methods::{Sizes, config, find};
use crate::train::Trainer;
use std::sync::Arc;

/// Batches that take turns.
const BATCHES: usize = 12;

/// Which training steps to measure.
#[derive(Clone, Debug)]
pub struct StepWork {
    /// By name.
    pub method: String,
    /// By name or path.
    pub dataset: String,
    /// `key=value`, as of `--set`.
    pub assignments: Vec<String>,
}

impl StepWork {
    /// Adds the batch size to the name: `method=sasrec dataset=amazon_beauty batch=256`; and measures.
    pub fn measure(&self, executor: &mut dyn Executor, patience: Patience) -> Result<(String, Measured)> {
        let info = find(&self.method)?;
        let data = Arc::new(data::resolve(&self.dataset, &data::ReadOptions::default())?);
        let settings = config::resolve(info, data::paper_name(&data.name), None, &self.assignments)?;
        let method = (info.build)(&settings, Sizes::of(&data))?;
        if method.training().epochs == 0 {
            let problem = format!("{} trains nothing here, so there is no step to measure", self.method);
            return Err(Error::usage(problem, "measure a method that trains, such as sasrec"));
        }
        if method.list_model().is_some() {
            data.lists()?;
        }
        let mut shape = format!("method={} dataset={} batch={}", self.method, data.name, method.training().batch_size);
        self.assignments.iter().for_each(|assignment| shape += &format!(" {assignment}"));
        let mut trainer = Trainer::new(method.as_ref(), data, 1, executor, None)?;
        let count = BATCHES.min(trainer.steps_per_epoch());
        if count == 0 {
            return Err(Error::usage(
                format!("no user of {} has enough items to train on", self.dataset),
                "use another",
            ));
        }
        let batches = (0..count).map(|index| trainer.batch(1, index)).collect::<Result<Vec<_>>>()?;
        // Every plan is compiled, and every buffer as large as it gets, before anything is timed.
        let mut plans = Vec::new();
        for batch in &batches {
            trainer.step(executor, batch.clone())?;
            plans.push(trainer.plan(executor, batch.shape)?);
        }
        executor.drain_metrics()?;
        let mut turn = 0;
        let samples = sample(patience, |runs| {
            for _ in 0..runs {
                trainer.step(executor, batches[turn % count].clone())?;
                turn += 1;
            }
            executor.drain_metrics().map(drop)
        })?;
        let mean = |sum: u64| sum / plans.len() as u64;
        let steps = || plans.iter().flat_map(|&plan| &executor.plan(plan).steps);
        let largest = plans.iter().map(|&plan| executor.plan(plan).activation_bytes()).max().unwrap_or(0);
        let measured = Measured {
            samples,
            flops: mean(steps().map(|step| step.cost.flops).sum()),
            bytes: mean(steps().map(|step| step.cost.bytes).sum()),
            extra_bytes: largest,
            dispatches: plans.iter().map(|&plan| executor.dispatches(plan)).max().unwrap_or(0),
        };
        Ok((shape, measured))
    }
}
