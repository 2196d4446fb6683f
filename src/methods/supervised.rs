//! The encoders of SNQN trained by cross-entropy alone. The code is `snqn.rs`.

use super::{MethodInfo, snqn};

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "supervised",
    title: "Supervised",
    paper: "Xin et al., Supervised Advantage Actor-Critic for Recommender Systems, WSDM 2022, the plain base models",
    preset: include_str!("supervised.toml"),
    // Those of the code that it shares.
    cases: &[],
    ..snqn::INFO
};
