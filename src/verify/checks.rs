//! The checks on single cases: against the reference, gradients by finite differences, replay, poison.

use super::program::{Program, Results};
use super::{Checked, Failure, NOISE_FACTOR, Outcome, Target};
use crate::engine::case::Case;
use crate::engine::exec::ExecOptions;
use crate::engine::graph::ValueId;
use crate::engine::rng::{RngState, Site};
use crate::engine::tensor::{Array, DType, Tensor};
use std::collections::{BTreeMap, HashMap};

/// Compares results with f64 values under the suite's tolerance, of which `floor` is the share of the largest value;
/// integers must be equal.
pub fn compare(
    label: &str,
    got: &Results<Tensor>,
    exact: &Results<Array>,
    noise: &Results<f64>,
    floor: f64,
) -> Checked {
    let mut outcome = Outcome::default();
    for (name, exact) in exact {
        let got = got.get(name).ok_or_else(|| Failure(format!("{label}: {name} was not computed")))?;
        if got.ty != exact.ty {
            return Err(Failure(format!("{label}: {name} is {}, expected {}", got.ty, exact.ty)));
        }
        if exact.ty.dtype == DType::U32 {
            let differing = got.as_u32().iter().zip(exact.u()).position(|(a, b)| a != b);
            if let Some(i) = differing {
                return Err(Failure(format!("{label}: {name}[{i}] is {}, expected {}", got.as_u32()[i], exact.u()[i])));
            }
            continue;
        }
        let largest = exact.f().iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let tolerance = NOISE_FACTOR * noise.get(name).copied().unwrap_or(0.0) + floor * largest + 1e-30;
        for (i, (a, b)) in got.words.iter().zip(exact.f()).enumerate() {
            let share = (f64::from(*a) - b).abs() / tolerance;
            if share.is_nan() || share > 1.0 {
                let problem = format!(
                    "{label}: {name}[{i}] is {a:e}, expected {b:e}: {share:.2} of the tolerance {tolerance:.1e}"
                );
                return Err(Failure(problem));
            }
            outcome.share = outcome.share.max(share);
        }
    }
    Ok(outcome)
}

/// Outputs and gradients of the target against the f64 reference.
pub fn against_reference(case: &Case, target: &mut Target) -> Checked {
    let given = BTreeMap::new();
    let program = Program::new(case, &given)?;
    let exact = program.reference(&program.wide_inputs()?)?;
    let noise = program.noise(&exact)?;
    let got = target.with(ExecOptions::default(), |executor| Program::run(case, &given, executor))?;
    compare(&case.label(), &got, &exact, &noise, target.relative_floor())
}

/// The reference's gradients against central differences of its outputs, with a random cotangent, along random
/// directions. Gradients that are zero everywhere prove nothing and fail.
pub fn gradients(case: &Case) -> Checked {
    const DIRECTIONS: u32 = 4;
    const STEP: f64 = 1e-5;
    const TOLERANCE: f64 = 1e-6;
    let program = Program::new(case, &BTreeMap::new())?;
    let inputs = program.wide_inputs()?;
    let exact = program.reference(&inputs)?;
    let objective = |inputs: &HashMap<ValueId, Array>| -> Result<f64, Failure> {
        let results = program.reference(inputs)?;
        let outputs = program.graph.outputs.iter().filter(|(name, _)| name.starts_with("out."));
        let pairs = outputs.filter_map(|(name, value)| {
            let cotangent = program.cotangents.iter().find(|(output, _)| output == value)?.1;
            Some(results[name].f().iter().zip(inputs[&cotangent].f()).map(|(y, c)| y * c).sum::<f64>())
        });
        Ok(pairs.sum())
    };
    let mut outcome = Outcome::default();
    for (name, value) in &program.wrt {
        let gradient = exact.get(&format!("grad.{name}"));
        let gradient = gradient.ok_or_else(|| Failure(format!("{}: no gradient for {name}", case.label())))?;
        let magnitude = gradient.f().iter().map(|g| g * g).sum::<f64>().sqrt();
        if magnitude < 1e-9 && !case.attrs.contains_key("zero_gradient") {
            return Err(Failure(format!("{}: the gradient of {name} is zero: this case proves nothing", case.label())));
        }
        for draw in 0..DIRECTIONS {
            let mut stream = RngState { seed: 79, step: draw }.stream(Site(3), value.0 as u32);
            let direction: Vec<f64> = (0..gradient.f().len()).map(|_| stream.normal()).collect();
            let shifted = |sign: f64| {
                let mut inputs = inputs.clone();
                let array = inputs.get_mut(value).expect("an input");
                array.f_mut().iter_mut().zip(&direction).for_each(|(x, d)| *x += sign * STEP * d);
                objective(&inputs)
            };
            let numeric = (shifted(1.0)? - shifted(-1.0)?) / (2.0 * STEP);
            let analytic: f64 = gradient.f().iter().zip(&direction).map(|(g, d)| g * d).sum();
            let scale = magnitude.max(numeric.abs()).max(1e-3);
            let share = (numeric - analytic).abs() / (TOLERANCE * scale);
            if share.is_nan() || share > 1.0 {
                let problem = format!(
                    "{}: grad.{name} is {analytic:e} along direction {draw}, differences give {numeric:e}",
                    case.label()
                );
                return Err(Failure(problem));
            }
            outcome.share = outcome.share.max(share);
        }
    }
    Ok(outcome)
}

/// Replays give the same bytes, also after other work in the same slots, in NaN-filled memory, in unshared memory, and
/// for any number of threads; and nothing is written outside its buffer.
pub fn replay(case: &Case, target: &mut Target) -> Checked {
    let given = BTreeMap::new();
    let label = case.label();
    let same = |what: &str, a: &Results<Tensor>, b: &Results<Tensor>| {
        for (name, x) in a {
            let bits = |t: &Tensor| t.words.iter().map(|w| w.to_bits()).collect::<Vec<u32>>();
            if bits(x) != bits(&b[name]) {
                return Err(Failure(format!("{label}: {name} differs {what}")));
            }
        }
        Ok(())
    };
    let shared = ExecOptions::default();
    let runs = target.with(shared, |executor| Program::run_times(case, &given, executor, 3))?;
    same("between two replays", &runs[0], &runs[1])?;
    same("between two replays", &runs[0], &runs[2])?;
    let poisoned = ExecOptions { share_slots: false, poison: true };
    let (clean, intact) = target.with(poisoned, |executor| {
        let results = Program::run(case, &given, executor)?;
        Ok((results, executor.guards_intact()?))
    })?;
    same("when memory is filled with NaN before the run", &runs[0], &clean)?;
    if !intact {
        return Err(Failure(format!("{label}: a kernel wrote behind the end of a buffer")));
    }
    if let Target::Cpu { .. } = target {
        for threads in [1, 2, 3] {
            let other = Target::Cpu { threads }.with(shared, |executor| Program::run(case, &given, executor))?;
            same(&format!("with {threads} threads"), &runs[0], &other)?;
        }
    }
    Ok(Outcome::default())
}
