//! DeepFM (Guo et al., IJCAI 2017): a factorisation machine and the tower of Wide & Deep over the same vectors.
//!
//! ```text
//! logit = w_0 + sum_f w_f + sum_(f < g) <v_f, v_g> + tower([v_1 | ... | v_F])
//! ```

use super::click_through::{ClickThrough, ClickThroughConfig, joint_table};
use super::config::{table_of, typed};
use super::wide_deep::deep;
use super::{MethodInfo, fm};
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::nn::Impressions;
use crate::ops::add::Add;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "deepfm",
    title: "DeepFM",
    paper: "Guo et al., DeepFM: A Factorization-Machine based Neural Network for CTR Prediction, IJCAI 2017",
    preset: include_str!("deepfm.toml"),
    defaults: || table_of(&ClickThroughConfig::default()),
    cases: &[&["layers=[6]", "dropout=0.1"]],
    build: |config, sizes| Ok(Box::new(ClickThrough::new(typed(config)?, sizes, logits)?)),
};

/// `[N, 1]`
fn logits(config: &ClickThroughConfig, graph: &mut Graph, x: &Impressions, rows: usize) -> Result<ValueId> {
    let machine = fm::logits(config, graph, x, rows)?;
    let table = joint_table(graph, config, rows);
    let vectors = x.embed(graph, table)?;
    let deep = deep(config, graph, x, vectors)?;
    graph.add1(Add, &[deep, machine])
}
