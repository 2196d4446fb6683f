//! SA2C: SNQN whose cross-entropy is weighted by the advantage of the action, once the values are warm. The code is `snqn.rs`.

use super::{MethodInfo, snqn};

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "sa2c",
    title: "SA2C",
    paper: "Xin et al., Supervised Advantage Actor-Critic for Recommender Systems, WSDM 2022",
    preset: include_str!("sa2c.toml"),
    // Those of the code that it shares.
    cases: &[],
    ..snqn::INFO
};
