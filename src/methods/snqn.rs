//! SNQN and SA2C (Xin et al., Supervised Advantage Actor-Critic for Recommender Systems, WSDM 2022): a session's encoder learns
//! the next item by cross-entropy and, beside it, the value of items by double Q-learning with sampled negatives.
//!
//! ```text
//! s = G(last items)        Q = W_q s + b_q        f = W_p s + b_p
//! L_q = 1/2 (y+ - Q(s, a+))^2 + sum_j 1/2 (y- - Q(s, a-_j))^2                          (Eq. 3 to 5; `ops/snqn_td.rs`)
//! L_s = -log softmax(f)[a+]
//! SNQN   L = L_q + L_s
//! SA2C   L = L_q + A rho^kappa L_s     from step T on, before that SNQN's                   (Eq. 6 to 8)
//! ```
//!
//! There are two networks. Each step a coin says which one learns; the other gives the values that the first one's choices are
//! worth. Sessions are ranked for by the policy head of the first. The baselines of the paper are settings of this code:
//! without negatives (`sqn`), weighted by Q in place of the advantage (`sac`), without a policy (`dqn`), without values
//! (`supervised`).

use super::batch::token_batch;
use super::config::{table_of, typed};
use super::{Batch, Method, MethodInfo, Request, Sampler, Shape, Sizes, Training};
use crate::data::{Events, Interactions, Packed};
use crate::engine::params::{Init, ParamLayout};
use crate::engine::{Graph, TensorType, ValueId};
use crate::error::{Error, Result};
use crate::nn::layers::glorot;
use crate::nn::{Ids, Optimizer, Scorer, StateEncoder, StatePass, Tokens, adam_step};
use crate::ops::adam::AdamConfig;
use crate::ops::add::Add;
use crate::ops::fill::Fill;
use crate::ops::linear_cross_entropy::LinearCrossEntropy;
use crate::ops::linear_topk::LinearMax;
use crate::ops::off_policy_weight::OffPolicyWeight;
use crate::ops::scale::Scale;
use crate::ops::snqn_td::SnqnTd;
use crate::ops::weighted_sum::WeightedSum;
use crate::settings;
use replay::{Replay, lay_out};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

#[path = "snqn/replay.rs"]
mod replay;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "snqn",
    title: "SNQN",
    paper: "Xin et al., Supervised Advantage Actor-Critic for Recommender Systems, WSDM 2022",
    preset: include_str!("snqn.toml"),
    defaults: || table_of(&SnqnConfig::default()),
    cases: &[
        &["base=gru", "dropout=0.1"],
        &["base=caser", "learning=sa2c", "warm_up=60", "kappa=0.5"],
        &["base=nextitnet", "learning=sac", "warm_up=60"],
        &["base=sasrec", "learning=sqn"],
        &["base=transformer", "learning=supervised"],
        &["base=gru", "learning=dqn"],
    ],
    build: |config, Sizes { items, .. }| Ok(Box::new(Snqn { config: checked(typed(config)?)?, n_items: items })),
};

/// Which losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learning {
    /// Cross-entropy alone, one network.
    Supervised,
    /// Values of the actions taken, and cross-entropy.
    Sqn,
    /// And of sampled negatives.
    Snqn,
    /// As SQN; after the warm-up the cross-entropy is weighted by Q.
    Sac,
    /// As SNQN; after the warm-up the cross-entropy is weighted by the advantage.
    Sa2c,
    /// Values alone, with negatives; they rank.
    Dqn,
}

impl Learning {
    fn has_values(self) -> bool {
        self != Learning::Supervised
    }

    fn has_policy(self) -> bool {
        self != Learning::Dqn
    }

    fn has_negatives(self) -> bool {
        matches!(self, Learning::Snqn | Learning::Sa2c | Learning::Dqn)
    }

    fn has_warm_up(self) -> bool {
        matches!(self, Learning::Sac | Learning::Sa2c)
    }
}

/// Which head of the first network ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RankBy {
    /// That of the cross-entropy, where there is one.
    Policy,
    /// That of Q.
    Values,
}

/// Keys of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SnqnConfig {
    /// The preset's table.
    pub mode: String,
    /// Which losses.
    pub learning: Learning,
    /// Which head ranks; read by inference alone.
    pub rank_by: RankBy,
    /// What a reward one step later is worth.
    pub gamma: f64,
    /// Rewards by kind of event: `view=0.2,addtocart=1`.
    pub rewards: String,
    /// Of events of any other kind, and of data without kinds.
    pub reward: f64,
    /// Of an item that was not chosen.
    pub reward_negative: f64,
    /// Sampled for each event.
    pub negatives: usize,
    /// T: steps before the cross-entropy is weighted.
    pub warm_up: usize,
    /// Of the steps after the warm-up, with an optimizer that begins anew; 0 is that of before.
    pub learning_rate_after: f64,
    /// Whether the advantage is kept between 0 and 10.
    pub clip_advantage: bool,
    /// Exponent of the off-policy correction; 0 is none.
    pub kappa: f64,
    /// What L_q counts beside the cross-entropy.
    pub value_weight: f64,
    /// Steps between two validations, which the training calls an epoch. Their batches are drawn independently.
    pub steps_per_epoch: usize,
    /// The encoder.
    #[serde(flatten)]
    pub encoder: StateEncoder,
    /// How long and how fast to train.
    #[serde(flatten)]
    pub training: Training,
}

impl Default for SnqnConfig {
    fn default() -> Self {
        SnqnConfig {
            mode: String::new(),
            learning: Learning::Snqn,
            rank_by: RankBy::Policy,
            gamma: 0.5,
            rewards: String::new(),
            reward: 0.2,
            reward_negative: 0.0,
            negatives: 10,
            warm_up: 15_000,
            learning_rate_after: 0.001,
            clip_advantage: true,
            kappa: 0.0,
            value_weight: 1.0,
            steps_per_epoch: 4000,
            encoder: StateEncoder::default(),
            training: Training {
                epochs: 15,
                learning_rate: 0.005,
                patience: 15,
                select_by: "ndcg@10".into(),
                select_history_kept: true,
                select_by_kind: true,
                ..Training::default()
            },
        }
    }
}

fn checked(config: SnqnConfig) -> Result<SnqnConfig> {
    config.encoder.validate()?;
    config.training.validate()?;
    settings::at_least_one(&[("negatives", config.negatives), ("steps_per_epoch", config.steps_per_epoch)])?;
    settings::shares(&[("gamma", config.gamma)])?;
    if config.rank_by == RankBy::Values && !config.learning.has_values() {
        let problem = "rank_by = values means nothing for supervised learning, which learns no values";
        return Err(Error::usage(problem, "set rank_by=policy, or a learning with values such as snqn"));
    }
    settings::not_negative(&[
        ("kappa", config.kappa),
        ("value_weight", config.value_weight),
        ("learning_rate_after", config.learning_rate_after),
    ])?;
    rewards(&config.rewards)?;
    Ok(config)
}

/// `kind=reward,kind=reward`.
fn rewards(text: &str) -> Result<BTreeMap<String, f32>> {
    let pair = |part: &str| {
        let (kind, reward) = part.split_once('=')?;
        Some((kind.trim().to_string(), reward.trim().parse().ok().filter(|reward: &f32| reward.is_finite())?))
    };
    let wrong = |part: &str| {
        Error::usage(format!("rewards: `{part}` is no KIND=NUMBER"), "for example rewards=view=0.2,sale=1")
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(|part| pair(part).ok_or_else(|| wrong(part))).collect()
}

/// The two networks.
const NETWORKS: [&str; 2] = ["q1", "q2"];
/// Sessions before the event and after it.
const STATE: &str = "state.";
const NEXT: &str = "next.";

/// SNQN for a catalogue.
pub struct Snqn {
    config: SnqnConfig,
    n_items: usize,
}

/// A training graph: which network learns, and whether the warm-up is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    main: usize,
    after: bool,
}

impl Turn {
    fn of(graph: u8) -> Self {
        Turn { main: usize::from(graph & 1), after: graph & 2 != 0 }
    }

    fn graph(self) -> u8 {
        self.main as u8 | u8::from(self.after) << 1
    }

    /// The optimizer begins anew after the warm-up.
    fn optimizer(self) -> Optimizer<'static> {
        const AFTER: [&str; 2] = ["q1 after warm-up", "q2 after warm-up"];
        Optimizer { name: if self.after { AFTER[self.main] } else { NETWORKS[self.main] }, set: NETWORKS[self.main] }
    }
}

impl Snqn {
    /// `W[V, width]`, `b[V]` of a head, `values` or `policy`.
    fn head(&self, graph: &mut Graph, network: &str, name: &str) -> [ValueId; 2] {
        let width = self.config.encoder.width();
        graph.in_set(network, |g| {
            let weight = g.param(&format!("{name}.weight"), &[self.n_items, width], glorot(width, self.n_items));
            [weight, g.param(&format!("{name}.bias"), &[self.n_items], Init::Constant(0.0))]
        })
    }

    /// States of a network; `draw` are the random numbers of the pass.
    fn states(&self, graph: &mut Graph, network: &str, sessions: &Sessions, draw: u32) -> Result<ValueId> {
        let Sessions { tokens, last_rows, state_keys } = *sessions;
        let pass = StatePass { tokens, last_rows, state_keys: Some(state_keys), noise: Some(draw) };
        graph.in_set(network, |g| self.config.encoder.encode(g, &pass, self.n_items))
    }

    /// `Q(s, a)` of some items, shaped like their ids.
    fn values(&self, graph: &mut Graph, network: &str, states: ValueId, items: Ids) -> Result<ValueId> {
        let [table, bias] = self.head(graph, network, VALUES);
        let scorer = Scorer { query: states, table, bias: Some(bias), items: self.n_items, samples: 1 };
        scorer.score(graph, items)
    }

    /// What network `other` thinks of the item that `main` likes best: `Q'(s, argmax_a Q(s, a))`, `[B]`.
    fn bootstrap(&self, graph: &mut Graph, main: usize, sessions: &Sessions, draw: u32) -> Result<ValueId> {
        let (own, other) = (NETWORKS[main], NETWORKS[1 - main]);
        let states = self.states(graph, own, sessions, draw)?;
        let [weight, bias] = self.head(graph, own, VALUES);
        let best = graph.add(LinearMax::default(), &[states, weight, bias])?[1];
        let states = self.states(graph, other, sessions, draw + 1)?;
        self.values(graph, other, states, Ids { ids: best, segments: None })
    }

    /// The losses of the values `[B]` and the advantages `[B]`.
    fn temporal_difference(
        &self,
        graph: &mut Graph,
        turn: Turn,
        state: ValueId,
        inputs: &Inputs,
    ) -> Result<(ValueId, [ValueId; 2])> {
        let own = NETWORKS[turn.main];
        let positive = self.values(graph, own, state, inputs.action)?;
        let negative = self.values(graph, own, state, inputs.negatives)?;
        let next = self.bootstrap(graph, turn.main, &inputs.next, 1)?;
        let now = self.bootstrap(graph, turn.main, &inputs.state, 3)?;
        let op = SnqnTd {
            gamma: self.config.gamma,
            reward_negative: self.config.reward_negative,
            negative_weight: f64::from(u8::from(self.config.learning.has_negatives())),
            advantage_clip: self.config.clip_advantage.then_some([0.0, 10.0]),
        };
        let [reward, done] = [inputs.reward, inputs.done];
        let outputs = graph.add(op, &[positive, negative, reward, done, next, now])?;
        Ok((outputs[0], [outputs[1], positive]))
    }
}

const VALUES: &str = "values";
const POLICY: &str = "policy";

/// Sessions of a batch, as graph inputs.
#[derive(Clone, Copy)]
struct Sessions {
    tokens: Tokens,
    last_rows: Ids,
    state_keys: ValueId,
}

impl Sessions {
    fn declare(graph: &mut Graph, prefix: &str, shape: Shape) -> Self {
        Sessions {
            tokens: Tokens::named(graph, prefix, shape.sequences, shape.rows, true),
            last_rows: Ids::declare(graph, &format!("{prefix}last_rows"), &[shape.sequences], true),
            state_keys: graph.input(&format!("{prefix}state_keys"), TensorType::u32(&[shape.sequences, 2])),
        }
    }
}

/// Graph inputs of a training step.
struct Inputs {
    state: Sessions,
    next: Sessions,
    action: Ids,
    negatives: Ids,
    reward: ValueId,
    done: ValueId,
    beta: ValueId,
}

impl Inputs {
    fn declare(graph: &mut Graph, shape: Shape, negatives: usize) -> Inputs {
        let batch = shape.sequences;
        let state = Sessions::declare(graph, STATE, shape);
        let next = Sessions::declare(graph, NEXT, shape);
        let [action, negatives] = [("action", vec![batch]), ("negatives", vec![batch, negatives])]
            .map(|(name, shape)| Ids::declare(graph, name, &shape, true));
        let [reward, done, beta] = ["reward", "done", "beta"].map(|name| graph.input(name, TensorType::f32(&[batch])));
        Inputs { state, next, action, negatives, reward, done, beta }
    }
}

impl Method for Snqn {
    fn training(&self) -> &Training {
        &self.config.training
    }

    fn max_len(&self) -> usize {
        self.config.encoder.max_len
    }

    fn training_graphs(&self) -> u8 {
        match self.config.learning {
            Learning::Supervised => 1,
            learning if learning.has_warm_up() => 4,
            _ => 2,
        }
    }

    fn optimizer(&self, name: &str) -> AdamConfig {
        let adam = self.config.training.adam();
        let after = self.config.learning_rate_after;
        match NETWORKS.contains(&name) || after == 0.0 {
            true => adam,
            false => AdamConfig { learning_rate: after, ..adam },
        }
    }

    fn train_graph(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let (config, turn, batch) = (&self.config, Turn::of(shape.graph), shape.sequences);
        let mut graph = Graph::new(layout);
        let inputs = Inputs::declare(&mut graph, shape, config.negatives);
        let state = self.states(&mut graph, NETWORKS[turn.main], &inputs.state, 0)?;
        let even = graph.add1(Fill { value: 1.0 / batch as f32, shape: vec![batch] }, &[])?;
        let (mut losses, mut weights) = (Vec::new(), None);
        if config.learning.has_values() {
            let (errors, of_actions) = self.temporal_difference(&mut graph, turn, state, &inputs)?;
            let mean = graph.add1(WeightedSum, &[errors, even])?;
            losses.push(("loss_q", mean, config.value_weight));
            weights = Some(of_actions);
        }
        if config.learning.has_policy() {
            let [weight, bias] = self.head(&mut graph, NETWORKS[turn.main], POLICY);
            let ce = graph.add1(LinearCrossEntropy::default(), &[state, weight, bias, inputs.action.ids])?;
            let mean = graph.add1(WeightedSum, &[ce, even])?;
            graph.metric("loss_ce", mean);
            let mut loss = mean;
            if let (Some([advantage, value]), true) = (weights, turn.after) {
                let of_action = if config.learning == Learning::Sac { value } else { advantage };
                let shown = graph.add1(WeightedSum, &[of_action, even])?;
                graph.metric("weight", shown);
                let op = OffPolicyWeight { kappa: config.kappa, clip: [0.1, 10.0] };
                let weight = graph.add1(op, &[of_action, ce, inputs.beta])?;
                let weight = graph.add1(Scale { factor: 1.0 / batch as f64 }, &[weight])?;
                loss = graph.add1(WeightedSum, &[ce, weight])?;
            }
            losses.push(("loss_policy", loss, 1.0));
        }
        let mut total = None;
        for (name, loss, weight) in losses {
            graph.metric(name, loss);
            let loss = if weight == 1.0 { loss } else { graph.add1(Scale { factor: weight }, &[loss])? };
            total = Some(match total {
                Some(total) => graph.add1(Add, &[total, loss])?,
                None => loss,
            });
        }
        let total = total.expect("one loss at least");
        graph.metric("loss", total);
        graph.metrics.rotate_right(1);
        let gradients = graph.backward(total, NETWORKS[turn.main])?;
        adam_step(&mut graph, turn.optimizer(), &gradients, config.training.clip())?;
        Ok(graph)
    }

    fn batches_of(&self) -> &'static str {
        "events"
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        let of_kind = rewards(&self.config.rewards)?;
        if let Some(stranger) = of_kind.keys().find(|kind| !data.kind_names.contains(kind)) {
            let known: Vec<&str> = data.kind_names.iter().map(String::as_str).collect();
            return Err(Error::unknown("kind of event in rewards", stranger, &known));
        }
        let reward = |kind: &String| of_kind.get(kind).copied().unwrap_or(self.config.reward as f32);
        Ok(Arc::new(Replay {
            config: self.config.clone(),
            rewards: data.kind_names.iter().map(reward).collect(),
            beta: data.item_shares(),
            events: Events::new(data.clone()),
            data,
        }))
    }

    fn scoring_batch(&self, requests: &[Request]) -> Batch {
        let mut packed = Packed::new();
        for (i, request) in (0..).zip(requests) {
            lay_out(&self.config.encoder, self.n_items as u32, &mut packed, i, request.history);
        }
        token_batch(&mut packed, None, None)
    }

    fn scorer(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        let sequences = graph.shape(tokens.cu_seqlens)[0] - 1;
        let last_rows = Ids::declare(graph, "last_rows", &[sequences], false);
        let pass = StatePass { tokens: *tokens, last_rows, state_keys: None, noise: None };
        let query = graph.in_set(NETWORKS[0], |g| self.config.encoder.encode(g, &pass, self.n_items))?;
        let by_policy = self.config.rank_by == RankBy::Policy && self.config.learning.has_policy();
        let head = if by_policy { POLICY } else { VALUES };
        let [table, bias] = self.head(graph, NETWORKS[0], head);
        Ok(Scorer { query, table, bias: Some(bias), items: self.n_items, samples: 1 })
    }
}

#[cfg(test)]
#[path = "snqn/tests.rs"]
mod tests;
