//! Training, checkpoints and evaluation of any method on any executor.

pub mod checkpoint;
pub mod ranker;
pub mod ranks;
pub mod run;
pub mod trainer;

pub use ranker::{Ranker, Ranks};
pub use ranks::{HeldOut, UserRanks};
pub use run::{Run, RunOptions, RunResult, Trained};
pub use trainer::{EpochReport, Observer, OpTime, Trainer};
