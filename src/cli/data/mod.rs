//! `gpurec data`: the data sets known by name, a look at one, its preparation and its check.

mod check;
mod fetch;
mod prepare;

use super::console::{say, shell_command, table};
use super::source::SourceArgs;
use crate::data::catalog::{DATA_DIR, data_dir};
use crate::data::manifest::Presence;
use crate::data::{Format, Interactions, Source, list, manifest, manifests, resolve};
use crate::error::Result;
use indicatif::HumanBytes;

/// Sequences shown, and items of each.
const SHOWN: (usize, usize) = (5, 12);

const EXAMPLES: &str = "\
Examples:
  gpurec data list
  gpurec data fetch amazon_beauty
  gpurec data show kuairec
  gpurec data check my_events.csv --user-col customer --item-col sku --time-col ordered_at
  gpurec data prepare my_events.csv --k-core 5 --out my_data";

const LIST_EXAMPLES: &str = "\
Examples:
  gpurec data list
  GPUREC_DATA_DIR=my_data gpurec data list     with the files of another data folder";

const SHOW_EXAMPLES: &str = "\
Examples:
  gpurec data show kuairec
  gpurec data show retailrocket     source and terms of a set that is not here
  gpurec data show my_events.csv --user-col customer --item-col sku --time-col ordered_at";

const CHECK_EXAMPLES: &str = "\
Examples:
  gpurec data check kuairec
  gpurec data check my_events.csv --user-col customer --item-col sku --time-col ordered_at
  gpurec data check my_data --split time:0.8,0.1,0.1";

/// The examples, and what can be read.
fn after_help() -> String {
    let formats = Format::all().map(|format| format!("  {:<9} {}\n", format.name(), format.content()));
    let formats: String = formats.collect();
    format!(
        "{EXAMPLES}\n\nFormats, of files called .NAME or named by --format; text may be in gzip (.NAME.gz):\n{formats}\
         A folder made by `gpurec data prepare` is a data set too."
    )
}

#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DataCommand {
    /// List the data sets known by name: the bundled one, those of the data folder, and those that can be fetched
    #[command(after_help = LIST_EXAMPLES)]
    List,
    /// Download a data set of the papers and verify it, or say how a person gets it
    Fetch(fetch::FetchArgs),
    /// Show statistics and the first sequences of a data set; of one that is not here, its source and terms
    #[command(after_help = SHOW_EXAMPLES)]
    Show(OneArgs),
    /// Report what can mislead: repeats, ties in time, targets that cannot be hit or learned, leakage
    #[command(after_help = CHECK_EXAMPLES)]
    Check(OneArgs),
    /// Filter a log of events and write it as a data set: sequences, names, description
    Prepare(prepare::PrepareArgs),
}

#[derive(Debug, clap::Args)]
struct OneArgs {
    /// A name of `gpurec data list`, or the path of a file or of a prepared folder
    dataset: String,

    #[command(flatten)]
    source: SourceArgs,
}

impl OneArgs {
    fn read(&self) -> Result<Interactions> {
        resolve(&self.dataset, &self.source.options()?)
    }

    fn check_command(&self) -> String {
        let options = self.source.words();
        let words = ["gpurec", "data", "check", &self.dataset].into_iter().chain(options.iter().map(String::as_str));
        shell_command(words)
    }
}

pub fn data(args: &DataArgs) -> Result<()> {
    match &args.command {
        DataCommand::List => list_all(),
        DataCommand::Fetch(args) => fetch::fetch(args),
        DataCommand::Show(args) => show(args),
        DataCommand::Check(args) => say(check::report(&args.read()?)),
        DataCommand::Prepare(args) => prepare::prepare(args),
    }
}

fn show(args: &OneArgs) -> Result<()> {
    let dir = data_dir();
    match manifest(&args.dataset).filter(|manifest| manifest.presence(dir.as_deref()) != Presence::Ready) {
        Some(manifest) => say(fetch::about(manifest, dir.as_deref())),
        None => say(first_look(&args.read()?, &args.check_command())),
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
        [info.name, info.paper_name.unwrap_or("-").into(), place, HumanBytes(info.bytes).to_string()]
    });
    let absent = absent.into_iter().map(|manifest| {
        let paper_name = manifest.paper_name.as_deref().unwrap_or("-");
        let size = manifest.source.bytes.map_or("-".into(), |n| HumanBytes(n).to_string());
        [manifest.name.clone(), paper_name.into(), fetch::where_to_get(manifest, dir.as_deref()), size]
    });
    say(table(&["data set", "in papers", "where", "size"], rows.chain(absent), 3))?;
    let dir = dir.map_or("none".into(), |dir| dir.display().to_string());
    say("`gpurec data show NAME` tells source and terms, `gpurec data fetch NAME` gets a set.")?;
    say(format!("Data folder: {dir} ({DATA_DIR} names another), for data files; a path works wherever a name does."))
}

/// Statistics and sequences; `check` is the command that says more.
fn first_look(data: &Interactions, check: &str) -> String {
    let mut text = format!("{}: {}\n\n", data.name, data.statistics());
    for (user, sequence) in data.users.iter().zip(data.sequences()).take(SHOWN.0) {
        let items: Vec<&str> = sequence.iter().take(SHOWN.1).map(|&item| data.items[item as usize].as_str()).collect();
        let more = if sequence.len() > SHOWN.1 { format!(" ... ({} in all)", sequence.len()) } else { String::new() };
        text += &format!("  user {user}: {}{more}\n", items.join(" "));
    }
    text + &format!("\n`{check}` says what can mislead in it.")
}
