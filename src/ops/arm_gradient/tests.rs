//! The estimator against what it estimates: exact gradients of functions of few Bernoulli variables. Masks come from the
//! op that draws them in training, in f64.

use super::*;
use crate::engine::tensor::DType;
use crate::ops::bernoulli_mask::BernoulliMask;

const SITE: Site = Site(4);
const BATCHES: u32 = 100;

/// Independent rows of `features` Bernoulli variables, drawn at one step.
struct Draws {
    rows: usize,
    features: usize,
    rng: Array,
    keys: Array,
}

impl Draws {
    fn new(rows: usize, features: usize, step: u32) -> Draws {
        let words = |shape: &[usize], words: &[u32]| {
            let mut array = Array::zeros(&TensorType { dtype: DType::U32, shape: shape.to_vec() });
            array.u_mut().copy_from_slice(words);
            array
        };
        let keys: Vec<u32> = (0..2 * rows as u32).collect();
        let rng = words(&[4], &RngState { seed: 21, step }.words());
        Draws { rows, features, rng, keys: words(&[rows, 2], &keys) }
    }

    fn column(values: Vec<f64>) -> Array {
        Array::from_f64(&TensorType::f32(&[values.len()]), values)
    }

    /// `z`, 0 or 1, of pass A or of pass B.
    fn masks(&self, logits: &[f64], antithetic: bool) -> Vec<f64> {
        let ty = TensorType::f32(&[self.rows, self.features]);
        let ones = Array::from_f64(&ty, vec![1.0; ty.len()]);
        let mut y = [Array::zeros(&ty)];
        let op = BernoulliMask { site: SITE, antithetic };
        op.reference(&[&ones, &Self::column(logits.to_vec()), &self.rng, &self.keys], &mut y);
        y[0].f().iter().map(|y| f64::from(u8::from(*y > 0.0))).collect()
    }

    /// The sum of the estimates of all rows, per logit.
    fn gradient(&self, logits: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let losses = |antithetic| Self::column(self.masks(logits, antithetic).chunks(self.features).map(&f).collect());
        self.gradient_of(logits, &losses(false), &losses(true))
    }

    fn gradient_of(&self, logits: &[f64], a: &Array, b: &Array) -> Vec<f64> {
        let logit = Self::column(logits.to_vec());
        let mut gradient = [Array::zeros(&logit.ty)];
        let op = ArmGradient { features: self.features, site: SITE };
        op.reference(&[a, b, &self.rng, &self.keys, &logit], &mut gradient);
        gradient[0].f().to_vec()
    }
}

/// Mean and standard error of numbers.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt())
}

/// The mean estimate of every logit lies within 4 of its standard errors of the exact gradient, and they are small.
fn estimates(logits: &[f64], features: usize, f: impl Fn(&[f64]) -> f64, exact: &[f64]) {
    let rows = 2000;
    let batch = |step| Draws::new(rows, features, step).gradient(logits, &f);
    let batches: Vec<Vec<f64>> = (0..BATCHES).map(batch).collect();
    for (k, exact) in exact.iter().enumerate() {
        let of_logit: Vec<f64> = batches.iter().map(|gradient| gradient[k] / rows as f64).collect();
        let (mean, error) = mean_and_error(&of_logit);
        assert!((mean - exact).abs() < 4.0 * error, "logit {k} of {logits:?}: {mean} +- {error}, exactly {exact}");
        assert!(error < 0.02, "logit {k}: an error of {error} proves nothing");
    }
}

fn slope(logit: f64) -> f64 {
    sigmoid(logit) * sigmoid(-logit)
}

#[test]
fn at_logit_0_an_estimate_is_half_the_difference_times_a_uniform() {
    let (off, on) = (2.0, 5.0);
    let f = |z: &[f64]| if z[0] > 0.0 { on } else { off };
    let estimates: Vec<f64> = (0..20_000).map(|step| Draws::new(1, 1, step).gradient(&[0.0], f)[0]).collect();
    let (mean, error) = mean_and_error(&estimates);
    assert!((mean - (on - off) / 4.0).abs() < 4.0 * error, "{mean}");
    assert!(estimates.iter().all(|estimate| (0.0..(on - off) / 2.0).contains(estimate)), "the masks always differ");
    // The variance of a uniform's sample variance is 0.8 / n of its square.
    let (variance, expected) = (error * error * 20_000.0, (on - off).powi(2) / 48.0);
    assert!((variance / expected - 1.0).abs() < 4.0 * (0.8f64 / 20_000.0).sqrt(), "{variance}, exactly {expected}");
}

#[test]
fn of_one_variable_the_gradient_is_the_slope_of_its_probability() {
    for logit in [0.0, 1.3, -2.0] {
        estimates(&[logit], 1, |z| 2.0 + 3.0 * z[0], &[3.0 * slope(logit)]);
    }
}

#[test]
fn of_a_sum_every_variable_gets_its_own_share() {
    let (logits, factors) = ([0.4, -1.0, 2.0], [1.0, -2.0, 0.5]);
    let f = |z: &[f64]| z.iter().zip(factors).map(|(z, a)| a * z).sum();
    estimates(&logits, 3, f, &[0, 1, 2].map(|k| factors[k] * slope(logits[k])));
}

/// A loss of six masked features behind a layer that mixes them.
fn masked_network(z: &[f64]) -> f64 {
    let weight = [[0.9, -0.4, 0.7, 0.2, -1.1, 0.3], [0.1, 0.8, -0.6, 0.5, 0.4, -0.9]];
    let feature = [1.2, 0.4, -0.8, 1.0, 0.6, -1.5];
    let layer = |row: [f64; 6]| -> f64 { (0..6).map(|k| row[k] * feature[k] * z[k]).sum::<f64>().tanh() };
    let [a, b] = weight.map(layer);
    (1.0 + (a - 2.0 * b + a * b).exp()).ln()
}

#[test]
fn of_a_small_network_it_agrees_with_all_64_masks() {
    let derivative = |logits: [f64; 6], k: usize| -> f64 {
        let weighted = (0..64u32).map(|bits| {
            let z: Vec<f64> = (0..6).map(|k| f64::from(bits >> k & 1)).collect();
            let keep = |k: usize| sigmoid(if z[k] > 0.0 { logits[k] } else { -logits[k] });
            let others: f64 = (0..6).filter(|&other| other != k).map(keep).product();
            others * slope(logits[k]) * (2.0 * z[k] - 1.0) * masked_network(&z)
        });
        weighted.sum()
    };
    let logits = [0.0, 0.5, -0.7, 1.5, -1.5, 0.2];
    let exact: Vec<f64> = (0..6).map(|k| derivative(logits, k)).collect();
    estimates(&logits, 6, masked_network, &exact);
    let shared: f64 = (0..6).map(|k| derivative([0.6; 6], k)).sum();
    estimates(&[0.6], 6, masked_network, &[shared]);
}

#[test]
fn both_masks_keep_with_one_probability_and_are_as_opposed_as_they_can_be() {
    for logit in [0.0, 1.3, -2.0] {
        let draws = Draws::new(50_000, 1, 0);
        let (a, b) = (draws.masks(&[logit], false), draws.masks(&[logit], true));
        let both: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a * b).collect();
        let keep = sigmoid(logit);
        for (values, expected) in [(&a, keep), (&b, keep), (&both, (2.0 * keep - 1.0).max(0.0))] {
            let (mean, error) = mean_and_error(values);
            assert!((mean - expected).abs() <= 4.0 * error, "logit {logit}: {mean}, expected {expected}");
        }
        assert!(logit != 0.0 || a.iter().zip(&b).all(|(a, b)| a + b == 1.0), "at 0 one is what the other is not");
    }
}

#[test]
fn without_a_difference_between_the_passes_there_is_no_gradient() {
    let draws = Draws::new(30, 4, 0);
    let losses = Draws::column((0..30).map(|row| f64::from(row) * 0.37).collect());
    assert_eq!(draws.gradient_of(&[0.3], &losses, &losses), [0.0]);
    assert_eq!(draws.gradient_of(&[0.3; 4], &losses, &losses), [0.0; 4]);
}
