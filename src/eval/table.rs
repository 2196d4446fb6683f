//! Methods side by side: one row each, HR and NDCG at 5, 10 and 20.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use super::metrics::{KS, Metrics};

/// A figure as tables show it; one that there is not is a dash.
pub fn shown(figure: f64) -> String {
    if figure.is_nan() { "-".into() } else { format!("{figure:.4}") }
}

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

fn header() -> Vec<String> {
    let names = ["HR", "NDCG"].into_iter().flat_map(|name| KS.map(|k| format!("{name}@{k}")));
    std::iter::once("method".to_owned()).chain(names).collect()
}

fn cells(label: &str, metrics: &Metrics) -> Vec<String> {
    std::iter::once(label.to_owned()).chain(metrics.figures().map(shown)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_table_holds_the_same_cells() {
        let ours = Metrics::from_ranks(&[1, 8, 30]);
        let text = comparison_table(&[("ours".to_owned(), &ours)]).to_string();
        assert!(cells("ours", &ours).into_iter().chain(header()).all(|cell| text.contains(&cell)), "{text}");
    }
}
