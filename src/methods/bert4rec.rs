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

use super::batch::token_batch;
use super::config::{table_of, typed};
use super::{Batch, Method, MethodInfo, Objective, Request, Sampler, Shape, Sizes, Training};
use crate::data::pack::INERT;
use crate::data::{Interactions, Packed};
use crate::engine::params::Init;
use crate::engine::rng::{RngState, Site};
use crate::engine::{Feed, Graph, Tensor, TensorType, ValueId};
use crate::error::Result;
use crate::nn::layers::{Dense, layer_norm};
use crate::nn::{PassNoise, Scorer, Tokens, Transformer};
use crate::ops::activation::Activation;
use crate::ops::layer_norm::LayerNorm;
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
    build: |config, Sizes { items, .. }| Ok(Box::new(Bert4Rec::new(typed(config)?, items, 1)?)),
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

/// BERT4Rec for a catalogue.
pub struct Bert4Rec {
    config: Bert4RecConfig,
    n_items: usize,
    /// Rows of the item table behind the items; the first is the mask.
    special: usize,
}

/// Draws of masks: one stream per user and step.
const MASKS: Site = Site(0xBE47);

impl Bert4Rec {
    /// With so many rows of the item table behind the items. Refuses settings that cannot train.
    pub fn new(config: Bert4RecConfig, n_items: usize, special: usize) -> Result<Bert4Rec> {
        config.encoder.validate()?;
        config.training.validate()?;
        settings::at_least_one(&[("max_masked", config.max_masked), ("blocks", config.encoder.blocks)])?;
        settings::shares(&[("mask_ratio", config.mask_ratio), ("last_only", config.last_only)])?;
        Ok(Bert4Rec { config, n_items, special })
    }

    /// The item that stands for an item to be filled in.
    pub fn mask(&self) -> u32 {
        self.n_items as u32
    }

    /// Hidden states `[N, dim]` of rows that all see each other.
    pub fn encode(&self, graph: &mut Graph, tokens: &Tokens) -> Result<ValueId> {
        let (encoder, table) = (&self.config.encoder, self.item_table(graph));
        let noise = tokens.training.map(|_| PassNoise::Dropout { pass: 0 });
        encoder.encode_rows(graph, tokens, tokens.rows(false), table, None, noise)
    }

    fn item_table(&self, graph: &mut Graph) -> ValueId {
        self.config.encoder.item_table(graph, self.n_items + self.special)
    }

    /// The scorer of the rows' query vectors.
    pub fn scorer_of_rows(&self, graph: &mut Graph, hidden: ValueId) -> Result<Scorer> {
        let (encoder, dim) = (&self.config.encoder, self.config.encoder.dim);
        let head = Dense::new(dim).weight(Init::Normal(encoder.init_std as f32)).then(Activation::Gelu);
        let x = head.of(graph, "head", hidden)?;
        let query = layer_norm(graph, "head_norm", LayerNorm::plain(encoder.layer_norm_eps), x, &[])?;
        let bias = graph.param("item_bias", &[self.n_items + self.special], Init::Constant(0.0));
        let table = self.item_table(graph);
        Ok(Scorer { query, table, bias: Some(bias), items: self.n_items, samples: 1 })
    }

    /// The mean loss of the masked rows, from the inputs `target[N]` and `loss_weight[N]`.
    pub fn cloze_loss(&self, graph: &mut Graph, scorer: &Scorer) -> Result<ValueId> {
        let rows = graph.shape(scorer.query)[0];
        let target = graph.input("target", TensorType::u32(&[rows]));
        let weight = graph.input("loss_weight", TensorType::f32(&[rows]));
        let operands: Vec<ValueId> =
            [scorer.query, scorer.table].into_iter().chain(scorer.bias).chain([target]).collect();
        let losses = graph.add1(LinearCrossEntropy { items: Some(self.n_items) }, &operands)?;
        graph.add1(WeightedSum, &[losses, weight])
    }

    /// What masks the training sequences.
    pub fn cloze(&self, data: Arc<Interactions>) -> Cloze {
        Cloze { config: self.config.clone(), mask: self.mask(), data }
    }
}

impl Method for Bert4Rec {
    fn training(&self) -> &Training {
        &self.config.training
    }

    fn max_len(&self) -> usize {
        self.config.encoder.max_len - 1
    }

    fn objective(&self, graph: &mut Graph, shape: Shape) -> Result<Objective> {
        let tokens = Tokens::for_training(graph, shape.sequences, shape.rows);
        let hidden = self.encode(graph, &tokens)?;
        let scorer = self.scorer_of_rows(graph, hidden)?;
        Ok(Objective { loss: self.cloze_loss(graph, &scorer)?, scorer, item_table: scorer.table })
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        Ok(Arc::new(self.cloze(data)))
    }

    fn scoring_batch(&self, requests: &[Request]) -> Batch {
        let (mut packed, max_len) = (Packed::new(), self.config.encoder.max_len);
        for (i, request) in (0..).zip(requests) {
            let kept = &request.history[request.history.len().saturating_sub(max_len - 1)..];
            packed.push(i, &[kept, &[self.mask()]].concat(), max_len);
        }
        token_batch(&mut packed, None, None)
    }

    fn scorer(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        let hidden = self.encode(graph, tokens)?;
        let scorer = self.scorer_of_rows(graph, hidden)?;
        Ok(Scorer { query: tokens.last_of_each_sequence(graph, scorer.query)?, ..scorer })
    }
}

/// Makes batches of sequences with masked items.
pub struct Cloze {
    config: Bert4RecConfig,
    mask: u32,
    data: Arc<Interactions>,
}

impl Cloze {
    /// Appends each user's training sequence with some items masked; returns the masked rows with their items.
    pub fn push(&self, packed: &mut Packed, users: &[u32], rng: RngState) -> Vec<(usize, u32)> {
        let mut masked = Vec::new();
        for &user in users {
            let first = packed.n_rows();
            packed.push(user, self.data.train(user as usize), self.config.encoder.max_len);
            for row in self.masked(packed.n_rows() - first, rng, user).into_iter().map(|place| first + place) {
                masked.push((row, std::mem::replace(&mut packed.items[row], self.mask)));
            }
        }
        masked
    }

    /// Feeds what `Bert4Rec::cloze_loss` reads of a batch of so many rows.
    pub fn feed(feed: &mut Feed, rows: usize, masked: &[(usize, u32)]) {
        let (mut target, mut weight) = (vec![INERT; rows], vec![0.0; rows]);
        let share = 1.0 / masked.len() as f32;
        masked.iter().for_each(|(row, item)| (target[*row], weight[*row]) = (*item, share));
        feed.set("target", Tensor::u32(&[rows], &target));
        feed.set("loss_weight", Tensor::f32(&[rows], weight));
    }

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
        let mut packed = Packed::new();
        let masked = self.push(&mut packed, users, rng);
        let mut batch = token_batch(&mut packed, None, Some(rng));
        Cloze::feed(&mut batch.feed, packed.n_rows(), &masked);
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
