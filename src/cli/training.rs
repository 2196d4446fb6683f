//! What every command that trains does with one run: set it up, say what was understood, train, evaluate, report.

use super::console::{grouped, say, shell_command};
use super::interrupt;
use super::progress::Progress;
use super::report::run::{self as report, Report};
use super::results::Results;
use super::run::RunArgs;
use super::{DeviceArgs, PrecisionArg};
use crate::data::{self, Interactions, ReadOptions};
use crate::engine::Executor;
use crate::error::{Error, Result};
use crate::methods::{config, find};
use crate::train::stages::train_side_by_side;
use crate::train::trainer::layout_of;
use crate::train::{Run, RunOptions, RunResult};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Table;

/// The complete configuration; `dataset` is the data set's name where it is known already.
pub fn resolve_config(args: &RunArgs, dataset: Option<&str>) -> Result<Table> {
    let epochs = args.epochs.map(|n| format!("epochs={n}"));
    let assignments: Vec<String> = args.assignments.iter().cloned().chain(epochs).collect();
    config::resolve(find(&args.method)?, dataset.and_then(data::paper_name), args.config.as_deref(), &assignments)
}

/// The data set. A data set's name is known before it is read, but not whether it exists: the cheap checks go first.
pub fn read_data(args: &RunArgs) -> Result<Arc<Interactions>> {
    resolve_config(args, None)?;
    Ok(Arc::new(data::resolve(&args.dataset, &args.source.options()?)?))
}

/// The run that the arguments describe, in the folder `out`.
pub fn set_up(args: &RunArgs, data: Arc<Interactions>, out: PathBuf) -> Result<Run> {
    let data = data.drawn(args.seed)?;
    let options = RunOptions {
        method: args.method.clone(),
        dataset: args.dataset.clone(),
        source: ReadOptions { split: Some(data.rule().clone()), ..args.source.options()? },
        config: resolve_config(args, Some(&data.name))?,
        seed: args.seed,
        out,
        resume: args.resume,
        starts_from: args.start_from.clone(),
        teachers: args.teachers.clone(),
    };
    let run = Run::new(options, data)?;
    if !args.stages_on.is_empty() && run.method().stages().is_empty() {
        let problem =
            format!("--stages-on means nothing for {}: it has no stages before its own training", args.method);
        return Err(Error::usage(problem, "leave it out; --device says where a method trains"));
    }
    Ok(run)
}

/// Trains, evaluates, and writes the folder of the run with its report.
pub fn train_and_report(args: &RunArgs, run: &Run, executor: &mut dyn Executor) -> Result<(RunResult, Results)> {
    if !args.quiet {
        say(introduction(run, executor)?)?;
    }
    let result = train(args, run, executor)?;
    let results = write_report(args, run, &result)?;
    if !args.quiet {
        let trained = match result.epochs {
            0 => format!("{:.1} s", result.seconds),
            epochs => format!("\nbest of {epochs} epochs: {}; {:.1} s", result.best_epoch, result.seconds),
        };
        say(format!("{trained}; everything is in {}", run.options.out.display()))?;
    }
    Ok((result, results))
}

/// `report.html`, the last file of a run.
fn write_report(args: &RunArgs, run: &Run, result: &RunResult) -> Result<Results> {
    let results = Results::of_run(run, result);
    report::write(&Report { run, result, results: &results, command: command(args) })?;
    Ok(results)
}

/// The report of a run that was killed between its result and its report.
pub fn complete_report(args: &RunArgs, run: &Run, result: &RunResult) -> Result<()> {
    match run.options.out.join(report::FILE).exists() {
        true => Ok(()),
        false => write_report(args, run, result).map(drop),
    }
}

/// What was understood of the command line.
fn introduction(run: &Run, executor: &dyn Executor) -> Result<String> {
    let RunOptions { config, seed, out, .. } = &run.options;
    let layout = layout_of(run.method())?;
    let parameters: usize = layout.sets.iter().map(|set| set.count()).sum();
    let training = run.method().training();
    let until = match training.epochs {
        0 if run.options.starts_from.is_some() => "nothing to train: the parameters are those of --start-from".into(),
        0 => "nothing to train: the parameters are counted from the data".into(),
        epochs => format!(
            "up to {epochs} epochs, batches of {} {}, seed {seed}; {}stops {} epochs after the best {}",
            training.batch_size,
            run.method().batches_of(),
            match training.validate_every {
                1 => String::new(),
                n => format!("validates every {n}, "),
            },
            training.patience,
            training.select_by
        ),
    };
    let mode = config.get("mode").and_then(toml::Value::as_str).unwrap_or("quality");
    let lines = [
        ("method", format!("{}, mode {mode}: {}", run.info.title, run.info.paper)),
        ("data", format!("{}: {}", run.data.name, run.statistics())),
        ("split", run.data.rule().to_string()),
        ("device", executor.describe()),
        ("model", format!("{} parameters", grouped(parameters))),
        ("training", until),
        ("output", out.display().to_string()),
    ];
    Ok(lines.into_iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect())
}

/// Trains and evaluates. A run that fails before its first checkpoint leaves nothing behind.
fn train(args: &RunArgs, run: &Run, executor: &mut dyn Executor) -> Result<RunResult> {
    interrupt::training_begins();
    let mut progress = Progress::new(args.quiet, &run.method().training().select_by);
    let result = train_stages(args, run, &progress).and_then(|()| run.execute(executor, &mut progress));
    progress.finish();
    if result.is_err() && !run.options.resume {
        discard_unless_begun(&run.options.out);
    }
    result
}

/// On devices of their own, where such are given.
fn train_stages(args: &RunArgs, run: &Run, progress: &Progress) -> Result<()> {
    if args.stages_on.is_empty() {
        return Ok(());
    }
    let open = |device: &String| DeviceArgs { device: device.clone(), ..args.device.clone() }.open();
    let mut executors = args.stages_on.iter().map(open).collect::<Result<Vec<_>>>()?;
    train_side_by_side(run, &mut executors, progress)
}

/// Removes what a run has written before its first checkpoint, and the folders if nothing else is in them.
fn discard_unless_begun(out: &Path) {
    let checkpoints = out.join("checkpoint");
    if ["latest.safetensors", "best.safetensors"].iter().any(|file| checkpoints.join(file).exists()) {
        return;
    }
    for file in [out.join("config.toml"), out.join("metrics.jsonl")] {
        drop(std::fs::remove_file(file));
    }
    for folder in [&checkpoints, out] {
        drop(std::fs::remove_dir(folder));
    }
}

/// The command line that gives this run again, but for its place.
fn command(args: &RunArgs) -> String {
    let option = |name: &str, value: String| [format!("--{name}"), value];
    let mut words = vec!["gpurec".to_string(), "run".to_string()];
    words.extend(option("method", args.method.clone()));
    words.extend(option("dataset", args.dataset.clone()));
    words.extend(args.source.words());
    words.extend(option("seed", args.seed.to_string()));
    words.extend(args.config.iter().flat_map(|file| option("config", file.display().to_string())));
    words.extend(args.assignments.iter().flat_map(|text| option("set", text.clone())));
    words.extend(args.epochs.iter().flat_map(|n| option("epochs", n.to_string())));
    words.extend(args.start_from.iter().flat_map(|folder| option("start-from", folder.display().to_string())));
    words.extend(args.teachers.iter().flat_map(|folder| option("teacher", folder.display().to_string())));
    words.extend(args.stages_on.iter().flat_map(|device| option("stages-on", device.clone())));
    words.extend(option("device", args.device.device.clone()));
    if args.device.precision == PrecisionArg::Mixed {
        words.extend(option("precision", "mixed".into()));
    }
    shell_command(words.iter().map(String::as_str))
}
