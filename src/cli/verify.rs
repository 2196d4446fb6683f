//! `gpurec verify`: every case of every op on the user's own device against the f64 reference, gradients against
//! differences, replays byte for byte, and every shader through the compilers of the three graphics APIs.

use super::DeviceArgs;
use super::console::{bar, note, say, table};
use crate::engine::case::Case;
use crate::engine::exec::gpu::device::no_matrix_units;
use crate::engine::exec::{DeviceChoice, Precision};
use crate::error::{Error, Result};
use crate::ops::{OP_FILES, OpFile};
use crate::verify::{Checked, Failure, Outcome, Target, checks, golden, portability};
use indicatif::ProgressBar;
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  gpurec verify                              the device that `auto` chooses
  gpurec verify --device llvmpipe            an adapter by name
  gpurec verify --op attention --device cpu
  gpurec verify --golden my/known_answers    also every OP.CASE.safetensors of a folder

The tolerance is 16 times what 1-ulp noise on the inputs changes in f64, plus 1e-6 of the largest value (4e-3 with
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

/// One row of the table.
struct Verdict {
    kernel: String,
    cases: usize,
    worst: Outcome,
    failures: Vec<String>,
}

pub fn verify(args: &VerifyArgs) -> Result<ExitCode> {
    let files = chosen_ops(args.op.as_deref())?;
    let golden = golden_files(args)?;
    let mut target = open(&args.device)?;
    note(format!("verifying {} ops on {}", files.len(), describe(&target)));
    let steps = files.len() + golden.iter().map(|(_, paths)| paths.len()).sum::<usize>();
    let bar = bar(steps, "{bar:30} {pos}/{len}  {msg}", false);
    let mut verdicts: Vec<Verdict> = files.iter().map(|file| check_op(file, &mut target, &bar)).collect();
    verdicts.extend(golden.iter().map(|(op, paths)| check_golden(op, paths, &mut target, &bar)));
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

/// An op by the name of its file, or by that of one of its kernels.
fn chosen_ops(name: Option<&str>) -> Result<Vec<&'static OpFile>> {
    let Some(name) = name else { return Ok(OP_FILES.iter().collect()) };
    let is_meant = |file: &&OpFile| file.name == name || file.kernels.iter().any(|kernel| kernel.0 == name);
    let found: Vec<&OpFile> = OP_FILES.iter().filter(is_meant).collect();
    let names: Vec<&str> = OP_FILES.iter().map(|file| file.name).collect();
    if found.is_empty() { Err(Error::unknown("op", name, &names)) } else { Ok(found) }
}

/// The files of the golden folder by op, those of `--op` only.
fn golden_files(args: &VerifyArgs) -> Result<Vec<(String, Vec<PathBuf>)>> {
    let Some(folder) = &args.golden else { return Ok(Vec::new()) };
    let mut by_op = std::collections::BTreeMap::<String, Vec<PathBuf>>::new();
    for path in golden::files(folder)? {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let op = file.split('.').next().unwrap_or_default().to_string();
        if args.op.as_ref().is_none_or(|wanted| *wanted == op) {
            by_op.entry(op).or_default().push(path);
        }
    }
    if by_op.is_empty() {
        let problem = format!("{} holds no golden file to check", folder.display());
        return Err(Error::usage(problem, "golden files are called OP.CASE.safetensors"));
    }
    Ok(by_op.into_iter().collect())
}

fn check_op(file: &OpFile, target: &mut Target, bar: &ProgressBar) -> Verdict {
    let cases = (file.cases)();
    let mut verdict =
        Verdict { kernel: file.name.into(), cases: cases.len(), worst: Outcome::default(), failures: vec![] };
    for (i, case) in cases.iter().enumerate() {
        bar.set_message(format!("{} ({}/{})", file.name, i + 1, cases.len()));
        verdict.add("", checks::against_reference(case, target));
        verdict.add("replay: ", checks::replay(case, target));
        verdict.add("gradient: ", gradients(case));
    }
    verdict.add("portability: ", portability::check(&cases));
    bar.inc(1);
    verdict
}

/// The gradient of the f64 reference itself, which is not the device's tolerance.
fn gradients(case: &Case) -> Checked {
    checks::gradients(case).map(|_| Outcome::default())
}

fn check_golden(op: &str, paths: &[PathBuf], target: &mut Target, bar: &ProgressBar) -> Verdict {
    let kernel = format!("{op} (known answers)");
    let mut verdict = Verdict { kernel, cases: paths.len(), worst: Outcome::default(), failures: vec![] };
    for path in paths {
        bar.set_message(format!("{}", path.display()));
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        verdict.add(&format!("{file}: "), golden::check(path, target));
        bar.inc(1);
    }
    verdict
}

impl Verdict {
    fn add(&mut self, check: &str, checked: Checked) {
        match checked {
            Ok(outcome) => self.worst = self.worst.worst(outcome),
            Err(Failure(problem)) => self.failures.push(format!("{check}{problem}")),
        }
    }
}

/// The table, and the failures below it.
fn render(verdicts: &[Verdict]) -> String {
    let row = |v: &Verdict| {
        let result = if v.failures.is_empty() { "pass".into() } else { format!("FAIL ({})", v.failures.len()) };
        [v.kernel.clone(), v.cases.to_string(), format!("{:.3}", v.worst.share), result]
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

    #[test]
    fn an_op_is_found_by_its_file_and_by_its_kernel() {
        assert_eq!(chosen_ops(None).unwrap().len(), OP_FILES.len());
        assert_eq!(chosen_ops(Some("scale")).unwrap()[0].name, "scale");
        assert!(chosen_ops(Some("atention")).unwrap_err().help().unwrap().contains("`attention`"));
    }

    #[test]
    fn failures_are_listed_below_the_table() {
        let failed = Verdict {
            kernel: "a".into(),
            cases: 2,
            worst: Outcome { share: 0.25 },
            failures: vec!["a/1: y[0]".into()],
        };
        let text = render(&[failed]);
        assert!(
            text.contains("0.250") && text.contains("FAIL (1)") && text.contains("1 checks failed:\n  a/1: y[0]"),
            "{text}"
        );
    }
}
