//! The pictures of a sweep: `figure.svg`, what each cell reached in the test, and `epochs.svg`, its way there in validation.

use super::table::Row;
use crate::cli::chart::{Frame, Measured, Series, over_epochs, over_places};
use crate::cli::seeds::Slice;
use crate::error::{Error, Result};
use crate::eval::Protocol;
use crate::files::{remove, write_atomically};
use crate::train::EpochReport;
use std::path::Path;

/// The metric of `figure.svg`: the first of these that the runs have.
const METRICS: [&str; 2] = ["ndcg@10", "auc"];

/// Draws the finished cells. `axis` is what their places are values of, `selected` the metric that chose the best epochs.
pub fn write(folder: &Path, rows: &[Row], axis: &str, selected: &str) -> Result<()> {
    let failed = |path: &Path, e: Box<dyn std::error::Error>| Error::Format {
        path: path.into(),
        problem: format!("no picture: {e}"),
    };
    let title = title(rows);
    let figure = over_places(&measured(rows), axis, &title);
    let frame = Frame { size: (760, 420), y: Some(&format!("validation {}", selected.to_uppercase())), legend: true };
    let epochs = over_epochs(&series(folder, rows, selected)?, frame);
    for (name, drawn) in [("figure.svg", figure), ("epochs.svg", epochs)] {
        let path = folder.join(name);
        match drawn.map_err(|e| failed(&path, e))? {
            Some(svg) => write_atomically(&path, svg.as_bytes())?,
            // One of other cells would be left from before.
            None => remove(&path)?,
        }
    }
    Ok(())
}

/// Metric and protocol of `figure.svg`.
fn shown(rows: &[Row]) -> Option<(&'static str, Protocol)> {
    let (_, results) = rows.first()?;
    let keys = results.keys();
    let metric = METRICS.into_iter().find(|metric| keys.iter().any(|key| key == metric))?;
    Protocol::ALL
        .into_iter()
        .find(|protocol| results.test(&Slice::whole(*protocol)).is_some())
        .map(|protocol| (metric, protocol))
}

fn title(rows: &[Row]) -> String {
    let name = |(metric, protocol): (&str, Protocol)| format!("{}, {}", metric.to_uppercase(), protocol.title());
    shown(rows).map(name).unwrap_or_default()
}

fn measured(rows: &[Row]) -> Vec<Measured> {
    let Some((metric, protocol)) = shown(rows) else { return Vec::new() };
    let one = |(cell, results): &Row| {
        let (_, summary) = results.test(&Slice::whole(protocol))?.into_iter().find(|(key, _)| key == metric)?;
        let (line, place) = (cell.line.clone(), cell.place.clone());
        Some(Measured { line, place, mean: summary.mean, sd: summary.sd.unwrap_or(0.0) })
    };
    rows.iter().filter_map(one).collect()
}

/// A line for each seed that trained.
fn series(folder: &Path, rows: &[Row], selected: &str) -> Result<Vec<Series>> {
    let runs = rows.iter().flat_map(|(cell, results)| results.runs.iter().map(move |run| (cell, run.seed)));
    let one = |(cell, seed): (&&super::cells::Cell, u64)| {
        let epochs = EpochReport::read_all(&folder.join(&cell.name).join(format!("seed{seed}")))?;
        let point = |epoch: &EpochReport| Some((epoch.epoch as f64, epoch.valid.get(selected)?));
        Ok((cell.name.clone(), epochs.iter().filter_map(point).collect()))
    };
    let trained = |series: &Result<Series>| series.as_ref().map_or(true, |(_, points)| !points.is_empty());
    runs.map(one).filter(trained).collect()
}
