//! GRU4Rec (Hidasi et al., ICLR 2016) as it is compared with today: a gated recurrent unit over the history, trained to predict
//! the next item at every position.
//!
//! ```text
//! h_t = GRU(dropout(E[item_t]), h_(t-1))
//! q_t = W h_t + b
//! score(v) = <q_t, E[v]> (+ bias_v)                  with `bias`, of the softmax over all items
//! ```
//!
//! The paper's own form differs: batches of parallel sessions, the items of the batch as negatives, TOP1 loss.

use super::config::{table_of, typed};
use super::next_item::{Histories, Loss, NextItem};
use super::{Method, MethodInfo, Objective, Sampler, Shape, Sizes, Training};
use crate::data::Interactions;
use crate::engine::Graph;
use crate::engine::params::Init;
use crate::engine::rng::Site;
use crate::error::{Error, Result};
use crate::nn::layers::{self, glorot};
use crate::nn::{Dense, Scorer, Tokens};
use crate::ops::dropout::Dropout;
use crate::ops::fill::Fill;
use crate::ops::gru::{Gru, Reset};
use crate::settings;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "gru4rec",
    title: "GRU4Rec",
    paper: "Hidasi et al., Session-based Recommendations with Recurrent Neural Networks, ICLR 2016; encoder as in RecBole",
    preset: include_str!("gru4rec.toml"),
    defaults: || table_of(&Gru4RecConfig::default()),
    cases: &[&["loss=ce", "hidden=12", "bias=true"], &["loss=bce", "hidden=8", "layers=2"]],
    build: |config, Sizes { items, .. }| Ok(Box::new(Gru4Rec { config: checked(typed(config)?)?, n_items: items })),
};

/// Keys of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Gru4RecConfig {
    /// The preset's table.
    pub mode: String,
    /// The loss.
    #[serde(flatten)]
    pub next_item: NextItem,
    /// Columns of an item's vector.
    pub dim: usize,
    /// Columns of the hidden state.
    pub hidden: usize,
    /// Recurrent layers, one on the other.
    pub layers: usize,
    /// Items of the history that are used, the last ones.
    pub max_len: usize,
    /// On the items' vectors.
    pub dropout: f64,
    /// Whether each item has a bias, with `loss = "ce"`.
    pub bias: bool,
    /// Standard deviation of the items' initial vectors.
    pub init_std: f64,
    /// How long and how fast to train.
    #[serde(flatten)]
    pub training: Training,
}

impl Default for Gru4RecConfig {
    fn default() -> Self {
        Gru4RecConfig {
            mode: String::new(),
            next_item: NextItem::default(),
            dim: 64,
            hidden: 128,
            layers: 1,
            max_len: 50,
            dropout: 0.3,
            bias: false,
            init_std: 0.02,
            training: Training::default(),
        }
    }
}

fn checked(config: Gru4RecConfig) -> Result<Gru4RecConfig> {
    config.training.validate()?;
    config.next_item.validate()?;
    let sizes = [config.dim, config.hidden, config.layers, config.max_len];
    settings::at_least_one(&["dim", "hidden", "layers", "max_len"].into_iter().zip(sizes).collect::<Vec<_>>())?;
    settings::rates(&[("dropout", config.dropout)])?;
    settings::not_negative(&[("init_std", config.init_std)])?;
    if config.bias && config.next_item.loss != Loss::Ce {
        return Err(Error::usage(
            "biases of items are learned with the softmax over all items",
            "set loss=ce, or bias=false",
        ));
    }
    Ok(config)
}

/// GRU4Rec for a catalogue.
pub struct Gru4Rec {
    config: Gru4RecConfig,
    n_items: usize,
}

/// Where the dropout of the items' vectors draws.
const DROPOUT: Site = Site(0x64C);

impl Gru4Rec {
    /// The queries `q_t` of all rows `[N, dim]` against the item table.
    fn scorer_of_rows(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        let Gru4RecConfig { dim, hidden, dropout, init_std, .. } = self.config;
        let table = graph.param("item_table", &[self.n_items, dim], Init::Normal(init_std as f32));
        let x = tokens.item_ids().gather(graph, table)?;
        let mut x = layers::dropout(graph, x, Dropout { probability: dropout, site: DROPOUT }, tokens.random())?;
        let sequences = graph.shape(tokens.cu_seqlens)[0] - 1;
        let start = graph.add1(Fill { value: 0.0, shape: vec![sequences, hidden] }, &[])?;
        for layer in 0..self.config.layers {
            let name = |part: &str| format!("gru{layer}.{part}");
            let of_input = Dense::new(3 * hidden).of(graph, &name("input"), x)?;
            let weight = graph.param(&name("state.weight"), &[3 * hidden, hidden], glorot(hidden, 3 * hidden));
            let bias = graph.param(&name("state.bias"), &[3 * hidden], Init::Constant(0.0));
            let gru = Gru { reset: Reset::After };
            x = graph.add1(gru, &[of_input, start, tokens.cu_seqlens, weight, bias])?;
        }
        let query = Dense::new(dim).of(graph, "output", x)?;
        let bias = self.config.bias.then(|| graph.param("item_bias", &[self.n_items], Init::Constant(0.0)));
        Ok(Scorer { query, table, bias, items: self.n_items, samples: 1 })
    }
}

impl Method for Gru4Rec {
    fn training(&self) -> &Training {
        &self.config.training
    }

    fn max_len(&self) -> usize {
        self.config.max_len
    }

    fn objective(&self, graph: &mut Graph, shape: Shape) -> Result<Objective> {
        let tokens = Tokens::for_training(graph, shape.sequences, shape.rows);
        let scorer = self.scorer_of_rows(graph, &tokens)?;
        self.config.next_item.objective(graph, scorer)
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        Ok(Arc::new(Histories::new(self.config.next_item, self.config.max_len, data)))
    }

    fn scorer(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        let scorer = self.scorer_of_rows(graph, tokens)?;
        Ok(Scorer { query: tokens.last_of_each_sequence(graph, scorer.query)?, ..scorer })
    }
}
