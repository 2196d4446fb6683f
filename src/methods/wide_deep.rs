//! Wide & Deep (Cheng et al., DLRS 2016): a linear model beside layers over the vectors of all fields.
//!
//! ```text
//! logit = w_0 + sum_f w_f + tower([v_1 | ... | v_F])
//! ```

use super::click_through::{ClickThrough, ClickThroughConfig, joint_table};
use super::config::{table_of, typed};
use super::MethodInfo;
use crate::engine::rng::Site;
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::nn::Impressions;
use crate::ops::add::Add;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "wide-deep",
    title: "Wide & Deep",
    paper: "Cheng et al., Wide & Deep Learning for Recommender Systems, DLRS 2016",
    preset: include_str!("wide_deep.toml"),
    defaults: || table_of(&ClickThroughConfig::default()),
    cases: &[&["layers=[6, 5]"]],
    build: |config, sizes| Ok(Box::new(ClickThrough::new(typed(config)?, sizes, logits)?)),
};

/// Where the tower's dropout draws.
const TOWER: Site = Site(0xDEE0);

/// `[N, 1]`
fn logits(config: &ClickThroughConfig, graph: &mut Graph, x: &Impressions, rows: usize) -> Result<ValueId> {
    let table = joint_table(graph, config, rows);
    let vectors = x.embed(graph, table)?;
    let deep = deep(config, graph, x, vectors)?;
    let wide = x.first_order(graph, rows)?;
    graph.add1(Add, &[deep, wide])
}

/// The tower's part, `[N, 1]`, from the fields' vectors `[N F, D]`.
pub fn deep(config: &ClickThroughConfig, graph: &mut Graph, x: &Impressions, vectors: ValueId) -> Result<ValueId> {
    let flat = x.flat(graph, vectors)?;
    x.tower(graph, "deep", flat, &config.layers, (config.dropout, TOWER))
}
