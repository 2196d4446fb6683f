//! Mixed precision: the shaders that take matrix units are valid, the tolerance fits what f16 inputs do, and the kernels keep it
//! on an adapter that has such units. Software Vulkan has none: there the last kind is reported as skipped.

use crate::{cached_adapters, trial};
use gpurec::engine::case::Case;
use gpurec::engine::exec::Precision;
use gpurec::engine::exec::gpu::device::{Wanted, choose};
use gpurec::engine::tensor::{Array, DType, Tensor};
use gpurec::ops::{OP_FILES, OpFile};
use gpurec::verify::program::{Program, Results};
use gpurec::verify::{Checked, Failure, MIXED_FLOOR, Outcome, Target, checks, portability};
use libtest_mimic::Trial;
use std::collections::BTreeMap;

/// Ops whose products may round their inputs.
const OPS: &[&str] = &["linear", "linear_cross_entropy", "linear_kl_div"];
/// Bits of an f16's significand, and of a coarser type's.
const F16_BITS: u32 = 11;
const TOO_FEW_BITS: u32 = 6;

pub fn trials() -> Vec<Trial> {
    let adapters = cached_adapters();
    let has_matrices = choose(&adapters, &Wanted::Any).is_some_and(|chosen| adapters[chosen].matrix_subgroup.is_some());
    let mut trials = Vec::new();
    for op in OPS {
        let file = OP_FILES.iter().find(|file| file.name == *op).expect("the op exists");
        trials.push(trial(format!("mixed::shaders_are_valid::{op}"), || portability::check_mixed(&(file.cases)())));
        trials.push(trial(format!("mixed::tolerance_holds_for_f16_inputs::{op}"), || of_all(file, F16_BITS)));
        trials.push(trial(format!("mixed::tolerance_fails_for_coarser_inputs::{op}"), || too_coarse(file)));
        let on_adapter = move || {
            let mut target = Target::gpu(&Wanted::Any, Precision::Mixed)?;
            let check = |worst: Outcome, case: &Case| Ok(worst.worst(checks::against_reference(case, &mut target)?));
            (file.cases)().iter().try_fold(Outcome::default(), check)
        };
        trials.push(trial(format!("mixed::gpu::{op}"), on_adapter).with_ignored_flag(!has_matrices));
    }
    trials
}

fn of_all(file: &OpFile, bits: u32) -> Checked {
    (file.cases)().iter().try_fold(Outcome::default(), |worst, case| Ok(worst.worst(with_rounded_inputs(case, bits)?)))
}

fn too_coarse(file: &OpFile) -> Checked {
    match of_all(file, TOO_FEW_BITS) {
        Err(_) => Ok(Outcome::default()),
        Ok(_) => Err(Failure(format!("{TOO_FEW_BITS} bits pass: the tolerance proves nothing"))),
    }
}

/// The reference from inputs of so many bits against the reference: more than mixed precision rounds, since it leaves
/// cotangents and the products of gradients alone.
fn with_rounded_inputs(case: &Case, bits: u32) -> Checked {
    let program = Program::new(case, &BTreeMap::new())?;
    let inputs = program.wide_inputs()?;
    let exact = program.reference(&inputs)?;
    let mut rounded = inputs;
    for array in rounded.values_mut().filter(|array| array.ty.dtype == DType::F32) {
        array.f_mut().iter_mut().for_each(|x| *x = round(*x, bits));
    }
    let narrow = |array: &Array| Tensor { ty: array.ty.clone(), words: array.to_words() };
    let results = program.reference(&rounded)?;
    let got: Results<Tensor> = results.iter().map(|(name, array)| (name.clone(), narrow(array))).collect();
    checks::compare(&case.label(), &got, &exact, &program.noise(&exact)?, MIXED_FLOOR)
}

/// To the nearest number of so many significant bits.
fn round(x: f64, bits: u32) -> f64 {
    let dropped = 53 - bits;
    let half = 1 << (dropped - 1);
    f64::from_bits((x.to_bits() + half) & !((1 << dropped) - 1))
}
