//! Popularity: every user gets the most frequent items. The score of an item is how often it occurs before the test
//! items, so training and validation items count; ties go to the lower item index.
//!
//! Written as a scorer like any other: the query is 1 and the item table, `[V, 1]`, holds the counts.

use super::config::{table_of, typed};
use super::{Batch, Method, MethodInfo, Sampler, Shape, Sizes, Training};
use crate::data::Interactions;
use crate::engine::Graph;
use crate::engine::params::{Init, ParamLayout, State};
use crate::engine::rng::RngState;
use crate::error::{Error, Result};
use crate::nn::{Scorer, Tokens};
use crate::ops::fill::Fill;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "pop",
    title: "Popularity",
    paper: "the non-personal baseline of LMA4Rec, Table 2",
    preset: include_str!("pop.toml"),
    defaults: || table_of(&PopConfig::default()),
    cases: &[],
    build: |config, Sizes { items, .. }| {
        typed::<PopConfig>(config)?;
        Ok(Box::new(Pop { n_items: items, training: Training { epochs: 0, ..Training::default() } }))
    },
};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct PopConfig {
    mode: String,
}

struct Pop {
    n_items: usize,
    training: Training,
}

impl Method for Pop {
    fn training(&self) -> &Training {
        &self.training
    }

    fn max_len(&self) -> usize {
        1
    }

    /// Declares the counts; there is nothing to train.
    fn train_graph(&self, _shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        graph.param("item_table", &[self.n_items, 1], Init::Constant(0.0));
        Ok(graph)
    }

    fn sampler(&self, _data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        Ok(Arc::new(NoBatches))
    }

    fn scorer(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        let batch = graph.shape(tokens.cu_seqlens)[0] - 1;
        let query = graph.add1(Fill { value: 1.0, shape: vec![batch, 1] }, &[])?;
        let table = graph.param("item_table", &[self.n_items, 1], Init::Constant(0.0));
        Ok(Scorer { query, table, bias: None, items: self.n_items, samples: 1 })
    }

    fn initial_state(&self, layout: &ParamLayout, seed: u64, data: &Interactions) -> State {
        let mut state = layout.initial_state(seed);
        for u in 0..data.n_users() {
            data.before_test(u).iter().for_each(|&item| state.sets[0].params[item as usize] += 1.0);
        }
        state
    }
}

struct NoBatches;

impl Sampler for NoBatches {
    fn samples(&self) -> Vec<u32> {
        Vec::new()
    }

    fn batch(&self, _samples: &[u32], _rng: RngState) -> Result<Batch> {
        Err(Error::graph("pop", "popularity has no training step"))
    }
}
