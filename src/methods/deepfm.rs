//! DeepFM (Guo et al., IJCAI 2017): a factorisation machine and the tower of Wide & Deep over the same vectors.
//!
//! ```text
//! logit = w_0 + sum_f w_f + sum_(f < g) <v_f, v_g> + tower([v_1 | ... | v_F])
//! ```

use super::MethodInfo;
use super::click_through::ClickThrough;
use super::config::{table_of, typed};
use super::wide_deep::{WithTower, WithTowerConfig};

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "deepfm",
    title: "DeepFM",
    paper: "Guo et al., DeepFM: A Factorization-Machine based Neural Network for CTR Prediction, IJCAI 2017",
    preset: include_str!("deepfm.toml"),
    defaults: || table_of(&WithTowerConfig::default()),
    cases: &[&["layers=[6]", "dropout=0.1"]],
    build: |config, sizes| Ok(Box::new(ClickThrough::new(WithTower { config: typed(config)?, machine: true }, sizes)?)),
};
