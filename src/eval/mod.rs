//! Ranks -> metrics -> tables, and the published figures to hold them against.

pub mod calibration;
pub mod compare;
pub mod compare_clicks;
pub mod interval;
pub mod metrics;
pub mod protocol;
pub mod published;
pub mod rank;
pub mod significance;
pub mod table;

pub use calibration::{Calibration, Decile, calibration};
pub use compare::{Difference, MetricComparison, compare};
pub use compare_clicks::{Shown, compare_clicks};
pub use interval::intervals;
pub use metrics::{FIGURES, KS, Metrics, SplitMetrics, gains};
pub use protocol::{ByProtocol, Protocol};
pub use published::{Published, published};
pub use rank::{Rank, UNREACHABLE, auc, rank_of, refuse_not_finite, tie_warning};
pub use significance::{Bootstrap, Summary, Wilcoxon, paired_bootstrap, wilcoxon};
pub use table::{cells, comparison_table, shown, shown_keys};
