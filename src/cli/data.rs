//! `gpurec data`: the data sets known by name, and a first look at one.

use super::console::{bytes, say, table};
use crate::data::catalog::DATA_DIR;
use crate::data::{Interactions, LeaveOneOut, Source, list, resolve};
use crate::error::Result;
use std::collections::HashSet;

/// Sequences shown, and items of each.
const SHOWN: (usize, usize) = (5, 12);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gpurec data list\n  gpurec data show kuairec\n  gpurec data show my_sequences.txt.gz"
)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DataCommand {
    /// List the data sets known by name: the bundled one and those of the folder GPUREC_DATA_DIR
    List,
    /// Show statistics and the first sequences of a data set
    Show {
        /// A name of `gpurec data list`, or the path of a file
        dataset: String,
    },
}

pub fn data(args: &DataArgs) -> Result<()> {
    match &args.command {
        DataCommand::List => list_all(),
        DataCommand::Show { dataset } => say(summary(&resolve(dataset)?)),
    }
}

fn list_all() -> Result<()> {
    let rows = list()?.into_iter().map(|info| {
        let place = match info.source {
            Source::Bundled => "bundled".into(),
            Source::File(path) => path.display().to_string(),
        };
        [info.name, info.paper_name.unwrap_or("-").into(), place, bytes(info.bytes)]
    });
    say(table(&["data set", "in papers", "where", "size"], rows, 3))?;
    say(format!("{DATA_DIR} names a folder of further .txt and .txt.gz files; a path works wherever a name does."))
}

fn summary(data: &Interactions) -> String {
    let mut text = format!("{}: {}\n\n", data.name, data.statistics());
    for (user, sequence) in data.users.iter().zip(data.sequences()).take(SHOWN.0) {
        let items: Vec<&str> = sequence.iter().take(SHOWN.1).map(|&item| data.items[item as usize].as_str()).collect();
        let more = if sequence.len() > SHOWN.1 { format!(" ... ({} in all)", sequence.len()) } else { String::new() };
        text += &format!("  user {user}: {}{more}\n", items.join(" "));
    }
    let repeated: usize = data.sequences().map(|s| s.len() - s.iter().collect::<HashSet<_>>().len()).sum();
    let split = LeaveOneOut::new(data);
    let known = |(history, target): (&[u32], u32)| history.contains(&target);
    let (users, events) = (data.n_users(), data.n_events());
    let valid = (0..users).filter(|&u| known(split.valid(u))).count();
    let test = (0..users).filter(|&u| known(split.test(u))).count();
    let percent =
        |part: usize, whole: usize| format!("{part} of {whole} ({:.1} %)", 100.0 * part as f64 / whole as f64);
    text += &format!("\ninteractions that repeat an item of their sequence: {}\n", percent(repeated, events));
    text += &format!("validation items that occur in the history: {}\n", percent(valid, users));
    text += &format!("test items that occur in the history: {}\n", percent(test, users));
    text + "Where the history is excluded from the candidates, such items can never be hit."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_and_targets_in_the_history_are_counted() {
        let data = Interactions::from_sequences("toy", &[vec![5, 6, 7, 5], vec![1, 2, 1, 3], vec![1, 2, 3]]);
        let text = summary(&data);
        assert!(text.contains("user 1: 5 6 7 5\n"), "{text}");
        assert!(text.contains("their sequence: 2 of 11 (18.2 %)"), "{text}");
        assert!(text.contains("validation items that occur in the history: 1 of 3"), "{text}");
        assert!(text.contains("test items that occur in the history: 1 of 3"), "{text}");
    }
}
