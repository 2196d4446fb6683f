//! The folder of a prepared data set, in the form that the codes of the field read as well.
//!
//! | file | content |
//! |---|---|
//! | `sequences.txt.gz` | `user item item ...`, both numbered from 1, in time order |
//! | `times.txt.gz` | `user time time ...`, where the source has times |
//! | `kinds.txt.gz` | `user kind kind ...`, numbered from 0 as in `dataset.toml`, where events have kinds |
//! | `users.tsv`, `items.tsv` | number and original name |
//! | `dataset.toml` | where it comes from, what was done, how it is split, what came out |

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use super::interactions::{Interactions, Statistics};
use super::log::parse_time;
use super::prepare::Step;
use super::read::{ReadOptions, read_log};
use super::split::SplitRule;
use crate::error::{Error, Result};
use crate::files::{TomlKind, read_toml, write_atomically, write_with};

const DESCRIPTION: &str = "dataset.toml";
const SEQUENCES: &str = "sequences.txt.gz";
const TIMES: &str = "times.txt.gz";
const KINDS: &str = "kinds.txt.gz";

/// `dataset.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// What reports call it.
    pub name: String,
    /// The files it was made from, with the SHA-256 of each.
    pub sources: BTreeMap<String, String>,
    /// How it is split unless the command line says otherwise.
    pub split: SplitRule,
    /// How many there are.
    pub users: usize,
    /// How many there are.
    pub items: usize,
    /// How many there are.
    pub interactions: usize,
    /// Kinds of events, in the order of their numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// What was done, in this order.
    #[serde(default)]
    pub steps: Vec<Step>,
}

/// Whether a folder holds a complete prepared data set.
pub fn is_prepared(folder: &Path) -> bool {
    folder.join(DESCRIPTION).is_file()
}

/// Writes the folder; the description comes last, so that a folder without it is known to be incomplete.
pub fn write(folder: &Path, data: &Interactions, description: &Description) -> Result<()> {
    let names = |file: &str, names: &[String]| {
        write_with(&folder.join(file), |out| {
            writeln!(out, "id\tname")?;
            (1..).zip(names).try_for_each(|(id, name)| writeln!(out, "{id}\t{name}"))
        })
    };
    names("users.tsv", &data.users)?;
    names("items.tsv", &data.items)?;
    let lines = |file: &str, line: &dyn Fn(usize, &mut dyn Write) -> std::io::Result<()>| {
        write_with(&folder.join(file), |out| {
            // Small writes would cost the encoder more than the compression.
            let mut out = BufWriter::with_capacity(1 << 16, GzEncoder::new(out, Compression::fast()));
            for u in 0..data.n_users() {
                write!(out, "{}", u + 1)?;
                line(u, &mut out)?;
                writeln!(out)?;
            }
            out.into_inner()?.finish().map(drop)
        })
    };
    lines(SEQUENCES, &|u, out| data.sequence(u).iter().try_for_each(|item| write!(out, " {}", item + 1)))?;
    if data.has_times() {
        lines(TIMES, &|u, out| data.times(u).iter().try_for_each(|time| write!(out, " {time}")))?;
    }
    if !data.kind_names.is_empty() {
        lines(KINDS, &|u, out| data.kinds(u).iter().try_for_each(|kind| write!(out, " {kind}")))?;
    }
    let text = toml::to_string(description).expect("a description serialises");
    write_atomically(
        &folder.join(DESCRIPTION),
        format!("# Written by gpurec {}\n{text}", env!("CARGO_PKG_VERSION")).as_bytes(),
    )
}

const KIND: TomlKind = TomlKind {
    doing: "read the description",
    help: "`gpurec data prepare` writes this file; if it is damaged, prepare the data set again",
};

/// Reads the folder, with the original names. Of the options only the split means something.
pub fn read(folder: &Path, options: &ReadOptions) -> Result<Interactions> {
    let what = format!("{}, a prepared data set: all of them are written alike", folder.display());
    options.expect_only(|_| false, &what, "name the file that it was made from")?;
    let description: Description = read_toml(&folder.join(DESCRIPTION), KIND)?;
    let log = read_log(&folder.join(SEQUENCES), &ReadOptions::default())?;
    let mut data = Interactions::from_log(&description.name, log);
    let Statistics { users, items, interactions, .. } = data.statistics();
    if (users, items, interactions) != (description.users, description.items, description.interactions) {
        let problem = format!("it holds {}, {DESCRIPTION} says otherwise", data.statistics());
        return Err(Error::Format { path: folder.join(SEQUENCES), problem });
    }
    data.users = names(&folder.join("users.tsv"), users)?;
    data.items = names(&folder.join("items.tsv"), items)?;
    let times = folder.join(TIMES);
    if times.exists() {
        data = data.with_times(read_column(&times, interactions, parse_time)?);
    }
    if !description.kinds.is_empty() {
        let (path, known) = (folder.join(KINDS), description.kinds.len() as u32);
        let kind = |text: &str| text.parse().ok().filter(|kind| *kind < known);
        let kinds = read_column(&path, interactions, kind)?;
        data = data.with_kinds(description.kinds, kinds);
    }
    data.with_split(options.split.clone().unwrap_or(description.split))
}

fn names(path: &Path, count: usize) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let names: Option<Vec<String>> =
        text.lines().skip(1).map(|line| Some(line.split_once('\t')?.1.to_owned())).collect();
    let names = names.filter(|names| names.len() == count);
    let problem = || format!("it does not hold the {count} names that {DESCRIPTION} promises");
    names.ok_or_else(|| Error::Format { path: path.to_owned(), problem: problem() })
}

/// A value for each event, from lines `user value value ...`.
fn read_column<T>(path: &Path, count: usize, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
    let failed = |e| Error::io("read", path, e);
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut values = Vec::with_capacity(count);
    for line in BufReader::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(file))).lines() {
        let line = line.map_err(failed)?;
        values.extend(line.split(' ').skip(1).map_while(&parse));
    }
    let problem = format!("it holds {} values for {count} events", values.len());
    if values.len() == count { Ok(values) } else { Err(Error::Format { path: path.to_owned(), problem }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_with_names_times_and_split() {
        let folder = tempfile::tempdir().unwrap();
        let mut data = Interactions::from_sequences("shop", &[vec![2, 1, 3], vec![3, 3, 1, 2]]);
        data.items = ["kettle", "tea pot", "cup"].map(String::from).into();
        let data = data.with_times((0..7).map(|t| f64::from(t) / 2.0).collect());
        let data = data.with_kinds(vec!["view".into(), "sale".into()], vec![0, 0, 1, 0, 1, 1, 0]);
        let data = data.with_split("time:1,2".parse().unwrap()).unwrap();
        let description = Description {
            name: "shop".into(),
            sources: BTreeMap::from([("shop.csv".into(), "0".into())]),
            split: data.rule().clone(),
            users: 2,
            items: 3,
            interactions: 7,
            kinds: data.kind_names.clone(),
            steps: vec![Step::KCore { k: 2 }, Step::DropRepeats],
        };
        write(folder.path(), &data, &description).unwrap();
        let back = read(folder.path(), &ReadOptions::default()).unwrap();
        assert_eq!(back, data);
        let split: SplitRule = "ratio:0.6,0.2,0.2".parse().unwrap();
        let options = ReadOptions { split: Some(split.clone()), ..ReadOptions::default() };
        assert_eq!(read(folder.path(), &options).unwrap().rule(), &split);
        for options in [
            ReadOptions { schema: Some("lists.toml".into()), ..options.clone() },
            ReadOptions { format: Some("csv".parse().unwrap()), ..options.clone() },
            ReadOptions { separator: Some(','), ..options },
        ] {
            let error = read(folder.path(), &options).unwrap_err().to_string();
            assert!(error.contains(" means nothing for ") && error.contains("a prepared data set"), "{error}");
        }
        std::fs::write(folder.path().join("items.tsv"), "id\tname\n1\tkettle\n").unwrap();
        assert!(read(folder.path(), &ReadOptions::default()).unwrap_err().to_string().contains("3 names"));
    }
}
