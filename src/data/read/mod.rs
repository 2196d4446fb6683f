//! From a file to sequences: what is common to all formats of `formats/`.

pub(crate) mod columns;
pub(crate) mod delimited;
pub(crate) mod parquet;
pub(crate) mod text;

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::path::{Path, PathBuf};

use super::formats::{Format, Reader};
use super::interactions::Interactions;
use super::lists::{Lists, Schema};
use super::log::EventLog;
use super::split::SplitRule;
use crate::error::{Error, Result};
pub use columns::Columns;
use serde::{Deserialize, Serialize};
use text::{Place, unpacked};

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
    /// What the columns of a log of lists mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<PathBuf>,
}

impl ReadOptions {
    /// Refuses the first option that was given and that `used` does not accept; `--split` is another matter. `what` is
    /// read, in words; `instead` completes "leave it away, or ...".
    pub(crate) fn expect_only(&self, used: impl Fn(&str) -> bool, what: &str, instead: &str) -> Result<()> {
        let Columns { user, item, time, event, no_header } = &self.columns;
        let given = [
            ("--format", self.format.is_some()),
            ("--user-col", user.is_some()),
            ("--item-col", item.is_some()),
            ("--time-col", time.is_some()),
            ("--event-col", event.is_some()),
            ("--no-header", *no_header),
            ("--separator", self.separator.is_some()),
            ("--schema", self.schema.is_some()),
        ];
        match given.into_iter().find(|(name, given)| *given && !used(name)) {
            None => Ok(()),
            Some((name, _)) => {
                let problem = format!("{name} means nothing for {what}");
                Err(Error::usage(problem, format!("leave {name} away, or {instead}")))
            }
        }
    }

    /// Refuses what a schema says itself. The split is that of the schema wherever a run has stored it.
    fn expect_lists(&self, name: &str, schema: &Schema) -> Result<()> {
        let what = format!("{name}, a log of lists: its schema says how it is read");
        let instead = "say it in a file for --schema; without --schema and under another name a file is read as events";
        self.expect_only(|option| option == "--schema", &what, instead)?;
        let Some(split) = self.split.as_ref().filter(|split| **split != SplitRule::Ratio(schema.split)) else {
            return Ok(());
        };
        let [train, valid, test] = schema.split;
        Err(Error::usage(
            format!("{name} is a log of lists, whose split is said by its schema, not by --split {split}"),
            format!(
                "leave --split away ({train}, {valid} and {test} of the lists), or set `split` in a file for --schema"
            ),
        ))
    }
}

/// Reads a file as sequences. The data set is named after the file, without its extensions.
pub fn read(path: &Path, options: &ReadOptions) -> Result<Interactions> {
    let name = dataset_name(path);
    match Schema::of_file(path, options.schema.as_deref())? {
        Some(schema) => {
            options.expect_lists(&name, &schema)?;
            Interactions::from_lists(Lists::read_by(path, &schema)?)
        }
        None => sequences_of(&name, read_log(path, options)?, options),
    }
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
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(failed(std::io::ErrorKind::IsADirectory.into()));
    }
    match format(path, options)?.reader() {
        Reader::File(read) => not_empty(read(file, path, options)?, path),
        Reader::Text(_) => read_text(Box::new(BufReader::with_capacity(1 << 18, file)), path, options),
    }
}

fn read_text(source: Box<dyn BufRead + '_>, origin: &Path, options: &ReadOptions) -> Result<EventLog> {
    let format = format(origin, options)?;
    let Reader::Text(read) = format.reader() else {
        let problem = format!("{}: {} is read from files only", origin.display(), format.name());
        return Err(Error::usage(problem, "write it to a file first"));
    };
    not_empty(read(unpacked(source, origin)?, origin, options)?, origin)
}

/// As given, else by the file's name, else text. Options that mean nothing in it are refused.
fn format(path: &Path, options: &ReadOptions) -> Result<Format> {
    let text = || "txt".parse().expect("a format");
    let format = options.format.or(Format::of_file(path)).unwrap_or_else(text);
    let what = format!("{}, which is read as events in the format {}", path.display(), format.name());
    let used = |option: &str| option == "--format" || format.options().contains(&option);
    options.expect_only(used, &what, "say with --format what the file holds")?;
    Ok(format)
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
    let bare = Format::of_file(path).and_then(|_| stem.rsplit_once('.')).map(|(bare, _)| bare);
    bare.unwrap_or(stem).to_owned()
}

#[cfg(test)]
mod tests;
