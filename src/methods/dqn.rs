//! DQN: the values of SNQN alone, which rank by themselves. The code is `snqn.rs`.

use super::{MethodInfo, snqn};

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "dqn",
    title: "DQN",
    paper: "Xin et al., Supervised Advantage Actor-Critic for Recommender Systems, WSDM 2022, Table 4",
    preset: include_str!("dqn.toml"),
    // Those of the code that it shares.
    cases: &[],
    ..snqn::INFO
};
