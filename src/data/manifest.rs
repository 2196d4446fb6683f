//! Manifests: what is known of the data sets that papers use, one TOML file each in `datasets/`, all part of the binary.
//!
//! A manifest says where a set comes from and under which terms, how its file is read (`read`), what is done to it
//! (`prepare`, in this order) and what comes out (`expected`). `datasets/README.md` describes the keys.

use super::prepare::Step;
use super::prepared;
use super::read::ReadOptions;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

include!(concat!(env!("OUT_DIR"), "/manifests.rs"));

/// One file `datasets/NAME.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What `--dataset` and `gpurec data` call it.
    pub name: String,
    /// In full.
    pub title: String,
    /// What the papers call it.
    pub paper_name: Option<String>,
    /// Those of the five papers that use it.
    pub papers: Vec<String>,
    /// Where its authors describe it.
    pub homepage: String,
    /// The paper that its users are asked to cite.
    pub citation: String,
    /// The licence or its absence, and whether the data may be passed on, in one line.
    pub terms: String,
    /// What else one should know.
    pub note: Option<String>,
    /// Where its files come from.
    pub source: Origin,
    /// Absent where there is no file to read.
    pub read: Option<Reading>,
    /// What the papers do to it.
    #[serde(default)]
    pub prepare: Vec<Step>,
    /// What then is left, where a paper says it.
    pub expected: Option<Expected>,
}

/// How one gets a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Part of gpurec.
    Bundled,
    /// `gpurec data fetch` downloads it.
    Download,
    /// A person must accept terms or log in; `instructions` say how.
    Manual,
    /// Not published.
    Private,
}

/// Where the files of a set come from. Checksums are hexadecimal and those of `file`; where there is none, nobody published one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// How one gets it.
    pub access: Access,
    /// What is downloaded, or where a person looks.
    pub url: Option<String>,
    /// The name of the downloaded file on this machine; its ending says how it is packed.
    pub file: Option<String>,
    /// A checksum that its publisher gives.
    pub sha256: Option<String>,
    /// A checksum that its publisher gives.
    pub md5: Option<String>,
    /// The size that its publisher gives.
    pub bytes: Option<u64>,
    /// The parts that are read: members of the archive `file`, or files that a person puts in place.
    #[serde(default)]
    pub members: Vec<String>,
    /// What a person has to do.
    pub instructions: Option<String>,
}

/// How the files of a set are read: what the command line says of a table, and the event of all rows of a file where no
/// column says it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reading {
    /// As the command line has them.
    #[serde(flatten)]
    pub options: ReadOptions,
    /// The kind of all events of a file, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub event_of_file: BTreeMap<String, String>,
}

/// What `prepare` makes of the files; for sequences, what they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// With an event.
    pub users: usize,
    /// With an event.
    pub items: usize,
    /// Events.
    pub interactions: usize,
    /// Where the published recipe draws without a seed.
    #[serde(default)]
    pub approximate: bool,
}

/// What there is of a data set on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// `--dataset NAME` works.
    Ready,
    /// Its files are in this folder and wait for `gpurec data prepare`.
    Fetched(PathBuf),
    /// Nothing.
    Absent,
}

/// All manifests, in alphabetical order of their names.
pub fn manifests() -> &'static [Manifest] {
    static ALL: LazyLock<Vec<Manifest>> = LazyLock::new(|| {
        let parse = |&(name, text): &(&str, &str)| toml::from_str(text).unwrap_or_else(|e| panic!("{name}.toml: {e}"));
        MANIFESTS.iter().map(parse).collect()
    });
    &ALL
}

/// The manifest of this name.
pub fn manifest(name: &str) -> Option<&'static Manifest> {
    manifests().iter().find(|manifest| manifest.name == name)
}

impl Manifest {
    /// Whether its file is one that `gpurec run` reads as it is.
    pub fn is_sequences(&self) -> bool {
        self.read.as_ref().and_then(|read| read.options.format).is_some_and(|format| format.name() == "sequences")
    }

    /// Where `gpurec data fetch` puts its files: sequences into the data folder itself, raw data into a folder of its own.
    pub fn folder(&self, data_dir: &Path) -> PathBuf {
        if self.is_sequences() { data_dir.to_owned() } else { data_dir.join(&self.name) }
    }

    /// The files that are read, where `gpurec data fetch` leaves them.
    pub fn files(&self, data_dir: &Path) -> Vec<PathBuf> {
        let folder = self.folder(data_dir);
        let names = if self.source.members.is_empty() { self.source.file.as_slice() } else { &self.source.members };
        names.iter().map(|name| folder.join(file_name(name))).collect()
    }

    /// Looks into the data folder.
    pub fn presence(&self, data_dir: Option<&Path>) -> Presence {
        if self.source.access == Access::Bundled {
            return Presence::Ready;
        }
        let Some(dir) = data_dir else { return Presence::Absent };
        let text = [".txt", ".txt.gz"].iter().any(|ending| dir.join(format!("{}{ending}", self.name)).is_file());
        let ready = text || prepared::is_prepared(&dir.join(&self.name));
        let files = self.files(dir);
        match (ready, !files.is_empty() && files.iter().all(|file| file.is_file())) {
            (true, _) => Presence::Ready,
            (false, true) => Presence::Fetched(self.folder(dir)),
            (false, false) => Presence::Absent,
        }
    }
}

/// The last part of a member's path: archives are unpacked flat.
pub(super) fn file_name(member: &str) -> &str {
    member.rsplit('/').next().unwrap_or(member)
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
