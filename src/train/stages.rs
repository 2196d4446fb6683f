//! The stages of a run: whatever a method needs trained before it, each in a folder below that of the run, and what those who
//! were trained know, handed on to the one who learns from them.
//!
//! ```text
//! OUT/stages/NAME/                      a run as any other: it can be evaluated, and continues where it stopped
//! OUT/stages/NAME/queries.safetensors   what a teacher answers to each prefix of the training sequences
//! ```

use super::ranker::{Ranker, USERS_PER_RUN};
use super::run::{Run, RunOptions, Trained};
use super::trainer::Observer;
use crate::data::Interactions;
use crate::data::matrix::{Matrix, MatrixWriter};
use crate::data::sample::Prefixes;
use crate::engine::params::{ParamLayout, State};
use crate::engine::{Executor, Tensor};
use crate::error::{Error, Result};
use crate::files::discard_temporary;
use crate::methods::stage::Teacher;
use crate::methods::{Method, Request};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The run's method, knowing what its teachers know; `None` where it has none. Trains the stages that are not finished.
pub fn taught(run: &Run, executor: &mut dyn Executor, observer: &mut dyn Observer) -> Result<Option<Box<dyn Method>>> {
    let folders = teachers(run, executor, observer)?;
    if folders.is_empty() {
        return Ok(None);
    }
    let ask = |(name, folder): &(String, PathBuf)| ask(run, name, folder, executor, observer);
    let teachers = folders.iter().map(ask).collect::<Result<Vec<Teacher>>>()?;
    executor.clear();
    Ok(Some(run.method().taught(teachers)?))
}

/// The folders of the teachers with their names.
fn teachers(run: &Run, executor: &mut dyn Executor, observer: &mut dyn Observer) -> Result<Vec<(String, PathBuf)>> {
    let RunOptions { out, teachers, .. } = &run.options;
    if !teachers.is_empty() {
        let named = teachers.iter().enumerate();
        return Ok(named.map(|(number, folder)| (format!("teacher{}", number + 1), folder.clone())).collect());
    }
    let stages = run.method().stages();
    let folder = |name: &str| out.join("stages").join(name);
    for (number, stage) in stages.iter().enumerate() {
        let mut options = RunOptions {
            method: stage.method.clone(),
            config: stage.config.clone(),
            out: folder(&stage.name),
            starts_from: stage.starts_from.as_deref().map(folder),
            ..run.options.clone()
        };
        options.resume = options.out.exists();
        let stage_run = Run::new(options, run.data.clone())?;
        if stage_run.finished()?.is_none() {
            let place = format!("stage {} of {}: {}", number + 1, stages.len() + 1, stage.name);
            observer.begins(&format!("{place}, in {}", stage_run.options.out.display()));
            executor.clear();
            stage_run.execute(executor, observer)?;
        }
    }
    let teaching = stages.iter().filter(|stage| stage.teaches);
    Ok(teaching.map(|stage| (stage.name.clone(), folder(&stage.name))).collect())
}

/// What a teacher knows. Its answers are computed once, and kept in a file.
fn ask(
    run: &Run,
    name: &str,
    folder: &Path,
    executor: &mut dyn Executor,
    observer: &mut dyn Observer,
) -> Result<Teacher> {
    let trained = Trained::open(folder)?;
    let own = run.data_identity();
    if let Some(difference) = trained.identity.data.difference(&own) {
        let problem = format!(
            "the teacher {} was trained on other data than {}; they differ in {difference}",
            folder.display(),
            run.data.name
        );
        return Err(Error::usage(problem, "train it on the same data set under the same split"));
    }
    executor.clear();
    let mut ranker = trained.ranker(executor)?;
    let table = ranker.item_table(executor, run.data.n_items())?;
    let bias = table.bias.unwrap_or_else(|| Tensor::f32(&[run.data.n_items()], vec![0.0; run.data.n_items()]));
    let source = format!("{} {}", trained.digest()?, own.training_events);
    let path = run.options.out.join("stages").join(name).join("queries.safetensors");
    let queries = match Matrix::open(&path, &source)? {
        Some(queries) => queries,
        None => {
            let prefixes = Prefixes::new(run.data.clone());
            let (rows, width) = (prefixes.count() as usize, table.table.ty.width());
            let size = Matrix::bytes(rows, width) as f64 / 1e6;
            path.parent().into_iter().for_each(discard_temporary);
            observer.begins(&format!("asking {name} about {rows} histories: {size:.1} MB to {}", path.display()));
            write_queries(&path, &source, &mut ranker, executor, &prefixes, width)?;
            Matrix::open(&path, &source)?
                .ok_or_else(|| Error::graph(name, "its answers changed while they were read"))?
        }
    };
    Ok(Teacher { name: name.into(), table: table.table, bias, queries: Arc::new(queries) })
}

fn write_queries(
    path: &Path,
    source: &str,
    ranker: &mut Ranker,
    executor: &mut dyn Executor,
    prefixes: &Prefixes,
    width: usize,
) -> Result<()> {
    let count = prefixes.count();
    let mut file = MatrixWriter::create(path, count as usize, width, source)?;
    for first in (0..count).step_by(USERS_PER_RUN) {
        let numbers = first..count.min(first + USERS_PER_RUN as u32);
        let request = |number| Request { history: prefixes.of(number).0, user: Some(prefixes.user(number)) };
        let requests: Vec<Request> = numbers.map(request).collect();
        file.push(&ranker.queries(executor, &requests)?.words)?;
    }
    file.finish()
}

/// Takes over the trained parameters of another run that have the same names. A table may have more rows here than there,
/// which keep what they hold. The names of those that it could not take over; refuses a run that has none.
pub fn start_from(
    (trained, folder): (&Trained, &Path),
    layout: &ParamLayout,
    state: &mut State,
    data: &Interactions,
) -> Result<Vec<String>> {
    if trained.items != data.items {
        let problem =
            format!("{} was trained on other items than {}, or on them in another order", folder.display(), data.name);
        return Err(Error::usage(problem, "start from a model of the same data set"));
    }
    let (mut taken, mut left) = (0, Vec::new());
    for set in layout.sets.iter().filter(|set| !set.is_frozen()) {
        for parameter in &set.parameters {
            let theirs = trained.checkpoint.parameter(&set.name, &parameter.name)?;
            let fits = |shape: &[usize]| {
                shape.len() == parameter.shape.len()
                    && shape[1..] == parameter.shape[1..]
                    && shape[0] <= parameter.shape[0]
            };
            match theirs.filter(|(shape, _)| fits(shape)) {
                Some((_, words)) => {
                    let own = state.parameter_mut(layout, &set.name, &parameter.name).expect("in the layout");
                    own[..words.len()].copy_from_slice(&words);
                    taken += 1;
                }
                None => left.push(parameter.name.clone()),
            }
        }
    }
    if taken == 0 {
        let problem = format!("{} has no parameter that this model has", folder.display());
        return Err(Error::usage(problem, "start from a model of the same kind and size"));
    }
    Ok(left)
}
