//! The wanted columns of a table as numbers: every text has one, the same in all columns.

use super::schema::Schema;
use crate::data::formats::Format;
use crate::data::log::{Names, index_of};
use crate::data::read::delimited::Rows;
use crate::data::read::parquet;
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

impl Column {
    /// Appends what a text holds: a value, or several where it was wanted with a separator.
    fn push(&mut self, texts: &mut Names, text: &str, wanted: &Wanted) {
        match &wanted.separator {
            Some(separator) => text.split(separator.as_str()).for_each(|value| self.push_one_of_several(texts, value)),
            None => self.ids.push(index_of(texts, text.trim())),
        }
    }

    /// Empty ones are left out.
    fn push_one_of_several(&mut self, texts: &mut Names, value: &str) {
        if !value.trim().is_empty() {
            self.ids.push(index_of(texts, value.trim()));
        }
    }

    fn end_row(&mut self) {
        self.offsets.push(self.ids.len() as u32);
    }
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
    /// Reads csv and tsv, in gzip or not, and parquet. Columns are known by their places in `wanted`.
    pub fn read(path: &Path, schema: &Schema, wanted: &[Wanted]) -> Result<Table> {
        let file = File::open(path).map_err(|error| Error::io("read", path, error))?;
        let mut table = Table {
            path: path.into(),
            columns: wanted.iter().map(|_| Column { offsets: vec![0], ids: Vec::new() }).collect(),
            lines: Vec::new(),
            texts: Names::default(),
        };
        match Format::of_file(path).map(Format::name) {
            Some("parquet") => table.read_parquet(file, schema, wanted)?,
            format => table.read_delimited(file, delimiter(path, schema, format)?, wanted)?,
        }
        if table.lines.is_empty() {
            let help = "the first line names the columns, and each line after it is a list or an impression";
            return Err(Place { path, line: 1 }.error(1, "the file holds no lists".into(), help));
        }
        Ok(table)
    }

    fn read_delimited(&mut self, file: File, delimiter: u8, wanted: &[Wanted]) -> Result<()> {
        let source = Box::new(BufReader::with_capacity(1 << 18, file));
        let mut rows = Rows::new(unpacked(source, &self.path)?, &self.path, delimiter);
        let Some(header) = rows.next()? else { return Ok(()) };
        let places = places(&header.names()?, wanted, |problem, help| header.error(0, problem, help))?;
        while let Some(row) = rows.next()? {
            for ((place, wanted), column) in places.iter().zip(wanted).zip(&mut self.columns) {
                column.push(&mut self.texts, row.text(*place)?, wanted);
                column.end_row();
            }
            self.lines.push(row.line() as u32);
        }
        Ok(())
    }

    /// A null is an empty text. A column of lists says what one of texts with separators does.
    fn read_parquet(&mut self, file: File, schema: &Schema, wanted: &[Wanted]) -> Result<()> {
        let path = self.path.clone();
        parquet::read(file, &path, |file| {
            let first = Place { path: &path, line: 1 };
            let places = places(&file.names(), wanted, |problem, help| first.error(1, problem, help))?;
            file.each_group(|group| {
                for ((place, wanted), column) in places.iter().zip(wanted).zip(&mut self.columns) {
                    let values = group.column(*place)?;
                    for row in 0..group.rows() {
                        let mut of_row = values.of_row(row).map(|value| values.text(value));
                        match (values.is_list, &wanted.separator) {
                            (true, Some(_)) => {
                                of_row.for_each(|text| column.push_one_of_several(&mut self.texts, &text))
                            }
                            (true, None) => {
                                let joined = of_row.collect::<Vec<_>>().join(&schema.separator);
                                column.push(&mut self.texts, &joined, wanted);
                            }
                            (false, _) => column.push(&mut self.texts, &of_row.next().unwrap_or_default(), wanted),
                        }
                        column.end_row();
                    }
                }
                self.lines.extend((0..group.rows()).map(|row| group.place(row).line as u32));
                Ok(())
            })
        })
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
fn delimiter(path: &Path, schema: &Schema, format: Option<&str>) -> Result<u8> {
    if format == Some("jsonl") {
        let problem =
            format!("{}: a log of lists is a csv, tsv or parquet file, and this one is called .jsonl", path.display());
        return Err(Error::usage(problem, "write it as one of these; a schema says what its columns mean"));
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

/// Which of the columns of these names are wanted.
fn places(names: &[&str], wanted: &[Wanted], refuse: impl Fn(String, &str) -> Error) -> Result<Vec<usize>> {
    let names: Vec<&str> = names.iter().map(|name| name.trim()).collect();
    let place = |wanted: &Wanted| {
        names.iter().position(|name| *name == wanted.column).ok_or_else(|| {
            let error = Error::unknown("column", &wanted.column, &names);
            refuse(error.to_string(), &error.help().unwrap_or_default())
        })
    };
    wanted.iter().map(place).collect()
}
