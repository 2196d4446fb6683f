//! Finds a data set by name or path: the bundled set, then a file, then the data folder. That is the one that GPUREC_DATA_DIR
//! names, or else one of the user's own, where `gpurec data fetch` puts what it gets.

use etcetera::base_strategy::{BaseStrategy, choose_native_strategy};
use std::path::{Path, PathBuf};

use super::formats::Format;
use super::interactions::Interactions;
use super::manifest::{Access, manifest, manifests};
use super::prepared;
use super::read::{ReadOptions, dataset_name, read, read_bytes};
use crate::error::{Error, Result};

/// The environment variable that names the data folder.
pub const DATA_DIR: &str = "GPUREC_DATA_DIR";

const BUNDLED: &str = "kuairec";
const BUNDLED_FILE: &str = "kuairec_sequences.txt.gz";
pub(super) const BUNDLED_BYTES: &[u8] = include_bytes!("../../datasets/kuairec_sequences.txt.gz");

/// Where a data set comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Part of the program.
    Bundled,
    /// A file, or the folder of a prepared data set.
    File(PathBuf),
}

/// One data set that `resolve` knows by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetInfo {
    /// What `--dataset` takes.
    pub name: String,
    /// Where it lies.
    pub source: Source,
    /// What the papers call it, where they use it.
    pub paper_name: Option<&'static str>,
    /// Size as stored, in bytes.
    pub bytes: u64,
}

/// Reads the data set that a name or a path stands for. Options that mean nothing for it are refused.
pub fn resolve(name_or_path: &str, options: &ReadOptions) -> Result<Interactions> {
    match locate(name_or_path)? {
        Source::Bundled => {
            let what = format!("{BUNDLED}, a part of gpurec that holds sequences without columns");
            options.expect_only(|option| option == "--format", &what, "name a file of your own")?;
            read_bytes(BUNDLED, BUNDLED_BYTES, Path::new(BUNDLED_FILE), options)
        }
        Source::File(path) if path.is_dir() => prepared::read(&path, options),
        Source::File(path) => read(&path, options),
    }
}

/// Where the data set that a name or a path stands for is.
pub fn locate(name_or_path: &str) -> Result<Source> {
    locate_in(name_or_path, existing_data_dir().as_deref())
}

/// The data sets that are here by name: the bundled one, then those of the data folder in alphabetical order.
pub fn list() -> Result<Vec<DatasetInfo>> {
    list_in(existing_data_dir().as_deref())
}

/// The data folder, whether or not it is there yet; `None` for a user without a home and without GPUREC_DATA_DIR.
pub fn data_dir() -> Option<PathBuf> {
    named_data_dir().or_else(|| Some(choose_native_strategy().ok()?.data_dir().join("gpurec")))
}

/// What the papers call a data set.
pub fn paper_name(name: &str) -> Option<&'static str> {
    manifest(name)?.paper_name.as_deref()
}

fn named_data_dir() -> Option<PathBuf> {
    std::env::var_os(DATA_DIR).filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// A folder that the user names must be there; the own one may not be yet.
fn existing_data_dir() -> Option<PathBuf> {
    named_data_dir().or_else(|| data_dir().filter(|dir| dir.is_dir()))
}

fn locate_in(name_or_path: &str, data_dir: Option<&Path>) -> Result<Source> {
    if name_or_path == BUNDLED || name_or_path == dataset_name(Path::new(BUNDLED_FILE)) {
        return Ok(Source::Bundled);
    }
    let path = Path::new(name_or_path);
    if path.is_file() || prepared::is_prepared(path) || looks_like_a_path(name_or_path) {
        return Ok(Source::File(path.to_owned()));
    }
    let known = list_in(data_dir)?;
    match known.iter().find(|info| info.name == name_or_path) {
        Some(info) => Ok(info.source.clone()),
        _ => Err(unknown(name_or_path, &known, data_dir)),
    }
}

/// Names have neither separators nor extensions; a missing file is then reported as just that.
fn looks_like_a_path(given: &str) -> bool {
    given.contains(['/', '\\']) || given.ends_with(".gz") || Format::of_file(Path::new(given)).is_some()
}

fn unknown(given: &str, known: &[DatasetInfo], data_dir: Option<&Path>) -> Error {
    if let Some(manifest) = manifest(given) {
        let help = match manifest.source.access {
            Access::Private => manifest.terms.clone(),
            _ => {
                format!("`gpurec data fetch {given}` gets it, or says how; `gpurec data show {given}` tells what it is")
            }
        };
        return Error::usage(format!("the data set `{given}` is not on this machine"), help);
    }
    let names = known.iter().map(|info| info.name.as_str());
    let mut names: Vec<&str> = names.chain(manifests().iter().map(|manifest| manifest.name.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    let error = Error::unknown("data set", given, &names);
    let more = match data_dir {
        Some(dir) => format!("files of {} are known by name", dir.display()),
        None => format!("set {DATA_DIR} to a folder of data files to use them by name too"),
    };
    let help = error.help().unwrap_or_default();
    Error::usage(error.to_string(), format!("{help}; a path to a file works too; {more}"))
}

fn list_in(data_dir: Option<&Path>) -> Result<Vec<DatasetInfo>> {
    let bundled = BUNDLED_BYTES.len() as u64;
    let mut all = vec![DatasetInfo { name: BUNDLED.into(), source: Source::Bundled, paper_name: None, bytes: bundled }];
    let Some(dir) = data_dir else { return Ok(all) };
    let io = |source| Error::io("list the data sets of", dir, source);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if prepared::is_prepared(&path) || path.is_file() && Format::of_file(&path).is_some() {
            files.push(path);
        }
    }
    files.sort();
    for path in files {
        let name = dataset_name(&path);
        if path.file_name().is_some_and(|file| file == BUNDLED_FILE) || all.iter().any(|info| info.name == name) {
            continue; // the bundled set again, or NAME.txt beside NAME.txt.gz: the first one counts
        }
        let bytes = stored_bytes(&path).map_err(io)?;
        all.push(DatasetInfo { paper_name: paper_name(&name), name, source: Source::File(path), bytes });
    }
    Ok(all)
}

/// The size of a file, or of the files of a prepared folder.
fn stored_bytes(path: &Path) -> std::io::Result<u64> {
    if path.is_file() {
        return Ok(path.metadata()?.len());
    }
    std::fs::read_dir(path)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_set_has_the_statistics_its_page_gives() {
        let data = resolve("kuairec", &ReadOptions::default()).unwrap();
        let expected = "9,209 users, 2,233 items, 55,346 interactions; 6.01 per user (min 3, max 211)";
        assert_eq!(data.statistics().to_string(), expected);
        assert_eq!(locate_in("kuairec_sequences", None).unwrap(), Source::Bundled);
    }

    #[test]
    fn the_bundled_set_has_neither_columns_nor_a_schema() {
        let columns = |user: &str| crate::data::Columns { user: Some(user.into()), ..Default::default() };
        let refused = |options: ReadOptions| resolve("kuairec", &options).unwrap_err().to_string();
        let schema = refused(ReadOptions { schema: Some("lists.toml".into()), ..Default::default() });
        assert!(schema.starts_with("--schema means nothing for kuairec, a part of gpurec"), "{schema}");
        assert!(refused(ReadOptions { columns: columns("1"), ..Default::default() }).starts_with("--user-col"));
        assert!(refused(ReadOptions { separator: Some(' '), ..Default::default() }).starts_with("--separator"));
        let (format, split) = ("sequences".parse().ok(), "ratio:0.8,0.1,0.1".parse().ok());
        assert!(resolve("kuairec", &ReadOptions { format, split, ..Default::default() }).is_ok());
    }

    #[test]
    fn a_folder_adds_names_and_files_of_no_known_format_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["amazon_toys_and_games.txt", "other.tsv.gz", "notes.md", "kuairec_sequences.txt.gz"] {
            std::fs::write(dir.path().join(file), "1 2 3 4\n").unwrap();
        }
        let all = list_in(Some(dir.path())).unwrap();
        let names: Vec<&str> = all.iter().map(|info| info.name.as_str()).collect();
        assert_eq!(names, ["kuairec", "amazon_toys_and_games", "other"]);
        assert_eq!(all[1].paper_name, Some("Toys"));
        let path = dir.path().join("amazon_toys_and_games.txt");
        assert_eq!(locate_in("amazon_toys_and_games", Some(dir.path())).unwrap(), Source::File(path));
    }

    #[test]
    fn a_path_is_read_whatever_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.txt");
        std::fs::write(&path, "1 2 3 4\n").unwrap();
        assert_eq!(resolve(path.to_str().unwrap(), &ReadOptions::default()).unwrap().name, "mine");
        assert!(matches!(resolve("nowhere/mine.txt", &ReadOptions::default()), Err(Error::Io { .. })));
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_names_there_are() {
        let error = locate_in("kuairek", None).unwrap_err();
        assert_eq!(error.to_string(), "unknown data set `kuairek`");
        let help = error.help().unwrap();
        assert!(help.contains("did you mean `kuairec`?") && help.contains(DATA_DIR), "{help}");
    }

    #[test]
    fn a_data_folder_that_does_not_exist_is_reported() {
        assert!(matches!(list_in(Some(Path::new("no/such/folder"))), Err(Error::Io { .. })));
    }
}
