//! `gpurec data prepare`: from a log of events to the folder of a data set.

use crate::cli::console::{grouped, note, say};
use crate::cli::source::SourceArgs;
use crate::data::log::parse_time;
use crate::data::prepared::{self, Description};
use crate::data::{Interactions, Preparation, Source, locate, read_log};
use crate::error::{Error, Result};
use crate::files::sha256_of;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  gpurec data prepare ratings.csv --k-core 5
  gpurec data prepare events.csv --user-col visitorid --item-col itemid --event-col event --events view,addtocart
  gpurec data prepare reviews.parquet --since 2019-01-01 --until 2020-01-01 --k-core 5 --split time:0.8,0.1,0.1 --out yelp

The folder holds sequences.txt.gz (numbered from 1, in time order), users.tsv and items.tsv with the original names,
times.txt.gz where there are times, and dataset.toml. Equal times keep the order of the file.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PrepareArgs {
    /// A name of `gpurec data list`, or the path of a file
    source: String,

    /// The folder to write; named after the source when not given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Keep users and items with this many events or more, iterated
    #[arg(long, value_name = "N", conflicts_with_all = ["min_user_events", "min_item_events"])]
    k_core: Option<usize>,

    /// Keep users with this many events or more; iterated with --min-item-events
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_user_events: usize,

    /// Keep items with this many events or more; iterated with --min-user-events
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_item_events: usize,

    /// Keep these kinds of events
    #[arg(long, value_name = "KIND,KIND,...", value_delimiter = ',')]
    events: Vec<String>,

    /// Keep events from this time on: a number as in the data, or a date
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<f64>,

    /// Keep events before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<f64>,

    /// Leave out rows that repeat an earlier one in user, item, time and kind
    #[arg(long)]
    drop_repeats: bool,

    #[command(flatten)]
    reading: SourceArgs,
}

fn time(text: &str) -> Result<f64, String> {
    parse_time(text).ok_or_else(|| "neither a number nor a date such as 2019-10-01".into())
}

pub fn prepare(args: &PrepareArgs) -> Result<()> {
    let Source::File(path) = locate(&args.source)? else {
        return Err(Error::usage(
            format!("{} is bundled and prepared already", args.source),
            "prepare a file of your own",
        ));
    };
    if prepared::is_prepared(&path) {
        let problem = format!("{} is a prepared data set already", path.display());
        return Err(Error::usage(problem, "prepare the file that it was made from"));
    }
    let name = match &args.out {
        Some(out) => out.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        None => crate::data::read::dataset_name(&path),
    };
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(&name));
    if out.exists() && (!out.is_dir() || std::fs::read_dir(&out).is_ok_and(|mut files| files.next().is_some())) {
        let problem = format!("{} exists already", out.display());
        return Err(Error::usage(problem, "choose another --out, or remove it"));
    }
    let options = args.reading.options()?;
    let mut log = read_log(&path, &options)?;
    note(format!("{}: {} events read", path.display(), grouped(log.len())));
    let preparation = args.preparation();
    preparation.apply(&mut log)?.iter().for_each(|step| note(format!("  {step}")));
    let data = Interactions::from_log(&name, log).with_split(options.split.unwrap_or_default())?;
    prepared::write(&out, &data, &description(&path, &data, preparation)?)?;
    say(format!("{}\nsplit {}; written to {}", data.statistics(), data.rule(), out.display()))?;
    say(format!("next: gpurec data check {0}, gpurec run --dataset {0}", out.display()))
}

fn description(path: &Path, data: &Interactions, preparation: Preparation) -> Result<Description> {
    let statistics = data.statistics();
    Ok(Description {
        name: data.name.clone(),
        source: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        source_sha256: sha256_of(path)?,
        split: data.rule().clone(),
        users: statistics.users,
        items: statistics.items,
        interactions: statistics.interactions,
        preparation,
    })
}

impl PrepareArgs {
    fn preparation(&self) -> Preparation {
        Preparation {
            events: self.events.clone(),
            since: self.since,
            until: self.until,
            drop_repeats: self.drop_repeats,
            min_user_events: self.k_core.unwrap_or(self.min_user_events),
            min_item_events: self.k_core.unwrap_or(self.min_item_events),
        }
    }
}
