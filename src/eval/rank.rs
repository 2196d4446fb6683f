//! The place of a target among its candidates, and the area under the ROC curve.
//!
//! ```text
//! rank = 1 + #{j : s_j > s_t} + #{j < t : s_j = s_t},   j over the candidates
//! AUC  = ( #{(p, n) : s_p > s_n} + 1/2 #{(p, n) : s_p = s_n} ) / (positives * negatives)
//! ```
//!
//! Equal scores: the lower item index first, as in printed lists, so a rank is a place in the list. Scores that are not
//! finite are refused: NaN is greater than nothing, and a model of NaNs would rank every target first.

use crate::error::{Error, Result};

/// The rank of a target that is not among the candidates.
pub const UNREACHABLE: u32 = u32::MAX;

/// Above this share of events whose target ties with another item, a rank says as much of item numbering as of the model.
const TIE_LIMIT: f64 = 0.01;

/// Where a target stands among the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// From 1; `UNREACHABLE` if the target is excluded.
    pub rank: u32,
    /// Other candidates with the target's score.
    pub ties: u32,
}

/// The rank of `target` among all items but `excluded` (ascending, unique). `step` is for the error message.
pub fn rank_of<S: Copy + Into<f64>>(scores: &[S], target: u32, excluded: &[u32], step: u64) -> Result<Rank> {
    refuse_not_finite(scores, "the score of item index", step)?;
    let unreachable = Rank { rank: UNREACHABLE, ties: 0 };
    let Some(&at_target) = scores.get(target as usize) else { return Ok(unreachable) };
    if excluded.binary_search(&target).is_ok() {
        return Ok(unreachable);
    }
    let at_target: f64 = at_target.into();
    // Counted over everything in one pass, then the excluded items are taken out again.
    let (mut better, mut equal_before, mut equal) = (0, 0, 0);
    let mut count = |item: usize, score: S, by: i64| {
        let score: f64 = score.into();
        better += by * i64::from(score > at_target);
        equal += by * i64::from(score == at_target);
        equal_before += by * i64::from(score == at_target && item < target as usize);
    };
    scores.iter().enumerate().for_each(|(item, &score)| count(item, score, 1));
    for &item in excluded {
        if let Some(&score) = scores.get(item as usize) {
            count(item as usize, score, -1);
        }
    }
    Ok(Rank { rank: (1 + better + equal_before) as u32, ties: (equal - 1) as u32 })
}

/// The first score that is not finite is an error: `what` followed by its index.
pub fn refuse_not_finite<S: Copy + Into<f64>>(scores: &[S], what: &str, step: u64) -> Result<()> {
    match scores.iter().position(|&score| !Into::<f64>::into(score).is_finite()) {
        Some(index) => Err(Error::NotFinite { what: format!("{what} {index}"), step }),
        None => Ok(()),
    }
}

/// What to tell the user when ties are common enough to matter.
pub fn tie_warning(share: f64) -> Option<String> {
    (share > TIE_LIMIT).then(|| {
        format!(
            "for {:.1} % of the events another item has the score of the target; equal scores rank the lower item id first, so \
             these metrics depend on how the items are numbered",
            100.0 * share
        )
    })
}

/// The chance that a positive scores above a negative; `None` without one of each.
pub fn auc<S: Copy + Into<f64>>(scores: &[S], labels: &[bool], step: u64) -> Result<Option<f64>> {
    if scores.len() != labels.len() {
        let problem = format!("{} scores for {} labels", scores.len(), labels.len());
        return Err(Error::usage(problem, "give one label for each score"));
    }
    refuse_not_finite(scores, "score", step)?;
    let mut ordered: Vec<(f64, bool)> = scores.iter().map(|&score| score.into()).zip(labels.iter().copied()).collect();
    ordered.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Chunks by ==, under which -0 and +0 are equal and, in total order, neighbours.
    Ok(auc_of_ties(ordered.chunk_by(|a, b| a.0 == b.0).map(|tied| {
        let positives = tied.iter().filter(|&&(_, label)| label).count() as u64;
        [positives, tied.len() as u64 - positives]
    })))
}

/// The same from how many positives and negatives have each score, ascending.
pub fn auc_of_ties(ties: impl Iterator<Item = [u64; 2]>) -> Option<f64> {
    let (mut negatives_below, mut positives, mut twice_won) = (0u64, 0u64, 0u64);
    for [p, n] in ties {
        twice_won += p * (2 * negatives_below + n);
        negatives_below += n;
        positives += p;
    }
    let pairs = positives * negatives_below;
    (pairs > 0).then(|| twice_won as f64 / (2 * pairs) as f64)
}

#[cfg(test)]
#[path = "rank_tests.rs"]
mod tests;
