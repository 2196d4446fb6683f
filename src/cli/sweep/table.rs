//! The table of a sweep, a row for each finished cell: for the terminal, as `table.md` and as `table.csv`.

use super::cells::Cell;
use crate::cli::console::table;
use crate::cli::seeds::{SeedResults, with_deviation};
use crate::error::{Error, Result};
use crate::eval::metrics::FIGURES;
use crate::files::write_atomically;
use std::path::Path;
use toml::Value;

pub type Row<'a> = (&'a Cell, SeedResults);

/// For the terminal.
pub fn text(rows: &[Row]) -> String {
    let header = header();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    format!("{}\n{CAPTION}", table(&header, rows.iter().map(cells), 1))
}

/// Writes `table.md` and `table.csv` into the folder of the sweep.
pub fn write(folder: &Path, rows: &[Row]) -> Result<()> {
    write_atomically(&folder.join("table.md"), markdown(rows).as_bytes())?;
    let path = folder.join("table.csv");
    write_atomically(&path, &csv(rows).map_err(|e| Error::io("write", &path, e))?)
}

const CAPTION: &str = "Test, history excluded; mean over seeds, ± standard deviation where there are several.";

fn header() -> Vec<String> {
    std::iter::once("cell".to_string()).chain(FIGURES.map(str::to_uppercase)).collect()
}

fn cells((cell, results): &Row) -> Vec<String> {
    std::iter::once(cell.name.clone()).chain(results.test().iter().map(with_deviation)).collect()
}

fn markdown(rows: &[Row]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let rule = format!("|---|{}\n", "---:|".repeat(FIGURES.len()));
    [line(header()), rule].into_iter().chain(rows.iter().map(|row| line(cells(row)))).collect::<String>()
        + &format!("\n{CAPTION}\n")
}

/// A column for each key in which cells differ; mean and standard deviation in full precision.
fn csv(rows: &[Row]) -> std::io::Result<Vec<u8>> {
    let mut keys: Vec<&String> = rows.iter().flat_map(|(cell, _)| cell.own.iter().map(|(key, _)| key)).collect();
    keys.sort();
    keys.dedup();
    let mut writer = csv::Writer::from_writer(Vec::new());
    let figures = FIGURES.iter().flat_map(|key| [key.to_string(), format!("{key}_sd")]);
    let names = ["cell", "method", "seeds"].map(String::from).into_iter();
    writer.write_record(names.chain(keys.iter().map(|key| key.to_string())).chain(figures))?;
    for (cell, results) in rows {
        let own = |key: &&String| {
            // A variant's keys come after the grid's, and win.
            let value = cell.own.iter().rev().find(|(known, _)| known == *key).map(|(_, value)| value);
            value.map_or(String::new(), |value| match value {
                Value::String(text) => text.clone(),
                value => value.to_string(),
            })
        };
        let figures = results.test().into_iter().flat_map(|summary| [Some(summary.mean), summary.sd]);
        let figures = figures.map(|figure| figure.map_or(String::new(), |figure| figure.to_string()));
        let names = [cell.name.clone(), cell.method.clone(), results.runs.len().to_string()].into_iter();
        writer.write_record(names.chain(keys.iter().map(own)).chain(figures))?;
    }
    writer.into_inner().map_err(|e| e.into_error())
}
