//! Formats of data files, each read into an `EventLog`: a file for a format, or for a few that are alike.
//!
//! Files called `.NAME` are in the format of that name. Whatever is wrong with one is an error that names the line and,
//! where there is one, the column (both from 1, the column in bytes), and says what to do about it.
//!
//! The list of formats is generated from the files of this folder by `build.rs`; a file has `FORMATS`.

include!(concat!(env!("OUT_DIR"), "/formats.rs"));

use std::fs::File;
use std::io::BufRead;
use std::path::Path;
use std::str::FromStr;

use super::log::EventLog;
use super::read::ReadOptions;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What makes events of a source; the path is what errors call it.
#[derive(Clone, Copy)]
pub(crate) enum Reader {
    /// Of text, which comes in gzip or not.
    Text(fn(Box<dyn BufRead + '_>, &Path, &ReadOptions) -> Result<EventLog>),
    /// Of a file that is not read from its beginning to its end.
    File(fn(File, &Path, &ReadOptions) -> Result<EventLog>),
}

/// The options of formats whose events have columns.
const COLUMNS: &[&str] = &["--user-col", "--item-col", "--time-col", "--event-col"];

/// A format as `gpurec data --help` lists it.
pub(crate) struct FormatInfo {
    /// What `--format` takes.
    pub name: &'static str,
    /// What such a source holds.
    pub content: &'static str,
    pub reader: Reader,
    /// Which options of reading mean something, beside `--format` and `--split`.
    pub options: &'static [&'static str],
}

/// How a source is written.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub struct Format(&'static FormatInfo);

impl Format {
    /// All of them, those that are alike side by side.
    pub fn all() -> impl Iterator<Item = Format> {
        FORMATS.iter().copied().flatten().map(Format)
    }

    /// As options and files have it.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// What such a source holds, in a line.
    pub fn content(self) -> &'static str {
        self.0.content
    }

    pub(crate) fn reader(self) -> Reader {
        self.0.reader
    }

    pub(crate) fn options(self) -> &'static [&'static str] {
        self.0.options
    }

    /// By the ending of the file's name, whether or not there is a `.gz` behind it.
    pub fn of_file(path: &Path) -> Option<Format> {
        let file = path.to_string_lossy().to_lowercase();
        let (_, ending) = file.strip_suffix(".gz").unwrap_or(&file).rsplit_once('.')?;
        Self::all().find(|format| format.name() == ending)
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Format) -> bool {
        self.name() == other.name()
    }
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let names: Vec<&str> = Self::all().map(Format::name).collect();
        Self::all().find(|format| format.name() == text).ok_or_else(|| Error::unknown("format", text, &names))
    }
}

impl TryFrom<String> for Format {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Format> for &'static str {
    fn from(format: Format) -> Self {
        format.name()
    }
}
