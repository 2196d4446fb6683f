//! Factorisation machine (Rendle, ICDM 2010): every pair of fields interacts by the product of their vectors.
//!
//! ```text
//! logit = w_0 + sum_f w_f + sum_(f < g) <v_f, v_g>
//! ```

use super::MethodInfo;
use super::click_through::{ClickConfig, ClickModel, ClickThrough};
use super::config::{table_of, typed};
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::nn::Impressions;
use crate::nn::fields::row_sum;
use crate::ops::add::Add;
use serde::{Deserialize, Serialize};

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "fm",
    title: "FM",
    paper: "Rendle, Factorization Machines, ICDM 2010",
    preset: include_str!("fm.toml"),
    defaults: || table_of(&Fm::default()),
    cases: &[&["dim=4"]],
    build: |config, sizes| Ok(Box::new(ClickThrough::<Fm>::new(typed(config)?, sizes)?)),
};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Fm {
    #[serde(flatten)]
    common: ClickConfig,
}

impl ClickModel for Fm {
    fn common(&self) -> &ClickConfig {
        &self.common
    }

    fn logits(&self, graph: &mut Graph, x: &Impressions, rows: usize) -> Result<ValueId> {
        let table = self.common.table(graph, rows);
        let vectors = x.embed(graph, table)?;
        machine(graph, x, vectors, rows)
    }
}

/// `[N, 1]`, from the fields' vectors `[N F, D]`.
pub fn machine(graph: &mut Graph, x: &Impressions, vectors: ValueId, rows: usize) -> Result<ValueId> {
    let pairs = x.pairs(graph, vectors)?;
    let second = row_sum(graph, pairs)?;
    let first = x.first_order(graph, rows)?;
    graph.add1(Add, &[second, first])
}
