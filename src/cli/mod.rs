//! The command line: one file per subcommand. Results go to stdout; progress, warnings and errors to stderr.

pub mod bench;
mod chart;
mod compare;
pub mod console;
mod data;
mod devices;
mod eval;
mod excerpt;
mod export;
mod histories;
mod interrupt;
mod methods;
mod profile;
mod progress;
mod recommend;
mod report;
mod results;
mod run;
mod runs;
mod seeds;
mod sheet;
mod source;
mod sweep;
mod training;
mod verify;

use crate::engine::Executor;
use crate::engine::exec::gpu::device::{Wanted, adapters, choose};
use crate::engine::exec::{DeviceChoice, Precision};
use crate::error::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  gpurec run --method lma4rec            train on the bundled data set
  gpurec run --method sasrec --set loss=ce --dataset my_sequences.txt
  gpurec recommend --checkpoint runs/lma4rec-kuairec-seed1 --history 3,17,29
  gpurec verify                          prove the kernels on this machine's device

A data set is a file of lines `user item item item ...` in time order, a table (csv, tsv, RecBole .inter, JSON lines, parquet), or a \
folder made by `gpurec data prepare`; `gpurec data --help` says more.";

/// Trains and evaluates sequential recommenders on any GPU and on plain CPUs.
#[derive(Debug, Parser)]
#[command(name = "gpurec", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a method on a data set and evaluate it
    Run(run::RunArgs),
    /// Evaluate a trained model again
    Eval(eval::EvalArgs),
    /// Compare two trained models user by user: differences, intervals and tests
    Compare(compare::CompareArgs),
    /// Train every variant and grid point of a TOML file, and print one table
    Sweep(sweep::SweepArgs),
    /// Put finished runs into one table, beside the papers' figures
    Report(report::ReportArgs),
    /// Recommend items for a history or for a file of them, with a trained model
    Recommend(recommend::RecommendArgs),
    /// Write a trained model as plain tables that other programs can score with
    Export(export::ExportArgs),
    /// Prove the kernels right on a device: every case of every op against f64
    Verify(verify::VerifyArgs),
    /// List the adapters of this machine and the executor that `auto` chooses
    #[command(after_help = devices::EXAMPLES)]
    Devices,
    /// List the methods, or show the presets and keys of one
    Methods(methods::MethodsArgs),
    /// Data sets: list, fetch, show, check, prepare
    Data(data::DataArgs),
    /// Measure kernels and training steps on a device
    Bench(bench::BenchArgs),
}

/// Runs the command. The exit code is 0, or 1 where the command's own verdict is negative.
pub fn run(cli: Cli) -> Result<ExitCode> {
    interrupt::listen();
    let done = |()| ExitCode::SUCCESS;
    match cli.command {
        Command::Run(args) => run::run(&args).map(done),
        Command::Eval(args) => eval::eval(&args).map(done),
        Command::Compare(args) => compare::compare(&args).map(done),
        Command::Sweep(args) => sweep::sweep(&args).map(done),
        Command::Report(args) => report::report(&args).map(done),
        Command::Recommend(args) => recommend::recommend(&args).map(done),
        Command::Export(args) => export::export(&args).map(done),
        Command::Verify(args) => verify::verify(&args),
        Command::Devices => devices::devices().map(done),
        Command::Methods(args) => methods::methods(&args).map(done),
        Command::Data(args) => data::data(&args).map(done),
        Command::Bench(args) => bench::bench(&args),
    }
}

/// Where to run; the same in every command that computes.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceArgs {
    /// auto, cpu, gpu, or a part of an adapter's name (see `gpurec devices`)
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: String,

    /// Threads of the cpu executor; 0 is one per core. Results do not depend on it
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub threads: usize,

    /// mixed: forward products on the adapter's matrix units, from inputs rounded to f16; needs such an adapter
    /// (`gpurec devices`), and another precision is another result
    #[arg(long, default_value = "f32", value_name = "PRECISION")]
    pub precision: PrecisionArg,
}

/// `Precision` as the command line writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PrecisionArg {
    /// All products in f32
    F32,
    /// Forward products of layers and logits from inputs rounded to f16
    Mixed,
}

impl DeviceArgs {
    fn open(&self) -> Result<Box<dyn Executor>> {
        DeviceChoice::parse(&self.device).open_with(self.threads, self.precision())
    }

    fn precision(&self) -> Precision {
        match self.precision {
            PrecisionArg::F32 => Precision::F32,
            PrecisionArg::Mixed => Precision::Mixed,
        }
    }

    /// The adapter that `open` asks for; `None` where it computes without one.
    fn adapter(&self) -> Option<Wanted<'_>> {
        match DeviceChoice::parse(&self.device) {
            DeviceChoice::Auto => choose(&adapters(), &Wanted::Hardware).map(|_| Wanted::Hardware),
            DeviceChoice::Gpu => Some(Wanted::Hardware),
            DeviceChoice::Named(name) => Some(Wanted::Named(name)),
            DeviceChoice::Cpu | DeviceChoice::Reference => None,
        }
    }
}
