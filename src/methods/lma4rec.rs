//! LMA4Rec (Hao et al., arXiv 2204.10128): contrastive learning over views made by data augmentation and by learnable
//! model augmentation.
//!
//! Three copies of each sequence are encoded in one packed pass: the sequence itself and two augmented views. The loss is
//!
//! ```text
//! L = L_rs + lambda L_ssl                                                       (Eq. 9)
//! L_rs  = next-item loss on the original sequences                              (Eq. 7)
//! L_ssl = NT-Xent over the 2B views, pairs (i, i + B)                           (Eq. 8)
//! ```
//!
//! The feed-forward output of block c is multiplied by Bernoulli masks with keep probability `sigmoid(beta_c)` (Eq. 3).
//! `beta_c` is learned by ARM (Eq. 2): a second forward pass with the antithetic masks and otherwise the same noise gives
//! `f_B`, and the gradient is `sum (f_B - f_A)(u - 1/2)`. A row of the original sequence is credited with its own
//! sequence's share of L_rs, a row of a view with its pair's share of L_ssl.
//!
//! Ablations of Table 3: `ssl`, `lma`, `da`. CoSeRec is `lma = false`; CL4SRec further restricts the operators: both are
//! presets of this code, `coserec.rs` and `cl4srec.rs`.

use super::config::{table_of, typed};
use super::next_item::{LossInputs, NextItem};
use super::{Method, MethodInfo, Sampler, Shape, Sizes, Training};
use crate::data::augment::AugmentConfig;
use crate::data::sample::UserItems;
use crate::data::{Interactions, Similarity};
use crate::engine::grad::Gradients;
use crate::engine::graph::Flat;
use crate::engine::params::ParamLayout;
use crate::engine::{Graph, TensorType, ValueId};
use crate::error::Result;
use crate::nn::{Ids, PassNoise, Scorer, Tokens, Transformer, adam_step};
use crate::ops::activation::Activation;
use crate::ops::add::Add;
use crate::ops::arm_gradient::ArmGradient;
use crate::ops::clamp::Clamp;
use crate::ops::info_nce::{Similarity as Measure, info_nce};
use crate::ops::reshape::Reshape;
use crate::ops::scale::Scale;
use crate::ops::sequence_sum::SequenceSum;
use crate::ops::weighted_sum::WeightedSum;
use crate::settings;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use views::{Neighbours, Views};

#[path = "lma4rec/views.rs"]
mod views;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "lma4rec",
    title: "LMA4Rec",
    paper: "Hao et al., Learnable Model Augmentation Self-Supervised Learning for Sequential Recommendation, arXiv 2204.10128",
    preset: include_str!("lma4rec.toml"),
    defaults: || table_of(&Lma4RecConfig::default()),
    cases: &[&["mode=quality"], &["mode=paper", "max_len=6"]],
    build: |config, Sizes { items, .. }| Ok(Box::new(Lma4Rec { config: checked(typed(config)?)?, n_items: items })),
};

/// What stands for a view in the contrastive loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Representation {
    /// All `max_len x dim` encoder outputs, padding columns included, as CoSeRec's code does.
    Flatten,
    /// The hidden state of the last item.
    Last,
}

/// Keys of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Lma4RecConfig {
    /// The preset's table: `paper` or `quality`.
    pub mode: String,
    /// The loss of the recommendation (Eq. 7).
    #[serde(flatten)]
    pub next_item: NextItem,
    /// The contrastive term; off: "w/o SSL".
    pub ssl: bool,
    /// Learnable Bernoulli masks; off (dropout in their place): "w/o LMA", which is CoSeRec.
    pub lma: bool,
    /// Data augmentation of the views; off (views differ by masks and dropout alone): "w/o DA".
    pub da: bool,
    /// lambda
    pub ssl_weight: f64,
    /// tau: what similarities of views are divided by.
    pub temperature: f64,
    /// How views are compared.
    pub similarity: Measure,
    /// What stands for a view.
    pub representation: Representation,
    /// The network.
    #[serde(flatten)]
    pub encoder: Transformer,
    /// How long and how fast to train.
    #[serde(flatten)]
    pub training: Training,
    /// How views are made.
    pub augment: AugmentConfig,
}

impl Default for Lma4RecConfig {
    fn default() -> Self {
        Lma4RecConfig {
            mode: String::new(),
            next_item: NextItem::default(),
            ssl: true,
            lma: true,
            da: true,
            ssl_weight: 0.1,
            temperature: 1.0,
            similarity: Measure::Dot,
            representation: Representation::Last,
            encoder: Transformer::default(),
            training: Training::default(),
            augment: AugmentConfig::default(),
        }
    }
}

fn checked(config: Lma4RecConfig) -> Result<Lma4RecConfig> {
    config.encoder.validate()?;
    config.training.validate()?;
    config.augment.validate()?;
    config.next_item.validate()?;
    settings::positive(&[("temperature", config.temperature)])?;
    settings::not_negative(&[("ssl_weight", config.ssl_weight)])?;
    Ok(config)
}

/// Bounds of the keep logits: beyond them masks hardly vary and ARM has no signal.
const KEEP_LOGIT: Clamp = Clamp { low: -3.0, high: 5.0 };
/// Copies of each sequence in a batch with views.
const COPIES: usize = 3;

/// LMA4Rec for a catalogue.
pub struct Lma4Rec {
    config: Lma4RecConfig,
    n_items: usize,
}

/// Losses of one forward pass.
struct Pass {
    /// `[N]`
    rows: ValueId,
    /// Scalar and `[2B]`.
    contrastive: Option<(ValueId, ValueId)>,
}

impl Lma4Rec {
    /// The row of the item table that stands for no item: masked and padding positions.
    fn padding_item(&self) -> u32 {
        self.n_items as u32
    }

    fn copies(&self) -> usize {
        if self.config.ssl { COPIES } else { 1 }
    }

    fn view_rows(&self, users: usize) -> usize {
        match self.config.representation {
            Representation::Flatten => 2 * users * self.config.encoder.max_len,
            Representation::Last => 2 * users,
        }
    }

    fn noise(&self, antithetic: bool) -> PassNoise {
        if self.config.lma { PassNoise::Learned { antithetic } } else { PassNoise::Dropout { pass: 0 } }
    }

    fn forward(
        &self,
        graph: &mut Graph,
        inputs: &Inputs,
        loss: Option<&LossInputs>,
        antithetic: bool,
    ) -> Result<(Pass, LossInputs)> {
        let (encoder, config) = (&self.config.encoder, &self.config);
        let table = encoder.item_table(graph, self.n_items + 1);
        let noise = Some(self.noise(antithetic));
        let hidden = encoder.encode(graph, &inputs.tokens, table, Some(self.padding_item()), noise)?;
        let scorer = Scorer { query: hidden, table, bias: None, items: self.n_items, samples: 1 };
        let (rows, loss_inputs) = self.config.next_item.row_losses(graph, &scorer, loss)?;
        let mut contrastive = None;
        if let Some(rows) = inputs.view_rows {
            let mut views = rows.gather(graph, hidden)?;
            if config.representation == Representation::Flatten {
                let width = encoder.max_len * encoder.dim;
                views = graph.add1(Reshape { shape: vec![2 * inputs.users, width] }, &[views])?;
            }
            let [loss, rows] = info_nce(graph, views, config.similarity, config.temperature)?;
            contrastive = Some((loss, rows));
        }
        Ok((Pass { rows, contrastive }, loss_inputs))
    }

    /// What each row is credited with, `[N]`: its sequence's share of the loss that it can influence.
    fn credit(&self, graph: &mut Graph, inputs: &Inputs, pass: &Pass, weight: ValueId) -> Result<ValueId> {
        let mut share = graph.add1(SequenceSum, &[pass.rows, weight, inputs.tokens.cu_seqlens])?;
        if let (Some((_, rows)), Some(pair)) = (pass.contrastive, inputs.pairs) {
            let views = 2 * inputs.users;
            let rows = graph.add1(Reshape { shape: vec![views, 1] }, &[rows])?;
            let [first, second] = pair.map(|view| view.gather(graph, rows));
            let both = graph.add1(Add, &[first?, second?])?;
            let both = graph.add1(Scale { factor: self.config.ssl_weight / views as f64 }, &[both])?;
            share = graph.add1(Add, &[share, both])?;
        }
        let rows = inputs.row_sequence.gather(graph, share)?;
        let len = graph.shape(rows)[0];
        graph.add1(Reshape { shape: vec![len] }, &[rows])
    }

    /// ARM (Eq. 2): the gradients of the keep logits from both passes.
    fn arm(&self, graph: &mut Graph, inputs: &Inputs, a: &Pass, b: &Pass, weight: ValueId) -> Result<Gradients> {
        let (f_a, f_b) = (self.credit(graph, inputs, a, weight)?, self.credit(graph, inputs, b, weight)?);
        let random = inputs.tokens.training.expect("a training graph");
        let mut gradients = Gradients::new();
        for block in 0..self.config.encoder.blocks {
            let logit = self.config.encoder.keep_logit(graph, block);
            let op =
                ArmGradient { site: self.noise(false).feed_forward_site(block), features: self.config.encoder.dim };
            let gradient = graph.add1(op, &[f_a, f_b, random.rng, random.row_keys, logit])?;
            gradients.insert(logit, gradient);
        }
        Ok(gradients)
    }
}

/// Graph inputs of a step beside those of the loss.
struct Inputs {
    users: usize,
    tokens: Tokens,
    /// Rows that represent the views.
    view_rows: Option<Ids>,
    /// `[3B]` each: the two rows of the contrastive loss that a sequence belongs to; none for the originals.
    pairs: Option<[Ids; 2]>,
    /// `[N]`: the sequence of each row.
    row_sequence: Ids,
}

impl Inputs {
    fn declare(method: &Lma4Rec, graph: &mut Graph, shape: Shape) -> Inputs {
        let users = shape.sequences / method.copies();
        let ssl = method.config.ssl;
        let tokens = Tokens::for_training(graph, shape.sequences, shape.rows);
        let row_flags = ssl.then(|| graph.input("row_flags", TensorType::u32(&[shape.rows])));
        let mut ids = |name: &str, len: usize, read_back| Ids::declare(graph, name, &[len], read_back);
        Inputs {
            users,
            tokens: Tokens { row_flags, ..tokens },
            view_rows: ssl.then(|| ids("view_rows", method.view_rows(users), true)),
            pairs: ssl.then(|| ["pair_first", "pair_second"].map(|name| ids(name, shape.sequences, false))),
            row_sequence: ids("row_sequence", shape.rows, false),
        }
    }
}

impl Method for Lma4Rec {
    fn training(&self) -> &Training {
        &self.config.training
    }

    fn max_len(&self) -> usize {
        self.config.encoder.max_len
    }

    fn train_graph(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        let inputs = Inputs::declare(self, &mut graph, shape);
        let (a, loss_inputs) = graph.in_scope("a", |graph| self.forward(graph, &inputs, None, false))?;
        let recommendation = graph.add1(WeightedSum, &[a.rows, loss_inputs.weight])?;
        let mut loss = recommendation;
        if let Some((contrastive, _)) = a.contrastive {
            let weighted = graph.add1(Scale { factor: self.config.ssl_weight }, &[contrastive])?;
            loss = graph.add1(Add, &[weighted, recommendation])?;
        }
        graph.metric("loss", loss);
        graph.metric("loss_rs", recommendation);
        if let Some((contrastive, _)) = a.contrastive {
            graph.metric("loss_ssl", contrastive);
        }
        let gradients = graph.backward(loss, "model")?;
        let mut arm = None;
        if self.config.lma {
            for block in 0..self.config.encoder.blocks {
                let logit = self.config.encoder.keep_logit(&mut graph, block);
                let keep = graph.add1(Activation::Sigmoid, &[logit])?;
                graph.metric(&format!("keep_block{block}"), keep);
            }
            let (b, _) = graph.in_scope("b", |graph| self.forward(graph, &inputs, Some(&loss_inputs), true))?;
            arm = Some(graph.in_scope("arm", |graph| self.arm(graph, &inputs, &a, &b, loss_inputs.weight))?);
        }
        // Both passes have read the parameters as they were.
        adam_step(&mut graph, "model", &gradients, self.config.training.clip())?;
        if let Some(arm) = arm {
            adam_step(&mut graph, "logits", &arm, None)?;
            let logits = graph.layout.set_index("logits");
            let flat = graph.flat(logits, Flat::Params);
            graph.add1(KEEP_LOGIT, &[flat])?;
        }
        Ok(graph)
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        let augments = self.config.ssl && self.config.da;
        let similarity = |data: &Interactions| match self.config.augment.reads_similarity() {
            true => Similarity::item_cf(data),
            false => Similarity::none(data.n_items()),
        };
        Ok(Arc::new(Views {
            config: self.config.clone(),
            padding_item: self.padding_item(),
            owned: Arc::new(UserItems::new(&data)),
            similar: augments.then(|| Neighbours::new(similarity(&data))),
            data,
        }))
    }

    fn scorer(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        let table = self.config.encoder.item_table(graph, self.n_items + 1);
        let hidden = self.config.encoder.encode(graph, tokens, table, Some(self.padding_item()), None)?;
        let query = tokens.last_of_each_sequence(graph, hidden)?;
        Ok(Scorer { query, table, bias: None, items: self.n_items, samples: 1 })
    }
}

#[cfg(test)]
#[path = "lma4rec/tests.rs"]
mod tests;
