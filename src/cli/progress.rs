//! What a person sees of training: a bar over the whole run, and a line per epoch.

use super::console::{bar, draw_target, note, say};
use super::interrupt;
use crate::error::Result;
use crate::train::{EpochReport, Observer};
use indicatif::{HumanDuration, MultiProgress, ProgressBar};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

const TEMPLATE: &str = "{spinner} {bar:20} {percent:>3}%  {msg}";

pub struct Progress {
    quiet: bool,
    /// All that are shown at the same time.
    bars: MultiProgress,
    /// Before each line: the stage, where others are trained beside it.
    stage: String,
    /// Whether one of those failed.
    others_failed: Arc<AtomicBool>,
    /// The metric that selects the best epoch; shown besides the usual two.
    select_by: String,
    bar: Option<ProgressBar>,
    started: Instant,
    /// Steps that were done before this process.
    resumed_at: u64,
    epoch: String,
    /// Loss, speed and time left as of the last report.
    state: String,
}

impl Progress {
    pub fn new(quiet: bool, select_by: &str) -> Self {
        Progress {
            quiet,
            bars: MultiProgress::with_draw_target(draw_target(quiet)),
            stage: String::new(),
            others_failed: Arc::default(),
            select_by: select_by.into(),
            bar: None,
            started: Instant::now(),
            resumed_at: 0,
            epoch: String::new(),
            state: String::new(),
        }
    }

    /// Prints without tearing the bars.
    fn print(&self, line: &str, print: impl Fn(&str)) {
        self.bars.suspend(|| print(line));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }

    /// From the mean speed so far; patience may end the run sooner.
    fn time_left(&self, bar: &ProgressBar) -> HumanDuration {
        let done = bar.position().saturating_sub(self.resumed_at).max(1);
        let left = bar.length().unwrap_or(0).saturating_sub(bar.position());
        HumanDuration(Duration::from_secs((self.started.elapsed().as_secs_f64() / done as f64 * left as f64) as u64))
    }
}

impl Observer for Progress {
    fn epoch_started(&mut self, epoch: usize, epochs: usize, steps: usize, done: usize) {
        if self.bar.is_none() {
            let bar = self.bars.add(bar(epochs * steps, TEMPLATE, self.quiet));
            self.resumed_at = ((epoch - 1) * steps + done) as u64;
            self.started = Instant::now();
            bar.set_position(self.resumed_at);
            bar.enable_steady_tick(Duration::from_millis(200));
            self.bar = Some(bar);
        }
        self.epoch = format!("{}epoch {epoch}/{epochs}", self.stage);
        self.bar.iter().for_each(|bar| bar.set_message(format!("{}{}", self.epoch, self.state)));
    }

    fn steps_done(&mut self, steps: usize, loss: Option<f32>, tokens_per_second: f64) {
        let Some(bar) = &self.bar else { return };
        bar.inc(steps as u64);
        let loss = loss.map_or(String::new(), |loss| format!("  loss {loss:.4}"));
        self.state =
            format!("{loss}  {:.0}k tokens/s  at most {:#} left", tokens_per_second / 1e3, self.time_left(bar));
        bar.set_message(format!("{}{}", self.epoch, self.state));
    }

    fn begins(&mut self, what: &str) {
        self.finish();
        self.bar = None;
        self.state.clear();
        if !self.quiet {
            self.print(&format!("\n{what}"), |line| drop(say(line)));
        }
    }

    fn evaluation_begins(&mut self, runs: usize) -> Box<dyn FnMut() -> bool> {
        let (bar, epoch, others_failed) = (self.bar.clone(), self.epoch.clone(), self.others_failed.clone());
        let mut done = 0;
        Box::new(move || {
            done += 1;
            let message = || format!("{epoch}  evaluating, {}%", 100 * done / runs.max(done));
            bar.iter().for_each(|bar| bar.set_message(message()));
            interrupt::requested() || others_failed.load(Relaxed)
        })
    }

    fn epoch_finished(&mut self, report: &EpochReport, best_epoch: usize) -> Result<()> {
        if !self.quiet {
            let line = epoch_line(report, best_epoch, &self.select_by);
            self.print(&format!("{}{line}", self.stage), |line| drop(say(line)));
        }
        Ok(())
    }

    fn warning(&mut self, message: &str) {
        self.print(&format!("warning: {}{message}", self.stage), |line| note(line));
    }

    fn beside(&self, stage: &str, others_failed: Arc<AtomicBool>) -> Box<dyn Observer + Send> {
        let (bars, stage) = (self.bars.clone(), format!("{stage}  "));
        Box::new(Progress { bars, stage, others_failed, ..Progress::new(self.quiet, &self.select_by) })
    }

    fn wants_to_stop(&mut self) -> bool {
        interrupt::requested() || self.others_failed.load(Relaxed)
    }
}

/// `epoch   3  loss 7.1234  valid ndcg@20 0.0512  hr@10 0.0731  12.3 s  best`; learned keep probabilities after the loss, and
/// nothing of a validation that was left out.
fn epoch_line(report: &EpochReport, best_epoch: usize, select_by: &str) -> String {
    let loss = report.losses.get("loss").and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN);
    let mut keys = vec!["ndcg@20", "hr@10", "auc", "gauc"];
    keys.extend((!keys.contains(&select_by)).then_some(select_by));
    let valid: Vec<String> =
        keys.into_iter().filter_map(|key| Some(format!("{key} {:.4}", report.valid.get(key)?))).collect();
    let keeps = report.losses.iter().filter(|(name, _)| name.starts_with("keep_"));
    let keeps: String = keeps.filter_map(|(_, keep)| Some(format!(" {:.3}", keep.as_f64()?))).collect();
    let keeps = if keeps.is_empty() { keeps } else { format!("  keep{keeps}") };
    let valid = if valid.is_empty() { String::new() } else { format!("  valid {}", valid.join("  ")) };
    let best = if best_epoch == report.epoch { "  best" } else { "" };
    format!("epoch {:>3}  loss {loss:.4}{keeps}{valid}  {:.1} s{best}", report.epoch, report.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Metrics;

    #[test]
    fn a_line_has_loss_metrics_time_and_marks_the_best_epoch() {
        let report = EpochReport {
            epoch: 3,
            step: 9,
            losses: serde_json::from_str(r#"{"loss": 2.5, "ssl": 1.0}"#).unwrap(),
            valid: Metrics::from_ranks(&[1, 30]),
            seconds: 1.25,
            tokens_per_second: 1e5,
        };
        assert_eq!(
            epoch_line(&report, 3, "ndcg@20"),
            "epoch   3  loss 2.5000  valid ndcg@20 0.5000  hr@10 0.5000  1.2 s  best"
        );
        assert!(epoch_line(&report, 2, "mrr").ends_with("mrr 0.5167  1.2 s"));
        let losses = serde_json::from_str(r#"{"loss": 2.5, "keep_block0": 0.5, "keep_block1": 0.25}"#).unwrap();
        let learned = EpochReport { losses, ..report };
        assert!(epoch_line(&learned, 2, "mrr").starts_with("epoch   3  loss 2.5000  keep 0.500 0.250  valid "));
        let not_validated = EpochReport { valid: Metrics::default(), ..learned };
        assert_eq!(epoch_line(&not_validated, 2, "mrr"), "epoch   3  loss 2.5000  keep 0.500 0.250  1.2 s");
    }
}
