//! Which events of a sequence train, validate and test: always a first, a middle and a last part.
//!
//! ```text
//! leave-one-out        the last item tests, the last but one validates, the rest trains
//! ratio:0.8,0.1,0.1    these shares of each user's events
//! time:0.8,0.1,0.1     these shares of all events in time order: one boundary in time for everybody
//! time:T1,T2           everything before T1 trains, from T2 on tests (numbers as in the data, or dates)
//! sessions:0.8,0.1,0.1 whole sequences, drawn at random: all events of one train, validate or test. Each seed of a run draws its
//!                      own division; sessions:0.8,0.1,0.1,1 is the same one for all
//! ```
//!
//! A held-out event is predicted from everything before it, other held-out events included. One without any history is
//! left out, since there is nothing to predict from; only where whole sessions are held out, their beginnings count as well.

use super::interactions::Interactions;
use super::log::parse_time;
use crate::engine::rng::{RngState, Site};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How sequences are split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SplitRule {
    /// The last item tests, the one before it validates.
    #[default]
    LeaveOneOut,
    /// Shares of each user's events.
    Ratio([f64; 3]),
    /// Shares of all events in time order.
    TimeShares([f64; 3]),
    /// First time of validation and of test.
    Time([f64; 2]),
    /// Shares of all sequences, each whole; and which of the random divisions, if it is not that of a run's seed.
    Sessions([f64; 3], Option<u64>),
}

/// Where whole sessions are drawn.
const SESSIONS: Site = Site(0x5E55);

/// Leave-one-out needs one item each to train on, to validate with and to test with.
pub const MIN_LEAVE_ONE_OUT: usize = 3;

impl FromStr for SplitRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |problem: String| {
            let help = "one of: leave-one-out, ratio:0.8,0.1,0.1, time:0.8,0.1,0.1, time:2019-10-01,2019-12-01, \
                        sessions:0.8,0.1,0.1";
            Err(Error::usage(format!("the split `{text}` {problem}"), help))
        };
        let (name, values) = text.split_once(':').unwrap_or((text, ""));
        let numbers: Option<Vec<f64>> = values.split(',').map(parse_time).collect();
        match (name, numbers.as_deref()) {
            ("leave-one-out", _) if values.is_empty() => Ok(SplitRule::LeaveOneOut),
            ("ratio" | "time", Some(&[a, b, c])) | ("sessions", Some(&[a, b, c] | &[a, b, c, _])) => {
                if [a, b, c].iter().any(|share| *share <= 0.0) || (a + b + c - 1.0).abs() > 1e-6 {
                    return refuse("has shares that are not positive or do not add up to 1".into());
                }
                let drawing = numbers.and_then(|numbers| numbers.get(3).copied());
                if drawing.is_some_and(|drawing| drawing < 0.0 || drawing.fract() != 0.0) {
                    return refuse("has a fourth number that is not whole".into());
                }
                Ok(match name {
                    "ratio" => SplitRule::Ratio([a, b, c]),
                    "time" => SplitRule::TimeShares([a, b, c]),
                    _ => SplitRule::Sessions([a, b, c], drawing.map(|drawing| drawing as u64)),
                })
            }
            ("time", Some(&[valid, test])) if valid < test => Ok(SplitRule::Time([valid, test])),
            ("time", Some([_, _])) => refuse("does not have its first time before its second".into()),
            _ => refuse("is not known".into()),
        }
    }
}

impl TryFrom<String> for SplitRule {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<SplitRule> for String {
    fn from(rule: SplitRule) -> String {
        rule.to_string()
    }
}

impl fmt::Display for SplitRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SplitRule::LeaveOneOut => write!(f, "leave-one-out"),
            SplitRule::Ratio([a, b, c]) => write!(f, "ratio:{a},{b},{c}"),
            SplitRule::TimeShares([a, b, c]) => write!(f, "time:{a},{b},{c}"),
            SplitRule::Time([valid, test]) => write!(f, "time:{valid},{test}"),
            SplitRule::Sessions([a, b, c], None) => write!(f, "sessions:{a},{b},{c}"),
            SplitRule::Sessions([a, b, c], Some(drawing)) => write!(f, "sessions:{a},{b},{c},{drawing}"),
        }
    }
}

impl SplitRule {
    /// Whether sessions were divided as this seed divides them.
    pub fn is_drawn_by(&self, seed: u64) -> bool {
        matches!(self, SplitRule::Sessions(_, Some(drawing)) if *drawing == seed)
    }

    /// Without the division of a seed.
    pub fn undrawn(&self) -> SplitRule {
        match self {
            SplitRule::Sessions(shares, _) => SplitRule::Sessions(*shares, None),
            rule => rule.clone(),
        }
    }

    /// With the division of a seed, where the rule leaves it to the seed.
    pub fn drawn(&self, seed: u64) -> SplitRule {
        match self {
            SplitRule::Sessions(shares, None) => SplitRule::Sessions(*shares, Some(seed)),
            rule => rule.clone(),
        }
    }

    /// The rule in words, for reports.
    pub fn in_words(&self) -> String {
        let percent = |share: f64| (100.0 * share).round();
        match self {
            SplitRule::LeaveOneOut => {
                "Leave-one-out: the last item of each user tests, the one before it validates".into()
            }
            SplitRule::Ratio([a, b, c]) => {
                format!(
                    "The first {} % of each user's events train, {} % validate, the last {} % test",
                    percent(*a),
                    percent(*b),
                    percent(*c)
                )
            }
            SplitRule::TimeShares([a, b, c]) => {
                format!(
                    "In time order, the first {} % of all events train, {} % validate, the last {} % test",
                    percent(*a),
                    percent(*b),
                    percent(*c)
                )
            }
            SplitRule::Sessions([a, b, c], drawing) => {
                format!(
                    "{} % of the sessions train, {} % validate, {} % test, drawn at random ({}); every event of a held-out \
                     session is predicted, the first included",
                    percent(*a),
                    percent(*b),
                    percent(*c),
                    drawing.map_or("anew for each seed".into(), |drawing| format!("drawing {drawing}"))
                )
            }
            SplitRule::Time([valid, test]) => {
                format!("Events before {valid} train, those from {test} on test, those between validate")
            }
        }
    }
}

/// Where the parts of a sequence end: training is `[.. train]`, validation `[train .. valid]`, test the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub train: u32,
    pub valid: u32,
}

/// The ends of every sequence, [U]. `times` are those of the events, empty if unknown.
pub(super) fn ends(rule: &SplitRule, offsets: &[usize], times: &[f64]) -> Result<Vec<Ends>> {
    let lengths = || offsets.windows(2).map(|ends| ends[1] - ends[0]);
    let [valid_from, test_from] = match rule {
        SplitRule::LeaveOneOut => {
            let of = |n: usize| Ends { train: n.saturating_sub(2) as u32, valid: n.saturating_sub(1) as u32 };
            return Ok(lengths().map(of).collect());
        }
        SplitRule::Ratio(shares) => return Ok(lengths().map(|n| shares_of(n, *shares)).collect()),
        SplitRule::Sessions(shares, drawing) => {
            return Ok(whole_sessions(lengths().collect(), *shares, drawing.unwrap_or(1)));
        }
        SplitRule::Time(_) | SplitRule::TimeShares(_) if times.is_empty() => {
            let help = "name the column of times with --time-col, or take --split leave-one-out or ratio:0.8,0.1,0.1";
            return Err(Error::usage("a split by time needs times, and this data has none", help));
        }
        SplitRule::Time(boundaries) => *boundaries,
        SplitRule::TimeShares([train, valid, _]) => {
            let mut sorted = times.to_vec();
            sorted.sort_unstable_by(f64::total_cmp);
            [*train, train + valid].map(|share| sorted[((share * sorted.len() as f64) as usize).min(sorted.len() - 1)])
        }
    };
    let before = |own: &[f64], boundary: f64| own.partition_point(|time| *time < boundary) as u32;
    let own = |ends: &[usize]| &times[ends[0]..ends[1]];
    Ok(offsets
        .windows(2)
        .map(|e| Ends { train: before(own(e), valid_from), valid: before(own(e), test_from) })
        .collect())
}

/// Every sequence in one part.
fn whole_sessions(lengths: Vec<usize>, [train, valid, _]: [f64; 3], drawing: u64) -> Vec<Ends> {
    let mut order: Vec<u32> = (0..lengths.len() as u32).collect();
    RngState { seed: drawing, step: 0 }.stream(SESSIONS, 0).shuffle(&mut order);
    let cut = |share: f64| (share * lengths.len() as f64).round() as usize;
    let (train_end, valid_end) = (cut(train), cut(train + valid));
    let mut ends = vec![Ends { train: 0, valid: 0 }; lengths.len()];
    for (place, session) in order.into_iter().enumerate() {
        let all = lengths[session as usize] as u32;
        let (train, valid) = (if place < train_end { all } else { 0 }, if place < valid_end { all } else { 0 });
        ends[session as usize] = Ends { train, valid };
    }
    ends
}

/// At least one event for each part, or all for training.
fn shares_of(n: usize, [_, valid, test]: [f64; 3]) -> Ends {
    let part = |share: f64| ((share * n as f64).round() as usize).max(1);
    let (valid, test) = (part(valid), part(test));
    let all = Ends { train: n as u32, valid: n as u32 };
    let parts = Ends { train: n.saturating_sub(valid + test) as u32, valid: n.saturating_sub(test) as u32 };
    if parts.train == 0 { all } else { parts }
}

/// An event to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldOut<'a> {
    /// By index.
    pub user: u32,
    /// Everything the user did before, oldest first; empty only where whole sessions are held out.
    pub history: &'a [u32],
    /// What it is: an item by index.
    pub target: u32,
    /// Its kind, where events have kinds.
    pub kind: Option<u32>,
}

impl Interactions {
    /// The events of user `u` that train.
    pub fn train(&self, u: usize) -> &[u32] {
        &self.sequence(u)[..self.ends[u].train as usize]
    }

    /// The items to predict from; `train_target` holds the item that follows each.
    pub fn train_input(&self, u: usize) -> &[u32] {
        let train = self.train(u);
        &train[..train.len().saturating_sub(1)]
    }

    /// The items that follow those of `train_input`, of the same length.
    pub fn train_target(&self, u: usize) -> &[u32] {
        self.train(u).get(1..).unwrap_or(&[])
    }

    /// Everything before the test events of user `u`.
    pub fn before_test(&self, u: usize) -> &[u32] {
        &self.sequence(u)[..self.ends[u].valid as usize]
    }

    /// The events that validate, by user and in time order.
    pub fn valid(&self) -> impl Iterator<Item = HeldOut<'_>> {
        (0..self.n_users()).flat_map(|u| self.held_out(u, self.ends[u].train as usize..self.ends[u].valid as usize))
    }

    /// The events that test.
    pub fn test(&self) -> impl Iterator<Item = HeldOut<'_>> {
        (0..self.n_users()).flat_map(|u| self.held_out(u, self.ends[u].valid as usize..self.sequence(u).len()))
    }

    fn held_out(&self, u: usize, places: std::ops::Range<usize>) -> impl Iterator<Item = HeldOut<'_>> {
        let (sequence, kinds) = (self.sequence(u), self.kinds(u));
        let first = usize::from(!matches!(self.rule(), SplitRule::Sessions(..)));
        places.filter(move |at| *at >= first).map(move |at| HeldOut {
            user: u as u32,
            history: &sequence[..at],
            target: sequence[at],
            kind: kinds.get(at).copied(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// For each user: training items, and history lengths of validation and test events.
    fn parts(data: &Interactions) -> Vec<(usize, Vec<usize>, Vec<usize>)> {
        let of = |u: usize, events: Vec<HeldOut>| -> Vec<usize> {
            events.into_iter().filter(|e| e.user == u as u32).map(|e| e.history.len()).collect()
        };
        (0..data.n_users())
            .map(|u| (data.train(u).len(), of(u, data.valid().collect()), of(u, data.test().collect())))
            .collect()
    }

    fn toy(lengths: &[u32]) -> Interactions {
        let sequences: Vec<Vec<u32>> = lengths.iter().map(|n| (1..=*n).collect()).collect();
        Interactions::from_sequences("toy", &sequences)
    }

    #[test]
    fn leave_one_out_holds_back_the_last_two() {
        let data = toy(&[6, 3]);
        assert_eq!((data.train_input(0), data.train_target(0)), (&[0, 1, 2][..], &[1, 2, 3][..]));
        assert!(data.train_input(1).is_empty() && data.train_target(1).is_empty());
        assert_eq!(data.test().next().unwrap(), HeldOut { user: 0, history: &[0, 1, 2, 3, 4], target: 5, kind: None });
        assert_eq!(parts(&data), [(4, vec![4], vec![5]), (1, vec![1], vec![2])]);
    }

    #[test]
    fn shares_of_a_user_leave_every_part_something_or_train_on_all() {
        let data = toy(&[10, 3, 2, 25]).with_split("ratio:0.8,0.1,0.1".parse().unwrap()).unwrap();
        let expected = [
            (8, vec![8], vec![9]),
            (1, vec![1], vec![2]),
            (2, vec![], vec![]),
            (19, vec![19, 20, 21], vec![22, 23, 24]),
        ];
        assert_eq!(parts(&data), expected);
    }

    #[test]
    fn one_boundary_in_time_holds_for_everybody() {
        let times = vec![1.0, 2.0, 3.0, 4.0, 3.0, 3.5, 9.0];
        let data = toy(&[4, 3]).with_times(times);
        let split = |rule: &str| parts(&data.clone().with_split(rule.parse().unwrap()).unwrap());
        assert_eq!(split("time:3,4"), [(2, vec![2], vec![3]), (0, vec![1], vec![2])], "user 2 has no history at first");
        assert_eq!(split("time:0.5,0.25,0.25"), [(2, vec![2], vec![3]), (0, vec![1], vec![2])]);
        assert!(toy(&[4]).with_split("time:3,4".parse().unwrap()).unwrap_err().help().unwrap().contains("--time-col"));
    }

    #[test]
    fn whole_sessions_are_drawn_and_their_first_events_count() {
        let lengths: Vec<u32> = (0..20).map(|u| 3 + u % 4).collect();
        let split = |drawing: u64| {
            parts(&toy(&lengths).with_split(format!("sessions:0.5,0.3,0.2,{drawing}").parse().unwrap()).unwrap())
        };
        let first = split(1);
        let all = |n: u32| (0..n as usize).collect::<Vec<usize>>();
        let whole = |(part, n): (&(usize, Vec<usize>, Vec<usize>), &u32)| {
            *part == (*n as usize, vec![], vec![]) || *part == (0, all(*n), vec![]) || *part == (0, vec![], all(*n))
        };
        assert!(first.iter().zip(&lengths).all(whole));
        let counts = first.iter().fold([0; 3], |[train, valid, test], part| {
            [
                train + usize::from(part.0 > 0),
                valid + usize::from(!part.1.is_empty()),
                test + usize::from(!part.2.is_empty()),
            ]
        });
        assert_eq!(counts, [10, 6, 4]);
        assert_eq!(first, split(1));
        assert_ne!(first, split(2));
        let left_to_the_seed = Arc::new(toy(&lengths).with_split("sessions:0.5,0.3,0.2".parse().unwrap()).unwrap());
        let of_seed = |seed: u64| left_to_the_seed.drawn(seed).unwrap();
        assert_eq!([1, 2].map(|seed| parts(&of_seed(seed))), [first, split(2)]);
        assert_eq!(parts(&of_seed(2).drawn(1).unwrap()), split(2), "it is drawn once");
    }

    #[test]
    fn rules_are_written_as_they_are_read_and_nonsense_is_refused() {
        for text in [
            "leave-one-out",
            "ratio:0.8,0.1,0.1",
            "time:0.8,0.1,0.1",
            "time:3,4.5",
            "sessions:0.8,0.1,0.1,7",
            "sessions:0.8,0.1,0.1",
        ] {
            assert_eq!(text.parse::<SplitRule>().unwrap().to_string(), text);
        }
        assert_eq!("time:1970-01-02,1970-01-03".parse::<SplitRule>().unwrap(), SplitRule::Time([86_400.0, 172_800.0]));
        let wrong = ["", "loo", "ratio", "ratio:0.8,0.2", "ratio:1,0,0", "ratio:0.8,0.1,0.2", "time:4,3", "time:a,b,c"];
        for text in wrong.into_iter().chain(["sessions", "sessions:0.8,0.1,0.1,0.5", "sessions:0.8,0.1,0.1,-1"]) {
            assert!(text.parse::<SplitRule>().is_err(), "{text}");
        }
    }
}
