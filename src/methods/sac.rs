//! SAC: SQN whose cross-entropy is weighted by the value of the action, once the values are warm. The code is `snqn.rs`.

use super::{MethodInfo, snqn};

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "sac",
    title: "SAC",
    paper: "Xin et al., Self-Supervised Reinforcement Learning for Recommender Systems, SIGIR 2020",
    preset: include_str!("sac.toml"),
    // Those of the code that it shares.
    cases: &[],
    ..snqn::INFO
};
