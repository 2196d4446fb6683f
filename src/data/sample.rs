//! Random choices of the loader, all from the counter generator: the order of an epoch and negative items.
//!
//! They depend on the seed and on logical indices only, so a resumed run draws what the uninterrupted one would have.

use super::interactions::Interactions;
use crate::engine::rng::{RngState, Site, Stream};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The site of the order of an epoch.
pub const EPOCH_ORDER: Site = Site(0xE70C);

/// The order in which epoch `epoch` visits the training samples: a uniform permutation.
pub fn epoch_order(seed: u64, epoch: u32, samples: &[u32]) -> Vec<u32> {
    let mut order = samples.to_vec();
    RngState { seed, step: epoch }.stream(EPOCH_ORDER, 0).shuffle(&mut order);
    order
}

/// Users with an input and its target among their training events.
pub fn trainable_users(data: &Interactions) -> Vec<u32> {
    (0..data.n_users() as u32).filter(|&user| data.train(user as usize).len() >= 2).collect()
}

/// Every prefix of every training sequence as a sample: a history of one item or more, and the item after it. They are
/// numbered, and never copied.
#[derive(Clone, Debug)]
pub struct Prefixes {
    data: Arc<Interactions>,
    /// The number of each user's first prefix, and of the one behind the last, `[U + 1]`.
    offsets: Vec<u32>,
}

impl Prefixes {
    /// Of the training part.
    pub fn new(data: Arc<Interactions>) -> Self {
        let mut offsets = vec![0];
        for user in 0..data.n_users() {
            offsets.push(offsets[user] + data.train(user).len().saturating_sub(1) as u32);
        }
        Prefixes { data, offsets }
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.offsets[self.data.n_users()]
    }

    /// The number of the prefix that holds the first `len` items of a user's training part, `len` being 1 or more.
    pub fn number(&self, user: u32, len: u32) -> u32 {
        self.offsets[user as usize] + len - 1
    }

    /// Whose it is.
    pub fn user(&self, number: u32) -> u32 {
        self.offsets.partition_point(|first| *first <= number) as u32 - 1
    }

    /// History and target of a prefix.
    pub fn of(&self, number: u32) -> (&[u32], u32) {
        let user = self.user(number) as usize;
        let (train, end) = (self.data.train(user), (number - self.offsets[user]) as usize + 1);
        (&train[..end], train[end])
    }
}

/// Every training event as a sample: what came before it, and itself. They are numbered, and never copied.
#[derive(Clone, Debug)]
pub struct Events {
    data: Arc<Interactions>,
    /// The number of each user's first event, and of the one behind the last, `[U + 1]`.
    offsets: Vec<u32>,
}

impl Events {
    /// Of the training part.
    pub fn new(data: Arc<Interactions>) -> Self {
        let mut offsets = vec![0];
        for user in 0..data.n_users() {
            offsets.push(offsets[user] + data.train(user).len() as u32);
        }
        Events { data, offsets }
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.offsets[self.data.n_users()]
    }

    /// The user of an event, and its place in the user's sequence.
    pub fn of(&self, number: u32) -> (usize, usize) {
        let user = self.offsets.partition_point(|first| *first <= number) - 1;
        (user, (number - self.offsets[user]) as usize)
    }
}

/// Uniform over the items that are not in `user_items` (ascending, unique); over all items if the user has every one.
///
/// It costs one draw, whatever the user has: a place among the other items is drawn, and the user's items below it
/// are stepped over by binary search.
pub fn negative(stream: &mut Stream, n_items: usize, user_items: &[u32]) -> u32 {
    let free = n_items.saturating_sub(user_items.len());
    if free == 0 {
        return stream.below(n_items.max(1) as u32);
    }
    let place = stream.below(free as u32);
    let (mut low, mut high) = (0, user_items.len());
    while low < high {
        let middle = (low + high) / 2;
        // `user_items[middle] - middle` items that the user does not have come before it.
        if user_items[middle] - middle as u32 <= place { low = middle + 1 } else { high = middle }
    }
    place + low as u32
}

/// The seed of `Uni99`: it belongs to the protocol, so that all runs on a data set have the same candidates.
pub const UNI99_SEED: u64 = 12345;
/// The site of its draws.
const UNI99: Site = Site(0x9999);

/// The sampled protocol: the target among 99 items that are nowhere in its user's sequence.
#[derive(Clone, Debug)]
pub struct Uni99 {
    own: UserItems,
    n_items: usize,
}

impl Uni99 {
    /// Other candidates than the target.
    pub const NEGATIVES: usize = 99;

    /// Of a data set.
    pub fn new(data: &Interactions) -> Self {
        Uni99 { own: UserItems::new(data), n_items: data.n_items() }
    }

    /// The 99 of a user, ascending: uniform without replacement; fewer where the user has nearly every item.
    pub fn of(&self, user: u32) -> Vec<u32> {
        let own = self.own.of(user as usize);
        let mut stream = RngState { seed: UNI99_SEED, step: 0 }.stream(UNI99, user);
        let count = Self::NEGATIVES.min(self.n_items - own.len());
        let mut drawn = BTreeSet::new();
        while drawn.len() < count {
            drawn.insert(negative(&mut stream, self.n_items, own));
        }
        drawn.into_iter().collect()
    }
}

/// The items of each user, ascending and unique, as CSR: user `u` has `items[offsets[u] .. offsets[u + 1]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserItems {
    /// `[U + 1]`
    pub offsets: Vec<u32>,
    /// Of all users, one behind the other.
    pub items: Vec<u32>,
}

impl UserItems {
    /// Over whole sequences, validation and test items included: what the sampler of negatives rejects.
    pub fn new(data: &Interactions) -> Self {
        Self::from_slices(data.sequences())
    }

    /// Over any slices, such as the histories that evaluation excludes.
    pub fn from_slices<'a>(slices: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let (mut offsets, mut items) = (vec![0], Vec::new());
        let mut own = Vec::new();
        for slice in slices {
            own.clear();
            own.extend_from_slice(slice);
            own.sort_unstable();
            own.dedup();
            items.extend_from_slice(&own);
            offsets.push(items.len() as u32);
        }
        UserItems { offsets, items }
    }

    /// The items of user `u`, ascending.
    pub fn of(&self, u: usize) -> &[u32] {
        &self.items[self.offsets[u] as usize..self.offsets[u + 1] as usize]
    }

    /// Whether user `u` has the item.
    pub fn contains(&self, u: usize, item: u32) -> bool {
        self.of(u).binary_search(&item).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        RngState { seed: 5, step: 0 }.stream(Site(1), 0)
    }

    #[test]
    fn an_epoch_visits_every_user_once_and_each_epoch_in_its_own_order() {
        let users: Vec<u32> = (0..1000).collect();
        let first = epoch_order(1, 0, &users);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1000));
        assert_eq!(first, epoch_order(1, 0, &users));
        assert_ne!(first, epoch_order(1, 1, &users));
        assert_ne!(first, epoch_order(2, 0, &users));
        assert!(epoch_order(1, 0, &[]).is_empty());
    }

    #[test]
    fn prefixes_are_all_beginnings_of_the_training_parts_with_what_comes_next() {
        let data = Interactions::from_sequences("toy", &[vec![1, 2, 3], vec![4, 5, 6, 7, 8], vec![3, 2, 1, 4]]);
        let prefixes = Prefixes::new(Arc::new(data));
        let all: Vec<(&[u32], u32)> = (0..prefixes.count()).map(|number| prefixes.of(number)).collect();
        assert_eq!(all, [(&[3][..], 4), (&[3, 4][..], 5), (&[2][..], 1)]);
        assert_eq!([(1, 1), (1, 2), (2, 1)].map(|(user, len)| prefixes.number(user, len)), [0, 1, 2]);
        assert_eq!([0, 1, 2].map(|number| prefixes.user(number)), [1, 1, 2]);
        let events = Events::new(prefixes.data.clone());
        let all: Vec<(usize, usize)> = (0..events.count()).map(|number| events.of(number)).collect();
        assert_eq!(all, [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]);
    }

    #[test]
    fn negatives_are_uniform_over_the_items_the_user_does_not_have() {
        let (mut stream, mut counts) = (stream(), [0u32; 8]);
        for _ in 0..40_000 {
            counts[negative(&mut stream, 8, &[0, 3, 4, 7]) as usize] += 1;
        }
        for (item, count) in counts.into_iter().enumerate() {
            let expected = if [0, 3, 4, 7].contains(&item) { 0.0 } else { 10_000.0 };
            assert!((f64::from(count) - expected).abs() < expected.min(500.0) + 0.5, "item {item}: {count}");
        }
    }

    #[test]
    fn a_user_of_nothing_or_of_everything_still_gets_a_negative() {
        let mut stream = stream();
        assert!((0..50).all(|_| negative(&mut stream, 3, &[]) < 3));
        assert!((0..50).all(|_| negative(&mut stream, 3, &[0, 1, 2]) < 3));
        assert!((0..50).all(|_| negative(&mut stream, 3, &[0, 2]) == 1));
    }

    #[test]
    fn the_candidates_of_the_sampled_protocol_are_unseen_distinct_and_uniform() {
        let sequences: Vec<Vec<u32>> =
            (0..400).map(|user| vec![1, 2 + user % 2, 200]).chain([(1..=150).collect()]).collect();
        let uni99 = Uni99::new(&Interactions::from_sequences("toy", &sequences));
        let mut counts = [0u32; 151];
        for user in 0..400 {
            let candidates = uni99.of(user);
            assert!(candidates.len() == 99 && candidates.is_sorted_by(|a, b| a < b), "{candidates:?}");
            candidates.iter().for_each(|item| counts[*item as usize] += 1);
        }
        assert_eq!((counts[0], counts[150]), (0, 0));
        // Of 151 items each of these users has three, and draws each of the others with probability 99 / 148: in mean 267.6 of
        // 400 users do, with a standard deviation of 9.4; half of them have item 1, the others item 2.
        assert!(counts[3..150].iter().all(|count| (220..315).contains(count)), "{counts:?}");
        assert!(counts[1..3].iter().all(|count| (100..168).contains(count)), "{counts:?}");
        assert_eq!(uni99.of(7), uni99.of(7));
        assert_ne!(uni99.of(7), uni99.of(9));
        assert_eq!(uni99.of(400), [150]);
    }

    #[test]
    fn the_items_of_a_user_are_ascending_and_unique() {
        let data = Interactions::from_sequences("toy", &[vec![5, 1, 5, 3], vec![], vec![2, 2, 2]]);
        let sets = UserItems::new(&data);
        assert_eq!(sets.of(0), [0, 2, 3]);
        assert!(sets.of(1).is_empty());
        assert_eq!(sets.of(2), [1]);
        assert!(sets.contains(0, 2) && !sets.contains(2, 2));
    }
}
