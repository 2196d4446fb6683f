//! Whose checkpoint it is: method, configuration and data. A checkpoint continues only what it was made by.

use crate::data::{Interactions, ReadOptions};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// The layout of checkpoint files; a reader refuses any other.
pub const FORMAT: u32 = 2;

/// Stored in every checkpoint, and complete: method and item names can be made from it without the run's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    pub format: u32,
    /// The program that wrote it.
    pub version: String,
    pub method: String,
    /// Complete configuration of the method.
    pub config: Table,
    pub seed: u64,
    pub data: DataIdentity,
}

/// Which interactions under which split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataIdentity {
    /// The name or path as the user gave it.
    pub dataset: String,
    /// How it was read.
    pub source: ReadOptions,
    pub split: String,
    pub users: usize,
    pub items: usize,
    pub interactions: usize,
    /// Of all users, items, events and parts, in hexadecimal digits.
    pub fingerprint: String,
}

impl DataIdentity {
    pub fn new(dataset: &str, source: &ReadOptions, data: &Interactions) -> Self {
        DataIdentity {
            dataset: dataset.into(),
            source: source.clone(),
            split: data.rule().to_string(),
            users: data.n_users(),
            items: data.n_items(),
            interactions: data.n_events(),
            fingerprint: fingerprint(data),
        }
    }
}

impl Identity {
    /// What differs from `other`, in words; `None` where `other` may continue this one. More epochs, more patience and
    /// another path to the same data are welcome.
    pub fn difference(&self, other: &Identity) -> Option<String> {
        let mut fields = vec![("method".to_string(), self.method.clone(), other.method.clone())];
        fields.push(("seed".into(), self.seed.to_string(), other.seed.to_string()));
        let (a, b) = (&self.data, &other.data);
        fields.push(("split".into(), a.split.clone(), b.split.clone()));
        for (name, a, b) in
            [("users", a.users, b.users), ("items", a.items, b.items), ("interactions", a.interactions, b.interactions)]
        {
            fields.push((name.into(), a.to_string(), b.to_string()));
        }
        fields.push(("content of the data".into(), a.fingerprint.clone(), b.fingerprint.clone()));
        fields.extend(differing_keys(&self.config, &other.config));
        let differing =
            fields.into_iter().filter(|(_, a, b)| a != b).map(|(name, a, b)| format!("{name} is {a}, not {b}"));
        let differing: Vec<String> = differing.take(3).collect();
        (!differing.is_empty()).then(|| differing.join("; "))
    }
}

/// Keys with other values, `table.key` for those of inner tables.
fn differing_keys(a: &Table, b: &Table) -> Vec<(String, String, String)> {
    const FREE: [&str; 2] = ["epochs", "patience"];
    let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let mut out = Vec::new();
    for key in keys.into_iter().filter(|key| !FREE.contains(&key.as_str())) {
        match (a.get(key), b.get(key)) {
            (Some(Value::Table(a)), Some(Value::Table(b))) => {
                out.extend(differing_keys(a, b).into_iter().map(|(inner, a, b)| (format!("{key}.{inner}"), a, b)));
            }
            (a, b) if a == b => {}
            (a, b) => {
                let shown = |value: Option<&Value>| value.map_or("absent".to_string(), Value::to_string);
                out.push((key.clone(), shown(a), shown(b)));
            }
        }
    }
    out
}

/// A hash of everything that a model could learn from.
fn fingerprint(data: &Interactions) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for name in data.users.iter().chain(&data.items) {
        hash.update(name.as_bytes());
        hash.update([0]);
    }
    for u in 0..data.n_users() {
        let lengths = [data.train(u).len(), data.before_test(u).len(), data.sequence(u).len()];
        lengths.iter().for_each(|n| hash.update((*n as u32).to_le_bytes()));
        hash.update(bytemuck::cast_slice::<u32, u8>(data.sequence(u)));
    }
    crate::files::hexadecimal(&hash.finalize()[..16])
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
        }
    }

    #[test]
    fn a_difference_is_named_with_both_values() {
        let sequences = vec![vec![1, 2, 3], vec![2, 3, 4]];
        let one = identity(&sequences, "dim = 64\nepochs = 3\n[augment]\ncrop = 0.2");
        assert_eq!(one.difference(&identity(&sequences, "dim = 64\nepochs = 9\n[augment]\ncrop = 0.2")), None);
        let other = identity(&sequences, "dim = 32\nepochs = 3\n[augment]\ncrop = 0.3");
        assert_eq!(one.difference(&other).unwrap(), "augment.crop is 0.2, not 0.3; dim is 64, not 32");
        let swapped = identity(&[vec![2, 1, 3], vec![2, 3, 4]], "dim = 64\nepochs = 3\n[augment]\ncrop = 0.2");
        assert!(one.difference(&swapped).unwrap().starts_with("content of the data is "));
        let longer = identity(&[vec![1, 2, 3, 4], vec![2, 3, 4]], "dim = 64\nepochs = 3\n[augment]\ncrop = 0.2");
        assert!(one.difference(&longer).unwrap().starts_with("interactions is 6, not 7"));
        let elsewhere =
            Identity { data: DataIdentity { dataset: "x/toy.txt".into(), ..one.data.clone() }, ..one.clone() };
        assert_eq!(one.difference(&elsewhere), None);
    }
}
