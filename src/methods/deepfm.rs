//! DeepFM (Guo et al., IJCAI 2017): a factorisation machine and the tower of Wide & Deep over the same vectors.
//!
//! ```text
//! logit = w_0 + sum_f w_f + sum_(f < g) <v_f, v_g> + tower([v_1 | ... | v_F])
//! ```

use super::click_through::{ClickConfig, ClickModel, ClickThrough};
use super::config::{table_of, typed};
use super::wide_deep::Tower;
use super::{MethodInfo, fm};
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::nn::Impressions;
use crate::ops::add::Add;
use serde::{Deserialize, Serialize};

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "deepfm",
    title: "DeepFM",
    paper: "Guo et al., DeepFM: A Factorization-Machine based Neural Network for CTR Prediction, IJCAI 2017",
    preset: include_str!("deepfm.toml"),
    defaults: || table_of(&DeepFm::default()),
    cases: &[&["layers=[6]", "dropout=0.1"]],
    build: |config, sizes| Ok(Box::new(ClickThrough::<DeepFm>::new(typed(config)?, sizes)?)),
};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct DeepFm {
    #[serde(flatten)]
    common: ClickConfig,
    #[serde(flatten)]
    tower: Tower,
}

impl ClickModel for DeepFm {
    fn common(&self) -> &ClickConfig {
        &self.common
    }

    fn validate(&self) -> Result<()> {
        self.tower.validate()
    }

    fn logits(&self, graph: &mut Graph, x: &Impressions, rows: usize) -> Result<ValueId> {
        let table = self.common.table(graph, rows);
        let vectors = x.embed(graph, table)?;
        let machine = fm::machine(graph, x, vectors, rows)?;
        let deep = self.tower.deep(graph, x, vectors)?;
        graph.add1(Add, &[deep, machine])
    }
}
