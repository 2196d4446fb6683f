//! Hit rate, NDCG and MRR of one held-out target per user, over all U users.
//!
//! ```text
//! HR@k    = 1/U sum_u [rank_u <= k]
//! NDCG@k  = 1/U sum_u [rank_u <= k] / log2(rank_u + 1)
//! MRR     = 1/U sum_u 1 / rank_u
//! ```
//!
//! Ranks count from 1. An unreachable target (`UNREACHABLE`: it was excluded from the candidates) is a miss in all three.
//! Ranks are whole numbers and the sums run in user order, so the metrics do not depend on batch size or thread count.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::protocol::ByProtocol;
use super::rank::{UNREACHABLE, auc};
use crate::error::Result;

/// The cut-offs reported by default.
pub const KS: [usize; 3] = [5, 10, 20];

/// Keys of the figures that papers print, in the order of `gains` and `Metrics::figures`.
pub const FIGURES: [&str; 6] = ["hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20"];

/// What one user adds to each of the figures before the mean is taken.
pub fn gains(rank: u32) -> [f64; 6] {
    let [a, b, c] = KS.map(|k| f64::from(u8::from(rank as usize <= k)));
    let discount = (f64::from(rank) + 1.0).log2();
    [a, b, c, a / discount, b / discount, c / discount]
}

/// Metrics of a model on both splits, under the names that files of runs have for them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitMetrics {
    /// History excluded from the candidates.
    pub valid: Metrics,
    /// Under each protocol.
    #[serde(flatten)]
    pub test: ByProtocol<Metrics>,
}

impl SplitMetrics {
    /// Of ranks.
    pub fn from_ranks(valid: &[u32], test: &ByProtocol<Vec<u32>>) -> SplitMetrics {
        SplitMetrics { valid: Metrics::from_ranks(valid), test: test.map(|ranks| Metrics::from_ranks(ranks)) }
    }

    /// What tables call each, and its metrics.
    pub fn rows(&self) -> Vec<(String, &Metrics)> {
        let test = self.test.iter().map(|(protocol, metrics)| (format!("test ({})", protocol.title()), metrics));
        [("valid".to_string(), &self.valid)].into_iter().chain(test).collect()
    }
}

/// Means over users. `hr` and `ndcg` hold `(k, value)`, k ascending. Serialised as one flat map in a fixed order:
/// `hr@5, hr@10, hr@20, ndcg@5, ndcg@10, ndcg@20, mrr`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Hit rate: the share of events with rank at most k.
    pub hr: Vec<(usize, f64)>,
    /// Normalised discounted cumulative gain with one relevant item: `1 / log2(rank + 1)` up to rank k.
    pub ndcg: Vec<(usize, f64)>,
    /// Mean reciprocal rank, over all ranks.
    pub mrr: f64,
    /// Of models that tell clicks from other impressions of a list, which have nothing of the above.
    pub clicks: Option<ClickMetrics>,
}

/// How well scores tell clicked impressions from others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClickMetrics {
    /// The chance that a clicked impression scores above one that was not clicked, over all lists together.
    pub auc: f64,
    /// The mean of that within each list that has both.
    pub gauc: f64,
}

impl Metrics {
    /// Of scores of impressions, lists of `length` end to end. Refuses scores that are not finite; NaN where there is no pair.
    pub fn from_clicks(scores: &[f32], clicked: &[bool], length: usize) -> Result<Self> {
        let pooled = auc(scores, clicked, 0)?.unwrap_or(f64::NAN);
        let lists = scores.chunks(length).zip(clicked.chunks(length));
        let within = lists.map(|(scores, clicked)| auc(scores, clicked, 0)).collect::<Result<Vec<_>>>()?;
        let within: Vec<f64> = within.into_iter().flatten().collect();
        let gauc = within.iter().sum::<f64>() / within.len() as f64;
        Ok(Metrics { mrr: f64::NAN, clicks: Some(ClickMetrics { auc: pooled, gauc }), ..Metrics::default() })
    }

    /// At the cut-offs of the papers, `KS`.
    pub fn from_ranks(ranks: &[u32]) -> Self {
        Self::from_ranks_at(ranks, &KS)
    }

    /// At other cut-offs, for protocols that report others (SSI: 5, 10, 15, 20).
    pub fn from_ranks_at(ranks: &[u32], ks: &[usize]) -> Self {
        let mean = |gain: &dyn Fn(f64) -> f64| -> f64 {
            let reached = ranks.iter().filter(|&&rank| rank != UNREACHABLE);
            reached.map(|&rank| gain(f64::from(rank))).sum::<f64>() / ranks.len().max(1) as f64
        };
        let hit = |rank: f64, k: usize| f64::from(u8::from(rank <= k as f64));
        Metrics {
            hr: ks.iter().map(|&k| (k, mean(&|rank| hit(rank, k)))).collect(),
            ndcg: ks.iter().map(|&k| (k, mean(&|rank| hit(rank, k) / (rank + 1.0).log2()))).collect(),
            mrr: mean(&|rank| 1.0 / rank),
            clicks: None,
        }
    }

    /// From the six figures papers print: HR@5/10/20, NDCG@5/10/20. They print no MRR; it is NaN.
    pub fn from_figures(figures: [f64; 6]) -> Self {
        let at = |values: &[f64]| KS.into_iter().zip(values.iter().copied()).collect();
        Metrics { hr: at(&figures[..3]), ndcg: at(&figures[3..]), mrr: f64::NAN, clicks: None }
    }

    /// HR@5/10/20, NDCG@5/10/20; NaN where a cut-off was not measured.
    pub fn figures(&self) -> [f64; 6] {
        let at = |values: &[(usize, f64)]| KS.map(|k| value_at(values, k).unwrap_or(f64::NAN));
        let ([a, b, c], [d, e, f]) = (at(&self.hr), at(&self.ndcg));
        [a, b, c, d, e, f]
    }

    /// What tables show: names and values.
    pub fn columns(&self) -> Vec<(String, f64)> {
        match self.clicks {
            Some(ClickMetrics { auc, gauc }) => vec![("AUC".into(), auc), ("GAUC".into(), gauc)],
            None => FIGURES.iter().map(|name| name.to_uppercase()).zip(self.figures()).collect(),
        }
    }

    /// NDCG@k, if it was measured.
    pub fn ndcg_at(&self, k: usize) -> Option<f64> {
        value_at(&self.ndcg, k)
    }

    /// Key and value of every metric, in the order of serialisation.
    pub fn entries(&self) -> Vec<(String, f64)> {
        let hr = self.hr.iter().map(|&(k, value)| (format!("hr@{k}"), value));
        let ndcg = self.ndcg.iter().map(|&(k, value)| (format!("ndcg@{k}"), value));
        let mrr = (!self.hr.is_empty()).then(|| ("mrr".to_owned(), self.mrr));
        let clicks = self.clicks.map(|c| [("auc".to_owned(), c.auc), ("gauc".to_owned(), c.gauc)]);
        hr.chain(ndcg).chain(mrr).chain(clicks.into_iter().flatten()).collect()
    }

    /// One metric by its key, such as "ndcg@20".
    pub fn get(&self, key: &str) -> Option<f64> {
        self.entries().into_iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

fn value_at(values: &[(usize, f64)], k: usize) -> Option<f64> {
    values.iter().find(|(cut, _)| *cut == k).map(|&(_, value)| value)
}

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.entries())
    }
}

impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut metrics = Metrics { mrr: f64::NAN, ..Metrics::default() };
        let mut clicks = [None; 2];
        // A number that is not finite is written as null in JSON.
        for (key, value) in std::collections::BTreeMap::<String, Option<f64>>::deserialize(deserializer)? {
            let value = value.unwrap_or(f64::NAN);
            match key.split_once('@').map(|(name, k)| (name, k.parse())) {
                Some(("hr", Ok(k))) => metrics.hr.push((k, value)),
                Some(("ndcg", Ok(k))) => metrics.ndcg.push((k, value)),
                None if key == "mrr" => metrics.mrr = value,
                None if key == "auc" => clicks[0] = Some(value),
                None if key == "gauc" => clicks[1] = Some(value),
                _ => {
                    let problem = format!("unknown metric `{key}`; known: hr@K, ndcg@K, mrr, auc, gauc");
                    return Err(D::Error::custom(problem));
                }
            }
        }
        if let [Some(auc), Some(gauc)] = clicks {
            metrics.clicks = Some(ClickMetrics { auc, gauc });
        }
        metrics.hr.sort_by_key(|&(k, _)| k);
        metrics.ndcg.sort_by_key(|&(k, _)| k);
        Ok(metrics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_users_worked_out_by_hand() {
        let metrics = Metrics::from_ranks(&[1, 3, 7, 21, UNREACHABLE]);
        assert_eq!(metrics.hr, [(5, 2.0 / 5.0), (10, 3.0 / 5.0), (20, 3.0 / 5.0)]);
        assert_eq!(metrics.ndcg_at(5), Some((1.0 + 1.0 / 2.0) / 5.0));
        assert_eq!(metrics.ndcg_at(20), Some((1.0 + 1.0 / 2.0 + 1.0 / 3.0) / 5.0));
        assert_eq!(metrics.mrr, (1.0 + 1.0 / 3.0 + 1.0 / 7.0 + 1.0 / 21.0) / 5.0);
    }

    #[test]
    fn the_mean_gain_of_the_users_is_the_metric() {
        let ranks = [1, 3, 5, 6, 7, 10, 11, 20, 21, UNREACHABLE];
        let metrics = Metrics::from_ranks(&ranks);
        for (place, key) in FIGURES.into_iter().enumerate() {
            let mean = ranks.iter().map(|&rank| gains(rank)[place]).sum::<f64>() / ranks.len() as f64;
            assert!((mean - metrics.get(key).unwrap()).abs() < 1e-15, "{key}");
            assert_eq!(metrics.get(key), Some(metrics.figures()[place]));
        }
    }

    #[test]
    fn clicks_are_told_apart_over_all_lists_and_within_each() {
        // Within the first list the click is on top, in the second it is not, the third has none; over all, 0.9 beats six
        // of seven others and 0.3 four.
        let scores = [0.9, 0.5, 0.1, 0.95, 0.3, 0.2, 0.4, 0.0, 0.1];
        let clicked = [true, false, false, false, true, false, false, false, false];
        let metrics = Metrics::from_clicks(&scores, &clicked, 3).unwrap();
        assert_eq!(metrics.clicks, Some(ClickMetrics { auc: 10.0 / 14.0, gauc: 0.75 }));
        let json = serde_json::to_string(&metrics).unwrap();
        assert_eq!(json, r#"{"auc":0.7142857142857143,"gauc":0.75}"#);
        assert_eq!(serde_json::from_str::<Metrics>(&json).unwrap().clicks, metrics.clicks);
        assert_eq!(metrics.get("gauc"), Some(0.75));
    }

    #[test]
    fn no_users_give_zero_and_not_nan() {
        assert!(Metrics::from_ranks(&[]).entries().into_iter().all(|(_, value)| value == 0.0));
    }

    #[test]
    fn metrics_are_written_as_one_flat_ordered_map_and_read_back() {
        let metrics = Metrics::from_ranks(&[1, 2, 12]);
        let json = serde_json::to_string(&metrics).unwrap();
        let places =
            ["hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr"].map(|key| json.find(key).unwrap());
        assert!(places.is_sorted());
        assert_eq!(serde_json::from_str::<Metrics>(&json).unwrap(), metrics);
        assert!(serde_json::from_str::<Metrics>(r#"{"recal@5": 0.1}"#).is_err());
        assert_eq!(metrics.get("ndcg@10"), metrics.ndcg_at(10));
    }

    #[test]
    fn published_figures_round_trip_without_an_mrr() {
        let figures = [0.1, 0.2, 0.3, 0.05, 0.07, 0.09];
        let metrics = Metrics::from_figures(figures);
        assert_eq!(metrics.figures(), figures);
        let back: Metrics = serde_json::from_str(&serde_json::to_string(&metrics).unwrap()).unwrap();
        assert!(back.mrr.is_nan() && back.figures() == figures);
        assert!(Metrics::from_ranks_at(&[1], &[15]).figures().iter().all(|figure| figure.is_nan()));
    }
}
