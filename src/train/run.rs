//! A run: one method on one data set with one seed, from configuration to `result.json`.
//!
//! The folder of a run: `config.toml` (complete), `metrics.jsonl` (a line per epoch), `checkpoint/`, `result.json`,
//! `report.md`. Every file is written whole or not at all.

use super::checkpoint::{self, write_atomically};
use super::ranker::Ranker;
use super::trainer::{EpochReport, Observer, OpTime, Trainer, layout_of};
use crate::data::Interactions;
use crate::engine::Executor;
use crate::error::{Error, Result};
use crate::eval::metrics::Metrics;
use crate::methods::{self, Method, MethodInfo, Sizes};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use toml::{Table, Value};

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct RunOptions {
    pub method: String,
    /// The name or path as the user gave it.
    pub dataset: String,
    /// Complete configuration of the method.
    pub config: Table,
    pub seed: u64,
    pub out: PathBuf,
    pub resume: bool,
}

/// `result.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunResult {
    pub method: String,
    pub dataset: String,
    pub seed: u64,
    pub device: String,
    /// Epochs trained.
    pub epochs: usize,
    /// The epoch whose parameters were kept.
    pub best_epoch: usize,
    /// Wall-clock seconds of training and evaluation in this process.
    pub seconds: f64,
    pub valid: Metrics,
    /// History excluded from the candidates.
    pub test: Metrics,
    pub test_history_kept: Metrics,
}

/// A method set up on its data.
pub struct Run {
    pub options: RunOptions,
    pub info: &'static MethodInfo,
    pub data: Arc<Interactions>,
    method: Box<dyn Method>,
}

impl Run {
    pub fn new(options: RunOptions, data: Arc<Interactions>) -> Result<Run> {
        let info = methods::find(&options.method)?;
        let method = (info.build)(&options.config, Sizes::of(&data))?;
        Ok(Run { options, info, data, method })
    }

    pub fn method(&self) -> &dyn Method {
        self.method.as_ref()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.options.out.join(name)
    }

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
        let started = Instant::now();
        let folder = self.checkpoints();
        if checkpoint::latest(&folder).exists() && !self.options.resume {
            let problem = format!("{} already holds a run", self.options.out.display());
            return Err(Error::usage(problem, "add --resume to continue it, or choose another --out"));
        }
        if self.options.resume {
            self.refuse_other_config()?;
        }
        write_atomically(&self.path("config.toml"), self.config_text().as_bytes())?;
        let names = serde_json::to_vec(&self.data.items).expect("strings serialise");
        write_atomically(&checkpoint::items(&folder), &names)?;

        let (data, seed) = (self.data.clone(), self.options.seed);
        let mut trainer = Trainer::new(self.method(), data, seed, executor, Some(folder))?;
        let mut lines = Vec::new();
        if self.options.resume && trainer.resume(executor)? {
            lines = self.finished_epochs(trainer.progress().epoch)?;
        }
        let mut log = Log { path: self.path("metrics.jsonl"), lines, failure: None, observer };
        log.write();
        if self.method.training().epochs == 0 {
            trainer.write_initial()?;
        }
        trainer.fit(executor, &mut log)?;
        log.failure.take().map_or(Ok(()), Err)?;

        let valid = trainer.rank_split(executor, false)?;
        let test = trainer.rank_split(executor, true)?;
        if let Some(warning) = crate::eval::tie_warning(test.tie_share) {
            log.observer.warning(&warning);
        }
        let result = RunResult {
            method: self.options.method.clone(),
            dataset: self.data.name.clone(),
            seed,
            device: executor.describe(),
            epochs: trainer.progress().epoch,
            best_epoch: trainer.progress().best_epoch,
            seconds: started.elapsed().as_secs_f64(),
            valid: Metrics::from_ranks(&valid.history_excluded),
            test: Metrics::from_ranks(&test.history_excluded),
            test_history_kept: Metrics::from_ranks(&test.history_kept),
        };
        let text = serde_json::to_string_pretty(&result).expect("numbers and strings serialise") + "\n";
        write_atomically(&self.path("result.json"), text.as_bytes())?;
        Ok(result)
    }

    /// `config.toml`: everything needed to run again.
    pub fn config_text(&self) -> String {
        let run = Table::from_iter([
            ("method".into(), Value::String(self.options.method.clone())),
            ("dataset".into(), Value::String(self.options.dataset.clone())),
            ("users".into(), Value::Integer(self.data.n_users() as i64)),
            ("seed".into(), Value::Integer(self.options.seed as i64)),
        ]);
        let tables = [("run", run), ("method", self.options.config.clone())];
        let tables = tables.map(|(name, table)| (name.to_string(), Value::Table(table)));
        format!(
            "# Written by gpurec {}\n{}",
            env!("CARGO_PKG_VERSION"),
            toml::to_string(&Table::from_iter(tables)).expect("tables serialise")
        )
    }

    /// A run continues only under the configuration that it began with; more epochs are welcome.
    fn refuse_other_config(&self) -> Result<()> {
        let path = self.path("config.toml");
        let Ok(before) = std::fs::read_to_string(&path) else { return Ok(()) };
        let comparable = |text: &str| {
            let mut table: Table = text.parse().unwrap_or_default();
            if let Some(Value::Table(run)) = table.get_mut("run") {
                run.remove("users");
            }
            if let Some(Value::Table(method)) = table.get_mut("method") {
                method.remove("epochs");
                method.remove("patience");
            }
            table
        };
        if comparable(&before) == comparable(&self.config_text()) {
            return Ok(());
        }
        let problem = format!("{} was begun with another configuration", self.options.out.display());
        Err(Error::usage(problem, format!("give the options of {}, or choose another --out", path.display())))
    }

    /// The lines of `metrics.jsonl` up to the epoch of the checkpoint.
    fn finished_epochs(&self, epochs: usize) -> Result<Vec<String>> {
        let path = self.path("metrics.jsonl");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        Ok(text.lines().take(epochs).map(String::from).collect())
    }
}

/// Writes `metrics.jsonl` and passes everything on.
struct Log<'a> {
    path: PathBuf,
    lines: Vec<String>,
    failure: Option<Error>,
    observer: &'a mut dyn Observer,
}

impl Log<'_> {
    fn write(&mut self) {
        let text: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        if let Err(error) = write_atomically(&self.path, text.as_bytes()) {
            self.failure.get_or_insert(error);
        }
    }
}

impl Observer for Log<'_> {
    fn epoch_started(&mut self, epoch: usize, epochs: usize, steps: usize) {
        self.observer.epoch_started(epoch, epochs, steps);
    }

    fn steps_done(&mut self, steps: usize, loss: Option<f32>, tokens_per_second: f64) {
        self.observer.steps_done(steps, loss, tokens_per_second);
    }

    fn epoch_finished(&mut self, report: &EpochReport, best_epoch: usize) {
        self.lines.push(serde_json::to_string(report).expect("numbers and strings serialise"));
        self.write();
        self.observer.epoch_finished(report, best_epoch);
    }

    fn warning(&mut self, message: &str) {
        self.observer.warning(message);
    }
}

/// A trained model, from the folder of a run.
pub struct Trained {
    pub method_name: String,
    pub dataset: String,
    pub items: Vec<String>,
    /// Users that it was trained on.
    pub n_users: usize,
    /// Complete configuration of the method.
    pub config: Table,
    pub method: Box<dyn Method>,
    folder: PathBuf,
}

impl Trained {
    /// `folder` is that of the run, or its `checkpoint` folder.
    pub fn open(folder: &Path) -> Result<Trained> {
        let is_checkpoint = folder.file_name().is_some_and(|name| name == "checkpoint");
        let run = if is_checkpoint { folder.parent().unwrap_or(folder) } else { folder };
        let path = run.join("config.toml");
        let text =
            std::fs::read_to_string(&path).map_err(|e| Error::io("read the configuration of the run", &path, e))?;
        let wrong = |problem: &str| Error::Format { path: path.clone(), problem: problem.into() };
        let table: Table = text.parse().map_err(|e: toml::de::Error| wrong(e.message()))?;
        let entry =
            |name: &str| table.get("run").and_then(|run| run.get(name)).and_then(Value::as_str).map(String::from);
        let method_name = entry("method").ok_or_else(|| wrong("it names no method"))?;
        let dataset = entry("dataset").ok_or_else(|| wrong("it names no data set"))?;
        let config =
            table.get("method").and_then(Value::as_table).ok_or_else(|| wrong("its table [method] is missing"))?;
        let checkpoints = run.join("checkpoint");
        let names = checkpoint::items(&checkpoints);
        let text = std::fs::read_to_string(&names).map_err(|e| Error::io("read the item names", &names, e))?;
        let items: Vec<String> = serde_json::from_str(&text)
            .map_err(|e| Error::Format { path: names.clone(), problem: format!("not a list of item names: {e}") })?;
        let users = table.get("run").and_then(|run| run.get("users")).and_then(Value::as_integer).unwrap_or(0);
        let sizes = Sizes { users: users as usize, items: items.len() };
        let method = (methods::find(&method_name)?.build)(config, sizes)?;
        Ok(Trained {
            method_name,
            n_users: sizes.users,
            dataset,
            items,
            config: config.clone(),
            method,
            folder: checkpoints,
        })
    }

    /// Loads the best parameters into the executor; the scorer's plans are compiled as they are needed.
    pub fn ranker(&self, executor: &mut dyn Executor) -> Result<Ranker<'_>> {
        let layout = layout_of(self.method.as_ref())?;
        let (state, _) = checkpoint::load(&checkpoint::best(&self.folder), &layout)?;
        executor.load(&layout, &state)?;
        Ok(Ranker::new(self.method.as_ref(), layout))
    }
}
