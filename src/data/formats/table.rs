//! csv, tsv and RecBole's `.inter`: one event a line, columns by name or number.

use std::io::BufRead;
use std::path::Path;

use super::{FormatInfo, Reader};
use crate::data::log::{Event, EventLog, parse_time};
use crate::data::read::ReadOptions;
use crate::data::read::columns::Places;
use crate::data::read::delimited::{Row, Rows};
use crate::data::read::text::shortened;
use crate::error::Result;

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
    let time = |field| {
        let text = row.text(field)?;
        parse_time(text).ok_or_else(|| {
            let problem = format!("`{}` is no time", shortened(text));
            let help = "times are finite numbers or dates such as 2019-10-01 or 2019-10-01T12:30:00Z";
            row.error(field, problem, help)
        })
    };
    Ok(Event {
        user: name(row, places.user, "user")?,
        item: name(row, places.item, "item")?,
        time: places.time.map(time).transpose()?,
        kind: places.event.map(|field| name(row, field, "event")).transpose()?,
    })
}

fn name<'a>(row: &Row<'a>, field: usize, role: &str) -> Result<&'a str> {
    let name = row.text(field)?.trim();
    if name.is_empty() || name.contains(['\n', '\r', '\t']) {
        let problem = if name.is_empty() { "is empty" } else { "holds a line break or a tab" };
        return Err(row.error(field, format!("the {role} {problem}"), "remove such lines, or fill them in"));
    }
    Ok(name)
}
