//! `ranks.safetensors`: the rank of each user's held-out items, so that metrics can be made again and runs be compared user
//! by user.
//!
//! Tensors `valid`, `test`, `test_history_kept` and `test_uni99`: u32, one for each held-out event, users in the order of the data set and
//! their events in time order; `valid_users` and `test_users` name the user of each, `valid_kinds` and `test_kinds` its kind
//! where events have kinds, and `test_shares` (f32) the share of its item in all events. Ranks count from 1; `UNREACHABLE` (u32::MAX) is a target that is not among the candidates. The
//! metadata say what was ranked, and what the kinds are called.

use super::identity::DataIdentity;
use super::ranker::Ranks;
use crate::data::Interactions;
use crate::error::{Error, Result};
use crate::eval::{ByProtocol, Metrics, Protocol, SplitMetrics};
use crate::files::write_atomically;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

const KINDS_KEY: &str = "kinds";
const TENSORS: [&str; 3] = ["valid_users", "valid", "test_users"];
const KINDS: [&str; 2] = ["valid_kinds", "test_kinds"];
const SHARES: &str = "test_shares";

/// The ranks of a run, one for each held-out event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserRanks {
    /// The user of each validation event, as an index.
    pub valid_users: Vec<u32>,
    /// The rank of each validation event, history excluded from the candidates.
    pub valid: Vec<u32>,
    /// The user of each test event.
    pub test_users: Vec<u32>,
    /// The rank of each test event.
    pub test: ByProtocol<Vec<u32>>,
    /// What kinds of events are called; none where events have no kinds.
    pub kind_names: Vec<String>,
    /// The kind of each validation event.
    pub valid_kinds: Vec<u32>,
    /// The kind of each test event.
    pub test_kinds: Vec<u32>,
    /// The share of each test event's item in all events of the data set; none where events have no kinds.
    pub test_shares: Vec<f32>,
}

impl UserRanks {
    /// Over all events.
    pub fn metrics(&self) -> SplitMetrics {
        SplitMetrics::from_ranks(&self.valid, &self.test)
    }

    /// Metrics by kind of event; none where events have no kinds.
    pub fn by_kind(&self) -> BTreeMap<String, SplitMetrics> {
        let metrics = |(kind, name): (u32, &String)| {
            let valid = Metrics::from_ranks(&of_kind(kind, &self.valid_kinds, &self.valid));
            let shares = of_kind(kind, &self.test_kinds, &self.test_shares);
            let test = self.test.map(|ranks| {
                let ranks = of_kind(kind, &self.test_kinds, ranks);
                Metrics::from_ranks(&ranks).with_off_policy(&ranks, &shares)
            });
            (name.clone(), SplitMetrics { valid, test })
        };
        (0..).zip(&self.kind_names).map(metrics).collect()
    }

    /// Of the events of a data set, in its order.
    pub fn new(data: &Interactions, valid: Ranks, test: Ranks) -> UserRanks {
        let of_targets = || {
            let shares = data.item_shares();
            data.test().map(|event| shares[event.target as usize]).collect()
        };
        UserRanks {
            valid_users: data.valid().map(|event| event.user).collect(),
            valid: valid.ranks[Protocol::HistoryExcluded].clone(),
            test_users: data.test().map(|event| event.user).collect(),
            test: test.ranks,
            kind_names: data.kind_names.clone(),
            valid_kinds: data.valid().filter_map(|event| event.kind).collect(),
            test_kinds: data.test().filter_map(|event| event.kind).collect(),
            test_shares: if data.kind_names.is_empty() { Vec::new() } else { of_targets() },
        }
    }

    /// The test events of a kind alone; refused where there are none.
    pub fn of_kind(&self, kind: &str) -> Result<UserRanks> {
        let names: Vec<&str> = self.kind_names.iter().map(String::as_str).collect();
        let place = match names.iter().position(|name| *name == kind) {
            Some(place) => place as u32,
            None if names.is_empty() => {
                return Err(Error::usage("the events of this data have no kinds", "leave --kind out"));
            }
            None => return Err(Error::unknown("kind of event", kind, &names)),
        };
        let test_users = of_kind(place, &self.test_kinds, &self.test_users);
        if test_users.is_empty() {
            return Err(Error::usage(format!("no test event is of the kind {kind}"), "compare another kind, or all"));
        }
        let test = self.test.map(|ranks| of_kind(place, &self.test_kinds, ranks));
        Ok(UserRanks { test_users, test, ..UserRanks::default() })
    }

    /// Where the folder of a run has them.
    pub fn path(run: &Path) -> PathBuf {
        run.join("ranks.safetensors")
    }

    /// Writes them as safetensors, with the data they are of.
    pub fn write(&self, path: &Path, data: &DataIdentity) -> Result<()> {
        let columns = [&self.valid_users, &self.valid, &self.test_users];
        let test = self.test.iter().map(|(protocol, ranks)| (protocol.key(), ranks));
        let kinds =
            KINDS.into_iter().zip([&self.valid_kinds, &self.test_kinds]).filter(|_| !self.kind_names.is_empty());
        let tensors = TENSORS.into_iter().zip(columns).chain(test).chain(kinds).map(|(name, column)| {
            let bytes: &[u8] = bytemuck::cast_slice(column);
            (name, TensorView::new(Dtype::U32, vec![column.len()], bytes).expect("four bytes a rank"))
        });
        let shares = (!self.test_shares.is_empty()).then(|| {
            let bytes = bytemuck::cast_slice(&self.test_shares);
            (SHARES, TensorView::new(Dtype::F32, vec![self.test_shares.len()], bytes).expect("four bytes a share"))
        });
        let mut metadata = HashMap::from([data.metadata()]);
        if !self.kind_names.is_empty() {
            let names = serde_json::to_string(&self.kind_names).expect("strings serialise");
            metadata.insert(KINDS_KEY.into(), names);
        }
        let bytes =
            safetensors::serialize(tensors.chain(shares), Some(metadata)).expect("names are unique and sizes fit");
        write_atomically(path, &bytes)
    }

    /// Reads and checks them, and what they are of.
    pub fn read(path: &Path) -> Result<(DataIdentity, UserRanks)> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read the ranks", path, e))?;
        let wrong = |problem: String| Error::Format { path: path.into(), problem };
        let file = SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("no file of ranks: {e}")))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(e.to_string()))?;
        let data = DataIdentity::of_metadata(header.metadata().as_ref(), path)?;
        let names = header.metadata().as_ref().and_then(|all| all.get(KINDS_KEY));
        let kind_names: Vec<String> = names
            .map_or(Ok(Vec::new()), |names| serde_json::from_str(names))
            .map_err(|e| wrong(format!("the names of its kinds cannot be read: {e}")))?;
        let words = |name: &str, dtype: Dtype| -> Result<Vec<u32>> {
            let view = file.tensor(name).map_err(|e| wrong(format!("{name}: {e}")))?;
            if view.dtype() != dtype {
                return Err(wrong(format!("{name} is {:?}, not {dtype:?}", view.dtype())));
            }
            let words = view.data().chunks_exact(4);
            Ok(words.map(|word| u32::from_le_bytes(word.try_into().expect("chunks of four"))).collect())
        };
        let column = |name: &str| words(name, Dtype::U32);
        let [valid_users, valid, test_users] = TENSORS.map(column);
        let held = |protocol: &Protocol| file.names().into_iter().any(|name| name == protocol.key());
        let test = Protocol::ALL.into_iter().filter(held).map(|protocol| Ok((protocol, column(protocol.key())?)));
        let [valid_kinds, test_kinds] =
            KINDS.map(|name| if kind_names.is_empty() { Ok(Vec::new()) } else { column(name) });
        let test_shares = match file.names().contains(&SHARES) {
            true => words(SHARES, Dtype::F32)?.into_iter().map(f32::from_bits).collect(),
            false => Vec::new(),
        };
        let ranks = UserRanks {
            valid_users: valid_users?,
            valid: valid?,
            test_users: test_users?,
            test: test.collect::<Result<_>>()?,
            kind_names,
            valid_kinds: valid_kinds?,
            test_kinds: test_kinds?,
            test_shares,
        };
        let (valid_events, test_events) = (ranks.valid_users.len(), ranks.test_users.len());
        for (what, held, events) in [("valid".to_string(), &ranks.valid, valid_events)].into_iter().chain(
            ranks.test.iter().map(|(protocol, held)| (format!("test ({})", protocol.title()), held, test_events)),
        ) {
            if held.len() != events {
                return Err(wrong(format!("{what} has {} ranks for {events} events", held.len())));
            }
        }
        Ok((data, ranks))
    }
}

/// What a column has for the events of a kind.
fn of_kind<T: Copy>(kind: u32, kinds: &[u32], column: &[T]) -> Vec<T> {
    kinds.iter().zip(column).filter(|(own, _)| **own == kind).map(|(_, value)| *value).collect()
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
        let ranks = |columns: &[[u32; 3]]| {
            let columns = columns.iter().map(|column| column.to_vec());
            Ranks { ranks: Protocol::ALL.into_iter().zip(columns).collect(), tie_share: 0.0 }
        };
        let valid = ranks(&[[1, UNREACHABLE, 3], [1, 2, 3]]);
        let ranks = UserRanks::new(&data, valid, ranks(&[[4, 5, 6], [7, 8, 9], [1, 1, 2]]));
        assert_eq!((&ranks.valid_users[..], &ranks.test_users[..]), (&[0, 1, 2][..], &[0, 1, 2][..]));
        let folder = tempfile::tempdir().unwrap();
        let path = UserRanks::path(folder.path());
        ranks.write(&path, &identity).unwrap();
        assert_eq!(UserRanks::read(&path).unwrap(), (identity.clone(), ranks.clone()));

        let kinds = UserRanks {
            kind_names: vec!["view".into(), "sale".into()],
            valid_kinds: vec![0, 0, 1],
            test_kinds: vec![1, 0, 1],
            test_shares: vec![0.25, 0.5, 0.125],
            ..ranks.clone()
        };
        kinds.write(&path, &identity).unwrap();
        assert_eq!(UserRanks::read(&path).unwrap().1, kinds);
        let by_kind = kinds.by_kind();
        let of = |ranks: &[u32], shares: &[f32]| Metrics::from_ranks(ranks).with_off_policy(ranks, shares);
        assert_eq!(by_kind["view"].test[Protocol::HistoryExcluded], of(&[5], &[0.5]));
        assert_eq!(by_kind["sale"].test[Protocol::HistoryKept], of(&[7, 9], &[0.25, 0.125]));
        assert_eq!(by_kind["sale"].test[Protocol::Uni99], of(&[1, 2], &[0.25, 0.125]));
        assert_eq!(by_kind["sale"].valid, Metrics::from_ranks(&[3]));

        let mut named = data;
        named.kind_names = vec!["view".into()];
        let of_events =
            |_| Ranks { ranks: [(Protocol::HistoryExcluded, vec![1; 3])].into_iter().collect(), tie_share: 0.0 };
        let [valid, test] = [(), ()].map(of_events);
        // Of thirteen events the targets 4, 5 and 1 have two, two and three.
        assert_eq!(UserRanks::new(&named, valid, test).test_shares, [2.0 / 13.0, 2.0 / 13.0, 3.0 / 13.0]);

        let mut short = ranks;
        short.test.insert(Protocol::Uni99, vec![1, 1]);
        short.write(&path, &identity).unwrap();
        let problem = UserRanks::read(&path).unwrap_err().to_string();
        assert!(problem.contains("test (uni99) has 2 ranks for 3 events"), "{problem}");
        std::fs::write(&path, b"1 2 3 4").unwrap();
        assert!(matches!(UserRanks::read(&path), Err(Error::Format { .. })));
    }
}
