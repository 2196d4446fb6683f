//! Readers: one file per format, each turning its source into an `EventLog`.
//!
//! | format | files | content |
//! |---|---|---|
//! | `sequences` | .txt | `user item item ...`, one user a line, in time order |
//! | `pairs` | .txt | `user item`, one event a line, in time order |
//! | `csv`, `tsv` | .csv, .tsv | a header and one event a line; columns by name or number |
//! | `inter` | .inter | RecBole's atomic file: a tsv whose header gives types, `user_id:token` |
//! | `jsonl` | .jsonl | one JSON object a line: an event, or a user with a list of events (`events.aid`) |
//! | `parquet` | .parquet | the same columns |
//!
//! Text may be gzipped (.gz). Whatever is wrong with a file is one error that names the line and, where there is one, the
//! column (both from 1, the column in bytes), and says what to do about it.

mod columns;
mod jsonl;
mod parquet;
mod sequences;
mod table;

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::path::Path;
use std::str::FromStr;

use super::interactions::Interactions;
use super::log::EventLog;
use super::split::SplitRule;
use crate::error::{Error, Result};
pub use columns::Columns;
use serde::{Deserialize, Serialize};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What to know of a source beside its bytes. As a table it holds what was given and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadOptions {
    /// By the file's name when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Which columns of a table mean what.
    #[serde(flatten)]
    pub columns: Columns,
    /// The separator of csv and tsv, an ASCII character.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub separator: Option<char>,
    /// By the data's own description, else leave-one-out, when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitRule>,
}

/// How a source is written; the table above says what each holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `.txt`, by its first line.
    Sequences,
    /// `.txt`, by its first line.
    Pairs,
    /// `.csv`
    Csv,
    /// `.tsv`
    Tsv,
    /// `.inter`
    Inter,
    /// `.jsonl`
    Jsonl,
    /// `.parquet`
    Parquet,
}

impl Format {
    const ALL: [(&'static str, Format); 7] = [
        ("sequences", Format::Sequences),
        ("pairs", Format::Pairs),
        ("csv", Format::Csv),
        ("tsv", Format::Tsv),
        ("inter", Format::Inter),
        ("jsonl", Format::Jsonl),
        ("parquet", Format::Parquet),
    ];

    /// Extensions of files that hold data, without `.gz`.
    pub const EXTENSIONS: [&'static str; 6] = [".txt", ".csv", ".tsv", ".inter", ".jsonl", ".parquet"];

    /// As options and files have it.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, format)| *format == self).expect("all formats are listed").0
    }

    fn of_file(path: &Path) -> Option<Format> {
        let file = path.to_string_lossy().to_lowercase();
        let file = file.strip_suffix(".gz").unwrap_or(&file);
        Self::ALL.into_iter().find(|(name, _)| file.ends_with(&format!(".{name}"))).map(|(_, format)| format)
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|(name, _)| *name == text);
        known.map(|(_, format)| format).ok_or_else(|| Error::unknown("format", text, &Self::ALL.map(|(name, _)| name)))
    }
}

/// Reads a file as sequences. The data set is named after the file, without its extensions.
pub fn read(path: &Path, options: &ReadOptions) -> Result<Interactions> {
    sequences_of(&dataset_name(path), read_log(path, options)?, options)
}

/// Reads text that is at hand already, a format of lines; `origin` is what errors call it.
pub fn read_bytes(name: &str, bytes: &[u8], origin: &Path, options: &ReadOptions) -> Result<Interactions> {
    sequences_of(name, read_text(Box::new(Cursor::new(bytes)), origin, options)?, options)
}

fn sequences_of(name: &str, log: EventLog, options: &ReadOptions) -> Result<Interactions> {
    Interactions::from_log(name, log).with_split(options.split.clone().unwrap_or_default())
}

/// Reads a file as a log of events, in the order of the file.
pub fn read_log(path: &Path, options: &ReadOptions) -> Result<EventLog> {
    let failed = |source| Error::io("read", path, source);
    if options.format.or(Format::of_file(path)) == Some(Format::Parquet) {
        return not_empty(parquet::read(File::open(path).map_err(failed)?, path, options)?, path);
    }
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(failed(std::io::ErrorKind::IsADirectory.into()));
    }
    read_text(Box::new(BufReader::with_capacity(1 << 18, file)), path, options)
}

fn read_text<'a>(mut source: Box<dyn BufRead + 'a>, origin: &Path, options: &ReadOptions) -> Result<EventLog> {
    let failed = |source| Error::io("read", origin, source);
    if source.fill_buf().map_err(failed)?.starts_with(&GZIP_MAGIC) {
        let unpacked = flate2::bufread::MultiGzDecoder::new(source);
        source = Box::new(BufReader::with_capacity(1 << 18, unpacked));
    }
    let log = match options.format.or(Format::of_file(origin)) {
        Some(Format::Csv) => table::read(source, origin, options, b','),
        Some(Format::Tsv | Format::Inter) => table::read(source, origin, options, b'\t'),
        Some(Format::Jsonl) => jsonl::read(source, origin, options),
        Some(Format::Pairs) => sequences::read_pairs(source, origin),
        Some(Format::Sequences) => sequences::read_sequences(source, origin),
        _ => sequences::read(source, origin),
    };
    not_empty(log?, origin)
}

fn not_empty(log: EventLog, origin: &Path) -> Result<EventLog> {
    if log.is_empty() {
        let help =
            "see `gpurec data --help` for the formats; the first line may be a header only in csv, tsv and inter";
        return Err(Place { path: origin, line: 1 }.error(1, "the file holds no interactions".into(), help));
    }
    Ok(log)
}

/// `folder/amazon_beauty.txt.gz` is `amazon_beauty`.
pub(crate) fn dataset_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = file.strip_suffix(".gz").unwrap_or(&file);
    let known = Format::EXTENSIONS.iter().find_map(|extension| stem.strip_suffix(extension));
    known.unwrap_or(stem).to_owned()
}

/// One line of one file: where a problem can be.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a Path,
    line: usize,
}

impl Place<'_> {
    fn error(self, column: usize, problem: String, help: &str) -> Error {
        Error::Data { path: self.path.to_owned(), line: self.line, column, problem, help: help.to_owned() }
    }

    fn not_utf8(self, column: usize) -> Error {
        self.error(column, "not valid UTF-8".into(), "save the file as UTF-8 text, or as such text in gzip")
    }

    /// A failed read behind the line before this one.
    fn unreadable(self, error: std::io::Error) -> Error {
        let problem = match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "the gzip data ends here, before its end mark".to_owned(),
            std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => {
                format!("the gzip data is damaged ({error})")
            }
            _ => return Error::io("read", self.path, error),
        };
        self.error(1, problem, "fetch the file again: this copy is incomplete; `gzip -t` tests it")
    }
}

/// The lines of a text with their places, without line ends and without a byte order mark.
struct Lines<'a> {
    source: Box<dyn BufRead + 'a>,
    origin: &'a Path,
    line: usize,
    buffer: Vec<u8>,
}

impl<'a> Lines<'a> {
    fn new(source: Box<dyn BufRead + 'a>, origin: &'a Path) -> Self {
        Lines { source, origin, line: 0, buffer: Vec::new() }
    }

    fn next(&mut self) -> Result<Option<(Place<'a>, &str)>> {
        self.buffer.clear();
        self.line += 1;
        let place = Place { path: self.origin, line: self.line };
        if self.source.read_until(b'\n', &mut self.buffer).map_err(|error| place.unreadable(error))? == 0 {
            return Ok(None);
        }
        let text = std::str::from_utf8(&self.buffer).map_err(|error| place.not_utf8(error.valid_up_to() + 1))?;
        let text = if self.line == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
        Ok(Some((place, text.trim_end_matches(['\n', '\r']))))
    }
}

/// A token for a message: never more than 40 characters of it.
fn shortened(token: &str) -> String {
    match token.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &token[..end]),
        None => token.to_owned(),
    }
}

#[cfg(test)]
mod tests;
