//! One configuration with several seeds: a run for each in `FOLDER/seedN`, and `seeds.json` with their mean and spread.

use super::console::{say, table};
use super::results::{protocol, published_rows};
use super::run::RunArgs;
use super::sheet::Figures;
use super::training;
use crate::data::{Interactions, SplitRule};
use crate::error::Result;
use crate::eval::{Metrics, Protocol, Published, SplitMetrics, Summary, shown, shown_keys};
use crate::files::{remove, write_atomically};
use crate::train::{Run, RunResult};
use comfy_table::Table;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `gpurec run --seeds`.
pub fn run(args: &RunArgs, count: u64, data: Arc<Interactions>, folder: &Path) -> Result<()> {
    let runs = SeedRuns::set_up(args, count, data.clone(), folder)?;
    let results = runs.train("")?;
    let Run { options, .. } = runs.first();
    let published = published_rows(&args.method, &options.config, &data.name, data.rule());
    if !args.quiet {
        say(format!("\neverything is in {}", folder.display()))?;
    }
    say(results.text(data.rule(), &published))
}

/// The folders `seedN` in a folder, by N.
pub fn folders(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let seed = |path: PathBuf| Some((path.file_name()?.to_str()?.strip_prefix("seed")?.parse().ok()?, path));
    let mut folders: Vec<(u64, PathBuf)> = entries.filter_map(|entry| seed(entry.path())).collect();
    folders.sort();
    folders
}

/// Of a folder that holds runs of several seeds, the run of this one.
fn of_seed(folder: &Path, seed: u64) -> PathBuf {
    let own = folder.join(format!("seed{seed}"));
    if own.is_dir() { own } else { folder.into() }
}

/// The runs of one configuration, one per seed.
pub struct SeedRuns {
    folder: PathBuf,
    /// With the result of those that are finished.
    runs: Vec<(RunArgs, Run, Option<RunResult>)>,
}

impl SeedRuns {
    /// Looks at what `folder` holds of the runs. One of another configuration is refused before anything is trained.
    pub fn set_up(args: &RunArgs, count: u64, data: Arc<Interactions>, folder: &Path) -> Result<SeedRuns> {
        let set_up = |seed| {
            let out = folder.join(format!("seed{seed}"));
            let start_from = args.start_from.as_ref().map(|start| of_seed(start, seed));
            let args = RunArgs { seed, start_from, resume: out.join("config.toml").exists(), ..args.clone() };
            let run = training::set_up(&args, data.clone(), out)?;
            let finished = run.finished()?;
            Ok((args, run, finished))
        };
        let runs = (args.seed..args.seed + count).map(set_up).collect::<Result<_>>()?;
        Ok(SeedRuns { folder: folder.into(), runs })
    }

    pub fn first(&self) -> &Run {
        &self.runs[0].1
    }

    pub fn all_finished(&self) -> bool {
        self.finished() == self.runs.len()
    }

    pub fn finished(&self) -> usize {
        self.runs.iter().filter(|(_, _, finished)| finished.is_some()).count()
    }

    /// Trains what is not finished, seed after seed, and writes `seeds.json`. `place` goes before each line of progress.
    pub fn train(&self, place: &str) -> Result<SeedResults> {
        let summary = self.folder.join("seeds.json");
        if !self.all_finished() {
            // That of an earlier end, or of fewer seeds.
            remove(&summary)?;
        }
        let mut results = Vec::new();
        for (number, (args, run, finished)) in self.runs.iter().enumerate() {
            let state = if finished.is_some() { ": finished before" } else { "" };
            if !args.quiet {
                say(format!("\n{place}seed {} ({} of {}){state}", args.seed, number + 1, self.runs.len()))?;
            }
            results.push(match finished {
                Some(result) => {
                    training::complete_report(args, run, result)?;
                    result.clone()
                }
                // A new executor for each: its plans and memory belong to one run.
                None => training::train_and_report(args, run, args.device.open()?.as_mut())?.0,
            });
        }
        let results = SeedResults { runs: results };
        let text = serde_json::to_string_pretty(&results.json()).expect("numbers and strings serialise") + "\n";
        write_atomically(&summary, text.as_bytes())?;
        Ok(results)
    }
}

/// Test events, and what their items were ranked among: what tables have a row for.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    pub protocol: Protocol,
    /// All kinds together where there is none.
    pub kind: Option<String>,
}

impl Slice {
    /// All events.
    pub fn whole(protocol: Protocol) -> Slice {
        Slice { protocol, kind: None }
    }

    /// In the order of tables: under each protocol all events, then the kinds that some of the results have.
    pub fn all<'r>(results: impl Iterator<Item = &'r SeedResults>) -> Vec<Slice> {
        let kinds: BTreeSet<&String> = results.flat_map(SeedResults::kinds).collect();
        let kinds: Vec<Option<String>> = [None].into_iter().chain(kinds.into_iter().cloned().map(Some)).collect();
        let under = |protocol| kinds.iter().map(move |kind| Slice { protocol, kind: kind.clone() });
        Protocol::ALL.into_iter().flat_map(under).collect()
    }

    /// As tables call it.
    pub fn title(&self) -> String {
        let kind = self.kind.as_ref().map(|kind| format!(", {kind}"));
        self.protocol.title().to_string() + &kind.unwrap_or_default()
    }

    fn metrics<'r>(&self, run: &'r RunResult) -> Option<&'r Metrics> {
        match &self.kind {
            None => run.metrics.test.get(self.protocol),
            Some(kind) => run.by_kind.get(kind)?.test.get(self.protocol),
        }
    }
}

impl fmt::Display for Slice {
    /// As csv has it: `history-kept`, `history-kept/view`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.protocol)?;
        self.kind.iter().try_for_each(|kind| write!(f, "/{kind}"))
    }
}

/// Results of one configuration, one per seed.
pub struct SeedResults {
    pub runs: Vec<RunResult>,
}

impl SeedResults {
    /// The metrics that tables show.
    pub fn keys(&self) -> Vec<String> {
        self.runs[0].metrics.valid.shown().map(|(key, _)| key.to_string()).collect()
    }

    /// Those that all runs have.
    fn protocols(&self) -> impl Iterator<Item = Protocol> {
        let all = |protocol: &Protocol| self.runs.iter().all(|run| run.metrics.test.get(*protocol).is_some());
        Protocol::ALL.into_iter().filter(all)
    }

    /// The kinds of events that all runs have figures for.
    fn kinds(&self) -> impl Iterator<Item = &String> {
        self.runs[0].by_kind.keys().filter(|kind| self.runs.iter().all(|run| run.by_kind.contains_key(*kind)))
    }

    /// Figures of a slice of the test, if there is such a slice.
    pub fn test(&self, slice: &Slice) -> Option<Figures> {
        let all = self.runs.iter().map(|run| slice.metrics(run)).collect::<Option<Vec<&Metrics>>>()?;
        Some(all[0].shown().map(|(key, _)| (key.to_string(), summary(&all, key))).collect())
    }

    /// `seeds.json`.
    fn json(&self) -> Value {
        let run = &self.runs[0];
        let seeds: Vec<u64> = self.runs.iter().map(|run| run.seed).collect();
        let mut json = Map::from_iter([
            ("method".into(), json!(run.method)),
            ("dataset".into(), json!(run.dataset)),
            ("seeds".into(), json!(seeds)),
        ]);
        json.extend(self.split_json(&|run| &run.metrics));
        let by_kind = self.kinds().map(|kind| (kind.clone(), self.split_json(&|run| &run.by_kind[kind]).into()));
        let by_kind: Map<String, Value> = by_kind.collect();
        if !by_kind.is_empty() {
            json.insert("by_kind".into(), by_kind.into());
        }
        json.into()
    }

    /// Validation, and test under each protocol.
    fn split_json(&self, of: &dyn Fn(&RunResult) -> &SplitMetrics) -> Map<String, Value> {
        let all = |metrics: &dyn Fn(&SplitMetrics) -> &Metrics| -> Value {
            let all: Vec<&Metrics> = self.runs.iter().map(|run| metrics(of(run))).collect();
            all[0].iter().map(|(key, _)| (key.to_string(), json!(summary(&all, key)))).collect()
        };
        let test = self.protocols().map(|protocol| (protocol.key().into(), all(&|metrics| &metrics.test[protocol])));
        [("valid".into(), all(&|metrics| &metrics.valid))].into_iter().chain(test).collect()
    }

    /// `mean ± sd [low, high]` of each metric, with the published row beside it; and the same by kind of event.
    pub fn text(&self, split: &SplitRule, published: &[Published]) -> String {
        let whole = self.table(&|run| &run.metrics, published);
        let by_kind = self.kinds().map(|kind| format!("\n{kind}:\n{}", self.table(&|run| &run.by_kind[kind], &[])));
        let spread = match self.runs.len() {
            1 => "One seed: its spread is not known.".into(),
            n => format!("mean ± standard deviation over {n} seeds [Student's 95 % interval of the mean over seeds]"),
        };
        let protocol = protocol(split, &self.runs[0].metrics, published);
        format!("{whole}{}\n{spread}\n{protocol}", by_kind.collect::<String>())
    }

    /// A row for each metric.
    fn table(&self, of: &dyn Fn(&RunResult) -> &SplitMetrics, published: &[Published]) -> Table {
        let titles = self.protocols().map(|protocol| format!("test ({})", protocol.title()));
        let header = ["metric", "valid"].map(String::from).into_iter().chain(titles);
        let header: Vec<String> = header.chain(published.iter().map(Published::label)).collect();
        let first = of(&self.runs[0]);
        let keys = shown_keys([&first.valid].into_iter().chain(first.test.iter().map(|(_, metrics)| metrics)));
        let rows = keys.into_iter().enumerate().map(|(place, key)| {
            let shown_of = |metrics: &dyn Fn(&SplitMetrics) -> &Metrics| {
                let all: Vec<&Metrics> = self.runs.iter().map(|run| metrics(of(run))).collect();
                cell(&summary(&all, key))
            };
            let test = self.protocols().map(|protocol| shown_of(&|metrics| &metrics.test[protocol]));
            let ours = [shown_of(&|metrics| &metrics.valid)].into_iter().chain(test).collect::<Vec<_>>();
            let theirs = published.iter().map(|row| shown(row.figures[place]));
            [key.to_uppercase()].into_iter().chain(ours).chain(theirs).collect::<Vec<_>>()
        });
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        table(&header, rows, 1)
    }
}

/// One metric of all seeds.
fn summary(seeds: &[&Metrics], key: &str) -> Summary {
    Summary::of(seeds.iter().map(|metrics| metrics.get(key).unwrap_or(f64::NAN)).collect())
}

/// `0.0624 ± 0.0004 [0.0619, 0.0629]`, without what one seed does not tell.
fn cell(summary: &Summary) -> String {
    let interval = summary.interval.filter(|[low, _]| !low.is_nan());
    let interval = interval.map(|[low, high]| format!(" [{low:.4}, {high:.4}]"));
    format!("{}{}", with_deviation(summary), interval.unwrap_or_default())
}

/// `0.0624 ± 0.0004`; a dash where there is none.
pub fn with_deviation(summary: &Summary) -> String {
    let sd = summary.sd.filter(|sd| !sd.is_nan()).map(|sd| format!(" ± {sd:.4}"));
    shown(summary.mean) + &sd.unwrap_or_default()
}

/// What a run gave that ranked its held-out items so.
#[cfg(test)]
pub fn example_result(seed: u64, ranks: &[u32]) -> RunResult {
    let test = Protocol::ALL[..3].iter().map(|protocol| (*protocol, ranks.to_vec())).collect();
    RunResult {
        method: "sasrec".into(),
        dataset: "toy".into(),
        seed,
        device: "cpu".into(),
        epochs: 1,
        best_epoch: 1,
        seconds: 1.0,
        metrics: SplitMetrics::from_ranks(ranks, &test),
        by_kind: Default::default(),
        calibration: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_seeds_are_told_with_their_spread_and_one_without() {
        let two = SeedResults { runs: vec![example_result(4, &[1, 30]), example_result(5, &[1, 2])] };
        // Means .5 and 1: mean .75, sd .5 / sqrt(2), interval .75 +- 12.706 x .25.
        let text = two.text(&SplitRule::LeaveOneOut, &[]);
        assert!(text.contains("0.7500 ± 0.3536 [-2.4266, 3.9266]"), "{text}");
        let json = two.json();
        assert_eq!(json["seeds"], json!([4, 5]));
        assert_eq!(json["test"]["hr@5"]["values"], json!([0.5, 1.0]));
        assert_eq!(json["valid"]["hr@20"]["mean"], json!(0.75));
        let one = SeedResults { runs: vec![example_result(4, &[1, 30])] };
        let text = one.text(&SplitRule::LeaveOneOut, &[]);
        assert!(text.contains(" 0.5000 ┆") && text.contains("One seed"), "{text}");
        assert_eq!(one.json()["test"]["hr@5"]["interval"], Value::Null);
    }
}
