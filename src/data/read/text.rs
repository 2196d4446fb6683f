//! Lines of a text, and what can be wrong with one.

use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::data::log::parse_time;
use crate::error::{Error, Result};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The text itself where it comes in gzip.
pub(crate) fn unpacked<'a>(mut source: Box<dyn BufRead + 'a>, origin: &Path) -> Result<Box<dyn BufRead + 'a>> {
    if source.fill_buf().map_err(|error| Error::io("read", origin, error))?.starts_with(&GZIP_MAGIC) {
        let unpacked = flate2::bufread::MultiGzDecoder::new(source);
        source = Box::new(BufReader::with_capacity(1 << 18, unpacked));
    }
    Ok(source)
}

/// One line of one file: where a problem can be.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub path: &'a Path,
    pub line: usize,
}

impl Place<'_> {
    pub fn error(self, column: usize, problem: String, help: &str) -> Error {
        Error::Data { path: self.path.to_owned(), line: self.line, column, problem, help: help.to_owned() }
    }

    /// A name without the spaces around it; `role` is user, item or event. Refused where it is empty, and where it holds
    /// what stands between names in files: a line break or a tab.
    pub fn name<'n>(self, column: usize, text: &'n str, role: &str) -> Result<&'n str> {
        let name = text.trim();
        let problem = match name {
            "" => "is empty",
            _ if name.contains(['\n', '\r', '\t']) => "holds a line break or a tab",
            _ => return Ok(name),
        };
        Err(self.error(column, format!("the {role} {problem}"), "mend such lines, or remove them"))
    }

    /// A time as `parse_time` reads it.
    pub fn time(self, column: usize, text: &str) -> Result<f64> {
        let help = "times are finite numbers or dates such as 2019-10-01 or 2019-10-01T12:30:00Z; --time-col, or `time` \
                    of a --schema, names their column";
        let problem = || match text.trim().is_empty() {
            true => "the time is missing".into(),
            false => format!("`{}` is no time", shortened(text)),
        };
        parse_time(text).ok_or_else(|| self.error(column, problem(), help))
    }

    pub fn not_utf8(self, column: usize) -> Error {
        self.error(column, "not valid UTF-8".into(), "save the file as UTF-8 text, or as such text in gzip")
    }

    /// A failed read behind the line before this one.
    pub fn unreadable(self, error: std::io::Error) -> Error {
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
pub(crate) struct Lines<'a> {
    source: Box<dyn BufRead + 'a>,
    origin: &'a Path,
    line: usize,
    buffer: Vec<u8>,
}

impl<'a> Lines<'a> {
    pub fn new(source: Box<dyn BufRead + 'a>, origin: &'a Path) -> Self {
        Lines { source, origin, line: 0, buffer: Vec::new() }
    }

    pub fn next(&mut self) -> Result<Option<(Place<'a>, &str)>> {
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
pub(crate) fn shortened(token: &str) -> String {
    match token.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &token[..end]),
        None => token.to_owned(),
    }
}
