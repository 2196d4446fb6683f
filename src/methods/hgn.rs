//! HGN (Ma et al., Hierarchical Gating Networks for Sequential Recommendation, KDD 2019): the last few items, what of them the
//! user lets through, and the user.
//!
//! ```text
//! g_l = sigmoid(W_g e_l + b_g + W_u u + b_u)        e'_l = e_l g_l                  feature gating (Eq. 1)
//! a_l = sigmoid(<w, e'_l> + <u, m_l>)               s = sum_l a_l e'_l / sum_l a_l  instance gating (Eq. 2 to 4)
//! q = u + s + sum_l e_l
//! score(v) = <q, W_v> + b_v                                                         (Eq. 5)
//! loss = -log sigmoid(score(target) - score(negative))                              BPR, over the targets of a window
//! ```
//!
//! The authors' code never updates `w` and `m`; `gates = "frozen"` does as they do.

use super::batch::{feed_ids, feed_tokens};
use super::config::{table_of, typed};
use super::{Batch, Context, Method, MethodInfo, Objective, Request, Sampler, Shape, Sizes, Training};
use crate::data::pack::INERT;
use crate::data::sample::{UserItems, negative};
use crate::data::{Interactions, Packed, row_bucket};
use crate::engine::params::Init;
use crate::engine::rng::{RngState, Site};
use crate::engine::{Feed, Graph, Tensor, TensorType, ValueId};
use crate::error::Result;
use crate::nn::Dense;
use crate::nn::{Ids, Scorer, Tokens};
use crate::ops::activation::Activation;
use crate::ops::add::Add;
use crate::ops::bpr::Bpr;
use crate::ops::detach::Detach;
use crate::ops::fill::Fill;
use crate::ops::linear_cross_entropy::LinearCrossEntropy;
use crate::ops::multiply::Multiply;
use crate::ops::reshape::Reshape;
use crate::ops::row_dot::RowDot;
use crate::ops::sequence_pool::SequencePool;
use crate::ops::weighted_sum::WeightedSum;
use crate::settings;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "hgn",
    title: "HGN",
    paper: "Ma et al., Hierarchical Gating Networks for Sequential Recommendation, KDD 2019",
    preset: include_str!("hgn.toml"),
    defaults: || table_of(&HgnConfig::default()),
    cases: &[&["mode=paper", "window=3", "targets=2"], &["mode=quality", "loss=ce"]],
    build: |config, sizes| Ok(Box::new(Hgn { config: checked(typed(config)?)?, sizes })),
};

/// What a window learns by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowLoss {
    /// Each target against one negative.
    Bpr,
    /// Softmax over all items, each target by itself.
    Ce,
}

/// Whether the instance gates are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gates {
    /// Like all else.
    Learned,
    /// As they were drawn, which is what the authors' code does.
    Frozen,
}

/// Keys of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct HgnConfig {
    /// The preset's table.
    pub mode: String,
    /// What a window learns by.
    pub loss: WindowLoss,
    /// Columns of an item's vector, and of a user's.
    pub dim: usize,
    /// L: items that are read, the last ones.
    pub window: usize,
    /// T: items behind a window that it predicts.
    pub targets: usize,
    /// Whether windows begin with padding where a history is short, and only whole windows are cut from long ones; otherwise
    /// every item has a window, of what came before it.
    pub padded: bool,
    /// The instance gates.
    pub gates: Gates,
    /// How long and how fast to train.
    #[serde(flatten)]
    pub training: Training,
}

impl Default for HgnConfig {
    fn default() -> Self {
        HgnConfig {
            mode: String::new(),
            loss: WindowLoss::Bpr,
            dim: 50,
            window: 5,
            targets: 1,
            padded: false,
            gates: Gates::Learned,
            training: Training::default(),
        }
    }
}

fn checked(config: HgnConfig) -> Result<HgnConfig> {
    config.training.validate()?;
    settings::at_least_one(&[("dim", config.dim), ("window", config.window), ("targets", config.targets)])?;
    Ok(config)
}

/// HGN for a data set's users and items.
pub struct Hgn {
    config: HgnConfig,
    sizes: Sizes,
}

/// Draws of negatives: one stream per window and step.
const NEGATIVES: Site = Site(0x46E);

/// Graph inputs that training and inference share.
struct Inputs {
    tokens: Tokens,
    /// `[B]`
    users: Ids,
    /// `[N]`: the window of each row.
    window_of_row: Ids,
}

impl Inputs {
    fn declare(graph: &mut Graph, tokens: Tokens) -> Inputs {
        let (training, rows) = (tokens.training.is_some(), graph.shape(tokens.items)[0]);
        let windows = graph.shape(tokens.cu_seqlens)[0] - 1;
        Inputs {
            tokens,
            users: Ids::declare(graph, "users", &[windows], training),
            window_of_row: Ids::declare(graph, "window_of_row", &[rows], training),
        }
    }
}

impl Hgn {
    fn table(&self, graph: &mut Graph, name: &str, rows: usize) -> ValueId {
        let dim = self.config.dim;
        graph.param(name, &[rows, dim], Init::Normal(1.0 / dim as f32))
    }

    fn linear(&self, graph: &mut Graph, name: &str, x: ValueId) -> Result<ValueId> {
        let dim = self.config.dim;
        let bound = Init::Uniform((dim as f32).powf(-0.5));
        Dense::new(dim).weight(bound).bias(bound).of(graph, name, x)
    }

    /// A table of the instance gates, Xavier-uniform.
    fn gate(&self, graph: &mut Graph, name: &str, rows: usize) -> Result<ValueId> {
        let dim = self.config.dim;
        let bound = (6.0 / (dim + rows) as f32).sqrt();
        let gate = graph.param(name, &[rows, dim], Init::Uniform(bound));
        if self.config.gates == Gates::Frozen { graph.add1(Detach, &[gate]) } else { Ok(gate) }
    }

    /// The table of the items that are read; its last row is for padding.
    fn item_table(&self, graph: &mut Graph) -> ValueId {
        self.table(graph, "item_table", self.sizes.items + 1)
    }

    /// Queries `[B, dim]` with the output table and biases.
    fn scorer_of(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Scorer> {
        let Inputs { tokens, users, window_of_row } = inputs;
        let rows = graph.shape(tokens.items)[0];
        let user_table = self.table(graph, "user_table", self.sizes.users);
        let item_table = self.item_table(graph);
        let output = self.table(graph, "output.weight", self.sizes.items);
        let bias = graph.param("output.bias", &[self.sizes.items], Init::Constant(0.0));
        let positions = tokens.position_ids();

        let user = users.gather(graph, user_table)?;
        let e = tokens.item_ids().gather(graph, item_table)?;
        let of_item = self.linear(graph, "feature_gate.item", e)?;
        let of_user = self.linear(graph, "feature_gate.user", user)?;
        let of_user = window_of_row.gather(graph, of_user)?;
        let gate = graph.add1(Add, &[of_item, of_user])?;
        let gate = graph.add1(Activation::Sigmoid, &[gate])?;
        let gated = graph.add1(Multiply, &[e, gate])?;

        let item_gate = self.gate(graph, "instance_gate.item", 1)?;
        let user_gate = self.gate(graph, "instance_gate.user", self.config.window)?;
        let first = Ids::declare(graph, "first_row", &[rows], tokens.training.is_some());
        let of_item = graph.add1(RowDot, &first.behind(&[gated, item_gate]))?;
        let user_rows = window_of_row.gather(graph, user)?;
        let of_user = graph.add1(RowDot, &positions.behind(&[user_rows, user_gate]))?;
        let instance = graph.add1(Add, &[of_item, of_user])?;
        let instance = graph.add1(Activation::Sigmoid, &[instance])?;
        let mean = graph.add1(SequencePool { mean: true }, &[gated, instance, tokens.cu_seqlens])?;
        let ones = graph.add1(Fill { value: 1.0, shape: vec![rows] }, &[])?;
        let sum = graph.add1(SequencePool { mean: false }, &[e, ones, tokens.cu_seqlens])?;
        let query = graph.add1(Add, &[mean, sum])?;
        let query = graph.add1(Add, &[query, user])?;
        Ok(Scorer { query, table: output, bias: Some(bias), items: self.sizes.items, samples: 1 })
    }

    /// Appends a window, of the last items of a history; its row of `user_gate` counts from the window's left edge.
    fn lay_out(&self, packed: &mut Packed, key: u32, history: &[u32]) {
        let window = self.config.window;
        let kept = &history[history.len().saturating_sub(window)..];
        if !self.config.padded {
            return packed.push(key, kept, window);
        }
        let padding = vec![self.sizes.items as u32; window - kept.len()];
        packed.push(key, &[&padding, kept].concat(), window);
    }

    /// Feeds what `Inputs` reads of windows, which is padded to its bucket.
    fn feed(&self, packed: &mut Packed, users: &[u32], training: Option<RngState>) -> (Feed, usize) {
        let tokens = packed.n_rows();
        packed.pad_to(row_bucket(tokens), INERT);
        let mut feed = Feed::default();
        feed_tokens(&mut feed, packed, None, training);
        let (mut window_of_row, mut first_row) = (vec![INERT; packed.n_rows()], vec![INERT; packed.n_rows()]);
        for (window, ends) in (0..).zip(packed.cu_seqlens.windows(2)) {
            window_of_row[ends[0] as usize..ends[1] as usize].fill(window);
        }
        first_row[..tokens].fill(0);
        feed_ids(&mut feed, "users", users);
        feed_ids(&mut feed, "window_of_row", &window_of_row);
        feed_ids(&mut feed, "first_row", &first_row);
        (feed, tokens)
    }
}

impl Method for Hgn {
    fn training(&self) -> &Training {
        &self.config.training
    }

    fn max_len(&self) -> usize {
        self.config.window
    }

    fn needs_user(&self) -> bool {
        true
    }

    fn objective(&self, graph: &mut Graph, shape: Shape) -> Result<Objective> {
        let (windows, targets) = (shape.sequences, self.config.targets);
        let tokens = Tokens::for_training(graph, windows, shape.rows);
        let inputs = Inputs::declare(graph, tokens);
        let scorer = self.scorer_of(graph, &inputs)?;
        let weight = graph.input("loss_weight", TensorType::f32(&[windows * targets]));
        let positive = Ids::declare(graph, "positive", &[windows, targets], true);
        let losses = match self.config.loss {
            WindowLoss::Bpr => {
                let negative = Ids::declare(graph, "negative", &[windows, targets], true);
                let scores = [scorer.score(graph, positive)?, scorer.score(graph, negative)?];
                graph.add1(Bpr, &scores)?
            }
            WindowLoss::Ce => {
                // A query per target.
                let repeated = Ids::declare(graph, "window_of_target", &[windows * targets], true);
                let queries = repeated.gather(graph, scorer.query)?;
                let target = graph.add1(Reshape { shape: vec![windows * targets] }, &[positive.ids])?;
                let operands: Vec<ValueId> =
                    [queries, scorer.table].into_iter().chain(scorer.bias).chain([target]).collect();
                graph.add1(LinearCrossEntropy::default(), &operands)?
            }
        };
        let losses = graph.add1(Reshape { shape: vec![windows * targets] }, &[losses])?;
        let loss = graph.add1(WeightedSum, &[losses, weight])?;
        Ok(Objective { loss, scorer, item_table: self.item_table(graph) })
    }

    fn batches_of(&self) -> &'static str {
        "windows"
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        let config = self.config.clone();
        let met = UserItems::from_slices((0..data.n_users()).map(|user| data.train(user)));
        let mut windows = Vec::new();
        for user in 0..data.n_users() {
            let (all, behind) = (data.train(user).len(), config.targets);
            let whole = config.window..(all + 1).saturating_sub(behind);
            let starts = match config.padded {
                true if all >= config.window + behind => whole,
                true => all.saturating_sub(behind)..all.saturating_sub(behind) + usize::from(all > 0),
                false => 1..(all + 1).saturating_sub(behind),
            };
            windows.extend(starts.map(|start| (user as u32, start as u32)));
        }
        Ok(Arc::new(Windows { method: Hgn { config, sizes: self.sizes.clone() }, windows, met, data }))
    }

    fn scoring_batch(&self, requests: &[Request]) -> Batch {
        let mut packed = Packed::new();
        (0..).zip(requests).for_each(|(i, request)| self.lay_out(&mut packed, i, request.history));
        let users: Vec<u32> = requests.iter().map(|request| request.user.unwrap_or(INERT)).collect();
        let (feed, tokens) = self.feed(&mut packed, &users, None);
        Batch { shape: Shape::new(packed.n_sequences(), packed.n_rows()), feed, tokens }
    }

    fn scorer(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        let inputs = Inputs::declare(graph, *tokens);
        self.scorer_of(graph, &inputs)
    }
}

/// Makes batches of windows.
struct Windows {
    method: Hgn,
    /// The user of each, and where its targets begin.
    windows: Vec<(u32, u32)>,
    /// Items of each user's training part, which are never negatives.
    met: UserItems,
    data: Arc<Interactions>,
}

impl Sampler for Windows {
    fn samples(&self) -> Vec<u32> {
        (0..self.windows.len() as u32).collect()
    }

    fn batch(&self, samples: &[u32], rng: RngState) -> Result<Batch> {
        let (config, items) = (&self.method.config, self.data.n_items());
        let (mut packed, mut users) = (Packed::new(), Vec::new());
        let (mut positive, mut negatives) = (Vec::new(), Vec::new());
        for &sample in samples {
            let (user, start) = self.windows[sample as usize];
            let (train, start) = (self.data.train(user as usize), start as usize);
            self.method.lay_out(&mut packed, sample, &train[..start]);
            users.push(user);
            let mut stream = rng.stream(NEGATIVES, sample);
            for place in 0..config.targets {
                let target = train.get(start + place);
                positive.push(target.copied().unwrap_or(INERT));
                let drawn = negative(&mut stream, items, self.met.of(user as usize));
                negatives.push(if target.is_some() { drawn } else { INERT });
            }
        }
        let (mut feed, tokens) = self.method.feed(&mut packed, &users, Some(rng));
        let count = positive.iter().filter(|target| **target != INERT).count().max(1) as f32;
        let weight = positive.iter().map(|target| if *target == INERT { 0.0 } else { 1.0 / count }).collect();
        feed.set("loss_weight", Tensor::f32(&[positive.len()], weight));
        let shape = [samples.len(), config.targets];
        for (name, ids) in [("positive", &positive), ("negative", &negatives)] {
            feed_ids(&mut feed, name, ids);
            feed.set(name, Tensor::u32(&shape, ids));
        }
        let repeated: Vec<u32> = (0..positive.len()).map(|place| (place / config.targets) as u32).collect();
        feed_ids(&mut feed, "window_of_target", &repeated);
        Ok(Batch { shape: Shape::new(packed.n_sequences(), packed.n_rows()), feed, tokens })
    }

    fn contexts(&self, samples: &[u32], _shape: Shape) -> Vec<Option<Context>> {
        let of_window = |sample: &u32| {
            let (user, len) = self.windows[*sample as usize];
            (len > 0).then_some(Context { user, len })
        };
        samples.iter().map(of_window).collect()
    }
}
