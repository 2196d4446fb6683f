//! `report.html` of a run: figures with their uncertainty, curves, what is to be known of the data, and how to do it again.

use super::curves::{Curve, curves};
use super::{finished_at, page};
use crate::cli::console::{grouped, share};
use crate::cli::eval::eval_command;
use crate::cli::results::Results;
use crate::data::Findings;
use crate::data::check::Targets;
use crate::data::lists::Part;
use crate::error::Result;
use crate::eval::{Calibration, Decile, KS, Metrics, cells, intervals, shown_keys};
use crate::files::write_atomically;
use crate::methods::config::flattened;
use crate::train::{EpochReport, Run, RunResult, UserRanks};
use serde::Serialize;

/// The file in the folder of a run. It is the last one to be written.
pub const FILE: &str = "report.html";

pub struct Report<'a> {
    pub run: &'a Run,
    pub result: &'a RunResult,
    pub results: &'a Results,
    /// The command line that gives this run again.
    pub command: String,
}

/// What `run.html` asks for.
#[derive(Serialize)]
struct Page {
    title: String,
    subtitle: String,
    metrics: Vec<String>,
    results: Vec<Row>,
    notes: Vec<String>,
    curves: Vec<Curve>,
    sections: Vec<Section>,
    commands: String,
    config: Vec<Fact>,
}

/// HR and NDCG under one protocol.
#[derive(Serialize)]
struct Row {
    label: String,
    /// By others: not measured here.
    published: bool,
    figures: Vec<String>,
    /// Absent for published figures, and for those that are no means over users.
    intervals: Option<Vec<String>>,
}

type Fact = (String, String);

#[derive(Serialize)]
struct Section {
    title: &'static str,
    facts: Vec<Fact>,
}

/// Writes the report of a run whose other files are there.
pub fn write(report: &Report) -> Result<()> {
    let out = &report.run.options.out;
    let epochs = EpochReport::read_all(out)?;
    let ranks = Some(UserRanks::path(out)).filter(|path| path.exists()).map(|path| UserRanks::read(&path));
    let ranks = ranks.transpose()?.map(|(_, ranks)| ranks);
    let finished = finished_at(out)?;
    let page = report.page(&epochs, ranks.as_ref(), finished);
    write_atomically(&out.join(FILE), page::render("run.html", page).as_bytes())
}

impl Report<'_> {
    fn page(&self, epochs: &[EpochReport], ranks: Option<&UserRanks>, finished: String) -> Page {
        let Report { run, result, results, command } = self;
        let method = run.info.title;
        let trained = match result.epochs {
            0 => "nothing to train".into(),
            n => format!("{n} epochs, the best is {}", result.best_epoch),
        };
        let mut sections = vec![self.data()];
        sections.extend(keep_probabilities(epochs, result.best_epoch));
        sections.extend(result.calibration.as_ref().map(values_and_returns));
        sections.push(self.origin(finished));
        Page {
            title: format!("{method} on {}", result.dataset),
            subtitle: format!("Seed {}; {trained}; {:.1} s", result.seed, result.seconds),
            metrics: keys(results).iter().map(|key| key.to_uppercase()).collect(),
            results: rows(results, ranks),
            notes: notes(results, ranks),
            curves: curves(epochs),
            sections,
            commands: format!("{command}\n{}", eval_command(&run.options.out, None)),
            config: flattened(&run.options.config).into_iter().map(|(key, value)| (key, value.to_string())).collect(),
        }
    }

    fn data(&self) -> Section {
        let Run { data, .. } = self.run;
        if let Some(lists) = data.lists.as_ref().filter(|_| self.run.method().list_model().is_some()) {
            let parts = [Part::Train, Part::Valid, Part::Test].map(|part| grouped(lists.part(part).len()));
            let [train, valid, test] = parts.map(|count| count + " lists");
            let facts = [
                ("name", data.name.clone()),
                ("size", self.run.statistics()),
                ("split", format!("The first {train} train, the next {valid} validate, the last {test} test")),
            ];
            return section("Data", facts);
        }
        let Findings { statistics, repeated_items, valid, test, .. } = Findings::of(data);
        let targets = |targets: Targets| {
            format!(
                "{}; {} in the history of their user, so HR cannot exceed {:.4} where it is excluded; {} cold, of items \
                 that no training event has",
                grouped(targets.count),
                share(targets.in_history, targets.count),
                targets.ceiling(),
                share(targets.cold, targets.count),
            )
        };
        let facts = [
            ("name", data.name.clone()),
            ("size", self.run.statistics()),
            ("repeated items", share(repeated_items, statistics.interactions)),
            ("split", data.rule().in_words()),
            ("validation targets", targets(valid)),
            ("test targets", targets(test)),
        ];
        section("Data", facts)
    }

    /// Who made these figures, on what and when.
    fn origin(&self, finished: String) -> Section {
        let Report { run, result, .. } = self;
        let training = run.method().training();
        let selection = match result.epochs {
            0 => "none".into(),
            n => format!(
                "epoch {} of {n}, the best in validation {}{}; stops {} epochs after the best",
                result.best_epoch,
                training.select_by.to_uppercase(),
                match training.validate_every {
                    1 => String::new(),
                    every => format!(" of every {every} epochs"),
                },
                training.patience
            ),
        };
        let facts = [
            ("method", format!("{}: {}", run.info.title, run.info.paper)),
            ("seed", result.seed.to_string()),
            ("parameters kept", selection),
            ("device", result.device.clone()),
            ("time", format!("{:.1} s of training and evaluation", result.seconds)),
            ("finished", finished),
            ("written by", format!("gpurec {}", env!("CARGO_PKG_VERSION"))),
        ];
        section("Run", facts)
    }
}

/// With the spread over users where there are ranks.
fn rows(results: &Results, ranks: Option<&UserRanks>) -> Vec<Row> {
    let keys = keys(results);
    let ours = |label: String, metrics: &Metrics, ranks: Option<(&[u32], &[u32])>| {
        let interval = |[low, high]: [f64; 2]| format!("{low:.4} – {high:.4}");
        let intervals = ranks.map(|(users, ranks)| intervals(users, ranks).map(interval).to_vec());
        Row { label, published: false, figures: cells(&keys, metrics), intervals }
    };
    let valid = ranks.map(|all| (&all.valid_users[..], &all.valid[..]));
    let mut rows = vec![ours("Validation".into(), &results.metrics.valid, valid)];
    for (protocol, metrics) in results.metrics.test.iter() {
        let test = ranks.and_then(|all| Some((&all.test_users[..], &all.test.get(protocol)?[..])));
        rows.push(ours(format!("Test, {}", protocol.title()), metrics, test));
    }
    for (name, of_kind) in &results.by_kind {
        let own = |all: &UserRanks, column: &[u32]| -> Vec<u32> {
            let pairs = column.iter().zip(&all.test_kinds).filter(|(_, own)| all.kind_names[**own as usize] == *name);
            pairs.map(|(value, _)| *value).collect()
        };
        for (protocol, metrics) in of_kind.test.iter() {
            let test = ranks.and_then(|all| Some((own(all, &all.test_users), own(all, all.test.get(protocol)?))));
            let test = test.as_ref().map(|(users, ranks)| (&users[..], &ranks[..]));
            rows.push(ours(format!("Test, {name}, {}", protocol.title()), metrics, test));
        }
    }
    rows.extend(results.published.iter().map(|row| Row {
        label: format!("Published, {}", row.protocol.title()),
        published: true,
        figures: cells(&keys, &Metrics::from_figures(row.figures)),
        intervals: None,
    }));
    rows
}

/// Of the columns.
fn keys(results: &Results) -> Vec<&str> {
    let by_kind = results.by_kind.values().flat_map(|of_kind| of_kind.test.iter().map(|(_, metrics)| metrics));
    shown_keys([&results.metrics.valid].into_iter().chain(by_kind))
}

fn notes(results: &Results, ranks: Option<&UserRanks>) -> Vec<String> {
    if ranks.is_none() {
        return vec![results.protocol()];
    }
    let uncertainty = "Below each figure is its 95 % bootstrap interval over users: how the figure would vary with other users \
                       of the same kind. How it would vary with another seed is not covered.";
    let last = KS[KS.len() - 1];
    let meaning = format!(
        "HR@k is the share of targets among the first k items, NDCG@k the mean of 1 / log2(rank + 1) over them; k up to {last}."
    );
    results.protocol().lines().map(String::from).chain([meaning, uncertainty.into()]).collect()
}

/// What the best epoch learned; `None` for methods that learn no such thing.
fn keep_probabilities(epochs: &[EpochReport], best: usize) -> Option<Section> {
    let losses = &epochs.iter().find(|epoch| epoch.epoch == best)?.losses;
    let block = |(name, keep): (&String, &serde_json::Value)| {
        let block = name.strip_prefix("keep_block")?;
        Some((format!("block {block}"), format!("{:.4}", keep.as_f64()?)))
    };
    let facts: Vec<Fact> = losses.iter().filter_map(block).collect();
    let title = "Learned keep probabilities, mean over the best epoch";
    (!facts.is_empty()).then_some(Section { title, facts })
}

/// By tenths of the test impressions.
fn values_and_returns(calibration: &Calibration) -> Section {
    let tenth = |(n, decile): (usize, &Decile)| {
        (format!("tenth {}", n + 1), format!("value {:.4}, return {:.4}", decile.value, decile.followed))
    };
    let explained = ("R2".into(), format!("{:.4}, discount {}", calibration.r2, calibration.discount));
    let facts = std::iter::once(explained).chain(calibration.deciles.iter().enumerate().map(tenth)).collect();
    Section { title: "Values and the clicks that followed, by tenths of the test impressions", facts }
}

fn section<const N: usize>(title: &'static str, facts: [(&str, String); N]) -> Section {
    Section { title, facts: facts.into_iter().map(|(name, value)| (name.into(), value)).collect() }
}
