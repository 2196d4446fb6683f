//! Text of numbers: `user item item ...`, or `user item` pairs. Words are separated by spaces or tabs, blank lines skipped.
//! Users may have any name, items are whole numbers from 1: a header or another separator is then noticed at once.

use std::io::BufRead;
use std::path::Path;

use super::{FormatInfo, Reader};
use crate::data::log::{Event, EventLog};
use crate::data::read::text::{Lines, Place, shortened};
use crate::error::Result;

pub(crate) const FORMATS: &[FormatInfo] = &[
    FormatInfo {
        name: "txt",
        content: "`user item item ...` in time order, one user a line; or `user item` pairs",
        reader: Reader::Text(|source, origin, _| read(source, origin)),
        options: &[],
    },
    FormatInfo {
        name: "sequences",
        content: "the first of these, whatever its first line looks like",
        reader: Reader::Text(|source, origin, _| read_sequences(source, origin)),
        options: &[],
    },
    FormatInfo {
        name: "pairs",
        content: "the second of these",
        reader: Reader::Text(|source, origin, _| read_pairs(source, origin)),
        options: &[],
    },
];

const MAX_ID: u32 = i32::MAX as u32;

/// Pairs where the first line has two words, else sequences.
fn read(mut source: Box<dyn BufRead + '_>, origin: &Path) -> Result<EventLog> {
    let start = source.fill_buf().map_err(|error| Place { path: origin, line: 1 }.unreadable(error))?;
    let first = start.split(|byte| *byte == b'\n').find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
    let words = first.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).count();
    if words == 2 { read_pairs(source, origin) } else { read_sequences(source, origin) }
}

fn read_sequences(source: Box<dyn BufRead + '_>, origin: &Path) -> Result<EventLog> {
    let (mut log, mut lines) = (EventLog::default(), Lines::new(source, origin));
    let mut line_of_user: Vec<usize> = Vec::new();
    while let Some((place, line)) = lines.next()? {
        let mut words = words(line);
        let Some((column, user)) = words.next() else { continue };
        if let Some(known) = log.users.get_index_of(user) {
            let problem = format!("user `{}` was already on line {}", shortened(user), line_of_user[known]);
            return Err(place.error(column, problem, "join the lines of one user into one, items in time order"));
        }
        line_of_user.push(place.line);
        let before = log.len();
        for (column, item) in words {
            log.push(event(place, user, column, item)?);
        }
        if log.len() == before {
            let help = "each line is `user item item item ...`, separated by spaces or tabs; tables with commas are \
                        read from files called .csv, or with --format csv";
            return Err(place.error(column, format!("user `{}` has no items", shortened(user)), help));
        }
    }
    Ok(log)
}

fn read_pairs(source: Box<dyn BufRead + '_>, origin: &Path) -> Result<EventLog> {
    let (mut log, mut lines) = (EventLog::default(), Lines::new(source, origin));
    while let Some((place, line)) = lines.next()? {
        let mut words = words(line);
        match (words.next(), words.next(), words.next()) {
            (None, ..) => {}
            (Some((_, user)), Some((column, item)), None) => log.push(event(place, user, column, item)?),
            (Some((column, _)), None, _) | (_, _, Some((column, _))) => {
                let help = "the first line is a pair, so each line must be `user item`, in time order; for lines of \
                            `user item item ...` take --format sequences";
                return Err(place.error(column, "this line is not a pair".into(), help));
            }
        }
    }
    Ok(log)
}

/// The words of a line with their byte columns, from 1.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.split_ascii_whitespace().map(move |word| (word.as_ptr().addr() - line.as_ptr().addr() + 1, word))
}

fn event<'a>(place: Place, user: &'a str, column: usize, item: &'a str) -> Result<Event<'a>> {
    if !item.bytes().all(|byte| byte.is_ascii_digit()) {
        let problem = format!("item `{}` is not a number", shortened(item));
        let help = "items are whole numbers from 1, and such a file has no header line; a table with names and a header is \
                    read from files called .csv or .tsv, or with --format csv";
        return Err(place.error(column, problem, help));
    }
    match item.parse() {
        Ok(1..=MAX_ID) => Ok(Event { user, item: item.trim_start_matches('0'), time: None, kind: None }),
        _ => {
            let problem = format!("item id {} is outside 1 to {MAX_ID}", shortened(item));
            Err(place.error(column, problem, "number the items from 1; 0 is what other programs pad with"))
        }
    }
}
