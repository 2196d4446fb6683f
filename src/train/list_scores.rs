//! Scores of impressions, list by list, and the metrics that they give.
//!
//! `scores.safetensors` in the folder of a run holds, for `valid` and `test`, the `scores` and the `clicks` of each impression
//! (f32, `[lists, length]`) and the `users` of the lists.

use super::identity::DataIdentity;
use super::plans::Plans;
use crate::data::lists::{Lists, Part};
use crate::engine::params::ParamLayout;
use crate::engine::{Executor, Graph};
use crate::error::Result;
use crate::eval::{Metrics, Protocol, SplitMetrics};
use crate::files::write_atomically;
use crate::methods::{ListModel, Shape};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Lists that are scored together. Results do not depend on it.
const LISTS_PER_RUN: usize = 256;

/// Compiled scoring graphs on one executor.
pub struct ListScorer<'m> {
    model: &'m dyn ListModel,
    layout: ParamLayout,
    plans: Plans<Shape>,
}

impl<'m> ListScorer<'m> {
    /// Nothing is compiled yet; the parameters must be in the executor when it scores.
    pub fn new(model: &'m dyn ListModel, layout: ParamLayout) -> Self {
        ListScorer { model, layout, plans: Plans::default() }
    }

    /// The scores of a part's impressions, list after list.
    pub fn scores(&mut self, executor: &mut dyn Executor, lists: &Lists, part: Part) -> Result<Vec<f32>> {
        let all: Vec<u32> = lists.part(part).map(|list| list as u32).collect();
        let mut scores = Vec::with_capacity(all.len() * lists.length);
        for which in all.chunks(LISTS_PER_RUN) {
            let batch = self.model.batch(lists, which);
            let plan = self.plans.of(executor, batch.shape, || {
                let mut graph = Graph::new(self.layout.clone());
                let scores = self.model.scores(&mut graph, batch.shape)?;
                graph.output("scores", scores);
                Ok(graph)
            })?;
            executor.run(plan, &batch.feed)?;
            scores.extend(executor.fetch(plan, "scores")?.words);
        }
        Ok(scores)
    }
}

/// The scores of a run, one for each held-out impression.
#[derive(Clone, Debug)]
pub struct ListScores {
    /// What was scored.
    pub lists: Arc<Lists>,
    /// Of the validation lists.
    pub valid: Vec<f32>,
    /// Of the test lists.
    pub test: Vec<f32>,
}

impl ListScores {
    /// AUC and GAUC of both parts.
    pub fn metrics(&self) -> Result<SplitMetrics> {
        let test = metrics(&self.lists, Part::Test, &self.test)?;
        let test = [(Protocol::Impressions, test)].into_iter().collect();
        Ok(SplitMetrics { valid: metrics(&self.lists, Part::Valid, &self.valid)?, test })
    }

    /// Where the folder of a run has them.
    pub fn path(run: &Path) -> PathBuf {
        run.join("scores.safetensors")
    }

    /// Writes them as safetensors, with the data they are of.
    pub fn write(&self, path: &Path, data: &DataIdentity) -> Result<()> {
        let lists = &self.lists;
        let parts = [("valid", Part::Valid, &self.valid), ("test", Part::Test, &self.test)];
        let users = parts.map(|(_, part, _)| lists.part(part).map(|list| lists.user(list)).collect::<Vec<u32>>());
        let tensors = parts.iter().zip(&users).flat_map(|((name, part, scores), users)| {
            let tensor = |of: &str, dtype, shape, bytes| {
                let view = TensorView::new(dtype, shape, bytes).expect("as many bytes as the shape says");
                (format!("{name}_{of}"), view)
            };
            let shape = vec![users.len(), lists.length];
            [
                tensor("scores", Dtype::F32, shape.clone(), bytemuck::cast_slice(scores)),
                tensor("clicks", Dtype::F32, shape, bytemuck::cast_slice(lists.clicks(*part))),
                tensor("users", Dtype::U32, vec![users.len()], bytemuck::cast_slice(users)),
            ]
        });
        let bytes = safetensors::serialize(tensors, Some(HashMap::from([data.metadata()])))
            .expect("names are unique and sizes fit");
        write_atomically(path, &bytes)
    }
}

/// Of the scores of a part.
pub fn metrics(lists: &Lists, part: Part, scores: &[f32]) -> Result<Metrics> {
    let clicked: Vec<bool> = lists.clicks(part).iter().map(|click| *click > 0.0).collect();
    Metrics::from_clicks(scores, &clicked, lists.length)
}
