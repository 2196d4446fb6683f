//! Gets a data set that a manifest describes into the data folder: download, verification, unpacking.
//!
//! A file takes its name only when it is whole and has the published checksum. Where nobody published one, the first file
//! seen is trusted and recorded, and every later one compared with it. A file that somebody put into place is verified alike.

mod checksum;
mod download;
mod unpack;

#[cfg(test)]
mod tests;

use super::manifest::{Access, Manifest, Origin};
use crate::error::{Error, Result};
use checksum::{Mismatch, check};
use download::Download;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use checksum::Checked;

/// Who watches a download. Numbers are bytes of the file, from its beginning.
pub trait Watcher {
    /// The server sends from `done` on.
    fn started(&mut self, done: u64, total: Option<u64>);
    /// The file has `done` bytes now.
    fn advanced(&mut self, done: u64);
    /// Something worth knowing, such as an interruption.
    fn note(&mut self, message: &str);
}

/// A data set whose files are in place.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// What was verified: the file that the manifest names, or those that a person put there.
    pub verified: Vec<(PathBuf, Checked)>,
    /// The files to read.
    pub files: Vec<PathBuf>,
    /// Whether anything was downloaded now.
    pub downloaded: bool,
}

/// Where and how to fetch.
pub struct Fetch<'a> {
    /// Where data sets are kept.
    pub data_dir: &'a Path,
    /// In place of the manifest's address.
    pub url: Option<&'a str>,
    /// The wait before an interrupted download goes on; it doubles with each failure.
    pub pause: Duration,
}

impl Fetch<'_> {
    /// Brings the files of a set into the data folder and verifies them.
    ///
    /// # Errors
    /// Whatever stands in the way, each with what to do about it; sets that no program may download say how a person gets them.
    pub fn run(&self, manifest: &Manifest, watcher: &mut dyn Watcher) -> Result<Fetched> {
        let folder = manifest.folder(self.data_dir);
        let files = manifest.files(self.data_dir);
        let origin = &manifest.source;
        match origin.access {
            Access::Bundled => return Ok(Fetched { verified: Vec::new(), files: Vec::new(), downloaded: false }),
            Access::Private => {
                return Err(Error::usage(
                    format!("`{}` cannot be had: {}", manifest.name, manifest.terms),
                    origin.instructions.clone().unwrap_or_default(),
                ));
            }
            Access::Manual => return placed_by_hand(manifest, files),
            Access::Download => {}
        }
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("make the folder", &folder, e))?;
        let target = folder.join(origin.file.as_deref().expect("downloads name their file"));
        let downloaded = !target.is_file();
        let checked = if downloaded { self.download(&target, origin, watcher)? } else { present(&target, origin)? };
        if !origin.members.is_empty() && (downloaded || !files.iter().all(|file| file.is_file())) {
            watcher.note(&format!("unpacking {}", target.display()));
            unpack::unpack(&target, &origin.members, &folder)?;
        }
        Ok(Fetched { verified: vec![(target, checked)], files, downloaded })
    }

    fn download(&self, target: &Path, origin: &Origin, watcher: &mut dyn Watcher) -> Result<Checked> {
        let url = self.url.or(origin.url.as_deref()).expect("downloads have an address");
        let part = with_ending(target, ".part");
        Download { url, part: &part, bytes: origin.bytes, pause: self.pause }.run(watcher)?;
        match check(&part, target, origin)? {
            Ok(checked) => download::finish(&part, target).map(|()| checked),
            Err(mismatch) => {
                let aside = with_ending(target, ".rejected");
                download::finish(&part, &aside)?;
                let kept = format!("it is kept as {} for you to look at and remove", aside.display());
                let help = match mismatch.published {
                    true => format!(
                        "it is not the published file, or was changed on the way: {kept}; try again, or another address with --url"
                    ),
                    false => format!(
                        "it is not the file that was first fetched here: {kept}; if it is the right one, remove {} and try again",
                        checksum::record(target).display()
                    ),
                };
                Err(wrong(url, mismatch, help))
            }
        }
    }
}

/// A file that is already there.
fn present(file: &Path, origin: &Origin) -> Result<Checked> {
    check(file, file, origin)?.map_err(|mismatch| {
        let help = match mismatch.published {
            true => "move it away and run the command again to fetch the published one".into(),
            false => format!(
                "it has changed since it was first seen here; if that is right, remove {}",
                checksum::record(file).display()
            ),
        };
        wrong(&file.display().to_string(), mismatch, help)
    })
}

fn wrong(what: &str, mismatch: Mismatch, help: String) -> Error {
    let Mismatch { kind, expected, found, published } = mismatch;
    let by = if published { "published" } else { "recorded" };
    Error::usage(format!("{what} has the wrong {kind}:\n  {by:9} {expected}\n  found     {found}"), help)
}

fn placed_by_hand(manifest: &Manifest, files: Vec<PathBuf>) -> Result<Fetched> {
    if let Some(missing) = files.iter().find(|file| !file.is_file()) {
        let problem = format!(
            "`{}` cannot be downloaded by a program ({}), and {} is not there",
            manifest.name,
            manifest.terms,
            missing.display()
        );
        return Err(Error::usage(problem, by_hand(manifest, &files)));
    }
    let verified =
        files.iter().map(|file| Ok((file.clone(), present(file, &manifest.source)?))).collect::<Result<_>>()?;
    Ok(Fetched { verified, files, downloaded: false })
}

fn by_hand(manifest: &Manifest, files: &[PathBuf]) -> String {
    let places: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    format!(
        "{}: {}; put it to {} and run this command again",
        manifest.homepage,
        manifest.source.instructions.as_deref().unwrap_or("download it"),
        places.join(" and "),
    )
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}
