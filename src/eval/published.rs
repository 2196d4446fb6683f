//! Figures that papers and public logs report, to print beside our own. The data is `published.toml`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::protocol::Protocol;
use serde::Deserialize;

/// One row of a published table.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// HR@5/10/20, NDCG@5/10/20, NaN where there is none; leave-one-out.
    pub figures: [f64; 6],
    /// The publication, for the table's caption.
    pub source: String,
    /// Whether the row holds a pair of figures that no ranking can have: a misprint, or another protocol.
    pub doubtful: bool,
    /// What the targets were ranked among.
    pub protocol: Protocol,
}

impl Published {
    /// What the row is called beside ours: `published (history excluded)`.
    pub fn label(&self) -> String {
        format!("published ({})", self.protocol.title())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    source: String,
    #[serde(default)]
    protocol: Protocol,
    /// Data set -> method -> figures.
    figures: BTreeMap<String, BTreeMap<String, [f64; 6]>>,
    /// Data set -> methods whose row is doubtful.
    #[serde(default)]
    doubtful: BTreeMap<String, Vec<String>>,
    /// Method -> what a configuration must have for its rows to stand beside it.
    #[serde(default)]
    only_with: BTreeMap<String, toml::Table>,
}

impl Table {
    fn is_of(&self, method: &str, config: &toml::Table) -> bool {
        let conditions = self.only_with.get(method).into_iter().flatten();
        conditions.into_iter().all(|(key, value)| config.get(key) == Some(value))
    }
}

static TABLES: LazyLock<Vec<Table>> = LazyLock::new(|| {
    let file: BTreeMap<String, Vec<Table>> =
        toml::from_str(include_str!("published.toml")).expect("published.toml is well formed");
    file.into_values().flatten().collect()
});

/// The published rows of a method (`sasrec`, `lma4rec`, ...) in this configuration, on a data set by its paper name
/// (`Sports`, see `data::paper_name`): at most one for each protocol.
pub fn published(method: &str, config: &toml::Table, dataset: &str) -> Vec<Published> {
    let row = |table: &Table| {
        let &figures = table.figures.get(dataset)?.get(method)?;
        let doubtful = table.doubtful.get(dataset).is_some_and(|methods| methods.iter().any(|m| m == method));
        Some(Published { figures, source: table.source.clone(), doubtful, protocol: table.protocol })
    };
    let of_protocol = |protocol| {
        let tables = TABLES.iter().filter(move |table| table.protocol == protocol && table.is_of(method, config));
        tables.into_iter().find_map(row)
    };
    Protocol::ALL.into_iter().filter_map(of_protocol).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: [&str; 9] = ["pop", "bpr", "gru4rec", "caser", "sasrec", "s3-rec", "cl4srec", "coserec", "lma4rec"];

    /// The parts of LMA4Rec that are on.
    fn parts(ssl: bool, lma: bool, da: bool) -> toml::Table {
        [("ssl", ssl), ("lma", lma), ("da", da), ("other", true)]
            .map(|(key, on)| (key.into(), on.into()))
            .into_iter()
            .collect()
    }

    fn excluded(method: &str, config: &toml::Table, dataset: &str) -> Option<Published> {
        published(method, config, dataset).into_iter().find(|row| row.protocol == Protocol::HistoryExcluded)
    }

    fn with_loss(loss: &str) -> toml::Table {
        toml::Table::from_iter([("loss".into(), loss.into())])
    }

    #[test]
    fn every_method_of_the_table_is_there_for_every_data_set() {
        let mut config = parts(true, true, true);
        config.extend(with_loss("bce"));
        for dataset in ["Sports", "Toys", "Yelp"] {
            assert!(METHODS.iter().all(|method| excluded(method, &config, dataset).is_some()), "{dataset}");
        }
        let row = excluded("lma4rec", &parts(true, true, true), "Sports").unwrap();
        assert_eq!(row.figures, [0.0297, 0.0439, 0.0634, 0.0199, 0.0246, 0.0293]);
        assert!(row.source.contains("2204.10128") && !row.doubtful);
        assert_eq!(published("lma4rec", &parts(true, true, true), "Beauty"), []);
        assert_eq!(published("unheard-of", &with_loss("ce"), "Toys"), []);
    }

    #[test]
    fn ablations_stand_beside_those_of_table_3() {
        let hr10 = |ssl, lma, da| excluded("lma4rec", &parts(ssl, lma, da), "Toys").map(|row| row.figures[1]);
        let all = [hr10(true, true, true), hr10(false, true, true), hr10(true, false, true), hr10(true, true, false)];
        assert_eq!(all, [0.0876, 0.0726, 0.0865, 0.0703].map(Some));
        assert_eq!(hr10(false, false, true), None);
    }

    #[test]
    fn a_row_stands_beside_the_configurations_that_it_was_published_of() {
        let sasrec = |loss: &str, dataset| excluded("sasrec", &with_loss(loss), dataset);
        for dataset in ["Beauty", "Sports", "Toys", "Yelp"] {
            assert!(sasrec("ce", dataset).unwrap().source.contains("cross-entropy"), "{dataset}");
            assert_eq!(sasrec("sampled_softmax", dataset), None);
        }
        assert!(sasrec("bce", "Toys").unwrap().source.contains("2204.10128"));
        let pop = published("pop", &toml::Table::new(), "Toys");
        let protocols: Vec<Protocol> = pop.iter().map(|row| row.protocol).collect();
        assert_eq!(protocols, [Protocol::HistoryExcluded, Protocol::Uni99]);
        assert_eq!(pop[1].figures, [0.182, 0.235, 0.332, 0.103, 0.141, 0.178]);
        assert_eq!(published("sasrec", &toml::Table::new(), "Toys"), []);
    }

    /// Hits between places a and b, `dHR`, add to NDCG at least `dHR / log2(b + 1)` and at most `dHR / log2(a + 1)`.
    fn is_possible([hr5, hr10, hr20, ndcg5, ndcg10, ndcg20]: [f64; 6], rounding: f64) -> bool {
        let steps = [
            (hr5, ndcg5, 1.0, 5.0),
            (hr10 - hr5, ndcg10 - ndcg5, 6.0, 10.0),
            (hr20 - hr10, ndcg20 - ndcg10, 11.0, 20.0f64),
        ];
        let known = steps.into_iter().filter(|(hr, ndcg, ..)| !(hr + ndcg).is_nan());
        known.into_iter().all(|(hr, ndcg, first, last): (f64, f64, f64, f64)| {
            let (least, most) = ((hr - rounding) / (last + 1.0).log2(), (hr + rounding) / (first + 1.0).log2());
            (least - rounding..=most + rounding).contains(&ndcg)
        })
    }

    #[test]
    fn rows_are_marked_doubtful_exactly_where_no_ranking_has_such_figures() {
        for table in TABLES.iter() {
            // Figures under the sampled protocol are printed with three digits.
            let rounding = if table.protocol == Protocol::Uni99 { 1.01e-3 } else { 1.01e-4 };
            for (dataset, methods) in &table.figures {
                for (method, figures) in methods {
                    let doubtful = table.doubtful.get(dataset).is_some_and(|methods| methods.contains(method));
                    assert_eq!(doubtful, !is_possible(*figures, rounding), "{method} on {dataset}");
                }
            }
        }
    }
}
