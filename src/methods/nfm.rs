//! NFM (He and Chua, SIGIR 2017): layers over the products of all pairs of fields, where a factorisation machine sums them.
//!
//! ```text
//! p = sum_(f < g) v_f * v_g                            elementwise: [D]
//! logit = w_0 + sum_f w_f + tower(dropout(BatchNorm(p)))
//! ```

use super::MethodInfo;
use super::click_through::{ClickConfig, ClickModel, ClickThrough};
use super::config::{table_of, typed};
use super::wide_deep::WithTowerConfig;
use crate::engine::rng::Site;
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::nn::Impressions;
use crate::nn::layers::{batch_norm, dropout};
use crate::ops::add::Add;
use crate::ops::dropout::Dropout;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "nfm",
    title: "NFM",
    paper: "He and Chua, Neural Factorization Machines for Sparse Predictive Analytics, SIGIR 2017",
    preset: include_str!("nfm.toml"),
    defaults: || table_of(&WithTowerConfig::default()),
    cases: &[&["dim=4", "layers=[6]", "dropout=0.1"]],
    build: |config, sizes| Ok(Box::new(ClickThrough::new(Nfm(typed(config)?), sizes)?)),
};

#[derive(Clone)]
struct Nfm(WithTowerConfig);

/// Where the dropout on the products draws.
const DROPOUT: Site = Site(0xF41);

impl ClickModel for Nfm {
    fn common(&self) -> &ClickConfig {
        &self.0.common
    }

    fn validate(&self) -> Result<()> {
        self.0.tower.validate()
    }

    fn logits(&self, graph: &mut Graph, x: &Impressions, rows: usize) -> Result<ValueId> {
        let table = self.0.common.table(graph, rows);
        let vectors = x.embed(graph, table)?;
        let products = x.pairs(graph, vectors)?;
        let products = batch_norm(graph, "pairs_norm", products, x.random.is_some())?;
        let drop = Dropout { probability: self.0.tower.dropout, site: DROPOUT };
        let products = dropout(graph, products, drop, x.random)?;
        let deep = self.0.tower.over(graph, x, products, false)?;
        let first = x.first_order(graph, rows)?;
        graph.add1(Add, &[deep, first])
    }
}
