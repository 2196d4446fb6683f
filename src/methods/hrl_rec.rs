//! The item recommender of HRL-Rec (Xie et al., Hierarchical Reinforcement Learning for Integrated Recommendation, AAAI 2021) on
//! logged lists: an actor proposes what the item that comes next should look like, a critic values items, and the actor learns from
//! the critic (deep deterministic policy gradient). What ranks is the critic.
//!
//! ```text
//! u_t = [tanh layers of attention over the vectors of user and context]       each network has its own
//! actor:  mu_t = tanh(W g_t + b),     g_t = GRU(u_t, g_(t-1))                 as wide as the vectors of an item's fields
//! critic: Q(s_t, a) = ReLU(<w, h> + b),  h = GRU([u_t | a], h_(t-1))          h_(t-1) from the items that were shown
//! y_t = r_t + gamma Q'(s_(t+1), a_(t+1))                                      Q' follows Q; nothing behind the last position
//! L_critic = mean (y - Q(s, a))^2
//! L_actor = mean( -Q(s, mu + eps) + weight |mu - a|^2 / width )               the critic does not learn from it
//! ```
//!
//! The other half of HRL-Rec, which chooses a channel for each position, has nothing to choose in lists of one channel.

use super::config::{table_of, typed};
use super::episodes::{
    Episodes, feed_list_request, feed_rewards, feed_walk, goals, requested, targets_begin, targets_follow, td_loss,
};
use super::{Batch, ListModel, ListRequest, Method, MethodInfo, RequestShape, Sampler, Shape, Sizes, Training};
use crate::data::Interactions;
use crate::data::lists::{Group, Lists};
use crate::engine::params::{Init, ParamLayout, State};
use crate::engine::rng::{RngState, Site};
use crate::engine::{Feed, Graph, Tensor, TensorType, ValueId};
use crate::error::{Error, Result};
use crate::nn::layers::{Dense, dropout, glorot};
use crate::nn::list_network::{ListGru, chosen, column};
use crate::nn::{Impressions, adam_step};
use crate::ops::activation::Activation;
use crate::ops::add::Add;
use crate::ops::attention::Attention;
use crate::ops::concat::Concat;
use crate::ops::detach::Detach;
use crate::ops::dropout::Dropout;
use crate::ops::linear::Linear;
use crate::ops::reshape::Reshape;
use crate::ops::row_mse::RowMse;
use crate::ops::scale::Scale;
use crate::ops::weighted_sum::WeightedSum;
use crate::settings;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "hrl-rec",
    title: "HRL-Rec, item recommender",
    paper: "Xie et al., Hierarchical Reinforcement Learning for Integrated Recommendation, AAAI 2021",
    preset: include_str!("hrl_rec.toml"),
    defaults: || table_of(&HrlRecConfig::default()),
    cases: &[&["dim=4", "heads=2", "sync_every=3", "dropout=0.1"], &["dim=3", "heads=1", "imitation_weight=0.0"]],
    build: |config, sizes| Ok(Box::new(HrlRec::new(typed(config)?, sizes)?)),
};

/// Keys of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct HrlRecConfig {
    /// The preset's table.
    pub mode: String,
    /// Columns of a field's vector.
    pub dim: usize,
    /// Of the attention among fields.
    pub heads: usize,
    /// What a click further down counts.
    pub gamma: f64,
    /// In all layers.
    pub dropout: f64,
    /// Standard deviation of the initial vectors.
    pub init_std: f64,
    /// Part of the way that the target goes.
    pub sync_rate: f64,
    /// Batches between two syncs.
    pub sync_every: u64,
    /// Standard deviation of what is added to the actor's proposals, cut at two of them.
    pub noise_std: f64,
    /// What the distance of the actor's proposal from the shown item counts.
    pub imitation_weight: f64,
    /// How long and how fast to train; a batch is so many lists.
    #[serde(flatten)]
    pub training: Training,
}

impl Default for HrlRecConfig {
    fn default() -> Self {
        HrlRecConfig {
            mode: String::new(),
            dim: 16,
            heads: 4,
            gamma: 0.4,
            dropout: 0.3,
            init_std: 0.1,
            sync_rate: 0.1,
            sync_every: 30,
            noise_std: 0.01,
            imitation_weight: 1.0,
            training: Training { learning_rate: 2e-4, clip_norm: 5.0, select_by: "auc".into(), ..Training::default() },
        }
    }
}

/// Parameter sets: the critic is what a model is.
const CRITIC: &str = "model";
const ACTOR: &str = "actor";
const TARGET: &str = "critic_target";
const PAIRS: &[[&str; 2]] = &[[CRITIC, TARGET]];

/// Training graphs, in the order of a step.
const VALUE: u8 = 0;
const ACT: u8 = 1;
const SYNC: u8 = 2;

/// Where the dropout of a pass draws; passes draw apart from each other.
fn site(pass: u32, place: u32) -> Site {
    Site(0x7800 + 8 * pass + place)
}

/// Where the noise on proposals is drawn.
const NOISE: Site = Site(0x7900);

/// HRL-Rec's item recommender for lists with these fields.
pub struct HrlRec {
    config: HrlRecConfig,
    sizes: Sizes,
    item_fields: Vec<usize>,
    other_fields: Vec<usize>,
}

/// Graph inputs of a batch of lists.
struct Inputs {
    lists: Episodes,
    /// The same impressions with the fields of user and context alone.
    others: Impressions,
}

impl HrlRec {
    fn new(config: HrlRecConfig, sizes: Sizes) -> Result<HrlRec> {
        config.training.validate()?;
        let sync_every = config.sync_every as usize;
        settings::at_least_one(&[("dim", config.dim), ("heads", config.heads), ("sync_every", sync_every)])?;
        settings::rates(&[("dropout", config.dropout)])?;
        settings::shares(&[("gamma", config.gamma), ("sync_rate", config.sync_rate)])?;
        let HrlRecConfig { init_std, noise_std, imitation_weight, .. } = config;
        settings::not_negative(&[
            ("init_std", init_std),
            ("noise_std", noise_std),
            ("imitation_weight", imitation_weight),
        ])?;
        if !config.dim.is_multiple_of(config.heads) {
            let problem = format!("dim = {} cannot be split into {} heads", config.dim, config.heads);
            return Err(Error::usage(problem, "choose heads so that they divide dim"));
        }
        let of = |item: bool| {
            let fields = sizes.fields.iter().enumerate().filter(move |(_, field)| (field.of == Group::Item) == item);
            fields.map(|(place, _)| place).collect::<Vec<usize>>()
        };
        let (item_fields, other_fields) = (of(true), of(false));
        Ok(HrlRec { config, sizes, item_fields, other_fields })
    }

    fn declare(&self, graph: &mut Graph, lists: usize, [count, rows]: [usize; 2], training: bool) -> Inputs {
        Inputs {
            lists: Episodes::declare(graph, lists, [count, self.sizes.fields.len(), rows], training),
            others: Impressions::without_bags(graph, "other_", count, self.other_fields.len(), training),
        }
    }

    fn inputs(&self, graph: &mut Graph, shape: Shape, training: bool) -> Inputs {
        self.declare(graph, shape.sequences, [shape.sequences * self.sizes.length, shape.rows], training)
    }

    /// Columns of the vectors of an item.
    fn action_width(&self) -> usize {
        self.item_fields.len() * self.config.dim
    }

    /// Columns of what user and context say.
    fn other_width(&self) -> usize {
        self.other_fields.len() * self.config.dim
    }

    fn critic_gru(&self) -> ListGru {
        ListGru { width: self.other_width() + self.action_width() }
    }

    /// Declares the critic's parameters in the current set: the vectors come last, and a target has none.
    fn declare_critic(&self, graph: &mut Graph) {
        self.projections(graph);
        Dense::new(self.config.dim).declare(graph, "mixed", self.config.dim);
        self.critic_gru().declare(graph);
        self.value_layer().declare(graph, "value", self.critic_gru().width);
    }

    fn projections(&self, graph: &mut Graph) -> [ValueId; 3] {
        let dim = self.config.dim;
        ["query", "key", "value"].map(|name| graph.param(&format!("attention.{name}"), &[dim, dim], glorot(dim, dim)))
    }

    /// A value is never negative. Its bias begins above 0, so that none is stuck there.
    fn value_layer(&self) -> Dense {
        Dense::new(1).bias(Init::Constant(0.1)).then(Activation::Relu)
    }

    /// The vectors of all fields, side by side: `[N, F d]`.
    fn vectors(&self, graph: &mut Graph, x: &Impressions) -> Result<ValueId> {
        let shape = [self.sizes.table_rows(), self.config.dim];
        let table = graph.in_set(CRITIC, |g| {
            self.declare_critic(g);
            g.param("table", &shape, Init::Normal(self.config.init_std as f32))
        });
        let vectors = x.embed(graph, table)?;
        x.flat(graph, vectors)
    }

    fn item(&self, graph: &mut Graph, flat: ValueId) -> Result<ValueId> {
        chosen(graph, flat, &self.item_fields, self.config.dim)
    }

    fn dropped(&self, graph: &mut Graph, x: ValueId, site: Site, of: &Inputs) -> Result<ValueId> {
        dropout(graph, x, Dropout { probability: self.config.dropout, site }, of.lists.x.random)
    }

    /// `u[N, O d]`, by parameters of the current set, from the vectors of all fields.
    fn others(&self, graph: &mut Graph, inputs: &Inputs, flat: ValueId, pass: u32) -> Result<ValueId> {
        let (dim, x) = (self.config.dim, &inputs.others);
        let own = chosen(graph, flat, &self.other_fields, dim)?;
        let rows = graph.add1(Reshape { shape: vec![x.count * x.fields, dim] }, &[own])?;
        let drop = Dropout { probability: self.config.dropout, site: site(pass, 0) };
        let rows = dropout(graph, rows, drop, x.field_random)?;
        let mut parts = Vec::new();
        for weight in self.projections(graph) {
            parts.push(graph.add1(Linear::default(), &[rows, weight])?);
        }
        parts.push(x.of_impression);
        let scale = 1.0 / ((dim / self.config.heads) as f64).sqrt();
        let op = Attention { heads: self.config.heads, scale, causal: false, dropout: None, key_flags: false };
        let attended = graph.add1(op, &parts)?;
        let mixed = Dense::new(dim).then(Activation::Tanh).of(graph, "mixed", attended)?;
        x.flat(graph, mixed)
    }

    /// The critic's states behind the shown items, `[N, F d]`.
    fn behind(&self, graph: &mut Graph, inputs: &Inputs, flat: ValueId, pass: u32) -> Result<(ValueId, ValueId)> {
        let others = self.others(graph, inputs, flat, pass)?;
        let item = self.item(graph, flat)?;
        let both = graph.add1(Concat, &[others, item])?;
        let states = self.critic_gru().down(graph, inputs.lists.walk.lists, both)?;
        Ok((others, states))
    }

    /// The values `[N, 1]` of the shown items, by the critic in the current set.
    fn shown(&self, graph: &mut Graph, inputs: &Inputs, flat: ValueId, pass: u32) -> Result<ValueId> {
        let states = self.behind(graph, inputs, flat, pass)?.1;
        let states = self.dropped(graph, states, site(pass, 1), inputs)?;
        self.value_layer().of(graph, "value", states)
    }

    /// The values `[C, 1]` of other items: beside what user and context say of their places, after the states before these.
    fn values(
        &self,
        graph: &mut Graph,
        [others, items, before, each]: [ValueId; 4],
        drop: impl Fn(&mut Graph, ValueId) -> Result<ValueId>,
    ) -> Result<ValueId> {
        let both = graph.add1(Concat, &[others, items])?;
        let states = self.critic_gru().walk(graph, each, both, before)?;
        let states = drop(graph, states)?;
        self.value_layer().of(graph, "value", states)
    }

    fn learn_values(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        let inputs = self.inputs(&mut graph, shape, true);
        let flat = self.vectors(&mut graph, &inputs.lists.x)?;
        let values = graph.in_set(CRITIC, |g| self.shown(g, &inputs, flat, 0))?;
        let next = graph.in_set(TARGET, |g| {
            self.declare_critic(g);
            self.shown(g, &inputs, flat, 1)
        })?;
        let goals = goals(&mut graph, self.config.gamma, next, inputs.lists.below)?;
        let loss = td_loss(&mut graph, values, goals)?;
        super::minimise(&mut graph, &[("loss", loss)], &self.config.training)?;
        Ok(graph)
    }

    fn learn_to_act(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        let inputs = self.inputs(&mut graph, shape, true);
        let (count, width) = (inputs.lists.x.count, self.action_width());
        let flat = self.vectors(&mut graph, &inputs.lists.x)?;
        let proposed = graph.in_set(ACTOR, |g| {
            let others = self.others(g, &inputs, flat, 2)?;
            let states = ListGru { width: self.other_width() }.down(g, inputs.lists.walk.lists, others)?;
            let states = self.dropped(g, states, site(2, 1), &inputs)?;
            Dense::new(width).then(Activation::Tanh).of(g, "proposal", states)
        })?;
        let noise = graph.input("noise", TensorType::f32(&[count, width]));
        let action = graph.add1(Add, &[proposed, noise])?;
        let each = graph.input("each", TensorType::u32(&[count + 1]));
        let values = graph.in_set(CRITIC, |g| {
            let (others, behind) = self.behind(g, &inputs, flat, 3)?;
            let before = inputs.lists.walk.above.gather(g, behind)?;
            let drop = |g: &mut Graph, states| self.dropped(g, states, site(3, 1), &inputs);
            self.values(g, [others, action, before, each], drop)
        })?;
        let share = graph.input("share", TensorType::f32(&[count]));
        let values = column(&mut graph, values)?;
        let value = graph.add1(WeightedSum, &[values, share])?;
        let mut loss = graph.add1(Scale { factor: -1.0 }, &[value])?;
        if self.config.imitation_weight > 0.0 {
            let item = self.item(&mut graph, flat)?;
            let item = graph.add1(Detach, &[item])?;
            let errors = graph.add1(RowMse, &[proposed, item])?;
            let distance = graph.add1(WeightedSum, &[errors, share])?;
            let distance = graph.add1(Scale { factor: self.config.imitation_weight }, &[distance])?;
            loss = graph.add1(Add, &[loss, distance])?;
        }
        graph.metric("loss_actor", loss);
        let gradients = graph.backward(loss, ACTOR)?;
        adam_step(&mut graph, ACTOR, &gradients, self.config.training.clip())?;
        Ok(graph)
    }
}

impl Method for HrlRec {
    fn training(&self) -> &Training {
        &self.config.training
    }

    fn max_len(&self) -> usize {
        self.sizes.length
    }

    fn training_graphs(&self) -> u8 {
        3
    }

    fn graphs_of_step(&self, _graph: u8, step: u64) -> Vec<u8> {
        let syncs = step.is_multiple_of(self.config.sync_every);
        [VALUE, ACT].into_iter().chain(syncs.then_some(SYNC)).collect()
    }

    fn train_graph(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        match shape.graph {
            VALUE => self.learn_values(shape, layout),
            ACT => self.learn_to_act(shape, layout),
            _ => {
                let mut graph = Graph::new(layout);
                targets_follow(&mut graph, self.config.sync_rate, PAIRS)?;
                Ok(graph)
            }
        }
    }

    fn initial_state(&self, layout: &ParamLayout, seed: u64, _data: &Interactions) -> State {
        let mut state = layout.initial_state(seed);
        targets_begin(layout, &mut state, PAIRS);
        state
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        let (others, width, noise) = (self.other_fields.len(), self.action_width(), self.config.noise_std);
        Ok(Arc::new(Logged { lists: data.lists()?, others, width, noise: noise as f32 }))
    }

    fn list_model(&self) -> Option<&dyn ListModel> {
        Some(self)
    }
}

impl ListModel for HrlRec {
    fn scores(&self, graph: &mut Graph, shape: Shape) -> Result<ValueId> {
        let inputs = self.inputs(graph, shape, false);
        let flat = self.vectors(graph, &inputs.lists.x)?;
        let values = graph.in_set(CRITIC, |g| self.shown(g, &inputs, flat, 0))?;
        column(graph, values)
    }

    fn batch(&self, lists: &Lists, which: &[u32]) -> Batch {
        let mut feed = Feed::default();
        let shape = feed_walk(&mut feed, lists, which, None);
        let count = which.len() * lists.length;
        feed_others(&mut feed, count, self.other_fields.len());
        Batch { shape, feed, tokens: count }
    }

    fn candidates(&self, graph: &mut Graph, shape: RequestShape) -> Result<ValueId> {
        let inputs = self.declare(graph, 1, shape.list, false);
        let candidates = requested(graph, self.sizes.fields.len(), shape.candidates);
        let flat = self.vectors(graph, &inputs.lists.x)?;
        let items = self.vectors(graph, &candidates.impressions)?;
        let values = graph.in_set(CRITIC, |g| {
            let (others, behind) = self.behind(g, &inputs, flat, 0)?;
            let before = inputs.lists.walk.above.gather(g, behind)?;
            let (others, before) = (candidates.at.gather(g, others)?, candidates.at.gather(g, before)?);
            let items = self.item(g, items)?;
            let items = candidates.of.gather(g, items)?;
            self.values(g, [others, items, before, candidates.each], |_, states| Ok(states))
        })?;
        column(graph, values)
    }

    fn discount(&self) -> Option<f64> {
        Some(self.config.gamma)
    }

    fn request(&self, request: &ListRequest) -> (RequestShape, Feed) {
        let (shape, mut feed) = feed_list_request(request, self.sizes.fields.len());
        feed_others(&mut feed, request.shown.len() + 1, self.other_fields.len());
        (shape, feed)
    }
}

/// Feeds where the fields of user and context of each impression begin among those of all.
fn feed_others(feed: &mut Feed, count: usize, fields: usize) {
    let borders: Vec<u32> = (0..=count).map(|n| (n * fields) as u32).collect();
    feed.set("other_of_impression", Tensor::u32(&[count + 1], &borders));
}

/// Makes batches of whole lists, with the noise on what the actor proposes.
struct Logged {
    lists: Arc<Lists>,
    /// Fields of user and context.
    others: usize,
    /// Columns of a proposal.
    width: usize,
    /// Standard deviation.
    noise: f32,
}

impl Sampler for Logged {
    fn samples(&self) -> Vec<u32> {
        self.lists.training()
    }

    fn batch(&self, which: &[u32], rng: RngState) -> Result<Batch> {
        let mut feed = Feed::default();
        let shape = feed_walk(&mut feed, &self.lists, which, Some(rng));
        let count = feed_rewards(&mut feed, &self.lists, which);
        feed_others(&mut feed, count, self.others);
        let length = self.lists.length as u32;
        let impressions = || which.iter().flat_map(|list| (0..length).map(move |place| list * length + place));
        let keys: Vec<u32> = impressions().flat_map(|n| [n, 0]).collect();
        feed.set("other_impression_keys", Tensor::u32(&[count, 2], &keys));
        let of_fields = impressions().flat_map(|n| (0..self.others as u32).flat_map(move |field| [n, field]));
        let of_fields: Vec<u32> = of_fields.collect();
        feed.set("other_field_keys", Tensor::u32(&[count * self.others, 2], &of_fields));
        let mut noise = vec![0.0; count * self.width];
        for (noise, n) in noise.chunks_exact_mut(self.width).zip(impressions()) {
            rng.normals(NOISE, n, 0, noise);
            noise.iter_mut().for_each(|x| *x = self.noise * x.clamp(-2.0, 2.0));
        }
        feed.set("noise", Tensor::f32(&[count, self.width], noise));
        feed.set("each", Tensor::u32(&[count + 1], &(0..=count as u32).collect::<Vec<_>>()));
        Ok(Batch { shape, feed, tokens: count })
    }
}

#[cfg(test)]
#[path = "hrl_rec/tests.rs"]
mod tests;
