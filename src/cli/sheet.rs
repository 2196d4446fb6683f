//! Tables of measurements, for the terminal, as Markdown, as csv and as cells of a page: rows with names and with a summary for
//! each metric. The metrics of a table are those of all its rows, in the order in which they first appear.

use super::console::table;
use super::seeds::with_deviation;
use crate::eval::Summary;

/// Metrics by key.
pub type Figures = Vec<(String, Summary)>;

/// A column of names.
#[derive(Clone, Debug)]
pub struct Column {
    name: String,
    /// Set to the right in Markdown.
    is_number: bool,
}

/// Of words.
pub fn words(name: &str) -> Column {
    Column { name: name.into(), is_number: false }
}

/// Of numbers.
pub fn numbers(name: &str) -> Column {
    Column { name: name.into(), is_number: true }
}

#[derive(Clone, Debug)]
pub struct Row {
    /// One for each column of names.
    pub names: Vec<String>,
    pub figures: Figures,
    /// By others: not measured here.
    pub published: bool,
}

pub struct Sheet {
    columns: Vec<Column>,
    rows: Vec<Row>,
    /// Of the metrics.
    keys: Vec<String>,
}

impl Sheet {
    pub fn new(columns: impl IntoIterator<Item = Column>, rows: impl IntoIterator<Item = Row>) -> Sheet {
        let (columns, rows): (Vec<Column>, Vec<Row>) = (columns.into_iter().collect(), rows.into_iter().collect());
        debug_assert!(rows.iter().all(|row| row.names.len() == columns.len()));
        let mut keys: Vec<String> = Vec::new();
        for (key, _) in rows.iter().flat_map(|row| &row.figures) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        Sheet { columns, rows, keys }
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn header(&self) -> Vec<String> {
        let names = self.columns.iter().map(|column| column.name.clone());
        names.chain(self.keys.iter().map(|key| key.to_uppercase())).collect()
    }

    /// The cells of a row, as people read them; a dash where there is no figure.
    pub fn cells(&self, row: &Row) -> Vec<String> {
        let figure = |key: &String| row.figure(key).map_or("-".into(), with_deviation);
        row.names.iter().cloned().chain(self.keys.iter().map(figure)).collect()
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let header = self.header();
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        table(&header, self.rows.iter().map(|row| self.cells(row)), self.columns.len()).to_string()
    }

    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| {
            let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let names = self.columns.iter().map(|column| column.is_number);
        let rule =
            names.chain(self.keys.iter().map(|_| true)).map(|is_number| if is_number { "---:|" } else { "---|" });
        let rows = self.rows.iter().map(|row| line(self.cells(row)));
        format!("{}|{}\n{}", line(self.header()), rule.collect::<String>(), rows.collect::<String>())
    }

    /// Mean and standard deviation in full precision; nothing where there is none.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut write = |record: Vec<String>| writer.write_record(record).expect("memory takes rows of one length");
        let names = self.columns.iter().map(|column| column.name.clone());
        write(names.chain(self.keys.iter().flat_map(|key| [key.clone(), format!("{key}_sd")])).collect());
        for row in &self.rows {
            let pair = |key: &String| row.figure(key).map_or([None; 2], |summary| [Some(summary.mean), summary.sd]);
            let figures = self.keys.iter().flat_map(pair).map(|figure| figure.filter(|figure| !figure.is_nan()));
            let figures = figures.map(|figure| figure.map_or(String::new(), |figure| figure.to_string()));
            write(row.names.iter().cloned().chain(figures).collect());
        }
        let bytes = writer.into_inner().expect("memory takes all bytes");
        String::from_utf8(bytes).expect("rows of text")
    }
}

impl Row {
    /// Of runs of ours.
    pub fn measured(names: impl IntoIterator<Item = String>, figures: Figures) -> Row {
        Row { names: names.into_iter().collect(), figures, published: false }
    }

    pub fn published(names: impl IntoIterator<Item = String>, figures: Figures) -> Row {
        Row { names: names.into_iter().collect(), figures, published: true }
    }

    fn figure(&self, key: &str) -> Option<&Summary> {
        self.figures.iter().find(|(known, _)| known == key).map(|(_, summary)| summary)
    }
}

/// What Markdown would take for its own, and what would end a line.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => escaped.push(' '),
            '|' | '<' | '>' | '&' | '*' | '`' | '[' | ']' | '\\' => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(all: &[(&str, &[f64])]) -> Figures {
        all.iter().map(|(key, values)| (key.to_string(), Summary::of(values.to_vec()))).collect()
    }

    #[test]
    fn rows_with_different_metrics_share_a_table() {
        let rows = [
            Row::measured(["fm|1".into(), "2".into()], figures(&[("auc", &[0.5, 0.75])])),
            Row::published(["pop".into(), String::new()], figures(&[("hr@5", &[f64::NAN]), ("auc", &[0.25])])),
        ];
        let sheet = Sheet::new([words("run"), numbers("seeds")], rows);
        let markdown = "| run | seeds | AUC | HR@5 |\n|---|---:|---:|---:|\n\
                        | fm\\|1 | 2 | 0.6250 ± 0.1768 | - |\n| pop |  | 0.2500 | - |\n";
        assert_eq!(sheet.markdown(), markdown);
        let csv = "run,seeds,auc,auc_sd,hr@5,hr@5_sd\nfm|1,2,0.625,0.1767766952966369,,\npop,,0.25,,,\n";
        assert_eq!(sheet.csv(), csv);
        assert!(sheet.text().contains("HR@5"), "{}", sheet.text());
    }

    #[test]
    fn a_table_without_rows_has_its_header() {
        assert_eq!(Sheet::new([words("run")], []).csv(), "run\n");
    }
}
