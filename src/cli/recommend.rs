//! `gpurec recommend`: the best items for one history or for a file of them, by the user's own item names.

use super::DeviceArgs;
use super::console::{bar, grouped, say, table};
use super::histories::{Histories, indices};
use super::source::SourceArgs;
use crate::error::{Error, Result};
use crate::files::WholeFile;
use crate::train::{MAX_K, Request, Trained, USERS_PER_RUN};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  gpurec recommend --checkpoint runs/lma4rec-kuairec-seed1 --history 3,17,29
  gpurec recommend --checkpoint runs/lma4rec-kuairec-seed1 --history 3,17,29 --top-k 5 --json
  gpurec recommend --checkpoint runs/mine --input histories.txt --output lists.csv
  gpurec recommend --checkpoint runs/mine --input events.parquet --user-col visitor --output lists.jsonl";

const TEMPLATE: &str = "{bar:30} {human_pos} of {human_len} users  {per_sec}, {eta} left";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RecommendArgs {
    /// The folder of a run, or a checkpoint file
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,

    /// The items someone met, oldest first, by the names they have in the data set
    #[arg(long, value_name = "ITEM,ITEM,...", value_delimiter = ',', required_unless_present = "input")]
    history: Vec<String>,

    /// A file of histories of many users: lines `user item item ...`, or a table, as for `gpurec run --dataset`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["history", "json"], requires = "output")]
    input: Option<PathBuf>,

    /// Where the lists of --input go: rows of user, rank, item, score, as .csv, .tsv or .jsonl
    #[arg(long, value_name = "FILE", requires = "input")]
    output: Option<PathBuf>,

    /// How many items to recommend, up to 256
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=MAX_K as i64))]
    top_k: u16,

    /// Items of the history may be recommended again; they are left out otherwise
    #[arg(long)]
    keep_history: bool,

    /// Leave out items of --input that the model does not know, and count them
    #[arg(long, requires = "input")]
    skip_unknown: bool,

    /// Print [{"item": ..., "score": ...}, ...] for other programs
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Serialize)]
struct Recommendation<'a> {
    item: &'a str,
    score: f32,
}

pub fn recommend(args: &RecommendArgs) -> Result<()> {
    if let (Some(input), Some(output)) = (&args.input, &args.output) {
        return recommend_all(args, input, output);
    }
    let trained = Trained::open(&args.checkpoint)?;
    let history = indices(&args.history, &trained.items)?;
    let mut executor = args.device.open()?;
    let mut ranker = trained.ranker(executor.as_mut())?;
    let best = ranker.top_k(executor.as_mut(), &[Request::new(&history)], args.k(&trained), args.keep_history)?;
    let best = best.iter().flatten();
    let best: Vec<Recommendation> =
        best.map(|&(item, score)| Recommendation { item: &trained.items[item as usize], score }).collect();
    if args.json {
        return say(serde_json::to_string(&best).expect("numbers and strings serialise"));
    }
    let rows = (1..).zip(&best).map(|(place, r)| [format!("{place}"), r.item.to_string(), format!("{:.4}", r.score)]);
    say(table(&["", "item", "score"], rows, 0))
}

impl RecommendArgs {
    fn k(&self, trained: &Trained) -> usize {
        usize::from(self.top_k).min(trained.items.len())
    }
}

/// Lists for all users of a file, into a file.
fn recommend_all(args: &RecommendArgs, input: &Path, output: &Path) -> Result<()> {
    let format = ListFormat::of_file(output)?;
    let same_file = |a: &Path, b: &Path| a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b);
    if same_file(input, output) {
        let problem = format!("--output would replace --input, {}", input.display());
        return Err(Error::usage(problem, "choose another --output"));
    }
    let trained = Trained::open(&args.checkpoint)?;
    let histories = Histories::read(input, &args.source, &trained.items, args.skip_unknown)?;
    let mut executor = args.device.open()?;
    let mut ranker = trained.ranker(executor.as_mut())?;
    let k = args.k(&trained);
    let requests = histories.requests();
    let failed = |e: std::io::Error| Error::io("write", output, e);
    let mut file = WholeFile::create(output)?;
    let mut rows = Rows::new(format, &mut file);
    let (mut count, bar) = (0, bar(requests.len(), TEMPLATE, false));
    for (users, requests) in histories.users.chunks(USERS_PER_RUN).zip(requests.chunks(USERS_PER_RUN)) {
        let lists = ranker.top_k(executor.as_mut(), requests, k, args.keep_history)?;
        for (user, list) in users.iter().zip(&lists) {
            count += list.len();
            for (rank, &(item, score)) in (1..).zip(list) {
                let item = &trained.items[item as usize];
                rows.write(&Row { user, rank, item, score }).map_err(failed)?;
            }
        }
        bar.inc(users.len() as u64);
    }
    bar.finish_and_clear();
    rows.finish().map_err(failed)?;
    file.finish()?;
    histories.report_skipped();
    let users = grouped(requests.len());
    say(format!("{} recommendations for {users} users; written to {}", grouped(count), output.display()))
}

#[derive(Serialize)]
struct Row<'a> {
    user: &'a str,
    /// From 1.
    rank: usize,
    item: &'a str,
    score: f32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum ListFormat {
    Table { separator: u8 },
    JsonLines,
}

impl ListFormat {
    fn of_file(path: &Path) -> Result<ListFormat> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => Ok(ListFormat::Table { separator: b',' }),
            Some("tsv") => Ok(ListFormat::Table { separator: b'\t' }),
            Some("jsonl") => Ok(ListFormat::JsonLines),
            _ => {
                let problem = format!("the name of {} does not say in which format to write", path.display());
                Err(Error::usage(problem, "give --output a name that ends in .csv, .tsv or .jsonl"))
            }
        }
    }
}

/// Rows on their way into a file.
enum Rows<W: Write> {
    Table(Box<csv::Writer<W>>),
    JsonLines(W),
}

impl<W: Write> Rows<W> {
    fn new(format: ListFormat, out: W) -> Self {
        match format {
            ListFormat::Table { separator } => {
                Rows::Table(Box::new(csv::WriterBuilder::new().delimiter(separator).from_writer(out)))
            }
            ListFormat::JsonLines => Rows::JsonLines(out),
        }
    }

    fn write(&mut self, row: &Row) -> std::io::Result<()> {
        match self {
            Rows::Table(out) => Ok(out.serialize(row)?),
            Rows::JsonLines(out) => {
                serde_json::to_writer(&mut *out, row)?;
                out.write_all(b"\n")
            }
        }
    }

    fn finish(self) -> std::io::Result<()> {
        match self {
            Rows::Table(mut out) => out.flush(),
            Rows::JsonLines(mut out) => out.flush(),
        }
    }
}
