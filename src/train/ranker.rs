//! Ranks of held-out items over the whole catalogue, and top-k lists, from a method's scorer. Scores are never stored.

use super::plans::Plans;
use crate::data::HeldOut;
use crate::data::pack::INERT;
use crate::data::sample::{Uni99, UserItems};
use crate::engine::exec::PlanId;
use crate::engine::params::ParamLayout;
use crate::engine::{Executor, Feed, Graph, Tensor};
use crate::error::{Error, Result};
use crate::eval::{ByProtocol, Protocol, UNREACHABLE};
use crate::methods::{Batch, Method, Request, Shape};
use crate::nn::{Scorer, Tokens};

/// Requests that are read and answered together by those who have many.
pub const USERS_PER_RUN: usize = 256;

/// What a model ends in, as services need it: scores are `query . table[v] (+ bias[v])`.
#[derive(Clone, Debug)]
pub struct ItemTable {
    /// `[V, D]`, without the rows that no item has.
    pub table: Tensor,
    /// `[V]`
    pub bias: Option<Tensor>,
}

/// Of held-out events.
#[derive(Clone, Debug, Default)]
pub struct Ranks {
    /// From 1, one for each event; under uni99 where it was asked for. Where the history is excluded, a target in it is
    /// unreachable.
    pub ranks: ByProtocol<Vec<u32>>,
    /// Share of events for which another item has exactly the target's score.
    pub tie_share: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PlanKey {
    shape: Shape,
    /// Capacity of the histories.
    seen: usize,
    wanted: Wanted,
}

/// What is made of the scores.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Wanted {
    /// Of targets, also among candidates that come in lists of this capacity.
    Ranks { sampled: Option<usize> },
    /// Of so many items.
    Lists(usize),
    /// One for each sample of a request, of so many items.
    SampleLists(usize),
}

/// Compiled scoring graphs on one executor.
pub struct Ranker<'m> {
    method: &'m dyn Method,
    layout: ParamLayout,
    plans: Plans<PlanKey>,
    rounds: Plans<Shape>,
    work: Work,
    watch: Watch,
}

/// Called after every run of a graph. Its error ends what is being ranked.
pub type Watch = Box<dyn FnMut() -> Result<()>>;

/// What runs of scoring graphs took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Multiplications and additions of the mathematics.
    pub flops: u64,
    /// That had to move at least.
    pub bytes: u64,
    /// Memory of the largest plan beyond parameters and inputs.
    pub extra_bytes: u64,
    /// Kernels.
    pub dispatches: usize,
}

impl Work {
    /// Counts a run of this plan.
    pub fn add(&mut self, executor: &dyn Executor, plan: PlanId) {
        let steps = &executor.plan(plan).steps;
        self.flops += steps.iter().map(|step| step.cost.flops).sum::<u64>();
        self.bytes += steps.iter().map(|step| step.cost.bytes).sum::<u64>();
        self.extra_bytes = self.extra_bytes.max(executor.plan(plan).activation_bytes());
        self.dispatches += executor.dispatches(plan);
    }
}

impl<'m> Ranker<'m> {
    /// Nothing is compiled yet; the parameters must be in the executor when it ranks.
    pub fn new(method: &'m dyn Method, layout: ParamLayout) -> Self {
        let (plans, rounds) = (Plans::default(), Plans::default());
        Ranker { method, layout, plans, rounds, work: Work::default(), watch: Box::new(|| Ok(())) }
    }

    /// From now on this is called after every run of a graph; `runs` says how many there will be.
    pub fn watch(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// Runs of graphs that it takes to answer so many requests.
    pub fn runs(&self, requests: usize) -> usize {
        requests.div_ceil(self.method.requests_per_run()) * (self.method.rounds() + 1)
    }

    /// Ranks held-out items among all, and among the candidates of the sampled protocol where they are given.
    pub fn rank(&mut self, executor: &mut dyn Executor, held_out: &[HeldOut], uni99: Option<&Uni99>) -> Result<Ranks> {
        let (mut excluded, mut kept, mut among_sampled) = (Vec::new(), Vec::new(), Vec::new());
        let mut tied = 0usize;
        for chunk in held_out.chunks(self.method.requests_per_run()) {
            let requests: Vec<Request> =
                chunk.iter().map(|event| Request { history: event.history, user: Some(event.user) }).collect();
            let sampled = uni99.map(|uni99| {
                let candidates: Vec<Vec<u32>> = chunk.iter().map(|event| uni99.of(event.user)).collect();
                UserItems::from_slices(candidates.iter().map(Vec::as_slice))
            });
            let capacity = sampled.as_ref().map(|lists| capacity(&lists.items));
            let (mut feed, key, seen) = self.scoring_feed(&requests, Wanted::Ranks { sampled: capacity }, false);
            sampled.iter().for_each(|lists| feed_lists(&mut feed, "sampled", lists));
            let targets: Vec<u32> = chunk.iter().map(|event| event.target).collect();
            feed.set("target", Tensor::u32(&[targets.len()], &targets));
            self.run_rounds(executor, &requests, key.shape, &mut feed)?;
            let plan = self.plan(executor, key)?;
            self.run(executor, plan, &feed)?;
            refuse_not_finite(&executor.fetch(plan, "query")?)?;
            let fetched = ["better", "better_seen", "ties"].map(|name| executor.fetch(plan, name));
            let [better, better_seen, ties] = fetched;
            let (better, better_seen, ties) = (better?, better_seen?, ties?);
            for (user, &target) in targets.iter().enumerate() {
                let (all, of_history) = (better.as_u32()[user], better_seen.as_u32()[user]);
                kept.push(all + 1);
                let reachable = seen.of(user).binary_search(&target).is_err();
                excluded.push(if reachable { all - of_history + 1 } else { UNREACHABLE });
                tied += usize::from(ties.as_u32()[user] > 0);
            }
            if sampled.is_some() {
                let better = executor.fetch(plan, "better_sampled")?;
                among_sampled.extend(better.as_u32().iter().map(|better| better + 1));
            }
        }
        let all = [(Protocol::HistoryExcluded, excluded), (Protocol::HistoryKept, kept)];
        let sampled = uni99.map(|_| (Protocol::Uni99, among_sampled));
        let ranks = all.into_iter().chain(sampled).collect();
        Ok(Ranks { ranks, tie_share: tied as f64 / held_out.len().max(1) as f64 })
    }

    /// The `k` best items of each request with scores, best first; those of the history only with `keep_history`. A list
    /// is shorter where candidates run out. Refused where the model must know the user and does not.
    pub fn top_k(
        &mut self,
        executor: &mut dyn Executor,
        requests: &[Request],
        k: usize,
        keep_history: bool,
    ) -> Result<Vec<Vec<(u32, f32)>>> {
        self.lists(executor, requests, Wanted::Lists(k), keep_history)
    }

    /// The same for each sample of a request, those of one next to each other: what a list of a method that draws samples
    /// could have been.
    pub fn sample_lists(
        &mut self,
        executor: &mut dyn Executor,
        requests: &[Request],
        k: usize,
        keep_history: bool,
    ) -> Result<Vec<Vec<(u32, f32)>>> {
        self.lists(executor, requests, Wanted::SampleLists(k), keep_history)
    }

    fn lists(
        &mut self,
        executor: &mut dyn Executor,
        requests: &[Request],
        wanted: Wanted,
        keep_history: bool,
    ) -> Result<Vec<Vec<(u32, f32)>>> {
        let mut lists = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(self.method.requests_per_run()) {
            let plan = self.run_list(executor, chunk, wanted, keep_history)?;
            let (values, indices) = (executor.fetch(plan, "values")?, executor.fetch(plan, "indices")?);
            let k = indices.ty.width();
            for (items, scores) in indices.as_u32().chunks(k).zip(values.words.chunks(k)) {
                let pairs = items.iter().copied().zip(scores.iter().copied());
                lists.push(pairs.filter(|(item, _)| *item != INERT).collect());
            }
        }
        Ok(lists)
    }

    /// The query vectors `[B, D]` that the items are scored against.
    pub fn queries(&mut self, executor: &mut dyn Executor, requests: &[Request]) -> Result<Tensor> {
        if self.method.samples() > 1 {
            let problem = "this model has several samples of a query, and no one vector for a history";
            return Err(Error::usage(problem, "use `gpurec recommend`, or train with samples=1"));
        }
        let (mut words, mut width) = (Vec::new(), 0);
        for chunk in requests.chunks(self.method.requests_per_run()) {
            let plan = self.run_list(executor, chunk, Wanted::Lists(1), true)?;
            let query = executor.fetch(plan, "query")?;
            width = query.ty.width();
            words.extend(query.words);
        }
        Ok(Tensor::f32(&[requests.len(), width], words))
    }

    /// The vectors and biases of the `items` items.
    pub fn item_table(&mut self, executor: &mut dyn Executor, items: usize) -> Result<ItemTable> {
        let plan = self.run_list(executor, &[Request { history: &[0], user: Some(0) }], Wanted::Lists(1), true)?;
        let first =
            |tensor: Tensor, width: usize, shape: &[usize]| Tensor::f32(shape, tensor.words[..items * width].to_vec());
        let table = executor.fetch(plan, "table")?;
        let width = table.ty.width();
        let bias =
            executor.graph(plan).outputs.contains_key("bias").then(|| executor.fetch(plan, "bias")).transpose()?;
        Ok(ItemTable { table: first(table, width, &[items, width]), bias: bias.map(|bias| first(bias, 1, &[items])) })
    }

    fn run_list(
        &mut self,
        executor: &mut dyn Executor,
        requests: &[Request],
        wanted: Wanted,
        keep_history: bool,
    ) -> Result<PlanId> {
        if self.method.needs_user() && requests.iter().any(|request| request.user.is_none()) {
            let problem = "this model knows the users it was trained on, and cannot recommend from a history alone";
            let help =
                "train a method that reads histories, such as sasrec; `gpurec eval` ranks for the users it knows";
            return Err(Error::usage(problem, help));
        }
        let (mut feed, key, _) = self.scoring_feed(requests, wanted, keep_history);
        self.run_rounds(executor, requests, key.shape, &mut feed)?;
        let plan = self.plan(executor, key)?;
        self.run(executor, plan, &feed)?;
        Ok(plan)
    }

    /// The inputs of a scoring graph, and the items of each request that are no candidates: with `keep_history` none.
    fn scoring_feed(&self, requests: &[Request], wanted: Wanted, keep_history: bool) -> (Feed, PlanKey, UserItems) {
        let Batch { shape, mut feed, .. } = self.method.scoring_batch(requests);
        let copies = if let Wanted::SampleLists(_) = wanted { self.method.samples() } else { 1 };
        let rows = requests.iter().flat_map(|request| std::iter::repeat_n(request, copies));
        let seen = UserItems::from_slices(rows.map(|r| if keep_history { &[] } else { r.history }));
        let users: Vec<u32> = requests.iter().map(|request| request.user.unwrap_or(INERT)).collect();
        feed.set("users", Tensor::u32(&[users.len()], &users));
        feed_lists(&mut feed, "seen", &seen);
        let key = PlanKey { shape, seen: capacity(&seen.items), wanted };
        (feed, key, seen)
    }

    /// What all runs since the last call took.
    pub fn take_work(&mut self) -> Work {
        std::mem::take(&mut self.work)
    }

    fn run(&mut self, executor: &mut dyn Executor, plan: PlanId, feed: &Feed) -> Result<()> {
        self.work.add(executor, plan);
        executor.run(plan, feed)?;
        (self.watch)()
    }

    /// Runs what the method computes before it scores.
    fn run_rounds(
        &mut self,
        executor: &mut dyn Executor,
        requests: &[Request],
        shape: Shape,
        feed: &mut Feed,
    ) -> Result<()> {
        for round in 0..self.method.rounds() {
            let build = || self.method.round_graph(shape, self.layout.clone());
            let plan = self.rounds.of(executor, shape, build)?;
            self.method.feed_round(round, requests, feed);
            self.run(executor, plan, feed)?;
            let outputs: Vec<String> = executor.graph(plan).outputs.keys().cloned().collect();
            for name in outputs {
                feed.set(&name, executor.fetch(plan, &name)?);
            }
        }
        Ok(())
    }

    fn plan(&mut self, executor: &mut dyn Executor, key: PlanKey) -> Result<PlanId> {
        self.plans.of(executor, key, || {
            let mut graph = Graph::new(self.layout.clone());
            let tokens = Tokens::for_scoring(&mut graph, key.shape.sequences, key.shape.rows);
            let scorer = self.method.scorer(&mut graph, &tokens)?;
            match key.wanted {
                Wanted::Ranks { sampled } => scorer.rank(&mut graph, key.seen, sampled)?,
                Wanted::Lists(k) => scorer.top_k(&mut graph, k, key.seen)?,
                Wanted::SampleLists(k) => Scorer { samples: 1, ..scorer }.top_k(&mut graph, k, key.seen)?,
            }
            Ok(graph)
        })
    }
}

/// A query of NaN would rank every target first: nothing is greater.
fn refuse_not_finite(query: &Tensor) -> Result<()> {
    if query.words.iter().all(|x| x.is_finite()) {
        return Ok(());
    }
    let problem = "what the model makes of a history is no finite number, so that nothing can be ranked";
    Err(Error::usage(problem, "train it again with a lower learning rate (--set learning_rate=...)"))
}

/// Lists grow to few sizes, so that few plans are compiled.
fn capacity(items: &[u32]) -> usize {
    items.len().max(64).next_power_of_two()
}

/// Sets `<name>_offsets` and `<name>_items`.
fn feed_lists(feed: &mut Feed, name: &str, lists: &UserItems) {
    let mut items = lists.items.clone();
    items.resize(capacity(&items), INERT);
    feed.set(&format!("{name}_offsets"), Tensor::u32(&[lists.offsets.len()], &lists.offsets));
    feed.set(&format!("{name}_items"), Tensor::u32(&[items.len()], &items));
}
