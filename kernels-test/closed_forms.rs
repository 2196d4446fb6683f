//! Values that can be worked out by hand, on every executor.

use crate::{gpu_trial, trial};
use gpurec::data::Interactions;
use gpurec::engine::exec::ExecOptions;
use gpurec::engine::params::ParamLayout;
use gpurec::engine::{Feed, Graph, Tensor, TensorType, ValueId};
use gpurec::methods::{self, Batch, Request, Sizes};
use gpurec::nn::Impressions;
use gpurec::ops::info_nce::info_nce_one_way;
use gpurec::ops::linear_kl_div::LinearKlDiv;
use gpurec::ops::row_mse::RowMse;
use gpurec::train::Ranker;
use gpurec::train::trainer::layout_of;
use gpurec::verify::{Checked, Failure, Outcome, Target};
use libtest_mimic::Trial;
use std::sync::Arc;

type Check = fn(&mut Target) -> Checked;

pub fn trials() -> Vec<Trial> {
    let checks: [(&str, Check); 7] = [
        ("a_student_that_agrees_has_no_divergence", agreement),
        ("a_uniform_student_lacks_the_teachers_information", uniform_student),
        ("a_shift_of_all_scores_changes_no_divergence", shifts),
        ("equal_representations_have_no_error_and_contrast_at_chance", representations),
        ("hgn_of_one_column", hgn_of_one_column),
        ("bert4rec_without_queries_is_at_chance", bert4rec_at_chance),
        ("pairs_of_fields_are_half_of_square_less_squares", pairs_of_fields),
    ];
    let of_check = |(name, check): (&str, Check)| {
        [
            trial(format!("closed_form::reference::{name}"), move || check(&mut Target::Reference)),
            trial(format!("closed_form::cpu::{name}"), move || check(&mut Target::Cpu { threads: 2 })),
            gpu_trial(format!("closed_form::gpu::{name}"), check),
        ]
    };
    checks.into_iter().flat_map(of_check).collect()
}

fn near(what: &str, found: f32, expected: f64) -> Checked {
    let close = (f64::from(found) - expected).abs() <= 2e-5 * (1.0 + expected.abs());
    if close { Ok(Outcome::default()) } else { Err(Failure(format!("{what} is {found}, expected {expected}"))) }
}

/// The outputs of a graph over these inputs.
fn run(target: &mut Target, graph: Graph, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Vec<f32>)>, Failure> {
    let mut feed = Feed::default();
    inputs.iter().for_each(|(name, tensor)| feed.set(name, tensor.clone()));
    let names: Vec<String> = graph.outputs.keys().cloned().collect();
    Ok(target.with(ExecOptions::default(), |executor| {
        let plan = executor.compile(graph)?;
        executor.run(plan, &feed)?;
        names.into_iter().map(|name| Ok((name.clone(), executor.fetch(plan, &name)?.words))).collect()
    })?)
}

/// `KL` and the gradient of the student's queries, of scores that are given: queries are rows of the identity.
fn divergence(target: &mut Target, student: &[f32], teacher: &[f32]) -> Result<(f32, Vec<f32>), Failure> {
    let items = student.len();
    let mut graph = Graph::new(ParamLayout::default());
    let mut side = |name: &str, width: usize| -> [ValueId; 2] {
        [("query", vec![1, width]), ("table", vec![items, width])]
            .map(|(part, shape)| graph.input(&format!("{name}_{part}"), TensorType::f32(&shape)))
    };
    let ([query, table], [their_query, their_table]) = (side("student", 2), side("teacher", 1));
    let biases = ["student_bias", "teacher_bias"].map(|name| graph.input(name, TensorType::f32(&[items])));
    let op = LinearKlDiv { student_bias: true, teacher_bias: true, ..LinearKlDiv::default() };
    let inputs = [query, table, biases[0], their_query, their_table, biases[1]];
    let loss = graph.add(op, &inputs)?[0];
    let one = graph.input("one", TensorType::f32(&[1]));
    let gradients = graph.vjp(&[(loss, one)], &[query, biases[0]])?;
    graph.output("loss", loss);
    graph.output("dquery", gradients[&query]);
    graph.output("dbias", gradients[&biases[0]]);
    // A column of ones beside the student's scores: its gradient is the sum of all items'.
    let table = student.iter().flat_map(|score| [*score, 1.0]).collect();
    let zeros = vec![0.0; items];
    let inputs = [
        ("student_query", Tensor::f32(&[1, 2], vec![1.0, 0.0])),
        ("student_table", Tensor::f32(&[items, 2], table)),
        ("student_bias", Tensor::f32(&[items], zeros.clone())),
        ("teacher_query", Tensor::f32(&[1, 1], vec![0.0])),
        ("teacher_table", Tensor::f32(&[items, 1], zeros)),
        ("teacher_bias", Tensor::f32(&[items], teacher.to_vec())),
        ("one", Tensor::f32(&[1], vec![1.0])),
    ];
    let outputs = run(target, graph, &inputs)?;
    let of = |name: &str| outputs.iter().find(|(known, _)| known == name).expect("an output").1.clone();
    near("the sum of the gradients of all scores", of("dquery")[1], 0.0)?;
    Ok((of("loss")[0], of("dbias")))
}

/// Scores of 37 items.
fn scores(scale: f32) -> Vec<f32> {
    (0..37).map(|item| scale * (((item * 29) % 37) as f32 / 18.0 - 1.0)).collect()
}

fn agreement(target: &mut Target) -> Checked {
    for same in [scores(1.0), scores(80.0), vec![3.0]] {
        let (loss, gradient) = divergence(target, &same, &same)?;
        near("the divergence", loss, 0.0)?;
        gradient.into_iter().try_for_each(|g| near("a gradient", g, 0.0).map(drop))?;
    }
    Ok(Outcome::default())
}

fn uniform_student(target: &mut Target) -> Checked {
    let teacher = scores(2.0);
    let sum: f64 = teacher.iter().map(|t| f64::from(*t).exp()).sum();
    let entropy: f64 = teacher.iter().map(|t| f64::from(*t).exp() / sum).map(|p| -p * p.ln()).sum();
    let (loss, gradient) = divergence(target, &[0.5; 37], &teacher)?;
    near("the divergence", loss, 37f64.ln() - entropy)?;
    near("the first gradient", gradient[0], 1.0 / 37.0 - f64::from(teacher[0]).exp() / sum)
}

fn shifts(target: &mut Target) -> Checked {
    let shifted = |by: f32| -> Vec<f32> { scores(2.0).into_iter().map(|score| score + by).collect() };
    let (plain, _) = divergence(target, &scores(-1.0), &shifted(0.0))?;
    for by in [-7.0, 60.0] {
        near("of shifted teachers", divergence(target, &scores(-1.0), &shifted(by))?.0, f64::from(plain))?;
    }
    let student: Vec<f32> = scores(-1.0).into_iter().map(|score| score + 9.0).collect();
    near("of a shifted student", divergence(target, &student, &shifted(0.0))?.0, f64::from(plain))
}

fn representations(target: &mut Target) -> Checked {
    let mut graph = Graph::new(ParamLayout::default());
    let [a, b] = ["a", "b"].map(|name| graph.input(name, TensorType::f32(&[5, 3])));
    let error = graph.add1(RowMse, &[a, b])?;
    graph.output("error", error);
    let [loss, _] = info_nce_one_way(&mut graph, a, b, 0.5)?;
    graph.output("loss", loss);
    let same = Tensor::f32(&[5, 3], [0.3, -1.0, 2.0].repeat(5));
    let outputs = run(target, graph, &[("a", same.clone()), ("b", same)])?;
    near("the error", outputs[0].1[0], 0.0)?;
    near("InfoNCE", outputs[1].1[0], 5f64.ln())
}

/// One item `e = 1` of a user `u = 0` behind gates of zero: half of it passes the feature gate, the mean is the item that
/// passed, and the query is the mean and the item.
fn hgn_of_one_column(target: &mut Target) -> Checked {
    let info = methods::find("hgn")?;
    let settings = ["dim=1", "window=1"].map(String::from);
    let config = methods::config::resolve(info, None, None, &settings)?;
    let method = (info.build)(&config, Sizes { users: 1, items: 2, ..Sizes::default() })?;
    let layout = layout_of(method.as_ref())?;
    let mut state = layout.initial_state(1);
    state.sets[0].params.fill(0.0);
    state.parameter_mut(&layout, "model", "item_table").expect("a parameter").fill(1.0);
    let query = target.with(ExecOptions::default(), |executor| {
        executor.load(&layout, &state)?;
        let request = Request { history: &[1], user: Some(0) };
        Ranker::new(method.as_ref(), layout.clone()).queries(executor, &[request])
    })?;
    near("the query", query.words[0], 1.5)
}

fn bert4rec_at_chance(target: &mut Target) -> Checked {
    let info = methods::find("bert4rec")?;
    let settings = ["dim=8", "inner_dim=8", "heads=2", "blocks=1", "max_len=6"].map(String::from);
    let config = methods::config::resolve(info, None, None, &settings)?;
    let data = Arc::new(Interactions::from_sequences("toy", &[vec![1, 2, 3, 4, 5], vec![6, 7, 8, 9, 10, 11]]));
    let method = (info.build)(&config, Sizes::of(&data))?;
    let sampler = method.sampler(data.clone())?;
    let Batch { shape, mut feed, .. } =
        sampler.batch(&sampler.samples(), gpurec::engine::rng::RngState { seed: 1, step: 1 })?;
    let layout = layout_of(method.as_ref())?;
    let mut state = layout.initial_state(1);
    ["head_norm.weight", "head_norm.bias"].iter().for_each(|name| {
        state.parameter_mut(&layout, "model", name).expect("a parameter").fill(0.0);
    });
    gpurec::nn::optimizer_inputs(&mut feed, "model", &method.training().adam(), 1);
    let losses = target.with(ExecOptions::default(), |executor| {
        executor.load(&layout, &state)?;
        let plan = executor.compile(method.train_graph(shape, layout.clone())?)?;
        executor.run(plan, &feed)?;
        executor.drain_metrics()
    })?;
    near("the loss", losses[0][0], 11f64.ln())
}

/// Three fields of two impressions, one a bag of two rows, one empty: the identity of factorisation machines.
fn pairs_of_fields(target: &mut Target) -> Checked {
    let table: Vec<f32> = (0..10).map(|i| ((i * 7) % 11) as f32 / 4.0 - 1.0).collect();
    let bags: [&[usize]; 6] = [&[0], &[1, 3], &[2], &[4], &[], &[3]];
    let mean = |bag: &[usize], d: usize| {
        let sum: f32 = bag.iter().map(|row| table[2 * row + d]).sum();
        f64::from(sum) / bag.len().max(1) as f64
    };
    let mut graph = Graph::new(ParamLayout::default());
    let x = Impressions::declare(&mut graph, "", [2, 3, 6], false);
    let rows = graph.input("table", TensorType::f32(&[5, 2]));
    let vectors = x.embed(&mut graph, rows)?;
    let pairs = x.pairs(&mut graph, vectors)?;
    graph.output("pairs", pairs);
    let inputs = [
        ("table", Tensor::f32(&[5, 2], table.clone())),
        ("bag_rows", Tensor::u32(&[6], &[0, 1, 3, 2, 4, 3])),
        ("bags", Tensor::u32(&[7], &[0, 1, 3, 4, 5, 5, 6])),
        ("of_impression", Tensor::u32(&[3], &[0, 3, 6])),
    ];
    let found = run(target, graph, &inputs)?.remove(0).1;
    for (n, d) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let [a, b, c] = [0, 1, 2].map(|field| mean(bags[3 * n + field], d));
        near("the sum over the pairs", found[2 * n + d], a * b + a * c + b * c)?;
    }
    Ok(Outcome::default())
}
