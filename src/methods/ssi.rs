//! SSI (Yuan et al., Improving Sequential Recommendation Consistency with Self-Supervised Imitation, IJCAI 2021): three teachers,
//! each made consistent in its own way (`ssi_teacher.rs`), and a small student that imitates all of them.
//!
//! ```text
//! L1_k = mean over rows of KL(softmax(z_Tk) || softmax(z_S))           the distribution over all items     (Eq. 5)
//! L2_k = mean over the batch's items v of 1/D |E_Tk[v] - E_S[v]|^2     the items' vectors                  (Eq. 6)
//! L = L_S + sum_k lambda_k (L1_k + L2_k) + sum_k 1 / lambda_k + (sum_k 1 / lambda_k)^2                     (Eq. 8)
//! ```
//!
//! `L_S` is the student's own loss, and a row one of its queries: the teachers saw the same history. Their queries were
//! computed once, before; their scores are made again tile by tile where they are compared. The student alone recommends.

use super::batch::feed_ids;
use super::config::{resolve, table_of, typed};
use super::ssi_teacher::Task;
use super::stage::{Stage, Teacher};
use super::{Batch, Context, Method, MethodInfo, Request, Sampler, Shape, Sizes, Training, find, minimise};
use crate::data::Interactions;
use crate::data::pack::INERT;
use crate::data::sample::Prefixes;
use crate::engine::params::{FROZEN, Init, ParamLayout, State};
use crate::engine::rng::RngState;
use crate::engine::{Feed, Graph, Tensor, TensorType, ValueId};
use crate::error::{Error, Result};
use crate::nn::{Ids, Scorer, Tokens};
use crate::ops::add::Add;
use crate::ops::concat::Concat;
use crate::ops::learned_weights::{LearnedWeights, rho_of_one};
use crate::ops::linear::Linear;
use crate::ops::linear_kl_div::LinearKlDiv;
use crate::ops::reshape::Reshape;
use crate::ops::row_mse::RowMse;
use crate::ops::weighted_sum::WeightedSum;
use crate::settings;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use toml::Table;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "ssi",
    title: "SSI",
    paper: "Yuan et al., Improving Sequential Recommendation Consistency with Self-Supervised Imitation, IJCAI 2021",
    preset: include_str!("ssi.toml"),
    defaults: || table_of(&SsiConfig::default()),
    cases: &[
        &["student=hgn", r#"student_settings=["dim=8", "window=3"]"#],
        &["student=sasrec", r#"student_settings=["dim=8", "heads=2", "max_len=6"]"#, "representation=false"],
    ],
    build: |config, sizes| Ok(Box::new(Ssi::new(typed(config)?, sizes, Vec::new())?)),
};

/// Keys of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SsiConfig {
    /// The preset's table.
    pub mode: String,
    /// Whose scorer learns: a method that has one loss of its own.
    pub student: String,
    /// The student's keys as `key=value`, over its preset; how long and how fast to train is said by the keys below.
    pub student_settings: Vec<String>,
    /// The teachers.
    pub tasks: Vec<Task>,
    /// The teachers' keys as `key=value`, over the preset of `ssi-teacher`.
    pub teacher_settings: Vec<String>,
    /// Whether the teachers start from one that was trained on filling in alone, so that their items' vectors are alike.
    pub warm_start: bool,
    /// Whether the student imitates the teachers' distributions over the items (Eq. 5).
    pub distribution: bool,
    /// Whether it imitates the items' vectors (Eq. 6).
    pub representation: bool,
    /// What all scores are divided by in Eq. 5.
    pub temperature: f64,
    /// How long and how fast the student is trained.
    #[serde(flatten)]
    pub training: Training,
}

impl Default for SsiConfig {
    fn default() -> Self {
        SsiConfig {
            mode: String::new(),
            student: "hgn".into(),
            student_settings: Vec::new(),
            tasks: vec![Task::Temporal, Task::Persona, Task::Global],
            teacher_settings: Vec::new(),
            warm_start: true,
            distribution: true,
            representation: true,
            temperature: 1.0,
            training: Training::default(),
        }
    }
}

/// A student for a data set, and the teachers if they are known.
pub struct Ssi {
    config: SsiConfig,
    sizes: Sizes,
    student: Box<dyn Method>,
    /// What is trained before.
    stages: Vec<Stage>,
    teachers: Vec<Teacher>,
}

/// The stage of filling in alone.
const CLOZE: &str = "cloze";

impl Ssi {
    fn new(config: SsiConfig, sizes: Sizes, teachers: Vec<Teacher>) -> Result<Ssi> {
        config.training.validate()?;
        settings::positive(&[("temperature", config.temperature)])?;
        if config.tasks.is_empty() {
            return Err(Error::usage("a student needs a teacher", "for example --set 'tasks=[\"temporal\"]'"));
        }
        let info = find(&config.student)?;
        let student = (info.build)(&resolve(info, None, None, &config.student_settings)?, sizes.clone())?;
        // Refuses what cannot be a student before anything is trained.
        student.objective(&mut Graph::new(ParamLayout::default()), Shape::new(1, 64))?;
        let stages = stages(&config)?;
        Ok(Ssi { config, sizes, student, stages, teachers })
    }

    /// What is added to the student's loss, and what else is worth knowing of it.
    fn imitation(
        &self,
        graph: &mut Graph,
        shape: Shape,
        scorer: &Scorer,
        item_table: ValueId,
    ) -> Result<(ValueId, Vec<(String, ValueId)>)> {
        let mut of_teachers: Vec<Vec<ValueId>> = vec![Vec::new(); self.teachers.len()];
        let mut metrics = Vec::new();
        for (name, losses) in [
            ("kl", self.config.distribution.then(|| self.divergences(graph, scorer)).transpose()?),
            ("mse", self.config.representation.then(|| self.errors(graph, shape, item_table)).transpose()?),
        ] {
            for ((teacher, of_teacher), loss) in self.teachers.iter().zip(&mut of_teachers).zip(losses.iter().flatten())
            {
                metrics.push((format!("{name}_{}", teacher.name), *loss));
                of_teacher.push(graph.add1(Reshape { shape: vec![1, 1] }, &[*loss])?);
            }
        }
        let mut sums = Vec::new();
        for losses in of_teachers {
            sums.push(match losses[..] {
                [one] => one,
                _ => graph.add1(Add, &losses)?,
            });
        }
        let losses = graph.add1(Concat, &sums)?;
        let losses = graph.add1(Reshape { shape: vec![sums.len()] }, &[losses])?;
        let rho = graph.param("imitation.rho", &[sums.len()], Init::Constant(rho_of_one() as f32));
        let outputs = graph.add(LearnedWeights, &[rho, losses])?;
        let weights = self.teachers.iter().zip(&outputs[1..]);
        metrics.extend(weights.map(|(teacher, weight)| (format!("lambda_{}", teacher.name), *weight)));
        Ok((outputs[0], metrics))
    }

    /// The teacher's items, `[V, D]`.
    fn table(&self, graph: &mut Graph, teacher: &Teacher) -> ValueId {
        graph.frozen(&format!("{}.table", teacher.name), &[self.sizes.items, teacher.dim()])
    }

    /// `L1` of each teacher. Adds the inputs `imitation_weight[N]` and `query_<teacher>[N, D]`.
    fn divergences(&self, graph: &mut Graph, scorer: &Scorer) -> Result<Vec<ValueId>> {
        let rows = graph.shape(scorer.query)[0];
        let mut inputs: Vec<ValueId> = [scorer.query, scorer.table].into_iter().chain(scorer.bias).collect();
        for teacher in &self.teachers {
            let query = graph.input(&query_name(teacher), TensorType::f32(&[rows, teacher.dim()]));
            let table = self.table(graph, teacher);
            let bias = graph.frozen(&format!("{}.bias", teacher.name), &[self.sizes.items]);
            inputs.extend([query, table, bias]);
        }
        let op = LinearKlDiv {
            temperature: self.config.temperature,
            items: Some(self.sizes.items),
            teachers: self.teachers.len(),
            student_bias: scorer.bias.is_some(),
            teacher_bias: true,
        };
        let losses = graph.add(op, &inputs)?;
        let weight = graph.input("imitation_weight", TensorType::f32(&[rows]));
        losses[..self.teachers.len()].iter().map(|loss| graph.add1(WeightedSum, &[*loss, weight])).collect()
    }

    /// `L2` of each teacher. Adds the inputs `imitated_items[N]` and `imitated_items_weight[N]`. A teacher of another width is
    /// met by a learned projection.
    fn errors(&self, graph: &mut Graph, shape: Shape, item_table: ValueId) -> Result<Vec<ValueId>> {
        let items = Ids::declare(graph, "imitated_items", &[shape.rows], true);
        let weight = graph.input("imitated_items_weight", TensorType::f32(&[shape.rows]));
        let ours = items.gather(graph, item_table)?;
        let dim = graph.ty(ours).width();
        let mut errors = Vec::new();
        for teacher in &self.teachers {
            let table = self.table(graph, teacher);
            let theirs = Ids { segments: None, ..items }.gather(graph, table)?;
            let mut ours = ours;
            if teacher.dim() != dim {
                let bound = Init::Uniform((dim as f32).powf(-0.5));
                let name = format!("imitation.{}.weight", teacher.name);
                let weight = graph.param(&name, &[teacher.dim(), dim], bound);
                ours = graph.add1(Linear::default(), &[ours, weight])?;
            }
            let rows = graph.add1(RowMse, &[ours, theirs])?;
            errors.push(graph.add1(WeightedSum, &[rows, weight])?);
        }
        Ok(errors)
    }
}

fn query_name(teacher: &Teacher) -> String {
    format!("query_{}", teacher.name)
}

/// The teachers' trainings.
fn stages(config: &SsiConfig) -> Result<Vec<Stage>> {
    let teacher = find("ssi-teacher")?;
    let mut stages = Vec::new();
    if config.warm_start {
        let cloze = find("bert4rec")?;
        let (mut own, theirs) = ((cloze.defaults)(), resolve(teacher, None, None, &config.teacher_settings)?);
        own.iter_mut().for_each(|(key, value)| *value = theirs[key].clone());
        stages.push(Stage {
            name: CLOZE.into(),
            method: cloze.name.into(),
            config: own,
            starts_from: None,
            teaches: false,
        });
    }
    for task in &config.tasks {
        let name = serde_json::to_value(task).ok().and_then(|name| name.as_str().map(String::from)).expect("a name");
        let own: Table =
            resolve(teacher, None, None, &[&config.teacher_settings[..], &[format!("task={name}")]].concat())?;
        let starts_from = config.warm_start.then(|| CLOZE.to_string());
        stages.push(Stage { name, method: teacher.name.into(), config: own, starts_from, teaches: true });
    }
    Ok(stages)
}

impl Method for Ssi {
    fn training(&self) -> &Training {
        &self.config.training
    }

    fn max_len(&self) -> usize {
        self.student.max_len()
    }

    fn stages(&self) -> Vec<Stage> {
        self.stages.clone()
    }

    fn taught(&self, teachers: Vec<Teacher>) -> Result<Box<dyn Method>> {
        Ok(Box::new(Ssi::new(self.config.clone(), self.sizes.clone(), teachers)?))
    }

    fn train_graph(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        let own = self.student.objective(&mut graph, shape)?;
        if self.teachers.is_empty() || !(self.config.distribution || self.config.representation) {
            minimise(&mut graph, &[("loss", own.loss)], &self.config.training)?;
            return Ok(graph);
        }
        let (imitation, details) = self.imitation(&mut graph, shape, &own.scorer, own.item_table)?;
        let loss = graph.add1(Add, &[imitation, own.loss])?;
        let mut metrics = vec![("loss", loss), ("loss_student", own.loss)];
        metrics.extend(details.iter().map(|(name, value)| (name.as_str(), *value)));
        minimise(&mut graph, &metrics, &self.config.training)?;
        Ok(graph)
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        let student = self.student.sampler(data.clone())?;
        let first = student.samples().into_iter().take(1).collect::<Vec<u32>>();
        if !first.is_empty() && student.contexts(&first, Shape::new(1, 64)).is_empty() {
            let problem = format!("{} does not say which histories its queries know", self.config.student);
            return Err(Error::usage(problem, "take a student such as sasrec, gru4rec, hgn or meanpool"));
        }
        Ok(Arc::new(Lessons {
            student,
            teachers: self.teachers.clone(),
            items: self.sizes.items,
            prefixes: Prefixes::new(data),
        }))
    }

    fn initial_state(&self, layout: &ParamLayout, seed: u64, data: &Interactions) -> State {
        let mut state = self.student.initial_state(layout, seed, data);
        for teacher in &self.teachers {
            for (part, words) in [("table", &teacher.table.words), ("bias", &teacher.bias.words)] {
                if let Some(own) = state.parameter_mut(layout, FROZEN, &format!("{}.{part}", teacher.name)) {
                    own.copy_from_slice(words);
                }
            }
        }
        state
    }

    fn samples(&self) -> usize {
        self.student.samples()
    }

    fn requests_per_run(&self) -> usize {
        self.student.requests_per_run()
    }

    fn scoring_batch(&self, requests: &[Request]) -> Batch {
        self.student.scoring_batch(requests)
    }

    fn scorer(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        self.student.scorer(graph, tokens)
    }

    fn needs_user(&self) -> bool {
        self.student.needs_user()
    }
}

/// Makes the student's batches, with what the teachers have to say about each row and each item.
struct Lessons {
    student: Arc<dyn Sampler>,
    teachers: Vec<Teacher>,
    items: usize,
    prefixes: Prefixes,
}

impl Lessons {
    /// The teachers' queries after the histories that the student's queries know.
    fn feed_queries(&self, feed: &mut Feed, contexts: &[Option<Context>]) {
        let rows = contexts.len();
        let share = 1.0 / contexts.iter().flatten().count().max(1) as f32;
        let weight = contexts.iter().map(|context| if context.is_some() { share } else { 0.0 }).collect();
        feed.set("imitation_weight", Tensor::f32(&[rows], weight));
        for teacher in &self.teachers {
            let width = teacher.dim();
            let mut words = vec![0.0; rows * width];
            for (row, context) in words.chunks_exact_mut(width).zip(contexts) {
                if let Some(Context { user, len }) = *context {
                    row.copy_from_slice(teacher.query(&self.prefixes, user, len));
                }
            }
            feed.set(&query_name(teacher), Tensor::f32(&[rows, width], words));
        }
    }

    /// The items that the student reads, each counting once however often it comes.
    fn feed_items(&self, feed: &mut Feed) {
        let read = feed.get("items").expect("students read items").as_u32().to_vec();
        let mut count: HashMap<u32, u32> = HashMap::new();
        let is_item = |item: &&u32| (**item as usize) < self.items;
        read.iter().filter(is_item).for_each(|item| *count.entry(*item).or_default() += 1);
        let share = 1.0 / count.len().max(1) as f32;
        let weight = read.iter().map(|item| count.get(item).map_or(0.0, |count| share / *count as f32)).collect();
        let items: Vec<u32> = read.iter().map(|item| if is_item(&item) { *item } else { INERT }).collect();
        feed_ids(feed, "imitated_items", &items);
        feed.set("imitated_items_weight", Tensor::f32(&[items.len()], weight));
    }
}

impl Sampler for Lessons {
    fn samples(&self) -> Vec<u32> {
        self.student.samples()
    }

    fn batch(&self, samples: &[u32], rng: RngState) -> Result<Batch> {
        let mut batch = self.student.batch(samples, rng)?;
        if !self.teachers.is_empty() {
            self.feed_queries(&mut batch.feed, &self.student.contexts(samples, batch.shape));
            self.feed_items(&mut batch.feed);
        }
        Ok(batch)
    }
}

#[cfg(test)]
#[path = "ssi/tests.rs"]
mod tests;
