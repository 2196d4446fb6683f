//! The table that ends a run or an evaluation: our figures under each protocol, and the paper's beside them.

use super::sheet::Figures;
use crate::data::sample::Uni99;
use crate::data::{Interactions, SplitRule, paper_name};
use crate::eval::{
    Calibration, Decile, FIGURES, Metrics, Protocol, Published, SplitMetrics, Summary, comparison_table, published,
};
use crate::train::{Evaluation, Run, RunResult};
use std::collections::BTreeMap;
use toml::Table;

/// Figures of one model on one data set.
pub struct Results {
    pub split: SplitRule,
    pub metrics: SplitMetrics,
    /// The same by kind of event, where events have kinds.
    pub by_kind: BTreeMap<String, SplitMetrics>,
    /// Of the test impressions, where scores say how many clicks will follow.
    pub calibration: Option<Calibration>,
    /// At most one for each protocol.
    pub published: Vec<Published>,
    /// Shown below the table.
    pub warning: Option<String>,
}

impl Results {
    pub fn of_run(run: &Run, result: &RunResult) -> Results {
        let split = run.data.rule().clone();
        Results {
            metrics: result.metrics.clone(),
            by_kind: result.by_kind.clone(),
            calibration: result.calibration.clone(),
            published: published_rows(&result.method, &run.options.config, &result.dataset, &split),
            warning: None,
            split,
        }
    }

    /// Of a model that was evaluated on a data set.
    pub fn of_evaluation(evaluation: &Evaluation, data: &Interactions, published: Vec<Published>) -> Results {
        let Evaluation { metrics, by_kind, calibration, warning, .. } = evaluation.clone();
        Results { split: data.rule().clone(), metrics, by_kind, calibration, published, warning }
    }

    fn rows(&self) -> Vec<(String, Metrics)> {
        let own = |(label, metrics): (String, &Metrics)| (label, metrics.clone());
        let mut rows: Vec<(String, Metrics)> = self.metrics.rows().into_iter().map(own).collect();
        for (kind, metrics) in &self.by_kind {
            let test = metrics.test.iter();
            rows.extend(test.map(|(protocol, test)| (format!("test, {kind} ({})", protocol.title()), test.clone())));
        }
        rows.extend(self.published.iter().map(|row| (row.label(), Metrics::from_figures(row.figures))));
        rows
    }

    /// What must be known to read the table.
    pub fn protocol(&self) -> String {
        protocol(&self.split, &self.metrics, &self.published)
    }

    fn caption(&self) -> String {
        let warning = self.warning.iter().map(|warning| format!("warning: {warning}"));
        let below = self.calibration.iter().map(values_and_returns).chain(warning);
        below.fold(self.protocol(), |text, line| format!("{text}\n{line}"))
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let rows = self.rows();
        let rows: Vec<(&String, &Metrics)> = rows.iter().map(|(label, metrics)| (label, metrics)).collect();
        format!("{}\n{}", comparison_table(&rows), self.caption())
    }
}

/// How far values say what follows, in a sentence.
fn values_and_returns(calibration: &Calibration) -> String {
    let Calibration { discount, r2, deciles } = calibration;
    let ends = deciles.first().zip(deciles.last()).map(|(lowest, highest)| {
        let of = |tenth: &Decile| format!("{:.3} for {:.3}", tenth.value, tenth.followed);
        format!("; the mean value is {} in the lowest tenth and {} in the highest", of(lowest), of(highest))
    });
    let ends = ends.unwrap_or_default();
    format!("Scores are values: R2 {r2:.3} against the test clicks that follow, discounted by {discount}{ends}.")
}

/// What must be known to read a table of such figures.
pub fn protocol(split: &SplitRule, metrics: &SplitMetrics, published: &[Published]) -> String {
    if metrics.test.get(Protocol::Impressions).is_some() {
        let judged = "The first lists train, those after them validate, the last ones test. AUC is the chance that a clicked \
                      impression scores above one that was not clicked, over all lists together; GAUC the mean of that within \
                      each list that has both.";
        return judged.into();
    }
    let candidates = format!(
        "every item of the catalogue is a candidate, but for those of the user's history where it is excluded; under uni99 \
         the target is ranked among {} items drawn uniformly from those the user never has: these figures are higher, and \
         comparable with such figures only.",
        Uni99::NEGATIVES
    );
    let published =
        published.iter().map(|row| format!("\nPublished ({}): {}", row.protocol.title(), published_note(row)));
    format!("{}; {candidates}{}", split.in_words(), published.collect::<String>())
}

/// Where published figures come from, and what speaks against them.
pub fn published_note(row: &Published) -> String {
    let doubt = if row.doubtful { " Doubtful: no ranking can have these figures together." } else { "" };
    format!("{}.{doubt}", row.source)
}

/// A published row as one of our tables has it.
pub fn published_figures(row: &Published) -> Figures {
    let figures = FIGURES.into_iter().zip(row.figures);
    figures.map(|(key, figure)| (key.to_string(), Summary::of(vec![figure]))).collect()
}

/// Published rows of several methods, each once, numbered from 1.
#[derive(Default)]
pub struct PublishedRows(Vec<(&'static str, Published)>);

impl PublishedRows {
    pub fn add(&mut self, title: &'static str, rows: impl IntoIterator<Item = Published>) {
        for row in rows {
            if !self.0.iter().any(|(known, other)| *known == title && other.source == row.source) {
                self.0.push((title, row));
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &(&'static str, Published)> {
        self.0.iter()
    }

    /// Those under a protocol: `published (1)`, the method's title, the figures.
    pub fn rows(&self, protocol: Protocol) -> impl Iterator<Item = (String, &'static str, Figures)> {
        let named = |(number, (title, row)): (usize, &(&'static str, Published))| {
            (format!("published ({})", number + 1), *title, published_figures(row))
        };
        self.0.iter().enumerate().filter(move |(_, (_, row))| row.protocol == protocol).map(named)
    }

    /// `(1) source`.
    pub fn notes(&self) -> Vec<String> {
        let note = |(number, (_, row)): (usize, &(_, Published))| format!("({}) {}", number + 1, published_note(row));
        self.0.iter().enumerate().map(note).collect()
    }
}

/// The published figures that a method's configuration is to be held against; there are none but for leave-one-out.
pub fn published_rows(method: &str, config: &Table, dataset: &str, split: &SplitRule) -> Vec<Published> {
    let name = paper_name(dataset).filter(|_| *split == SplitRule::LeaveOneOut);
    name.map(|name| published(method, config, name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_row_stands_beside_leave_one_out_on_its_own_data_set() {
        let row = |dataset, split: &str| published_rows("coserec", &Table::new(), dataset, &split.parse().unwrap());
        assert_eq!(row("amazon_toys_and_games", "leave-one-out").len(), 1);
        assert_eq!(row("amazon_toys_and_games", "ratio:0.8,0.1,0.1"), []);
        assert_eq!(row("kuairec", "leave-one-out"), []);
    }

    #[test]
    fn a_published_row_comes_with_its_source() {
        let results = Results {
            split: SplitRule::LeaveOneOut,
            metrics: SplitMetrics::default(),
            by_kind: BTreeMap::new(),
            calibration: None,
            published: published("coserec", &Table::new(), "Toys"),
            warning: None,
        };
        assert!(results.text().contains("0.1162") && results.text().contains("2204.10128"), "{}", results.text());
    }
}
