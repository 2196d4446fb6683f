//! AFM (Xiao et al., IJCAI 2017): a factorisation machine that weighs its pairs.
//!
//! ```text
//! p_fg = v_f * v_g                                    every pair of fields, elementwise
//! a_fg = softmax over the pairs of h^T ReLU(W p_fg + b)
//! logit = w_0 + sum_f w_f + <p, dropout(sum_(f < g) a_fg p_fg)>
//! ```
//!
//! With `h = 0` the sum is the mean of the pairs.

use super::MethodInfo;
use super::click_through::{ClickConfig, ClickModel, ClickThrough};
use super::config::{table_of, typed};
use crate::engine::params::Init;
use crate::engine::rng::Site;
use crate::engine::{Graph, ValueId};
use crate::error::{Error, Result};
use crate::nn::Impressions;
use crate::nn::layers::{Dense, dropout, glorot};
use crate::ops::activation::Activation;
use crate::ops::add::Add;
use crate::ops::dropout::Dropout;
use crate::ops::linear::Linear;
use crate::ops::reshape::Reshape;
use crate::ops::sequence_pool::SequencePool;
use crate::ops::softmax::Softmax;
use crate::settings;
use serde::{Deserialize, Serialize};

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "afm",
    title: "AFM",
    paper: "Xiao et al., Attentional Factorization Machines, IJCAI 2017",
    preset: include_str!("afm.toml"),
    defaults: || table_of(&Afm::default()),
    cases: &[&["dim=4", "attention=5", "dropout=0.1"]],
    build: |config, sizes| Ok(Box::new(ClickThrough::<Afm>::new(typed(config)?, sizes)?)),
};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct Afm {
    #[serde(flatten)]
    common: ClickConfig,
    /// Columns of the attention's hidden layer.
    attention: usize,
    /// On the weighted sum of the pairs.
    dropout: f64,
}

impl Default for Afm {
    fn default() -> Self {
        Afm { common: ClickConfig::default(), attention: 16, dropout: 0.3 }
    }
}

/// Where the dropout draws.
const DROPOUT: Site = Site(0xAF3);

impl ClickModel for Afm {
    fn common(&self) -> &ClickConfig {
        &self.common
    }

    fn validate(&self) -> Result<()> {
        settings::at_least_one(&[("attention", self.attention)])?;
        settings::rates(&[("dropout", self.dropout)])
    }

    fn reads_pairs(&self) -> bool {
        true
    }

    fn logits(&self, graph: &mut Graph, x: &Impressions, rows: usize) -> Result<ValueId> {
        let pairs = x.pairs.ok_or_else(|| Error::graph("afm", "the batch has no pairs"))?;
        let table = self.common.table(graph, rows);
        let vectors = x.embed(graph, table)?;
        let products = pairs.products(graph, vectors)?;
        let hidden = Dense::new(self.attention).then(Activation::Relu).of(graph, "attention", products)?;
        let h = graph.param("attention_output", &[1, self.attention], glorot(self.attention, 1));
        let scores = graph.add1(Linear::default(), &[hidden, h])?;
        let all = graph.shape(scores)[0];
        let of_impressions = Reshape { shape: vec![x.count, all / x.count] };
        let scores = graph.add1(of_impressions, &[scores])?;
        let weights = graph.add1(Softmax::Plain, &[scores])?;
        let weights = graph.add1(Reshape { shape: vec![all] }, &[weights])?;
        let sum = graph.add1(SequencePool { mean: false }, &[products, weights, pairs.borders])?;
        let sum = dropout(graph, sum, Dropout { probability: self.dropout, site: DROPOUT }, x.random)?;
        let p = graph.param("pairs_output", &[1, self.common.dim], Init::Constant(1.0));
        let second = graph.add1(Linear::default(), &[sum, p])?;
        let first = x.first_order(graph, rows)?;
        graph.add1(Add, &[second, first])
    }
}
