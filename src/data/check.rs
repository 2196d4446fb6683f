//! What to know of a data set before believing a number measured on it.

use std::collections::HashSet;

use super::interactions::{Interactions, Statistics};
use super::split::HeldOut;

/// Counts of what can mislead.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    /// The row of a data table.
    pub statistics: Statistics,
    /// Events that repeat an earlier one of their user in item and time; `None` without times.
    pub repeated_events: Option<usize>,
    /// Events with the time of the one before: their order is that of the file.
    pub ties_in_time: Option<usize>,
    /// Events whose item their user had met before.
    pub repeated_items: usize,
    /// The validation targets.
    pub valid: Targets,
    /// The test targets.
    pub test: Targets,
    /// `None` without times.
    pub span: Option<Span>,
}

/// Of the events to predict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// All of them.
    pub count: usize,
    /// Items that occur in their own history: never hit where the history is excluded.
    pub in_history: usize,
    /// Items that no training event has.
    pub cold: usize,
}

/// Where training and test lie in time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// First and last time.
    pub train: [f64; 2],
    /// First and last time.
    pub test: [f64; 2],
    /// All training events.
    pub train_events: usize,
    /// Training events at or after the first test event: a model in use could not have known them.
    pub train_after_first_test: usize,
}

impl Findings {
    /// Looks through a data set.
    pub fn of(data: &Interactions) -> Findings {
        let users = 0..data.n_users();
        let timed = |count: &dyn Fn(usize) -> usize| data.has_times().then(|| users.clone().map(count).sum());
        let mut trained = vec![false; data.n_items()];
        users.clone().flat_map(|u| data.train(u)).for_each(|&item| trained[item as usize] = true);
        Findings {
            statistics: data.statistics(),
            repeated_events: timed(&|u| {
                let events = data.sequence(u).iter().zip(data.times(u)).map(|(item, time)| (*item, time.to_bits()));
                data.sequence(u).len() - events.collect::<HashSet<_>>().len()
            }),
            ties_in_time: timed(&|u| data.times(u).windows(2).filter(|pair| pair[0] == pair[1]).count()),
            repeated_items: data.sequences().map(|s| s.len() - s.iter().collect::<HashSet<_>>().len()).sum(),
            valid: Targets::of(data.valid(), &trained),
            test: Targets::of(data.test(), &trained),
            span: Span::of(data),
        }
    }
}

impl Targets {
    fn of<'a>(events: impl Iterator<Item = HeldOut<'a>>, trained: &[bool]) -> Targets {
        events.fold(Targets::default(), |targets, event| Targets {
            count: targets.count + 1,
            in_history: targets.in_history + usize::from(event.history.contains(&event.target)),
            cold: targets.cold + usize::from(!trained[event.target as usize]),
        })
    }

    /// The highest HR that any model can reach where the history is excluded.
    pub fn ceiling(&self) -> f64 {
        1.0 - self.in_history as f64 / self.count.max(1) as f64
    }
}

impl Span {
    /// `None` without times, and where nothing trains or tests.
    fn of(data: &Interactions) -> Option<Span> {
        let of_part = |test: bool| {
            let part = move |u: usize| {
                let times = data.times(u);
                if test {
                    &times[data.before_test(u).len().min(times.len())..]
                } else {
                    &times[..data.train(u).len().min(times.len())]
                }
            };
            (0..data.n_users()).flat_map(part).copied()
        };
        let range = |test| {
            let ends =
                of_part(test).fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], t| [low.min(t), high.max(t)]);
            (ends[0] <= ends[1]).then_some(ends)
        };
        let (train, test) = (range(false)?, range(true)?);
        let train_after_first_test = of_part(false).filter(|time| *time >= test[0]).count();
        Some(Span { train, test, train_events: of_part(false).count(), train_after_first_test })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_misleads_is_counted() {
        // User 1 repeats item 1 as its test target and one event exactly; user 2 is tested on an item nobody trains on.
        let data = Interactions::from_sequences("toy", &[vec![1, 2, 2, 3, 1], vec![2, 3, 9]]);
        let data = data.with_times(vec![1.0, 4.0, 4.0, 6.0, 7.0, 4.0, 5.0, 6.5]);
        let findings = Findings::of(&data);
        assert_eq!((findings.repeated_events, findings.ties_in_time, findings.repeated_items), (Some(1), Some(1), 2));
        assert_eq!(findings.valid, Targets { count: 2, in_history: 0, cold: 2 });
        assert_eq!(findings.test, Targets { count: 2, in_history: 1, cold: 1 });
        assert_eq!(findings.test.ceiling(), 0.5);
        let span = Span { train: [1.0, 4.0], test: [6.5, 7.0], train_events: 4, train_after_first_test: 0 };
        assert_eq!(findings.span, Some(span));
    }

    #[test]
    fn training_events_after_the_first_test_event_are_leakage() {
        let data = Interactions::from_sequences("toy", &[vec![1, 2, 3], vec![1, 2, 3]]);
        let findings = Findings::of(&data.clone().with_times(vec![1.0, 2.0, 3.0, 8.0, 9.0, 10.0]));
        assert_eq!(findings.span.unwrap().train_after_first_test, 1);
        assert_eq!((Findings::of(&data).span, Findings::of(&data).ties_in_time), (None, None));
    }
}
