//! Factorisation machine (Rendle, ICDM 2010): every pair of fields interacts by the product of their vectors.
//!
//! ```text
//! logit = w_0 + sum_f w_f + sum_(f < g) <v_f, v_g>
//! ```

use super::click_through::{ClickThrough, ClickThroughConfig, joint_table};
use super::config::{table_of, typed};
use super::MethodInfo;
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::nn::Impressions;
use crate::nn::fields::row_sum;
use crate::ops::add::Add;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "fm",
    title: "FM",
    paper: "Rendle, Factorization Machines, ICDM 2010",
    preset: include_str!("fm.toml"),
    defaults: || table_of(&ClickThroughConfig::default()),
    cases: &[&["dim=4"]],
    build: |config, sizes| Ok(Box::new(ClickThrough::new(typed(config)?, sizes, logits)?)),
};

/// `[N, 1]`
pub fn logits(config: &ClickThroughConfig, graph: &mut Graph, x: &Impressions, rows: usize) -> Result<ValueId> {
    let table = joint_table(graph, config, rows);
    let vectors = x.embed(graph, table)?;
    let pairs = x.pairs(graph, vectors)?;
    let second = row_sum(graph, pairs)?;
    let first = x.first_order(graph, rows)?;
    graph.add1(Add, &[second, first])
}
