//! One configuration with several seeds: a run for each in `FOLDER/seedN`, and `seeds.json` with their mean and spread.

use super::console::{say, table};
use super::results::{protocol, published_rows};
use super::run::RunArgs;
use super::sheet::Figures;
use super::training;
use crate::data::{Interactions, SplitRule};
use crate::error::Result;
use crate::eval::{Metrics, Protocol, Published, SplitMetrics, Summary, shown};
use crate::files::{remove, write_atomically};
use crate::train::{Run, RunResult};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `gpurec run --seeds`.
pub fn run(args: &RunArgs, count: u64, data: Arc<Interactions>, folder: &Path) -> Result<()> {
    let runs = SeedRuns::set_up(args, count, data, folder)?;
    let results = runs.train("")?;
    let Run { options, data, .. } = runs.first();
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

/// Results of one configuration, one per seed.
pub struct SeedResults {
    pub runs: Vec<RunResult>,
}

impl SeedResults {
    fn summary(&self, metrics: impl Fn(&SplitMetrics) -> &Metrics, key: &str) -> Summary {
        Summary::of(self.runs.iter().map(|run| metrics(&run.metrics).get(key).unwrap_or(f64::NAN)).collect())
    }

    /// The metrics that tables show.
    pub fn keys(&self) -> Vec<String> {
        self.runs[0].metrics.valid.shown().map(|(key, _)| key.to_string()).collect()
    }

    /// Those that all runs have.
    fn protocols(&self) -> impl Iterator<Item = Protocol> {
        let all = |protocol: &Protocol| self.runs.iter().all(|run| run.metrics.test.get(*protocol).is_some());
        Protocol::ALL.into_iter().filter(all)
    }

    /// Their values in the test, if the protocol applies.
    pub fn test(&self, protocol: Protocol) -> Option<Figures> {
        let summary = |key: String| {
            let summary = self.summary(|metrics| &metrics.test[protocol], &key);
            (key, summary)
        };
        let applies = self.protocols().any(|own| own == protocol);
        applies.then(|| self.keys().into_iter().map(summary).collect())
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
        let all = |metrics: &dyn Fn(&SplitMetrics) -> &Metrics| -> Value {
            let keys = run.metrics.valid.iter().map(|(key, _)| key);
            keys.map(|key| (key.to_string(), json!(self.summary(metrics, key)))).collect()
        };
        json.insert("valid".into(), all(&|metrics| &metrics.valid));
        for protocol in self.protocols() {
            json.insert(protocol.key().into(), all(&|metrics| &metrics.test[protocol]));
        }
        json.into()
    }

    /// `mean ± sd [low, high]` of each metric, with the published row beside it.
    pub fn text(&self, split: &SplitRule, published: &[Published]) -> String {
        let metrics = &self.runs[0].metrics;
        let titles = self.protocols().map(|protocol| format!("test ({})", protocol.title()));
        let header = ["metric", "valid"].map(String::from).into_iter().chain(titles);
        let header: Vec<String> = header.chain(published.iter().map(Published::label)).collect();
        let rows = metrics.valid.shown().enumerate().map(|(place, (key, _))| {
            let valid = self.summary(|metrics| &metrics.valid, key);
            let test = self.protocols().map(|protocol| self.summary(|metrics| &metrics.test[protocol], key));
            let ours = [valid].into_iter().chain(test).map(|summary| cell(&summary)).collect::<Vec<_>>();
            let theirs = published.iter().map(|row| shown(row.figures[place]));
            [key.to_uppercase()].into_iter().chain(ours).chain(theirs).collect::<Vec<_>>()
        });
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let spread = match self.runs.len() {
            1 => "One seed: its spread is not known.".into(),
            n => format!("mean ± standard deviation over {n} seeds [Student's 95 % interval of the mean over seeds]"),
        };
        let protocol = protocol(split, metrics, published);
        format!("{}\n{spread}\n{protocol}", table(&header, rows, 1))
    }
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
