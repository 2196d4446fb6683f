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
use crate::methods::stage::{Stage, Teacher};
use crate::methods::{Method, Request};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

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
    if !run.options.teachers.is_empty() {
        let named = run.options.teachers.iter().enumerate();
        return Ok(named.map(|(number, folder)| (format!("teacher{}", number + 1), folder.clone())).collect());
    }
    let stages = Stages::of(run);
    (0..stages.list.len()).try_for_each(|number| stages.train(number, executor, observer))?;
    let teaching = stages.list.iter().filter(|stage| stage.teaches);
    Ok(teaching.map(|stage| (stage.name.clone(), stages.folder(&stage.name))).collect())
}

/// Trains the stages of a run that are not finished, at the same time on several executors: those that wait for no other, then
/// those that wait for these, and so on. A stage has its executor by its place among those of its time.
pub fn train_side_by_side(run: &Run, executors: &mut [Box<dyn Executor>], observer: &dyn Observer) -> Result<()> {
    let stages = Stages::of(run);
    stages.waves().iter().try_for_each(|wave| stages.train_wave(wave, executors, observer))
}

/// The stages of a run.
struct Stages<'r> {
    list: Vec<Stage>,
    options: &'r RunOptions,
    data: &'r Arc<Interactions>,
}

impl<'r> Stages<'r> {
    fn of(run: &'r Run) -> Self {
        Stages { list: run.method().stages(), options: &run.options, data: &run.data }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.options.out.join("stages").join(name)
    }

    /// Their numbers: first those that wait for no other, then those that wait for these, and so on.
    fn waves(&self) -> Vec<Vec<usize>> {
        let mut waves: Vec<Vec<usize>> = Vec::new();
        for (number, stage) in self.list.iter().enumerate() {
            let waits_for = |earlier: &usize| Some(&self.list[*earlier].name) == stage.starts_from.as_ref();
            let wave = waves.iter().position(|wave| wave.iter().any(waits_for)).map_or(0, |before| before + 1);
            if wave == waves.len() {
                waves.push(Vec::new());
            }
            waves[wave].push(number);
        }
        waves
    }

    /// Trains those of these that are not finished at the same time. A failure ends the others with a checkpoint.
    fn train_wave(&self, wave: &[usize], executors: &mut [Box<dyn Executor>], observer: &dyn Observer) -> Result<()> {
        let (failed, count) = (Arc::new(AtomicBool::new(false)), executors.len());
        let mut shares: Vec<Vec<_>> = executors.iter().map(|_| Vec::new()).collect();
        for (place, number) in wave.iter().enumerate() {
            shares[place % count].push((*number, observer.beside(&self.list[*number].name, failed.clone())));
        }
        let train = |executor: &mut Box<dyn Executor>, share: Vec<(usize, Box<dyn Observer + Send>)>| {
            let mut train = |(number, mut observer): (usize, Box<dyn Observer + Send>)| {
                self.train(number, executor.as_mut(), observer.as_mut())
            };
            share.into_iter().try_for_each(&mut train).inspect_err(|_| failed.store(true, Relaxed))
        };
        let ends: Vec<Result<()>> = std::thread::scope(|scope| {
            let begin = |(executor, share)| scope.spawn(move || train(executor, share));
            let threads: Vec<_> = executors.iter_mut().zip(shares).map(begin).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        let (stopped, failures): (Vec<_>, Vec<_>) =
            ends.into_iter().filter_map(Result::err).partition(|error| matches!(error, Error::Interrupted { .. }));
        failures.into_iter().chain(stopped).next().map_or(Ok(()), Err)
    }

    /// Trains one, unless it is finished.
    fn train(&self, number: usize, executor: &mut dyn Executor, observer: &mut dyn Observer) -> Result<()> {
        let stage = &self.list[number];
        let mut options = RunOptions {
            method: stage.method.clone(),
            config: stage.config.clone(),
            out: self.folder(&stage.name),
            starts_from: stage.starts_from.as_deref().map(|name| self.folder(name)),
            ..self.options.clone()
        };
        options.resume = options.out.exists();
        let run = Run::new(options, self.data.clone())?;
        if run.finished()?.is_none() {
            let place = format!("stage {} of {}: {}", number + 1, self.list.len() + 1, stage.name);
            observer.begins(&format!("{place}, in {}", run.options.out.display()));
            executor.clear();
            run.execute(executor, observer)?;
        }
        Ok(())
    }
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
