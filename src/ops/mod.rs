//! The ops: one file each, with its equations, reference, CPU kernel, GPU kernels, gradient, cost and test cases.
//!
//! The list of modules is generated from the folder by `build.rs`: a new file is an op as soon as it is there, and it
//! must have `KERNELS` (its names in golden files) and `cases()`. A shader that no op names breaks the build as well.

use crate::engine::case::{Case, Kernel};

/// Shared by the ops that gather rows of a table.
pub mod segments;
/// Shared by the ops that score against a catalogue.
pub mod tiles;

include!(concat!(env!("OUT_DIR"), "/ops.rs"));

/// One file of this folder, as the suites see it.
#[derive(Debug)]
pub struct OpFile {
    pub name: &'static str,
    /// The names and builders under which golden files know its ops.
    pub kernels: &'static [Kernel],
    pub cases: fn() -> Vec<Case>,
}

/// The builder of an op by its name in golden files.
pub fn kernel(name: &str) -> Option<Kernel> {
    OP_FILES.iter().flat_map(|file| file.kernels).find(|kernel| kernel.0 == name).copied()
}
