//! The table of a sweep, a row for each finished cell: for the terminal, as `table.md` and as `table.csv`.

use super::cells::{Cell, plain};
use crate::cli::results::PublishedRows;
use crate::cli::seeds::{SeedResults, Slice};
use crate::cli::sheet::{self, Sheet, numbers, words};
use crate::error::Result;
use crate::files::write_atomically;
use std::path::Path;

pub type Row<'a> = (&'a Cell, SeedResults);

/// For the terminal.
pub fn text(rows: &[Row], published: &PublishedRows) -> String {
    format!("{}\n{}", sheet(rows, published).text(), caption(published))
}

/// Writes `table.md` and `table.csv` into the folder of the sweep.
pub fn write(folder: &Path, rows: &[Row], published: &PublishedRows) -> Result<()> {
    write_atomically(&folder.join("table.md"), markdown(rows, published).as_bytes())?;
    write_atomically(&folder.join("table.csv"), settings_sheet(rows).csv().as_bytes())
}

fn markdown(rows: &[Row], published: &PublishedRows) -> String {
    format!("{}\n{}\n", sheet(rows, published).markdown(), caption(published).replace('\n', "  \n"))
}

/// Under each protocol our cells, then what was published.
fn sheet(rows: &[Row], published: &PublishedRows) -> Sheet {
    let under = |slice: &Slice| {
        let names = |name: String| [name, slice.title()];
        let ours = rows
            .iter()
            .filter_map(|(cell, results)| Some(sheet::Row::measured(names(cell.name.clone()), results.test(slice)?)));
        let theirs = published
            .rows(slice.protocol)
            .map(|(label, title, figures)| sheet::Row::published(names(format!("{title}, {label}")), figures));
        ours.chain(theirs.filter(|_| slice.kind.is_none())).collect::<Vec<_>>()
    };
    Sheet::new(["cell", "protocol"].map(words), slices(rows).iter().flat_map(under))
}

fn slices(rows: &[Row]) -> Vec<Slice> {
    Slice::all(rows.iter().map(|(_, results)| results))
}

fn caption(published: &PublishedRows) -> String {
    let ours = "Test; mean over seeds, ± standard deviation where there are several.";
    [vec![ours.to_string()], published.notes()].concat().join("\n")
}

/// The cells alone, with a column for each key in which they differ.
fn settings_sheet(rows: &[Row]) -> Sheet {
    let mut keys: Vec<&String> = rows.iter().flat_map(|(cell, _)| cell.own.iter().map(|(key, _)| key)).collect();
    keys.sort();
    keys.dedup();
    let columns = [words("cell"), words("method"), numbers("seeds"), words("protocol")];
    let slices = slices(rows);
    let lines = rows.iter().flat_map(|(cell, results)| {
        let own = |key: &&String| {
            // A variant's keys come after the grid's, and win.
            let value = cell.own.iter().rev().find(|(known, _)| known == *key).map(|(_, value)| value);
            value.map_or(String::new(), plain)
        };
        let own: Vec<String> = keys.iter().map(own).collect();
        slices.iter().filter_map(move |slice| {
            let seeds = results.runs.len().to_string();
            let names = [cell.name.clone(), cell.method.clone(), seeds, slice.to_string()];
            Some(sheet::Row::measured(names.into_iter().chain(own.iter().cloned()), results.test(slice)?))
        })
    });
    Sheet::new(columns.into_iter().chain(keys.iter().map(|key| words(key))), lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::seeds::example_result;
    use crate::eval::{Metrics, Protocol, published};
    use toml::Value;

    fn cell(name: &str, own: Vec<(String, Value)>) -> Cell {
        let [name, place] = [name.to_string(), name.to_string()];
        let (line, method) = (String::new(), "coserec".into());
        Cell { name, place, line, method, start_from: None, common: Vec::new(), own }
    }

    #[test]
    fn cells_stand_above_what_was_published() {
        let cell = cell("without_lma", Vec::new());
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

    #[test]
    fn cells_of_methods_with_different_metrics_share_the_tables() {
        let (fm, pop) = (cell("fm", vec![("dim".into(), Value::Integer(8))]), cell("pop", Vec::new()));
        let mut of_lists = example_result(1, &[1]);
        let metrics = Metrics::from_clicks(&[0.9, 0.1], &[true, false], 2).unwrap();
        of_lists.metrics.test = [(Protocol::Impressions, metrics.clone())].into_iter().collect();
        of_lists.metrics.valid = metrics;
        let results = |run| SeedResults { runs: vec![run] };
        let rows = [(&fm, results(of_lists)), (&pop, results(example_result(1, &[1, 30])))];
        let csv = settings_sheet(&rows).csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert!(lines[0].starts_with("cell,method,seeds,protocol,dim,auc,auc_sd,gauc,gauc_sd,hr@5,hr@5_sd,"), "{csv}");
        assert!(lines[1].starts_with("fm,coserec,1,impressions,8,1,,1,,,,"), "{csv}");
        assert!(lines[2].starts_with("pop,coserec,1,history-excluded,,,,,,0.5,,"), "{csv}");
        let text = markdown(&rows, &PublishedRows::default());
        assert!(text.contains("| fm | impressions | - | - | - | - | - | - | 1.0000 | 1.0000 |"), "{text}");
    }
}
