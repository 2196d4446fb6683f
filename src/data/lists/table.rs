//! The wanted columns of a table as numbers: every text has one, the same in all columns.

use super::schema::Schema;
use crate::data::formats::Format;
use crate::data::log::{Names, index_of};
use crate::data::read::delimited::{Row, Rows};
use crate::data::read::text::{Place, unpacked};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// A column, or the values in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub column: String,
    /// What is between values, where it holds several.
    pub separator: Option<String>,
}

/// Rows of numbers: row `r` of a column has `ids[offsets[r] .. offsets[r + 1]]`.
struct Column {
    offsets: Vec<u32>,
    ids: Vec<u32>,
}

/// A table in memory.
pub struct Table {
    pub path: PathBuf,
    columns: Vec<Column>,
    /// Line of each row, from 1.
    lines: Vec<u32>,
    /// By number.
    texts: Names,
}

impl Table {
    /// Reads csv and tsv, in gzip or not. Columns are known by their places in `wanted`.
    pub fn read(path: &Path, schema: &Schema, wanted: &[Wanted]) -> Result<Table> {
        let failed = |e| Error::io("read", path, e);
        let delimiter = delimiter(path, schema)?;
        let file = BufReader::with_capacity(1 << 18, File::open(path).map_err(failed)?);
        let mut rows = Rows::new(unpacked(Box::new(file), path)?, path, delimiter);
        let mut table = Table {
            path: path.into(),
            columns: wanted.iter().map(|_| Column { offsets: vec![0], ids: Vec::new() }).collect(),
            lines: Vec::new(),
            texts: Names::default(),
        };
        let places = rows.next()?.map_or(Ok(Vec::new()), |header| places(&header, wanted))?;
        while let Some(row) = rows.next()? {
            for ((place, wanted), column) in places.iter().zip(wanted).zip(&mut table.columns) {
                let mut put = |text: &str| column.ids.push(index_of(&mut table.texts, text));
                let text = row.text(*place)?;
                match &wanted.separator {
                    Some(separator) => {
                        text.split(separator.as_str()).map(str::trim).filter(|t| !t.is_empty()).for_each(&mut put)
                    }
                    None => put(text.trim()),
                }
                column.offsets.push(column.ids.len() as u32);
            }
            table.lines.push(row.line() as u32);
        }
        if table.lines.is_empty() {
            let help = "the first line names the columns, and each line after it is a list or an impression";
            return Err(Place { path, line: 1 }.error(1, "the file holds no lists".into(), help));
        }
        Ok(table)
    }

    pub fn rows(&self) -> usize {
        self.lines.len()
    }

    /// The values of a row in a column: one where the column was wanted without a separator.
    pub fn values(&self, column: usize, row: usize) -> &[u32] {
        let Column { offsets, ids } = &self.columns[column];
        &ids[offsets[row] as usize..offsets[row + 1] as usize]
    }

    /// The text of a number.
    pub fn text(&self, number: u32) -> &str {
        &self.texts[number as usize]
    }

    /// The line of a row.
    pub fn place(&self, row: usize) -> Place<'_> {
        Place { path: &self.path, line: self.lines[row] as usize }
    }

    /// Something is wrong in a row.
    pub fn error(&self, row: usize, problem: String, help: &str) -> Error {
        self.place(row).error(1, problem, help)
    }
}

/// What is between columns: what the schema says, else a comma in csv and a tab in other files.
fn delimiter(path: &Path, schema: &Schema) -> Result<u8> {
    let format = Format::of_file(path).map(Format::name);
    if let Some(name @ ("jsonl" | "parquet")) = format {
        let problem =
            format!("{}: a log of lists is a csv or tsv file, and this one is called .{name}", path.display());
        return Err(Error::usage(
            problem,
            "write it as csv or tsv; a schema says what the columns of such a file mean",
        ));
    }
    let delimiter = schema.delimiter.unwrap_or(if format == Some("csv") { ',' } else { '\t' });
    match u8::try_from(delimiter) {
        Ok(delimiter) if delimiter.is_ascii() => Ok(delimiter),
        _ => Err(Error::usage(
            format!("`{delimiter}` cannot separate columns"),
            "give an ASCII character as `delimiter`",
        )),
    }
}

/// Which fields of a row are wanted.
fn places(header: &Row, wanted: &[Wanted]) -> Result<Vec<usize>> {
    let names: Vec<&str> = header.names()?.into_iter().map(str::trim).collect();
    let place = |wanted: &Wanted| {
        names.iter().position(|name| *name == wanted.column).ok_or_else(|| {
            let error = Error::unknown("column", &wanted.column, &names);
            header.error(0, error.to_string(), &error.help().unwrap_or_default())
        })
    };
    wanted.iter().map(place).collect()
}
