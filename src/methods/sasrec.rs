//! SASRec (Kang and McAuley, ICDM 2018) in the encoder of S3-Rec and CoSeRec, which LMA4Rec compares with: a causal
//! post-LN transformer over the last 50 items, trained to predict the next item at every position.
//!
//! With `loss = "bce"` it is the papers' baseline; with `loss = "ce"` (softmax over the whole catalogue) the same
//! encoder beats most published methods on their own data.

use super::batch::feed_tokens;
use super::config::{table_of, typed};
use super::next_item::{BatchRows, Loss, NextItem};
use super::{Batch, Method, MethodInfo, Sampler, Shape, Sizes, Training};
use crate::data::pack::{INERT, row_bucket};
use crate::data::sample::UserItems;
use crate::data::{Interactions, Packed, trainable_users};
use crate::engine::params::ParamLayout;
use crate::engine::rng::RngState;
use crate::engine::{Feed, Graph};
use crate::error::{Error, Result};
use crate::nn::{FeedForwardNoise, Scorer, Tokens, Transformer, adam_step};
use crate::ops::weighted_sum::WeightedSum;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "sasrec",
    title: "SASRec",
    paper: "Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018; encoder as in S3-Rec and CoSeRec",
    preset: include_str!("sasrec.toml"),
    defaults: || table_of(&SasRecConfig::default()),
    build: |config, Sizes { items, .. }| Ok(Box::new(SasRec { config: checked(typed(config)?)?, n_items: items })),
};

/// Keys of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SasRecConfig {
    /// The preset's table: `paper` or `quality`.
    pub mode: String,
    /// Over which items.
    pub loss: Loss,
    /// Negatives per position of `sampled_softmax`.
    pub negatives: usize,
    /// The network.
    #[serde(flatten)]
    pub encoder: Transformer,
    /// How long and how fast to train.
    #[serde(flatten)]
    pub training: Training,
}

impl Default for SasRecConfig {
    fn default() -> Self {
        SasRecConfig {
            mode: String::new(),
            loss: Loss::Ce,
            negatives: 128,
            encoder: Transformer::default(),
            training: Training::default(),
        }
    }
}

fn checked(config: SasRecConfig) -> Result<SasRecConfig> {
    config.encoder.validate()?;
    config.training.validate()?;
    if config.loss == Loss::SampledSoftmax && config.negatives < 2 {
        return Err(Error::usage("sampled_softmax needs at least 2 negatives", "for example --set negatives=128"));
    }
    Ok(config)
}

/// SASRec for a catalogue.
pub struct SasRec {
    config: SasRecConfig,
    n_items: usize,
}

impl SasRec {
    fn next_item(&self) -> NextItem {
        NextItem { loss: self.config.loss, negatives: self.config.negatives }
    }
}

impl Method for SasRec {
    fn training(&self) -> &Training {
        &self.config.training
    }

    fn max_len(&self) -> usize {
        self.config.encoder.max_len
    }

    fn train_graph(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        let tokens = Tokens::for_training(&mut graph, shape.sequences, shape.rows, false);
        let encoder = &self.config.encoder;
        let table = encoder.item_table(&mut graph, self.n_items);
        let noise = Some(FeedForwardNoise::Dropout);
        let query = encoder.encode(&mut graph, &tokens, table, None, noise)?;
        let scorer = Scorer { query, table, bias: None, items: self.n_items };
        let (losses, inputs) = self.next_item().row_losses(&mut graph, &scorer, None)?;
        let loss = graph.add1(WeightedSum, &[losses, inputs.weight])?;
        graph.metric("loss", loss);
        let gradients = graph.backward(loss)?;
        adam_step(&mut graph, "model", &gradients, self.config.training.clip())?;
        Ok(graph)
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        let owned = UserItems::new(&data);
        Ok(Arc::new(Batches { next_item: self.next_item(), max_len: self.max_len(), data, owned }))
    }

    fn scorer(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        let table = self.config.encoder.item_table(graph, self.n_items);
        let hidden = self.config.encoder.encode(graph, tokens, table, None, None)?;
        let query = tokens.last_of_each_sequence(graph, hidden)?;
        Ok(Scorer { query, table, bias: None, items: self.n_items })
    }
}

struct Batches {
    next_item: NextItem,
    max_len: usize,
    data: Arc<Interactions>,
    owned: UserItems,
}

impl Sampler for Batches {
    fn samples(&self) -> Vec<u32> {
        trainable_users(&self.data)
    }

    fn batch(&self, users: &[u32], rng: RngState) -> Result<Batch> {
        let mut packed = Packed::new();
        users.iter().for_each(|&user| packed.push(user, self.data.train_input(user as usize), self.max_len));
        let tokens = packed.n_rows();
        packed.pad_to(row_bucket(tokens), INERT);
        let mut feed = Feed::default();
        feed_tokens(&mut feed, &packed, None, Some(rng));
        let rows = BatchRows { packed: &packed, users, data: &self.data, owned: &self.owned };
        self.next_item.feed(&mut feed, &rows, rng);
        Ok(Batch { shape: Shape { sequences: packed.n_sequences(), rows: packed.n_rows() }, feed, tokens })
    }
}
