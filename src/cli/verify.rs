//! `gpurec verify`: every case of every op on the user's own device against the f64 reference, gradients against
//! differences, replays byte for byte, and every shader through the compilers of the three graphics APIs.

use super::DeviceArgs;
use super::console::{bar, note, say, table};
use crate::engine::exec::gpu::device::no_matrix_units;
use crate::engine::exec::{DeviceChoice, Precision};
use crate::error::Result;
use crate::verify::{Subject, Target, Verdict};
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  gpurec verify                              the device that `auto` chooses
  gpurec verify --device llvmpipe            an adapter by name
  gpurec verify --op attention --device cpu
  gpurec verify --golden my/known_answers    also every OP.CASE.safetensors of a folder

The tolerance is 16 times what 1-ulp noise on the inputs changes in f64, plus 1e-6 of the largest value (4e-3 with \
--precision mixed); the table shows the worst share of it. Exit code 1 when a check fails.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct VerifyArgs {
    #[command(flatten)]
    device: DeviceArgs,

    /// Check only this op
    #[arg(long, value_name = "NAME")]
    op: Option<String>,

    /// Check the known answers of this folder as well
    #[arg(long, value_name = "DIR")]
    golden: Option<PathBuf>,
}

pub fn verify(args: &VerifyArgs) -> Result<ExitCode> {
    let op = args.op.as_deref();
    let golden = args.golden.as_deref().map(|folder| Subject::golden(folder, op)).transpose()?;
    // Some golden files are of host code: metrics, random words, schedules.
    let mut subjects = match Subject::ops(op) {
        Err(_) if golden.is_some() => Vec::new(),
        ops => ops?,
    };
    let ops = subjects.len();
    subjects.extend(golden.into_iter().flatten());
    let mut target = open(&args.device)?;
    note(format!("verifying {ops} ops on {}", describe(&target)));
    let bar = bar(subjects.len(), "{bar:30} {pos}/{len}  {msg}", false);
    let check = |subject: &Subject| {
        let verdict = subject.check(&mut target, |what| bar.set_message(what));
        bar.inc(1);
        verdict
    };
    let verdicts: Vec<Verdict> = subjects.iter().map(check).collect();
    bar.finish_and_clear();
    say(render(&verdicts))?;
    Ok(if verdicts.iter().all(|verdict| verdict.failures.is_empty()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The executor under test; `auto` is the one that a run would use.
fn open(device: &DeviceArgs) -> Result<Target> {
    match device.adapter() {
        Some(wanted) => Target::gpu(&wanted, device.precision()),
        None if device.precision() == Precision::Mixed => Err(no_matrix_units("the cpu")),
        None if DeviceChoice::parse(&device.device) == DeviceChoice::Reference => Ok(Target::Reference),
        None => Ok(Target::Cpu { threads: device.threads }),
    }
}

fn describe(target: &Target) -> String {
    match target {
        Target::Gpu(Some(device)) => device.describe(),
        other => other.name().into(),
    }
}

/// The table, and the failures below it.
fn render(verdicts: &[Verdict]) -> String {
    let row = |v: &Verdict| {
        let result = if v.failures.is_empty() { "pass".into() } else { format!("FAIL ({})", v.failures.len()) };
        [v.name.clone(), v.cases.to_string(), format!("{:.3}", v.worst.share), result]
    };
    let mut text =
        table(&["kernel", "cases", "worst share of tolerance", "result"], verdicts.iter().map(row), 1).to_string();
    let failures: Vec<&String> = verdicts.iter().flat_map(|v| &v.failures).collect();
    let cases: usize = verdicts.iter().map(|v| v.cases).sum();
    match failures.len() {
        0 => text += &format!("\nall {cases} cases pass"),
        n => {
            text += &format!("\n{n} checks failed:\n");
            text += &failures.iter().map(|failure| format!("  {failure}\n")).collect::<String>();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Outcome;

    #[test]
    fn failures_are_listed_below_the_table() {
        let failed =
            Verdict { name: "a".into(), cases: 2, worst: Outcome { share: 0.25 }, failures: vec!["a/1: y[0]".into()] };
        let text = render(&[failed]);
        assert!(
            text.contains("0.250") && text.contains("FAIL (1)") && text.contains("1 checks failed:\n  a/1: y[0]"),
            "{text}"
        );
    }
}
