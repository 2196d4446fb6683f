//! Interactions as a log has them: one event after another, in any order, with the names their source gives them.
//!
//! Every reader makes an `EventLog`; preparation filters it; `Interactions::from_log` turns it into sequences. A row is
//! two or three numbers, and each name is held once, so ten million rows take some 250 MB.

use indexmap::IndexSet;

/// Names in order of first appearance; a name's index is its place.
pub type Names = IndexSet<Box<str>, foldhash::fast::RandomState>;

/// Columns of equal length, a row per event.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    /// The users' names.
    pub users: Names,
    /// The items' names.
    pub items: Names,
    /// Kinds of events, such as view or purchase; empty where the source has no such column.
    pub kinds: Names,
    /// Of each event, by its place in `users`.
    pub user: Vec<u32>,
    /// Of each event, by its place in `items`.
    pub item: Vec<u32>,
    /// Empty where the source is in time order already.
    pub time: Vec<f64>,
    /// Empty where the source has no kinds.
    pub kind: Vec<u32>,
}

/// One event, by name.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Who.
    pub user: &'a str,
    /// What.
    pub item: &'a str,
    /// When; seconds, or whatever numbers the source has.
    pub time: Option<f64>,
    /// How: view, purchase, ...
    pub kind: Option<&'a str>,
}

impl EventLog {
    /// Events.
    pub fn len(&self) -> usize {
        self.user.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.user.is_empty()
    }

    /// Appends an event; all events of a log have a time or none has, and so for the kind.
    pub fn push(&mut self, event: Event) {
        self.user.push(index_of(&mut self.users, event.user));
        self.item.push(index_of(&mut self.items, event.item));
        self.time.extend(event.time);
        self.kind.extend(event.kind.map(|kind| index_of(&mut self.kinds, kind)));
    }

    /// Appends the events of another log with the same columns; `kind` is that of all of them where they have none.
    pub fn append(&mut self, other: &EventLog, kind: Option<&str>) {
        for row in 0..other.len() {
            let own_kind = other.kind.get(row).map(|kind| &*other.kinds[*kind as usize]);
            self.push(Event {
                user: &other.users[other.user[row] as usize],
                item: &other.items[other.item[row] as usize],
                time: other.time.get(row).copied(),
                kind: own_kind.or(kind),
            });
        }
    }

    /// For each row, whether a step keeps it.
    pub fn mask(&self, keep: impl Fn(usize) -> bool) -> Vec<bool> {
        (0..self.len()).map(keep).collect()
    }

    /// Keeps the rows that `keep` marks, in their order. Names stay, also those that no row has any more.
    pub fn retain(&mut self, keep: &[bool]) {
        let columns = [&mut self.user, &mut self.item, &mut self.kind];
        columns.into_iter().for_each(|column| retain_rows(column, keep));
        retain_rows(&mut self.time, keep);
    }

    /// Row numbers by user, in order of first appearance, and by time within a user; rows of one time keep their order.
    /// Beside them where each user begins, [U+1].
    pub fn by_user_and_time(&self) -> (Vec<u32>, Vec<usize>) {
        let mut offsets = vec![0usize; self.users.len() + 1];
        self.user.iter().for_each(|&user| offsets[user as usize + 1] += 1);
        (1..offsets.len()).for_each(|u| offsets[u] += offsets[u - 1]);
        let (mut next, mut rows) = (offsets.clone(), vec![0u32; self.len()]);
        for (row, &user) in (0..).zip(&self.user) {
            rows[next[user as usize]] = row;
            next[user as usize] += 1;
        }
        if !self.time.is_empty() {
            for ends in offsets.windows(2) {
                rows[ends[0]..ends[1]].sort_by(|&a, &b| self.time[a as usize].total_cmp(&self.time[b as usize]));
            }
        }
        (rows, offsets)
    }
}

/// The place of a name, which is appended where it is new.
pub(crate) fn index_of(names: &mut Names, name: &str) -> u32 {
    match names.get_index_of(name) {
        Some(index) => index as u32,
        None => names.insert_full(name.into()).0 as u32,
    }
}

fn retain_rows<T>(column: &mut Vec<T>, keep: &[bool]) {
    let mut keep = keep.iter();
    column.retain(|_| *keep.next().expect("columns have as many rows"));
}

/// A time as a number (of any unit), a date or a date with time (ISO 8601; UTC where no zone is given), the latter two in
/// seconds since 1970, exact to the microsecond.
pub fn parse_time(text: &str) -> Option<f64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return number.is_finite().then_some(number);
    }
    let zoned = || text.parse::<jiff::Timestamp>().ok();
    let civil = || text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let stamp = zoned().or_else(|| Some(civil()?.timestamp()))?;
    Some(stamp.as_microsecond() as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(rows: &[(&str, &str, f64)]) -> EventLog {
        let mut log = EventLog::default();
        rows.iter().for_each(|&(user, item, time)| log.push(Event { user, item, time: Some(time), kind: None }));
        log
    }

    #[test]
    fn rows_are_ordered_by_user_then_time_and_ties_stay_in_the_order_of_the_file() {
        let log = log(&[("b", "x", 5.0), ("a", "x", 9.0), ("b", "y", 1.0), ("b", "z", 5.0), ("b", "w", -1.0)]);
        assert_eq!(log.by_user_and_time(), (vec![4, 2, 0, 3, 1], vec![0, 4, 5]));
    }

    #[test]
    fn rows_are_dropped_from_all_columns_alike() {
        let mut log = log(&[("b", "x", 5.0), ("a", "x", 9.0), ("b", "y", 1.0)]);
        log.retain(&[true, false, true]);
        assert_eq!((&log.user[..], &log.item[..], &log.time[..]), (&[0, 0][..], &[0, 1][..], &[5.0, 1.0][..]));
    }

    #[test]
    fn times_are_numbers_or_dates() {
        let time = |text| parse_time(text);
        assert_eq!((time("978300760"), time(" 1.5 "), time("-3")), (Some(978_300_760.0), Some(1.5), Some(-3.0)));
        assert_eq!(time("1970-01-02"), Some(86_400.0));
        assert_eq!(time("2014-04-07T10:51:09.277Z"), Some(1_396_867_869.277));
        assert_eq!(time("2014-04-07T10:51:09.277001Z"), Some(1_396_867_869.277_001));
        assert!(time("2014-04-07T10:51:09.277001Z") < time("2014-04-07T10:51:09.277002Z"));
        assert_eq!(time("2014-04-07 10:51:09"), Some(1_396_867_869.0));
        assert_eq!((time("NaN"), time("inf"), time("yesterday"), time("")), (None, None, None, None));
    }
}
