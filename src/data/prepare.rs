//! Filters a log on the way to a data set: kinds of events, a span of time, exact repeats, k-core.

use std::collections::HashSet;

use super::log::EventLog;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What to keep, applied in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Preparation {
    /// Kinds of events; all when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// From this time on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<f64>,
    /// Before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<f64>,
    /// Leave out rows that repeat an earlier one in user, item, time and kind.
    pub drop_repeats: bool,
    /// Users and items with fewer events are removed, again and again until none is left.
    pub min_user_events: usize,
    pub min_item_events: usize,
}

impl Preparation {
    /// Applies all steps; returns a line for each, in words.
    pub fn apply(&self, log: &mut EventLog) -> Result<Vec<String>> {
        let mut steps = Vec::new();
        let mut step = |what: String, log: &mut EventLog, keep: &dyn Fn(&mut EventLog) -> Result<()>| -> Result<()> {
            let before = log.len();
            keep(log)?;
            steps.push(format!("{what}: {} of {before} events kept", log.len()));
            Ok(())
        };
        if !self.events.is_empty() {
            step(format!("events {}", self.events.join(", ")), log, &|log| self.keep_kinds(log))?;
        }
        if self.since.is_some() || self.until.is_some() {
            step("span of time".into(), log, &|log| self.keep_span(log))?;
        }
        if self.drop_repeats {
            step("repeated rows dropped".into(), log, &|log| {
                drop_repeats(log);
                Ok(())
            })?;
        }
        if self.min_user_events > 1 || self.min_item_events > 1 {
            let what =
                format!("users with {} events or more, items with {}", self.min_user_events, self.min_item_events);
            step(what, log, &|log| {
                core(log, self.min_user_events, self.min_item_events);
                Ok(())
            })?;
        }
        if log.is_empty() {
            let help = "lower --k-core, --min-user-events or --min-item-events, or widen --since and --until";
            return Err(Error::usage(format!("nothing is left: {}", steps.join("; ")), help));
        }
        Ok(steps)
    }

    fn keep_kinds(&self, log: &mut EventLog) -> Result<()> {
        if log.kind.is_empty() {
            return Err(Error::usage("the data has no kinds of events", "name their column with --event-col"));
        }
        let known: Vec<&str> = log.kinds.iter().map(AsRef::as_ref).collect();
        if let Some(wrong) = self.events.iter().find(|event| !known.contains(&event.as_str())) {
            return Err(Error::unknown("kind of event", wrong, &known));
        }
        let kept: Vec<bool> = known.iter().map(|kind| self.events.iter().any(|event| event == kind)).collect();
        let kind = log.kind.clone();
        log.retain(|row| kept[kind[row] as usize]);
        Ok(())
    }

    fn keep_span(&self, log: &mut EventLog) -> Result<()> {
        if log.time.is_empty() {
            return Err(Error::usage("the data has no times", "name their column with --time-col"));
        }
        let (since, until) = (self.since.unwrap_or(f64::NEG_INFINITY), self.until.unwrap_or(f64::INFINITY));
        let time = log.time.clone();
        log.retain(|row| (since..until).contains(&time[row]));
        Ok(())
    }
}

/// Drops rows that repeat an earlier one in every column.
fn drop_repeats(log: &mut EventLog) {
    let mut seen = HashSet::with_capacity(log.len());
    let first: Vec<bool> = (0..log.len()).map(|row| seen.insert(row_key(log, row))).collect();
    drop(seen);
    log.retain(|row| first[row]);
}

/// Everything that a row holds.
pub(super) fn row_key(log: &EventLog, row: usize) -> (u32, u32, u64, u32) {
    let time = log.time.get(row).map_or(0, |time| time.to_bits());
    (log.user[row], log.item[row], time, log.kind.get(row).copied().unwrap_or(0))
}

/// Iterated core: removes users and items below their numbers of events until nothing changes.
fn core(log: &mut EventLog, min_user: usize, min_item: usize) {
    loop {
        let count = |column: &[u32], names: usize| {
            let mut counts = vec![0usize; names];
            column.iter().for_each(|&name| counts[name as usize] += 1);
            counts
        };
        let (users, items) = (count(&log.user, log.users.len()), count(&log.item, log.items.len()));
        let (user, item) = (log.user.clone(), log.item.clone());
        let before = log.len();
        log.retain(|row| users[user[row] as usize] >= min_user && items[item[row] as usize] >= min_item);
        if log.len() == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::log::Event;

    fn log(rows: &[(&str, &str, f64, &str)]) -> EventLog {
        let mut log = EventLog::default();
        for &(user, item, time, kind) in rows {
            log.push(Event { user, item, time: Some(time), kind: Some(kind) });
        }
        log
    }

    #[test]
    fn a_core_is_iterated_until_every_user_and_item_has_enough() {
        // Without `z`, user c has one event left; without c, item y has one; without y, nobody has two.
        let rows = [
            ("a", "x", 0.0, ""),
            ("a", "y", 0.0, ""),
            ("b", "x", 0.0, ""),
            ("b", "w", 0.0, ""),
            ("c", "y", 0.0, ""),
            ("c", "z", 0.0, ""),
        ];
        let all_of = |min_user_events, min_item_events| {
            let mut log = log(&rows);
            let preparation = Preparation { min_user_events, min_item_events, ..Preparation::default() };
            preparation.apply(&mut log).map(|_| log.len())
        };
        assert_eq!(all_of(2, 0).unwrap(), 6);
        assert_eq!(all_of(1, 2).unwrap(), 4);
        assert!(all_of(2, 2).unwrap_err().to_string().contains("0 of 6 events kept"));
    }

    #[test]
    fn kinds_times_and_repeats_are_filtered_in_that_order() {
        let rows = [
            ("a", "x", 1.0, "view"),
            ("a", "x", 1.0, "buy"),
            ("a", "x", 1.0, "view"),
            ("a", "x", 2.0, "view"),
            ("a", "y", 3.0, "view"),
        ];
        let mut all = log(&rows);
        let preparation =
            Preparation { events: vec!["view".into()], until: Some(3.0), drop_repeats: true, ..Preparation::default() };
        let steps = preparation.apply(&mut all).unwrap();
        let expected = [
            "events view: 4 of 5 events kept",
            "span of time: 3 of 4 events kept",
            "repeated rows dropped: 2 of 3 events kept",
        ];
        assert_eq!(steps, expected);
        assert_eq!(all.time, [1.0, 2.0]);
        let wrong = Preparation { events: vec!["veiw".into()], ..Preparation::default() };
        assert!(wrong.apply(&mut log(&rows)).unwrap_err().help().unwrap().contains("`view`"));
    }
}
