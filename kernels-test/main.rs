//! The kernel-correctness suite. Tests are made from the ops' own `cases()` and from golden files; one test is one check
//! of one op on one executor, and runs all cases of that op.
//!
//!     cargo nextest run --release --test kernels                      # everything
//!     cargo nextest run --release --test kernels attention            # one op
//!     GPUREC_GOLDEN_DIR=some/folder cargo nextest run --release --test kernels golden
//!
//! Without an adapter the gpu tests are reported as skipped; with GPUREC_REQUIRE_GPU=1 they fail.

mod adapter_class;
mod browser;
mod chromium;
mod closed_forms;
mod domain;
mod memory;
mod mixed;
mod mutation;
mod small_bindings;
mod trajectory;

use gpurec::engine::exec::Precision;
use gpurec::engine::exec::gpu::device::{Wanted, adapters, choose};
use gpurec::ops::OP_FILES;
use gpurec::verify::{Checked, Failure, Outcome, Target, checks, golden, portability};
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};

fn main() {
    let mut arguments = Arguments::from_args();
    // Executors use the machine's threads themselves.
    arguments.test_threads.get_or_insert(1);
    let mut trials = op_trials();
    trials.extend(golden_trials(&golden_folder()));
    trials.extend(mutation::trials());
    trials.extend(trajectory::trials());
    trials.extend(closed_forms::trials());
    trials.extend(domain::trials());
    trials.extend(memory::trials());
    trials.extend(small_bindings::trials());
    trials.extend(adapter_class::trials());
    trials.extend(mixed::trials());
    let no_browser = chromium::chromium().is_none();
    trials.push(trial("portability::browser".into(), browser::check).with_ignored_flag(no_browser));
    let name = "portability::browser_rejects_a_barrier_under_a_branch";
    trials.push(trial(name.into(), browser::rejects_a_barrier_under_a_branch).with_ignored_flag(no_browser));
    libtest_mimic::run(&arguments, trials).exit();
}

/// The suite's own copy, or the folder that the environment names.
fn golden_folder() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-test/golden");
    std::env::var_os("GPUREC_GOLDEN_DIR").map_or(own, PathBuf::from)
}

fn gpu_required() -> bool {
    std::env::var("GPUREC_REQUIRE_GPU").is_ok_and(|value| value == "1")
}

/// A test on a GPU adapter: skipped where there is none, unless one is required.
fn gpu_trial(name: String, check: impl FnOnce(&mut Target) -> Checked + Send + 'static) -> Trial {
    let missing = choose(&cached_adapters(), &Wanted::Any).is_none();
    trial(name, move || check(&mut Target::gpu(&Wanted::Any, Precision::F32)?))
        .with_ignored_flag(missing && !gpu_required())
}

fn cached_adapters() -> Vec<gpurec::engine::exec::gpu::AdapterSummary> {
    static FOUND: std::sync::OnceLock<Vec<gpurec::engine::exec::gpu::AdapterSummary>> = std::sync::OnceLock::new();
    FOUND.get_or_init(adapters).clone()
}

fn trial(name: String, check: impl FnOnce() -> Checked + Send + 'static) -> Trial {
    Trial::test(name, move || match check() {
        Ok(outcome) => {
            println!("worst share of the tolerance: {:.3}", outcome.share);
            Ok(())
        }
        Err(Failure(problem)) => Err(Failed::from(problem)),
    })
}

fn op_trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for file in OP_FILES {
        let name = file.name;
        let all = move |mut check: Box<dyn FnMut(&gpurec::engine::case::Case) -> Checked>| {
            let cases = (file.cases)();
            assert!(!cases.is_empty(), "{name} has no cases");
            cases.iter().try_fold(Outcome::default(), |worst, case| Ok(worst.worst(check(case)?)))
        };
        let cpu = || Target::Cpu { threads: 2 };
        trials.push(trial(format!("reference::cpu::{name}"), move || {
            let mut target = cpu();
            all(Box::new(move |case| checks::against_reference(case, &mut target)))
        }));
        trials.push(trial(format!("gradients::{name}"), move || all(Box::new(checks::gradients))));
        trials.push(trial(format!("replay::cpu::{name}"), move || {
            let mut target = cpu();
            all(Box::new(move |case| checks::replay(case, &mut target)))
        }));
        trials.push(trial(format!("portability::{name}"), move || portability::check(&(file.cases)())));
        for (check_name, check) in [
            ("reference", checks::against_reference as fn(&gpurec::engine::case::Case, &mut Target) -> Checked),
            ("replay", checks::replay),
        ] {
            trials.push(gpu_trial(format!("{check_name}::gpu::{name}"), move |target| {
                (file.cases)().iter().try_fold(Outcome::default(), |worst, case| Ok(worst.worst(check(case, target)?)))
            }));
        }
    }
    trials
}

fn golden_trials(folder: &Path) -> Vec<Trial> {
    let files = match golden::files(folder) {
        Ok(files) => files,
        Err(error) => {
            let problem = error.to_string();
            return vec![trial("golden".into(), move || Err(Failure(problem)))];
        }
    };
    let mut trials = Vec::new();
    for path in files {
        let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
        let (for_reference, for_cpu) = (path.clone(), path.clone());
        let on = |path: PathBuf, mut target: Target| move || golden::check(&path, &mut target);
        trials.push(trial(format!("golden::reference::{name}"), on(for_reference, Target::Reference)));
        trials.push(trial(format!("golden::cpu::{name}"), on(for_cpu, Target::Cpu { threads: 2 })));
        trials.push(gpu_trial(format!("golden::gpu::{name}"), move |target| golden::check(&path, target)));
    }
    trials
}
