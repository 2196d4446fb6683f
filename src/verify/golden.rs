//! Known-answer files: any folder of `OP.CASE.safetensors`, checked on every executor.
//!
//! Metadata: `op`, `attrs` (JSON). Tensors: `in.NAME`, `out.NAME`, `cot.NAME` (cotangent of an output), `grad.NAME`.

use super::checks::compare;
use super::program::{Program, Results};
use super::{Checked, Failure, Outcome, Target};
use crate::engine::case::{Case, CaseTensor};
use crate::engine::exec::ExecOptions;
use crate::engine::rng::philox4x32_10;
use crate::engine::tensor::{Array, DType, Tensor, TensorType};
use crate::error::{Error, Result};
use crate::ops::step_mix::Schedule;
use crate::{eval, ops};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One file of known answers.
#[derive(Debug)]
pub struct Golden {
    /// By its name in golden files.
    pub op: String,
    /// What the op is configured by.
    pub attrs: serde_json::Map<String, serde_json::Value>,
    tensors: BTreeMap<String, Tensor>,
}

/// The golden files of a folder, sorted by name.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io("list the golden files in", folder, e))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "safetensors"));
    paths.sort();
    Ok(paths)
}

impl Golden {
    /// Reads a file. `Error::Format` says what is wrong with it.
    pub fn read(path: &Path) -> Result<Golden> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let wrong = |problem: String| Error::Format { path: path.into(), problem };
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| wrong(e.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let op = metadata.get("op").cloned().ok_or_else(|| wrong("the metadata names no op".into()))?;
        let attrs = serde_json::from_str(metadata.get("attrs").map_or("{}", String::as_str));
        let attrs = attrs.map_err(|e| wrong(format!("attrs: {e}")))?;
        let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let words = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            let dtype = match view.dtype() {
                safetensors::Dtype::F32 => DType::F32,
                safetensors::Dtype::I32 | safetensors::Dtype::U32 => DType::U32,
                other => return Err(wrong(format!("tensor {name} has type {other:?}"))),
            };
            tensors.insert(name, Tensor { ty: TensorType { dtype, shape: view.shape().to_vec() }, words });
        }
        Ok(Golden { op, attrs, tensors })
    }

    /// Tensors whose name starts with `prefix`, without it.
    fn named(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let strip = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_string(), tensor.clone()));
        self.tensors.iter().filter_map(strip).collect()
    }

    /// The file as a case of its op.
    pub fn case(&self) -> Result<Case> {
        let kernel = ops::kernel(&self.op);
        let kernel =
            kernel.ok_or_else(|| Error::graph(&self.op, "this golden file is of an op that does not exist"))?;
        let mut case = Case::new(kernel, "golden");
        case.attrs = self.attrs.clone();
        for (name, tensor) in self.named("in.") {
            let differentiable = self.tensors.contains_key(&format!("grad.{name}"));
            case.tensors.push(CaseTensor { name, tensor, differentiable });
        }
        Ok(case)
    }
}

/// Checks one file on one executor. Answers that are not an op's (metrics, random words) are checked on the host.
pub fn check(path: &Path, target: &mut Target) -> Checked {
    let golden = Golden::read(path)?;
    if let Some(outcome) = host_check(&golden) {
        return outcome;
    }
    let case = golden.case()?;
    let given = golden.named("cot.");
    let program = Program::new(&case, &given)?;
    let noise = program.noise(&program.reference(&program.wide_inputs()?)?)?;
    let expected: Results<Array> = (golden.tensors.iter())
        .filter(|(name, _)| name.starts_with("out.") || name.starts_with("grad."))
        .map(|(name, tensor)| (name.clone(), Array::from_words(&tensor.ty, &tensor.words)))
        .collect();
    let got = target.with(ExecOptions::default(), |executor| Program::run(&case, &given, executor))?;
    compare(&case.label(), &got, &expected, &noise, target.relative_floor())
}

/// Known answers of host code: the generator, the metrics, the schedules of diffusion.
fn host_check(golden: &Golden) -> Option<Checked> {
    let input = |name: &str| &golden.tensors[&format!("in.{name}")];
    let output = |name: &str| &golden.tensors[&format!("out.{name}")];
    let near = |name: &str, got: f64| {
        let expected = f64::from(output(name).words[0]);
        let failure = || Failure(format!("{}: {name} is {got}, expected {expected}", golden.op));
        if (got - expected).abs() < 1e-6 { Ok(()) } else { Err(failure()) }
    };
    let outcome = match golden.op.as_str() {
        "philox4x32_10" => {
            let (counters, keys) = (input("counter").as_u32(), input("key").as_u32());
            let words = counters.chunks_exact(4).zip(keys.chunks_exact(2));
            let words: Vec<u32> =
                words.flat_map(|(c, k)| philox4x32_10([c[0], c[1], c[2], c[3]], [k[0], k[1]])).collect();
            if words == output("words").as_u32() { Ok(()) } else { Err(Failure("philox4x32_10: other words".into())) }
        }
        "ranking_metrics" => ranking_metrics(input("scores"), input("target"), output("rank"), near),
        "auc" => {
            let labels: Vec<bool> = input("labels").as_u32().iter().map(|&l| l == 1).collect();
            eval::auc(&input("scores").words, &labels, 0)
                .map_err(Failure::from)
                .and_then(|auc| near("auc", auc.ok_or_else(|| Failure("auc: one class is missing".into()))?))
        }
        "diffusion_schedule" => diffusion_schedule(golden, output("beta"), output("alpha_bar")),
        _ => return None,
    };
    Some(outcome.map(|()| Outcome::default()))
}

fn diffusion_schedule(golden: &Golden, beta: &Tensor, alpha_bar: &Tensor) -> std::result::Result<(), Failure> {
    let failure = |problem: &str| Failure(format!("diffusion_schedule: {problem}"));
    let noise = golden.attrs.get("kind").and_then(|kind| serde_json::from_value(kind.clone()).ok());
    let schedule = Schedule::new(noise.ok_or_else(|| failure("no such kind"))?, beta.words.len());
    let near = |got: &[f64], expected: &Tensor| {
        got.iter().zip(&expected.words).all(|(got, expected)| (got / f64::from(*expected) - 1.0).abs() < 1e-6)
    };
    if near(&schedule.beta, beta) && near(&schedule.alpha_bar, alpha_bar) {
        Ok(())
    } else {
        Err(failure("other values"))
    }
}

fn ranking_metrics(
    scores: &Tensor,
    target: &Tensor,
    expected: &Tensor,
    near: impl Fn(&str, f64) -> std::result::Result<(), Failure>,
) -> std::result::Result<(), Failure> {
    let mut ranks = Vec::new();
    for (row, &target) in scores.words.chunks_exact(scores.ty.width()).zip(target.as_u32()) {
        ranks.push(eval::rank_of(row, target, &[], 0)?.rank);
    }
    if ranks != expected.as_u32() {
        return Err(Failure("ranking_metrics: other ranks".into()));
    }
    let metrics = eval::metrics::Metrics::from_ranks(&ranks);
    metrics.iter().try_for_each(|(name, value)| near(name, value))
}
