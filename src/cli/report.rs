//! `report.md` of a run: what was done, the table, the curves, and how to do it again.

use super::results::Results;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::train::{EpochReport, Run, RunResult};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

const PICTURE: &str = "report.svg";
const PICTURE_SIZE: (u32, u32) = (960, 320);

type PlotResult<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub struct Report<'a> {
    pub run: &'a Run,
    pub result: &'a RunResult,
    pub results: &'a Results,
    /// The command line that gives this run again.
    pub command: String,
}

/// Writes `report.md`, and `report.svg` where there are epochs to draw.
pub fn write(report: &Report) -> Result<()> {
    let out = &report.run.options.out;
    let epochs = read_epochs(&out.join("metrics.jsonl"))?;
    let metric = &report.run.method().training().select_by;
    // A report without its picture is still a report.
    let picture = if epochs.is_empty() { None } else { curves(&epochs, metric).ok() };
    if let Some(svg) = &picture {
        write_atomically(&out.join(PICTURE), svg.as_bytes())?;
    }
    write_atomically(&out.join("report.md"), text(report, picture.is_some()).as_bytes())
}

fn read_epochs(path: &Path) -> Result<Vec<EpochReport>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let parse = |line| serde_json::from_str(line);
    text.lines()
        .map(parse)
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::Format { path: path.into(), problem: format!("not a line of an epoch: {e}") })
}

fn text(report: &Report, with_picture: bool) -> String {
    let Report { run, result, results, command } = report;
    let picture = if with_picture {
        format!("## Training\n\n![Loss and validation by epoch]({PICTURE})\n\n")
    } else {
        String::new()
    };
    let device_command = format!("gpurec eval --checkpoint {}", run.options.out.display());
    format!(
        "# {title} on {dataset}\n\n\
         | | |\n|---|---|\n\
         | method | {title}: {paper} |\n\
         | data | {dataset}: {statistics} |\n\
         | device | {device} |\n\
         | seed | {seed} |\n\
         | epochs | {epochs} |\n\
         | seconds | {seconds:.1} |\n\
         | written by | gpurec {version} |\n\n\
         ## Results\n\n{table}\n\
         {picture}\
         ## Again\n\n```sh\n{command}\n{device_command}\n```\n\n\
         ## Configuration\n\n```toml\n{config}```\n",
        title = run.info.title,
        paper = run.info.paper,
        dataset = result.dataset,
        statistics = run.data.statistics(),
        device = result.device,
        seed = result.seed,
        epochs =
            if result.epochs == 0 { "none".into() } else { format!("{}, best {}", result.epochs, result.best_epoch) },
        seconds = result.seconds,
        version = env!("CARGO_PKG_VERSION"),
        table = results.markdown(),
        config = run.config_text(),
    )
}

/// Loss on the left, the metric that selects the best epoch on the right; by epoch.
fn curves(epochs: &[EpochReport], metric: &str) -> PlotResult<String> {
    let loss = |e: &EpochReport| e.losses.get("loss").and_then(serde_json::Value::as_f64);
    let points = |value: &dyn Fn(&EpochReport) -> Option<f64>| -> Vec<(f64, f64)> {
        epochs.iter().filter_map(|e| Some((e.epoch as f64, value(e)?))).collect()
    };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, PICTURE_SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let panels = root.split_evenly((1, 2));
        panel(&panels[0], "training loss", &points(&loss))?;
        panel(&panels[1], &format!("validation {metric}"), &points(&|e| e.valid.get(metric)))?;
        root.present()?;
    }
    Ok(svg)
}

fn panel(area: &DrawingArea<SVGBackend, Shift>, title: &str, points: &[(f64, f64)]) -> PlotResult<()> {
    let (low, high) = points.iter().fold((f64::MAX, f64::MIN), |(low, high), p| (low.min(p.1), high.max(p.1)));
    if low > high {
        return Ok(());
    }
    let (first, last) = (points[0].0, points[points.len() - 1].0.max(points[0].0 + 1.0));
    let margin = (0.05 * (high - low)).max(1e-6 * high.abs()).max(1e-9);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(56)
        .build_cartesian_2d(first..last, low - margin..high + margin)?;
    let whole = |x: &f64| if x.fract() == 0.0 { format!("{x}") } else { String::new() };
    chart.configure_mesh().x_desc("epoch").x_label_formatter(&whole).light_line_style(WHITE).draw()?;
    chart.draw_series(LineSeries::new(points.iter().copied(), BLUE.stroke_width(2)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Metrics;

    #[test]
    fn curves_are_drawn_from_one_epoch_on() {
        for n in [1, 2, 50] {
            let epoch = |epoch| EpochReport {
                epoch,
                step: 0,
                losses: serde_json::from_str(&format!(r#"{{"loss": {}}}"#, 7.0 / epoch as f64)).unwrap(),
                valid: Metrics::from_ranks(&[epoch as u32]),
                seconds: 1.0,
                tokens_per_second: 1.0,
            };
            let svg = curves(&(1..=n).map(epoch).collect::<Vec<_>>(), "ndcg@20").unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
            assert!(svg.contains("<polyline") && svg.contains("validation ndcg@20"), "{svg}");
        }
    }
}
