//! The roofline picture: each measurement by its arithmetic intensity, under the ceilings of the device.

use super::report::{Report, Row};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use plotters::prelude::*;
use std::ops::Range;
use std::path::Path;

const SIZE: (u32, u32) = (960, 600);

pub fn write(report: &Report, path: &Path) -> Result<()> {
    let failed =
        |e: Box<dyn std::error::Error>| Error::Format { path: path.into(), problem: format!("no picture: {e}") };
    write_atomically(path, draw(report).map_err(failed)?.as_bytes())
}

/// FLOP per byte of the mathematics: what a perfect cache would leave.
fn intensity(row: &Row) -> f64 {
    row.gflops / row.gbps
}

/// Powers of ten around positive values.
fn decades(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let (low, high) = (values.clone().fold(f64::MAX, f64::min), values.fold(f64::MIN_POSITIVE, f64::max));
    10f64.powf(low.log10().floor())..10f64.powf(high.log10().floor() + 1.0)
}

fn draw(report: &Report) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let rows: Vec<&Row> = report.results.iter().filter(|row| row.gflops > 0.0 && row.gbps > 0.0).collect();
    let (peak, slope) = (report.peaks.gflops, report.peaks.gbps);
    let ridge = peak / slope;
    let x = decades(rows.iter().map(|row| intensity(row)).chain([ridge]));
    let y = decades(rows.iter().map(|row| row.gflops).chain([peak]));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{}: {peak:.0} GFLOP/s, {slope:.1} GB/s", report.device), ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x.clone().log_scale(), y.clone().log_scale())?;
        chart.configure_mesh().x_desc("FLOP per byte").y_desc("GFLOP/s").light_line_style(WHITE).draw()?;
        let foot = (y.start / slope).max(x.start);
        let roof = [(foot, foot * slope), (ridge, peak), (x.end, peak)];
        chart.draw_series(LineSeries::new(roof, BLACK.stroke_width(2)))?;
        let mut kernels: Vec<&str> = rows.iter().map(|row| row.kernel.as_str()).collect();
        kernels.dedup();
        for (index, kernel) in kernels.into_iter().enumerate() {
            let color = Palette99::pick(index).to_rgba();
            let points = rows.iter().filter(|row| row.kernel == kernel).map(|row| {
                // Forward alone is a ring, with the gradient a disc.
                let style = if row.direction == "fwd" { color.stroke_width(2) } else { color.filled() };
                Circle::new((intensity(row), row.gflops), 5, style)
            });
            let legend = move |(x, y)| Circle::new((x + 6, y), 5, color.filled());
            chart.draw_series(points)?.label(kernel).legend(legend);
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}
