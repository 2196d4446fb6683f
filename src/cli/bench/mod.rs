//! `gpurec bench`: how fast kernels and training steps are, beside the ceilings that the same device reaches.

mod report;
mod roofline;

use super::DeviceArgs;
use super::console::{bar, note, say};
use crate::bench::{
    BenchKernel, DenoiseWork, KERNELS, Patience, PeakSizes, ServeWork, Served, Size, StepWork, measure, peaks,
};
use crate::data::{self, ReadOptions};
use crate::engine::exec::DeviceChoice;
use crate::engine::exec::gpu::device::{adapters, choose};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::methods::{Sizes, config, find};
use report::{Report, Row, Service};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  gpurec bench attention
  gpurec bench softmax-ce --rows 2048 --dim 64 --items 1000000 --device cpu
  gpurec bench step --method sasrec --set loss=ce --dataset amazon_beauty
  gpurec bench denoise --dataset amazon_beauty
  gpurec bench serve --checkpoint runs/drl-rec-shown-seed1
  gpurec bench all --json now.json --plot roofline.svg
  gpurec bench all --baseline before.json --fail-above 1.1

Measure on a quiet machine, and compare only what one run measured.";

/// The arguments of `gpurec bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// What to measure: a kernel, `step` for whole training steps, `denoise` for the inference of diffrec, `serve` for requests to
    /// a model of lists, or `all` for all kernels and the steps of sasrec (with cross-entropy) and lma4rec
    #[arg(value_name = "KERNEL", value_parser = names())]
    what: String,

    #[command(flatten)]
    device: DeviceArgs,

    #[command(flatten)]
    sizes: SizeArgs,

    /// step: the method (see `gpurec methods`); lma4rec when not given
    #[arg(long, value_name = "NAME")]
    method: Option<String>,

    /// step, denoise, all: name (see `gpurec data list`) or path of a data set; kuairec when not given
    #[arg(long, value_name = "NAME|PATH")]
    dataset: Option<String>,

    /// step, denoise: set one key of the method's configuration (of diffrec for denoise); may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    assignments: Vec<String>,

    /// serve: the folder of a run, or a checkpoint in it
    #[arg(long, value_name = "PATH", required_if_eq("what", "serve"))]
    checkpoint: Option<PathBuf>,

    /// serve: items to score in a request; 200 when not given
    #[arg(long, value_name = "N", value_parser = positive)]
    candidates: Option<usize>,

    /// Write the measurements to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Draw the measurements under the ceilings of the device (SVG)
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Print the ratios to an earlier --json file
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,

    /// Exit with 1 if something takes more than this many times as long as in the baseline
    #[arg(long, value_name = "RATIO", requires = "baseline")]
    fail_above: Option<f64>,

    /// Smaller default shapes and fewer repeats; always so for kernels on a software adapter
    #[arg(long)]
    quick: bool,
}

const SIZES: &str = "Sizes (the first default shape with these)";

/// Sizes of one measurement instead of the default shapes.
#[derive(Debug, clap::Args)]
struct SizeArgs {
    /// Rows: tokens, queries or representations
    #[arg(long, help_heading = SIZES, value_name = "N", value_parser = positive)]
    rows: Option<usize>,

    /// Columns; of one head for attention
    #[arg(long, help_heading = SIZES, value_name = "N", value_parser = positive)]
    dim: Option<usize>,

    /// Items in the catalogue
    #[arg(long, help_heading = SIZES, value_name = "N", value_parser = positive)]
    items: Option<usize>,

    /// Sequences
    #[arg(long, help_heading = SIZES, value_name = "N", value_parser = positive)]
    batch: Option<usize>,

    /// Positions of a sequence
    #[arg(long, help_heading = SIZES, value_name = "N", value_parser = positive)]
    steps: Option<usize>,

    /// Heads of attention
    #[arg(long, help_heading = SIZES, value_name = "N", value_parser = positive)]
    heads: Option<usize>,

    /// Columns of the output
    #[arg(long, help_heading = SIZES, value_name = "N", value_parser = positive)]
    hidden: Option<usize>,
}

fn positive(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a whole number above 0".into())
}

fn names() -> Vec<&'static str> {
    KERNELS.iter().map(|kernel| kernel.name).chain(["step", "denoise", "serve", "all"]).collect()
}

impl SizeArgs {
    fn given(&self) -> Vec<(Size, usize)> {
        let value = |size| match size {
            Size::Batch => self.batch,
            Size::Steps => self.steps,
            Size::Heads => self.heads,
            Size::Rows => self.rows,
            Size::Dim => self.dim,
            Size::Hidden => self.hidden,
            Size::Items => self.items,
        };
        Size::ALL.into_iter().filter_map(|size| Some((size, value(size)?))).collect()
    }
}

impl BenchArgs {
    fn dataset(&self) -> &str {
        self.dataset.as_deref().unwrap_or("kuairec")
    }

    /// The training steps to measure: those that were asked for; for `all`, those of SASRec with cross-entropy and of LMA4Rec.
    fn steps(&self) -> Vec<StepWork> {
        let work = |method: &str, assignments: &[String]| StepWork {
            method: method.into(),
            dataset: self.dataset().into(),
            assignments: assignments.into(),
        };
        match self.what.as_str() {
            "step" => vec![work(self.method.as_deref().unwrap_or("lma4rec"), &self.assignments)],
            "all" => vec![work("sasrec", &["loss=ce".into()]), work("lma4rec", &[])],
            _ => Vec::new(),
        }
    }

    fn denoise(&self) -> Vec<DenoiseWork> {
        if self.what == "denoise" { DenoiseWork::all(self.dataset(), &self.assignments) } else { Vec::new() }
    }

    /// The networks to measure in service.
    fn serve(&self) -> Result<Vec<ServeWork>> {
        let checkpoint = self.checkpoint.as_deref().filter(|_| self.what == "serve");
        checkpoint.map_or(Ok(Vec::new()), |path| ServeWork::all(path, self.candidates.unwrap_or(CANDIDATES)))
    }

    /// Options that this measurement would not look at.
    fn refuse_what_does_not_apply(&self) -> Result<()> {
        let options = [
            ("--method", self.method.is_some(), &["step"][..]),
            ("--dataset", self.dataset.is_some(), &["step", "denoise", "all"]),
            ("--set", !self.assignments.is_empty(), &["step", "denoise"]),
            ("--checkpoint", self.checkpoint.is_some(), &["serve"]),
            ("--candidates", self.candidates.is_some(), &["serve"]),
        ];
        for (option, given, applies) in options {
            if given && !applies.contains(&self.what.as_str()) {
                let problem = format!("{option} says nothing of `{}`", self.what);
                let of: Vec<String> = applies.iter().map(|what| format!("`gpurec bench {what}`")).collect();
                return Err(Error::usage(problem, format!("leave {option} away; it is for {}", of.join(", "))));
            }
        }
        Ok(())
    }
}

/// Items to score in a request: what DRL-Rec's online system does.
const CANDIDATES: usize = 200;

/// How thoroughly to measure, by what computes.
struct Effort {
    executor: &'static str,
    quick: bool,
    peaks: PeakSizes,
    patience: Patience,
}

impl Effort {
    fn of(args: &BenchArgs) -> Effort {
        let adapters = adapters();
        let adapter = args.device.adapter().and_then(|wanted| choose(&adapters, &wanted)).map(|i| &adapters[i]);
        let mib: usize = (1 << 20) / 4;
        let peaks = |elements, rounds, copied_mib| PeakSizes { elements, rounds, copied_words: copied_mib * mib };
        let (executor, software, peaks, sample) = match adapter {
            None if DeviceChoice::parse(&args.device.device) == DeviceChoice::Reference => {
                ("reference", true, peaks(1024, 64, 1), 2)
            }
            None => ("cpu", false, peaks(1 << 16, 4096, 64), 2),
            Some(adapter) if adapter.is_software() => ("gpu", true, peaks(1 << 14, 1024, 16), 30),
            Some(adapter) if adapter.max_binding_bytes < 256 << 20 => ("gpu", false, peaks(1 << 20, 4096, 64), 30),
            Some(_) => ("gpu", false, peaks(1 << 22, 4096, 256), 30),
        };
        let quick = args.quick || software;
        let patience = Patience {
            total: Duration::from_millis(if quick { 300 } else { 1500 }),
            sample: Duration::from_millis(sample),
        };
        Effort { executor, quick, peaks, patience }
    }
}

/// Measures, prints, writes. The exit code is 1 if something has slowed beyond `--fail-above`.
pub fn bench(args: &BenchArgs) -> Result<ExitCode> {
    let given = args.sizes.given();
    let chosen: Vec<&BenchKernel> =
        KERNELS.iter().filter(|kernel| [kernel.name, "all"].contains(&args.what.as_str())).collect();
    if chosen.len() != 1 && !given.is_empty() {
        let help = "give sizes to one kernel; --set batch_size=N sets the batch of a step";
        return Err(Error::usage(format!("`{}` has no one shape to change", args.what), help));
    }
    args.refuse_what_does_not_apply()?;
    let effort = Effort::of(args);
    let mut works = Vec::new();
    for kernel in &chosen {
        works.extend(kernel.shapes(&given, effort.quick)?.into_iter().map(|shape| (*kernel, shape)));
    }
    let (steps, denoise, serve) = (args.steps(), args.denoise(), args.serve()?);
    refuse_mistakes(args.dataset(), &steps, &denoise)?;
    let baseline = args.baseline.as_deref().map(Report::read).transpose()?;
    let mut executor = args.device.open()?;

    let progress =
        bar(1 + works.len() + steps.len() + denoise.len() + serve.len(), "{bar:20} {pos}/{len}  {msg}", false);
    let started = |what: String| progress.set_message(what);
    started("the ceilings of the device".into());
    let peaks = peaks::measure(executor.as_mut(), effort.peaks, effort.patience)?;
    progress.inc(1);
    let mut results = Vec::new();
    for (kernel, shape) in &works {
        started(format!("{}, {shape}", kernel.name));
        let directions = [("fwd", false), ("fwd+bwd", true)];
        for (direction, backward) in &directions[..if kernel.differentiable { 2 } else { 1 }] {
            let measured = measure(executor.as_mut(), kernel.work(shape, *backward)?, effort.patience)?;
            results.push(Row::new(kernel.name, shape.to_string(), effort.executor, direction, &measured, peaks));
        }
        // Memory of one shape is not kept for the next.
        executor = args.device.open()?;
        progress.inc(1);
    }
    for work in &denoise {
        started(format!("denoising, {}", work.assignments.join(" ")));
        let (shape, measured, users) = work.measure(executor.as_mut(), effort.patience)?;
        let row = Row::new("denoise", shape, effort.executor, "rank", &measured, peaks);
        results.push(Row { users_per_second: Some(users as f64 / measured.median()), ..row });
        executor = args.device.open()?;
        progress.inc(1);
    }
    for work in &serve {
        started(format!("requests to {}", work.checkpoint.display()));
        let Served { shape, measured, parameters } = work.measure(executor.as_mut(), effort.patience)?;
        let row = Row::new("serve", shape, effort.executor, "request", &measured, peaks);
        let service = Service {
            p99_ms: 1e3 * measured.quantile(0.99),
            requests_per_second: measured.samples.len() as f64 / measured.samples.iter().sum::<f64>(),
            parameter_bytes: 4 * parameters as u64,
        };
        results.push(Row { service: Some(service), ..row });
        executor = args.device.open()?;
        progress.inc(1);
    }
    for step in &steps {
        started(format!("steps of {} on {}", step.method, step.dataset));
        let (shape, measured) = step.measure(executor.as_mut(), effort.patience)?;
        results.push(Row::new("step", shape, effort.executor, "step", &measured, peaks));
        executor = args.device.open()?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    let report = Report { device: executor.describe(), gpurec: env!("CARGO_PKG_VERSION").into(), peaks, results };
    say(report.text())?;
    write(args, &report)?;
    baseline.map_or(Ok(ExitCode::SUCCESS), |before| verdict(args, &report, &before))
}

/// Whatever is wrong with a method, the data set or a setting is said before anything is measured.
fn refuse_mistakes(dataset: &str, steps: &[StepWork], denoise: &[DenoiseWork]) -> Result<()> {
    if steps.is_empty() && denoise.is_empty() {
        return Ok(());
    }
    let data = data::resolve(dataset, &ReadOptions::default())?;
    let steps = steps.iter().map(|work| (work.method.as_str(), &work.assignments));
    for (method, assignments) in steps.chain(denoise.iter().map(|work| ("diffrec", &work.assignments))) {
        let info = find(method)?;
        let settings = config::resolve(info, data::paper_name(&data.name), None, assignments)?;
        (info.build)(&settings, Sizes::of(&data))?;
    }
    Ok(())
}

fn write(args: &BenchArgs, report: &Report) -> Result<()> {
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(report).expect("numbers and strings serialise") + "\n";
        write_atomically(path, text.as_bytes())?;
    }
    args.plot.as_deref().map_or(Ok(()), |path| roofline::write(report, path))
}

fn verdict(args: &BenchArgs, report: &Report, before: &Report) -> Result<ExitCode> {
    let (text, worst) = report.compare(before)?;
    say(format!("\n{text}"))?;
    match args.fail_above {
        Some(limit) if worst > limit => {
            note(format!("slower than allowed: {worst:.2} times the baseline, the limit is {limit:.2}"));
            Ok(ExitCode::FAILURE)
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
