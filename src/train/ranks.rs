//! `ranks.safetensors`: the rank of each user's held-out items, so that metrics can be made again and runs be compared user
//! by user.
//!
//! Tensors `valid`, `test` and `test_history_kept`: u32, one for each held-out event, users in the order of the data set and
//! their events in time order; `valid_users` and `test_users` name the user of each, `valid_kinds` and `test_kinds` its kind
//! where events have kinds. Ranks count from 1; `UNREACHABLE` (u32::MAX) is a target that is not among the candidates. The
//! metadata say what was ranked, and what the kinds are called.

use super::identity::DataIdentity;
use super::ranker::Ranks;
use crate::data::Interactions;
use crate::error::{Error, Result};
use crate::eval::Metrics;
use crate::files::write_atomically;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

const METADATA_KEY: &str = "gpurec";
const KINDS_KEY: &str = "kinds";
const TENSORS: [&str; 5] = ["valid_users", "valid", "test_users", "test", "test_history_kept"];
const KINDS: [&str; 2] = ["valid_kinds", "test_kinds"];

/// The ranks of a run, one for each held-out event.
#[derive(Clone, Debug, PartialEq)]
pub struct UserRanks {
    /// Which events.
    pub data: DataIdentity,
    /// The user of each validation event, as an index.
    pub valid_users: Vec<u32>,
    /// The rank of each validation event, history excluded from the candidates.
    pub valid: Vec<u32>,
    /// The user of each test event.
    pub test_users: Vec<u32>,
    /// History excluded from the candidates, as in `valid`.
    pub test: Vec<u32>,
    /// Every item a candidate.
    pub test_history_kept: Vec<u32>,
    /// What kinds of events are called; none where events have no kinds.
    pub kind_names: Vec<String>,
    /// The kind of each validation event.
    pub valid_kinds: Vec<u32>,
    /// The kind of each test event.
    pub test_kinds: Vec<u32>,
}

/// Metrics of the events of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfKind {
    /// History excluded from the candidates.
    pub valid: Metrics,
    /// History excluded from the candidates.
    pub test: Metrics,
    /// Every item a candidate.
    pub test_history_kept: Metrics,
}

impl UserRanks {
    /// Metrics by kind of event; none where events have no kinds.
    pub fn by_kind(&self) -> BTreeMap<String, OfKind> {
        let of = |kind: u32, kinds: &[u32], ranks: &[u32]| {
            let own = kinds.iter().zip(ranks).filter(|(own, _)| **own == kind).map(|(_, rank)| *rank);
            Metrics::from_ranks(&own.collect::<Vec<u32>>())
        };
        let metrics = |(kind, name): (u32, &String)| {
            let metrics = OfKind {
                valid: of(kind, &self.valid_kinds, &self.valid),
                test: of(kind, &self.test_kinds, &self.test),
                test_history_kept: of(kind, &self.test_kinds, &self.test_history_kept),
            };
            (name.clone(), metrics)
        };
        (0..).zip(&self.kind_names).map(metrics).collect()
    }

    /// Of the events of a data set, in its order.
    pub fn new(identity: DataIdentity, data: &Interactions, valid: Ranks, test: Ranks) -> UserRanks {
        UserRanks {
            data: identity,
            valid_users: data.valid().map(|event| event.user).collect(),
            valid: valid.history_excluded,
            test_users: data.test().map(|event| event.user).collect(),
            test: test.history_excluded,
            test_history_kept: test.history_kept,
            kind_names: data.kind_names.clone(),
            valid_kinds: data.valid().filter_map(|event| event.kind).collect(),
            test_kinds: data.test().filter_map(|event| event.kind).collect(),
        }
    }

    /// Where the folder of a run has them.
    pub fn path(run: &Path) -> PathBuf {
        run.join("ranks.safetensors")
    }

    /// Writes them as safetensors.
    pub fn write(&self, path: &Path) -> Result<()> {
        let columns = [&self.valid_users, &self.valid, &self.test_users, &self.test, &self.test_history_kept];
        let kinds =
            KINDS.into_iter().zip([&self.valid_kinds, &self.test_kinds]).filter(|_| !self.kind_names.is_empty());
        let tensors = TENSORS.into_iter().zip(columns).chain(kinds).map(|(name, column)| {
            let bytes: &[u8] = bytemuck::cast_slice(column);
            (name, TensorView::new(Dtype::U32, vec![column.len()], bytes).expect("four bytes a rank"))
        });
        let identity = serde_json::to_string(&self.data).expect("numbers and strings serialise");
        let mut metadata = HashMap::from([(METADATA_KEY.to_string(), identity)]);
        if !self.kind_names.is_empty() {
            let names = serde_json::to_string(&self.kind_names).expect("strings serialise");
            metadata.insert(KINDS_KEY.into(), names);
        }
        let bytes = safetensors::serialize(tensors, Some(metadata)).expect("names are unique and sizes fit");
        write_atomically(path, &bytes)
    }

    /// Reads and checks them.
    pub fn read(path: &Path) -> Result<UserRanks> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read the ranks", path, e))?;
        let wrong = |problem: String| Error::Format { path: path.into(), problem };
        let file = SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("no file of ranks: {e}")))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(e.to_string()))?;
        let entry = |key: &str| header.metadata().as_ref().and_then(|all| all.get(key));
        let unreadable = |e: serde_json::Error| wrong(format!("its metadata cannot be read: {e}"));
        let kind_names: Vec<String> =
            entry(KINDS_KEY).map_or(Ok(Vec::new()), |names| serde_json::from_str(names)).map_err(unreadable)?;
        let metadata = entry(METADATA_KEY).ok_or_else(|| wrong("no file of ranks: its metadata are missing".into()))?;
        let data: DataIdentity = serde_json::from_str(metadata).map_err(unreadable)?;
        let column = |name: &str| -> Result<Vec<u32>> {
            let view = file.tensor(name).map_err(|e| wrong(format!("{name}: {e}")))?;
            if view.dtype() != Dtype::U32 {
                return Err(wrong(format!("{name} is {:?}, not U32", view.dtype())));
            }
            let words = view.data().chunks_exact(4);
            Ok(words.map(|word| u32::from_le_bytes(word.try_into().expect("chunks of four"))).collect())
        };
        let [valid_users, valid, test_users, test, test_history_kept] = TENSORS.map(column);
        let [valid_kinds, test_kinds] =
            KINDS.map(|name| if kind_names.is_empty() { Ok(Vec::new()) } else { column(name) });
        let ranks = UserRanks {
            data,
            valid_users: valid_users?,
            valid: valid?,
            test_users: test_users?,
            test: test?,
            test_history_kept: test_history_kept?,
            kind_names,
            valid_kinds: valid_kinds?,
            test_kinds: test_kinds?,
        };
        let lengths = [&ranks.valid, &ranks.test, &ranks.test_history_kept].map(Vec::len);
        if lengths != [ranks.valid_users.len(), ranks.test_users.len(), ranks.test_users.len()] {
            return Err(wrong(format!(
                "it holds {lengths:?} ranks for {} and {} events",
                ranks.valid_users.len(),
                ranks.test_users.len()
            )));
        }
        Ok(ranks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ReadOptions;
    use crate::eval::UNREACHABLE;

    #[test]
    fn ranks_come_back_as_they_were_written() {
        let data = Interactions::from_sequences("toy", &[vec![1, 2, 3, 4], vec![2, 3, 1, 5], vec![4, 2, 5, 3, 1]]);
        let identity = DataIdentity::new("toy", &ReadOptions::default(), &data);
        let ranks = |excluded: &[u32], kept: &[u32]| Ranks {
            history_excluded: excluded.into(),
            history_kept: kept.into(),
            tie_share: 0.0,
        };
        let ranks =
            UserRanks::new(identity, &data, ranks(&[1, UNREACHABLE, 3], &[1, 2, 3]), ranks(&[4, 5, 6], &[7, 8, 9]));
        assert_eq!((&ranks.valid_users[..], &ranks.test_users[..]), (&[0, 1, 2][..], &[0, 1, 2][..]));
        let folder = tempfile::tempdir().unwrap();
        let path = UserRanks::path(folder.path());
        ranks.write(&path).unwrap();
        assert_eq!(UserRanks::read(&path).unwrap(), ranks);

        let kinds = UserRanks {
            kind_names: vec!["view".into(), "sale".into()],
            valid_kinds: vec![0, 0, 1],
            test_kinds: vec![1, 0, 1],
            ..ranks.clone()
        };
        kinds.write(&path).unwrap();
        assert_eq!(UserRanks::read(&path).unwrap(), kinds);
        let by_kind = kinds.by_kind();
        assert_eq!(by_kind["view"].test, Metrics::from_ranks(&[5]));
        assert_eq!(by_kind["sale"].test_history_kept, Metrics::from_ranks(&[7, 9]));

        let short = UserRanks { test: vec![4, 5], ..ranks };
        short.write(&path).unwrap();
        assert!(UserRanks::read(&path).unwrap_err().to_string().contains("[3, 2, 3] ranks for 3 and 3 events"));
        std::fs::write(&path, b"1 2 3 4").unwrap();
        assert!(matches!(UserRanks::read(&path), Err(Error::Format { .. })));
    }
}
