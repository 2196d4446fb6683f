//! The methods: one file each, reading like its paper, with its preset beside it.
//!
//! A method is its configuration, the graph of a training step, the batches that feed it, and a scorer. Ablations and
//! variants are configuration switches; a variant that has a name of its own is a preset of the code that it shares.
//!
//! The list of methods is generated from the presets of the folder by `build.rs`: `NAME.toml` with `NAME.rs` is a method as
//! soon as both are there. The other files are what methods share.

pub mod batch;
pub mod click_through;
pub mod config;
pub mod embedding_similarity;
pub mod episodes;
pub mod next_item;
pub mod stage;

include!(concat!(env!("OUT_DIR"), "/methods.rs"));

use crate::data::Interactions;
use crate::data::lists::{Field, Lists};
use crate::engine::params::{ParamLayout, State};
use crate::engine::rng::RngState;
use crate::engine::{Feed, Graph, ValueId};
use crate::error::{Error, Result};
use crate::nn::{Scorer, Tokens, adam_step};
use crate::ops::adam::AdamConfig;
use crate::settings;
use serde::{Deserialize, Serialize};
use stage::{Stage, Teacher};
use std::sync::Arc;

/// How long and how fast to train, and which epoch to keep. Part of every method's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Training {
    /// Upper bound; 0 trains nothing.
    pub epochs: usize,
    /// Samples per step, as the method's `Sampler` counts them: users, prefixes, windows, events or lists.
    pub batch_size: usize,
    /// Adam's.
    pub learning_rate: f64,
    /// Updates over which the learning rate rises from 0 to its value.
    pub learning_rate_warm_up: u64,
    /// Decay of Adam's first moment.
    pub beta1: f64,
    /// Decay of Adam's second moment.
    pub beta2: f64,
    /// Added to the gradient as `weight_decay * param`.
    pub weight_decay: f64,
    /// Bound on the global norm of the gradient; 0 is none.
    pub clip_norm: f64,
    /// Epochs from one validation to the next; the last epoch always has one.
    pub validate_every: usize,
    /// Epochs without a better validation `select_by` before training stops.
    pub patience: usize,
    /// The metric that selects the best epoch.
    pub select_by: String,
    /// Whether it ranks among all items, those of the history included.
    pub select_history_kept: bool,
    /// Whether it is the mean over kinds of events, each kind counting alike, where events have kinds.
    pub select_by_kind: bool,
}

impl Default for Training {
    fn default() -> Self {
        Training {
            epochs: 300,
            batch_size: 256,
            learning_rate: 1e-3,
            learning_rate_warm_up: 0,
            beta1: 0.9,
            beta2: 0.999,
            weight_decay: 0.0,
            clip_norm: 0.0,
            validate_every: 1,
            patience: 40,
            select_by: "ndcg@20".into(),
            select_history_kept: false,
            select_by_kind: false,
        }
    }
}

impl Training {
    /// The optimizer's hyper-parameters.
    pub fn adam(&self) -> AdamConfig {
        AdamConfig {
            learning_rate: self.learning_rate,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: 1e-8,
            weight_decay: self.weight_decay,
        }
    }

    /// What the learning rate is multiplied by in an update, counted from 1.
    pub fn warmth(&self, update: u64) -> f64 {
        if update < self.learning_rate_warm_up { update as f64 / self.learning_rate_warm_up as f64 } else { 1.0 }
    }

    /// Refuses settings that cannot train.
    pub fn validate(&self) -> Result<()> {
        let counts =
            [("batch_size", self.batch_size), ("validate_every", self.validate_every), ("patience", self.patience)];
        settings::at_least_one(&counts)?;
        settings::positive(&[("learning_rate", self.learning_rate)])?;
        settings::rates(&[("beta1", self.beta1), ("beta2", self.beta2)])?;
        settings::not_negative(&[("weight_decay", self.weight_decay), ("clip_norm", self.clip_norm)])
    }

    /// The bound on the norm, if there is one.
    pub fn clip(&self) -> Option<f64> {
        (self.clip_norm > 0.0).then_some(self.clip_norm)
    }
}

/// What a training graph is built for; batches of one shape share a compiled plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    /// Which of the method's training graphs, where it has several.
    pub graph: u8,
    /// Packed sequences, all views included.
    pub sequences: usize,
    /// Packed rows, rounded up to a bucket.
    pub rows: usize,
}

impl Shape {
    /// For a method with one training graph.
    pub fn new(sequences: usize, rows: usize) -> Self {
        Shape { graph: 0, sequences, rows }
    }
}

/// One step's input, made ahead of use on a background thread.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Which plan runs it.
    pub shape: Shape,
    /// The inputs, but for those of the optimizers.
    pub feed: Feed,
    /// Rows that belong to a sequence, for the tokens/s of the progress bar.
    pub tokens: usize,
}

/// Whom to list items for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The items met so far, oldest first.
    pub history: &'a [u32],
    /// The place among the users that the model was trained on: only models that know their users read it.
    pub user: Option<u32>,
}

impl<'a> Request<'a> {
    /// From a history alone.
    pub fn new(history: &'a [u32]) -> Self {
        Request { history, user: None }
    }

    /// What random numbers of this request are counted by: its user, or else what the history says.
    pub fn key(&self) -> u32 {
        let of_history =
            || self.history.iter().fold(0x811c_9dc5u32, |hash, item| (hash ^ item).wrapping_mul(0x0100_0193));
        self.user.unwrap_or_else(of_history)
    }
}

/// Reads a parameter of the set `model` by name, as training has left it.
pub type ReadParameter<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<f32>>;

/// Makes batches; shared with the background thread.
pub trait Sampler: Send + Sync {
    /// What there is to train on, by numbers that `batch` understands: users, prefixes, events. An epoch visits each once.
    fn samples(&self) -> Vec<u32>;

    /// The batch of these samples. Whatever is drawn follows from `rng` and the samples alone.
    fn batch(&self, samples: &[u32], rng: RngState) -> Result<Batch>;

    /// What each query of the objective knows of its user, in the batch of these samples, which has this shape; none for
    /// queries that know nothing.
    fn contexts(&self, _samples: &[u32], _shape: Shape) -> Vec<Option<Context>> {
        Vec::new()
    }

    /// What makes the batches of an epoch, counted from 1, in its place: for samplers that follow the parameters, which
    /// they read here as they are at the start of the epoch.
    fn of_epoch(&self, _epoch: usize, _parameter: ReadParameter) -> Result<Option<Arc<dyn Sampler>>> {
        Ok(None)
    }
}

/// How far somebody's history had got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// As an index.
    pub user: u32,
    /// Items of the training sequence that were met, 1 or more.
    pub len: u32,
}

/// A recommender: what it learns by, what it learns from, and how it scores.
pub trait Method: Send + Sync {
    /// How long and how fast to train.
    fn training(&self) -> &Training;

    /// Items of a history that the scorer looks at.
    fn max_len(&self) -> usize;

    /// Adds what training minimises, over the inputs of its batches. Methods that learn by more than one loss and optimizer
    /// have a `train_graph` of their own in its place.
    fn objective(&self, _graph: &mut Graph, _shape: Shape) -> Result<Objective> {
        let problem = "this method does not learn by one loss that a student could add to";
        Err(Error::usage(problem, "take a student such as sasrec, gru4rec, hgn or meanpool"))
    }

    /// The graph of one training step, optimizers included. Metrics: `loss` first, then its parts.
    fn train_graph(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        let Objective { loss, .. } = self.objective(&mut graph, shape)?;
        minimise(&mut graph, &[("loss", loss)], self.training())?;
        Ok(graph)
    }

    /// How many training graphs there are; a batch says which it is for. Two networks that learn in turn have one each, and
    /// so do the phases of a training.
    fn training_graphs(&self) -> u8 {
        1
    }

    /// The training graphs that step `step`, counted from 1, runs in turn on a batch for `graph`: that one alone, unless several
    /// networks learn from each batch, one after the other.
    fn graphs_of_step(&self, graph: u8, _step: u64) -> Vec<u8> {
        vec![graph]
    }

    /// The hyper-parameters of an optimizer of the training graphs. It is called as its parameter set, unless they say
    /// otherwise.
    fn optimizer(&self, _name: &str) -> AdamConfig {
        self.training().adam()
    }

    /// What the sampler's batches are so many of.
    fn batches_of(&self) -> &'static str {
        if self.list_model().is_some() { "lists" } else { "users" }
    }

    /// What makes the batches of these interactions.
    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>>;

    /// Samples of the query that a score is made of; above 1 for methods that draw them.
    fn samples(&self) -> usize {
        1
    }

    /// How many requests are scored together. Results do not depend on it.
    fn requests_per_run(&self) -> usize {
        256
    }

    /// The inputs that the scorer reads of these requests. A sequence of the last `max_len` items each, unless the method
    /// lays them out otherwise.
    fn scoring_batch(&self, requests: &[Request]) -> Batch {
        batch::scoring_batch(requests, self.max_len())
    }

    /// Graphs that run before the scorer's, each on what the last one left: rounds of a diffusion.
    fn rounds(&self) -> usize {
        0
    }

    /// The graph of a round. It reads the inputs of the scoring batch and those of `feed_round`; its outputs take the place of
    /// the inputs of the same names.
    fn round_graph(&self, _shape: Shape, layout: ParamLayout) -> Result<Graph> {
        Ok(Graph::new(layout))
    }

    /// Feeds what a round, counted from 0, reads beside the scoring batch.
    fn feed_round(&self, _round: usize, _requests: &[Request], _feed: &mut Feed) {}

    /// Adds the scorer of a batch of histories: one query per sequence, no random numbers. Every method has one, but for those
    /// that have a `list_model`.
    fn scorer(&self, _graph: &mut Graph, _tokens: &Tokens) -> Result<Scorer> {
        let problem = "this method scores what is shown in a list, not all items after a history";
        Err(Error::usage(problem, "evaluate it on a log of lists, with `gpurec eval`"))
    }

    /// What scores impressions in place of all items, of methods that learn from logs of lists.
    fn list_model(&self) -> Option<&dyn ListModel> {
        None
    }

    /// What must be trained before.
    fn stages(&self) -> Vec<Stage> {
        Vec::new()
    }

    /// The same method, knowing what these teachers know: in the order of the stages that teach.
    fn taught(&self, _teachers: Vec<Teacher>) -> Result<Box<dyn Method>> {
        let problem = "this method learns from no teacher";
        Err(Error::usage(problem, "leave --teacher away, or train a method that does, such as ssi"))
    }

    /// Whether the scorer asks who the user is (`Tokens::users`): it then knows the users it was trained on, and no other.
    fn needs_user(&self) -> bool {
        false
    }

    /// Initial parameters; methods that count instead of learning set them from the data.
    fn initial_state(&self, layout: &ParamLayout, seed: u64, _data: &Interactions) -> State {
        layout.initial_state(seed)
    }
}

/// Scores what is shown in lists. It is judged by how well it tells clicked impressions from others.
pub trait ListModel {
    /// Adds the scores of the impressions of lists, `[B T]`: the shape is that of `batch`.
    fn scores(&self, graph: &mut Graph, shape: Shape) -> Result<ValueId>;

    /// The inputs that `scores` reads of these lists.
    fn batch(&self, lists: &Lists, which: &[u32]) -> Batch;

    /// Adds the scores `[C]` of what could stand at the next place of a list: the shape is that of `request`.
    fn candidates(&self, graph: &mut Graph, shape: RequestShape) -> Result<ValueId>;

    /// The inputs that `candidates` reads.
    fn request(&self, request: &ListRequest) -> (RequestShape, Feed);

    /// What a click one position further down counts, where a score says how many clicks will follow; `None` where scores are
    /// for ranking only.
    fn discount(&self) -> Option<f64> {
        None
    }
}

/// An impression: for each field its bag, rows of the joint table.
pub type Bags<'a> = Vec<&'a [u32]>;

/// What is asked of a list model in service: which of some items should come next.
#[derive(Clone, Debug, Default)]
pub struct ListRequest<'a> {
    /// What the list shows so far.
    pub shown: Vec<Bags<'a>>,
    /// The place that comes next, whose fields of the item say nothing.
    pub here: Bags<'a>,
    /// What could stand there, with all fields.
    pub candidates: Vec<Bags<'a>>,
}

/// What the graph of a request depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestShape {
    /// Impressions of the list, the place that comes next being the last, and capacity of their bags.
    pub list: [usize; 2],
    /// The same of the candidates.
    pub candidates: [usize; 2],
}

/// What training minimises, and what it is made of.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    /// `[1]`
    pub loss: ValueId,
    /// A query `[N, D]` for each row that learns, or none.
    pub scorer: Scorer,
    /// The vectors `[V', D]` that the encoder reads items as.
    pub item_table: ValueId,
}

/// Ends a training graph: the first of these scalars is minimised by Adam over the set `model`, all are metrics.
pub fn minimise(graph: &mut Graph, metrics: &[(&str, ValueId)], training: &Training) -> Result<()> {
    metrics.iter().for_each(|(name, value)| graph.metric(name, *value));
    let gradients = graph.backward(metrics[0].1, "model")?;
    adam_step(graph, "model", &gradients, training.clip())
}

/// What a data set asks of the tables of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// U
    pub users: usize,
    /// V
    pub items: usize,
    /// T, where there are lists.
    pub length: usize,
    /// What is known of an impression.
    pub fields: Vec<Field>,
}

impl Sizes {
    /// Rows of the joint table of all fields.
    pub fn table_rows(&self) -> usize {
        self.fields.last().map_or(1, |field| (field.first + field.rows) as usize)
    }

    /// Of a data set.
    pub fn of(data: &Interactions) -> Self {
        let (length, fields) =
            data.lists.as_ref().map(|lists| (lists.length, lists.fields.clone())).unwrap_or_default();
        Sizes { users: data.n_users(), items: data.n_items(), length, fields }
    }
}

/// A method as `gpurec methods` lists it.
pub struct MethodInfo {
    /// What `--method` takes.
    pub name: &'static str,
    /// What the papers call it.
    pub title: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// TOML with a table per mode; comments name the source of each value.
    pub preset: &'static str,
    /// The complete configuration with its defaults, whose keys are the valid ones.
    pub defaults: fn() -> toml::Table,
    /// Settings that the suites train with, small: one list for each thing that the method can do.
    pub cases: &'static [&'static [&'static str]],
    /// Makes the method for a data set of these sizes.
    pub build: fn(config: &toml::Table, sizes: Sizes) -> Result<Box<dyn Method>>,
}

/// The method of this name.
pub fn find(name: &str) -> Result<&'static MethodInfo> {
    let names: Vec<&str> = METHODS.iter().map(|m| m.name).collect();
    METHODS.iter().find(|m| m.name == name).ok_or_else(|| Error::unknown("method", name, &names))
}
