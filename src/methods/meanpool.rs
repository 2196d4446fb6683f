//! Mean pooling, the two towers of Covington et al. (RecSys 2016) on sequences: a user is the mean of the items met.
//!
//! ```text
//! m_t = 1/t sum_{s <= t} E[item_s]
//! q_t = W_L relu(... relu(W_1 dropout(m_t) + b_1) ...) + b_L        `layers` = L; with 0 layers q_t = m_t
//! score(v) = <q_t, E[v]>
//! ```
//!
//! It knows what was met and not in which order: what a sequential model gains over it, it gains from the order. The mean over
//! what came before is attention by queries of zeros: softmax weighs all keys in reach alike.

use super::config::{table_of, typed};
use super::next_item::{Histories, NextItem};
use super::{Method, MethodInfo, Objective, Sampler, Shape, Sizes, Training};
use crate::data::Interactions;
use crate::engine::params::Init;
use crate::engine::rng::Site;
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::nn::layers::{Dense, dropout};
use crate::nn::{Scorer, Tokens};
use crate::ops::activation::Activation;
use crate::ops::attention::Attention;
use crate::ops::dropout::Dropout;
use crate::ops::fill::Fill;
use crate::settings;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "meanpool",
    title: "Mean pooling",
    paper: "after Covington et al., Deep Neural Networks for YouTube Recommendations, RecSys 2016",
    preset: include_str!("meanpool.toml"),
    defaults: || table_of(&MeanPoolConfig::default()),
    cases: &[&["loss=ce", "layers=0"], &["loss=sampled_softmax", "negatives=4", "layers=2"]],
    build: |config, Sizes { items, .. }| Ok(Box::new(MeanPool { config: checked(typed(config)?)?, n_items: items })),
};

/// Keys of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MeanPoolConfig {
    /// The preset's table.
    pub mode: String,
    /// The loss.
    #[serde(flatten)]
    pub next_item: NextItem,
    /// Columns of an item's vector, and of every layer.
    pub dim: usize,
    /// Layers of the user's tower; 0 leaves the mean as it is.
    pub layers: usize,
    /// Items of the history that are used, the last ones.
    pub max_len: usize,
    /// On the mean.
    pub dropout: f64,
    /// Standard deviation of initial weights and vectors.
    pub init_std: f64,
    /// How long and how fast to train.
    #[serde(flatten)]
    pub training: Training,
}

impl Default for MeanPoolConfig {
    fn default() -> Self {
        MeanPoolConfig {
            mode: String::new(),
            next_item: NextItem::default(),
            dim: 64,
            layers: 1,
            max_len: 50,
            dropout: 0.2,
            init_std: 0.02,
            training: Training::default(),
        }
    }
}

fn checked(config: MeanPoolConfig) -> Result<MeanPoolConfig> {
    config.training.validate()?;
    config.next_item.validate()?;
    settings::at_least_one(&[("dim", config.dim), ("max_len", config.max_len)])?;
    settings::rates(&[("dropout", config.dropout)])?;
    settings::not_negative(&[("init_std", config.init_std)])?;
    Ok(config)
}

/// Mean pooling for a catalogue.
pub struct MeanPool {
    config: MeanPoolConfig,
    n_items: usize,
}

/// Where the dropout of the mean draws.
const DROPOUT: Site = Site(0x3EA);

impl MeanPool {
    fn normal(&self) -> Init {
        Init::Normal(self.config.init_std as f32)
    }

    fn item_table(&self, graph: &mut Graph) -> ValueId {
        graph.param("item_table", &[self.n_items, self.config.dim], self.normal())
    }

    /// `q_t` of every row, `[N, dim]`.
    fn queries(&self, graph: &mut Graph, tokens: &Tokens, table: ValueId) -> Result<ValueId> {
        let dim = self.config.dim;
        let items = tokens.item_ids().gather(graph, table)?;
        let nothing = graph.add1(Fill { value: 0.0, shape: graph.shape(items).to_vec() }, &[])?;
        let mean = Attention { heads: 1, scale: 1.0, causal: true, dropout: None, key_flags: false };
        let x = graph.add1(mean, &[nothing, nothing, items, tokens.cu_seqlens])?;
        let mut x = dropout(graph, x, Dropout { probability: self.config.dropout, site: DROPOUT }, tokens.random())?;
        for layer in 1..=self.config.layers {
            let dense = Dense::new(dim).weight(self.normal());
            let dense = if layer < self.config.layers { dense.then(Activation::Relu) } else { dense };
            x = dense.of(graph, &format!("layer{layer}"), x)?;
        }
        Ok(x)
    }
}

impl Method for MeanPool {
    fn training(&self) -> &Training {
        &self.config.training
    }

    fn max_len(&self) -> usize {
        self.config.max_len
    }

    fn objective(&self, graph: &mut Graph, shape: Shape) -> Result<Objective> {
        let tokens = Tokens::for_training(graph, shape.sequences, shape.rows);
        let table = self.item_table(graph);
        let query = self.queries(graph, &tokens, table)?;
        let scorer = Scorer { query, table, bias: None, items: self.n_items, samples: 1 };
        self.config.next_item.objective(graph, scorer)
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        Ok(Arc::new(Histories::new(self.config.next_item, self.config.max_len, data)))
    }

    fn scorer(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        let table = self.item_table(graph);
        let queries = self.queries(graph, tokens, table)?;
        let query = tokens.last_of_each_sequence(graph, queries)?;
        Ok(Scorer { query, table, bias: None, items: self.n_items, samples: 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::exec::DeviceChoice;
    use crate::methods::config;
    use crate::train::trainer::layout_of;
    use crate::train::{Ranker, Request};

    /// The query after each history, and the item table `[9, 4]`.
    fn queries(histories: &[&[u32]]) -> (Vec<f32>, Vec<f32>) {
        let config = config::resolve(&INFO, None, None, &["layers=0".into(), "dim=4".into()]).unwrap();
        let method = (INFO.build)(&config, Sizes { users: 3, items: 9, ..Sizes::default() }).unwrap();
        let layout = layout_of(method.as_ref()).unwrap();
        let mut executor = DeviceChoice::Cpu.open(1).unwrap();
        executor.load(&layout, &layout.initial_state(3)).unwrap();
        let mut ranker = Ranker::new(method.as_ref(), layout);
        let requests: Vec<Request> = histories.iter().map(|history| Request::new(history)).collect();
        let queries = ranker.queries(executor.as_mut(), &requests).unwrap().words;
        (queries, ranker.item_table(executor.as_mut(), 9).unwrap().table.words)
    }

    #[test]
    fn a_user_is_the_mean_of_the_items_met_in_whatever_order() {
        let (queries, table) = queries(&[&[1, 7, 2], &[2, 1, 7], &[5]]);
        let near = |a: f32, b: f32| (a - b).abs() < 1e-7;
        for d in 0..4 {
            let mean = (table[4 + d] + table[28 + d] + table[8 + d]) / 3.0;
            assert!(near(queries[d], mean) && near(queries[4 + d], mean) && queries[8 + d] == table[20 + d]);
        }
    }
}
