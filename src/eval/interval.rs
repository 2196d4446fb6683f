//! How far the metrics of one run could be off with other users of the same kind: 95 % intervals by resampling users.
//!
//! Of N events, user u = 1..U has `n_u`, with gains that sum up to `s_u`; the metric is `m = sum s_u / N`. Where users are
//! drawn, numerator and denominator both vary; to first order m varies as the mean over users of
//! `s_u U/N + m (1 - n_u U/N)`, which is `s_u` where everybody has one event.

use super::metrics::gains;
use super::significance::paired_bootstrap;

/// The seed of the bootstrap, so that a run's intervals are the same each time.
const SEED: u64 = 1;

/// The interval of each of `FIGURES`. `users` names the user of each rank, the events of one user side by side.
pub fn intervals(users: &[u32], ranks: &[u32]) -> [[f64; 2]; 6] {
    let add = |mut sums: [f64; 6], gains: [f64; 6]| {
        sums.iter_mut().zip(gains).for_each(|(sum, gain)| *sum += gain);
        sums
    };
    let mut rest = ranks;
    let of_user = |events: &[u32]| {
        let (own, others) = rest.split_at(events.len());
        rest = others;
        (own.len() as f64, own.iter().map(|rank| gains(*rank)).fold([0.0; 6], add))
    };
    let by_user: Vec<(f64, [f64; 6])> = users.chunk_by(|a, b| a == b).map(of_user).collect();
    let total = by_user.iter().map(|(_, sums)| *sums).fold([0.0; 6], add);
    let metric = total.map(|sum| sum / ranks.len().max(1) as f64);
    let users_per_event = by_user.len() as f64 / ranks.len().max(1) as f64;
    let influence = |(events, sums): &(f64, [f64; 6])| -> [f64; 6] {
        std::array::from_fn(|k| sums[k] * users_per_event + metric[k] * (1.0 - events * users_per_event))
    };
    let influences: Vec<[f64; 6]> = by_user.iter().map(influence).collect();
    paired_bootstrap(&influences, SEED).map(|bootstrap| bootstrap.interval.map(|end| end.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::UNREACHABLE;

    #[test]
    fn a_share_has_the_interval_of_a_binomial() {
        let ranks: Vec<u32> = (0..2000).map(|user| if user % 10 < 3 { 4 } else { UNREACHABLE }).collect();
        let users: Vec<u32> = (0..2000).collect();
        let [low, high] = intervals(&users, &ranks)[0];
        let margin = 1.96 * (0.3 * 0.7 / 2000f64).sqrt();
        assert!((low - (0.3 - margin)).abs() < 2e-3 && (high - (0.3 + margin)).abs() < 2e-3, "{low} to {high}");
    }

    #[test]
    fn more_events_of_the_same_users_do_not_narrow_an_interval() {
        let ranks: Vec<u32> = (0..100).map(|user| 1 + user % 13).collect();
        let users: Vec<u32> = (0..100).collect();
        let four_times = |values: &[u32]| -> Vec<u32> { values.iter().flat_map(|&value| [value; 4]).collect() };
        let (once, often) = (intervals(&users, &ranks), intervals(&four_times(&users), &four_times(&ranks)));
        for (a, b) in once.into_iter().flatten().zip(often.into_iter().flatten()) {
            assert!((a - b).abs() < 1e-12, "{a} and {b}");
        }
    }

    #[test]
    fn the_metric_lies_inside_also_where_users_differ_in_events() {
        // User u has 1 + u % 7 events, and those with many events are served better.
        let users: Vec<u32> = (0..300).flat_map(|u| vec![u; 1 + u as usize % 7]).collect();
        let ranks: Vec<u32> = users.iter().map(|u| if u % 7 > 3 { 1 } else { 30 }).collect();
        let hit_rate = ranks.iter().filter(|rank| **rank == 1).count() as f64 / ranks.len() as f64;
        let [low, high] = intervals(&users, &ranks)[0];
        assert!(low < hit_rate && hit_rate < high && high - low < 0.15, "{low} to {high} around {hit_rate}");
    }

    #[test]
    fn no_users_and_users_without_a_hit_have_an_interval_of_zero() {
        assert_eq!(intervals(&[], &[]), [[0.0; 2]; 6]);
        assert_eq!(intervals(&[0, 1], &[UNREACHABLE, 21]), [[0.0; 2]; 6]);
    }
}
