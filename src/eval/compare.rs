//! Two runs over the same users: per metric the mean difference, its uncertainty, and how many users it is made of.
//!
//! With several seeds a user's value is first averaged over the seeds of the run, so that users stay the sampled units.

use super::metrics::{FIGURES, gains};
use super::significance::{Bootstrap, Summary, Wilcoxon, paired_bootstrap, wilcoxon};
use serde::Serialize;

/// The seed of the bootstrap, so that a comparison gives the same figures each time.
pub(super) const SEED: u64 = 1;

/// Run A less run B in one metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Its key.
    pub metric: &'static str,
    /// Over the seeds of each run.
    pub a: Summary,
    /// Over the seeds of run B.
    pub b: Summary,
    /// Mean of A less mean of B.
    pub difference: f64,
    /// `difference` as a share of B; `None` where B is 0.
    pub relative: Option<f64>,
    /// Of the difference.
    pub bootstrap: Bootstrap,
}

/// The same of one of `FIGURES`, which is a mean over users.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricComparison {
    /// Of the means.
    #[serde(flatten)]
    pub mean: Difference,
    /// Of the users' differences.
    pub wilcoxon: Wilcoxon,
    /// Users with whom A does better, worse, as well.
    pub better: usize,
    /// Users with whom B does better.
    pub worse: usize,
    /// Users with whom both do equally well.
    pub equal: usize,
}

impl Difference {
    /// Of the figures of the seeds of either run.
    pub(super) fn new(metric: &'static str, a: Vec<f64>, b: Vec<f64>, bootstrap: Bootstrap) -> Self {
        let (a, b) = (Summary::of(a), Summary::of(b));
        let difference = a.mean - b.mean;
        Difference { metric, difference, relative: (b.mean != 0.0).then(|| difference / b.mean), bootstrap, a, b }
    }

    /// Whether the 95 % interval of the difference leaves out 0.
    pub fn tells_apart(&self) -> bool {
        let [low, high] = self.bootstrap.interval;
        low > 0.0 || high < 0.0
    }
}

/// Compares the runs in each of `FIGURES`. `a` and `b` hold the rank of each event for every seed; `users` the user of each
/// event, the events of one user side by side.
pub fn compare(users: &[u32], a: &[&[u32]], b: &[&[u32]]) -> [MetricComparison; 6] {
    let differences: Vec<[f64; 6]> = user_means(users, a)
        .into_iter()
        .zip(user_means(users, b))
        .map(|(a, b)| std::array::from_fn(|metric| rounded(a[metric] - b[metric])))
        .collect();
    let bootstraps = paired_bootstrap(&differences, SEED);
    std::array::from_fn(|metric| {
        let of_metric: Vec<f64> = differences.iter().map(|row| row[metric]).collect();
        let (a, b) = (over_seeds(a, metric), over_seeds(b, metric));
        let count = |wanted: fn(f64) -> bool| of_metric.iter().filter(|d| wanted(**d)).count();
        MetricComparison {
            mean: Difference::new(FIGURES[metric], a, b, bootstraps[metric]),
            wilcoxon: wilcoxon(&of_metric),
            better: count(|d| d > 0.0),
            worse: count(|d| d < 0.0),
            equal: count(|d| d == 0.0),
        }
    })
}

/// The mean gains of each user over events and seeds, [U, 6].
fn user_means(users: &[u32], seeds: &[&[u32]]) -> Vec<[f64; 6]> {
    let mut first = 0;
    let mean = |own: &[u32]| {
        let events = first..first + own.len();
        first = events.end;
        let mut sums = [0.0; 6];
        for ranks in seeds.iter().map(|ranks| &ranks[events.clone()]) {
            for rank in ranks {
                sums.iter_mut().zip(gains(*rank)).for_each(|(sum, gain)| *sum += gain);
            }
        }
        sums.map(|sum| sum / (seeds.len() * own.len()) as f64)
    };
    users.chunk_by(|a, b| a == b).map(mean).collect()
}

fn over_seeds(seeds: &[&[u32]], metric: usize) -> Vec<f64> {
    let mean = |ranks: &[u32]| ranks.iter().map(|rank| gains(*rank)[metric]).sum::<f64>() / ranks.len() as f64;
    seeds.iter().map(|ranks| mean(ranks)).collect()
}

/// The same gains met in another order of seeds sum up to the same value but for rounding; that is no difference.
fn rounded(difference: f64) -> f64 {
    const STEPS: f64 = (1u64 << 40) as f64;
    (difference * STEPS).round() / STEPS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Metrics, UNREACHABLE};

    /// With one event per user.
    fn of_users(a: &[&[u32]], b: &[&[u32]]) -> [MetricComparison; 6] {
        let users: Vec<u32> = (0..a[0].len() as u32).collect();
        compare(&users, a, b)
    }

    #[test]
    fn a_user_with_several_events_counts_once() {
        let comparison = &compare(&[0, 0, 0, 1], &[&[1, 1, 90, 1]], &[&[90, 1, 90, 1]])[0];
        assert_eq!((comparison.better, comparison.equal), (1, 1));
        assert_eq!(comparison.mean.bootstrap.interval[1], rounded(1.0 / 3.0));
    }

    #[test]
    fn a_run_is_compared_user_by_user() {
        let (a, b) = ([1, 4, 30, 7, UNREACHABLE], [2, 4, 3, 11, UNREACHABLE]);
        let by_metric = of_users(&[&a], &[&b]);
        for (comparison, (ours, theirs)) in
            by_metric.iter().zip(Metrics::from_ranks(&a).figures().into_iter().zip(Metrics::from_ranks(&b).figures()))
        {
            assert!((comparison.mean.difference - (ours - theirs)).abs() < 1e-15, "{comparison:?}");
            assert_eq!(comparison.better + comparison.worse + comparison.equal, 5);
        }
        let hr10 = &by_metric[1];
        assert_eq!((hr10.mean.metric, hr10.better, hr10.worse, hr10.equal), ("hr@10", 1, 1, 3));
        let ndcg10 = &by_metric[4];
        assert_eq!((ndcg10.mean.metric, ndcg10.better, ndcg10.worse, ndcg10.equal), ("ndcg@10", 2, 1, 2));
        assert!(!ndcg10.mean.tells_apart());
    }

    #[test]
    fn users_are_averaged_over_seeds_before_they_are_compared() {
        // One user is hit by each seed of A in turn, the other by one seed of B: the means over seeds are equal.
        let comparison = &of_users(&[&[1, 90], &[90, 1]], &[&[1, 1], &[90, 90]])[0];
        assert_eq!((comparison.mean.difference, comparison.equal), (0.0, 2));
        assert_eq!((comparison.mean.a.sd, comparison.mean.b.sd), (Some(0.0), Some(0.5f64.sqrt())));
    }

    #[test]
    fn the_order_of_the_seeds_makes_no_difference_by_rounding() {
        let ranks: [&[u32]; 3] = [&[2; 40], &[4; 40], &[6; 40]];
        let reversed: [&[u32]; 3] = [ranks[2], ranks[0], ranks[1]];
        assert!(of_users(&ranks, &reversed).iter().all(|comparison| comparison.equal == 40));
    }

    #[test]
    fn a_run_that_hits_many_more_users_is_told_apart() {
        let (a, b): (Vec<u32>, Vec<u32>) = (0..400u32).map(|u| (u % 10 + 1, u % 20 + 1)).unzip();
        let by_metric = of_users(&[&a], &[&b]);
        let ndcg10 = &by_metric[4];
        assert!(ndcg10.mean.tells_apart() && ndcg10.mean.bootstrap.p < 0.01 && ndcg10.wilcoxon.p < 0.01);
        assert!(of_users(&[&b], &[&a])[4].mean.difference < 0.0);
        assert_eq!(of_users(&[&a], &[&[UNREACHABLE; 400]])[0].mean.relative, None);
    }
}
