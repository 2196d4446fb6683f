//! The models beside plain loops over the same parameters.

use super::*;
use crate::data::lists::{Part, example};
use crate::engine::exec::DeviceChoice;
use crate::engine::params::State;
use crate::methods::{config, find};
use crate::train::list_scores::ListScorer;
use crate::train::trainer::layout_of;

/// A model with parameters drawn large enough to matter, and some of them changed.
struct Model {
    layout: ParamLayout,
    state: State,
    lists: Arc<Lists>,
    scores: Vec<f32>,
}

impl Model {
    fn new(name: &str, settings: &[&str], change: impl Fn(&str, &mut [f32])) -> Model {
        let data = Interactions::from_lists(example(16, 3)).unwrap();
        let info = find(name).unwrap();
        let settings: Vec<String> = ["dim=4"].iter().chain(settings).map(|s| s.to_string()).collect();
        let config = config::resolve(info, None, None, &settings).unwrap();
        let method = (info.build)(&config, Sizes::of(&data)).unwrap();
        let layout = layout_of(method.as_ref()).unwrap();
        let mut state = layout.initial_state(3);
        for (set, values) in layout.sets.iter().zip(&mut state.sets) {
            for parameter in &set.parameters {
                let words = &mut values.params[parameter.range.clone()];
                let least = if parameter.name == "variance" { 0.1 } else { -0.5 };
                words.iter_mut().enumerate().for_each(|(i, x)| *x = ((i * 29 + 7) % 23) as f32 / 20.0 + least);
                change(&parameter.name, words);
            }
        }
        let mut executor = DeviceChoice::Cpu.open(1).unwrap();
        executor.load(&layout, &state).unwrap();
        let lists = data.lists.unwrap();
        let mut scorer = ListScorer::new(method.list_model().unwrap(), layout.clone());
        let scores = scorer.scores(executor.as_mut(), &lists, Part::Test).unwrap();
        Model { layout, state, lists, scores }
    }

    fn parameter(&self, name: &str) -> &[f32] {
        self.state.parameter(&self.layout, "model", name).unwrap()
    }

    /// `w_0 + sum_f w_f`
    fn first_order(&self, impression: usize) -> f32 {
        let fields = 0..self.lists.fields.len();
        let w = self.parameter("first_order");
        fields.map(|field| w[self.lists.bag(impression, field)[0] as usize]).sum::<f32>() + self.parameter("bias")[0]
    }

    fn vectors(&self, impression: usize) -> Vec<&[f32]> {
        let row = |field| self.lists.bag(impression, field)[0] as usize;
        (0..self.lists.fields.len()).map(|field| &self.parameter("table")[4 * row(field)..][..4]).collect()
    }

    /// Elementwise products of all pairs of fields.
    fn pairs(&self, impression: usize) -> Vec<Vec<f32>> {
        let v = self.vectors(impression);
        let places = (0..v.len()).flat_map(|f| (f + 1..v.len()).map(move |g| (f, g)));
        places.map(|(f, g)| v[f].iter().zip(v[g]).map(|(a, b)| a * b).collect()).collect()
    }

    fn scores_are(&self, expected: impl Fn(usize) -> f32) {
        for (impression, score) in self.lists.impressions(Part::Test).zip(&self.scores) {
            let expected = expected(impression);
            assert!((score - expected).abs() < 1e-4, "impression {impression}: {score} and {expected}");
        }
    }
}

fn relu(x: f32) -> f32 {
    x.max(0.0)
}

/// A layer `[outputs, inputs]`.
fn layer(model: &Model, name: &str, x: &[f32]) -> Vec<f32> {
    let weight = model.parameter(&format!("{name}.weight")).chunks(x.len());
    let bias = model.parameter(&format!("{name}.bias"));
    weight.zip(bias).map(|(w, b)| w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>() + b).collect()
}

/// Two layers over these columns.
fn tower(model: &Model, columns: &[f32], normalised: bool) -> f32 {
    let mut x = columns.to_vec();
    for name in ["deep0", "deep1"] {
        x = layer(model, name, &x);
        if normalised {
            x = norm(model, &format!("{name}_norm"), &x);
        }
        x = x.into_iter().map(relu).collect();
    }
    layer(model, "deep_output", &x)[0]
}

/// Batch normalisation of a row by the statistics that are kept.
fn norm(model: &Model, name: &str, x: &[f32]) -> Vec<f32> {
    let of = |set: &str, name: &str, d: usize| model.state.parameter(&model.layout, set, name).unwrap()[d];
    let one = |(d, x): (usize, &f32)| {
        let running = |what: &str| of(&format!("{name}.running"), what, d);
        let affine = |what: &str| of("model", &format!("{name}.{what}"), d);
        (x - running("mean")) / (running("variance") + 1e-5).sqrt() * affine("weight") + affine("bias")
    };
    x.iter().enumerate().map(one).collect()
}

#[test]
fn fm_sums_the_products_of_all_pairs() {
    let model = Model::new("fm", &[], |_, _| {});
    model.scores_are(|n| model.first_order(n) + model.pairs(n).concat().iter().sum::<f32>());
}

#[test]
fn wide_and_deep_and_deepfm_add_the_same_tower() {
    let layers = ["layers=[3, 2]"];
    let wide = Model::new("wide-deep", &layers, |_, _| {});
    let flat = |model: &Model, n: usize| model.vectors(n).concat();
    wide.scores_are(|n| wide.first_order(n) + tower(&wide, &flat(&wide, n), false));
    let deep = Model::new("deepfm", &layers, |_, _| {});
    deep.scores_are(|n| {
        deep.first_order(n) + deep.pairs(n).concat().iter().sum::<f32>() + tower(&deep, &flat(&deep, n), false)
    });
}

#[test]
fn nfm_puts_a_tower_over_the_sum_of_the_pairs() {
    let model = Model::new("nfm", &["layers=[3, 2]"], |_, _| {});
    model.scores_are(|n| {
        let sum = [0, 1, 2, 3].map(|d| model.pairs(n).iter().map(|pair| pair[d]).sum::<f32>());
        model.first_order(n) + tower(&model, &norm(&model, "pairs_norm", &sum), false)
    });
}

#[test]
fn neurons_of_afn_multiply_powers_of_the_fields() {
    let model = Model::new("afn", &["neurons=3", "layers=[3, 2]"], |_, _| {});
    model.scores_are(|n| {
        let vectors = model.vectors(n);
        let of_column = |d: usize| {
            let logs: Vec<f32> = vectors.iter().map(|v| v[d].abs().max(1e-7).ln()).collect();
            let powers = layer(&model, "neurons", &norm(&model, "logarithms_norm", &logs));
            norm(&model, "neurons_norm", &powers.into_iter().map(f32::exp).collect::<Vec<_>>())
        };
        let neurons: Vec<f32> = (0..4).flat_map(of_column).collect();
        model.first_order(n) + tower(&model, &neurons, true)
    });
}

#[test]
fn afm_weighs_pairs_by_attention_and_takes_their_mean_without() {
    let equal = Model::new("afm", &["attention=3"], |name, words| {
        if name == "attention_output" {
            words.fill(0.0);
        }
    });
    let p =
        |model: &Model, sum: &[f32]| sum.iter().zip(model.parameter("pairs_output")).map(|(x, p)| x * p).sum::<f32>();
    equal.scores_are(|n| {
        let pairs = equal.pairs(n);
        let mean: Vec<f32> =
            (0..4).map(|d| pairs.iter().map(|pair| pair[d]).sum::<f32>() / pairs.len() as f32).collect();
        equal.first_order(n) + p(&equal, &mean)
    });
    let model = Model::new("afm", &["attention=3"], |_, _| {});
    model.scores_are(|n| {
        let pairs = model.pairs(n);
        let score = |pair: &Vec<f32>| -> f32 {
            let hidden = layer(&model, "attention", pair).into_iter().map(relu);
            hidden.zip(model.parameter("attention_output")).map(|(x, h)| x * h).sum()
        };
        let weights: Vec<f32> = pairs.iter().map(|pair| score(pair).exp()).collect();
        let total: f32 = weights.iter().sum();
        let weighted = |d: usize| pairs.iter().zip(&weights).map(|(pair, w)| pair[d] * w).sum::<f32>() / total;
        model.first_order(n) + p(&model, &[0, 1, 2, 3].map(weighted))
    });
}

#[test]
fn autoint_without_attention_is_linear_and_with_it_attends() {
    let linear = Model::new("autoint", &["interacting_layers=0"], |_, _| {});
    linear.scores_are(|n| linear.first_order(n) + layer(&linear, "output", &linear.vectors(n).concat())[0]);
    let model = Model::new("autoint", &["interacting_layers=1", "heads=2"], |_, _| {});
    model.scores_are(|n| {
        let v = model.vectors(n);
        let part = |name: &str| -> Vec<Vec<f32>> {
            let weight = model.parameter(&format!("interacting0.{name}"));
            let row = |x: &&[f32]| weight.chunks(4).map(|w| w.iter().zip(*x).map(|(w, x)| w * x).sum()).collect();
            v.iter().map(row).collect()
        };
        let [q, k, value, residual] = ["query", "key", "value", "residual"].map(part);
        let mut flat = Vec::new();
        for f in 0..v.len() {
            for d in 0..4 {
                let head = 2 * (d / 2)..2 * (d / 2) + 2;
                let score = |g: usize| head.clone().map(|i| q[f][i] * k[g][i]).sum::<f32>().exp();
                let total: f32 = (0..v.len()).map(score).sum();
                let attended: f32 = (0..v.len()).map(|g| score(g) * value[g][d]).sum::<f32>() / total;
                flat.push(relu(attended + residual[f][d]));
            }
        }
        model.first_order(n) + layer(&model, "output", &flat)[0]
    });
}
