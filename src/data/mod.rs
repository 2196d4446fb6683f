//! Interaction data: read -> split -> (augment, sample) -> pack -> prefetch.
//!
//! Nothing here knows of models. Items are indices `0..V` in ascending order of their ids, users are indices in file
//! order, and a sequence is a slice of one flat array: no stage copies the data set.

pub mod augment;
pub mod catalog;
pub mod fetch;
pub mod interactions;
pub mod manifest;
pub mod pack;
pub mod prefetch;
pub mod read;
pub mod sample;
pub mod similarity;
pub mod split;

pub use augment::{AugmentConfig, augment};
pub use catalog::{DatasetInfo, Source, list, paper_name, resolve};
pub use fetch::{Fetch, Fetched, Watcher};
pub use interactions::{Interactions, Statistics};
pub use manifest::{Manifest, manifest, manifests};
pub use pack::{Packed, row_bucket};
pub use prefetch::Prefetch;
pub use read::{read, read_bytes};
pub use sample::{UserItems, epoch_order, negative};
pub use similarity::Similarity;
pub use split::LeaveOneOut;

/// Data sets that may not be bundled, for the tests that need them: `None`, with a printed note, where they are absent.
#[cfg(test)]
pub(crate) fn public_dataset(name: &str) -> Option<Interactions> {
    let known =
        std::env::var_os(catalog::DATA_DIR).is_some() && list().is_ok_and(|all| all.iter().any(|d| d.name == name));
    if !known {
        println!("skipped {name}: set {} to a folder that holds {name}.txt.gz", catalog::DATA_DIR);
        return None;
    }
    Some(resolve(name).expect("a listed data set is readable"))
}
