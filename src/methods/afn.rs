//! AFN (Cheng, Shen and Huang, AAAI 2020): products of powers of the fields, whose exponents are learned.
//!
//! ```text
//! u_f = BatchNorm(ln max(|v_f|, floor))                elementwise, a field's columns together
//! z_l = BatchNorm(exp(sum_f a_lf u_f + c_l))           L logarithmic neurons: prod_f |v_f|^a_lf, up to scales
//! logit = w_0 + sum_f w_f + tower([z_1 | ... | z_L])   batch normalisation in each layer
//! ```
//!
//! This is AFN without the second tower of its AFN+.

use super::MethodInfo;
use super::click_through::{ClickConfig, ClickModel, ClickThrough};
use super::config::{table_of, typed};
use super::wide_deep::Tower;
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::nn::Impressions;
use crate::nn::layers::{Dense, batch_norm};
use crate::ops::add::Add;
use crate::ops::block_transpose::BlockTranspose;
use crate::ops::exp::Exp;
use crate::ops::log_magnitude::LogMagnitude;
use crate::ops::reshape::Reshape;
use crate::settings;
use serde::{Deserialize, Serialize};

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "afn",
    title: "AFN",
    paper: "Cheng et al., Adaptive Factorization Network: Learning Adaptive-Order Feature Interactions, AAAI 2020",
    preset: include_str!("afn.toml"),
    defaults: || table_of(&Afn::default()),
    // Where a vector passes 0 its logarithm magnifies rounding: a high floor keeps executors together.
    cases: &[&["dim=4", "neurons=5", "layers=[6]", "dropout=0.1", "init_std=1", "floor=0.3"]],
    build: |config, sizes| Ok(Box::new(ClickThrough::<Afn>::new(typed(config)?, sizes)?)),
};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct Afn {
    #[serde(flatten)]
    common: ClickConfig,
    #[serde(flatten)]
    tower: Tower,
    /// L
    neurons: usize,
    /// Smaller magnitudes of a vector count as this one.
    floor: f64,
}

impl Default for Afn {
    fn default() -> Self {
        Afn { common: ClickConfig::default(), tower: Tower::default(), neurons: 256, floor: 1e-7 }
    }
}

impl ClickModel for Afn {
    fn common(&self) -> &ClickConfig {
        &self.common
    }

    fn validate(&self) -> Result<()> {
        settings::at_least_one(&[("neurons", self.neurons)])?;
        settings::positive(&[("floor", self.floor)])?;
        self.tower.validate()
    }

    fn logits(&self, graph: &mut Graph, x: &Impressions, rows: usize) -> Result<ValueId> {
        let training = x.random.is_some();
        let table = self.common.table(graph, rows);
        let vectors = x.embed(graph, table)?;
        let logs = graph.add1(LogMagnitude { floor: self.floor }, &[vectors])?;
        // A row for each column of an impression's vectors, so that fields are columns: [N D, F].
        let by_field = graph.add1(BlockTranspose { rows: x.fields }, &[logs])?;
        let by_field = batch_norm(graph, "logarithms_norm", by_field, training)?;
        let neurons = Dense::new(self.neurons).of(graph, "neurons", by_field)?;
        let neurons = graph.add1(Exp, &[neurons])?;
        let neurons = batch_norm(graph, "neurons_norm", neurons, training)?;
        let flat = Reshape { shape: vec![x.count, self.common.dim * self.neurons] };
        let flat = graph.add1(flat, &[neurons])?;
        let deep = self.tower.over(graph, x, flat, true)?;
        let first = x.first_order(graph, rows)?;
        graph.add1(Add, &[deep, first])
    }
}
