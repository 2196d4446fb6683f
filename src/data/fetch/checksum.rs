//! Checksums of files: those that a manifest gives, and `FILE.sha256`, in the form of `sha256sum`, where nobody published one.

use super::with_ending;
use crate::data::manifest::Origin;
use crate::error::{Error, Result};
use crate::files::{digest_of, write_atomically};
use sha2::Sha256;
use std::path::{Path, PathBuf};

/// What a file was compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The published checksum: its kind and value.
    Published(&'static str, String),
    /// The SHA-256 recorded when the file was first seen here, or just now: nobody published one.
    Recorded {
        /// Its value.
        sha256: String,
        /// Whether it was recorded just now.
        first: bool,
    },
}

/// A file that is not what it should be.
pub struct Mismatch {
    pub kind: &'static str,
    pub expected: String,
    pub found: String,
    pub published: bool,
}

/// Compares a file with what is known of `name`, its place when it is whole; records what it is where nothing is known.
pub fn check(file: &Path, name: &Path, origin: &Origin) -> Result<Result<Checked, Mismatch>> {
    let bytes = file.metadata().map_err(|e| Error::io("read", file, e))?.len();
    if let Some(expected) = origin.bytes.filter(|&expected| expected != bytes) {
        let (expected, found) = (expected.to_string(), bytes.to_string());
        return Ok(Err(Mismatch { kind: "size in bytes", expected, found, published: true }));
    }
    let published = match (&origin.sha256, &origin.md5) {
        (Some(sum), _) => Some(("sha256", sum.clone(), digest_of::<Sha256>(file)?)),
        (None, Some(sum)) => Some(("md5", sum.clone(), digest_of::<md5::Md5>(file)?)),
        (None, None) => None,
    };
    if let Some((kind, expected, found)) = published {
        return Ok(if expected == found {
            Ok(Checked::Published(kind, found))
        } else {
            Err(Mismatch { kind, expected, found, published: true })
        });
    }
    let (record, found) = (record(name), digest_of::<Sha256>(file)?);
    let known = std::fs::read_to_string(&record).ok();
    match known.as_deref().and_then(|line| line.split_whitespace().next()) {
        Some(expected) if expected != found => {
            Ok(Err(Mismatch { kind: "sha256", expected: expected.into(), found, published: false }))
        }
        Some(_) => Ok(Ok(Checked::Recorded { sha256: found, first: false })),
        None => {
            let line = format!("{found}  {}\n", name.file_name().unwrap_or_default().to_string_lossy());
            write_atomically(&record, line.as_bytes())?;
            Ok(Ok(Checked::Recorded { sha256: found, first: true }))
        }
    }
}

/// Where the checksum of a file is recorded.
pub fn record(file: &Path) -> PathBuf {
    with_ending(file, ".sha256")
}
