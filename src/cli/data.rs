//! `gpurec data`: the data sets known by name, and a first look at one.

mod fetch;

use super::console::{bytes, say, table};
use crate::data::catalog::{DATA_DIR, data_dir};
use crate::data::manifest::Presence;
use crate::data::{Interactions, LeaveOneOut, Source, list, manifest, manifests, resolve};
use crate::error::Result;
use std::collections::HashSet;

/// Sequences shown, and items of each.
const SHOWN: (usize, usize) = (5, 12);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gpurec data list\n  gpurec data fetch amazon_beauty\n  gpurec data show kuairec\n  gpurec data show my_sequences.txt.gz"
)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DataCommand {
    /// List the data sets known by name: the bundled one, those of the data folder, and those that can be fetched
    List,
    /// Download a data set of the papers and verify it, or say how a person gets it
    Fetch(fetch::FetchArgs),
    /// Show statistics and the first sequences of a data set; of one that is not here, its source and terms
    Show {
        /// A name of `gpurec data list`, or the path of a file
        dataset: String,
    },
}

pub fn data(args: &DataArgs) -> Result<()> {
    match &args.command {
        DataCommand::List => list_all(),
        DataCommand::Fetch(args) => fetch::fetch(args),
        DataCommand::Show { dataset } => show(dataset),
    }
}

fn show(dataset: &str) -> Result<()> {
    let dir = data_dir();
    match manifest(dataset).filter(|manifest| manifest.presence(dir.as_deref()) != Presence::Ready) {
        Some(manifest) => say(fetch::about(manifest, dir.as_deref())),
        None => say(summary(&resolve(dataset)?)),
    }
}

fn list_all() -> Result<()> {
    let dir = data_dir();
    let here = list()?;
    let absent: Vec<_> =
        manifests().iter().filter(|manifest| here.iter().all(|info| info.name != manifest.name)).collect();
    let rows = here.into_iter().map(|info| {
        let place = match info.source {
            Source::Bundled => "bundled".into(),
            Source::File(path) => path.display().to_string(),
        };
        [info.name, info.paper_name.unwrap_or("-").into(), place, bytes(info.bytes)]
    });
    let absent = absent.into_iter().map(|manifest| {
        let paper_name = manifest.paper_name.as_deref().unwrap_or("-");
        let size = manifest.source.bytes.map_or("-".into(), bytes);
        [manifest.name.clone(), paper_name.into(), fetch::where_to_get(manifest, dir.as_deref()), size]
    });
    say(table(&["data set", "in papers", "where", "size"], rows.chain(absent), 3))?;
    let dir = dir.map_or("none".into(), |dir| dir.display().to_string());
    say("`gpurec data show NAME` tells source and terms, `gpurec data fetch NAME` gets a set.")?;
    say(format!(
        "Data folder: {dir} ({DATA_DIR} names another), for .txt and .txt.gz files; a path works wherever a name does."
    ))
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
