//! Kernels that are compiled in one way for GPUs and in another for software adapters. The suite mostly meets a software
//! adapter; here it is taken for a GPU.

use crate::gpu_trial;
use gpurec::ops::OP_FILES;
use gpurec::verify::{Checked, Failure, Outcome, Target, checks, portability};
use libtest_mimic::Trial;

/// Ops with such kernels.
const OPS: &[&str] = &["attention"];

pub fn trials() -> Vec<Trial> {
    let trial =
        |&op: &&'static str| gpu_trial(format!("hardware_variants::gpu::{op}"), move |target| check(op, target));
    OPS.iter().map(trial).collect()
}

fn check(op: &str, target: &mut Target) -> Checked {
    let file = OP_FILES.iter().find(|file| file.name == op).expect("the op exists");
    let cases = (file.cases)();
    if portability::kernels(&cases, false)? == portability::kernels(&cases, true)? {
        return Err(Failure(format!("{op} has the same kernels for GPUs and software adapters")));
    }
    if let Target::Gpu(Some(device)) = target {
        device.limits.software = false;
    }
    cases.iter().try_fold(Outcome::default(), |worst, case| {
        let replayed = checks::replay(case, target)?;
        Ok(worst.worst(checks::against_reference(case, target)?).worst(replayed))
    })
}
