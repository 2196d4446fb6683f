//! Hit rate, NDCG and MRR over N held-out events, one or more for each user; AUC over impressions.
//!
//! ```text
//! HR@k    = 1/N sum_n [rank_n <= k]
//! NDCG@k  = 1/N sum_n [rank_n <= k] / log2(rank_n + 1)
//! MRR     = 1/N sum_n 1 / rank_n
//! NDCG_off@10 = sum_n [rank_n <= 10] / (beta_n log2(rank_n + 1)) / sum_n 1 / beta_n       beta_n: share of its item in all events
//! ```
//!
//! Ranks count from 1. An unreachable target (`UNREACHABLE`: it was excluded from the candidates) is a miss in all three.
//! Ranks are whole numbers and the sums run in the order of the events, so the metrics do not depend on batch size or thread
//! count. AUC is in `rank.rs`.

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

use super::protocol::ByProtocol;
use super::rank::{UNREACHABLE, auc};
use crate::error::Result;

/// The cut-offs reported by default.
pub const KS: [usize; 3] = [5, 10, 20];

/// Keys of the figures that papers print, in the order of `gains` and `Metrics::figures`.
pub const FIGURES: [&str; 6] = ["hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20"];

/// What one event adds to each of the figures before the mean is taken.
pub fn gains(rank: u32) -> [f64; 6] {
    let [a, b, c] = KS.map(|k| f64::from(u8::from(rank as usize <= k)));
    let discount = (f64::from(rank) + 1.0).log2();
    [a, b, c, a / discount, b / discount, c / discount]
}

/// Metrics of a model on both splits, under the names that files of runs have for them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitMetrics {
    /// Of ranks, with the history excluded from the candidates.
    pub valid: Metrics,
    /// Under each protocol that the model can be held to.
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

/// Named figures in the order of tables and files. Of ranks, means over events: `hr@5, hr@10, hr@20, ndcg@5, ndcg@10, ndcg@20,
/// mrr`, where `hr@k` is the share of events with rank at most k, `ndcg@k` the mean of `1 / log2(rank + 1)` over these, and
/// `mrr` that of `1 / rank` over all; by kind of event also `ndcg_off@10`. Of scores of impressions: `auc`, the chance that a clicked impression scores above one
/// that was not clicked, over all lists together, and `gauc`, the mean of that within each list that has both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(Vec<(String, f64)>);

impl Metrics {
    /// Of scores of impressions, lists of `length` end to end. Refuses scores that are not finite; NaN where there is no pair.
    pub fn from_clicks(scores: &[f32], clicked: &[bool], length: usize) -> Result<Self> {
        let pooled = auc(scores, clicked, 0)?.unwrap_or(f64::NAN);
        let lists = scores.chunks(length).zip(clicked.chunks(length));
        let within = lists.map(|(scores, clicked)| auc(scores, clicked, 0)).collect::<Result<Vec<_>>>()?;
        let within: Vec<f64> = within.into_iter().flatten().collect();
        let gauc = within.iter().sum::<f64>() / within.len() as f64;
        Ok(Metrics(vec![("auc".into(), pooled), ("gauc".into(), gauc)]))
    }

    /// At the cut-offs of the papers, `KS`.
    pub fn from_ranks(ranks: &[u32]) -> Self {
        Self::from_ranks_at(ranks, &KS)
    }

    /// At other cut-offs, for protocols that report others (SSI: 5, 10, 15, 20).
    pub fn from_ranks_at(ranks: &[u32], ks: &[usize]) -> Self {
        let mean = |gain: &dyn Fn(f64) -> f64| -> f64 {
            let reached = ranks.iter().filter(|&&rank| rank != UNREACHABLE);
            reached.map(|&rank| gain(f64::from(rank))).fold(0.0, |sum, gain| sum + gain) / ranks.len().max(1) as f64
        };
        let hit = |rank: f64, k: usize| f64::from(u8::from(rank <= k as f64));
        let hr = ks.iter().map(|&k| (format!("hr@{k}"), mean(&|rank| hit(rank, k))));
        let ndcg = ks.iter().map(|&k| (format!("ndcg@{k}"), mean(&|rank| hit(rank, k) / (rank + 1.0).log2())));
        Metrics(hr.chain(ndcg).chain([("mrr".into(), mean(&|rank| 1.0 / rank))]).collect())
    }

    /// With NDCG corrected for what was shown to whom (`ndcg_off@10`; SNQN and SA2C, Table 5): an event counts the more, the
    /// rarer its item is; `shares` has the share of each event's item in all events. Nothing where there are no shares.
    pub fn with_off_policy(mut self, ranks: &[u32], shares: &[f32]) -> Metrics {
        if !shares.is_empty() {
            let [mut gained, mut all] = [0.0; 2];
            for (rank, share) in ranks.iter().zip(shares) {
                let weight = 1.0 / f64::from(*share);
                all += weight;
                gained += if *rank <= 10 { weight / (f64::from(*rank) + 1.0).log2() } else { 0.0 };
            }
            self.0.push(("ndcg_off@10".into(), gained / all));
        }
        self
    }

    /// From the six figures papers print, `FIGURES`.
    pub fn from_figures(figures: [f64; 6]) -> Self {
        Metrics(FIGURES.into_iter().map(String::from).zip(figures).collect())
    }

    /// In the order of `FIGURES`; NaN for what was not measured.
    pub fn figures(&self) -> [f64; 6] {
        FIGURES.map(|key| self.get(key).unwrap_or(f64::NAN))
    }

    /// What tables show: all but MRR, which few papers print.
    pub fn shown(&self) -> impl Iterator<Item = (&str, f64)> {
        self.iter().filter(|(key, _)| *key != "mrr")
    }

    /// Key and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(key, value)| (key.as_str(), *value))
    }

    /// One metric by its key, such as "ndcg@20".
    pub fn get(&self, key: &str) -> Option<f64> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Metrics;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("figures by name")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Metrics, M::Error> {
                let mut figures = Vec::new();
                // JSON has null for a number that is not finite.
                while let Some((key, value)) = map.next_entry::<String, Option<f64>>()? {
                    figures.push((key, value.unwrap_or(f64::NAN)));
                }
                Ok(Metrics(figures))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_policy_a_hit_on_a_rare_item_counts_more() {
        let of = |ranks: &[u32], shares: &[f32]| {
            Metrics::from_ranks(ranks).with_off_policy(ranks, shares).get("ndcg_off@10")
        };
        // The rare item is a quarter as frequent: weights 4 and 16.
        assert_eq!(of(&[1, 11], &[0.25, 0.0625]), Some(4.0 / 20.0));
        assert_eq!(of(&[UNREACHABLE, 3], &[0.25, 0.0625]), Some(16.0 / 2.0 / 20.0));
        assert_eq!(of(&[1, 1], &[0.5, 0.5]), Some(1.0));
        assert_eq!(of(&[1, 1], &[]), None);
    }

    #[test]
    fn five_users_worked_out_by_hand() {
        let metrics = Metrics::from_ranks(&[1, 3, 7, 21, UNREACHABLE]);
        assert_eq!(
            ["hr@5", "hr@10", "hr@20"].map(|key| metrics.get(key)),
            [2.0, 3.0, 3.0].map(|hits| Some(hits / 5.0))
        );
        assert_eq!(metrics.get("ndcg@5"), Some((1.0 + 1.0 / 2.0) / 5.0));
        assert_eq!(metrics.get("ndcg@20"), Some((1.0 + 1.0 / 2.0 + 1.0 / 3.0) / 5.0));
        assert_eq!(metrics.get("mrr"), Some((1.0 + 1.0 / 3.0 + 1.0 / 7.0 + 1.0 / 21.0) / 5.0));
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
        assert_eq!(metrics.iter().collect::<Vec<_>>(), [("auc", 10.0 / 14.0), ("gauc", 0.75)]);
        let json = serde_json::to_string(&metrics).unwrap();
        assert_eq!(json, r#"{"auc":0.7142857142857143,"gauc":0.75}"#);
        assert_eq!(serde_json::from_str::<Metrics>(&json).unwrap(), metrics);
    }

    #[test]
    fn no_users_give_zero_and_not_nan() {
        assert!(Metrics::from_ranks(&[]).iter().all(|(_, value)| value.to_bits() == 0));
    }

    #[test]
    fn metrics_are_written_as_one_flat_ordered_map_and_read_back() {
        let metrics = Metrics::from_ranks(&[1, 2, 12]);
        let json = serde_json::to_string(&metrics).unwrap();
        let places =
            ["hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr"].map(|key| json.find(key).unwrap());
        assert!(places.is_sorted());
        assert_eq!(serde_json::from_str::<Metrics>(&json).unwrap(), metrics);
        assert!(serde_json::from_str::<Metrics>(r#"{"hr@5": "none"}"#).is_err());
    }

    #[test]
    fn figures_that_were_not_published_come_back_as_such() {
        let figures = [0.1, 0.2, f64::NAN, 0.05, 0.07, f64::NAN];
        let json = serde_json::to_string(&Metrics::from_figures(figures)).unwrap();
        let back: Metrics = serde_json::from_str(&json).unwrap();
        assert_eq!(back.figures().map(f64::to_bits), figures.map(f64::to_bits));
        assert!(Metrics::from_ranks_at(&[1], &[15]).figures().iter().all(|figure| figure.is_nan()));
    }
}
