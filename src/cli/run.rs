//! `gpurec run`: trains a method on a data set, evaluates it, and leaves a folder with everything about it.

use super::console::{grouped, note, say};
use super::profile;
use super::progress::Progress;
use super::report::{self, Report};
use super::results::Results;
use super::source::SourceArgs;
use super::{DeviceArgs, interrupt};
use crate::data::{self, Interactions, ReadOptions};
use crate::engine::Executor;
use crate::error::{Error, Result};
use crate::methods::{config, find};
use crate::train::trainer::layout_of;
use crate::train::{Run, RunOptions, RunResult};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXAMPLES: &str = "\
Examples:
  gpurec run --method lma4rec                          on the bundled data set
  gpurec run --method sasrec --set loss=ce --dataset my_sequences.txt --epochs 20
  gpurec run --method lma4rec --set mode=paper --set ssl=false --dataset amazon_beauty
  gpurec run --method sasrec --out runs/mine --resume  go on where runs/mine stopped
  gpurec run --method lma4rec --plan                   print what one training step does, and stop
  gpurec run --method lma4rec --profile                print where the time of a step goes, and stop

`gpurec methods NAME` lists the keys of --set. Later settings win: preset, --config, --set.";

/// Files of a run. A folder that holds one of them holds a run.
const FILES: [&str; 5] = ["config.toml", "metrics.jsonl", "result.json", "report.md", "checkpoint"];

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// What to train (see `gpurec methods`)
    #[arg(long, default_value = "lma4rec", value_name = "NAME")]
    pub method: String,

    /// Name (see `gpurec data list`) or path of a data set
    #[arg(long, default_value = "kuairec", value_name = "NAME|PATH")]
    pub dataset: String,

    /// A TOML file of `key = value` lines
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Set one key of the configuration; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub assignments: Vec<String>,

    #[command(flatten)]
    pub source: SourceArgs,

    #[command(flatten)]
    pub device: DeviceArgs,

    /// Seed of every random number. The same seed on the same device gives the same bytes
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: u64,

    /// Train for at most this many epochs; short for --set epochs=N
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,

    /// The folder of the run; runs/METHOD-DATASET-seedSEED when not given, with -2, -3, ... if that is taken
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Continue the run in --out (or the latest default folder) from its last epoch
    #[arg(long)]
    pub resume: bool,

    /// Print the final table only
    #[arg(long, short)]
    pub quiet: bool,

    /// Print the plan of one training step and stop
    #[arg(long)]
    pub plan: bool,

    /// Print where the time of a training step goes, op by op, and stop
    #[arg(long, conflicts_with = "plan")]
    pub profile: bool,
}

pub fn run(args: &RunArgs) -> Result<()> {
    let info = find(&args.method)?;
    let assignments: Vec<String> =
        args.assignments.iter().cloned().chain(args.epochs.map(|n| format!("epochs={n}"))).collect();
    // A data set's name is known before it is read, but not whether it exists: the cheap checks go first.
    let resolve = |paper_name| config::resolve(info, paper_name, args.config.as_deref(), &assignments);
    resolve(None)?;
    let source = args.source.options()?;
    let data = Arc::new(data::resolve(&args.dataset, &source)?);
    let options = RunOptions {
        method: args.method.clone(),
        dataset: args.dataset.clone(),
        source: ReadOptions { split: Some(data.rule().clone()), ..source },
        config: resolve(data::paper_name(&data.name))?,
        seed: args.seed,
        out: out_folder(args, &data)?,
        resume: args.resume,
    };
    let run = Run::new(options, data)?;
    if (args.plan || args.profile) && run.method().training().epochs == 0 {
        let problem = format!("{} trains nothing here, so there is no step to look at", args.method);
        return Err(Error::usage(problem, "take a method that trains, such as sasrec"));
    }
    let mut executor = args.device.open()?;
    if args.plan {
        return say(run.plan_table(executor.as_mut())?);
    }
    if args.profile {
        let times = run.profile(executor.as_mut(), profile::STEPS)?;
        return say(profile::render(&executor.describe(), times));
    }
    if !args.quiet {
        say(introduction(&run, executor.as_ref())?)?;
    }
    if args.resume && !run.checkpoints().join("latest.safetensors").exists() {
        note(format!("note: {} holds no checkpoint to continue from; training begins anew", run.options.out.display()));
    }
    let result = train(&run, executor.as_mut(), args.quiet)?;
    finish(args, &run, &result)
}

/// The folder to write to. One that holds a run is refused, or passed over where the user named none.
fn out_folder(args: &RunArgs, data: &Interactions) -> Result<PathBuf> {
    let taken = |folder: &Path| FILES.iter().find(|file| folder.join(file).exists());
    if let Some(out) = &args.out {
        return match taken(out) {
            Some(file) if !args.resume && !args.plan && !args.profile => {
                let problem = format!("{} already holds a run: {file}", out.display());
                Err(Error::usage(problem, "add --resume to continue it, or choose another --out"))
            }
            _ => Ok(out.clone()),
        };
    }
    let base = format!("runs/{}-{}-seed{}", args.method, data.name, args.seed);
    let numbered = |n: usize| PathBuf::from(if n == 1 { base.clone() } else { format!("{base}-{n}") });
    let free = (1..).find(|&n| taken(&numbered(n)).is_none()).expect("numbers do not end");
    Ok(numbered(if args.resume { (free - 1).max(1) } else { free }))
}

/// What was understood of the command line.
fn introduction(run: &Run, executor: &dyn Executor) -> Result<String> {
    let RunOptions { config, seed, out, .. } = &run.options;
    let layout = layout_of(run.method())?;
    let parameters: usize = layout.sets.iter().map(|set| set.count()).sum();
    let training = run.method().training();
    let until = match training.epochs {
        0 => "nothing to train: the parameters are counted from the data".into(),
        epochs => format!(
            "up to {epochs} epochs, batches of {} users, seed {seed}; stops {} epochs after the best {}",
            training.batch_size, training.patience, training.select_by
        ),
    };
    let mode = config.get("mode").and_then(toml::Value::as_str).unwrap_or("quality");
    let lines = [
        ("method", format!("{}, mode {mode}: {}", run.info.title, run.info.paper)),
        ("data", format!("{}: {}", run.data.name, run.data.statistics())),
        ("split", run.data.rule().to_string()),
        ("device", executor.describe()),
        ("model", format!("{} parameters", grouped(parameters))),
        ("training", until),
        ("output", out.display().to_string()),
    ];
    Ok(lines.into_iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect())
}

/// Trains and evaluates. A run that fails before its first checkpoint leaves nothing behind.
fn train(run: &Run, executor: &mut dyn Executor, quiet: bool) -> Result<RunResult> {
    interrupt::listen();
    let mut progress = Progress::new(quiet, &run.method().training().select_by);
    let result = run.execute(executor, &mut progress);
    progress.finish();
    if result.is_err() && !run.options.resume {
        discard_unless_begun(&run.options.out);
    }
    result
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

/// The table, and `report.md` with its picture.
fn finish(args: &RunArgs, run: &Run, result: &RunResult) -> Result<()> {
    let results = Results::of_run(result, &run.options.config);
    report::write(&Report { run, result, results: &results, command: command(args) })?;
    let trained = match result.epochs {
        0 => format!("{:.1} s", result.seconds),
        epochs => format!("best of {epochs} epochs: {}; {:.1} s", result.best_epoch, result.seconds),
    };
    if !args.quiet {
        let gap = if result.epochs > 0 { "\n" } else { "" };
        say(format!("{gap}{trained}; everything is in {}", run.options.out.display()))?;
    }
    say(results.text())
}

/// The command line that gives this run again, but for its place.
fn command(args: &RunArgs) -> String {
    let quoted = |text: &str| {
        let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./,@".contains(c));
        if plain { text.to_string() } else { format!("'{}'", text.replace('\'', "'\\''")) }
    };
    let mut words =
        vec![format!("gpurec run --method {} --dataset {} --seed {}", args.method, quoted(&args.dataset), args.seed)];
    words.extend(args.config.iter().map(|file| format!("--config {}", quoted(&file.display().to_string()))));
    words.extend(args.assignments.iter().map(|text| format!("--set {}", quoted(text))));
    words.extend(args.epochs.map(|n| format!("--epochs {n}")));
    words.push(format!("--device {}", quoted(&args.device.device)));
    words.join(" ")
}
