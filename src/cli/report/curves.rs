//! Curves over epochs, each a small SVG that takes its ink from the page around it.

use crate::cli::chart::{Frame, Series, colour, over_epochs};
use crate::train::EpochReport;
use plotters::style::RGBColor;
use serde::Serialize;

/// The page has the names of the lines.
const FRAME: Frame = Frame { size: (480, 260), y: None, legend: false };

/// Lines that share their axes.
#[derive(Debug, Serialize)]
pub struct Curve {
    pub title: String,
    /// Name and colour of each line; empty where there is one.
    pub lines: Vec<Line>,
    pub svg: String,
}

#[derive(Debug, Serialize)]
pub struct Line {
    pub name: String,
    /// As CSS has it.
    pub colour: String,
}

/// Each loss by itself, the validation metrics, and the keep probabilities where the method learns them.
pub fn curves(epochs: &[EpochReport]) -> Vec<Curve> {
    let names: Vec<&String> = epochs.first().map_or(Vec::new(), |first| first.losses.keys().collect());
    let series = |name: &str, value: &dyn Fn(&EpochReport) -> Option<f64>| -> Series {
        let point = |e: &EpochReport| Some((e.epoch as f64, value(e).filter(|value| value.is_finite())?));
        (name.into(), epochs.iter().filter_map(point).collect())
    };
    let trained = |name: &str| series(name, &|e| e.losses.get(name)?.as_f64());
    let valid = |name: &str| {
        let keys = [5, 10, 20].map(|k| format!("{name}@{k}"));
        keys.map(|key| series(&key.to_uppercase(), &|e| e.valid.get(&key))).to_vec()
    };
    let (keeps, losses): (Vec<&String>, Vec<&String>) = names.into_iter().partition(|name| name.starts_with("keep_"));
    let mut groups: Vec<(String, Vec<Series>)> =
        losses.into_iter().map(|name| (format!("Training: {name}"), vec![trained(name)])).collect();
    groups.push((
        "Validation".into(),
        ["auc", "gauc"].map(|key| series(&key.to_uppercase(), &|e| e.valid.get(key))).into(),
    ));
    groups.push(("Validation".into(), valid("hr")));
    groups.push(("Validation".into(), valid("ndcg")));
    groups.push(("Keep probability".into(), keeps.into_iter().map(|name| trained(name)).collect()));
    groups.into_iter().filter_map(|(title, series)| curve(title, series)).collect()
}

/// `None` where there is no point to draw.
fn curve(title: String, series: Vec<Series>) -> Option<Curve> {
    // A report without a picture is still a report.
    let svg = over_epochs(&series, FRAME).ok()??;
    // Within HTML an SVG needs no namespace.
    let svg = svg.replace(r#" xmlns="http://www.w3.org/2000/svg""#, "");
    let line = |(place, (name, _)): (usize, Series)| {
        let RGBColor(r, g, b) = colour(place);
        Line { name, colour: format!("#{r:02x}{g:02x}{b:02x}") }
    };
    let lines = if series.len() == 1 { Vec::new() } else { series.into_iter().enumerate().map(line).collect() };
    Some(Curve { title, lines, svg })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Metrics;

    fn epochs(n: usize, losses: &str) -> Vec<EpochReport> {
        let epoch = |epoch| EpochReport {
            epoch,
            step: 0,
            losses: serde_json::from_str(losses).unwrap(),
            valid: Metrics::from_ranks(&[epoch as u32]),
            seconds: 1.0,
            tokens_per_second: 1.0,
        };
        (1..=n).map(epoch).collect()
    }

    #[test]
    fn every_loss_every_metric_and_every_keep_probability_has_its_line() {
        for n in [1, 2, 50] {
            let drawn =
                curves(&epochs(n, r#"{"loss": 2.5, "loss_ssl": 1.0, "keep_block0": 0.5, "keep_block1": 0.25}"#));
            let titles: Vec<&str> = drawn.iter().map(|curve| curve.title.as_str()).collect();
            assert_eq!(
                titles,
                ["Training: loss", "Training: loss_ssl", "Validation", "Validation", "Keep probability"]
            );
            let count = |curve: &Curve, colour: &str| curve.svg.matches(&colour.to_uppercase()).count();
            assert!(drawn.iter().all(|curve| curve.lines.iter().all(|line| count(curve, &line.colour) == 2)));
            assert_eq!(drawn[4].lines.iter().map(|l| &l.name[..]).collect::<Vec<_>>(), ["keep_block0", "keep_block1"]);
            assert!(drawn.iter().all(|curve| curve.svg.starts_with("<svg") && curve.svg.contains("<polyline")));
        }
    }

    #[test]
    fn what_is_not_a_number_is_left_out() {
        assert!(curves(&[]).is_empty());
        let drawn = curves(&epochs(3, r#"{"loss": null}"#));
        assert!(drawn.iter().all(|curve| curve.title == "Validation"), "{drawn:?}");
    }
}
