//! csv, tsv and RecBole's `.inter`: one event a line, columns by name or number.

use std::io::BufRead;
use std::path::Path;

use super::{FormatInfo, Reader};
use crate::data::log::{Event, EventLog};
use crate::data::read::ReadOptions;
use crate::data::read::columns::Places;
use crate::data::read::delimited::{Row, Rows};
use crate::error::Result;

const OPTIONS: &[&str] = &["--user-col", "--item-col", "--time-col", "--event-col", "--no-header", "--separator"];

pub(crate) const FORMATS: &[FormatInfo] = &[
    FormatInfo {
        name: "csv",
        content: "a header and one event a line; columns by their usual names, or by --user-col and so on",
        reader: Reader::Text(|source, origin, options| read(source, origin, options, b',')),
        options: OPTIONS,
    },
    FormatInfo {
        name: "tsv",
        content: "the same, with tabs",
        reader: Reader::Text(|source, origin, options| read(source, origin, options, b'\t')),
        options: OPTIONS,
    },
    FormatInfo {
        name: "inter",
        content: "RecBole's atomic file: a tsv whose header gives types, `user_id:token`",
        reader: Reader::Text(|source, origin, options| read(source, origin, options, b'\t')),
        options: OPTIONS,
    },
];

fn read(source: Box<dyn BufRead + '_>, origin: &Path, options: &ReadOptions, separator: u8) -> Result<EventLog> {
    let separator = options.separator.and_then(|own| u8::try_from(own).ok()).unwrap_or(separator);
    let (mut rows, mut log) = (Rows::new(source, origin, separator), EventLog::default());
    let Some(first) = rows.next()? else { return Ok(log) };
    let places = options.columns.find(&first.names()?, origin)?;
    if options.columns.no_header {
        log.push(event(&first, &places)?);
    }
    while let Some(row) = rows.next()? {
        log.push(event(&row, &places)?);
    }
    Ok(log)
}

fn event<'a>(row: &Row<'a>, places: &Places) -> Result<Event<'a>> {
    Ok(Event {
        user: row.name(places.user, "user")?,
        item: row.name(places.item, "item")?,
        time: places.time.map(|field| row.time(field)).transpose()?,
        kind: places.event.map(|field| row.name(field, "event")).transpose()?,
    })
}
