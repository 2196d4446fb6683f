//! `gpurec bench`: how fast a kernel is, and how near to what the same device reaches on a plain product and a plain copy.

mod attention;
mod measure;
mod peaks;

use super::DeviceArgs;
use super::console::{note, say, table};
use crate::engine::Executor;
use crate::engine::exec::gpu::device::{adapters, choose};
use crate::error::Result;
use crate::train::checkpoint::write_atomically;
use attention::Shape;
use measure::Measured;
use peaks::Peaks;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  gpurec bench attention
  gpurec bench attention --device cpu --threads 1 --json attention.json
  gpurec bench attention --device llvmpipe --quick";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    #[command(subcommand)]
    kernel: Kernel,
}

#[derive(Debug, clap::Subcommand)]
enum Kernel {
    /// Causal attention over packed sequences, forward and forward + backward
    #[command(after_help = EXAMPLES)]
    Attention(KernelArgs),
}

#[derive(Debug, clap::Args)]
struct KernelArgs {
    #[command(flatten)]
    device: DeviceArgs,

    /// Write the measurements to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Smaller shapes and fewer repeats; always so on a software adapter
    #[arg(long)]
    quick: bool,
}

/// How thoroughly to measure, by what computes.
#[derive(Clone, Copy, Debug)]
struct Effort {
    quick: bool,
    /// Copies of the measured ops in one run, so that submitting it costs little beside it.
    copies: usize,
    /// Side of the square product that stands for the peak of arithmetic.
    gemm_side: usize,
    /// Words of the copy that stands for the peak of memory traffic.
    copy_words: usize,
    time: Duration,
}

impl Effort {
    fn of(args: &KernelArgs) -> Effort {
        let adapters = adapters();
        let adapter = args.device.adapter().and_then(|wanted| choose(&adapters, &wanted)).map(|i| &adapters[i]);
        let mib = (1 << 20) / 4;
        let (quick, copies, gemm_side, copy_words) = match adapter {
            None => (args.quick, 1, 1024, 64 * mib),
            Some(adapter) if adapter.is_software() => (true, 1, 512, 16 * mib),
            Some(adapter) if adapter.max_binding_bytes < 256 << 20 => (args.quick, 8, 2048, 64 * mib),
            Some(_) => (args.quick, 8, 4096, 256 * mib),
        };
        Effort { quick, copies, gemm_side, copy_words, time: Duration::from_millis(if quick { 300 } else { 1500 }) }
    }
}

/// What `--json` writes.
#[derive(Serialize)]
struct Report {
    kernel: &'static str,
    executor: String,
    gpurec: &'static str,
    peaks: Peaks,
    measurements: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    shape: Shape,
    pass: &'static str,
    #[serde(flatten)]
    measured: Measured,
    share_of_measured_gemm: f64,
    share_of_measured_copy: f64,
}

pub fn bench(args: &BenchArgs) -> Result<()> {
    let Kernel::Attention(args) = &args.kernel;
    let effort = Effort::of(args);
    let mut executor = args.device.open()?;
    let report = measure_attention(executor.as_mut(), &effort)?;
    say(render(&report))?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).expect("numbers and strings serialise") + "\n";
        write_atomically(path, text.as_bytes())?;
    }
    Ok(())
}

fn measure_attention(executor: &mut dyn Executor, effort: &Effort) -> Result<Report> {
    note(format!("measuring the peaks of {}", executor.describe()));
    let peaks = peaks::measure(executor, effort)?;
    let mut measurements = Vec::new();
    for shape in attention::shapes(effort.quick) {
        note(format!("measuring attention, {shape}"));
        for (pass, backward) in [("forward", false), ("forward + backward", true)] {
            let measured = attention::measure(executor, shape, backward, effort)?;
            let share_of_measured_gemm = measured.gflops_per_second / peaks.gemm.gflops_per_second;
            let share_of_measured_copy = measured.gb_per_second / peaks.copy.gb_per_second;
            measurements.push(Row { shape, pass, measured, share_of_measured_gemm, share_of_measured_copy });
        }
    }
    let (executor, gpurec) = (executor.describe(), env!("CARGO_PKG_VERSION"));
    Ok(Report { kernel: "attention", executor, gpurec, peaks, measurements })
}

fn render(report: &Report) -> String {
    let header = ["shape", "pass", "median ms", "GFLOP/s", "GB/s", "of measured GEMM", "of measured copy"];
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let row = |row: &Row| {
        let Measured { median_ms, gflops_per_second, gb_per_second } = row.measured;
        [
            row.shape.to_string(),
            row.pass.into(),
            format!("{median_ms:.3}"),
            format!("{gflops_per_second:.1}"),
            format!("{gb_per_second:.1}"),
            percent(row.share_of_measured_gemm),
            percent(row.share_of_measured_copy),
        ]
    };
    let Peaks { gemm, copy, gemm_side, copy_mib } = &report.peaks;
    format!(
        "{} on {}\nmeasured GEMM, {gemm_side} x {gemm_side} x {gemm_side}, f32: {:.1} GFLOP/s\n\
         measured copy of {copy_mib} MiB, read and written: {:.1} GB/s\n{}\n\
         GB/s counts each input read once and each output written once; GFLOP/s the products of the causal half.",
        report.kernel,
        report.executor,
        gemm.gflops_per_second,
        copy.gb_per_second,
        table(&header, report.measurements.iter().map(row), 2),
    )
}
