//! Every class of adapter has kernels of its own for products and attention. Those of the class that this adapter is not run
//! here as well, and those for software adapters without subgroups. All products give the same bits: a word of a product is
//! one chain over k whatever the tile.

use crate::gpu_trial;
use gpurec::engine::case::Case;
use gpurec::engine::exec::gpu::kernel::{AdapterClass, GRID_FOLD};
use gpurec::engine::exec::{ExecOptions, Executor};
use gpurec::ops::{OP_FILES, kernel};
use gpurec::verify::program::Program;
use gpurec::verify::{Checked, Failure, Outcome, Target, checks};
use libtest_mimic::Trial;
use std::collections::BTreeMap;

const OPS: &[&str] = &["attention", "matmul", "linear", "linear_cross_entropy", "rank"];
const CLASSES: [AdapterClass; 2] = [AdapterClass::Hardware, AdapterClass::Software];

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = Vec::new();
    for op in OPS {
        trials.push(gpu_trial(format!("adapter_class::gpu::{op}"), move |target| {
            change_class(target);
            against_reference(op, target)
        }));
    }
    trials.push(gpu_trial("adapter_class::gpu::attention_without_subgroups".into(), |target| {
        set_class(target, AdapterClass::Software);
        against_reference("attention", target)
    }));
    trials.push(gpu_trial("adapter_class::tiles_agree_bit_by_bit".into(), tiles_agree));
    trials.push(gpu_trial("adapter_class::a_folded_grid_covers_every_tile".into(), folded_grid));
    trials
}

fn against_reference(op: &str, target: &mut Target) -> Checked {
    let file = OP_FILES.iter().find(|file| file.name == op).expect("the op exists");
    let check = |worst: Outcome, case: &Case| Ok(worst.worst(checks::against_reference(case, target)?));
    (file.cases)().iter().try_fold(Outcome::default(), check)
}

/// Takes the kernels that are not this adapter's own.
fn change_class(target: &mut Target) {
    if let Target::Gpu(Some(device)) = target {
        let own = device.limits.adapter;
        device.limits.adapter = CLASSES.into_iter().find(|class| *class != own).expect("there are two");
        device.limits.subgroup = None;
    }
}

fn set_class(target: &mut Target, class: AdapterClass) {
    if let Target::Gpu(Some(device)) = target {
        device.limits.adapter = class;
        device.limits.subgroup = None;
    }
}

/// `A B^T` for `a[m, k]` and `b[n, k]`.
fn product(a: &[f32], b: &[f32], k: usize, target: &mut Target) -> Result<Vec<f32>, Failure> {
    let case =
        Case::new(kernel("matmul").expect("it is an op"), "product").attr("trans_a", false).attr("trans_b", true);
    let case = case.constant("a", &[a.len() / k, k], a.to_vec()).constant("b", &[b.len() / k, k], b.to_vec());
    let run = |executor: &mut dyn Executor| Program::run(&case, &BTreeMap::new(), executor);
    Ok(target.with(ExecOptions::default(), run)?["out.y"].words.clone())
}

/// Parts of a large product are computed again as products of their own, by other tiles, from words and from quads.
fn tiles_agree(target: &mut Target) -> Checked {
    let (m, n) = (131, 140);
    for k in [63, 64, 200] {
        let data = |len: usize, step: usize| (0..len).map(|i| ((i * step) % 1009) as f32 / 997.0 - 0.5).collect();
        let (a, b): (Vec<f32>, Vec<f32>) = (data(m * k, 7919), data(n * k, 104_729));
        set_class(target, AdapterClass::Software);
        let whole = product(&a, &b, k, target)?;
        for class in CLASSES {
            set_class(target, class);
            for (rows, columns) in [(m, n), (m, 139), (5, n), (m, 3), (70, 64), (1, 1)] {
                let part = product(&a[..rows * k], &b[..columns * k], k, target)?;
                let differs = (0..rows * columns).find(|i| part[*i] != whole[i / columns * n + i % columns]);
                if let Some(i) = differs {
                    let problem = format!("{rows}x{columns}x{k}, {class:?}: word {i} differs from {m}x{n}x{k}");
                    return Err(Failure(problem));
                }
            }
        }
    }
    Ok(Outcome::default())
}

/// More workgroups than a row of the grid holds, and some behind the last tile.
fn folded_grid(target: &mut Target) -> Checked {
    set_class(target, AdapterClass::Hardware);
    let a: Vec<f32> = (0..64 * GRID_FOLD + 65).map(|i| (i % 10_007) as f32).collect();
    let y = product(&a, &[3.0], 1, target)?;
    match y.iter().zip(&a).position(|(y, a)| *y != 3.0 * a) {
        None => Ok(Outcome::default()),
        Some(row) => Err(Failure(format!("row {row} of {} is {}", a.len(), y[row]))),
    }
}
