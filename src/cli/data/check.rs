//! `gpurec data check`: the findings in words and figures.

use crate::cli::console::{grouped, share};
use crate::data::lists::{Dropped, Field, Lists, Part};
use crate::data::{Findings, Interactions};

/// The report on a data set.
pub fn report(data: &Interactions) -> String {
    let Findings { statistics, repeated_events, ties_in_time, repeated_items, valid, test, span } = Findings::of(data);
    let n = statistics.interactions;
    let density = 100.0 * n as f64 / (statistics.users as f64 * statistics.items as f64);
    let mut lines = data.lists.as_deref().map(of_lists).unwrap_or_default();
    lines.extend([
        ("users", grouped(statistics.users)),
        ("items", grouped(statistics.items)),
        ("interactions", grouped(n)),
        (
            "average length",
            format!("{:.2} (min {}, max {})", statistics.average_length, statistics.min_length, statistics.max_length),
        ),
        ("events per item", format!("{:.2}", n as f64 / statistics.items as f64)),
        ("sparsity", format!("{:.2} %", 100.0 - density)),
        ("split", data.rule().in_words()),
    ]);
    let without_times = "not known: the data has no times";
    let events = |count: Option<usize>| count.map_or(without_times.into(), |count| share(count, n));
    lines.push((
        "repeated events",
        events(repeated_events) + &hint(repeated_events, "`data prepare --drop-repeats` removes them"),
    ));
    lines.push((
        "ties in time",
        events(ties_in_time) + &hint(ties_in_time, "such events keep the order of the file, which may mean nothing"),
    ));
    lines.push(("repeated items", share(repeated_items, n)));
    for (name, targets) in [("validation targets", valid), ("test targets", test)] {
        let none = if targets.count == 0 { ": this split leaves none, and no method can be trained on it" } else { "" };
        lines.push((name, grouped(targets.count) + none));
        let bound = format!("HR cannot exceed {:.4} where the history is excluded", targets.ceiling());
        lines.push((
            "  in the history",
            share(targets.in_history, targets.count) + &hint(Some(targets.in_history), &bound),
        ));
        let untrained = "their items occur in no training event: embeddings of items cannot learn them";
        lines.push(("  cold", share(targets.cold, targets.count) + &hint(Some(targets.cold), untrained)));
    }
    match span {
        None if data.has_times() => {
            lines.push(("leakage in time", "not known: training or test has no events".into()));
        }
        None => lines.push(("leakage in time", without_times.into())),
        Some(span) => {
            let leaked = span.train_after_first_test;
            let late =
                format!("{} training events lie at or after the first test event", share(leaked, span.train_events));
            lines.push(("training times", format!("{} to {}", date(span.train[0]), date(span.train[1]))));
            lines.push(("test times", format!("{} to {}", date(span.test[0]), date(span.test[1]))));
            lines.push(("leakage in time", late + &hint(Some(leaked), "--split time:0.8,0.1,0.1 has none")));
        }
    }
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let text: String = lines.into_iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect();
    format!("{}\n\n{}", data.name, text.trim_end())
}

/// What was shown; what follows is about the clicks as sequences.
fn of_lists(lists: &Lists) -> Vec<(&'static str, String)> {
    let Dropped { short_lists, positions, clicks_outside } = lists.dropped;
    let parts = [Part::Train, Part::Valid, Part::Test].map(|part| grouped(lists.part(part).len()));
    let field = |field: &Field| format!("{} ({})", field.name, grouped(field.rows as usize));
    let left_out = format!(
        "{} shorter lists, {} positions behind the last that counts, {} clicks on items that were not shown",
        grouped(short_lists),
        grouped(positions),
        grouped(clicks_outside)
    );
    vec![
        ("lists", lists.to_string()),
        ("  train, valid, test", parts.join(", ")),
        ("  fields (values)", lists.fields.iter().map(field).collect::<Vec<_>>().join(", ")),
        ("  left out", left_out),
        ("their clicks", "as sequences:".into()),
    ]
}

/// What a count other than zero means.
fn hint(count: Option<usize>, meaning: &str) -> String {
    if count.is_some_and(|count| count > 0) { format!(": {meaning}") } else { String::new() }
}

/// A time as a date, where the number is plausibly seconds or milliseconds since 1970.
fn date(time: f64) -> String {
    let second = match time {
        1e8..1e10 => time,
        1e11..1e13 => time / 1000.0,
        _ => return time.to_string(),
    };
    jiff::Timestamp::from_second(second as i64).map_or(time.to_string(), |stamp| stamp.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_what_each_finding_means() {
        let data = Interactions::from_sequences("toy", &[vec![5, 6, 7, 5], vec![1, 2, 1, 3], vec![1, 2, 3]]);
        let text = report(&data);
        for line in [
            "repeated items      2 of 11 (18.18 %)",
            "in the history    1 of 3 (33.33 %): HR cannot exceed 0.6667",
            "cold              2 of 3 (66.67 %)",
            "sparsity            38.89 %",
            "leakage in time     not known",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        let timed = data.with_times((0..11).map(|i| 1_396_867_869.0 + f64::from(i)).collect());
        assert!(report(&timed).contains("test times          2014-04-07T10:51:12Z to"), "{}", report(&timed));
    }
}
