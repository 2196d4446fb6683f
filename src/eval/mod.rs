//! Ranks -> metrics -> tables, and the published figures to hold them against.

pub mod metrics;
pub mod published;
pub mod rank;
pub mod table;

pub use metrics::{KS, Metrics};
pub use published::{Published, published};
pub use rank::{Rank, UNREACHABLE, auc, rank_of, refuse_not_finite, tie_share, tie_warning};
pub use table::{comparison_markdown, comparison_table};
