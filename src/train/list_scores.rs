//! Scores of impressions, list by list, and the metrics that they give.
//!
//! `scores.safetensors` in the folder of a run holds, for `valid` and `test`, the `scores` and the `clicks` of each impression
//! (f32, `[lists, length]`) and the `users` of the lists.

use super::identity::DataIdentity;
use super::plans::Plans;
use super::ranker::Work;
use crate::data::lists::{Lists, Part};
use crate::engine::exec::PlanId;
use crate::engine::params::ParamLayout;
use crate::engine::{Executor, Graph};
use crate::error::{Error, Result};
use crate::eval::{Calibration, Metrics, Protocol, SplitMetrics, calibration};
use crate::files::write_atomically;
use crate::methods::{ListModel, ListRequest, RequestShape, Shape};
use safetensors::SafeTensors;
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
    requests: Plans<RequestShape>,
}

impl<'m> ListScorer<'m> {
    /// Nothing is compiled yet; the parameters must be in the executor when it scores.
    pub fn new(model: &'m dyn ListModel, layout: ParamLayout) -> Self {
        ListScorer { model, layout, plans: Plans::default(), requests: Plans::default() }
    }

    /// What a click one position further down counts, where scores say how many will follow.
    pub fn discount(&self) -> Option<f64> {
        self.model.discount()
    }

    /// The scores of what could come next in a list, in the order of the candidates.
    pub fn candidates(&mut self, executor: &mut dyn Executor, request: &ListRequest) -> Result<Vec<f32>> {
        let (shape, feed) = self.model.request(request);
        let plan = self.request_plan(executor, shape)?;
        executor.run(plan, &feed)?;
        Ok(executor.fetch(plan, "scores")?.words)
    }

    fn request_plan(&mut self, executor: &mut dyn Executor, shape: RequestShape) -> Result<PlanId> {
        self.requests.of(executor, shape, || {
            let mut graph = Graph::new(self.layout.clone());
            let scores = self.model.candidates(&mut graph, shape)?;
            graph.output("scores", scores);
            Ok(graph)
        })
    }

    /// What it takes to answer a request.
    pub fn work(&mut self, executor: &mut dyn Executor, request: &ListRequest) -> Result<Work> {
        let plan = self.request_plan(executor, self.model.request(request).0)?;
        let mut work = Work::default();
        work.add(executor, plan);
        Ok(work)
    }

    /// Parameters that the answer to a request can depend on.
    pub fn parameters_read(&self, request: &ListRequest) -> Result<usize> {
        let mut graph = Graph::new(ParamLayout::default());
        self.model.candidates(&mut graph, self.model.request(request).0)?;
        Ok(graph.layout.sets.iter().map(|set| set.count()).sum())
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

    /// How the test scores agree with the discounted clicks that follow.
    pub fn calibration(&self, discount: f64) -> Calibration {
        calibration(&self.test, self.lists.clicks(Part::Test), self.lists.length, discount)
    }

    /// Where the folder of a run has them.
    pub fn path(run: &Path) -> PathBuf {
        run.join("scores.safetensors")
    }

    /// The test lists of a file, and what they are of.
    pub fn read_test(path: &Path) -> Result<(DataIdentity, TestScores)> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read the scores", path, e))?;
        let wrong = |problem: String| Error::Format { path: path.into(), problem };
        let file = SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("no file of scores: {e}")))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(e.to_string()))?;
        let data = DataIdentity::of_metadata(header.metadata().as_ref(), path)?;
        let column = |name: &str, dtype: Dtype| -> Result<(Vec<usize>, Vec<u32>)> {
            let view = file.tensor(name).map_err(|e| wrong(format!("{name}: {e}")))?;
            if view.dtype() != dtype {
                return Err(wrong(format!("{name} is {:?}, not {dtype:?}", view.dtype())));
            }
            let words = view.data().chunks_exact(4);
            let word = |word: &[u8]| u32::from_le_bytes(word.try_into().expect("chunks of four"));
            Ok((view.shape().to_vec(), words.map(word).collect()))
        };
        let (shape, scores) = column("test_scores", Dtype::F32)?;
        let (of_clicks, clicks) = column("test_clicks", Dtype::F32)?;
        let (_, users) = column("test_users", Dtype::U32)?;
        let [lists, length] = shape[..] else { return Err(wrong(format!("test_scores has {} axes", shape.len()))) };
        if of_clicks != shape || users.len() != lists || length == 0 {
            return Err(wrong(format!("{shape:?} scores, {of_clicks:?} clicks and {} users", users.len())));
        }
        let scores = scores.into_iter().map(f32::from_bits).collect();
        let clicked = clicks.into_iter().map(|click| f32::from_bits(click) > 0.0).collect();
        Ok((data, TestScores { users, length, scores, clicked }))
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

/// The scores of a run's test lists, as its file has them.
#[derive(Clone, Debug, PartialEq)]
pub struct TestScores {
    /// Of each list.
    pub users: Vec<u32>,
    /// Impressions of a list.
    pub length: usize,
    /// One for each impression.
    pub scores: Vec<f32>,
    /// Of each impression.
    pub clicked: Vec<bool>,
}

/// Of the scores of a part.
pub fn metrics(lists: &Lists, part: Part, scores: &[f32]) -> Result<Metrics> {
    let clicked: Vec<bool> = lists.clicks(part).iter().map(|click| *click > 0.0).collect();
    Metrics::from_clicks(scores, &clicked, lists.length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Interactions;
    use crate::data::lists::{Group, example};
    use crate::engine::exec::DeviceChoice;
    use crate::methods::{Bags, METHODS, Sizes, config};
    use crate::train::trainer::layout_of;

    #[test]
    fn an_item_is_worth_the_same_in_its_list_and_as_a_candidate_for_its_place() {
        let data = Interactions::from_lists(example(16, 4)).unwrap();
        let lists = data.lists().unwrap();
        let impression = |n: usize| -> Bags { (0..lists.fields.len()).map(|field| lists.bag(n, field)).collect() };
        let mut tested = 0;
        for (info, case) in METHODS.iter().flat_map(|info| info.cases.iter().map(move |case| (info, case))) {
            let settings: Vec<String> = case.iter().map(|s| s.to_string()).collect();
            let config = config::resolve(info, None, None, &settings).unwrap();
            let Ok(method) = (info.build)(&config, Sizes::of(&data)) else { continue };
            let Some(model) = method.list_model() else { continue };
            let layout = layout_of(method.as_ref()).unwrap();
            let mut executor = DeviceChoice::Cpu.open(1).unwrap();
            executor.load(&layout, &method.initial_state(&layout, 3, &data)).unwrap();
            let mut scorer = ListScorer::new(model, layout);
            let scores = scorer.scores(executor.as_mut(), &lists, Part::Test).unwrap();
            for (n, score) in lists.impressions(Part::Test).zip(&scores) {
                let top = n / lists.length * lists.length;
                // The item of the place itself is not looked at.
                let here = impression(n).into_iter().zip(&lists.fields);
                let here = here.map(|(bag, field)| if field.of == Group::Item { &[] } else { bag });
                let request = ListRequest {
                    shown: (top..n).map(impression).collect(),
                    here: here.collect(),
                    candidates: vec![impression(top), impression(n)],
                };
                let values = scorer.candidates(executor.as_mut(), &request).unwrap();
                assert!((values[1] - score).abs() < 1e-6, "{} {case:?}: {} and {score}", info.name, values[1]);
            }
            assert!(scores.iter().any(|score| (score - scores[0]).abs() > 1e-4), "{}: all alike", info.name);
            tested += 1;
        }
        assert!(tested >= 9, "{tested} models of lists");
    }
}
