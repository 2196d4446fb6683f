use super::*;

/// Hours of sleep that ten patients gained with two drugs (Student 1908), the second less the first.
const SLEEP: [f64; 10] = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4];

/// Darwin's maize: cross-fertilised less self-fertilised plants, in eighths of an inch (Fisher 1935).
const MAIZE: [f64; 15] = [49., -67., 8., 16., 6., 23., 28., 41., 14., 29., 56., 24., 75., 60., -48.];

fn near(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found} against {expected}");
}

fn bootstrap(differences: &[f64]) -> Bootstrap {
    let rows: Vec<[f64; 1]> = differences.iter().map(|d| [*d]).collect();
    paired_bootstrap(&rows, 7)[0]
}

#[test]
fn students_sleep_data_have_their_published_interval() {
    let summary = Summary::of(SLEEP.to_vec());
    near(summary.mean, 1.58, 1e-12);
    near(summary.sd.unwrap(), 1.229995, 1e-6);
    let [low, high] = summary.interval.unwrap();
    near(low, 0.7001142, 1e-6);
    near(high, 2.4598858, 1e-6);
}

#[test]
fn the_intervals_of_two_to_thirty_seeds_have_the_quantiles_of_t_tables() {
    for (n, quantile) in [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262), (30, 2.045)] {
        let summary = Summary::of((0..n).map(f64::from).collect());
        let margin = summary.interval.unwrap()[1] - summary.mean;
        near(margin * f64::from(n).sqrt() / summary.sd.unwrap(), quantile, 6e-4);
    }
}

#[test]
fn one_seed_has_no_spread_and_equal_seeds_have_none() {
    let one = Summary::of(vec![0.25]);
    assert_eq!((one.mean, one.sd, one.interval), (0.25, None, None));
    let equal = Summary::of(vec![0.25; 4]);
    assert_eq!((equal.sd, equal.interval), (Some(0.0), Some([0.25, 0.25])));
}

/// With `n` differences of which `m` are 1 and the others 0, U times the mean of a resample is binomial(n, m/n).
#[test]
fn the_bootstrap_of_zeros_and_ones_is_binomial() {
    let differences: Vec<f64> = (0..400).map(|u| f64::from(u8::from(u % 4 == 0))).collect();
    let Bootstrap { interval: [low, high], p } = bootstrap(&differences);
    let sd = (0.25f64 * 0.75 / 400.0).sqrt();
    near(low, 0.25 - 1.96 * sd, 0.0051);
    near(high, 0.25 + 1.96 * sd, 0.0051);
    near(p, 2.0 / f64::from(RESAMPLES + 1), 1e-12);
}

/// Of 1, 1, 1, -1 a resample's mean is <= 0 if two or more of its four draws are -1: 1 - .75^4 - 4 x .25 x .75^3.
#[test]
fn the_p_of_four_users_is_the_one_counted_out() {
    let below = 1.0 - 0.75f64.powi(4) - 0.75f64.powi(3);
    near(bootstrap(&[1.0, 1.0, 1.0, -1.0]).p, 2.0 * below, 0.03);
    near(bootstrap(&[1.0, -1.0]).p, 1.0, 0.0);
}

#[test]
fn no_difference_is_no_evidence() {
    assert_eq!(bootstrap(&[0.0; 50]), Bootstrap { interval: [0.0, 0.0], p: 1.0 });
    assert_eq!(bootstrap(&[]), Bootstrap { interval: [0.0, 0.0], p: 1.0 });
    assert_eq!(wilcoxon(&[0.0; 50]), Wilcoxon { n: 0, w_plus: 0.0, p: 1.0, effect: 0.0 });
}

#[test]
fn swapping_the_runs_mirrors_the_bootstrap() {
    let there: Vec<[f64; 2]> = (0..200).map(|u| [f64::from(u % 7) - 2.9, f64::from(u % 3) - 1.0]).collect();
    let back: Vec<[f64; 2]> = there.iter().map(|row| row.map(|d| -d)).collect();
    for (there, back) in paired_bootstrap(&there, 1).into_iter().zip(paired_bootstrap(&back, 1)) {
        near(there.p, back.p, 1e-12);
        near(there.interval[0], -back.interval[1], 1e-12);
        near(there.interval[1], -back.interval[0], 1e-12);
    }
}

#[test]
fn the_bootstrap_is_the_same_with_one_thread_and_with_three() {
    let rows: Vec<[f64; 1]> = (0..300).map(|u| [if u % 5 == 0 { 0.1 } else { -0.03 }]).collect();
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| paired_bootstrap(&rows, 3))
    };
    assert_eq!(with(1), with(3));
    assert_ne!(with(1), paired_bootstrap(&rows, 4));
}

/// W- = 24 of Fisher's 15 pairs; 676 of the 2^15 sign patterns reach it on one side or the other.
#[test]
fn darwins_maize_has_its_published_exact_p() {
    let test = wilcoxon(&MAIZE);
    assert_eq!((test.n, test.w_plus), (15, 96.0));
    near(test.p, 0.041259765625, 1e-15);
    near(test.effect, (96.0 - 24.0) / 120.0, 1e-15);
}

#[test]
fn zeros_are_dropped_and_ties_share_their_mean_rank() {
    // Nine differences, all positive: one of 2^9 patterns on either side.
    let sleep = wilcoxon(&SLEEP);
    assert_eq!((sleep.n, sleep.w_plus, sleep.effect), (9, 45.0, 1.0));
    near(sleep.p, 2.0 / 512.0, 1e-15);
    // |d| = 1 1 2 has the ranks 1.5 1.5 3. W+ of the eight patterns: 0 1.5 1.5 3 3 4.5 4.5 6.
    let tied = wilcoxon(&[0.0, 1.0, -1.0, 2.0]);
    assert_eq!((tied.n, tied.w_plus), (3, 4.5));
    near(tied.p, 6.0 / 8.0, 1e-15);
    near(tied.effect, 0.5, 1e-15);
}

/// n = 60 differences of one size, 40 of them positive: each rank is 30.5, so W+ is 30.5 times a binomial(60, 1/2), whose
/// variance 60/4 x 30.5^2 is what the correction for ties must leave.
#[test]
fn the_normal_approximation_is_corrected_for_ties() {
    let signs: Vec<f64> = (0..60).map(|u| if u < 40 { 0.5 } else { -0.5 }).collect();
    let test = wilcoxon(&signs);
    assert_eq!(test.w_plus, 40.0 * 30.5);
    let z = 10.0 / (60.0f64 / 4.0).sqrt();
    near(test.p, erfc(z / 2f64.sqrt()), 1e-12);
}

#[test]
fn the_normal_form_begins_where_it_is_close_to_the_exact_one() {
    let n = EXACT_UP_TO as i32 + 1;
    let differences: Vec<f64> = (1..=n).map(|i| f64::from(if i % 3 == 0 { -i } else { i })).collect();
    let normal = wilcoxon(&differences);
    let twice_ranks: Vec<usize> = (1..=n as usize).map(|rank| 2 * rank).collect();
    near(normal.p, exact_p(&twice_ranks, 2 * normal.w_plus as usize), 1e-3);
}
