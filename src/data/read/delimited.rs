//! Rows of csv, tsv and their kin, with what can be wrong with one.

use super::text::Place;
use crate::error::{Error, Result};
use csv::ByteRecord;
use std::io::BufRead;
use std::path::Path;

/// The rows of a text, the header among them, without a byte order mark. They need not be equally long.
pub(crate) struct Rows<'a> {
    reader: csv::Reader<Box<dyn BufRead + 'a>>,
    record: ByteRecord,
    origin: &'a Path,
}

/// One of them.
pub(crate) struct Row<'a> {
    record: &'a ByteRecord,
    place: Place<'a>,
}

impl<'a> Rows<'a> {
    /// Quotes mean something only where commas or semicolons separate.
    pub fn new(source: Box<dyn BufRead + 'a>, origin: &'a Path, separator: u8) -> Self {
        let reader = csv::ReaderBuilder::new()
            .delimiter(separator)
            .quoting(separator == b',' || separator == b';')
            .has_headers(false)
            .flexible(true)
            .from_reader(source);
        Rows { reader, record: ByteRecord::new(), origin }
    }

    pub fn next(&mut self) -> Result<Option<Row<'_>>> {
        let line = self.reader.position().line() as usize;
        let more = self.reader.read_byte_record(&mut self.record);
        if !more.map_err(|error| failed(error, Place { path: self.origin, line }))? {
            return Ok(None);
        }
        let line = self.record.position().map_or(line, |position| position.line() as usize);
        Ok(Some(Row { record: &self.record, place: Place { path: self.origin, line } }))
    }
}

fn failed(error: csv::Error, place: Place) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => place.unreadable(error),
        other => place.error(1, format!("{other:?}"), "see whether the separator and the quotes are right"),
    }
}

impl<'a> Row<'a> {
    /// From 1.
    pub fn line(&self) -> usize {
        self.place.line
    }

    /// What stands in a field.
    pub fn text(&self, field: usize) -> Result<&'a str> {
        let Some(bytes) = self.record.get(field) else {
            let n = self.record.len();
            let problem =
                format!("this line has {n} field{}, column {} is wanted", if n == 1 { "" } else { "s" }, field + 1);
            let help = "every line must have the columns of the first; is the separator right (--separator, or \
                        `delimiter` of a --schema)?";
            return Err(self.error(n, problem, help));
        };
        std::str::from_utf8(bytes).map_err(|error| self.place.not_utf8(self.column(field) + error.valid_up_to()))
    }

    /// All fields: the names of a header.
    pub fn names(&self) -> Result<Vec<&'a str>> {
        (0..self.record.len()).map(|field| self.text(field)).collect()
    }

    /// The name in a field; `role` is user, item or event.
    pub fn name(&self, field: usize, role: &str) -> Result<&'a str> {
        self.place.name(self.column(field), self.text(field)?, role)
    }

    /// The time in a field.
    pub fn time(&self, field: usize) -> Result<f64> {
        self.place.time(self.column(field), self.text(field)?)
    }

    /// Something is wrong in a field.
    pub fn error(&self, field: usize, problem: String, help: &str) -> Error {
        self.place.error(self.column(field), problem, help)
    }

    /// The byte column of a field, as far as nothing before it is quoted.
    fn column(&self, field: usize) -> usize {
        let start = self.record.range(field).map_or(self.record.as_slice().len(), |range| range.start);
        1 + start + field
    }
}
