//! `gpurec data prepare`: from a log of events to the folder of a data set.

use crate::cli::console::{grouped, note, say, shell_command};
use crate::cli::source::SourceArgs;
use crate::data::catalog::data_dir;
use crate::data::manifest::Presence;
use crate::data::prepared::{self, Description};
use crate::data::{EventLog, Interactions, Manifest, ReadOptions, Source, Step, locate, manifest, read_log};
use crate::error::{Error, Result};
use crate::files::digest_of;
use sha2::Sha256;
use std::collections::BTreeMap;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  gpurec data prepare ratings.csv --k-core 5
  gpurec data prepare events.csv --user-col visitorid --item-col itemid --event-col event --events view,addtocart
  gpurec data prepare reviews.parquet --since 2019-01-01 --until 2020-01-01 --k-core 5 --split time:0.8,0.1,0.1 --out yelp
  gpurec data prepare ml-1m                 a fetched data set, as its manifest says

The folder holds sequences.txt.gz (numbered from 1, in time order), users.tsv and items.tsv with the original names, \
times.txt.gz where there are times, and dataset.toml. Equal times keep the order of the file. Steps are applied in the order \
of the options below.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PrepareArgs {
    /// The path of a file, or the name of a data set that was fetched
    source: String,

    /// The folder to write; named after the source when not given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Keep these kinds of events
    #[arg(long, value_name = "KIND,KIND,...", value_delimiter = ',')]
    events: Vec<String>,

    /// Keep events from this time on: a number as in the data, or a date
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Keep events before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,

    /// Leave out rows that repeat an earlier one in user, item, time and kind
    #[arg(long)]
    drop_repeats: bool,

    /// Leave out events of the same item and kind as the user's event before: of ten looks at one item, nine
    #[arg(long)]
    drop_consecutive: bool,

    /// Drop users with fewer events, once
    #[arg(long, value_name = "N")]
    min_user_events: Option<usize>,

    /// Drop items with fewer events, once
    #[arg(long, value_name = "N")]
    min_item_events: Option<usize>,

    /// Drop users and items with fewer events until none is left
    #[arg(long, value_name = "K")]
    k_core: Option<usize>,

    #[command(flatten)]
    reading: SourceArgs,
}

/// What to read, how, and what to do with it.
struct Plan {
    name: String,
    out: PathBuf,
    files: Vec<PathBuf>,
    options: ReadOptions,
    /// The kind of all events of a file, by the file's name.
    kinds: BTreeMap<String, String>,
    steps: Vec<Step>,
}

pub fn prepare(args: &PrepareArgs) -> Result<()> {
    let dir = data_dir();
    let known = manifest(&args.source).filter(|m| matches!(m.presence(dir.as_deref()), Presence::Fetched(_)));
    let plan = match (known, &dir) {
        (Some(manifest), Some(dir)) => {
            args.plan_of_manifest(manifest, manifest.files(dir), dir.join(&manifest.name))?
        }
        _ => args.plan_of_file()?,
    };
    // A fetched set is prepared beside its raw files; any other folder must be new or empty.
    let beside = known.zip(dir.as_ref()).is_some_and(|(manifest, dir)| plan.out == dir.join(&manifest.name));
    let filled = !beside && std::fs::read_dir(&plan.out).is_ok_and(|mut files| files.next().is_some());
    if filled || prepared::is_prepared(&plan.out) || plan.out.is_file() {
        let problem = format!("{} exists already", plan.out.display());
        return Err(Error::usage(problem, "choose another --out, or remove it"));
    }
    let mut log = plan.read()?;
    for line in crate::data::prepare(&mut log, &plan.steps)? {
        note(format!("  {line}"));
    }
    let split = plan.options.split.clone().unwrap_or_default();
    let data = Interactions::from_log(&plan.name, log).with_split(split)?;
    prepared::write(&plan.out, &data, &plan.description(&data)?)?;
    say(format!("{}\nsplit {}; written to {}", data.statistics(), data.rule(), plan.out.display()))?;
    if let Some(manifest) = known {
        say(against_expected(manifest, &data))?;
    }
    let dataset = known.filter(|_| beside).map_or(plan.out.to_string_lossy(), |manifest| (&manifest.name).into());
    let next = [&["gpurec", "data", "check", &*dataset][..], &["gpurec", "run", "--dataset", &*dataset]];
    let [check, run] = next.map(|words| shell_command(words.iter().copied()));
    say(format!("next: {check}, {run}"))
}

/// Whether what came out is what the papers have.
fn against_expected(manifest: &Manifest, data: &Interactions) -> String {
    let Some(expected) = manifest.expected else { return "the papers give no counts to compare with".into() };
    let [users, items, events] = [expected.users, expected.items, expected.interactions].map(grouped);
    let theirs = format!("{users} users, {items} items, {events} interactions");
    let same =
        (expected.users, expected.items, expected.interactions) == (data.n_users(), data.n_items(), data.n_events());
    match (same, expected.approximate) {
        (true, _) => "as expected".into(),
        (false, true) => format!("expected about {theirs}: the published recipe draws without a seed"),
        (false, false) => {
            format!("warning: expected {theirs}; figures measured on this data do not stand beside published ones")
        }
    }
}

impl PrepareArgs {
    fn steps(&self) -> Vec<Step> {
        let span = (self.since.is_some() || self.until.is_some())
            .then(|| Step::Span { since: self.since.clone(), until: self.until.clone() });
        let events = (!self.events.is_empty()).then(|| Step::KeepEvents { events: self.events.clone() });
        let steps = [
            events,
            span,
            self.drop_repeats.then_some(Step::DropRepeats),
            self.drop_consecutive.then_some(Step::DropConsecutive),
            self.min_user_events.map(|count| Step::MinPerUser { count, of: None }),
            self.min_item_events.map(|count| Step::MinPerItem { count }),
            self.k_core.map(|k| Step::KCore { k }),
        ];
        steps.into_iter().flatten().collect()
    }

    fn plan_of_file(&self) -> Result<Plan> {
        let path = match locate(&self.source)? {
            Source::File(path) if !prepared::is_prepared(&path) => path,
            _ => {
                let problem = format!("{} is a prepared data set already", self.source);
                return Err(Error::usage(problem, "prepare the file that it was made from, or a file of your own"));
            }
        };
        let name = match &self.out {
            Some(out) => out.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            None => crate::data::read::dataset_name(&path),
        };
        let out = self.out.clone().unwrap_or_else(|| PathBuf::from(&name));
        let (options, steps) = (self.reading.options()?, self.steps());
        Ok(Plan { name, out, files: vec![path], options, kinds: BTreeMap::new(), steps })
    }

    /// The steps of the manifest, then those of the command line.
    fn plan_of_manifest(&self, manifest: &Manifest, files: Vec<PathBuf>, out: PathBuf) -> Result<Plan> {
        let read = manifest.read.clone().ok_or_else(|| {
            Error::usage(format!("the manifest of {} names no columns", manifest.name), "prepare the file by its path")
        })?;
        if let Some((option, _)) = self.reading.given().into_iter().find(|(option, _)| *option != "--split") {
            let problem = format!("the manifest of {} says how its files are read, not {option}", manifest.name);
            return Err(Error::usage(problem, format!("leave {option} away, or prepare the file by its path")));
        }
        let options = self.reading.options_over(&read.options)?;
        Ok(Plan {
            name: manifest.name.clone(),
            out: self.out.clone().unwrap_or(out),
            files,
            options,
            kinds: read.event_of_file,
            steps: [manifest.prepare.clone(), self.steps()].concat(),
        })
    }
}

impl Plan {
    fn read(&self) -> Result<EventLog> {
        let mut all = EventLog::default();
        for file in &self.files {
            let log = read_log(file, &self.options)?;
            note(format!("{}: {} events read", file.display(), grouped(log.len())));
            let kind = file.file_name().and_then(|name| self.kinds.get(&*name.to_string_lossy()));
            match (self.files.len(), kind) {
                (1, None) => return Ok(log),
                _ => all.append(&log, kind.map(String::as_str)),
            }
        }
        Ok(all)
    }

    fn description(&self, data: &Interactions) -> Result<Description> {
        let source = |file: &PathBuf| {
            Ok((file.file_name().unwrap_or_default().to_string_lossy().into_owned(), digest_of::<Sha256>(file)?))
        };
        Ok(Description {
            name: data.name.clone(),
            sources: self.files.iter().map(source).collect::<Result<_>>()?,
            split: data.rule().clone(),
            users: data.n_users(),
            items: data.n_items(),
            interactions: data.n_events(),
            kinds: data.kind_names.clone(),
            steps: self.steps.clone(),
        })
    }
}
