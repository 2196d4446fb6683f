//! Training, checkpoints and evaluation of any method on any executor.

pub mod checkpoint;
pub mod evaluation;
pub mod identity;
pub mod list_scores;
mod plans;
pub mod ranker;
pub mod ranks;
pub mod run;
pub mod stages;
pub mod trainer;

pub use crate::methods::Request;
pub use crate::ops::linear_topk::MAX_K;
pub use crate::ops::softmax_mixture::MAX_SAMPLES;
pub use evaluation::{Basis, Evaluation, Evaluator};
pub use identity::{DataIdentity, Identity};
pub use list_scores::{ListScores, TestScores};
pub use ranker::{ItemTable, Ranker, Ranks, USERS_PER_RUN, Watch};
pub use ranks::UserRanks;
pub use run::{Run, RunOptions, RunResult, Trained};
pub use trainer::{EpochReport, Observer, OpTime, Trainer};
