//! What must hold of whole models, whatever the kernels: causality, packing, and the loss at initialisation.

use crate::trial;
use gpurec::data::pack::INERT;
use gpurec::data::{self, Interactions, Packed};
use gpurec::engine::exec::ExecOptions;
use gpurec::engine::params::ParamLayout;
use gpurec::engine::rng::RngState;
use gpurec::engine::{Feed, Graph, Tensor};
use gpurec::eval::Protocol;
use gpurec::methods::batch::feed_tokens;
use gpurec::methods::{self, Method, Sizes};
use gpurec::nn::{PassNoise, Tokens, Transformer};
use gpurec::train::Trainer;
use gpurec::verify::{Checked, Failure, Outcome, Target};
use libtest_mimic::Trial;
use std::sync::Arc;

const ITEMS: usize = 30;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("domain::perturbing_item_t_leaves_earlier_outputs_bitwise_equal".into(), causality),
        trial("domain::packing_changes_no_hidden_state".into(), packing),
        trial("domain::initial_losses_are_those_of_chance".into(), losses_at_initialisation),
        trial("domain::twenty_users_can_be_learned_by_heart".into(), overfit),
        trial("domain::bpr_beats_popularity".into(), bpr_beats_popularity),
        trial("domain::masks_follow_the_keep_logit_and_are_antithetic".into(), antithetic_masks),
    ]
}

/// Hidden states `[N, D]` of packed sequences under training noise.
fn hidden(sequences: &[(u32, &[u32])], inert: usize, noise: PassNoise) -> Result<Vec<f32>, Failure> {
    let encoder = Transformer { dim: 8, inner_dim: 16, max_len: 8, ..Transformer::default() };
    let mut packed = Packed::new();
    sequences.iter().for_each(|(id, items)| packed.push(*id, items, encoder.max_len));
    packed.pad_to(packed.n_rows() + inert, INERT);
    let mut graph = Graph::new(ParamLayout::default());
    let tokens = Tokens::for_training(&mut graph, packed.n_sequences(), packed.n_rows());
    let table = encoder.item_table(&mut graph, ITEMS);
    let states = encoder.encode(&mut graph, &tokens, table, None, Some(noise))?;
    graph.output("hidden", states);
    let mut feed = Feed::default();
    feed_tokens(&mut feed, &packed, None, Some(RngState { seed: 3, step: 7 }));
    let tensor: Tensor = Target::Cpu { threads: 2 }.with(ExecOptions::default(), |executor| {
        let layout = graph.layout.clone();
        executor.load(&layout, &layout.initial_state(1))?;
        let plan = executor.compile(graph)?;
        executor.run(plan, &feed)?;
        executor.fetch(plan, "hidden")
    })?;
    Ok(tensor.words)
}

fn expect(holds: bool, problem: &str) -> Checked {
    if holds { Ok(Outcome::default()) } else { Err(Failure(problem.into())) }
}

fn causality() -> Checked {
    let before = hidden(&[(0, &[1, 2, 3, 4, 5])], 0, PassNoise::Dropout { pass: 0 })?;
    let after = hidden(&[(0, &[1, 2, 3, 9, 5])], 0, PassNoise::Dropout { pass: 0 })?;
    expect(before[..3 * 8] == after[..3 * 8], "an earlier position saw a later item")?;
    expect(before[3 * 8..] != after[3 * 8..], "the perturbed position did not change")
}

fn packing() -> Checked {
    let (a, b): (&[u32], &[u32]) = (&[1, 2, 3], &[7, 8, 9, 10, 11, 12, 13, 14]);
    for noise in [PassNoise::Dropout { pass: 0 }, PassNoise::Learned { antithetic: true }] {
        let together = hidden(&[(5, a), (6, &[]), (9, b)], 4, noise)?;
        let swapped = hidden(&[(9, b), (5, a)], 0, noise)?;
        let near = |x: &[f32], y: &[f32]| x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-5);
        expect(near(&together[..24], &swapped[64..88]) && near(&together[24..88], &swapped[..64]), "packing matters")?;
    }
    Ok(Outcome::default())
}

fn build(name: &str, settings: &[&str], data: &Interactions) -> Result<Box<dyn Method>, Failure> {
    let info = methods::find(name)?;
    let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
    Ok((info.build)(&methods::config::resolve(info, None, None, &settings)?, Sizes::of(data))?)
}

/// Metrics of the first `steps` steps over the same users.
fn losses(method: &dyn Method, data: &Arc<Interactions>, users: &[u32], steps: u32) -> Result<Vec<Vec<f32>>, Failure> {
    Ok(Target::Cpu { threads: 2 }.with(ExecOptions::default(), |executor| {
        let mut trainer = Trainer::new(method, data.clone(), 5, executor, None)?;
        let sampler = method.sampler(data.clone())?;
        for step in 1..=steps {
            trainer.step(executor, sampler.batch(users, RngState { seed: 5, step })?)?;
        }
        executor.drain_metrics()
    })?)
}

/// Scores begin near 0: BCE is 2 ln 2, softmax cross-entropy ln V (or ln of the sample).
fn losses_at_initialisation() -> Checked {
    let data = Arc::new(data::resolve("kuairec", &data::ReadOptions::default())?.head(300));
    let users: Vec<u32> = (0..300).filter(|&u| data.sequence(u as usize).len() >= 4).collect();
    let chance = |setting: &str| match setting {
        "loss=bce" => 2.0 * 2.0f32.ln(),
        "loss=ce" => (data.n_items() as f32).ln(),
        _ => 8.0f32.ln(),
    };
    for setting in ["loss=bce", "loss=ce", "loss=sampled_softmax"] {
        let method = build("sasrec", &[setting, "negatives=7"], &data)?;
        let loss = losses(method.as_ref(), &data, &users, 1)?[0][0];
        let problem = format!("{setting}: the first loss is {loss}, chance is {}", chance(setting));
        expect((loss - chance(setting)).abs() < 0.06, &problem)?;
    }
    Ok(Outcome::default())
}

fn overfit() -> Checked {
    let data = Arc::new(data::resolve("kuairec", &data::ReadOptions::default())?.head(20));
    let users: Vec<u32> = (0..20).filter(|&u| data.sequence(u as usize).len() >= 4).collect();
    let sasrec = ["loss=ce", "hidden_dropout=0", "attention_dropout=0", "learning_rate=0.01", "dim=32"];
    let bpr = ["l2=0", "learning_rate=0.01", "dim=32"];
    for (name, settings) in [("sasrec", &sasrec[..]), ("bpr", &bpr)] {
        let method = build(name, settings, &data)?;
        let losses = losses(method.as_ref(), &data, &users, 150)?;
        let (first, last) = (losses[0][0], losses[149][0]);
        expect(last < 0.1 * first, &format!("the loss of {name} fell only from {first} to {last}"))?;
    }
    Ok(Outcome::default())
}

fn bpr_beats_popularity() -> Checked {
    let data = Arc::new(data::resolve("kuairec", &data::ReadOptions::default())?);
    let ndcg = |name: &str, settings: &[&str]| -> Result<f64, Failure> {
        let method = build(name, settings, &data)?;
        let evaluation = Target::Cpu { threads: 2 }.with(ExecOptions::default(), |executor| {
            let mut trainer = Trainer::new(method.as_ref(), data.clone(), 5, executor, None)?;
            trainer.fit(executor, &mut ())?;
            trainer.evaluate(executor, &mut ())
        })?;
        Ok(evaluation.metrics.test[Protocol::HistoryExcluded].get("ndcg@20").expect("a known metric"))
    };
    let (pop, bpr) = (ndcg("pop", &[])?, ndcg("bpr", &["epochs=15", "learning_rate=0.005"])?);
    expect(bpr > pop, &format!("NDCG@20 of popularity is {pop}, of BPR {bpr}"))
}

/// At keep logit 0 the two masks of ARM are complementary, so exactly one pass keeps each element.
fn antithetic_masks() -> Checked {
    use gpurec::engine::TensorType;
    use gpurec::engine::rng::Site;
    use gpurec::ops::bernoulli_mask::BernoulliMask;
    let (rows, width) = (200, 16);
    let mut graph = Graph::new(ParamLayout::default());
    let x = graph.input("x", TensorType::f32(&[rows, width]));
    let logit = graph.input("logit", TensorType::f32(&[1]));
    let rng = graph.input("rng", TensorType::u32(&[4]));
    let keys = graph.input("keys", TensorType::u32(&[rows, 2]));
    for (name, antithetic) in [("a", false), ("b", true)] {
        let y = graph.add1(BernoulliMask { site: Site(3), antithetic }, &[x, logit, rng, keys])?;
        graph.output(name, y);
    }
    let mut feed = Feed::default();
    feed.set("x", Tensor::f32(&[rows, width], vec![1.0; rows * width]));
    feed.set("logit", Tensor::f32(&[1], vec![0.0]));
    feed.set("rng", Tensor::u32(&[4], &RngState { seed: 1, step: 1 }.words()));
    feed.set("keys", Tensor::u32(&[rows, 2], &(0..2 * rows as u32).collect::<Vec<u32>>()));
    let (a, b) = Target::Cpu { threads: 2 }.with(ExecOptions::default(), |executor| {
        let plan = executor.compile(graph)?;
        executor.run(plan, &feed)?;
        Ok((executor.fetch(plan, "a")?.words, executor.fetch(plan, "b")?.words))
    })?;
    expect(a.iter().zip(&b).all(|(a, b)| a + b == 2.0), "the masks are not complementary")?;
    let kept = a.iter().filter(|a| **a > 0.0).count() as f64 / a.len() as f64;
    expect((kept - 0.5).abs() < 0.05, &format!("{kept} of the elements are kept, 0.5 expected"))
}
