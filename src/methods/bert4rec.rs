//! BERT4Rec (Sun et al., CIKM 2019): a bidirectional transformer learns to fill in masked items, and recommends by a mask behind
//! the history.
//!
//! ```text
//! x = encoder(items, some of them MASK)              `nn/transformer.rs`, without a causal mask
//! t = LN(gelu(W x + b))
//! score(v) = <t, E[v]> + o_v
//! loss = mean over the masked rows of -log softmax(score)[item]
//! ```
//!
//! Of a training sequence a share of the items is masked at random, or only the last one: that is what recommending asks for.

use super::batch::{feed_tokens, token_batch};
use super::config::{table_of, typed};
use super::{Batch, Method, MethodInfo, Request, Sampler, Shape, Sizes, Training};
use crate::data::pack::INERT;
use crate::data::{Interactions, Packed, row_bucket};
use crate::engine::params::{Init, ParamLayout};
use crate::engine::rng::{RngState, Site};
use crate::engine::{Feed, Graph, Tensor, TensorType, ValueId};
use crate::error::Result;
use crate::nn::{FeedForwardNoise, Scorer, Tokens, Transformer, adam_step};
use crate::ops::activation::Activation;
use crate::ops::layer_norm::LayerNorm;
use crate::ops::linear::Linear;
use crate::ops::linear_cross_entropy::LinearCrossEntropy;
use crate::ops::weighted_sum::WeightedSum;
use crate::settings;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "bert4rec",
    title: "BERT4Rec",
    paper: "Sun et al., BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer, CIKM 2019",
    preset: include_str!("bert4rec.toml"),
    defaults: || table_of(&Bert4RecConfig::default()),
    cases: &[&["heads=2"]],
    build: |config, Sizes { items, .. }| Ok(Box::new(Bert4Rec { config: checked(typed(config)?)?, n_items: items })),
};

/// Keys of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Bert4RecConfig {
    /// The preset's table.
    pub mode: String,
    /// Share of a sequence's items that are masked.
    pub mask_ratio: f64,
    /// Most items of a sequence that are masked.
    pub max_masked: usize,
    /// How often only the last item is masked.
    pub last_only: f64,
    /// The network; `max_len` counts the mask.
    #[serde(flatten)]
    pub encoder: Transformer,
    /// How long and how fast to train.
    #[serde(flatten)]
    pub training: Training,
}

impl Default for Bert4RecConfig {
    fn default() -> Self {
        Bert4RecConfig {
            mode: String::new(),
            mask_ratio: 0.6,
            max_masked: 30,
            last_only: 1.0 / 11.0,
            encoder: Transformer { attention_dropout: 0.2, ..Transformer::default() },
            training: Training::default(),
        }
    }
}

fn checked(config: Bert4RecConfig) -> Result<Bert4RecConfig> {
    config.encoder.validate()?;
    config.training.validate()?;
    settings::at_least_one(&[("max_masked", config.max_masked), ("blocks", config.encoder.blocks)])?;
    settings::shares(&[("mask_ratio", config.mask_ratio), ("last_only", config.last_only)])?;
    Ok(config)
}

/// BERT4Rec for a catalogue.
pub struct Bert4Rec {
    config: Bert4RecConfig,
    n_items: usize,
}

/// Draws of masks: one stream per user and step.
const MASKS: Site = Site(0xBE47);

impl Bert4Rec {
    /// The item that stands for an item to be filled in.
    fn mask(&self) -> u32 {
        self.n_items as u32
    }

    /// The item table, with a row for the mask, and the rows' query vectors `[N, dim]`.
    fn queries(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        let encoder = &self.config.encoder;
        let table = encoder.item_table(graph, self.n_items + 1);
        let noise = tokens.training.map(|_| FeedForwardNoise::Dropout);
        let hidden = encoder.encode_rows(graph, tokens, tokens.rows(false), table, None, noise)?;
        let dim = encoder.dim;
        let weight = graph.param("head.weight", &[dim, dim], Init::Normal(encoder.init_std as f32));
        let bias = graph.param("head.bias", &[dim], Init::Constant(0.0));
        let gelu = Linear { activation: Some(Activation::Gelu), ..Linear::default() };
        let x = graph.add1(gelu, &[hidden, weight, bias])?;
        let weight = graph.param("head_norm.weight", &[dim], Init::Constant(1.0));
        let bias = graph.param("head_norm.bias", &[dim], Init::Constant(0.0));
        let norm = LayerNorm { eps: encoder.layer_norm_eps, residual: false, dropout: None };
        let query = graph.add1(norm, &[x, weight, bias])?;
        let bias = graph.param("item_bias", &[self.n_items + 1], Init::Constant(0.0));
        Ok(Scorer { query, table, bias: Some(bias), items: self.n_items, samples: 1 })
    }
}

impl Method for Bert4Rec {
    fn training(&self) -> &Training {
        &self.config.training
    }

    fn max_len(&self) -> usize {
        self.config.encoder.max_len - 1
    }

    fn train_graph(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        let tokens = Tokens::for_training(&mut graph, shape.sequences, shape.rows, false);
        let scorer = self.queries(&mut graph, &tokens)?;
        let target = graph.input("target", TensorType::u32(&[shape.rows]));
        let weight = graph.input("loss_weight", TensorType::f32(&[shape.rows]));
        let operands: Vec<ValueId> =
            [scorer.query, scorer.table].into_iter().chain(scorer.bias).chain([target]).collect();
        let rows = graph.add1(LinearCrossEntropy { items: Some(self.n_items) }, &operands)?;
        let loss = graph.add1(WeightedSum, &[rows, weight])?;
        graph.metric("loss", loss);
        let gradients = graph.backward(loss, "model")?;
        adam_step(&mut graph, "model", &gradients, self.config.training.clip())?;
        Ok(graph)
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        Ok(Arc::new(Cloze { config: self.config.clone(), mask: self.mask(), data }))
    }

    fn scoring_batch(&self, requests: &[Request]) -> Batch {
        let (mut packed, max_len) = (Packed::new(), self.config.encoder.max_len);
        for (i, request) in (0..).zip(requests) {
            let kept = &request.history[request.history.len().saturating_sub(max_len - 1)..];
            packed.push(i, &[kept, &[self.mask()]].concat(), max_len);
        }
        let tokens = packed.n_rows();
        packed.pad_to(row_bucket(tokens), INERT);
        let mut feed = Feed::default();
        feed_tokens(&mut feed, &packed, None, None);
        Batch { shape: Shape::new(packed.n_sequences(), packed.n_rows()), feed, tokens }
    }

    fn scorer(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        let scorer = self.queries(graph, tokens)?;
        Ok(Scorer { query: tokens.last_of_each_sequence(graph, scorer.query)?, ..scorer })
    }
}

/// Makes batches of sequences with masked items.
struct Cloze {
    config: Bert4RecConfig,
    mask: u32,
    data: Arc<Interactions>,
}

impl Cloze {
    /// Which of `len` items are masked.
    fn masked(&self, len: usize, rng: RngState, user: u32) -> Vec<usize> {
        let mut stream = rng.stream(MASKS, user);
        if f64::from(stream.uniform()) < self.config.last_only {
            return vec![len - 1];
        }
        let count = ((len as f64 * self.config.mask_ratio).round() as usize).clamp(1, self.config.max_masked.min(len));
        let mut places: Vec<usize> = (0..len).collect();
        stream.shuffle(&mut places);
        places.truncate(count);
        places
    }
}

impl Sampler for Cloze {
    /// Everyone with two items or more: one to fill in, one to know it by.
    fn samples(&self) -> Vec<u32> {
        crate::data::trainable_users(&self.data)
    }

    fn batch(&self, users: &[u32], rng: RngState) -> Result<Batch> {
        let (mut packed, max_len) = (Packed::new(), self.config.encoder.max_len);
        let mut hidden: Vec<(usize, u32)> = Vec::new();
        for &user in users {
            let first = packed.n_rows();
            packed.push(user, self.data.train(user as usize), max_len);
            let len = packed.n_rows() - first;
            for place in self.masked(len, rng, user) {
                hidden.push((first + place, std::mem::replace(&mut packed.items[first + place], self.mask)));
            }
        }
        let mut batch = token_batch(&mut packed, None, rng);
        let (rows, share) = (packed.n_rows(), 1.0 / hidden.len() as f32);
        let (mut target, mut weight) = (vec![INERT; rows], vec![0.0; rows]);
        hidden.iter().for_each(|(row, item)| (target[*row], weight[*row]) = (*item, share));
        batch.feed.set("target", Tensor::u32(&[rows], &target));
        batch.feed.set("loss_weight", Tensor::f32(&[rows], weight));
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloze(config: Bert4RecConfig) -> Cloze {
        let data =
            Interactions::from_sequences("toy", &[vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], vec![3, 2, 1, 4]]);
        Cloze { mask: 12, data: Arc::new(data), config }
    }

    #[test]
    fn a_share_of_each_sequence_is_masked_and_is_the_target() {
        let sampler = cloze(Bert4RecConfig { last_only: 0.0, ..Bert4RecConfig::default() });
        let batch = sampler.batch(&[0, 1], RngState { seed: 1, step: 1 }).unwrap();
        let words = |name: &str| batch.feed.get(name).unwrap().as_u32().to_vec();
        let (items, target) = (words("items"), words("target"));
        let masked = |rows: std::ops::Range<usize>| rows.filter(|row| items[*row] == 12).count();
        assert_eq!((masked(0..10), masked(10..12)), (6, 1));
        assert!((0..12).all(|row| (items[row] == 12) == (target[row] != INERT)));
        let whole: Vec<u32> = (0..12).map(|row| if items[row] == 12 { target[row] } else { items[row] }).collect();
        assert_eq!(whole, [sampler.data.train(0), sampler.data.train(1)].concat());
    }

    #[test]
    fn sometimes_only_the_last_item_is_masked() {
        let sampler = cloze(Bert4RecConfig { last_only: 1.0, ..Bert4RecConfig::default() });
        let rng = RngState { seed: 1, step: 1 };
        assert_eq!((sampler.masked(7, rng, 0), sampler.masked(1, rng, 1)), (vec![6], vec![0]));
    }
}
