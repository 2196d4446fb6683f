//! Interaction data: read -> (prepare) -> split -> (augment, sample) -> pack -> prefetch.
//!
//! Nothing here knows of models. A reader makes an `EventLog`, a log becomes `Interactions`: items are indices `0..V`,
//! users are indices in file order, and a sequence is a slice of one flat array: no later stage copies the data set.

pub mod augment;
pub mod catalog;
pub mod check;
pub mod fetch;
pub mod formats;
pub mod interactions;
pub mod lists;
pub mod log;
pub mod manifest;
pub mod matrix;
pub mod ngram;
pub mod pack;
pub mod prefetch;
pub mod prepare;
pub mod prepared;
pub mod read;
pub mod sample;
pub mod similarity;
pub mod split;

pub use augment::{AugmentConfig, augment};
pub use catalog::{DatasetInfo, Source, list, locate, paper_name, resolve};
pub use check::Findings;
pub use fetch::{Fetch, Fetched, Watcher};
pub use formats::Format;
pub use interactions::{Interactions, Statistics};
pub use log::{Event, EventLog};
pub use manifest::{Manifest, manifest, manifests};
pub use pack::{Packed, row_bucket};
pub use prefetch::Prefetch;
pub use prepare::{Step, prepare};
pub use read::{Columns, ReadOptions, read, read_bytes, read_log};
pub use sample::{Events, Prefixes, UserItems, epoch_order, negative, trainable_users};
pub use similarity::Similarity;
pub use split::{HeldOut, SplitRule};

/// Data sets that may not be bundled, for the tests that need them: `None`, with a printed note, where they are absent.
#[cfg(test)]
pub(crate) fn public_dataset(name: &str) -> Option<Interactions> {
    let known =
        std::env::var_os(catalog::DATA_DIR).is_some() && list().is_ok_and(|all| all.iter().any(|d| d.name == name));
    if !known {
        println!("skipped {name}: set {} to a folder that holds {name}.txt.gz", catalog::DATA_DIR);
        return None;
    }
    Some(resolve(name, &ReadOptions::default()).expect("a listed data set is readable"))
}
