//! Reads `user item item ...` lines: one user a line, items in time order, separated by spaces or tabs.
//!
//! Plain text or gzip, told apart by the first two bytes. Blank lines are skipped. Whatever is wrong with a file is one
//! error that names the line and the column (both from 1, the column in bytes), and says what to do about it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::Read;
use std::path::Path;

use super::interactions::Interactions;
use crate::error::{Error, Result};

/// Leave-one-out needs one item each to train on, to validate with and to test with.
const MIN_ITEMS: usize = 3;
const MAX_ID: u32 = i32::MAX as u32;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Reads a file. The data set is named after the file, without its extensions.
pub fn read(path: &Path) -> Result<Interactions> {
    let bytes = std::fs::read(path).map_err(|source| Error::io("read", path, source))?;
    read_bytes(&dataset_name(path), &bytes, path)
}

/// Reads the content of a file; `origin` is what errors call it.
pub fn read_bytes(name: &str, bytes: &[u8], origin: &Path) -> Result<Interactions> {
    let unpacked;
    let bytes = if bytes.starts_with(&GZIP_MAGIC) {
        unpacked = gunzip(bytes, origin)?;
        &unpacked
    } else {
        bytes
    };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let (line, column) = place_of_end(&bytes[..error.valid_up_to()]);
        Place { path: origin, line }.error(
            column,
            "not valid UTF-8".into(),
            "save the file as UTF-8 text, or as such text in gzip",
        )
    })?;
    parse(name, text.strip_prefix('\u{feff}').unwrap_or(text), origin)
}

/// `folder/amazon_beauty.txt.gz` is `amazon_beauty`.
pub(crate) fn dataset_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = file.strip_suffix(".gz").unwrap_or(&file);
    stem.strip_suffix(".txt").unwrap_or(stem).to_owned()
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
}

fn gunzip(bytes: &[u8], origin: &Path) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out).map_err(|error| {
        let (line, column) = place_of_end(&out);
        let problem = match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "the gzip data ends here, before its end mark".to_owned(),
            _ => format!("the gzip data is damaged ({error})"),
        };
        Place { path: origin, line }.error(
            column,
            problem,
            "fetch the file again: this copy is incomplete; `gzip -t` tests it",
        )
    })?;
    Ok(out)
}

/// Line and column of the byte that would follow `bytes`.
fn place_of_end(bytes: &[u8]) -> (usize, usize) {
    let line = 1 + bytes.iter().filter(|&&byte| byte == b'\n').count();
    let start = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    (line, bytes.len() - start + 1)
}

fn parse(name: &str, text: &str, origin: &Path) -> Result<Interactions> {
    let mut users: Vec<String> = Vec::new();
    let (mut offsets, mut ids) = (vec![0], Vec::new());
    let mut line_of: HashMap<&str, usize> = HashMap::new();
    for (i, line) in text.lines().enumerate() {
        let place = Place { path: origin, line: i + 1 };
        let mut tokens = tokens(line);
        let Some((column, user)) = tokens.next() else { continue };
        match line_of.entry(user) {
            Entry::Vacant(free) => _ = free.insert(place.line),
            Entry::Occupied(seen) => {
                let problem = format!("user `{}` was already on line {}", shortened(user), seen.get());
                return Err(place.error(column, problem, "join the lines of one user into one, items in time order"));
            }
        }
        for (column, token) in tokens {
            ids.push(item_id(place, column, token)?);
        }
        let n = ids.len() - offsets[users.len()];
        if n < MIN_ITEMS {
            let problem = format!(
                "user `{}` has {n} item{}, fewer than {MIN_ITEMS}",
                shortened(user),
                if n == 1 { "" } else { "s" }
            );
            let help = "each line is `user item item item ...`, separated by spaces or tabs; the leave-one-out split needs \
                        three items: to train, to validate and to test. Remove such users";
            return Err(place.error(column, problem, help));
        }
        users.push(user.to_owned());
        offsets.push(ids.len());
    }
    if users.is_empty() {
        let help = "each line must be `user item item item ...`, in time order";
        return Err(Place { path: origin, line: 1 }.error(1, "the file holds no interactions".into(), help));
    }
    Ok(Interactions::from_ids(name, users, offsets, ids))
}

/// The words of a line with their byte columns, from 1.
fn tokens(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.split_ascii_whitespace().map(move |token| (token.as_ptr().addr() - line.as_ptr().addr() + 1, token))
}

fn item_id(place: Place, column: usize, token: &str) -> Result<u32> {
    if !token.bytes().all(|byte| byte.is_ascii_digit()) {
        let problem = format!("item `{}` is not a number", shortened(token));
        let help = "items are whole numbers from 1, and a file has no header line; number other ids first";
        return Err(place.error(column, problem, help));
    }
    match token.parse() {
        Ok(id @ 1..=MAX_ID) => Ok(id),
        _ => {
            let problem = format!("item id {} is outside 1 to {MAX_ID}", shortened(token));
            Err(place.error(column, problem, "number the items from 1; 0 is what other programs pad with"))
        }
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
#[path = "read_tests.rs"]
mod tests;
