//! The table of a sweep, a row for each finished cell: for the terminal, as `table.md` and as `table.csv`.

use super::cells::Cell;
use crate::cli::console::table;
use crate::cli::results::PublishedRows;
use crate::cli::seeds::{SeedResults, with_deviation};
use crate::error::{Error, Result};
use crate::eval::Protocol;
use crate::files::write_atomically;
use std::path::Path;
use toml::Value;

pub type Row<'a> = (&'a Cell, SeedResults);

/// For the terminal.
pub fn text(rows: &[Row], published: &PublishedRows) -> String {
    let header = header(rows);
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    format!("{}\n{}", table(&header, lines(rows, published), 2), caption(published))
}

/// Writes `table.md` and `table.csv` into the folder of the sweep.
pub fn write(folder: &Path, rows: &[Row], published: &PublishedRows) -> Result<()> {
    write_atomically(&folder.join("table.md"), markdown(rows, published).as_bytes())?;
    let path = folder.join("table.csv");
    write_atomically(&path, &csv(rows).map_err(|e| Error::io("write", &path, e))?)
}

fn metrics(rows: &[Row]) -> Vec<String> {
    rows.first().map(|(_, results)| results.keys()).unwrap_or_default()
}

fn header(rows: &[Row]) -> Vec<String> {
    let names = ["cell", "protocol"].map(String::from).into_iter();
    names.chain(metrics(rows).iter().map(|key| key.to_uppercase())).collect()
}

/// Under each protocol our cells, then what was published.
fn lines<'a>(rows: &'a [Row], published: &'a PublishedRows) -> impl Iterator<Item = Vec<String>> {
    Protocol::ALL.into_iter().flat_map(move |protocol| {
        let line = move |name: String, figures: Vec<String>| {
            [name, protocol.title().into()].into_iter().chain(figures).collect()
        };
        let ours = rows.iter().filter_map(move |(cell, results)| {
            Some(line(cell.name.clone(), results.test(protocol)?.iter().map(with_deviation).collect()))
        });
        let theirs = published
            .rows(protocol)
            .map(move |(label, title, figures)| line(format!("{title}, {label}"), figures.into()));
        ours.chain(theirs)
    })
}

fn caption(published: &PublishedRows) -> String {
    let ours = "Test; mean over seeds, ± standard deviation where there are several.";
    [vec![ours.to_string()], published.notes()].concat().join("\n")
}

fn markdown(rows: &[Row], published: &PublishedRows) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let rule = format!("|---|---|{}\n", "---:|".repeat(metrics(rows).len()));
    let table: String = [line(header(rows)), rule].into_iter().chain(lines(rows, published).map(line)).collect();
    format!("{table}\n{}\n", caption(published).replace('\n', "  \n"))
}

/// A column for each key in which cells differ; mean and standard deviation in full precision.
fn csv(rows: &[Row]) -> std::io::Result<Vec<u8>> {
    let mut keys: Vec<&String> = rows.iter().flat_map(|(cell, _)| cell.own.iter().map(|(key, _)| key)).collect();
    keys.sort();
    keys.dedup();
    let mut writer = csv::Writer::from_writer(Vec::new());
    let figures = metrics(rows).into_iter().flat_map(|key| [key.clone(), format!("{key}_sd")]);
    let names = ["cell", "method", "seeds", "protocol"].map(String::from).into_iter();
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
        for (protocol, figures) in
            Protocol::ALL.into_iter().filter_map(|protocol| Some((protocol, results.test(protocol)?)))
        {
            let figures = figures.into_iter().flat_map(|summary| [Some(summary.mean), summary.sd]);
            let figures = figures.map(|figure| figure.map_or(String::new(), |figure| figure.to_string()));
            let seeds = results.runs.len().to_string();
            let names = [cell.name.clone(), cell.method.clone(), seeds, protocol.to_string()].into_iter();
            writer.write_record(names.chain(keys.iter().map(own)).chain(figures))?;
        }
    }
    writer.into_inner().map_err(|e| e.into_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::seeds::example_result;
    use crate::eval::published;

    #[test]
    fn cells_stand_above_what_was_published() {
        let (name, method) = ("without_lma".to_string(), "coserec".to_string());
        let cell = Cell { name, method, common: Vec::new(), own: Vec::new() };
        let mut rows = PublishedRows::default();
        (0..2).for_each(|_| rows.add("CoSeRec", published("coserec", &toml::Table::new(), "Toys")));
        let text = markdown(&[(&cell, SeedResults { runs: vec![example_result(1, &[1, 30])] })], &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].starts_with("| without_lma | history excluded | 0.5000 |"), "{text}");
        assert!(lines[3].starts_with("| CoSeRec, published (1) | history excluded | 0.0623 | 0.0865 |"), "{text}");
        assert!(lines[4].starts_with("| without_lma | history kept | 0.5000 |"), "{text}");
        assert!(lines[5].starts_with("| without_lma | uni99 | 0.5000 |") && lines[6].is_empty(), "{text}");
        assert!(text.contains("\n(1) LMA4Rec (arXiv 2204.10128), Table 2."), "{text}");
    }
}
