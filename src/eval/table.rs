//! Methods side by side, one row each: HR and NDCG at 5, 10 and 20, or AUC and GAUC.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use super::metrics::Metrics;

/// A figure as tables show it; one that there is not is a dash.
pub fn shown(figure: f64) -> String {
    if figure.is_nan() { "-".into() } else { format!("{figure:.4}") }
}

/// A table for the terminal.
pub fn comparison_table<L: AsRef<str>>(rows: &[(L, &Metrics)]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header(rows.first().map(|(_, metrics)| *metrics)));
    for (label, metrics) in rows {
        table.add_row(cells(label.as_ref(), metrics));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn header(first: Option<&Metrics>) -> Vec<String> {
    let names = first.into_iter().flat_map(Metrics::shown).map(|(key, _)| key.to_uppercase());
    std::iter::once(String::new()).chain(names).collect()
}

fn cells(label: &str, metrics: &Metrics) -> Vec<String> {
    std::iter::once(label.to_owned()).chain(metrics.shown().map(|(_, value)| shown(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_table_holds_the_same_cells() {
        let ours = Metrics::from_ranks(&[1, 8, 30]);
        let text = comparison_table(&[("ours".to_owned(), &ours)]).to_string();
        assert!(cells("ours", &ours).into_iter().chain(header(Some(&ours))).all(|cell| text.contains(&cell)), "{text}");
    }
}
