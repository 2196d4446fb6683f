//! All checks of one op, or of the known answers of one op, as one row of `gpurec verify`.

use super::{Checked, Failure, Outcome, Target, checks, golden, portability};
use crate::error::{Error, Result};
use crate::ops::{OP_FILES, OpFile};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What is checked as one: an op's own cases, or its files in a golden folder.
pub enum Subject {
    /// Every case of an op: against the reference, replayed, its gradient, its shaders.
    Op(&'static OpFile),
    /// The known answers of an op.
    Golden(String, Vec<PathBuf>),
}

/// What the checks of a subject found.
#[derive(Debug)]
pub struct Verdict {
    /// The op, and whether this is about known answers.
    pub name: String,
    /// Cases or files.
    pub cases: usize,
    /// The largest share of the tolerance that was used.
    pub worst: Outcome,
    /// One line each.
    pub failures: Vec<String>,
}

impl Subject {
    /// All ops; or one, by the name of its file or of one of its kernels.
    pub fn ops(name: Option<&str>) -> Result<Vec<Subject>> {
        let is_meant = |file: &&OpFile| name.is_none_or(|name| is_called(file, name));
        let found: Vec<Subject> = OP_FILES.iter().filter(is_meant).map(Subject::Op).collect();
        match name {
            Some(name) if found.is_empty() => {
                let names: Vec<&str> = OP_FILES.iter().map(|file| file.name).collect();
                Err(Error::unknown("op", name, &names))
            }
            _ => Ok(found),
        }
    }

    /// The golden files of a folder by op; those of one op, by the same names, if it is named.
    pub fn golden(folder: &Path, name: Option<&str>) -> Result<Vec<Subject>> {
        let mut by_op = BTreeMap::<String, Vec<PathBuf>>::new();
        for path in golden::files(folder)? {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let op = file.split('.').next().unwrap_or_default().to_string();
            by_op.entry(op).or_default().push(path);
        }
        if by_op.is_empty() {
            let problem = format!("{} holds no golden file to check", folder.display());
            return Err(Error::usage(problem, "golden files are called OP.CASE.safetensors"));
        }
        let held: Vec<String> = by_op.keys().cloned().collect();
        let of_one_file =
            |op: &str, name: &str| OP_FILES.iter().any(|file| is_called(file, op) && is_called(file, name));
        by_op.retain(|op, _| name.is_none_or(|name| op == name || of_one_file(op, name)));
        if let (true, Some(name)) = (by_op.is_empty(), name) {
            let problem = format!("no golden file of `{name}` in {}", folder.display());
            return Err(Error::usage(problem, format!("it has: {}", held.join(", "))));
        }
        Ok(by_op.into_iter().map(|(op, paths)| Subject::Golden(op, paths)).collect())
    }

    /// Checks everything on one device; `started` hears what comes next.
    pub fn check(&self, target: &mut Target, started: impl Fn(String)) -> Verdict {
        match self {
            Subject::Op(file) => {
                let cases = (file.cases)();
                let mut verdict = Verdict::new(file.name.into(), cases.len());
                for (i, case) in cases.iter().enumerate() {
                    started(format!("{} ({}/{})", file.name, i + 1, cases.len()));
                    verdict.add("", checks::against_reference(case, target));
                    verdict.add("replay: ", checks::replay(case, target));
                    // Of the f64 reference itself: its share is not one of the device's tolerance.
                    verdict.add("gradient: ", checks::gradients(case).map(|_| Outcome::default()));
                }
                verdict.add("portability: ", portability::check(&cases));
                verdict
            }
            Subject::Golden(op, paths) => {
                let mut verdict = Verdict::new(format!("{op} (known answers)"), paths.len());
                for path in paths {
                    started(path.display().to_string());
                    let file = path.file_name().unwrap_or_default().to_string_lossy();
                    verdict.add(&format!("{file}: "), golden::check(path, target));
                }
                verdict
            }
        }
    }
}

/// By the name of its file, or of one of its kernels.
fn is_called(file: &OpFile, name: &str) -> bool {
    file.name == name || file.kernels.iter().any(|kernel| kernel.0 == name)
}

impl Verdict {
    fn new(name: String, cases: usize) -> Verdict {
        Verdict { name, cases, worst: Outcome::default(), failures: Vec::new() }
    }

    fn add(&mut self, check: &str, checked: Checked) {
        match checked {
            Ok(outcome) => self.worst = self.worst.worst(outcome),
            Err(Failure(problem)) => self.failures.push(format!("{check}{problem}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_op_is_found_by_its_file_and_by_its_kernel() {
        assert_eq!(Subject::ops(None).unwrap().len(), OP_FILES.len());
        assert!(matches!(Subject::ops(Some("scale")).unwrap()[..], [Subject::Op(OpFile { name: "scale", .. })]));
        let unknown = Subject::ops(Some("atention")).err().unwrap();
        assert!(unknown.help().unwrap().contains("`attention`"));
    }

    #[test]
    fn golden_files_are_found_by_the_names_that_find_their_op() {
        let folder = tempfile::tempdir().unwrap();
        let names = |file: &OpFile| file.kernels.iter().map(|kernel| kernel.0).collect::<Vec<_>>();
        let of_several = OP_FILES.iter().find(|file| names(file).iter().any(|kernel| *kernel != file.name)).unwrap();
        let kernel = *names(of_several).iter().find(|kernel| **kernel != of_several.name).unwrap();
        for op in [kernel, "philox4x32_10"] {
            std::fs::write(folder.path().join(format!("{op}.0.safetensors")), "").unwrap();
        }
        let found = |name: Option<&str>| {
            let subjects = Subject::golden(folder.path(), name)?;
            let op = |subject| if let Subject::Golden(op, _) = subject { op } else { panic!("no golden file") };
            Ok::<Vec<String>, Error>(subjects.into_iter().map(op).collect())
        };
        assert_eq!(found(None).unwrap().len(), 2);
        for name in [kernel, of_several.name] {
            assert_eq!(found(Some(name)).unwrap(), [kernel]);
        }
        let error = found(Some("scale")).unwrap_err();
        assert!(error.to_string().starts_with("no golden file of `scale` in "), "{error}");
        assert!(error.help().unwrap().starts_with("it has: ") && error.help().unwrap().contains(kernel));
    }
}
