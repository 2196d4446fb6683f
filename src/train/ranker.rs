//! Ranks of held-out items over the whole catalogue, and top-k lists, from a method's scorer. Scores are never stored.

use crate::data::pack::{INERT, row_bucket};
use crate::data::sample::UserItems;
use crate::data::{HeldOut, Packed};
use crate::engine::exec::PlanId;
use crate::engine::params::ParamLayout;
use crate::engine::{Executor, Feed, Graph, Tensor};
use crate::error::{Error, Result};
use crate::eval::rank::UNREACHABLE;
use crate::methods::Method;
use crate::methods::batch::feed_tokens;
use crate::nn::Tokens;
use std::collections::HashMap;

/// Users ranked by one run of the scoring graph. Results do not depend on it.
const USERS_PER_RUN: usize = 256;

/// 1-based ranks by held-out event, under both protocols.
#[derive(Clone, Debug, Default)]
pub struct Ranks {
    /// Candidates are all items but those of the user's history; a target in the history is unreachable.
    pub history_excluded: Vec<u32>,
    /// Candidates are all items.
    pub history_kept: Vec<u32>,
    /// Share of events for which another item has exactly the target's score.
    pub tie_share: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PlanKey {
    sequences: usize,
    rows: usize,
    seen: usize,
    /// `None` ranks targets, `Some(k)` lists the top k.
    top_k: Option<usize>,
}

/// Compiled scoring graphs on one executor.
pub struct Ranker<'m> {
    method: &'m dyn Method,
    layout: ParamLayout,
    plans: HashMap<PlanKey, PlanId>,
}

impl<'m> Ranker<'m> {
    pub fn new(method: &'m dyn Method, layout: ParamLayout) -> Self {
        Ranker { method, layout, plans: HashMap::new() }
    }

    /// Ranks held-out items among all.
    pub fn rank(&mut self, executor: &mut dyn Executor, held_out: &[HeldOut]) -> Result<Ranks> {
        let mut ranks = Ranks::default();
        let mut tied = 0usize;
        for chunk in held_out.chunks(USERS_PER_RUN) {
            let owned: Vec<&[u32]> = chunk.iter().map(|event| event.history).collect();
            let (mut feed, key, seen) = self.scoring_feed(&owned, None);
            let targets: Vec<u32> = chunk.iter().map(|event| event.target).collect();
            feed.set("target", Tensor::u32(&[targets.len()], &targets));
            let users: Vec<u32> = chunk.iter().map(|event| event.user).collect();
            feed.set("users", Tensor::u32(&[users.len()], &users));
            let plan = self.plan(executor, key)?;
            executor.run(plan, &feed)?;
            let fetched = ["better", "better_seen", "ties"].map(|name| executor.fetch(plan, name));
            let [better, better_seen, ties] = fetched;
            let (better, better_seen, ties) = (better?, better_seen?, ties?);
            for (user, &target) in targets.iter().enumerate() {
                let (all, of_history) = (better.as_u32()[user], better_seen.as_u32()[user]);
                ranks.history_kept.push(all + 1);
                let reachable = seen.of(user).binary_search(&target).is_err();
                ranks.history_excluded.push(if reachable { all - of_history + 1 } else { UNREACHABLE });
                tied += usize::from(ties.as_u32()[user] > 0);
            }
        }
        ranks.tie_share = tied as f64 / held_out.len().max(1) as f64;
        Ok(ranks)
    }

    /// The `k` best items that are not in the history, with scores, best first. Refused where a history is not enough.
    pub fn top_k(&mut self, executor: &mut dyn Executor, history: &[u32], k: usize) -> Result<Vec<(u32, f32)>> {
        if self.method.needs_user() {
            let problem = "this model knows the users it was trained on, and cannot recommend from a history alone";
            let help =
                "train a method that reads histories, such as sasrec; `gpurec eval` ranks for the users it knows";
            return Err(Error::usage(problem, help));
        }
        let (feed, key, _) = self.scoring_feed(&[history], Some(k));
        let plan = self.plan(executor, key)?;
        executor.run(plan, &feed)?;
        let (values, indices) = (executor.fetch(plan, "values")?, executor.fetch(plan, "indices")?);
        let pairs = indices.as_u32().iter().copied().zip(values.words.iter().copied());
        Ok(pairs.filter(|(item, _)| *item != INERT).collect())
    }

    fn scoring_feed(&self, histories: &[&[u32]], top_k: Option<usize>) -> (Feed, PlanKey, UserItems) {
        let mut packed = Packed::new();
        (0..).zip(histories).for_each(|(i, history)| packed.push(i, history, self.method.max_len()));
        packed.pad_to(row_bucket(packed.n_rows()), INERT);
        let seen = UserItems::from_slices(histories.iter().copied());
        let mut seen_items = seen.items.clone();
        seen_items.resize(seen_items.len().max(64).next_power_of_two(), INERT);
        let mut feed = Feed::default();
        feed_tokens(&mut feed, &packed, None, None);
        feed.set("seen_offsets", Tensor::u32(&[seen.offsets.len()], &seen.offsets));
        feed.set("seen_items", Tensor::u32(&[seen_items.len()], &seen_items));
        let key = PlanKey { sequences: histories.len(), rows: packed.n_rows(), seen: seen_items.len(), top_k };
        (feed, key, seen)
    }

    fn plan(&mut self, executor: &mut dyn Executor, key: PlanKey) -> Result<PlanId> {
        if let Some(plan) = self.plans.get(&key) {
            return Ok(*plan);
        }
        let mut graph = Graph::new(self.layout.clone());
        let tokens = Tokens::for_scoring(&mut graph, key.sequences, key.rows);
        let scorer = self.method.scorer(&mut graph, &tokens)?;
        match key.top_k {
            None => scorer.rank(&mut graph, key.seen)?,
            Some(k) => scorer.top_k(&mut graph, k, key.seen)?,
        }
        let plan = executor.compile(graph)?;
        self.plans.insert(key, plan);
        Ok(plan)
    }
}
