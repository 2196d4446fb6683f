//! CoSeRec (Liu et al., arXiv 2108.06479): LMA4Rec without its learnable masks. Two robustly augmented views of each
//! sequence are contrasted beside the next-item loss; the code is `lma4rec.rs`.

use super::{MethodInfo, lma4rec};

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "coserec",
    title: "CoSeRec",
    paper: "Liu et al., Contrastive Self-supervised Sequential Recommendation with Robust Augmentation, arXiv 2108.06479",
    preset: include_str!("coserec.toml"),
    // Those of the code that it shares.
    cases: &[],
    ..lma4rec::INFO
};
