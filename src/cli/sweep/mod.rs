//! `gpurec sweep`: every variant and grid point of a file, each with its seeds, into one folder and one table.
//!
//! The folder holds `CELL/seedN` (runs), `CELL/seeds.json`, `table.md`, `table.csv`, `figure.svg` and `epochs.svg`. The same
//! command again goes on where the last one stopped.

mod cells;
mod figures;
mod table;

use super::DeviceArgs;
use super::console::{say, table as console_table};
use super::results::{PublishedRows, published_rows};
use super::run::RunArgs;
use super::seeds::SeedRuns;
use super::source::SourceArgs;
use super::training::{read_data, resolve_config};
use crate::error::{Error, Result};
use crate::train::Run;
use cells::{Cell, SweepFile};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  gpurec sweep --config docs/sweeps/lma4rec-ablation.toml
  gpurec sweep --config docs/sweeps/lma4rec-ablation.toml --dry-run
  gpurec sweep --config docs/sweeps/lma4rec-lambda.toml --dataset kuairec --set epochs=2 --out runs/try

The file, with `gpurec methods NAME` for its keys:
  method = \"lma4rec\"
  dataset = \"kuairec\"
  seeds = 3                        # optional
  [set]                            # optional: shared by all cells
  mode = \"paper\"
  [grid]                           # every combination
  ssl_weight = [0.0, 0.1]
  [[variant]]                      # with or without a grid
  name = \"without_lma\"
  set = { lma = false }
  [[variant]]
  name = \"longer\"
  start_from = \"without_lma\"       # optional: with the parameters that this variant learned
  set = { epochs = 10 }            # with 0 they are evaluated with other settings, and not trained

The same command again continues, with or without --resume: finished cells stay, the interrupted one goes on.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct SweepArgs {
    /// The TOML file of the sweep
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Name or path of a data set, in place of the file's
    #[arg(long, value_name = "NAME|PATH")]
    dataset: Option<String>,

    /// Set one key in all cells, over the file; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    assignments: Vec<String>,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    device: DeviceArgs,

    /// The folder of the sweep; runs/FILE when not given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// A sweep always goes on where it stopped; accepted as in `gpurec run`
    #[arg(long = "resume")]
    _resume: bool,

    /// List the cells and how far they are, and stop
    #[arg(long)]
    dry_run: bool,

    /// Print the final table only
    #[arg(long, short)]
    quiet: bool,
}

pub fn sweep(args: &SweepArgs) -> Result<()> {
    let file = SweepFile::read(&args.config)?;
    let cells = file.cells()?;
    let out =
        args.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(args.config.file_stem().unwrap_or_default()));
    let arguments: Vec<RunArgs> = cells.iter().map(|cell| run_args(args, &file, cell, &out)).collect();
    // Whatever is wrong with any cell is said before the first one trains.
    for (cell, run) in cells.iter().zip(&arguments) {
        resolve_config(run, None).map_err(|error| in_cell(cell, error))?;
    }
    let data = read_data(&arguments[0])?;
    let set_up = |cell: &Cell, run: &RunArgs| {
        let runs = SeedRuns::set_up(run, u64::from(file.seeds), data.clone(), &out.join(&cell.name));
        runs.map_err(|error| in_cell(cell, error))
    };
    // But for cells that need what another one learns.
    let mut known: Vec<Option<SeedRuns>> = Vec::new();
    for (cell, run) in cells.iter().zip(&arguments) {
        let start = cell.start_from.as_ref().and_then(|start| cells.iter().position(|cell| cell.name == *start));
        let ready = start.is_none_or(|start| known[start].as_ref().is_some_and(SeedRuns::all_finished));
        known.push(ready.then(|| set_up(cell, run)).transpose()?);
    }
    if args.dry_run {
        return say(plan(&cells, &known, file.seeds));
    }
    let published = published_of(&known);
    let mut rows = Vec::new();
    for (number, ((cell, run), known)) in cells.iter().zip(&arguments).zip(known).enumerate() {
        let runs = known.map_or_else(|| set_up(cell, run), Ok)?;
        let results = runs.train(&format!("cell {} of {}: {}, ", number + 1, cells.len(), cell.name))?;
        rows.push((cell, results));
        table::write(&out, &rows, &published)?;
        figures::write(&out, &rows, &file.axis(), &runs.first().method().training().select_by)?;
    }
    if !args.quiet {
        say(format!("\neverything is in {}", out.display()))?;
    }
    say(table::text(&rows, &published))
}

/// The `gpurec run` that trains a cell.
fn run_args(args: &SweepArgs, file: &SweepFile, cell: &Cell, out: &Path) -> RunArgs {
    RunArgs {
        method: cell.method.clone(),
        dataset: args.dataset.clone().unwrap_or_else(|| file.dataset.clone()),
        config: None,
        assignments: cell.assignments().into_iter().chain(args.assignments.iter().cloned()).collect(),
        source: args.source.clone(),
        stages_on: Vec::new(),
        device: args.device.clone(),
        seed: 1,
        seeds: None,
        epochs: None,
        out: None,
        start_from: cell.start_from.as_ref().map(|start| out.join(start)),
        teachers: Vec::new(),
        resume: false,
        quiet: args.quiet,
        plan: false,
        profile: false,
    }
}

/// What was published of the cells' methods.
fn published_of(known: &[Option<SeedRuns>]) -> PublishedRows {
    let mut rows = PublishedRows::default();
    for Run { info, options, data, .. } in known.iter().flatten().map(SeedRuns::first) {
        rows.add(info.title, published_rows(&options.method, &options.config, &data.name, data.rule()));
    }
    rows
}

fn in_cell(cell: &Cell, error: Error) -> Error {
    Error::usage(format!("cell {}: {error}", cell.name), error.help().unwrap_or_default())
}

/// The cells, what they set, and how far they are.
fn plan(cells: &[Cell], known: &[Option<SeedRuns>], seeds: u16) -> String {
    let rows = cells.iter().zip(known).enumerate().map(|(number, (cell, runs))| {
        let finished = format!("{} of {seeds}", runs.as_ref().map_or(0, SeedRuns::finished));
        let start = cell.start_from.iter().map(|start| format!("start_from={start}"));
        let settings = start.chain([cell.settings()]).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(",");
        [(number + 1).to_string(), cell.name.clone(), cell.method.clone(), settings, finished]
    });
    console_table(&["", "cell", "method", "settings", "seeds finished"], rows, 4).to_string()
}
