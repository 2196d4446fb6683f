//! CL4SRec (Xie et al., ICDE 2022) as CoSeRec and LMA4Rec compare with it: their code, with views made by Crop, Mask and
//! Reorder alone; the code is `lma4rec.rs`.

use super::{MethodInfo, lma4rec};

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "cl4srec",
    title: "CL4SRec",
    paper: "Xie et al., Contrastive Learning for Sequential Recommendation, ICDE 2022; as CoSeRec compares with it",
    preset: include_str!("cl4srec.toml"),
    // Those of the code that it shares.
    cases: &[],
    ..lma4rec::INFO
};
