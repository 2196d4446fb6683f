//! `ranks.safetensors`: the rank of each user's held-out items, so that metrics can be made again and runs be compared user
//! by user.
//!
//! Tensors `valid`, `test` and `test_history_kept`: u32, [U], in the order of the data set's users. Ranks count from 1;
//! `UNREACHABLE` (u32::MAX) is a target that is not among the candidates. The metadata say what was ranked.

use super::checkpoint::write_atomically;
use super::ranker::Ranks;
use crate::data::{Interactions, LeaveOneOut};
use crate::error::{Error, Result};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const METADATA_KEY: &str = "gpurec";
const TENSORS: [&str; 3] = ["valid", "test", "test_history_kept"];

/// What was ranked, for whom and among what. Ranks are comparable user by user only where all of it is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldOut {
    pub dataset: String,
    pub users: usize,
    pub items: usize,
    /// SHA-256, in hexadecimal, of the users' and items' names in their order, of the targets, and of the histories.
    pub user_names: String,
    pub item_names: String,
    pub valid_targets: String,
    pub test_targets: String,
    pub histories: String,
}

impl HeldOut {
    pub fn of(data: &Interactions) -> HeldOut {
        let split = LeaveOneOut::new(data);
        let users = || 0..data.n_users();
        HeldOut {
            dataset: data.name.clone(),
            users: data.n_users(),
            items: data.n_items(),
            user_names: digest(data.users.iter().map(String::as_bytes)),
            item_names: digest(data.items.iter().map(String::as_bytes)),
            valid_targets: digest(users().map(|u| split.valid(u).1.to_le_bytes())),
            test_targets: digest(users().map(|u| split.test(u).1.to_le_bytes())),
            histories: digest(users().map(|u| bytemuck::cast_slice::<u32, u8>(split.test(u).0))),
        }
    }

    /// The first thing in which the other differs, in words; `None` where ranks are comparable.
    pub fn difference(&self, other: &HeldOut) -> Option<String> {
        let sizes = [("users", self.users, other.users), ("items", self.items, other.items)];
        let size = sizes.into_iter().find(|(_, ours, theirs)| ours != theirs);
        let size = size.map(|(what, ours, theirs)| format!("the number of {what}, {ours} and {theirs}"));
        let contents = [
            ("the users, or their order", &self.user_names, &other.user_names),
            ("the items", &self.item_names, &other.item_names),
            ("the validation targets", &self.valid_targets, &other.valid_targets),
            ("the test targets", &self.test_targets, &other.test_targets),
            ("the histories", &self.histories, &other.histories),
        ];
        let content = contents.into_iter().find(|(_, ours, theirs)| ours != theirs);
        size.or(content.map(|(what, _, _)| what.into()))
    }
}

/// Each part goes in with its length, so that parts cannot run into one another.
fn digest<P: AsRef<[u8]>>(parts: impl Iterator<Item = P>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.as_ref().len() as u64).to_le_bytes());
        hash.update(part.as_ref());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ranks of a run, [U] each.
#[derive(Clone, Debug, PartialEq)]
pub struct UserRanks {
    pub held_out: HeldOut,
    pub valid: Vec<u32>,
    /// History excluded from the candidates, as in `valid`.
    pub test: Vec<u32>,
    pub test_history_kept: Vec<u32>,
}

impl UserRanks {
    pub fn new(data: &Interactions, valid: Ranks, test: Ranks) -> UserRanks {
        UserRanks {
            held_out: HeldOut::of(data),
            valid: valid.history_excluded,
            test: test.history_excluded,
            test_history_kept: test.history_kept,
        }
    }

    /// Where the folder of a run has them.
    pub fn path(run: &Path) -> PathBuf {
        run.join("ranks.safetensors")
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let tensors =
            TENSORS.into_iter().zip([&self.valid, &self.test, &self.test_history_kept]).map(|(name, ranks)| {
                let bytes: &[u8] = bytemuck::cast_slice(ranks);
                (name, TensorView::new(Dtype::U32, vec![ranks.len()], bytes).expect("four bytes a rank"))
            });
        let held_out = serde_json::to_string(&self.held_out).expect("numbers and strings serialise");
        let metadata = HashMap::from([(METADATA_KEY.to_string(), held_out)]);
        let bytes = safetensors::serialize(tensors, Some(metadata)).expect("names are unique and sizes fit");
        write_atomically(path, &bytes)
    }

    pub fn read(path: &Path) -> Result<UserRanks> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read the ranks", path, e))?;
        let wrong = |problem: String| Error::Format { path: path.into(), problem };
        let file = SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("no file of ranks: {e}")))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(e.to_string()))?;
        let metadata = header.metadata().as_ref().and_then(|all| all.get(METADATA_KEY));
        let metadata = metadata.ok_or_else(|| wrong("no file of ranks: its metadata are missing".into()))?;
        let held_out: HeldOut =
            serde_json::from_str(metadata).map_err(|e| wrong(format!("its metadata cannot be read: {e}")))?;
        let ranks = |name: &str| -> Result<Vec<u32>> {
            let view = file.tensor(name).map_err(|e| wrong(format!("{name}: {e}")))?;
            if (view.dtype(), view.shape()) != (Dtype::U32, &[held_out.users]) {
                let (dtype, shape, users) = (view.dtype(), view.shape(), held_out.users);
                return Err(wrong(format!("{name} is {dtype:?} {shape:?}, not a rank for each of {users} users")));
            }
            let words = view.data().chunks_exact(4);
            Ok(words.map(|word| u32::from_le_bytes(word.try_into().expect("chunks of four"))).collect())
        };
        let [valid, test, test_history_kept] = TENSORS.map(ranks);
        Ok(UserRanks { valid: valid?, test: test?, test_history_kept: test_history_kept?, held_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::UNREACHABLE;

    fn toy() -> Vec<Vec<u32>> {
        vec![vec![1, 2, 3, 4], vec![2, 3, 1, 5], vec![4, 2, 5, 3, 1]]
    }

    fn held_out(sequences: &[Vec<u32>]) -> HeldOut {
        HeldOut::of(&Interactions::from_sequences("toy", sequences))
    }

    #[test]
    fn ranks_come_back_as_they_were_written() {
        let ranks = UserRanks {
            held_out: held_out(&toy()),
            valid: vec![1, UNREACHABLE, 3],
            test: vec![4, 5, 6],
            test_history_kept: vec![7, 8, 9],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = UserRanks::path(folder.path());
        ranks.write(&path).unwrap();
        assert_eq!(UserRanks::read(&path).unwrap(), ranks);

        let short = UserRanks { test: vec![4, 5], ..ranks };
        short.write(&path).unwrap();
        assert!(UserRanks::read(&path).unwrap_err().to_string().contains("test is U32 [2]"));
        std::fs::write(&path, b"1 2 3 4").unwrap();
        assert!(matches!(UserRanks::read(&path), Err(Error::Format { .. })));
    }

    #[test]
    fn other_data_differ_in_something_that_has_a_name() {
        let ours = held_out(&toy());
        assert_eq!(ours.difference(&ours), None);
        let with = |change: &dyn Fn(&mut Vec<Vec<u32>>)| {
            let mut sequences = toy();
            change(&mut sequences);
            ours.difference(&held_out(&sequences)).unwrap()
        };
        assert_eq!(with(&|s| s.truncate(2)), "the number of users, 3 and 2");
        assert_eq!(with(&|s| s[0].push(6)), "the number of items, 5 and 6");
        assert_eq!(with(&|s| s.iter_mut().flatten().for_each(|item| *item += 1)), "the items");
        assert_eq!(with(&|s| s[0].swap(1, 2)), "the validation targets");
        assert_eq!(with(&|s| s[2][4] = 2), "the test targets");
        assert_eq!(with(&|s| s[2].swap(0, 1)), "the histories");
        let mut renamed = Interactions::from_sequences("toy", &toy());
        renamed.users.swap(0, 1);
        assert_eq!(ours.difference(&HeldOut::of(&renamed)).unwrap(), "the users, or their order");
    }
}
