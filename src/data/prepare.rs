//! Steps that filter a log on the way to a data set: kinds of events, a span of time, repeats, k-core.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::log::{EventLog, Names, parse_time};
use crate::engine::rng::{RngState, Site};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// One step, as manifests and prepared data sets write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Drops events of other kinds.
    KeepEvents {
        /// Kinds to keep.
        events: Vec<String>,
    },
    /// From `since` on and before `until`: numbers as in the data, or dates.
    Span {
        /// First time that stays; from the start when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<String>,
        /// First time that goes; to the end when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<String>,
    },
    /// Drops rows that repeat an earlier one in user, item, time and kind.
    DropRepeats,
    /// Drops events of the same item and kind as the one before them of their user.
    DropConsecutive,
    /// Drops users with fewer than `count` events (`of` one kind), once.
    MinPerUser {
        /// The least number that stays.
        count: usize,
        /// The kind that counts; all when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<String>,
    },
    /// Drops items with fewer than `count` events, once.
    MinPerItem {
        /// The least number that stays.
        count: usize,
    },
    /// Drops users and items with fewer than `k` events until none is left.
    KCore {
        /// The least number that stays.
        k: usize,
    },
    /// Keeps users drawn without replacement, always the same ones.
    SampleUsers {
        /// Users to keep.
        count: usize,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Step::KeepEvents { events } => write!(f, "keep the events {}", events.join(", ")),
            Step::Span { since: Some(since), until: Some(until) } => write!(f, "keep {since} to before {until}"),
            Step::Span { since: Some(since), until: None } => write!(f, "keep what is from {since} on"),
            Step::Span { since: None, until: Some(until) } => write!(f, "keep what is before {until}"),
            Step::Span { since: None, until: None } => write!(f, "keep all times"),
            Step::DropRepeats => write!(f, "drop repeated rows"),
            Step::DropConsecutive => write!(f, "drop events that say what the user's last one said"),
            Step::MinPerUser { count, of: None } => write!(f, "drop users with fewer than {count} events"),
            Step::MinPerUser { count, of: Some(kind) } => {
                write!(f, "drop users with fewer than {count} events `{kind}`")
            }
            Step::MinPerItem { count } => write!(f, "drop items with fewer than {count} events"),
            Step::KCore { k } => write!(f, "{k}-core of users and items"),
            Step::SampleUsers { count } => write!(f, "draw {count} users"),
        }
    }
}

/// Applies the steps in their order; returns a line for each, in words.
pub fn prepare(log: &mut EventLog, steps: &[Step]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for step in steps {
        let before = log.len();
        step.apply(log)?;
        lines.push(format!("{step}: {} of {before} events kept", log.len()));
    }
    if log.is_empty() {
        let problem = format!("nothing is left: {}", lines.join("; "));
        return Err(Error::usage(problem, "ask for fewer events per user and item, or for a longer span of time"));
    }
    Ok(lines)
}

impl Step {
    fn apply(&self, log: &mut EventLog) -> Result<()> {
        loop {
            let keep = self.kept(log)?;
            let done = keep.iter().all(|keep| *keep);
            log.retain(&keep);
            // Only a core has something to do again.
            if done || !matches!(self, Step::KCore { .. }) {
                return Ok(());
            }
        }
    }

    /// For each row of a log, whether one pass of the step keeps it.
    fn kept(&self, log: &EventLog) -> Result<Vec<bool>> {
        let often = |column: &[u32], counts: &[usize], row: usize, least: usize| counts[column[row] as usize] >= least;
        Ok(match self {
            Step::KeepEvents { events } => {
                let kinds: HashSet<u32> = events.iter().map(|event| kind_of(log, event)).collect::<Result<_>>()?;
                log.mask(|row| kinds.contains(&log.kind[row]))
            }
            Step::Span { since, until } => {
                if log.time.is_empty() {
                    return Err(Error::usage("the data has no times", "name their column with --time-col"));
                }
                let span = bound(since, f64::NEG_INFINITY)?..bound(until, f64::INFINITY)?;
                log.mask(|row| span.contains(&log.time[row]))
            }
            Step::DropRepeats => {
                let mut seen = HashSet::with_capacity(log.len());
                (0..log.len()).map(|row| seen.insert(row_key(log, row))).collect()
            }
            Step::DropConsecutive => {
                let mut in_time: Vec<usize> = (0..log.len()).collect();
                if !log.time.is_empty() {
                    in_time.sort_by(|&a, &b| log.time[a].total_cmp(&log.time[b]));
                }
                let (mut last, mut keep) = (HashMap::new(), vec![true; log.len()]);
                for row in in_time {
                    let event = (log.item[row], log.kind.get(row));
                    keep[row] = last.insert(log.user[row], event) != Some(event);
                }
                keep
            }
            Step::MinPerUser { count, of } => {
                let kind = of.as_ref().map(|kind| kind_of(log, kind)).transpose()?;
                let users = counts(&log.user, &log.users, |row| kind.is_none_or(|kind| log.kind[row] == kind));
                log.mask(|row| often(&log.user, &users, row, *count))
            }
            Step::MinPerItem { count } => {
                let items = counts(&log.item, &log.items, |_| true);
                log.mask(|row| often(&log.item, &items, row, *count))
            }
            Step::KCore { k } => {
                let (users, items) = (counts(&log.user, &log.users, |_| true), counts(&log.item, &log.items, |_| true));
                log.mask(|row| often(&log.user, &users, row, *k) && often(&log.item, &items, row, *k))
            }
            Step::SampleUsers { count } => {
                let present = counts(&log.user, &log.users, |_| true);
                let mut users: Vec<u32> = (0..log.users.len() as u32).filter(|u| present[*u as usize] > 0).collect();
                RngState { seed: 1, step: 0 }.stream(SAMPLE, 0).shuffle(&mut users);
                let drawn: HashSet<u32> = users.into_iter().take(*count).collect();
                log.mask(|row| drawn.contains(&log.user[row]))
            }
        })
    }
}

/// Draws of `SampleUsers`.
const SAMPLE: Site = Site(0x5A4D);

fn kind_of(log: &EventLog, kind: &str) -> Result<u32> {
    if log.kind.is_empty() {
        return Err(Error::usage("the data has no kinds of events", "name their column with --event-col"));
    }
    let known = || log.kinds.iter().map(AsRef::as_ref).collect::<Vec<&str>>();
    let place = log.kinds.get_index_of(kind);
    place.map(|place| place as u32).ok_or_else(|| Error::unknown("kind of event", kind, &known()))
}

fn bound(text: &Option<String>, open: f64) -> Result<f64> {
    let Some(text) = text else { return Ok(open) };
    let help = "a number as in the data, or a date such as 2019-10-01";
    parse_time(text).ok_or_else(|| Error::usage(format!("`{text}` is no time"), help))
}

/// How often each name occurs in the rows that are counted.
fn counts(column: &[u32], names: &Names, counted: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut counts = vec![0; names.len()];
    column.iter().enumerate().filter(|(row, _)| counted(*row)).for_each(|(_, &name)| counts[name as usize] += 1);
    counts
}

/// Everything that a row holds.
fn row_key(log: &EventLog, row: usize) -> (u32, u32, u64, u32) {
    let time = log.time.get(row).map_or(0, |time| time.to_bits());
    (log.user[row], log.item[row], time, log.kind.get(row).copied().unwrap_or(0))
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
        let rows = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "w"), ("c", "y"), ("c", "z")];
        let rows = rows.map(|(user, item)| (user, item, 0.0, ""));
        let left = |step: Step| {
            let mut log = log(&rows);
            prepare(&mut log, &[step]).map(|_| log.len())
        };
        assert_eq!(left(Step::MinPerUser { count: 2, of: None }).unwrap(), 6);
        assert_eq!(left(Step::MinPerItem { count: 2 }).unwrap(), 4);
        assert!(left(Step::KCore { k: 2 }).unwrap_err().to_string().contains("0 of 6 events kept"));
    }

    #[test]
    fn steps_are_applied_in_their_order() {
        let rows = [
            ("a", "x", 1.0, "view"),
            ("a", "x", 1.0, "buy"),
            ("a", "x", 1.0, "view"),
            ("a", "x", 2.0, "view"),
            ("b", "y", 3.0, "view"),
        ];
        let mut all = log(&rows);
        let keep = |kind: &str| Step::KeepEvents { events: vec![kind.into()] };
        let steps = [
            Step::MinPerUser { count: 1, of: Some("buy".into()) },
            keep("view"),
            Step::Span { since: None, until: Some("3".into()) },
            Step::DropRepeats,
        ];
        let lines = prepare(&mut all, &steps).unwrap();
        let expected = [
            "drop users with fewer than 1 events `buy`: 4 of 5 events kept",
            "keep the events view: 3 of 4 events kept",
            "keep what is before 3: 3 of 3 events kept",
            "drop repeated rows: 2 of 3 events kept",
        ];
        assert_eq!((lines, &all.time[..]), (expected.map(String::from).into(), &[1.0, 2.0][..]));
        assert!(prepare(&mut log(&rows), &[keep("veiw")]).unwrap_err().help().unwrap().contains("`view`"));
    }

    #[test]
    fn an_event_that_says_what_the_users_last_one_said_in_time_goes_and_one_after_something_else_stays() {
        let rows = [
            ("a", "x", 3.0, "view"),
            ("a", "x", 1.0, "view"),
            ("b", "x", 1.5, "view"),
            ("a", "x", 4.0, "buy"),
            ("a", "x", 2.0, "view"),
            ("a", "x", 5.0, "view"),
        ];
        let mut log = log(&rows);
        prepare(&mut log, &[Step::DropConsecutive]).unwrap();
        assert_eq!(log.time, [1.0, 1.5, 4.0, 5.0]);
    }

    #[test]
    fn users_are_drawn_without_replacement_and_always_the_same() {
        let names: Vec<String> = (0..50).map(|n| n.to_string()).collect();
        let rows: Vec<(&str, &str, f64, &str)> =
            names.iter().flat_map(|name| [(name.as_str(), "x", 0.0, ""); 2]).collect();
        let drawn = || {
            let mut log = log(&rows);
            prepare(&mut log, &[Step::SampleUsers { count: 7 }]).unwrap();
            log.user
        };
        assert_eq!((drawn().len(), drawn()), (14, drawn()));
    }
}
