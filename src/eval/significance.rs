//! How sure a number is: spread over seeds, and tests of per-user differences `d_u`, u = 1..U.
//!
//! ```text
//! Summary           mean, sd = sqrt(sum (x - mean)^2 / (n - 1)), mean +- t(0.975, n - 1) sd / sqrt(n)
//! paired_bootstrap  U users drawn with replacement, 10,000 times; the percentile interval of the mean difference,
//!                   p = 2 min(share of means <= 0, share of means >= 0)                       (Efron, Tibshirani 1993)
//! bootstrap         the same of a difference that is no mean over users, such as one of AUCs
//! wilcoxon          W+ = sum of the ranks of |d_u| with d_u > 0, over the d_u that are not 0; ties share their mean rank
//!                   exact for few differences, else normal with variance n(n+1)(2n+1)/24 - sum (t^3 - t)/48
//!                   rank-biserial effect size (W+ - W-) / (W+ + W-)                            (Wilcoxon 1945; Kerby 2014)
//! ```
//!
//! Both tests are two-sided. Results depend on their arguments alone, not on the number of threads.

use crate::engine::rng::{RngState, Site};
use rayon::prelude::*;
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};
use statrs::function::erf::erfc;

/// Resamples of a bootstrap: the ends of a 95 % interval are then known to about 1.5 % of its width.
pub const RESAMPLES: u32 = 10_000;
/// The site of the random numbers that draw users.
const SITE: Site = Site(0x5167);
/// Above this many differences Wilcoxon's test is normal; up to it 2^n is exact in f64, and so are all counts.
const EXACT_UP_TO: usize = 50;

/// Mean and spread of one metric over seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The sample's mean.
    pub mean: f64,
    /// Standard deviation of the sample; `None` for one value.
    pub sd: Option<f64>,
    /// Student's 95 % interval of the mean; `None` for one value.
    pub interval: Option<[f64; 2]>,
    /// The sample, in the order of the seeds.
    pub values: Vec<f64>,
}

impl Summary {
    /// Of one value per seed.
    pub fn of(values: Vec<f64>) -> Summary {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let sd = (values.len() > 1)
            .then(|| (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt());
        let interval = sd.map(|sd| {
            let t = StudentsT::new(0.0, 1.0, n - 1.0).expect("degrees of freedom are positive").inverse_cdf(0.975);
            let margin = t * sd / n.sqrt();
            [mean - margin, mean + margin]
        });
        Summary { mean, sd, interval, values }
    }
}

/// What resampling users says about a mean difference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bootstrap {
    /// The 2.5 and 97.5 percentiles.
    pub interval: [f64; 2],
    /// Two-sided; at least `2 / (resamples + 1)`.
    pub p: f64,
}

/// The bootstrap of M mean differences over the same users, [U, M]; every resample draws its users once for all M.
///
/// An index is the high word of a 32-bit random word times U, whose bias is below U / 2^32. Most users of a comparison have
/// no difference at all, so rows of zeros come last and drawing one costs no memory access.
pub fn paired_bootstrap<const M: usize>(differences: &[[f64; M]], seed: u64) -> [Bootstrap; M] {
    let users = differences.len();
    let differing: Vec<[f64; M]> = differences.iter().filter(|row| row.iter().any(|d| *d != 0.0)).copied().collect();
    let state = RngState { seed, step: 0 };
    let resample = |resample: u32| -> [f64; M] {
        let mut sums = [0.0; M];
        for block in 0..users.div_ceil(4) {
            let words = state.block(SITE, resample, 0, block as u32);
            for word in &words[..(users - 4 * block).min(4)] {
                let user = ((u64::from(*word) * users as u64) >> 32) as usize;
                if let Some(row) = differing.get(user) {
                    sums.iter_mut().zip(row).for_each(|(sum, d)| *sum += d);
                }
            }
        }
        sums.map(|sum| sum / users.max(1) as f64)
    };
    of_resamples(&(0..RESAMPLES).into_par_iter().map(resample).collect::<Vec<_>>())
}

/// The bootstrap of M differences that are no means over users: of `difference`, which is told how often each of the users was
/// drawn.
pub fn bootstrap<const M: usize>(
    users: usize,
    resamples: u32,
    seed: u64,
    difference: impl Fn(&[u32]) -> [f64; M] + Sync,
) -> [Bootstrap; M] {
    let state = RngState { seed, step: 0 };
    let resample = |resample: u32| -> [f64; M] {
        let (mut drawn, mut stream) = (vec![0; users], state.stream(SITE, resample));
        (0..users).for_each(|_| drawn[stream.below(users as u32) as usize] += 1);
        difference(&drawn)
    };
    of_resamples(&(0..resamples).into_par_iter().map(resample).collect::<Vec<_>>())
}

fn of_resamples<const M: usize>(means: &[[f64; M]]) -> [Bootstrap; M] {
    let resamples = means.len();
    std::array::from_fn(|metric| {
        let mut of_metric: Vec<f64> = means.iter().map(|row| row[metric]).collect();
        of_metric.sort_by(f64::total_cmp);
        let percentile = |share: f64| of_metric[(share * (resamples - 1) as f64).round() as usize];
        let share = |count: usize| (count + 1) as f64 / (resamples + 1) as f64;
        let below = share(of_metric.iter().filter(|mean| **mean <= 0.0).count());
        let above = share(of_metric.iter().filter(|mean| **mean >= 0.0).count());
        Bootstrap { interval: [percentile(0.025), percentile(0.975)], p: (2.0 * below.min(above)).min(1.0) }
    })
}

/// Wilcoxon's signed-rank test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Wilcoxon {
    /// Differences that are not 0.
    pub n: usize,
    /// The sum of the ranks of positive differences.
    pub w_plus: f64,
    /// Two-sided.
    pub p: f64,
    /// Rank-biserial correlation: 1 if all differences are positive, -1 if all are negative.
    pub effect: f64,
}

/// Tests whether the differences are symmetric about 0; those that are 0 are left out.
pub fn wilcoxon(differences: &[f64]) -> Wilcoxon {
    let mut ordered: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    ordered.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let n = ordered.len();
    // Twice the ranks, which are whole numbers also where ties share one.
    let mut twice_ranks: Vec<usize> = Vec::with_capacity(n);
    let mut ties = 0.0;
    for tied in ordered.chunk_by(|a, b| a.abs() == b.abs()) {
        let rank = 2 * twice_ranks.len() + tied.len() + 1;
        twice_ranks.extend(std::iter::repeat_n(rank, tied.len()));
        ties += (tied.len() as f64).powi(3) - tied.len() as f64;
    }
    let twice_plus: usize = ordered.iter().zip(&twice_ranks).filter(|(d, _)| **d > 0.0).map(|(_, rank)| rank).sum();
    let (w_plus, total) = (twice_plus as f64 / 2.0, (n * (n + 1)) as f64 / 2.0);
    let p = match n {
        0 => 1.0,
        1..=EXACT_UP_TO => exact_p(&twice_ranks, twice_plus),
        _ => {
            let n = n as f64;
            let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
            erfc((w_plus - total / 2.0).abs() / (2.0 * variance).sqrt())
        }
    };
    let effect = if n == 0 { 0.0 } else { (2.0 * w_plus - total) / total };
    Wilcoxon { n, w_plus, p, effect }
}

/// The share of the 2^n ways to give the ranks signs in which W+ is as far from its mean as the one observed.
fn exact_p(twice_ranks: &[usize], twice_plus: usize) -> f64 {
    let total: usize = twice_ranks.iter().sum();
    // ways[w]: sets of ranks that sum up to w.
    let mut ways = vec![0.0; total + 1];
    ways[0] = 1.0;
    for &rank in twice_ranks {
        (rank..=total).rev().for_each(|w| ways[w] += ways[w - rank]);
    }
    let tail: f64 = ways[..=twice_plus.min(total - twice_plus)].iter().sum();
    (2.0 * tail / 2f64.powi(twice_ranks.len() as i32)).min(1.0)
}

#[cfg(test)]
#[path = "significance_tests.rs"]
mod tests;
