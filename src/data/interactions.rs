//! The interactions of U users with V items, as one flat CSR array, and how they are split.
//!
//! `events[offsets[u] .. offsets[u + 1]]` is the sequence of user `u` in time order, as item indices. Where all items have
//! whole numbers for names, an item's index is the place of its number among all in ascending order, so "the lower item
//! index first" means the lower id; other names keep the order of their first appearance.

use std::fmt;

use super::lists::Lists;
use super::log::{Event, EventLog};
use super::split::{self, Ends, MIN_LEAVE_ONE_OUT, SplitRule};
use crate::error::{Error, Result};
use indicatif::HumanCount;
use std::collections::HashMap;
use std::sync::Arc;

/// Who met what, in which order. Users keep the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Interactions {
    /// What reports call it: the file's name without its extensions, or what its description says.
    pub name: String,
    /// User names as the source has them, `[U]`.
    pub users: Vec<String>,
    /// Item names as the source has them, `[V]`.
    pub items: Vec<String>,
    offsets: Vec<usize>,
    events: Vec<u32>,
    /// Kinds of events, such as view or purchase; empty where the source tells none.
    pub kind_names: Vec<String>,
    /// Of each event; empty where the source has none.
    times: Vec<f64>,
    /// Of each event, by its place in `kind_names`; empty where the source has none.
    kinds: Vec<u32>,
    rule: SplitRule,
    pub(super) ends: Vec<Ends>,
    /// What was shown, where the source is a log of lists: the events are the clicks.
    pub lists: Option<Arc<Lists>>,
}

impl Interactions {
    /// Sorted by user and time. Names that no event has are dropped.
    pub fn from_log(name: &str, log: EventLog) -> Self {
        let (rows, offsets) = log.by_user_and_time();
        let times = if log.time.is_empty() { Vec::new() } else { rows.iter().map(|&r| log.time[r as usize]).collect() };
        let kinds = if log.kind.is_empty() { Vec::new() } else { rows.iter().map(|&r| log.kind[r as usize]).collect() };
        let kind_names: Vec<String> = log.kinds.iter().map(|kind| kind.to_string()).collect();
        let mut events: Vec<u32> = rows.iter().map(|&row| log.item[row as usize]).collect();
        drop(rows);
        let new_of = item_order(&log, &events);
        events.iter_mut().for_each(|item| *item = new_of[*item as usize]);
        let mut items = vec![String::new(); new_of.iter().filter(|new| **new != u32::MAX).count()];
        for (item, new) in log.items.into_iter().zip(&new_of).filter(|(_, new)| **new != u32::MAX) {
            items[*new as usize] = item.into();
        }
        let with_events = |(_, ends): &(Box<str>, &[usize])| ends[0] < ends[1];
        let users = log.users.into_iter().zip(offsets.windows(2)).filter(with_events).map(|(user, _)| user.into());
        let users = users.collect();
        let mut offsets = offsets;
        offsets.dedup();
        Self::new(name, users, items, offsets, events, times).with_kinds(kind_names, kinds)
    }

    fn new(
        name: &str,
        users: Vec<String>,
        items: Vec<String>,
        offsets: Vec<usize>,
        events: Vec<u32>,
        times: Vec<f64>,
    ) -> Self {
        let rule = SplitRule::LeaveOneOut;
        let ends = split::ends(&rule, &offsets, &times).expect("leave-one-out fits any data");
        let (kind_names, kinds) = (Vec::new(), Vec::new());
        let name = name.to_owned();
        Interactions { name, users, items, offsets, events, kind_names, times, kinds, rule, ends, lists: None }
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

    /// From item ids laid end to end: user `u` has `ids[offsets[u] .. offsets[u + 1]]`.
    pub(crate) fn from_ids(name: &str, users: Vec<String>, offsets: Vec<usize>, ids: Vec<u32>) -> Self {
        debug_assert_eq!(offsets.len(), users.len() + 1);
        let (distinct, events) = rank_ids(&ids);
        Self::new(name, users, distinct.iter().map(u32::to_string).collect(), offsets, events, Vec::new())
    }

    /// What was shown, for those that learn from it. Refused where the source is no log of lists.
    pub fn lists(&self) -> Result<Arc<Lists>> {
        self.lists.clone().ok_or_else(|| {
            let problem =
                format!("{} is no log of lists: this method learns from what was shown, clicked or not", self.name);
            Error::usage(problem, "take such a log, and say with --schema FILE what its columns mean")
        })
    }

    /// The clicks of a log of lists as events, in the order of the lists, and the lists beside them.
    pub fn from_lists(lists: Lists) -> Result<Self> {
        let mut log = EventLog::default();
        for list in 0..lists.count() {
            let user = &lists.users[lists.user(list) as usize];
            for (item, click) in lists.items_of(list).iter().zip(lists.clicks_of(list)) {
                if *click > 0.0 {
                    log.push(Event { user, item: &lists.items[*item as usize], time: None, kind: None });
                }
            }
        }
        let rule = SplitRule::Ratio(lists.split);
        let data = Interactions::from_log(&lists.name, log).with_split(rule)?;
        Ok(Interactions { lists: Some(Arc::new(lists)), ..data })
    }

    /// The same events by the items of a catalogue that has all of these: indices are places in `items`. Without lists, unless
    /// the items are the same in the same order. `Err`: the names that the catalogue lacks.
    pub fn over_items(self, items: &[String]) -> Result<Self, Vec<String>> {
        if self.items == items {
            return Ok(self);
        }
        let place_of: HashMap<&str, u32> = items.iter().map(String::as_str).zip(0..).collect();
        let places: Vec<Option<u32>> = self.items.iter().map(|item| place_of.get(item.as_str()).copied()).collect();
        let unknown = self.items.iter().zip(&places).filter(|(_, place)| place.is_none());
        let unknown: Vec<String> = unknown.map(|(item, _)| item.clone()).collect();
        if !unknown.is_empty() {
            return Err(unknown);
        }
        let events = self.events.iter().filter_map(|item| places[*item as usize]).collect();
        Ok(Interactions { events, items: items.to_vec(), lists: None, ..self })
    }

    /// With a time for each event, in the order of the sequences.
    pub fn with_times(self, times: Vec<f64>) -> Self {
        assert_eq!(times.len(), self.events.len(), "a time for each event");
        Interactions { times, ..self }
    }

    /// With a kind for each event, in the order of the sequences, by its place in `names`. Names that no event has are dropped.
    pub fn with_kinds(self, names: Vec<String>, mut kinds: Vec<u32>) -> Self {
        assert!(kinds.is_empty() || kinds.len() == self.events.len(), "a kind for each event");
        let mut occurs = vec![false; names.len()];
        kinds.iter().for_each(|kind| occurs[*kind as usize] = true);
        let before = |kind: u32| occurs[..kind as usize].iter().filter(|occurs| **occurs).count() as u32;
        let new_of: Vec<u32> = (0..names.len() as u32).map(before).collect();
        kinds.iter_mut().for_each(|kind| *kind = new_of[*kind as usize]);
        let kind_names = names.into_iter().zip(&occurs).filter(|(_, occurs)| **occurs).map(|(name, _)| name).collect();
        Interactions { kind_names, kinds, ..self }
    }

    /// Split by another rule. Refuses leave-one-out where a user has too few events, and a split by time without times.
    pub fn with_split(self, rule: SplitRule) -> Result<Self> {
        let ends = split::ends(&rule, &self.offsets, &self.times)?;
        let data = Interactions { rule, ends, ..self };
        if data.rule == SplitRule::LeaveOneOut {
            data.expect_three_events_each()?;
        }
        Ok(data)
    }

    fn expect_three_events_each(&self) -> Result<()> {
        let short = |u: &usize| self.sequence(*u).len() < MIN_LEAVE_ONE_OUT;
        let Some(first) = (0..self.n_users()).find(short) else { return Ok(()) };
        let (n, users) = ((0..self.n_users()).filter(short).count(), self.n_users());
        let problem = format!(
            "{n} of {users} users have fewer than {MIN_LEAVE_ONE_OUT} events, the first is `{}`; leave-one-out needs one \
             each to train, to validate and to test",
            self.users[first]
        );
        let help = "drop them with `gpurec data prepare SOURCE --min-user-events 3`, or choose another --split";
        Err(Error::usage(problem, help))
    }

    /// With the division that a seed draws, where the split leaves it to the seed.
    pub fn drawn(self: &Arc<Self>, seed: u64) -> Result<Arc<Self>> {
        let rule = self.rule.drawn(seed);
        if rule == self.rule {
            return Ok(self.clone());
        }
        (**self).clone().with_split(rule).map(Arc::new)
    }

    /// How it is split.
    pub fn rule(&self) -> &SplitRule {
        &self.rule
    }

    /// Whether events have times.
    pub fn has_times(&self) -> bool {
        !self.times.is_empty()
    }

    /// Of each item: its share of all events.
    pub fn item_shares(&self) -> Vec<f32> {
        let mut counts = vec![0u32; self.n_items()];
        self.sequences().flatten().for_each(|item| counts[*item as usize] += 1);
        counts.into_iter().map(|count| count as f32 / self.n_events().max(1) as f32).collect()
    }

    /// The kinds of the events of user `u`, by their places in `kind_names`; empty where the source has none.
    pub fn kinds(&self, u: usize) -> &[u32] {
        if self.kinds.is_empty() { &[] } else { &self.kinds[self.offsets[u]..self.offsets[u + 1]] }
    }

    /// The times of the events of user `u`; empty where the source has none.
    pub fn times(&self, u: usize) -> &[f64] {
        if self.times.is_empty() { &[] } else { &self.times[self.offsets[u]..self.offsets[u + 1]] }
    }

    /// U
    pub fn n_users(&self) -> usize {
        self.users.len()
    }

    /// V
    pub fn n_items(&self) -> usize {
        self.items.len()
    }

    /// Interactions of all users.
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

    /// The row of a data table.
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
        let end = self.offsets[n];
        let (kept, events) = rank_ids(&self.events[..end]);
        Interactions {
            lists: None,
            name: self.name.clone(),
            users: self.users[..n].to_vec(),
            items: kept.iter().map(|&item| self.items[item as usize].clone()).collect(),
            offsets: self.offsets[..=n].to_vec(),
            events,
            kind_names: self.kind_names.clone(),
            times: self.times[..end.min(self.times.len())].to_vec(),
            kinds: self.kinds[..end.min(self.kinds.len())].to_vec(),
            rule: self.rule.clone(),
            ends: self.ends[..n].to_vec(),
        }
    }
}

/// The new index of each item of a log, `u32::MAX` for one that no event has: ascending where all names are whole numbers,
/// else in the order in which the sorted events meet them.
fn item_order(log: &EventLog, events: &[u32]) -> Vec<u32> {
    let mut met = vec![false; log.items.len()];
    let first_time = |item: &&u32| !std::mem::replace(&mut met[**item as usize], true);
    let mut order: Vec<u32> = events.iter().filter(first_time).copied().collect();
    let number = |item: &u32| {
        log.items[*item as usize].parse::<u64>().ok().filter(|n| n.to_string() == *log.items[*item as usize])
    };
    if let Some(numbers) = order.iter().map(number).collect::<Option<Vec<u64>>>() {
        let mut numbered: Vec<(u64, u32)> = numbers.into_iter().zip(order).collect();
        numbered.sort_unstable();
        order = numbered.into_iter().map(|(_, item)| item).collect();
    }
    let mut new_of = vec![u32::MAX; log.items.len()];
    (0..).zip(order).for_each(|(new, item)| new_of[item as usize] = new);
    new_of
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
    /// How many there are.
    pub users: usize,
    /// How many there are.
    pub items: usize,
    /// How many there are.
    pub interactions: usize,
    /// Interactions per user.
    pub average_length: f64,
    /// Of the shortest sequence.
    pub min_length: usize,
    /// Of the longest.
    pub max_length: usize,
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [users, items, interactions] = [self.users, self.items, self.interactions].map(|n| HumanCount(n as u64));
        write!(f, "{users} users, {items} items, {interactions} interactions; ")?;
        write!(f, "{:.2} per user (min {}, max {})", self.average_length, self.min_length, self.max_length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::log::Event;

    fn three_users() -> Interactions {
        Interactions::from_sequences("toy", &[vec![10, 9, 100], vec![9, 9, 10, 7], vec![100, 7, 8]])
    }

    #[test]
    fn item_indices_follow_the_numeric_order_of_the_ids() {
        let data = three_users();
        assert_eq!(data.items, ["7", "8", "9", "10", "100"]);
        assert_eq!(data.sequence(0), [3, 2, 4]);
    }

    #[test]
    fn names_that_are_not_numbers_keep_the_order_in_which_users_meet_them() {
        let mut log = EventLog::default();
        for (user, item, time) in [("b", "kettle", 3.0), ("a", "cup", 1.0), ("b", "pot", 1.0), ("a", "kettle", 2.0)] {
            log.push(Event { user, item, time: Some(time), kind: None });
        }
        let data = Interactions::from_log("shop", log.clone());
        assert_eq!(
            (data.users.clone(), data.items.clone()),
            (vec!["b".into(), "a".into()], vec!["pot".into(), "kettle".into(), "cup".into()])
        );
        assert_eq!((data.sequence(0), data.sequence(1), data.times(0)), (&[0, 1][..], &[2, 1][..], &[1.0, 3.0][..]));
        log.retain(&[true, false, true, false]);
        let data = Interactions::from_log("shop", log);
        assert_eq!((data.users.len(), data.items.len(), data.n_events()), (1, 2, 2));
        assert!(data.with_split(SplitRule::LeaveOneOut).unwrap_err().help().unwrap().contains("--min-user-events 3"));
    }

    #[test]
    fn kinds_follow_their_events_and_those_that_never_occur_are_dropped() {
        let mut log = EventLog::default();
        for (user, item, time, kind) in [("b", "x", 3.0, "view"), ("a", "y", 1.0, "sale"), ("b", "y", 1.0, "cart")] {
            log.push(Event { user, item, time: Some(time), kind: Some(kind) });
        }
        log.retain(&[true, false, true]);
        let data = Interactions::from_log("shop", log);
        assert_eq!((&data.kind_names[..], data.kinds(0)), (&["view".to_string(), "cart".into()][..], &[1, 0][..]));
        assert!(three_users().kinds(0).is_empty());
    }

    #[test]
    fn events_keep_their_items_by_another_catalogue() {
        let data = Interactions::from_sequences("toy", &[vec![3, 1, 2], vec![2, 3, 3]]);
        let catalogue = ["2", "9", "1", "3"].map(String::from);
        let over = data.clone().over_items(&catalogue).unwrap();
        assert_eq!((over.items.as_slice(), over.n_items()), (&catalogue[..], 4));
        let names = |data: &Interactions| -> Vec<String> {
            data.sequences().flatten().map(|item| data.items[*item as usize].clone()).collect()
        };
        assert_eq!((names(&over), over.test().count()), (names(&data), data.test().count()));
        assert_eq!(over.sequence(0), [3, 2, 0]);
        assert_eq!(data.clone().over_items(&data.items).unwrap(), data);
        assert_eq!(data.over_items(&catalogue[..2]).unwrap_err(), ["1", "3"]);
    }

    #[test]
    fn statistics_are_the_row_of_a_data_table() {
        let statistics = three_users().statistics();
        assert_eq!(statistics.to_string(), "3 users, 5 items, 10 interactions; 3.33 per user (min 3, max 4)");
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
