//! The table that ends a run or an evaluation: our figures under each protocol, and the paper's beside them.

use crate::data::{HeldOut, Interactions, SplitRule, paper_name};
use crate::engine::Executor;
use crate::error::Result;
use crate::eval::{Metrics, Published, comparison_table, published, shown, tie_warning};
use crate::train::{DataIdentity, OfKind, Ranker, Run, RunResult, UserRanks};
use std::collections::BTreeMap;
use toml::Table;

/// Figures of one model on one data set.
pub struct Results {
    pub split: SplitRule,
    pub valid: Metrics,
    pub test: Metrics,
    pub test_history_kept: Metrics,
    /// The same by kind of event, where events have kinds.
    pub by_kind: BTreeMap<String, OfKind>,
    pub published: Option<Published>,
    /// Shown below the table, if ties are common.
    pub tie_warning: Option<String>,
}

impl Results {
    pub fn of_run(run: &Run, result: &RunResult) -> Results {
        let split = run.data.rule().clone();
        Results {
            valid: result.valid.clone(),
            test: result.test.clone(),
            test_history_kept: result.test_history_kept.clone(),
            by_kind: result.by_kind.clone(),
            published: published_row(&result.method, &run.options.config, &result.dataset, &split),
            tie_warning: None,
            split,
        }
    }

    /// Ranks the held-out items of a data set with the loaded parameters.
    pub fn measure(
        ranker: &mut Ranker,
        executor: &mut dyn Executor,
        data: &Interactions,
        identity: DataIdentity,
    ) -> Result<(Results, UserRanks)> {
        let (valid, test): (Vec<HeldOut>, Vec<HeldOut>) = (data.valid().collect(), data.test().collect());
        let (valid, test) = (ranker.rank(executor, &valid)?, ranker.rank(executor, &test)?);
        let tie_warning = tie_warning(test.tie_share);
        let ranks = UserRanks::new(identity, data, valid, test);
        let results = Results {
            split: data.rule().clone(),
            valid: Metrics::from_ranks(&ranks.valid),
            test: Metrics::from_ranks(&ranks.test),
            test_history_kept: Metrics::from_ranks(&ranks.test_history_kept),
            by_kind: ranks.by_kind(),
            published: None,
            tie_warning,
        };
        Ok((results, ranks))
    }

    fn rows(&self) -> Vec<(String, Metrics)> {
        let mut rows = vec![
            ("valid".into(), self.valid.clone()),
            ("test (history excluded)".into(), self.test.clone()),
            ("test (history kept)".into(), self.test_history_kept.clone()),
        ];
        for (kind, metrics) in &self.by_kind {
            rows.push((format!("test, {kind} (history excluded)"), metrics.test.clone()));
            rows.push((format!("test, {kind} (history kept)"), metrics.test_history_kept.clone()));
        }
        let published = self.published.iter();
        rows.extend(published.map(|row| (row.label().into(), Metrics::from_figures(row.figures))));
        rows
    }

    fn caption(&self) -> String {
        let warning = self.tie_warning.iter().map(|warning| format!("\nwarning: {warning}"));
        warning.fold(protocol(&self.split, self.published.as_ref()), |text, warning| text + &warning)
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let rows = self.rows();
        let rows: Vec<(&String, &Metrics)> = rows.iter().map(|(label, metrics)| (label, metrics)).collect();
        format!("{}\n{}", comparison_table(&rows), self.caption())
    }
}

/// What must be known to read a table of figures.
pub fn protocol(split: &SplitRule, published: Option<&Published>) -> String {
    let candidates =
        "every item of the catalogue is a candidate, but for those of the user's history where it is excluded.";
    let published = published.map(|row| format!("\nPublished: {}", published_note(row)));
    format!("{}; {candidates}{}", split.in_words(), published.unwrap_or_default())
}

/// Where published figures come from, and what speaks against them.
pub fn published_note(row: &Published) -> String {
    let doubt = if row.doubtful { " Doubtful: no ranking can have these figures together." } else { "" };
    let kept = if row.history_kept { " With the history kept." } else { "" };
    format!("{}.{kept}{doubt}", row.source)
}

/// Published rows of several methods, each once, numbered from 1.
#[derive(Default)]
pub struct PublishedRows(Vec<(&'static str, Published)>);

impl PublishedRows {
    pub fn add(&mut self, title: &'static str, row: Option<Published>) {
        let known = |row: &Published| self.0.iter().any(|(known, other)| *known == title && other.source == row.source);
        let row = row.filter(|row| !known(row));
        self.0.extend(row.map(|row| (title, row)));
    }

    pub fn iter(&self) -> impl Iterator<Item = &(&'static str, Published)> {
        self.0.iter()
    }

    /// `published (1)`, the method's title, the figures.
    pub fn rows(&self) -> impl Iterator<Item = (String, &'static str, [String; 6])> {
        let cells = |(number, (title, row)): (usize, &(&'static str, Published))| {
            (format!("published ({})", number + 1), *title, row.figures.map(shown))
        };
        self.0.iter().enumerate().map(cells)
    }

    /// `(1) source`.
    pub fn notes(&self) -> Vec<String> {
        let note = |(number, (_, row)): (usize, &(_, Published))| format!("({}) {}", number + 1, published_note(row));
        self.0.iter().enumerate().map(note).collect()
    }
}

/// The published figures that a method's configuration is to be held against; there are none but for leave-one-out.
pub fn published_row(method: &str, config: &Table, dataset: &str, split: &SplitRule) -> Option<Published> {
    (*split == SplitRule::LeaveOneOut).then(|| published(method, config, paper_name(dataset)?)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_row_stands_beside_leave_one_out_on_its_own_data_set() {
        let row = |dataset, split: &str| published_row("coserec", &Table::new(), dataset, &split.parse().unwrap());
        assert!(row("amazon_toys_and_games", "leave-one-out").is_some());
        assert_eq!(row("amazon_toys_and_games", "ratio:0.8,0.1,0.1"), None);
        assert_eq!(row("kuairec", "leave-one-out"), None);
    }

    #[test]
    fn a_published_row_comes_with_its_source() {
        let ours = Metrics::from_ranks(&[1, 2, 3]);
        let results = Results {
            split: SplitRule::LeaveOneOut,
            valid: ours.clone(),
            test: ours.clone(),
            test_history_kept: ours,
            by_kind: BTreeMap::new(),
            published: published("coserec", &Table::new(), "Toys"),
            tie_warning: None,
        };
        assert!(results.text().contains("0.1162") && results.text().contains("2204.10128"), "{}", results.text());
    }
}
