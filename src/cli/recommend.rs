//! `gpurec recommend`: the best items for one history or for a file of them, by the user's own item names.

use super::DeviceArgs;
use super::console::{bar, grouped, say, table};
use super::histories::{Histories, indices};
use super::source::SourceArgs;
use crate::error::{Error, Result};
use crate::files::WholeFile;
use crate::train::{MAX_K, MAX_SAMPLES, Request, Trained, USERS_PER_RUN};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  gpurec recommend --checkpoint runs/lma4rec-kuairec-seed1 --history 3,17,29
  gpurec recommend --checkpoint runs/lma4rec-kuairec-seed1 --history 3,17,29 --top-k 5 --json
  gpurec recommend --checkpoint runs/diffrec-kuairec-seed1 --history 3,17,29 --samples 20
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

    /// Where the lists of --input go: rows of user, rank, item, score (and samples), as .csv, .tsv or .jsonl
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

    /// Draw so many samples (diffrec), and say in how many of their lists each item is
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u16).range(2..=MAX_SAMPLES as i64))]
    samples: Option<u16>,

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
    /// With --samples: in how many of their lists it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    samples: Option<usize>,
}

pub fn recommend(args: &RecommendArgs) -> Result<()> {
    if let (Some(input), Some(output)) = (&args.input, &args.output) {
        return recommend_all(args, input, output);
    }
    let trained = args.trained()?;
    let history = indices(&args.history, &trained.items)?;
    let mut executor = args.device.open()?;
    let mut ranker = trained.ranker(executor.as_mut())?;
    let (requests, k) = ([Request::new(&history)], args.k(&trained));
    let best = ranker.top_k(executor.as_mut(), &requests, k, args.keep_history)?;
    let drawn = match args.samples {
        Some(_) => Some(Samples(ranker.sample_lists(executor.as_mut(), &requests, k, args.keep_history)?)),
        None => None,
    };
    let recommendation = |&(item, score): &(u32, f32)| Recommendation {
        item: &trained.items[item as usize],
        score,
        samples: drawn.as_ref().map(|drawn| drawn.with(item)),
    };
    let best: Vec<Recommendation> = best.iter().flatten().map(recommendation).collect();
    if args.json {
        return say(serde_json::to_string(&best).expect("numbers and strings serialise"));
    }
    let rows = (1..).zip(&best).map(|(place, r)| [format!("{place}"), r.item.to_string(), format!("{:.4}", r.score)]);
    let Some(drawn) = drawn else { return say(table(&["", "item", "score"], rows, 0)) };
    let lists = |r: &Recommendation| format!("{} of {}", r.samples.unwrap_or(0), drawn.0.len());
    let rows = rows.zip(&best).map(|([place, item, score], r)| [place, item, score, lists(r)]);
    say(format!("{}\n{}", table(&["", "item", "score", "lists"], rows, 0), drawn.diversity()))
}

/// The lists of single samples.
struct Samples(Vec<Vec<(u32, f32)>>);

impl Samples {
    /// How many of them have this item.
    fn with(&self, item: u32) -> usize {
        self.0.iter().filter(|list| list.iter().any(|(other, _)| *other == item)).count()
    }

    /// How much they differ, in words.
    fn diversity(&self) -> String {
        let all: BTreeSet<u32> = self.0.iter().flatten().map(|(item, _)| *item).collect();
        // Pairs of lists that share an item, over all items.
        let pairs = |n: usize| n * n.saturating_sub(1) / 2;
        let shared: usize = all.iter().map(|item| pairs(self.with(*item))).sum();
        let (lists, length) = (self.0.len(), self.0.first().map_or(0, Vec::len));
        let mean = shared as f64 / pairs(lists).max(1) as f64;
        format!("{lists} lists of {length} have {} different items; two of them share {mean:.1} on average", all.len())
    }
}

impl RecommendArgs {
    /// The model, with as many samples as are asked for.
    fn trained(&self) -> Result<Trained> {
        let Some(samples) = self.samples else { return Trained::open(&self.checkpoint) };
        let trained = Trained::open(&self.checkpoint)?;
        if !trained.identity.config.contains_key("samples") {
            let problem = format!("{} draws no samples: it has one list for a history", trained.identity.method);
            return Err(Error::usage(problem, "leave out --samples, or use a checkpoint of diffrec"));
        }
        Trained::open_with(&self.checkpoint, &[format!("samples={samples}")])
    }

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
    let trained = args.trained()?;
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
        let mut drawn = match args.samples {
            Some(_) => ranker.sample_lists(executor.as_mut(), requests, k, args.keep_history)?,
            None => Vec::new(),
        };
        for (user, list) in users.iter().zip(&lists) {
            let rest = drawn.split_off(drawn.len().min(usize::from(args.samples.unwrap_or(0))));
            let of_user = Samples(std::mem::replace(&mut drawn, rest));
            count += list.len();
            for (rank, &(number, score)) in (1..).zip(list) {
                let item = &trained.items[number as usize];
                let samples = args.samples.map(|_| of_user.with(number));
                rows.write(&Row { user, rank, item, score, samples }).map_err(failed)?;
            }
        }
        bar.inc(users.len() as u64);
    }
    bar.finish_and_clear();
    rows.finish().map_err(failed)?;
    file.finish()?;
    histories.report_skipped("list");
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
    /// With --samples: in how many of their lists it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    samples: Option<usize>,
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
