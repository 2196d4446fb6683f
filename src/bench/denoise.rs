//! Inference of DiffRec: ranking for many users at a time against ranking for one after the other, by one jump and by all steps.

use super::measure::{Measured, Patience, sample};
use crate::data::{self, HeldOut};
use crate::engine::Executor;
use crate::error::{Error, Result};
use crate::methods::{Sizes, config, find};
use crate::train::ranker::{Ranker, Work};
use crate::train::trainer::layout_of;

/// Users who are ranked for in one measurement.
const USERS: usize = 256;

/// One way to infer.
#[derive(Clone, Debug)]
pub struct DenoiseWork {
    /// By name or path.
    pub dataset: String,
    /// `key=value`, as of `--set`.
    pub assignments: Vec<String>,
    /// All users together, or one call for each.
    pub batched: bool,
}

impl DenoiseWork {
    /// What `gpurec bench denoise` measures, in the paper's sizes: both masks, one sample and several, all steps, and one user after
    /// the other. What `assignments` say goes before that.
    pub fn all(dataset: &str, assignments: &[String]) -> Vec<DenoiseWork> {
        let work = |own: &[&str], batched: bool| DenoiseWork {
            dataset: dataset.into(),
            assignments: ["mode=paper"]
                .iter()
                .chain(own)
                .map(|text| text.to_string())
                .chain(assignments.iter().cloned())
                .collect(),
            batched,
        };
        let mut all = Vec::new();
        for mask in ["slot_mask=prefix", "slot_mask=bidirectional"] {
            all.extend(["samples=1", "samples=10", "samples=20"].map(|samples| work(&[mask, samples], true)));
            all.push(work(&[mask, "samples=1", "inference=chain", "steps=100"], true));
            all.extend(["samples=1", "samples=10"].map(|samples| work(&[mask, samples], false)));
        }
        all
    }

    /// The name of the shape, the measurement of ranking for all users, and their number.
    pub fn measure(&self, executor: &mut dyn Executor, patience: Patience) -> Result<(String, Measured, usize)> {
        let info = find("diffrec")?;
        let data = data::resolve(&self.dataset, &data::ReadOptions::default())?;
        let settings = config::resolve(info, data::paper_name(&data.name), None, &self.assignments)?;
        let method = (info.build)(&settings, Sizes::of(&data))?;
        let layout = layout_of(method.as_ref())?;
        executor.load(&layout, &method.initial_state(&layout, 1, &data))?;
        let held_out: Vec<HeldOut> = data.test().take(USERS).collect();
        if held_out.is_empty() {
            return Err(Error::usage(format!("{} holds nothing to rank", self.dataset), "use another data set"));
        }
        let mut ranker = Ranker::new(method.as_ref(), layout);
        let each = if self.batched { held_out.len() } else { 1 };
        let mut work = Work::default();
        let samples = sample(patience, |runs| {
            for _ in 0..runs {
                held_out.chunks(each).try_for_each(|events| ranker.rank(executor, events, None).map(drop))?;
                work = ranker.take_work();
            }
            Ok(())
        })?;
        let Work { flops, bytes, extra_bytes, dispatches } = work;
        let measured = Measured { samples, flops, bytes, extra_bytes, dispatches };
        let calls = if self.batched { "together" } else { "one by one" };
        let shape = format!("{} dataset={} users={}, {calls}", self.assignments.join(" "), data.name, held_out.len());
        Ok((shape, measured, held_out.len()))
    }
}
