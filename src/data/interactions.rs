//! The interactions of U users with V items, as one flat CSR array.
//!
//! `events[offsets[u] .. offsets[u + 1]]` is the sequence of user `u` in time order, as item indices. An item's index is
//! the place of its id among all ids in ascending numeric order, so "the lower item index first" means the lower id.

use std::fmt;

/// Who met what, in which order. Users keep the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interactions {
    pub name: String,
    /// User ids as written in the file, [U].
    pub users: Vec<String>,
    /// Item ids in ascending numeric order, [V].
    pub items: Vec<String>,
    offsets: Vec<usize>,
    events: Vec<u32>,
}

impl Interactions {
    /// From item ids laid end to end: user `u` has `ids[offsets[u] .. offsets[u + 1]]`.
    pub(crate) fn from_ids(name: &str, users: Vec<String>, offsets: Vec<usize>, ids: Vec<u32>) -> Self {
        debug_assert_eq!(offsets.len(), users.len() + 1);
        let (distinct, events) = rank_ids(&ids);
        let items = distinct.iter().map(u32::to_string).collect();
        Interactions { name: name.to_owned(), users, items, offsets, events }
    }

    /// From one slice of item ids per user; the users are called 1, 2, ...
    pub fn from_sequences<S: AsRef<[u32]>>(name: &str, sequences: &[S]) -> Self {
        let users = (1..=sequences.len()).map(|u| u.to_string()).collect();
        let mut offsets = vec![0];
        let mut ids = Vec::new();
        for sequence in sequences {
            ids.extend_from_slice(sequence.as_ref());
            offsets.push(ids.len());
        }
        Self::from_ids(name, users, offsets, ids)
    }

    pub fn n_users(&self) -> usize {
        self.users.len()
    }

    pub fn n_items(&self) -> usize {
        self.items.len()
    }

    pub fn n_events(&self) -> usize {
        self.events.len()
    }

    /// The item indices of user `u` in time order.
    pub fn sequence(&self, u: usize) -> &[u32] {
        &self.events[self.offsets[u]..self.offsets[u + 1]]
    }

    /// The sequences of all users, in file order.
    pub fn sequences(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.n_users()).map(|u| self.sequence(u))
    }

    /// The index of an item id as the user writes it; `None` for an id that does not occur.
    pub fn item_index(&self, id: &str) -> Option<u32> {
        let id: u32 = id.trim().parse().ok()?;
        let place = self.items.binary_search_by_key(&Some(id), |item| item.parse().ok()).ok()?;
        Some(place as u32)
    }

    pub fn statistics(&self) -> Statistics {
        let lengths = || self.sequences().map(<[u32]>::len);
        Statistics {
            users: self.n_users(),
            items: self.n_items(),
            interactions: self.n_events(),
            average_length: self.n_events() as f64 / self.n_users().max(1) as f64,
            min_length: lengths().min().unwrap_or(0),
            max_length: lengths().max().unwrap_or(0),
        }
    }

    /// The first `n_users` users, with the items indexed anew to those that occur.
    pub fn head(&self, n_users: usize) -> Self {
        let n = n_users.min(self.n_users());
        let (kept, events) = rank_ids(&self.events[..self.offsets[n]]);
        Interactions {
            name: self.name.clone(),
            users: self.users[..n].to_vec(),
            items: kept.iter().map(|&item| self.items[item as usize].clone()).collect(),
            offsets: self.offsets[..=n].to_vec(),
            events,
        }
    }
}

/// The distinct ids in ascending order, and each id's place among them.
fn rank_ids(ids: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let mut distinct = ids.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let place = |id: &u32| distinct.partition_point(|d| d < id) as u32;
    let places = ids.iter().map(place).collect();
    (distinct, places)
}

/// The row of a paper's data table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    pub users: usize,
    pub items: usize,
    pub interactions: usize,
    pub average_length: f64,
    pub min_length: usize,
    pub max_length: usize,
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [users, items, interactions] = [self.users, self.items, self.interactions].map(grouped);
        write!(f, "{users} users, {items} items, {interactions} interactions; ")?;
        write!(f, "{:.2} per user (min {}, max {})", self.average_length, self.min_length, self.max_length)
    }
}

/// 198502 as `198,502`.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_users() -> Interactions {
        Interactions::from_sequences("toy", &[vec![10, 9, 100], vec![9, 9, 10, 7], vec![100, 7, 8]])
    }

    #[test]
    fn item_indices_follow_the_numeric_order_of_the_ids() {
        let data = three_users();
        assert_eq!(data.items, ["7", "8", "9", "10", "100"]);
        assert_eq!(data.sequence(0), [3, 2, 4]);
        assert_eq!(data.item_index("9"), Some(2));
        assert_eq!(data.item_index("11"), None);
        assert_eq!(data.item_index("nine"), None);
    }

    #[test]
    fn statistics_are_the_row_of_a_data_table() {
        let statistics = three_users().statistics();
        assert_eq!(statistics.to_string(), "3 users, 5 items, 10 interactions; 3.33 per user (min 3, max 4)");
        assert_eq!(grouped(1_198_502), "1,198,502");
    }

    #[test]
    fn head_keeps_the_first_users_and_only_their_items() {
        let head = three_users().head(1);
        assert_eq!((head.n_users(), head.n_items(), head.n_events()), (1, 3, 3));
        assert_eq!(head.items, ["9", "10", "100"]);
        assert_eq!(head.sequence(0), [1, 0, 2]);
        assert_eq!(three_users().head(99), three_users());
        assert_eq!(three_users().head(0).statistics().average_length, 0.0);
    }
}
