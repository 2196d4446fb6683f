//! The training loop: epochs of prefetched batches, validation, selection of the best epoch, checkpoints.

use super::checkpoint::{self, Checkpoint, Header, PartialEpoch, Progress};
use super::evaluation::{Evaluation, Evaluator};
use super::plans::Plans;
use super::run::Trained;
use super::stages::start_from;
use crate::data::sample::epoch_order;
use crate::data::{Interactions, Prefetch};
use crate::engine::Executor;
use crate::engine::exec::PlanId;
use crate::engine::graph::Flat;
use crate::engine::params::{ParamLayout, State};
use crate::engine::rng::RngState;
use crate::error::{Error, Result};
use crate::eval::Metrics;
use crate::methods::{Batch, Method, Sampler, Shape};
use crate::nn::{optimizer_inputs, optimizers};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Steps between two readings of the loss.
const METRICS_EVERY: usize = 50;
/// Within a long epoch a checkpoint is written this often.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(600);

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct EpochReport {
    /// From 1.
    pub epoch: usize,
    /// Steps done by its end.
    pub step: u64,
    /// Mean over the steps of the epoch, by metric name; `loss` is the total.
    pub losses: serde_json::Map<String, serde_json::Value>,
    /// History excluded from the candidates, unless the training selects with it kept. Empty where `validate_every` leaves
    /// the epoch out.
    pub valid: Metrics,
    /// Of the steps and the validation.
    pub seconds: f64,
    /// Of the steps alone.
    pub tokens_per_second: f64,
}

impl EpochReport {
    /// Where the folder of a run has them.
    pub fn path(run: &Path) -> PathBuf {
        run.join("metrics.jsonl")
    }

    /// The epochs in the folder of a run.
    pub fn read_all(run: &Path) -> Result<Vec<EpochReport>> {
        let path = EpochReport::path(run);
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let epochs: Result<_, serde_json::Error> = text.lines().map(serde_json::from_str).collect();
        epochs.map_err(|e| Error::Format { path, problem: format!("a line is not that of an epoch: {e}") })
    }
}

/// What one kind of op did in some training steps.
#[derive(Clone, Debug, Default)]
pub struct OpTime {
    /// By name.
    pub op: &'static str,
    /// Executions, in all steps together.
    pub calls: usize,
    /// In all steps together.
    pub seconds: f64,
    /// In all steps together.
    pub flops: u64,
    /// That it had to move at least, in all steps together.
    pub bytes: u64,
}

/// Told of everything a person may want to see.
pub trait Observer {
    /// `done` of the epoch's steps were done before this process.
    fn epoch_started(&mut self, _epoch: usize, _epochs: usize, _steps: usize, _done: usize) {}
    /// Steps were done; `loss` is the last one read, if one was read.
    fn steps_done(&mut self, _steps: usize, _loss: Option<f32>, _tokens_per_second: f64) {}
    /// An epoch was trained and validated. An error ends training, before the checkpoint of this epoch.
    fn epoch_finished(&mut self, _report: &EpochReport, _best_epoch: usize) -> Result<()> {
        Ok(())
    }
    /// Something a person should know.
    fn warning(&mut self, _message: &str) {}
    /// Something begins that takes its time: a stage of the run, or what teachers are asked.
    fn begins(&mut self, _what: &str) {}
    /// Events are evaluated, in so many runs of graphs. What is given back is called after each, and says whether to stop there.
    fn evaluation_begins(&mut self, _runs: usize) -> Box<dyn FnMut() -> bool> {
        Box::new(|| false)
    }
    /// The observer of a stage of this name that is trained at the same time as others. It wants to stop where `others` says
    /// that one of them failed.
    fn beside(&self, _stage: &str, _others: Arc<AtomicBool>) -> Box<dyn Observer + Send> {
        Box::new(())
    }
    /// Asked after every step: whether to end training with a checkpoint.
    fn wants_to_stop(&mut self) -> bool {
        false
    }
}

/// An observer that sees nothing.
impl Observer for () {}

/// One training run: a method, its data, and where training stands.
pub struct Trainer<'a> {
    method: &'a dyn Method,
    data: Arc<Interactions>,
    sampler: Arc<dyn Sampler>,
    /// What an epoch visits.
    samples: Vec<u32>,
    seed: u64,
    layout: ParamLayout,
    plans: Plans<Shape>,
    evaluator: Evaluator<'a>,
    progress: Progress,
    /// Plans of the steps whose metrics were not read yet.
    recorded: Vec<PlanId>,
    /// Parameters of the best epoch, where no checkpoint holds them.
    best: Option<State>,
    checkpoints: Option<Checkpoints>,
}

/// Where checkpoints go, and what each says about itself.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    /// Where they go.
    pub folder: PathBuf,
    /// What each says about itself.
    pub header: Header,
}

impl<'a> Trainer<'a> {
    /// Loads initial parameters into the executor. Without `checkpoints` none are written.
    pub fn new(
        method: &'a dyn Method,
        data: Arc<Interactions>,
        seed: u64,
        executor: &mut dyn Executor,
        checkpoints: Option<Checkpoints>,
    ) -> Result<Self> {
        let layout = layout_of(method)?;
        executor.load(&layout, &method.initial_state(&layout, seed, &data))?;
        let sampler = method.sampler(data.clone())?;
        let progress = Progress { best_value: -1.0, ..Progress::default() };
        Ok(Trainer {
            samples: sampler.samples(),
            sampler,
            evaluator: Evaluator::new(method, layout.clone()),
            method,
            data,
            seed,
            layout,
            plans: Plans::default(),
            progress,
            recorded: Vec::new(),
            best: None,
            checkpoints,
        })
    }

    /// Takes over parameters of another run in place of the initial ones; all of them where none is to be trained.
    pub(super) fn start_from(&mut self, executor: &mut dyn Executor, trained: &Trained, folder: &Path) -> Result<()> {
        let mut state = executor.state()?;
        let left = start_from((trained, folder), &self.layout, &mut state, &self.data)?;
        if let Some(name) = left.first().filter(|_| self.method.training().epochs == 0) {
            let problem = format!("{} has no `{name}` of this shape, and nothing is to be trained", folder.display());
            return Err(Error::usage(problem, "change settings of inference alone, or train one epoch or more"));
        }
        executor.load(&self.layout, &state)
    }

    /// Where training stands.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Batches of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.samples.len().div_ceil(self.method.training().batch_size)
    }

    /// Continues from the checkpoint folder, if it holds a checkpoint. Refuses one of another run.
    pub fn resume(&mut self, executor: &mut dyn Executor) -> Result<bool> {
        let Some(Checkpoints { folder, header }) = &self.checkpoints else { return Ok(false) };
        let path = checkpoint::latest(folder);
        if !path.exists() {
            return Ok(false);
        }
        let latest = Checkpoint::read(&path)?;
        if let Some(difference) = latest.header.identity.difference(&header.identity) {
            let problem = format!("{} is of another run; they differ in {difference}", path.display());
            return Err(Error::usage(problem, "resume with the options the run began with, or choose another --out"));
        }
        executor.load(&self.layout, &latest.contents(&self.layout))?;
        if latest.progress.best_epoch > 0 {
            // Whether it is there is said now, and not at the end of training.
            Checkpoint::read(&checkpoint::best(folder))?;
        }
        self.progress = latest.progress;
        Ok(true)
    }

    /// Trains to the last epoch or until patience is spent; leaves the best parameters in the executor. When the observer
    /// wants to stop, a checkpoint is written and the error is `Interrupted`.
    pub fn fit(&mut self, executor: &mut dyn Executor, observer: &mut dyn Observer) -> Result<()> {
        let training = self.method.training();
        if training.epochs > 0 && self.samples.is_empty() {
            let help = "training needs users with 2 training events or more: an input and its target";
            return Err(Error::usage(format!("no user of {} has enough items to train on", self.data.name), help));
        }
        self.evaluator.expect_metric(&training.select_by)?;
        while self.progress.epoch < training.epochs && !self.patience_spent() {
            let report = self.epoch(executor, observer)?;
            // The line of the epoch before its checkpoint: a surplus line is dropped on resume, a missing one is lost.
            observer.epoch_finished(&report, self.progress.best_epoch)?;
            self.write_checkpoint(executor)?;
            let goes_on = self.progress.epoch < training.epochs && !self.patience_spent();
            if goes_on && observer.wants_to_stop() {
                return Err(Error::Interrupted { epoch: self.progress.epoch, step: self.progress.step });
            }
        }
        self.load_best(executor)
    }

    fn load_best(&self, executor: &mut dyn Executor) -> Result<()> {
        match (&self.checkpoints, &self.best) {
            (_, Some(best)) => executor.load(&self.layout, best),
            (Some(Checkpoints { folder, .. }), None) if self.progress.best_epoch > 0 => {
                executor.load(&self.layout, &Checkpoint::read(&checkpoint::best(folder))?.contents(&self.layout))
            }
            _ => Ok(()),
        }
    }

    fn patience_spent(&self) -> bool {
        let best_epoch = self.progress.best_epoch;
        best_epoch > 0 && self.progress.epoch - best_epoch >= self.method.training().patience
    }

    /// One epoch, with validation where it is its turn.
    fn epoch(&mut self, executor: &mut dyn Executor, observer: &mut dyn Observer) -> Result<EpochReport> {
        let training = self.method.training();
        let epoch = self.progress.epoch + 1;
        observer.epoch_started(epoch, training.epochs, self.steps_per_epoch(), self.progress.partial.batches);
        self.steps(executor, epoch, observer)?;
        let steps_done = Instant::now();

        for (set, _) in self.layout.sets.iter().enumerate().filter(|(_, set)| !set.is_frozen() && set.flat_len() > 0) {
            if executor.read(set, Flat::Params)?.iter().any(|x| !x.is_finite()) {
                return Err(Error::NotFinite { what: "a parameter".into(), step: self.progress.step });
            }
        }
        let mut valid = Metrics::default();
        if epoch.is_multiple_of(training.validate_every) || epoch == training.epochs {
            self.watch_evaluation(epoch, self.data.valid().count(), observer);
            let validated = self.evaluator.validate(executor, &self.data, training);
            if let Err(Error::Interrupted { .. }) = validated {
                self.write_checkpoint(executor)?;
            }
            let value;
            (valid, value) = validated?;
            if value > self.progress.best_value {
                (self.progress.best_epoch, self.progress.best_value) = (epoch, value);
                if self.checkpoints.is_none() {
                    let parameters = |set, flat| match flat {
                        Flat::Params => executor.read(set, flat).map(Cow::into_owned),
                        _ => Ok(Vec::new()),
                    };
                    self.best = Some(State::read(&self.layout, parameters)?);
                }
            }
        }
        self.progress.epoch = epoch;
        let PartialEpoch { sums, tokens, seconds, .. } = std::mem::take(&mut self.progress.partial);
        let mean = |(name, sum, count): (String, f64, u64)| (name, serde_json::Value::from(sum / count as f64));
        let report = EpochReport {
            epoch,
            step: self.progress.step,
            losses: sums.into_iter().map(mean).collect(),
            valid,
            seconds: seconds + steps_done.elapsed().as_secs_f64(),
            tokens_per_second: tokens as f64 / seconds,
        };
        Ok(report)
    }

    /// The steps of one epoch that are not done yet.
    fn steps(&mut self, executor: &mut dyn Executor, epoch: usize, observer: &mut dyn Observer) -> Result<()> {
        // What the sampler reads is kept, so that an epoch that goes on in another process has the same batches.
        let (resumed, read) = (self.progress.partial.batches > 0, &mut self.progress.partial.read);
        let own = self.sampler.of_epoch(epoch, &mut |name| {
            if !resumed {
                let place = self.layout.find("model", name);
                let (set, range) = place.ok_or_else(|| Error::graph(name, "the model has no such parameter"))?;
                read.insert(name.into(), executor.read(set, Flat::Params)?[range].to_vec());
            }
            read.get(name)
                .cloned()
                .ok_or_else(|| Error::graph(name, "the checkpoint does not hold what the sampler read"))
        })?;
        let sampler = own.unwrap_or_else(|| self.sampler.clone());
        let (order, seed) = (epoch_order(self.seed, epoch as u32, &self.samples), self.seed);
        let (batch_size, done) = (self.method.training().batch_size, self.progress.partial.batches);
        let first_step = self.progress.step - done as u64;
        let batches = Prefetch::new(done..self.steps_per_epoch(), move |index| {
            let step = (first_step + 1 + index as u64) as u32;
            sampler.batch(part(&order, batch_size, index), RngState { seed, step })
        });
        let (mut started, mut saved) = (Instant::now(), Instant::now());
        for batch in batches {
            let batch = batch?;
            self.progress.partial.tokens += batch.tokens;
            self.step(executor, batch)?;
            self.progress.partial.batches += 1;
            let steps = self.progress.partial.batches;
            let last = steps == self.steps_per_epoch();
            let stop = observer.wants_to_stop();
            let save = !last && (stop || saved.elapsed() >= CHECKPOINT_EVERY);
            let mut loss = None;
            if steps.is_multiple_of(METRICS_EVERY) || last || save {
                loss = self.collect_metrics(executor)?;
            }
            let partial = &mut self.progress.partial;
            partial.seconds += std::mem::replace(&mut started, Instant::now()).elapsed().as_secs_f64();
            observer.steps_done(1, loss, partial.tokens as f64 / partial.seconds);
            if save {
                self.write_checkpoint(executor)?;
                saved = Instant::now();
            }
            if stop && !last {
                return Err(Error::Interrupted { epoch, step: self.progress.step });
            }
        }
        Ok(())
    }

    /// One step: all graphs that the method trains by a batch, in turn.
    pub fn step(&mut self, executor: &mut dyn Executor, mut batch: Batch) -> Result<()> {
        for graph in self.graphs_of_step(&batch) {
            let plan = self.prepare(executor, &mut batch, graph)?;
            if !executor.graph(plan).metrics.is_empty() {
                self.recorded.push(plan);
            }
            executor.run(plan, &batch.feed)?;
        }
        Ok(())
    }

    /// The graphs of the next step.
    fn graphs_of_step(&mut self, batch: &Batch) -> Vec<u8> {
        self.progress.step += 1;
        self.method.graphs_of_step(batch.shape.graph, self.progress.step)
    }

    /// The plan of a graph, whose updates the optimizers' inputs in the feed depend on.
    fn prepare(&mut self, executor: &mut dyn Executor, batch: &mut Batch, graph: u8) -> Result<PlanId> {
        let plan = self.plan(executor, Shape { graph, ..batch.shape })?;
        for name in optimizers(executor.graph(plan)) {
            let updates = self.progress.updates.entry(name.into()).or_default();
            *updates += 1;
            let mut adam = self.method.optimizer(name);
            adam.learning_rate *= self.method.training().warmth(*updates);
            optimizer_inputs(&mut batch.feed, name, &adam, *updates);
        }
        Ok(plan)
    }

    /// Trains some steps of the first epoch and says where their time goes: by kind of op, in order of first use.
    pub fn profile(&mut self, executor: &mut dyn Executor, steps: usize) -> Result<Vec<OpTime>> {
        let mut times: Vec<OpTime> = Vec::new();
        for index in 0..steps {
            let batch = self.batch(1, index % self.steps_per_epoch())?;
            // Once without the clock: kernels are compiled and memory is touched for the first time.
            self.step(executor, batch.clone())?;
            let mut batch = batch;
            for graph in self.graphs_of_step(&batch) {
                let plan = self.prepare(executor, &mut batch, graph)?;
                let seconds = executor.run_timed(plan, &batch.feed)?;
                let graph = executor.graph(plan);
                for (step, seconds) in executor.plan(plan).steps.iter().zip(seconds) {
                    let op = graph.nodes[step.node].op.name();
                    let known = times.iter().position(|time| time.op == op).unwrap_or_else(|| {
                        times.push(OpTime { op, ..OpTime::default() });
                        times.len() - 1
                    });
                    let time = &mut times[known];
                    time.calls += 1;
                    time.seconds += seconds;
                    time.flops += step.cost.flops;
                    time.bytes += step.cost.bytes;
                }
            }
            executor.drain_metrics()?;
        }
        Ok(times)
    }

    /// Batch `index` of an epoch, as `fit` makes it from the initial parameters.
    pub fn batch(&self, epoch: usize, index: usize) -> Result<Batch> {
        let order = epoch_order(self.seed, epoch as u32, &self.samples);
        let step = (epoch - 1) * self.steps_per_epoch() + index + 1;
        let rng = RngState { seed: self.seed, step: step as u32 };
        self.sampler.batch(part(&order, self.method.training().batch_size, index), rng)
    }

    /// The compiled training graph of a shape.
    pub fn plan(&mut self, executor: &mut dyn Executor, shape: Shape) -> Result<PlanId> {
        self.plans.of(executor, shape, || self.method.train_graph(shape, self.layout.clone()))
    }

    /// The plan table of the first batch's training graph.
    pub fn plan_table(&mut self, executor: &mut dyn Executor) -> Result<String> {
        let batch = self.batch(1, 0)?;
        let plan = self.plan(executor, batch.shape)?;
        Ok(executor.plan_table(plan))
    }

    /// Adds the recorded metrics to the sums of the epoch; the last loss. A loss that is not finite ends training.
    fn collect_metrics(&mut self, executor: &mut dyn Executor) -> Result<Option<f32>> {
        let rows = executor.drain_metrics()?;
        let sums = &mut self.progress.partial.sums;
        for (row, plan) in rows.iter().zip(self.recorded.drain(..)) {
            if row.iter().any(|value| !value.is_finite()) {
                return Err(Error::NotFinite { what: "the loss".into(), step: self.progress.step });
            }
            for ((name, _), value) in executor.graph(plan).metrics.iter().zip(row) {
                let known = sums.iter().position(|(known, ..)| known == name).unwrap_or_else(|| {
                    sums.push((name.clone(), 0.0, 0));
                    sums.len() - 1
                });
                sums[known].1 += f64::from(*value);
                sums[known].2 += 1;
            }
        }
        Ok(rows.last().and_then(|row| row.first().copied()))
    }

    /// Validation and test with the parameters that are loaded now. `Interrupted` when the observer wants to stop.
    pub fn evaluate(&mut self, executor: &mut dyn Executor, observer: &mut dyn Observer) -> Result<Evaluation> {
        self.watch_evaluation(self.progress.epoch, self.data.valid().count() + self.data.test().count(), observer);
        self.evaluator.evaluate(executor, &self.data)
    }

    /// Lets an observer see how far the evaluation of so many events is, and end it.
    fn watch_evaluation(&mut self, epoch: usize, events: usize, observer: &mut dyn Observer) {
        let step = self.progress.step;
        let mut stops = observer.evaluation_begins(self.evaluator.runs(events));
        self.evaluator.watch(Box::new(move || if stops() { Err(Error::Interrupted { epoch, step }) } else { Ok(()) }));
    }

    fn write_checkpoint(&self, executor: &mut dyn Executor) -> Result<()> {
        let Some(Checkpoints { folder, header }) = &self.checkpoints else { return Ok(()) };
        if self.progress.best_epoch == self.progress.epoch && self.progress.partial.batches == 0 {
            checkpoint::save(&checkpoint::best(folder), header, executor, &self.progress, false)?;
        }
        checkpoint::save(&checkpoint::latest(folder), header, executor, &self.progress, true)
    }

    /// Writes the parameters of methods that do not train by steps.
    pub fn write_initial(&self, executor: &mut dyn Executor) -> Result<()> {
        let Some(Checkpoints { folder, header }) = &self.checkpoints else { return Ok(()) };
        checkpoint::save(&checkpoint::best(folder), header, executor, &self.progress, false)
    }
}

/// Part `index` of the samples of an epoch.
fn part(order: &[u32], size: usize, index: usize) -> &[u32] {
    &order[index * size..order.len().min((index + 1) * size)]
}

/// The parameter layout of a method, from its training graphs for the smallest batch.
pub fn layout_of(method: &dyn Method) -> Result<ParamLayout> {
    // Three sequences are one user with two views; 192 rows hold two padded views.
    let smallest = |graph| Shape { graph, sequences: 3, rows: 192 };
    (0..method.training_graphs())
        .try_fold(ParamLayout::default(), |layout, graph| Ok(method.train_graph(smallest(graph), layout)?.layout))
}

#[cfg(test)]
#[path = "trainer_tests.rs"]
mod tests;
