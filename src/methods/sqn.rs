//! SQN: SNQN without negatives. The code is `snqn.rs`.

use super::{MethodInfo, snqn};

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "sqn",
    title: "SQN",
    paper: "Xin et al., Self-Supervised Reinforcement Learning for Recommender Systems, SIGIR 2020",
    preset: include_str!("sqn.toml"),
    // Those of the code that it shares.
    cases: &[],
    ..snqn::INFO
};
