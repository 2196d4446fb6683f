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
    let keys = shown_keys(rows.iter().map(|(_, metrics)| *metrics));
    let names = keys.iter().map(|key| key.to_uppercase());
    table.load_style(UTF8_FULL_CONDENSED).set_header(std::iter::once(String::new()).chain(names));
    for (label, metrics) in rows {
        table.add_row(std::iter::once(label.as_ref().to_owned()).chain(cells(&keys, metrics)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The keys that a table of these has columns for, in the order in which they first appear.
pub fn shown_keys<'m>(rows: impl IntoIterator<Item = &'m Metrics>) -> Vec<&'m str> {
    let mut keys = Vec::new();
    for (key, _) in rows.into_iter().flat_map(Metrics::shown) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// The cells of a row under these keys.
pub fn cells(keys: &[&str], metrics: &Metrics) -> Vec<String> {
    keys.iter().map(|key| shown(metrics.get(key).unwrap_or(f64::NAN))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_table_holds_the_same_cells() {
        let ours = Metrics::from_ranks(&[1, 8, 30]);
        let by_kind = Metrics::from_ranks(&[2]).with_off_policy(&[2], &[0.5]);
        let text = comparison_table(&[("ours", &ours), ("by kind", &by_kind)]).to_string();
        let keys = shown_keys([&ours, &by_kind]);
        assert_eq!((keys.len(), cells(&keys, &ours)[6].as_str()), (7, "-"));
        let names = keys.iter().map(|key| key.to_uppercase()).chain(["ours".into()]);
        assert!(names.chain(cells(&keys, &ours)).all(|cell| text.contains(&cell)), "{text}");
        assert!(text.contains("NDCG_OFF@10") && cells(&keys, &by_kind)[6] == "0.6309", "{text}");
    }
}
