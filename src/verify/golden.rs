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
    path: PathBuf,
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
        if !tensors.keys().any(|name| is_answer(name)) {
            return Err(wrong("it holds no out.NAME and no grad.NAME, so there is nothing to compare with".into()));
        }
        Ok(Golden { path: path.into(), op, attrs, tensors })
    }

    fn wrong(&self, problem: String) -> Error {
        Error::Format { path: self.path.clone(), problem }
    }

    /// A tensor by its name in the file. `Error::Format` if it is missing, empty, or of another type.
    fn tensor(&self, name: &str, dtype: DType) -> Result<&Tensor> {
        let tensor = self.tensors.get(name).ok_or_else(|| self.wrong(format!("tensor {name} is missing")))?;
        if tensor.ty.dtype != dtype || tensor.words.is_empty() {
            let wanted = if dtype == DType::F32 { "floats" } else { "integers" };
            return Err(self.wrong(format!("tensor {name} is {}, {wanted} are wanted", tensor.ty)));
        }
        Ok(tensor)
    }

    fn floats(&self, name: &str) -> Result<&Tensor> {
        self.tensor(name, DType::F32)
    }

    fn integers(&self, name: &str) -> Result<&[u32]> {
        self.tensor(name, DType::U32).map(Tensor::as_u32)
    }

    /// Fails unless `got` is the number `out.NAME`.
    fn is_near(&self, name: &str, got: f64) -> std::result::Result<(), Failure> {
        let expected = f64::from(self.floats(&format!("out.{name}"))?.words[0]);
        let failure = || Failure(format!("{}: {name} is {got}, expected {expected}", self.op));
        if (got - expected).abs() < 1e-6 { Ok(()) } else { Err(failure()) }
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

fn is_answer(name: &str) -> bool {
    name.starts_with("out.") || name.starts_with("grad.")
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
        .filter(|(name, _)| is_answer(name))
        .map(|(name, tensor)| (name.clone(), Array::from_words(&tensor.ty, &tensor.words)))
        .collect();
    let got = target.with(ExecOptions::default(), |executor| Program::run(&case, &given, executor))?;
    compare(&case.label(), &got, &expected, &noise, target.relative_floor())
}

/// Known answers of host code: the generator, the metrics, the schedules of diffusion. `None` for those of ops.
fn host_check(golden: &Golden) -> Option<Checked> {
    let check = match golden.op.as_str() {
        "philox4x32_10" => philox,
        "ranking_metrics" => ranking_metrics,
        "auc" => auc,
        "diffusion_schedule" => diffusion_schedule,
        _ => return None,
    };
    Some(check(golden).map(|()| Outcome::default()))
}

fn philox(golden: &Golden) -> std::result::Result<(), Failure> {
    let words = golden.integers("in.counter")?.chunks_exact(4).zip(golden.integers("in.key")?.chunks_exact(2));
    let words: Vec<u32> = words.flat_map(|(c, k)| philox4x32_10([c[0], c[1], c[2], c[3]], [k[0], k[1]])).collect();
    if words == golden.integers("out.words")? { Ok(()) } else { Err(Failure("philox4x32_10: other words".into())) }
}

fn ranking_metrics(golden: &Golden) -> std::result::Result<(), Failure> {
    let (scores, targets) = (golden.floats("in.scores")?, golden.integers("in.target")?);
    let mut ranks = Vec::new();
    for (row, &target) in scores.words.chunks_exact(scores.ty.width()).zip(targets) {
        ranks.push(eval::rank_of(row, target, &[], 0)?.rank);
    }
    if ranks != golden.integers("out.rank")? {
        return Err(Failure("ranking_metrics: other ranks".into()));
    }
    let metrics = eval::metrics::Metrics::from_ranks(&ranks);
    metrics.iter().try_for_each(|(name, value)| golden.is_near(name, value))
}

fn auc(golden: &Golden) -> std::result::Result<(), Failure> {
    let labels: Vec<bool> = golden.integers("in.labels")?.iter().map(|&label| label == 1).collect();
    let auc = eval::auc(&golden.floats("in.scores")?.words, &labels, 0)?;
    golden.is_near("auc", auc.ok_or_else(|| Failure("auc: one class is missing".into()))?)
}

fn diffusion_schedule(golden: &Golden) -> std::result::Result<(), Failure> {
    let failure = |problem: &str| Failure(format!("diffusion_schedule: {problem}"));
    let (beta, alpha_bar) = (golden.floats("out.beta")?, golden.floats("out.alpha_bar")?);
    let noise = golden.attrs.get("kind").and_then(|kind| serde_json::from_value(kind.clone()).ok());
    let schedule = Schedule::new(noise.ok_or_else(|| failure("no such kind"))?, beta.words.len());
    let near = |got: &[f64], expected: &Tensor| {
        let pairs = got.iter().zip(&expected.words);
        let each = pairs.into_iter().all(|(got, expected)| (got / f64::from(*expected) - 1.0).abs() < 1e-6);
        each && got.len() == expected.words.len()
    };
    if near(&schedule.beta, beta) && near(&schedule.alpha_bar, alpha_bar) {
        Ok(())
    } else {
        Err(failure("other values"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::{Dtype, TensorView};
    use std::collections::HashMap;

    /// A file of these tensors of four zero bytes each.
    fn file(folder: &Path, op: &str, tensors: &[(&str, Dtype)]) -> PathBuf {
        let path = folder.join(format!("{op}.0.safetensors"));
        let view = |dtype| TensorView::new(dtype, vec![1], &[0; 4]).unwrap();
        let tensors = tensors.iter().map(|(name, dtype)| (*name, view(*dtype)));
        let metadata = HashMap::from([("op".to_string(), op.to_string())]);
        std::fs::write(&path, safetensors::serialize(tensors, Some(metadata)).unwrap()).unwrap();
        path
    }

    #[test]
    fn files_that_prove_nothing_or_lack_something_fail_with_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let failure = |op: &str, tensors: &[(&str, Dtype)]| {
            check(&file(folder.path(), op, tensors), &mut Target::Reference).unwrap_err().to_string()
        };
        let says = failure("scale", &[("in.x", Dtype::F32)]);
        assert!(says.ends_with(
            "scale.0.safetensors: it holds no out.NAME and no grad.NAME, so there is nothing to compare with"
        ));
        let (scores, labels) = (("in.scores", Dtype::F32), ("in.labels", Dtype::F32));
        assert!(failure("auc", &[("out.auc", Dtype::F32), scores]).ends_with("tensor in.labels is missing"));
        let says = failure("auc", &[("out.auc", Dtype::F32), scores, labels]);
        assert!(says.ends_with("tensor in.labels is f32[1], integers are wanted"), "{says}");
        let says = failure("philox4x32_10", &[("out.words", Dtype::U32), ("in.key", Dtype::U32)]);
        assert!(says.ends_with("tensor in.counter is missing"), "{says}");
        let says = failure("ranking_metrics", &[scores, ("in.target", Dtype::I32), ("out.hr@5", Dtype::F32)]);
        assert!(says.ends_with("tensor out.rank is missing"), "{says}");
        assert!(failure("diffusion_schedule", &[("out.beta", Dtype::F32)]).ends_with("out.alpha_bar is missing"));
    }
}
