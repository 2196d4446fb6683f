//! 200 steps of small models on every executor with one seed: losses must stay together.

use crate::{gpu_trial, trial};
use gpurec::data::matrix::Matrix;
use gpurec::data::sample::Prefixes;
use gpurec::data::{self, Interactions, epoch_order};
use gpurec::engine::Tensor;
use gpurec::engine::exec::ExecOptions;
use gpurec::engine::rng::{RngState, Site};
use gpurec::methods::stage::{Stage, Teacher};
use gpurec::methods::{self, METHODS, Method, MethodInfo};
use gpurec::train::Trainer;
use gpurec::verify::{Checked, Failure, Outcome, Target};
use libtest_mimic::Trial;
use std::sync::Arc;

const STEPS: usize = 200;
const BATCH: usize = 24;
/// Largest relative difference of the loss from the reference's at any of the 200 steps. f32 rounding is about 1e-7 a
/// step and training amplifies it; a wrong gradient is off by far more within the first steps.
const BAND: f64 = 2e-3;

/// Small enough for software Vulkan, for the methods that have such a key.
const SMALL: &[&str] = &["dim=8", "inner_dim=16", "max_len=10", "blocks=1", "learning_rate=0.003", "batch_size=24"];

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for info in METHODS {
        for &case in info.cases {
            let name = format!("{} {}", info.name, case.join(" ")).replace(' ', "_");
            trials.push(trial(format!("trajectory::cpu::{name}"), move || {
                follows(info, case, &mut Target::Cpu { threads: 2 })
            }));
            trials.push(gpu_trial(format!("trajectory::gpu::{name}"), move |target| follows(info, case, target)));
        }
    }
    trials
}

fn follows(info: &MethodInfo, case: &[&str], target: &mut Target) -> Checked {
    let mut data = Arc::new(data::resolve("kuairec", &data::ReadOptions::default())?.head(300));
    let keys = (info.defaults)();
    let small = SMALL.iter().filter(|text| text.split_once('=').is_some_and(|(key, _)| keys.contains_key(key)));
    let settings: Vec<String> = small.chain(case).map(|s| s.to_string()).collect();
    let config = methods::config::resolve(info, None, None, &settings)?;
    let mut method = (info.build)(&config, methods::Sizes::of(&data))?;
    if method.list_model().is_some() {
        data = Arc::new(shown()?);
        method = (info.build)(&config, methods::Sizes::of(&data))?;
    }
    let teachers = teachers(method.as_ref(), &data);
    if !teachers.is_empty() {
        method = method.taught(teachers)?;
    }
    let expected = losses(method.as_ref(), &data, &mut Target::Reference)?;
    let got = losses(method.as_ref(), &data, target)?;
    let mut worst = 0.0f64;
    for (step, (a, b)) in got.iter().zip(&expected).enumerate() {
        let difference = f64::from((a - b).abs() / b.abs());
        if difference.is_nan() || difference > BAND {
            return Err(Failure(format!("the loss of step {} is {a}, the reference has {b}", step + 1)));
        }
        worst = worst.max(difference / BAND);
    }
    if expected[STEPS - 1] >= expected[0] {
        return Err(Failure(format!("the loss did not fall: {} to {}", expected[0], expected[STEPS - 1])));
    }
    Ok(Outcome { share: worst })
}

/// A made-up log of lists of five: who likes the colour of an item clicks it.
fn shown() -> gpurec::Result<Interactions> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let schema = r#"
        user = "user"
        items = "items"
        flags = "clicks"
        length = 5
        fields = [
            { name = "user", of = "user", column = "user" },
            { name = "likes", of = "user", column = "likes", separator = "," },
            { name = "item", of = "item", column = "items", each = true },
            { name = "colour", of = "item", column = "colours", each = true },
            { name = "position", of = "context", derive = "position" },
            { name = "clicks", of = "context", derive = "clicks_before" },
        ]"#;
    let mut stream = RngState { seed: 4, step: 0 }.stream(Site(7), 0);
    let mut rows = "user\tlikes\titems\tcolours\tclicks\n".to_string();
    for list in 0..400u32 {
        let user = list % 30;
        let items: Vec<u32> = (0..5).map(|_| stream.below(40)).collect();
        let column =
            |of: &dyn Fn(u32) -> u32| items.iter().map(|item| of(*item).to_string()).collect::<Vec<_>>().join("|");
        let click = |item: u32| u32::from(item % 4 == user % 4);
        rows += &format!("{user}\t{},x\t{}\t{}\t{}\n", user % 4, column(&|i| i), column(&|i| i % 4), column(&click));
    }
    let (log, description) = (folder.path().join("shown.tsv"), folder.path().join("shown.toml"));
    std::fs::write(&log, rows).expect("the folder is writable");
    std::fs::write(&description, schema).expect("the folder is writable");
    data::resolve(&log.to_string_lossy(), &data::ReadOptions { schema: Some(description), ..Default::default() })
}

/// Made-up teachers in place of the method's stages, one of them as wide as the students are, the others not.
fn teachers(method: &dyn Method, data: &Arc<Interactions>) -> Vec<Teacher> {
    let prefixes = Prefixes::new(data.clone()).count() as usize;
    let teaching = method.stages().into_iter().filter(|stage| stage.teaches);
    let make = |(number, stage): (u32, Stage)| {
        let width = 8 - 2 * number as usize;
        let mut stream = RngState { seed: 9, step: 0 }.stream(Site(number), 0);
        let mut drawn = |count: usize| (0..count).map(|_| stream.normal() as f32).collect::<Vec<f32>>();
        Teacher {
            name: stage.name,
            table: Tensor::f32(&[data.n_items(), width], drawn(data.n_items() * width)),
            bias: Tensor::f32(&[data.n_items()], drawn(data.n_items())),
            queries: Arc::new(Matrix::new(width, drawn(prefixes * width))),
        }
    };
    (0..).zip(teaching).map(make).collect()
}

fn losses(method: &dyn Method, data: &Arc<Interactions>, target: &mut Target) -> Result<Vec<f32>, Failure> {
    let losses = target.with(ExecOptions::default(), |executor| {
        let mut trainer = Trainer::new(method, data.clone(), 5, executor, None)?;
        let sampler = method.sampler(data.clone())?;
        let order = epoch_order(5, 1, &sampler.samples());
        let mut users = order.chunks_exact(BATCH).cycle();
        for step in 1..=STEPS {
            let batch = sampler.batch(users.next().expect("cycles"), RngState { seed: 5, step: step as u32 })?;
            trainer.step(executor, batch)?;
        }
        executor.drain_metrics()
    })?;
    Ok(losses.into_iter().map(|row| row[0]).collect())
}
