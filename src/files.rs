//! Files that are written whole or not at all.

pub mod tensors;

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use sha2::Digest;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tempfile::NamedTempFile;

/// How names of temporary files begin.
const TEMPORARY: &str = ".gpurec-";

/// Writes a file by way of a temporary one beside it: complete and on disk before it takes the name.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    write_with(path, |out| out.write_all(content))
}

/// `write_atomically` for content that is made while it is written.
pub fn write_with(path: &Path, content: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let mut file = WholeFile::create(path)?;
    content(&mut file).map_err(|e| Error::io("write", path, e))?;
    file.finish()
}

/// Removes a file if it is there.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// A file that takes its name when it is complete, and that a drop before `finish` leaves no trace of.
pub struct WholeFile<'p> {
    path: &'p Path,
    out: BufWriter<NamedTempFile>,
    _unfinished: Unfinished,
}

impl<'p> WholeFile<'p> {
    /// Opens a temporary file beside `path`, whose folders are made.
    pub fn create(path: &'p Path) -> Result<Self> {
        let failed = |e| Error::io("write", path, e);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(failed)?;
        let file = temporary(folder).map_err(failed)?;
        let unfinished = Unfinished::note(file.path());
        Ok(WholeFile { path, out: BufWriter::with_capacity(1 << 18, file), _unfinished: unfinished })
    }

    /// On disk, then under its name.
    pub fn finish(self) -> Result<()> {
        let failed = |e| Error::io("write", self.path, e);
        let file = self.out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(self.path).map_err(|e| failed(e.error))?;
        Ok(())
    }
}

impl Write for WholeFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// What a TOML file is, for messages about it.
#[derive(Clone, Copy, Debug)]
pub struct TomlKind {
    /// Completes "cannot ... PATH".
    pub doing: &'static str,
    /// How to write such a file.
    pub help: &'static str,
}

/// A configuration of a method.
pub const CONFIGURATION: TomlKind = TomlKind {
    doing: "read the configuration",
    help: "a configuration is TOML: lines of `key = value`, see config.toml of any run",
};

/// A TOML file as a table or a typed value; mistakes are shown with their place.
pub fn read_toml<T: DeserializeOwned>(path: &Path, kind: TomlKind) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(kind.doing, path, e))?;
    toml_of(&text, path, kind)
}

/// The same of a text that is at hand; `path` is what errors call it.
pub fn toml_of<T: DeserializeOwned>(text: &str, path: &Path, kind: TomlKind) -> Result<T> {
    toml::from_str(text).map_err(|e: toml::de::Error| {
        let before = &text[..e.span().map_or(0, |span| span.start.min(text.len()))];
        let column = before.len() - before.rfind('\n').map_or(0, |newline| newline + 1) + 1;
        Error::Data {
            path: path.into(),
            line: before.matches('\n').count() + 1,
            column,
            problem: e.message().to_string(),
            help: kind.help.into(),
        }
    })
}

/// The temporary files that are being written: a signal ends the process without a drop.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// An entry of `UNFINISHED`, for as long as it lives.
struct Unfinished(PathBuf);

impl Unfinished {
    fn note(file: &Path) -> Self {
        UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).push(file.into());
        Unfinished(file.into())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).retain(|file| *file != self.0);
    }
}

/// Removes what is being written, for a process that is about to end.
pub fn discard_unfinished() {
    let files = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
    files.iter().for_each(|file| drop(std::fs::remove_file(file)));
}

/// A temporary file that others may read once it has its name, as far as the umask allows.
fn temporary(folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Removes the temporary files that a killed process has left in a folder.
pub fn discard_temporary(folder: &Path) {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let temporary = names.filter(|entry| entry.file_name().to_string_lossy().starts_with(TEMPORARY));
    temporary.for_each(|entry| drop(std::fs::remove_file(entry.path())));
}

/// The digest of a file's content, in hexadecimal digits.
pub fn digest_of<D: Digest>(path: &Path) -> Result<String> {
    let failed = |e| Error::io("read", path, e);
    let (mut file, mut digest) = (std::fs::File::open(path).map_err(failed)?, D::new());
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hexadecimal(&digest.finalize())),
            n => digest.update(&buffer[..n]),
        }
    }
}

/// Two digits a byte.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standards() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("abc");
        std::fs::write(&file, "abc").unwrap();
        assert_eq!(digest_of::<md5::Md5>(&file).unwrap(), "900150983cd24fb0d6963f7d28e17f72"); // RFC 1321
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; // FIPS 180-2
        assert_eq!(digest_of::<sha2::Sha256>(&file).unwrap(), sha256);
    }
}
