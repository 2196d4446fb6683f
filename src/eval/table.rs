//! Methods side by side: one row each, HR and NDCG at 5, 10 and 20, in the terminal and in Markdown.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use super::metrics::{KS, Metrics};

/// What stands in a cell that was not measured.
const ABSENT: &str = "-";

/// A table for the terminal.
pub fn comparison_table<L: AsRef<str>>(rows: &[(L, &Metrics)]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header());
    for (label, metrics) in rows {
        table.add_row(cells(label.as_ref(), metrics));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The same table as Markdown, with a line break at its end.
pub fn comparison_markdown<L: AsRef<str>>(rows: &[(L, &Metrics)]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = line(header());
    out += &format!("|---|{}\n", "---:|".repeat(2 * KS.len()));
    for (label, metrics) in rows {
        out += &line(cells(&label.as_ref().replace('|', "\\|"), metrics));
    }
    out
}

fn header() -> Vec<String> {
    let names = ["HR", "NDCG"].into_iter().flat_map(|name| KS.map(|k| format!("{name}@{k}")));
    std::iter::once("method".to_owned()).chain(names).collect()
}

fn cells(label: &str, metrics: &Metrics) -> Vec<String> {
    let figures = metrics.figures().map(|figure| if figure.is_nan() { ABSENT.into() } else { format!("{figure:.4}") });
    std::iter::once(label.to_owned()).chain(figures).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_has_one_row_per_method_with_four_decimals() {
        let ours = Metrics::from_ranks(&[1, 8, 30]);
        let theirs = Metrics { hr: vec![(10, 0.0439)], ndcg: vec![], mrr: f64::NAN };
        let expected = "\
| method | HR@5 | HR@10 | HR@20 | NDCG@5 | NDCG@10 | NDCG@20 |
|---|---:|---:|---:|---:|---:|---:|
| ours | 0.3333 | 0.6667 | 0.6667 | 0.3333 | 0.4385 | 0.4385 |
| theirs \\| 2022 | - | 0.0439 | - | - | - | - |
";
        assert_eq!(comparison_markdown(&[("ours", &ours), ("theirs | 2022", &theirs)]), expected);
    }

    #[test]
    fn the_terminal_table_holds_the_same_cells() {
        let ours = Metrics::from_ranks(&[1, 8, 30]);
        let text = comparison_table(&[("ours".to_owned(), &ours)]).to_string();
        assert!(cells("ours", &ours).into_iter().chain(header()).all(|cell| text.contains(&cell)), "{text}");
    }
}
