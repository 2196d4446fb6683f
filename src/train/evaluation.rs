//! What a model is worth: ranks of held-out items or scores of the impressions of lists, whichever its method gives, and the
//! metrics that they make.

use super::identity::DataIdentity;
use super::list_scores::{self, ListScorer, ListScores};
use super::ranker::{Ranker, Ranks, Watch};
use super::ranks::UserRanks;
use crate::data::lists::Part;
use crate::data::sample::Uni99;
use crate::data::{HeldOut, Interactions};
use crate::engine::Executor;
use crate::engine::params::ParamLayout;
use crate::error::{Error, Result};
use crate::eval::{Calibration, Metrics, Protocol, SplitMetrics, tie_warning};
use crate::methods::{Method, Training};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Evaluates the models of a method, whose parameters must be in the executor.
pub enum Evaluator<'m> {
    /// It ranks items.
    Ranks(Ranker<'m>),
    /// It scores impressions.
    Lists(ListScorer<'m>),
}

/// Validation and test of one model.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Over all events.
    pub metrics: SplitMetrics,
    /// By kind of event, where events have kinds.
    pub by_kind: BTreeMap<String, SplitMetrics>,
    /// Of the test impressions, where scores say how many clicks will follow.
    pub calibration: Option<Calibration>,
    /// What the figures alone do not tell.
    pub warning: Option<String>,
    /// What they were made of.
    pub basis: Basis,
}

/// What metrics are made of.
#[derive(Clone, Debug)]
pub enum Basis {
    /// Of held-out events.
    Ranks(UserRanks),
    /// Of impressions.
    Scores(ListScores),
}

impl<'m> Evaluator<'m> {
    /// As the method asks for. Nothing is compiled yet.
    pub fn new(method: &'m dyn Method, layout: ParamLayout) -> Self {
        match method.list_model() {
            Some(model) => Evaluator::Lists(ListScorer::new(model, layout)),
            None => Evaluator::Ranks(Ranker::new(method, layout)),
        }
    }

    /// From now on this is called after every run of a graph; `runs` says how many there will be. Those of list models are few,
    /// and not told.
    pub fn watch(&mut self, watch: Watch) {
        if let Evaluator::Ranks(ranker) = self {
            ranker.watch(watch);
        }
    }

    /// Runs of graphs that it takes to evaluate so many events.
    pub fn runs(&self, events: usize) -> usize {
        match self {
            Evaluator::Ranks(ranker) => ranker.runs(events),
            Evaluator::Lists(_) => 0,
        }
    }

    /// Refuses what is none of the metrics that `validate` makes.
    pub fn expect_metric(&self, key: &str) -> Result<()> {
        let metrics = match self {
            Evaluator::Ranks(_) => Metrics::from_ranks(&[]),
            Evaluator::Lists(_) => Metrics::from_clicks(&[], &[], 1)?,
        };
        value(&metrics, key).map(drop)
    }

    /// The metrics of the validation events, and the value that selects the best epoch.
    pub fn validate(
        &mut self,
        executor: &mut dyn Executor,
        data: &Interactions,
        training: &Training,
    ) -> Result<(Metrics, f64)> {
        let key = &training.select_by;
        let ranker = match self {
            Evaluator::Ranks(ranker) => ranker,
            Evaluator::Lists(scorer) => {
                let lists = data.lists()?;
                let scores = scorer.scores(executor, &lists, Part::Valid)?;
                let valid = list_scores::metrics(&lists, Part::Valid, &scores)?;
                let value = value(&valid, key)?;
                return Ok((valid, value));
            }
        };
        let ranks = rank_valid(ranker, executor, data)?.ranks;
        let kept = training.select_history_kept;
        let ranks = &ranks[if kept { Protocol::HistoryKept } else { Protocol::HistoryExcluded }];
        let valid = Metrics::from_ranks(ranks);
        let mut value = value(&valid, key)?;
        if training.select_by_kind && !data.kind_names.is_empty() {
            let kinds: Vec<u32> = data.valid().filter_map(|event| event.kind).collect();
            let of_kind = |kind: u32| {
                let own = ranks.iter().zip(&kinds).filter(|(_, own)| **own == kind).map(|(rank, _)| *rank);
                Metrics::from_ranks(&own.collect::<Vec<u32>>()).get(key).expect("known")
            };
            let count = data.kind_names.len();
            value = (0..count as u32).map(of_kind).sum::<f64>() / count as f64;
        }
        Ok((valid, value))
    }

    /// Validation and test.
    pub fn evaluate(&mut self, executor: &mut dyn Executor, data: &Interactions) -> Result<Evaluation> {
        match self {
            Evaluator::Ranks(ranker) => {
                refuse_empty_parts(data)?;
                let valid = rank_valid(ranker, executor, data)?;
                let test: Vec<HeldOut> = data.test().collect();
                let test = ranker.rank(executor, &test, Some(&Uni99::new(data)))?;
                let warning = tie_warning(test.tie_share);
                let ranks = UserRanks::new(data, valid, test);
                let (metrics, by_kind) = (ranks.metrics(), ranks.by_kind());
                Ok(Evaluation { metrics, by_kind, calibration: None, warning, basis: Basis::Ranks(ranks) })
            }
            Evaluator::Lists(scorer) => {
                let lists = data.lists()?;
                let [valid, test] = [Part::Valid, Part::Test].map(|part| scorer.scores(executor, &lists, part));
                let scores = ListScores { lists, valid: valid?, test: test? };
                let (metrics, by_kind) = (scores.metrics()?, BTreeMap::new());
                let calibration = scorer.discount().map(|discount| scores.calibration(discount));
                Ok(Evaluation { metrics, by_kind, calibration, warning: None, basis: Basis::Scores(scores) })
            }
        }
    }
}

/// Without held-out events a metric is 0, which looks like a figure.
pub(super) fn refuse_empty_parts(data: &Interactions) -> Result<()> {
    let parts = [("validation", data.valid().next()), ("test", data.test().next())];
    let Some((part, _)) = parts.into_iter().find(|(_, first)| first.is_none()) else { return Ok(()) };
    let problem = format!("the split {} leaves {} no {part} events", data.rule(), data.name);
    Err(Error::usage(problem, "choose another --split; `gpurec data check` counts the events of each part"))
}

fn rank_valid(ranker: &mut Ranker, executor: &mut dyn Executor, data: &Interactions) -> Result<Ranks> {
    let valid: Vec<HeldOut> = data.valid().collect();
    ranker.rank(executor, &valid, None)
}

/// The metric that selects the best epoch.
fn value(valid: &Metrics, metric: &str) -> Result<f64> {
    let unknown = || {
        let known: Vec<&str> = valid.iter().map(|(name, _)| name).collect();
        Error::unknown("metric in select_by", metric, &known)
    };
    valid.get(metric).ok_or_else(unknown)
}

impl Basis {
    /// Writes it into the folder of a run on this data.
    pub fn write(&self, run: &Path, data: &DataIdentity) -> Result<()> {
        match self {
            Basis::Ranks(ranks) => ranks.write(&UserRanks::path(run), data),
            Basis::Scores(scores) => scores.write(&ListScores::path(run), data),
        }
    }

    /// What the run in a folder was measured on, if it was.
    pub fn data(run: &Path) -> Result<Option<DataIdentity>> {
        let Some(path) = Basis::file(run) else { return Ok(None) };
        let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let wrong = |e| Error::Format { path: path.clone(), problem: format!("not a safetensors file: {e}") };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(wrong)?;
        DataIdentity::of_metadata(header.metadata().as_ref(), &path).map(Some)
    }

    /// The file of a run that holds one, if it does.
    pub fn file(run: &Path) -> Option<PathBuf> {
        [UserRanks::path(run), ListScores::path(run)].into_iter().find(|path| path.exists())
    }
}
