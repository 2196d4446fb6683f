//! `gpurec run`: trains a method on a data set, evaluates it, and leaves a folder with everything about it.

use super::DeviceArgs;
use super::console::{note, say};
use super::source::SourceArgs;
use super::{profile, seeds, training};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  gpurec run --method lma4rec                          on the bundled data set
  gpurec run --method sasrec --set loss=ce --dataset my_sequences.txt --epochs 20
  gpurec run --method lma4rec --set mode=paper --set ssl=false --dataset amazon_beauty
  gpurec run --method sasrec --out runs/mine --resume  go on where runs/mine stopped
  gpurec run --method sasrec --seeds 5                 seeds 1 to 5, with mean, deviation and interval
  gpurec run --method ssi --teacher runs/a --teacher runs/b    learn from two trained models
  gpurec run --method ssi --stages-on 4090 --stages-on A770    its teachers on two adapters, side by side
  gpurec run --method lma4rec --plan                   print what one training step does, and stop
  gpurec run --method lma4rec --profile                print where the time of a step goes, and stop

`gpurec methods NAME` lists the keys of --set. Later settings win: preset, --config, --set.";

/// So that the last of a thousand seeds is still a whole number of TOML.
const MAX_SEED: u64 = i64::MAX as u64 - 1000;

/// Files of a run. A folder that holds one of them holds a run.
const FILES: [&str; 6] = ["config.toml", "metrics.jsonl", "result.json", "report.html", "checkpoint", "stages"];

#[derive(Clone, Debug, clap::Args)]
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
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(..=MAX_SEED))]
    pub seed: u64,

    /// Train with N seeds from --seed on, each into its own folder of --out, and report mean, deviation and interval
    #[arg(long, value_name = "N", conflicts_with_all = ["plan", "profile"], value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: Option<u64>,

    /// Train for at most this many epochs; short for --set epochs=N
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,

    /// The folder of the run; runs/METHOD-DATASET-seedSEED when not given (-seedsFIRST-LAST with --seeds), with -2, -3, ...
    /// if that is taken
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Begin with the parameters of another run as far as they have the same names: its folder, or a checkpoint file; with
    /// --seeds also a folder of several seeds, where each finds its own
    #[arg(long, value_name = "DIR")]
    pub start_from: Option<PathBuf>,

    /// Learn from this trained run in place of the method's own teachers; may be given more than once
    #[arg(long = "teacher", value_name = "DIR")]
    pub teachers: Vec<PathBuf>,

    /// Train the stages of the run (the teachers of ssi) on these devices in place of --device, those that do not wait for each
    /// other at the same time; may be given more than once
    #[arg(long, value_name = "DEVICE", conflicts_with = "teachers")]
    pub stages_on: Vec<String>,

    /// Continue the run in --out (or the latest default folder) from its last epoch; of several seeds, finished ones stay
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
    let data = training::read_data(args)?;
    if let Some(count) = args.seeds {
        let base = format!("runs/{}-{}-seeds{}-{}", args.method, data.name, args.seed, args.seed + count - 1);
        return seeds::run(args, count, data, &out_folder(args, base)?);
    }
    let out = out_folder(args, format!("runs/{}-{}-seed{}", args.method, data.name, args.seed))?;
    let run = training::set_up(args, data, out)?;
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
    if args.resume && !run.checkpoints().join("latest.safetensors").exists() && !run.options.out.join("stages").exists()
    {
        note(format!("note: {} holds no checkpoint to continue from; training begins anew", run.options.out.display()));
    }
    let (_, results) = training::train_and_report(args, &run, executor.as_mut())?;
    say(results.text())
}

/// The folder to write to: `--out`, else `base` or `base-2`, `base-3`, ... One that holds runs is refused, or passed over
/// where the user named none.
fn out_folder(args: &RunArgs, base: String) -> Result<PathBuf> {
    if let Some(out) = &args.out {
        return match held_run(out) {
            Some(file) if !args.resume && !args.plan && !args.profile => {
                let problem = format!("{} already holds a run: {file}", out.display());
                Err(Error::usage(problem, "add --resume to continue it, or choose another --out"))
            }
            Some(held) if held.starts_with("seed") != args.seeds.is_some() && args.resume => {
                let problem =
                    format!("{} holds {held}: one run and several seeds do not share a folder", out.display());
                Err(Error::usage(
                    problem,
                    "continue it with --seeds as it was begun, or without, or choose another --out",
                ))
            }
            _ => Ok(out.clone()),
        };
    }
    let numbered = |n: usize| PathBuf::from(if n == 1 { base.clone() } else { format!("{base}-{n}") });
    let free = (1..).find(|&n| held_run(&numbered(n)).is_none()).expect("numbers do not end");
    Ok(numbered(if args.resume { (free - 1).max(1) } else { free }))
}

/// A file of a run in the folder, or the folder of a seed.
fn held_run(folder: &Path) -> Option<String> {
    let file = FILES.into_iter().find(|file| folder.join(file).exists()).map(String::from);
    file.or_else(|| seeds::folders(folder).first().map(|(seed, _)| format!("seed{seed}")))
}
