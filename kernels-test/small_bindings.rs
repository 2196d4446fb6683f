//! Tables larger than one binding: the ops over the item table cut it by binding offset. Real adapters allow 128 MiB and
//! more; here the limit is lowered until the cases' own tables are too large.

use crate::gpu_trial;
use gpurec::ops::OP_FILES;
use gpurec::verify::{Checked, Failure, Outcome, Target, checks};
use libtest_mimic::Trial;

/// Words of the lowered limit, by op: below its largest table and above everything that is not cut.
const LIMITS: &[(&str, usize)] = &[
    ("adam", 64),
    ("clip_scale", 262_144),
    ("embedding", 512),
    ("linear_cross_entropy", 4096),
    ("linear_topk", 8192),
    ("rank", 8192),
    ("row_dot", 1024),
];

pub fn trials() -> Vec<Trial> {
    let trial = |&(op, words): &(&'static str, usize)| {
        gpu_trial(format!("small_bindings::gpu::{op}"), move |target| check(op, words, target))
    };
    LIMITS.iter().map(trial).collect()
}

fn check(op: &str, words: usize, target: &mut Target) -> Checked {
    if let Target::Gpu(Some(device)) = target {
        device.limits.binding_words = words;
        device.limits.scratch_words = words;
    }
    let file = OP_FILES.iter().find(|file| file.name == op).expect("the op exists");
    let (mut worst, mut cut) = (Outcome::default(), 0);
    for case in (file.cases)() {
        let larger = case.tensors.iter().any(|t| t.tensor.ty.len() > words);
        match checks::against_reference(&case, target) {
            Ok(outcome) => {
                worst = worst.worst(outcome);
                cut += usize::from(larger);
            }
            // What is not a table may be too large as well: such a case is refused, which is right.
            Err(Failure(problem)) if problem.contains("this adapter allows") => {}
            Err(failure) => return Err(failure),
        }
    }
    if cut == 0 {
        return Err(Failure(format!("no case of {op} has a table of more than {words} words that could be cut")));
    }
    Ok(worst)
}
