//! Two models of lists on the same impressions: AUC and GAUC, and how sure their differences are, users being the sampled units.
//! With several seeds a figure is the mean over the seeds of a run.

use super::compare::{Difference, SEED};
use super::rank::{auc, auc_of_ties, refuse_not_finite};
use super::significance::bootstrap;
use crate::error::{Error, Result};
use std::collections::HashMap;

/// Resamples: each sums over all impressions again.
pub const RESAMPLES: u32 = 2000;

/// Impressions, list after list.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The user of each list.
    pub users: &'a [u32],
    /// Impressions of a list.
    pub length: usize,
    /// Of each impression.
    pub clicked: &'a [bool],
}

/// Compares AUC and GAUC. `a` and `b` hold a score for each impression for every seed. Refused: scores that are not finite, and
/// impressions that were all clicked, or none of them.
pub fn compare_clicks(shown: Shown, a: &[&[f32]], b: &[&[f32]]) -> Result<[Difference; 2]> {
    let mut numbers = HashMap::new();
    let number = |user: &u32| {
        let next = numbers.len();
        *numbers.entry(*user).or_insert(next)
    };
    let users: Vec<usize> = shown.users.iter().map(number).collect();
    let seeds = |scores: &[&[f32]]| scores.iter().map(|scores| Seed::new(shown, scores)).collect::<Result<Vec<_>>>();
    let (a, b) = (seeds(a)?, seeds(b)?);
    let figures = |seeds: &[Seed], drawn: &[u32]| -> Vec<[f64; 2]> {
        seeds.iter().map(|seed| seed.figures(shown, |list| drawn[users[list]])).collect()
    };
    let once = vec![1; numbers.len()];
    let (of_a, of_b) = (figures(&a, &once), figures(&b, &once));
    if of_a.iter().chain(&of_b).flatten().any(|figure| figure.is_nan()) {
        return Err(Error::usage("the impressions are all of one kind", "an AUC wants both clicked ones and others"));
    }
    let mean = |figures: &[[f64; 2]], metric: usize| {
        figures.iter().map(|figures| figures[metric]).sum::<f64>() / figures.len() as f64
    };
    let bootstraps = bootstrap(numbers.len(), RESAMPLES, SEED, |drawn| {
        let (a, b) = (figures(&a, drawn), figures(&b, drawn));
        let difference = |metric| mean(&a, metric) - mean(&b, metric);
        // A resample without a click says nothing.
        [0, 1].map(difference).map(|difference| if difference.is_nan() { 0.0 } else { difference })
    });
    let of = |figures: &[[f64; 2]], metric: usize| figures.iter().map(|figures| figures[metric]).collect::<Vec<f64>>();
    let one = |metric: usize| {
        Difference::new(["auc", "gauc"][metric], of(&of_a, metric), of(&of_b, metric), bootstraps[metric])
    };
    Ok([0, 1].map(one))
}

/// The scores of one seed, ready to be weighed again and again.
struct Seed {
    /// Impressions by ascending score, and whether each has the score of the one before.
    ordered: Vec<(u32, bool)>,
    /// AUC of each list that has both.
    of_lists: Vec<(usize, f64)>,
}

impl Seed {
    fn new(shown: Shown, scores: &[f32]) -> Result<Seed> {
        if scores.len() != shown.clicked.len() {
            let problem = format!("{} scores for {} impressions", scores.len(), shown.clicked.len());
            return Err(Error::usage(problem, "compare runs on the same lists"));
        }
        refuse_not_finite(scores, "score", 0)?;
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        order.sort_by(|a, b| scores[*a as usize].total_cmp(&scores[*b as usize]));
        let mut before = None;
        let tied = |n: u32| (n, before.replace(scores[n as usize]) == Some(scores[n as usize]));
        let ordered = order.into_iter().map(tied).collect();
        let lists = scores.chunks(shown.length).zip(shown.clicked.chunks(shown.length)).enumerate();
        let of_list = |(list, (scores, clicked)): (usize, (&[f32], &[bool]))| {
            auc(scores, clicked, 0).transpose().map(|auc| auc.map(|auc| (list, auc)))
        };
        Ok(Seed { ordered, of_lists: lists.filter_map(of_list).collect::<Result<_>>()? })
    }

    /// AUC and GAUC where each list counts as often as `count` says; NaN where there is no pair.
    fn figures(&self, shown: Shown, count: impl Fn(usize) -> u32) -> [f64; 2] {
        let ties = self.ordered.chunk_by(|_, (_, tied)| *tied).map(|ties| {
            let mut times = [0; 2];
            for (impression, _) in ties {
                let impression = *impression as usize;
                times[usize::from(!shown.clicked[impression])] += u64::from(count(impression / shown.length));
            }
            times
        });
        let pooled = auc_of_ties(ties).unwrap_or(f64::NAN);
        let (mut sum, mut lists) = (0.0, 0u64);
        for (list, auc) in &self.of_lists {
            let times = count(*list);
            sum += f64::from(times) * auc;
            lists += u64::from(times);
        }
        [pooled, sum / lists as f64]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rng::{RngState, Site};
    use crate::eval::Metrics;

    /// Lists of four by nine users; the score of a click is higher by `signal`, within noise.
    fn scores(signal: f32, seed: u64) -> (Vec<u32>, Vec<bool>, Vec<f32>) {
        let mut stream = RngState { seed, step: 0 }.stream(Site(3), 0);
        let clicked: Vec<bool> = (0..1200).map(|n| n % 7 == 2 || n % 11 == 5).collect();
        // In steps of a tenth, so that there are ties.
        let score =
            |clicked: &bool| ((stream.normal() as f32 + if *clicked { signal } else { 0.0 }) * 10.0).round() / 10.0;
        let scores = clicked.iter().map(score).collect();
        ((0..300).map(|list| list % 9).collect(), clicked, scores)
    }

    #[test]
    fn figures_are_those_of_the_metrics_and_lists_count_as_often_as_they_are_drawn() {
        let (users, clicked, scores) = scores(1.0, 1);
        let shown = Shown { users: &users, length: 4, clicked: &clicked };
        let seed = Seed::new(shown, &scores).unwrap();
        let close = |a: [f64; 2], metrics: Metrics| {
            let b = ["auc", "gauc"].map(|key| metrics.get(key).unwrap());
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12), "{a:?}, {b:?}");
        };
        close(seed.figures(shown, |_| 1), Metrics::from_clicks(&scores, &clicked, 4).unwrap());
        // Every third list twice and the others not at all, and these lists written out.
        let (mut again, mut labels) = (Vec::new(), Vec::new());
        for list in (0..300).step_by(3).flat_map(|list| [list, list]) {
            again.extend_from_slice(&scores[4 * list..][..4]);
            labels.extend_from_slice(&clicked[4 * list..][..4]);
        }
        let twice = seed.figures(shown, |list| if list % 3 == 0 { 2 } else { 0 });
        close(twice, Metrics::from_clicks(&again, &labels, 4).unwrap());
    }

    #[test]
    fn a_better_model_is_told_apart_and_an_equal_one_is_not() {
        let (users, clicked, good) = scores(1.5, 1);
        let (_, _, bad) = scores(0.3, 2);
        let shown = Shown { users: &users, length: 4, clicked: &clicked };
        let found = compare_clicks(shown, &[&good], &[&bad]).unwrap();
        assert!(found.iter().all(|metric| metric.tells_apart() && metric.difference > 0.0), "{found:?}");
        let [low, high] = found[0].bootstrap.interval;
        assert!(low < found[0].difference && found[0].difference < high);
        let same = compare_clicks(shown, &[&good, &bad], &[&bad, &good]).unwrap();
        assert!(same.iter().all(|metric| metric.difference.abs() < 1e-12 && !metric.tells_apart()), "{same:?}");
        let none = Shown { clicked: &[false; 1200], ..shown };
        assert!(compare_clicks(none, &[&good], &[&bad]).is_err());
        assert!(compare_clicks(shown, &[&good[1..]], &[&bad]).is_err());
    }
}
