//! Wide & Deep (Cheng et al., DLRS 2016): a linear model beside layers over the vectors of all fields.
//!
//! ```text
//! logit = w_0 + sum_f w_f + tower([v_1 | ... | v_F])
//! ```

use super::click_through::{ClickConfig, ClickModel, ClickThrough};
use super::config::{table_of, typed};
use super::{MethodInfo, fm};
use crate::engine::rng::Site;
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::nn::Impressions;
use crate::ops::add::Add;
use crate::ops::dropout::Dropout;
use crate::settings;
use serde::{Deserialize, Serialize};

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "wide-deep",
    title: "Wide & Deep",
    paper: "Cheng et al., Wide & Deep Learning for Recommender Systems, DLRS 2016",
    preset: include_str!("wide_deep.toml"),
    defaults: || table_of(&WithTowerConfig::default()),
    cases: &[&["layers=[6, 5]"]],
    build: |config, sizes| {
        Ok(Box::new(ClickThrough::new(WithTower { config: typed(config)?, machine: false }, sizes)?))
    },
};

/// Layers over the vectors of all fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Tower {
    /// Their widths.
    pub layers: Vec<usize>,
    /// Behind each.
    pub dropout: f64,
}

impl Default for Tower {
    fn default() -> Self {
        Tower { layers: vec![120, 60], dropout: 0.3 }
    }
}

/// Where a tower's dropout draws.
const SITE: Site = Site(0xDEE0);

impl Tower {
    /// Refuses layers of no width.
    pub fn validate(&self) -> Result<()> {
        settings::at_least_one(&self.layers.iter().map(|width| ("layers", *width)).collect::<Vec<_>>())?;
        settings::rates(&[("dropout", self.dropout)])
    }

    /// `[N, 1]`, from the fields' vectors `[N F, D]`.
    pub fn deep(&self, graph: &mut Graph, x: &Impressions, vectors: ValueId) -> Result<ValueId> {
        let flat = x.flat(graph, vectors)?;
        self.over(graph, x, flat, false)
    }

    /// `[N, 1]`, from the impressions' columns `[N, C]`.
    pub fn over(&self, graph: &mut Graph, x: &Impressions, columns: ValueId, normalised: bool) -> Result<ValueId> {
        x.tower(graph, "deep", columns, &self.layers, Dropout { probability: self.dropout, site: SITE }, normalised)
    }
}

/// Keys of a tower beside a shallow model.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WithTowerConfig {
    /// The keys that all click-through models have.
    #[serde(flatten)]
    pub common: ClickConfig,
    /// Those of the tower.
    #[serde(flatten)]
    pub tower: Tower,
}

/// A tower beside a shallow model of the same fields.
#[derive(Clone)]
pub struct WithTower {
    /// Its keys.
    pub config: WithTowerConfig,
    /// Whether the shallow model is a factorisation machine, not a linear one.
    pub machine: bool,
}

impl ClickModel for WithTower {
    fn common(&self) -> &ClickConfig {
        &self.config.common
    }

    fn validate(&self) -> Result<()> {
        self.config.tower.validate()
    }

    fn logits(&self, graph: &mut Graph, x: &Impressions, rows: usize) -> Result<ValueId> {
        let table = self.config.common.table(graph, rows);
        let vectors = x.embed(graph, table)?;
        let deep = self.config.tower.deep(graph, x, vectors)?;
        let shallow = if self.machine { fm::machine(graph, x, vectors, rows)? } else { x.first_order(graph, rows)? };
        graph.add1(Add, &[deep, shallow])
    }
}
