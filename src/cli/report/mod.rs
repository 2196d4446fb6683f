//! Reports: `report.html` of a run, and `gpurec report`, which puts several runs into one table.

mod curves;
mod entry;
mod page;
pub mod run;
mod table;

use super::console::say;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  gpurec report runs                                                every run below, a table for each data set
  gpurec report runs/lma4rec-kuairec-seeds1-5 runs/pop-kuairec-seed1
  gpurec report runs/ablation --format html --out ablation.html     the cells of a sweep
  gpurec report runs --format csv --out runs.csv

A folder of several seeds (`gpurec run --seeds`, a cell of `gpurec sweep`) is one row: mean ± standard deviation. Runs that are not \
finished are left out, and named on stderr.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ReportArgs {
    /// Folders of finished runs, of several seeds, of sweeps, or that hold such folders
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,

    /// How to write the table
    #[arg(long, default_value = "markdown", value_name = "FORMAT")]
    format: Format,

    /// Write to this file, not to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Markdown,
    Html,
    Csv,
}

/// `gpurec report`.
pub fn report(args: &ReportArgs) -> Result<()> {
    let groups = table::grouped(entry::read(&args.runs)?);
    let text = match args.format {
        Format::Markdown => table::markdown(&groups),
        Format::Html => table::html(&groups),
        Format::Csv => table::csv(&groups),
    };
    match &args.out {
        Some(file) => write_atomically(file, text.as_bytes()),
        None => say(text.trim_end()),
    }
}

/// When a run was finished: the time of its `result.json`, in UTC.
fn finished_at(run: &Path) -> Result<String> {
    let path = run.join("result.json");
    let time = path.metadata().and_then(|meta| meta.modified()).map_err(|e| Error::io("read", &path, e))?;
    Ok(jiff::Timestamp::try_from(time)
        .map_or("not known".into(), |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string()))
}
