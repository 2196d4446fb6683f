//! Whose checkpoint it is: method, configuration and data. A checkpoint continues only what it was made by.

use crate::data::lists::Field;
use crate::data::{HeldOut, Interactions, ReadOptions, SplitRule};
use crate::error::{Error, Result};
use crate::files::hexadecimal;
use crate::methods::config::differences;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;
use toml::Table;

/// The layout of checkpoint files; a reader refuses any other.
pub const FORMAT: u32 = 3;

/// Under which safetensors files of runs say what they are.
pub(super) const METADATA_KEY: &str = "gpurec";

/// Stored in every checkpoint, and complete: method and item names can be made from it without the run's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// `FORMAT` when it was written.
    pub format: u32,
    /// The program that wrote it.
    pub version: String,
    /// By name.
    pub method: String,
    /// Complete configuration of the method.
    pub config: Table,
    /// Of the run.
    pub seed: u64,
    /// What it was trained on.
    pub data: DataIdentity,
    /// SHA-256 of the parameters that were given: those it began with, then each teacher's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
}

/// Which interactions under which split. Ranks are comparable, and training can go on, only where all of it is the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataIdentity {
    /// The name or path as the user gave it.
    pub dataset: String,
    /// How it was read.
    pub source: ReadOptions,
    /// The rule.
    pub split: String,
    /// U
    pub users: usize,
    /// V
    pub items: usize,
    /// SHA-256, in hexadecimal, of the users' and items' names in their order, and of the three parts of the sequences.
    pub user_names: String,
    /// Digest.
    pub item_names: String,
    /// Digest.
    pub training_events: String,
    /// Digest.
    pub valid_targets: String,
    /// Digest.
    pub test_targets: String,
    /// Digest of the kinds' names and the kind of each event; empty where events have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kinds: String,
    /// The fields and the digest of a log of lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists: Option<ListsIdentity>,
}

/// What a model of lists was made for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListsIdentity {
    /// Positions of a list.
    pub length: usize,
    /// With their rows in the joint table.
    pub fields: Vec<Field>,
    /// Of all that training and evaluation read.
    pub digest: String,
}

impl DataIdentity {
    /// Of a data set as the user named it.
    pub fn new(dataset: &str, source: &ReadOptions, data: &Interactions) -> Self {
        let targets = |events: &mut dyn Iterator<Item = HeldOut<'_>>| {
            digest(events.map(|event| [event.user.to_le_bytes(), event.target.to_le_bytes()].concat()))
        };
        DataIdentity {
            dataset: dataset.into(),
            source: source.clone(),
            split: data.rule().to_string(),
            users: data.n_users(),
            items: data.n_items(),
            user_names: digest(data.users.iter().map(String::as_bytes)),
            item_names: digest(data.items.iter().map(String::as_bytes)),
            training_events: digest((0..data.n_users()).map(|u| bytemuck::cast_slice::<u32, u8>(data.train(u)))),
            valid_targets: targets(&mut data.valid()),
            test_targets: targets(&mut data.test()),
            kinds: match data.kind_names.is_empty() {
                true => String::new(),
                false => {
                    let names = data.kind_names.iter().map(String::as_bytes);
                    digest(names.chain((0..data.n_users()).map(|u| bytemuck::cast_slice::<u32, u8>(data.kinds(u)))))
                }
            },
            lists: data.lists.as_ref().map(|lists| ListsIdentity {
                length: lists.length,
                fields: lists.fields.clone(),
                digest: digest(lists.content()),
            }),
        }
    }

    /// What a safetensors file that is of this data says about itself.
    pub fn metadata(&self) -> (String, String) {
        (METADATA_KEY.into(), serde_json::to_string(self).expect("numbers and strings serialise"))
    }

    /// From the metadata of such a file.
    pub fn of_metadata(metadata: Option<&HashMap<String, String>>, path: &Path) -> Result<DataIdentity> {
        let wrong = |problem: String| Error::Format { path: path.into(), problem };
        let text = metadata.and_then(|all| all.get(METADATA_KEY));
        let text = text.ok_or_else(|| wrong("its metadata do not say what it was made of".into()))?;
        serde_json::from_str(text).map_err(|e| wrong(format!("its metadata cannot be read: {e}")))
    }

    /// What runs with other seeds have in common with the run of this one: without the sessions that are the seed's own.
    pub fn but_for_sessions(&self, seed: u64) -> DataIdentity {
        let Some(rule) = self.split.parse().ok().filter(|rule: &SplitRule| rule.is_drawn_by(seed)) else {
            return self.clone();
        };
        let [training_events, valid_targets, test_targets] = Default::default();
        let source = ReadOptions { split: Some(rule.undrawn()), ..self.source.clone() };
        DataIdentity {
            split: rule.undrawn().to_string(),
            source,
            training_events,
            valid_targets,
            test_targets,
            ..self.clone()
        }
    }

    /// The first thing in which the other differs, in words; `None` where they are the same.
    pub fn difference(&self, other: &DataIdentity) -> Option<String> {
        let sizes = [("users", self.users, other.users), ("items", self.items, other.items)];
        let size = sizes.into_iter().find(|(_, ours, theirs)| ours != theirs);
        let size = size.map(|(what, ours, theirs)| format!("the number of {what}, {ours} and {theirs}"));
        let split = (self.split != other.split).then(|| format!("the split, {} and {}", self.split, other.split));
        let contents = [
            ("the users, or their order", &self.user_names, &other.user_names),
            ("the items", &self.item_names, &other.item_names),
            ("the training events", &self.training_events, &other.training_events),
            ("the validation targets", &self.valid_targets, &other.valid_targets),
            ("the test targets", &self.test_targets, &other.test_targets),
            ("the kinds of events", &self.kinds, &other.kinds),
        ];
        let lists = (self.lists != other.lists).then(|| "the lists".to_string());
        let content = contents.into_iter().find(|(_, ours, theirs)| ours != theirs);
        split.or(size).or(content.map(|(what, _, _)| what.into())).or(lists)
    }
}

/// Each part goes in with its length, so that parts cannot run into one another.
fn digest<P: AsRef<[u8]>>(parts: impl Iterator<Item = P>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.as_ref().len() as u64).to_le_bytes());
        hash.update(part.as_ref());
    }
    hexadecimal(&hash.finalize())
}

impl Identity {
    /// What differs from `other`, in words; `None` where `other` may continue this one. More epochs, more patience and
    /// another path to the same data are welcome.
    pub fn difference(&self, other: &Identity) -> Option<String> {
        if self.method != other.method {
            return Some(format!("the method, {} and {}", self.method, other.method));
        }
        let seed = (self.seed != other.seed).then(|| format!("the seed, {} and {}", self.seed, other.seed));
        const FREE: [&str; 2] = ["epochs", "patience"];
        let keys =
            differences(&self.config, &other.config).into_iter().filter(|(key, ..)| !FREE.contains(&key.as_str()));
        let keys = keys.map(|(key, ours, theirs)| format!("{key}, {ours} and {theirs}"));
        let models = (self.models != other.models).then(|| "the models of --start-from or --teacher".to_string());
        let data = self.data.difference(&other.data);
        let all: Vec<String> = data.into_iter().chain(seed).chain(keys).chain(models).take(3).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(sequences: &[Vec<u32>], config: &str) -> Identity {
        let data = Interactions::from_sequences("toy", sequences);
        let data = DataIdentity::new("toy", &ReadOptions::default(), &data);
        Identity {
            format: FORMAT,
            version: "1".into(),
            method: "sasrec".into(),
            config: config.parse().unwrap(),
            seed: 1,
            data,
            models: Vec::new(),
        }
    }

    #[test]
    fn a_difference_is_named_with_both_values() {
        let sequences = vec![vec![1, 2, 3], vec![2, 3, 4]];
        let one = identity(&sequences, "dim = 64\nepochs = 3\n[augment]\ncrop = 0.2");
        assert_eq!(one.difference(&identity(&sequences, "dim = 64\nepochs = 9\n[augment]\ncrop = 0.2")), None);
        let other = identity(&sequences, "dim = 32\nepochs = 3\n[augment]\ncrop = 0.3");
        assert_eq!(one.difference(&other).unwrap(), "augment.crop, 0.2 and 0.3; dim, 64 and 32");
        let elsewhere =
            Identity { data: DataIdentity { dataset: "x/toy.txt".into(), ..one.data.clone() }, ..one.clone() };
        assert_eq!(one.difference(&elsewhere), None);
        let other = Identity { method: "pop".into(), ..one.clone() };
        assert_eq!(one.difference(&other).unwrap(), "the method, sasrec and pop");
    }

    #[test]
    fn other_data_differ_in_something_that_has_a_name() {
        let toy = || vec![vec![1, 2, 3, 4], vec![2, 3, 1, 5], vec![4, 2, 5, 3, 1]];
        let of = |data: &Interactions| DataIdentity::new("toy", &ReadOptions::default(), data);
        let ours = of(&Interactions::from_sequences("toy", &toy()));
        assert_eq!(ours.difference(&ours), None);
        let with = |change: &dyn Fn(&mut Vec<Vec<u32>>)| {
            let mut sequences = toy();
            change(&mut sequences);
            ours.difference(&of(&Interactions::from_sequences("toy", &sequences))).unwrap()
        };
        assert_eq!(with(&|s| s.truncate(2)), "the number of users, 3 and 2");
        assert_eq!(with(&|s| s[0].push(6)), "the number of items, 5 and 6");
        assert_eq!(with(&|s| s.iter_mut().flatten().for_each(|item| *item += 1)), "the items");
        assert_eq!(with(&|s| s[2].swap(0, 1)), "the training events");
        assert_eq!(with(&|s| s[0].swap(2, 3)), "the validation targets");
        assert_eq!(with(&|s| s[2][4] = 2), "the test targets");
        let mut renamed = Interactions::from_sequences("toy", &toy());
        renamed.users.swap(0, 1);
        assert_eq!(ours.difference(&of(&renamed)).unwrap(), "the users, or their order");
        let split =
            Interactions::from_sequences("toy", &toy()).with_split("ratio:0.8,0.1,0.1".parse().unwrap()).unwrap();
        assert_eq!(ours.difference(&of(&split)).unwrap(), "the split, leave-one-out and ratio:0.8,0.1,0.1");
    }
}
