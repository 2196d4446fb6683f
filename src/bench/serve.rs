//! List models in service: requests one after the other, each for the scores of some candidates at the next place of a list. What
//! is in the fields is drawn at random, since the time does not depend on it.

use super::measure::{Measured, Patience, sample};
use crate::data::lists::{Field, Group};
use crate::engine::Executor;
use crate::engine::rng::{RngState, Site};
use crate::error::{Error, Result};
use crate::methods::{Bags, ListRequest};
use crate::train::{Evaluator, Trained};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Requests that take turns.
const REQUESTS: u32 = 32;

/// One network of a trained model.
#[derive(Clone, Debug)]
pub struct ServeWork {
    /// Where the model is.
    pub checkpoint: PathBuf,
    /// `serve=teacher` or `serve=student`, where the model has both.
    pub assignments: Vec<String>,
    /// Of one request.
    pub candidates: usize,
}

/// What was found of a network.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its name, and the shape of a request.
    pub shape: String,
    /// Of single requests.
    pub measured: Measured,
    /// Numbers that a request can read.
    pub parameters: usize,
}

impl ServeWork {
    /// All networks of a checkpoint. Refuses one of a model that does not score lists.
    pub fn all(checkpoint: &Path, candidates: usize) -> Result<Vec<ServeWork>> {
        let trained = Trained::open(checkpoint)?;
        if trained.method.list_model().is_none() {
            let problem =
                format!("{} holds {}, which is no model of lists", checkpoint.display(), trained.identity.method);
            let help = "`gpurec bench rank` and `gpurec bench topk` measure what models of sequences do in service";
            return Err(Error::usage(problem, help));
        }
        let networks: &[&[&str]] = match trained.identity.config.contains_key("serve") {
            true => &[&["serve=teacher"], &["serve=student"]],
            false => &[&[]],
        };
        let work = |assignments: &&[&str]| ServeWork {
            checkpoint: checkpoint.into(),
            assignments: assignments.iter().map(|text| text.to_string()).collect(),
            candidates,
        };
        Ok(networks.iter().map(work).collect())
    }

    /// Loads the model and measures it.
    pub fn measure(&self, executor: &mut dyn Executor, patience: Patience) -> Result<Served> {
        let trained = Trained::open_with(&self.checkpoint, &self.assignments)?;
        let (length, fields) =
            trained.identity.data.lists.clone().map(|lists| (lists.length, lists.fields)).unwrap_or_default();
        let Evaluator::Lists(mut scorer) = trained.evaluator(executor)? else {
            return Err(Error::graph("bench serve", "only models of lists have requests"));
        };
        let shown = length / 2;
        let rows: Vec<Vec<u32>> = (0..REQUESTS).map(|n| drawn(&fields, shown + 1 + self.candidates, n)).collect();
        let requests: Vec<ListRequest> = rows.iter().map(|rows| request(&fields, rows, shown)).collect();
        let mut turn = 0;
        let samples = sample(Patience { sample: Duration::ZERO, ..patience }, |runs| {
            for _ in 0..runs {
                scorer.candidates(executor, &requests[turn % requests.len()])?;
                turn += 1;
            }
            Ok(())
        })?;
        let (parameters, work) = (scorer.parameters_read(&requests[0])?, scorer.work(executor, &requests[0])?);
        let measured = Measured {
            samples,
            flops: work.flops,
            bytes: work.bytes,
            extra_bytes: work.extra_bytes,
            dispatches: work.dispatches,
        };
        let mut network = trained.identity.method.clone();
        self.assignments.iter().for_each(|assignment| network += &format!(" {assignment}"));
        let shape = format!("{network}, {} candidates after {shown} of {length}", self.candidates);
        Ok(Served { shape, measured, parameters })
    }
}

/// A row for each field of so many impressions.
fn drawn(fields: &[Field], impressions: usize, number: u32) -> Vec<u32> {
    let mut stream = RngState { seed: 1, step: 0 }.stream(Site(0x5E4), number);
    (0..impressions)
        .flat_map(|_| fields.iter().map(|field| field.first + stream.below(field.rows)).collect::<Vec<_>>())
        .collect()
}

/// One user's: only fields of items differ between candidates.
fn request<'a>(fields: &[Field], rows: &'a [u32], shown: usize) -> ListRequest<'a> {
    let bag = |impression: usize, field: usize| &rows[impression * fields.len() + field..][..1];
    let own = |impression: usize, field: usize| if fields[field].of == Group::Item { impression } else { shown };
    let impression = |n: usize| -> Bags { (0..fields.len()).map(|field| bag(own(n, field), field)).collect() };
    let here =
        (0..fields.len()).map(|field| if fields[field].of == Group::Item { &rows[..0] } else { bag(shown, field) });
    ListRequest {
        shown: (0..shown).map(impression).collect(),
        here: here.collect(),
        candidates: (shown + 1..rows.len() / fields.len()).map(impression).collect(),
    }
}
