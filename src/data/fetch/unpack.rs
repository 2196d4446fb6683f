//! Takes single members out of archives: zip, 7z, tar.gz and gz, told apart by the ending of the name.

use crate::data::manifest::file_name;
use crate::error::{Error, Result};
use crate::files::write_with;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Writes the members to `folder` under the last part of their paths, each whole or not at all.
pub fn unpack(archive: &Path, members: &[String], folder: &Path) -> Result<()> {
    let mut left: Vec<&str> = members.iter().map(String::as_str).collect();
    let mut visit = |name: &str, content: &mut dyn Read| -> Result<bool> {
        if let Some(i) = left.iter().position(|member| *member == name) {
            let target = folder.join(file_name(left.swap_remove(i)));
            write_with(&target, |out| std::io::copy(content, out).map(drop)).map_err(|error| blame(error, archive))?;
        }
        Ok(!left.is_empty())
    };
    let name = archive.to_string_lossy();
    match &*name {
        name if name.ends_with(".zip") => zip(archive, members, &mut visit),
        name if name.ends_with(".7z") => seven_zip(archive, &mut visit),
        name if name.ends_with(".tar.gz") => tar(archive, &mut visit),
        _ => visit(&members[0], &mut MultiGzDecoder::new(open(archive)?)).map(drop),
    }?;
    match left.first() {
        None => Ok(()),
        Some(member) => Err(damaged(archive, format!("it holds no `{member}`"))),
    }
}

/// What is done with each member: its name, its content; false when no more are wanted.
type Visit<'a> = dyn FnMut(&str, &mut dyn Read) -> Result<bool> + 'a;

fn zip(archive: &Path, members: &[String], visit: &mut Visit) -> Result<()> {
    let mut zip = zip::ZipArchive::new(open(archive)?).map_err(|e| damaged(archive, e))?;
    for member in members {
        let mut content = zip.by_name(member).map_err(|e| damaged(archive, format!("`{member}`: {e}")))?;
        visit(member, &mut content)?;
    }
    Ok(())
}

fn tar(archive: &Path, visit: &mut Visit) -> Result<()> {
    let mut tar = tar::Archive::new(MultiGzDecoder::new(open(archive)?));
    for entry in tar.entries().map_err(|e| damaged(archive, e))? {
        let mut entry = entry.map_err(|e| damaged(archive, e))?;
        let name = entry.path().map_err(|e| damaged(archive, e))?.to_string_lossy().into_owned();
        if !visit(name.trim_start_matches("./"), &mut entry)? {
            break;
        }
    }
    Ok(())
}

fn seven_zip(archive: &Path, visit: &mut Visit) -> Result<()> {
    let password = sevenz_rust2::Password::empty();
    let mut reader = sevenz_rust2::ArchiveReader::open(archive, password).map_err(|e| damaged(archive, e))?;
    let mut result = Ok(true);
    let walked = reader.for_each_entries(|entry, content| {
        result = visit(entry.name(), content);
        Ok(matches!(result, Ok(true)))
    });
    result?;
    walked.map(drop).map_err(|e| damaged(archive, e))
}

fn open(archive: &Path) -> Result<File> {
    File::open(archive).map_err(|e| Error::io("read", archive, e))
}

/// What an unpacker finds wrong with its archive comes as an error of reading, without a number of the operating system.
fn blame(error: Error, archive: &Path) -> Error {
    match error {
        Error::Io { source, .. } if source.raw_os_error().is_none() => damaged(archive, source),
        error => error,
    }
}

fn damaged(archive: &Path, problem: impl std::fmt::Display) -> Error {
    Error::usage(
        format!("{} cannot be unpacked: {problem}", archive.display()),
        "remove it and run `gpurec data fetch` again",
    )
}
