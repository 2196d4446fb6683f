//! csv, tsv and RecBole's `.inter`: one event a line, columns by name or number.

use std::io::BufRead;
use std::path::Path;

use super::{FormatInfo, Reader};
use crate::data::log::{Event, EventLog, parse_time};
use crate::data::read::ReadOptions;
use crate::data::read::columns::Places;
use crate::data::read::text::{Place, shortened};
use crate::error::{Error, Result};
use csv::ByteRecord;

pub(crate) const FORMATS: &[FormatInfo] = &[
    FormatInfo {
        name: "csv",
        content: "a header and one event a line; columns by their usual names, or by --user-col and so on",
        reader: Reader::Text(|source, origin, options| read(source, origin, options, b',')),
    },
    FormatInfo {
        name: "tsv",
        content: "the same, with tabs",
        reader: Reader::Text(|source, origin, options| read(source, origin, options, b'\t')),
    },
    FormatInfo {
        name: "inter",
        content: "RecBole's atomic file: a tsv whose header gives types, `user_id:token`",
        reader: Reader::Text(|source, origin, options| read(source, origin, options, b'\t')),
    },
];

/// Reads a table. Quotes mean something only where commas or semicolons separate.
fn read(source: Box<dyn BufRead + '_>, origin: &Path, options: &ReadOptions, separator: u8) -> Result<EventLog> {
    let separator = options.separator.and_then(|own| u8::try_from(own).ok()).unwrap_or(separator);
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .quoting(separator == b',' || separator == b';')
        .has_headers(false)
        .flexible(true)
        .from_reader(source);
    let (mut log, mut record, mut places) = (EventLog::default(), ByteRecord::new(), None);
    loop {
        let line = reader.position().line() as usize;
        let more = reader.read_byte_record(&mut record).map_err(|error| failed(error, Place { path: origin, line }))?;
        if !more {
            return Ok(log);
        }
        let line = record.position().map_or(line, |position| position.line() as usize);
        let row = Row { record: &record, place: Place { path: origin, line } };
        match places {
            Some(places) => log.push(row.event(&places)?),
            None => {
                let first: Vec<&str> = (0..record.len()).map(|i| row.text(i)).collect::<Result<_>>()?;
                let first: Vec<&str> = first.iter().map(|name| name.trim_start_matches('\u{feff}')).collect();
                let found = options.columns.find(&first, origin)?;
                if options.columns.no_header {
                    log.push(row.event(&found)?);
                }
                places = Some(found);
            }
        }
    }
}

fn failed(error: csv::Error, place: Place) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => place.unreadable(error),
        other => place.error(1, format!("{other:?}"), "see whether the separator and the quotes are right"),
    }
}

struct Row<'a> {
    record: &'a ByteRecord,
    place: Place<'a>,
}

impl<'a> Row<'a> {
    /// The byte column of a field, as far as nothing before it is quoted.
    fn column(&self, field: usize) -> usize {
        1 + self.record.iter().take(field).map(|field| field.len() + 1).sum::<usize>()
    }

    fn text(&self, field: usize) -> Result<&'a str> {
        let Some(bytes) = self.record.get(field) else {
            let (n, column) = (self.record.len(), self.column(self.record.len()));
            let problem =
                format!("this line has {n} field{}, column {} is wanted", if n == 1 { "" } else { "s" }, field + 1);
            let help = "every line must have the columns of the first; is the separator right (--separator)?";
            return Err(self.place.error(column, problem, help));
        };
        std::str::from_utf8(bytes).map_err(|error| self.place.not_utf8(self.column(field) + error.valid_up_to()))
    }

    fn name(&self, field: usize, role: &str) -> Result<&'a str> {
        let name = self.text(field)?.trim();
        if name.is_empty() || name.contains(['\n', '\r', '\t']) {
            let problem = if name.is_empty() { "is empty" } else { "holds a line break or a tab" };
            let help = "remove such lines, or fill them in";
            return Err(self.place.error(self.column(field), format!("the {role} {problem}"), help));
        }
        Ok(name)
    }

    fn event(&self, places: &Places) -> Result<Event<'a>> {
        let time = |field| {
            let text = self.text(field)?;
            parse_time(text).ok_or_else(|| {
                let problem = format!("`{}` is no time", shortened(text));
                let help = "times are finite numbers or dates such as 2019-10-01 or 2019-10-01T12:30:00Z";
                self.place.error(self.column(field), problem, help)
            })
        };
        Ok(Event {
            user: self.name(places.user, "user")?,
            item: self.name(places.item, "item")?,
            time: places.time.map(time).transpose()?,
            kind: places.event.map(|field| self.name(field, "event")).transpose()?,
        })
    }
}
