//! A run: one method on one data set with one seed, from configuration to `result.json`.
//!
//! The folder of a run: `config.toml` (complete), `metrics.jsonl` (a line per epoch), `stages/`, `checkpoint/`, `ranks.safetensors` or
//! `scores.safetensors`, `result.json`, `report.html`. A run is finished when `result.json` is there. Every file is written whole or
//! not at all.

use super::checkpoint::{self, Checkpoint, Header};
use super::evaluation::{Basis, Evaluation, Evaluator, refuse_empty_parts};
use super::identity::{DataIdentity, FORMAT, Identity};
use super::ranker::Ranker;
use super::stages::taught;
use super::trainer::{Checkpoints, EpochReport, Observer, OpTime, Trainer, layout_of};
use crate::data::{Interactions, ReadOptions};
use crate::engine::Executor;
use crate::engine::graph::Flat;
use crate::engine::params::{Contents, ParamLayout, State};
use crate::error::{Error, Result};
use crate::eval::{Calibration, SplitMetrics};
use crate::files::{CONFIGURATION, discard_temporary, hexadecimal, read_toml, remove, write_atomically};
use crate::methods::{self, Method, MethodInfo, Sizes, config};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use toml::{Table, Value};

/// What the end of a run leaves.
const RESULTS: [&str; 4] = ["result.json", "ranks.safetensors", "scores.safetensors", "report.html"];

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// By name.
    pub method: String,
    /// The name or path as the user gave it.
    pub dataset: String,
    /// How to read it.
    pub source: ReadOptions,
    /// Complete configuration of the method.
    pub config: Table,
    /// Of every random number.
    pub seed: u64,
    /// The folder of the run.
    pub out: PathBuf,
    /// Go on from its checkpoint.
    pub resume: bool,
    /// The folder of a run whose parameters are the initial ones.
    pub starts_from: Option<PathBuf>,
    /// The folders of the runs to learn from, in place of the method's own stages.
    pub teachers: Vec<PathBuf>,
}

/// `result.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunResult {
    /// By name.
    pub method: String,
    /// What reports call it.
    pub dataset: String,
    /// Of every random number.
    pub seed: u64,
    /// What it ran on.
    pub device: String,
    /// Epochs trained.
    pub epochs: usize,
    /// The epoch whose parameters were kept.
    pub best_epoch: usize,
    /// Wall-clock seconds of training and evaluation, in all processes if the run was continued.
    pub seconds: f64,
    /// Over all events.
    #[serde(flatten)]
    pub metrics: SplitMetrics,
    /// By kind of event, where events have kinds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_kind: BTreeMap<String, SplitMetrics>,
    /// Of the test impressions, where scores say how many clicks will follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

/// `config.toml`: everything needed to run again.
pub fn config_text(method: &str, dataset: &str, source: &ReadOptions, seed: u64, config: &Table) -> String {
    text_of(run_table(method, dataset, source, seed), config)
}

fn run_table(method: &str, dataset: &str, source: &ReadOptions, seed: u64) -> Table {
    let mut run = Table::from_iter([
        ("method".into(), Value::String(method.into())),
        ("dataset".into(), Value::String(dataset.into())),
        ("seed".into(), Value::Integer(seed as i64)),
    ]);
    run.extend(Table::try_from(source).expect("options of names and numbers serialise"));
    run
}

fn text_of(run: Table, config: &Table) -> String {
    let tables = [("run", run), ("method", config.clone())];
    let tables: Table = tables.into_iter().map(|(name, table)| (name.to_string(), Value::Table(table))).collect();
    let text = toml::to_string(&tables).expect("tables serialise");
    format!("# Written by gpurec {}\n{text}", env!("CARGO_PKG_VERSION"))
}

/// A method set up on its data.
pub struct Run {
    /// What the user asked for.
    pub options: RunOptions,
    /// The method as it is listed.
    pub info: &'static MethodInfo,
    /// What it trains on.
    pub data: Arc<Interactions>,
    method: Box<dyn Method>,
    /// Digests of the models that were given.
    models: Vec<String>,
}

impl Run {
    /// Builds the method; nothing is written yet.
    pub fn new(options: RunOptions, data: Arc<Interactions>) -> Result<Run> {
        let info = methods::find(&options.method)?;
        let method = (info.build)(&options.config, Sizes::of(&data))?;
        match method.list_model() {
            Some(_) => drop(data.lists()?),
            None => refuse_empty_parts(&data)?,
        }
        let models = options.starts_from.iter().chain(&options.teachers);
        let models = models.map(|folder| Trained::open(folder)?.digest()).collect::<Result<_>>()?;
        Ok(Run { options, info, data, method, models })
    }

    /// The method with its configuration.
    pub fn method(&self) -> &dyn Method {
        self.method.as_ref()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.options.out.join(name)
    }

    /// What the method learns from, in numbers.
    pub fn statistics(&self) -> String {
        match &self.data.lists {
            Some(lists) if self.method.list_model().is_some() => lists.to_string(),
            _ => self.data.statistics().to_string(),
        }
    }

    /// The folder of its checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path("checkpoint")
    }

    /// The plan of the first training step, as a table.
    pub fn plan_table(&self, executor: &mut dyn Executor) -> Result<String> {
        Trainer::new(self.method(), self.data.clone(), self.options.seed, executor, None)?.plan_table(executor)
    }

    /// Where the time of some training steps goes, by kind of op.
    pub fn profile(&self, executor: &mut dyn Executor, steps: usize) -> Result<Vec<OpTime>> {
        Trainer::new(self.method(), self.data.clone(), self.options.seed, executor, None)?.profile(executor, steps)
    }

    /// Trains, evaluates, and writes the folder of the run.
    pub fn execute(&self, executor: &mut dyn Executor, observer: &mut dyn Observer) -> Result<RunResult> {
        let folder = self.checkpoints();
        if checkpoint::latest(&folder).exists() && !self.options.resume {
            let problem = format!("{} already holds a run", self.options.out.display());
            return Err(Error::usage(problem, "add --resume to continue it, or choose another --out"));
        }
        [&self.options.out, &folder].into_iter().for_each(|folder| discard_temporary(folder));
        let taught = taught(self, executor, observer)?;
        let method = taught.as_deref().unwrap_or(self.method());
        if taught.is_some() {
            observer.begins(&format!("learning from the teachers, in {}", self.options.out.display()));
        }
        let started = Instant::now();
        let (data, seed) = (self.data.clone(), self.options.seed);
        let identity = self.identity();
        let header = Header { identity: identity.clone(), items: data.items.clone() };
        let mut trainer = Trainer::new(method, data, seed, executor, Some(Checkpoints { folder, header }))?;
        if let Some(folder) = &self.options.starts_from {
            let start = Trained::open(folder)?;
            let theirs = &start.identity.data;
            if method.list_model().is_some() && theirs.lists != identity.data.lists {
                let problem =
                    format!("{} was trained on another log of lists than {}", folder.display(), self.data.name);
                let help =
                    "a model of lists knows the values of its own log's fields by number, and those of no other log";
                return Err(Error::usage(problem, help));
            }
            trainer.start_from(executor, &start, folder)?;
            if theirs.training_events != identity.data.training_events {
                observer.warning(&format!(
                    "{} was trained on other events than these, so that test items may have been among them",
                    folder.display()
                ));
            }
        }
        let (mut epochs, mut seconds_before) = (Vec::new(), 0.0);
        if self.options.resume && trainer.resume(executor)? {
            let progress = trainer.progress();
            let wanted = method.training().epochs;
            if progress.epoch > wanted {
                let trained = progress.epoch;
                let out = self.options.out.display();
                let problem = format!("{out} is trained to epoch {trained}, past the {wanted} that are asked for");
                return Err(Error::usage(problem, format!("give --epochs {trained} or more, or choose another --out")));
            }
            epochs = EpochReport::read_all(&self.options.out)?;
            epochs.truncate(progress.epoch);
            seconds_before = progress.partial.seconds + epochs.iter().map(|epoch| epoch.seconds).sum::<f64>();
        }
        // What is there of an earlier end is of other parameters, as soon as training goes on.
        RESULTS.iter().try_for_each(|name| remove(&self.path(name)))?;
        write_atomically(&self.path("config.toml"), self.config_text().as_bytes())?;
        let mut log = Log { path: EpochReport::path(&self.options.out), epochs, observer };
        log.write()?;
        if method.training().epochs == 0 {
            trainer.write_initial(executor)?;
        }
        trainer.fit(executor, &mut log)?;

        let Evaluation { metrics, by_kind, calibration, warning, basis } = trainer.evaluate(executor, &mut log)?;
        warning.iter().for_each(|warning| log.observer.warning(warning));
        basis.write(&self.options.out, &identity.data)?;
        let result = RunResult {
            method: self.options.method.clone(),
            dataset: self.data.name.clone(),
            seed,
            device: executor.describe(),
            epochs: trainer.progress().epoch,
            best_epoch: trainer.progress().best_epoch,
            seconds: seconds_before + started.elapsed().as_secs_f64(),
            metrics,
            by_kind,
            calibration,
        };
        let text = serde_json::to_string_pretty(&result).expect("numbers and strings serialise") + "\n";
        write_atomically(&self.path("result.json"), text.as_bytes())?;
        Ok(result)
    }

    /// `config.toml` of this run.
    pub fn config_text(&self) -> String {
        let RunOptions { method, dataset, source, config, seed, starts_from, teachers, .. } = &self.options;
        let path = |folder: &PathBuf| Value::String(folder.display().to_string());
        let starts_from = starts_from.iter().map(|folder| ("start_from".to_string(), path(folder)));
        let teachers =
            (!teachers.is_empty()).then(|| ("teachers".into(), Value::Array(teachers.iter().map(path).collect())));
        let models = starts_from.chain(teachers);
        text_of(run_table(method, dataset, source, *seed).into_iter().chain(models).collect(), config)
    }

    /// The result, if the folder holds this very run and it is finished; `None` if it is still to be trained, from the
    /// beginning or on. Refused: a folder that holds another run.
    pub fn finished(&self) -> Result<Option<RunResult>> {
        let best = checkpoint::best(&self.checkpoints());
        if !best.exists() {
            return Ok(None);
        }
        let before = Checkpoint::read(&best)?.header.identity;
        if let Some(difference) = before.difference(&self.identity()) {
            let problem = format!("{} holds another run; they differ in {difference}", self.options.out.display());
            let help = format!("give the options of {}, or choose another --out", self.path("config.toml").display());
            return Err(Error::usage(problem, help));
        }
        /// `config.toml`, in part.
        #[derive(Deserialize)]
        struct Config {
            method: Table,
        }
        let path = self.path("result.json");
        if !path.exists() || Basis::file(&self.options.out).is_none() {
            return Ok(None);
        }
        let Config { method } = read_toml(&self.path("config.toml"), CONFIGURATION)?;
        if method != self.options.config {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let problem = |e: serde_json::Error| Error::Format { path, problem: format!("not the result of a run: {e}") };
        serde_json::from_str(&text).map(Some).map_err(problem)
    }

    /// What it trains on.
    pub fn data_identity(&self) -> DataIdentity {
        DataIdentity::new(&self.options.dataset, &self.options.source, &self.data)
    }

    fn identity(&self) -> Identity {
        let RunOptions { method, config, seed, .. } = &self.options;
        Identity {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            method: method.clone(),
            config: config.clone(),
            seed: *seed,
            data: self.data_identity(),
            models: self.models.clone(),
        }
    }
}

/// Writes `metrics.jsonl` and passes everything on.
struct Log<'a> {
    path: PathBuf,
    epochs: Vec<EpochReport>,
    observer: &'a mut dyn Observer,
}

impl Log<'_> {
    fn write(&self) -> Result<()> {
        let line = |epoch| serde_json::to_string(epoch).expect("numbers and strings serialise") + "\n";
        let text: String = self.epochs.iter().map(line).collect();
        write_atomically(&self.path, text.as_bytes())
    }
}

impl Observer for Log<'_> {
    fn epoch_started(&mut self, epoch: usize, epochs: usize, steps: usize, done: usize) {
        self.observer.epoch_started(epoch, epochs, steps, done);
    }

    fn steps_done(&mut self, steps: usize, loss: Option<f32>, tokens_per_second: f64) {
        self.observer.steps_done(steps, loss, tokens_per_second);
    }

    fn epoch_finished(&mut self, report: &EpochReport, best_epoch: usize) -> Result<()> {
        self.epochs.push(report.clone());
        self.write()?;
        self.observer.epoch_finished(report, best_epoch)
    }

    fn warning(&mut self, message: &str) {
        self.observer.warning(message);
    }

    fn begins(&mut self, what: &str) {
        self.observer.begins(what);
    }

    fn evaluation_begins(&mut self, runs: usize) -> Box<dyn FnMut() -> bool> {
        self.observer.evaluation_begins(runs)
    }

    fn wants_to_stop(&mut self) -> bool {
        self.observer.wants_to_stop()
    }
}

/// A trained model, from its checkpoint alone.
pub struct Trained {
    /// Whose it is.
    pub identity: Identity,
    /// Names of the items, by index.
    pub items: Vec<String>,
    /// With the configuration it was trained with.
    pub method: Box<dyn Method>,
    /// Its parameters.
    pub(super) checkpoint: Checkpoint,
}

impl Trained {
    /// From a checkpoint file, the folder of a run, or its `checkpoint` folder.
    pub fn open(path: &Path) -> Result<Trained> {
        Self::open_with(path, &[])
    }

    /// With other settings (`key=value`) than it was trained with, for those that inference reads.
    pub fn open_with(path: &Path, settings: &[String]) -> Result<Trained> {
        let Some(file) = checkpoint::find_best(path) else {
            let problem = format!("{} holds no trained model", path.display());
            let help =
                "give the --out folder of `gpurec run`, such as runs/lma4rec-kuairec-seed1, or a file best.safetensors";
            return Err(Error::usage(problem, help));
        };
        let mut checkpoint = Checkpoint::read(&file)?;
        let Header { mut identity, items } = checkpoint.header.clone();
        identity.config = config::with_settings(&identity.config, settings)?;
        let (length, fields) =
            identity.data.lists.clone().map(|lists| (lists.length, lists.fields)).unwrap_or_default();
        let sizes = Sizes { users: identity.data.users, items: items.len(), length, fields };
        let method = (methods::find(&identity.method)?.build)(&identity.config, sizes)?;
        checkpoint.header.items.clear();
        Ok(Trained { identity, items, method, checkpoint })
    }

    /// SHA-256 of the parameters, in hexadecimal.
    pub fn digest(&self) -> Result<String> {
        let (mut hash, layout) = (Sha256::new(), layout_of(self.method.as_ref())?);
        let contents = self.checkpoint.contents(&layout);
        for set in 0..layout.sets.len() {
            let words = contents.flat(set, Flat::Params)?;
            words.iter().for_each(|words| hash.update(bytemuck::cast_slice::<f32, u8>(words)));
        }
        Ok(hexadecimal(&hash.finalize()))
    }

    /// The trained parameters, and where each of them lies.
    pub fn parameters(&self) -> Result<(ParamLayout, State)> {
        let layout = layout_of(self.method.as_ref())?;
        let state = self.checkpoint.state(&layout)?;
        Ok((layout, state))
    }

    /// What ranks items and makes lists. Loads the parameters into the executor.
    pub fn ranker(&self, executor: &mut dyn Executor) -> Result<Ranker<'_>> {
        Ok(Ranker::new(self.method.as_ref(), self.load(executor)?))
    }

    /// What measures it. Loads the parameters into the executor.
    pub fn evaluator(&self, executor: &mut dyn Executor) -> Result<Evaluator<'_>> {
        Ok(Evaluator::new(self.method.as_ref(), self.load(executor)?))
    }

    fn load(&self, executor: &mut dyn Executor) -> Result<ParamLayout> {
        let layout = layout_of(self.method.as_ref())?;
        executor.load(&layout, &self.checkpoint.contents(&layout))?;
        Ok(layout)
    }
}
