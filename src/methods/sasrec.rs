//! SASRec (Kang and McAuley, ICDM 2018) in the encoder of S3-Rec and CoSeRec, which LMA4Rec compares with: a causal
//! post-LN transformer over the last 50 items, trained to predict the next item at every position.
//!
//! With `loss = "bce"` it is the papers' baseline; with `loss = "ce"` (softmax over the whole catalogue) the same
//! encoder beats most published methods on their own data.

use super::config::{table_of, typed};
use super::next_item::{Histories, NextItem};
use super::{Method, MethodInfo, Objective, Sampler, Shape, Sizes, Training};
use crate::data::Interactions;
use crate::engine::Graph;
use crate::error::Result;
use crate::nn::{PassNoise, Scorer, Tokens, Transformer};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "sasrec",
    title: "SASRec",
    paper: "Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018; encoder as in S3-Rec and CoSeRec",
    preset: include_str!("sasrec.toml"),
    defaults: || table_of(&SasRecConfig::default()),
    cases: &[&["loss=ce"], &["loss=bce"], &["loss=sampled_softmax", "negatives=4"]],
    build: |config, Sizes { items, .. }| Ok(Box::new(SasRec { config: checked(typed(config)?)?, n_items: items })),
};

/// Keys of the configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SasRecConfig {
    /// The preset's table: `paper` or `quality`.
    pub mode: String,
    /// The loss.
    #[serde(flatten)]
    pub next_item: NextItem,
    /// The network.
    #[serde(flatten)]
    pub encoder: Transformer,
    /// How long and how fast to train.
    #[serde(flatten)]
    pub training: Training,
}

fn checked(config: SasRecConfig) -> Result<SasRecConfig> {
    config.encoder.validate()?;
    config.training.validate()?;
    config.next_item.validate()?;
    Ok(config)
}

/// SASRec for a catalogue.
pub struct SasRec {
    config: SasRecConfig,
    n_items: usize,
}

impl Method for SasRec {
    fn training(&self) -> &Training {
        &self.config.training
    }

    fn max_len(&self) -> usize {
        self.config.encoder.max_len
    }

    fn objective(&self, graph: &mut Graph, shape: Shape) -> Result<Objective> {
        let tokens = Tokens::for_training(graph, shape.sequences, shape.rows);
        let encoder = &self.config.encoder;
        let table = encoder.item_table(graph, self.n_items);
        let noise = Some(PassNoise::Dropout { pass: 0 });
        let query = encoder.encode(graph, &tokens, table, None, noise)?;
        let scorer = Scorer { query, table, bias: None, items: self.n_items, samples: 1 };
        self.config.next_item.objective(graph, scorer)
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        Ok(Arc::new(Histories::new(self.config.next_item, self.max_len(), data)))
    }

    fn scorer(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        let table = self.config.encoder.item_table(graph, self.n_items);
        let hidden = self.config.encoder.encode(graph, tokens, table, None, None)?;
        let query = tokens.last_of_each_sequence(graph, hidden)?;
        Ok(Scorer { query, table, bias: None, items: self.n_items, samples: 1 })
    }
}
