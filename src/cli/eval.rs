//! `gpurec eval`: ranks the held-out items of a data set with a trained model.

use super::DeviceArgs;
use super::console::{say, shell_command};
use super::results::{Results, published_rows};
use super::source::SourceArgs;
use crate::data::{Interactions, resolve};
use crate::error::{Error, Result};
use crate::train::{Basis, DataIdentity, Trained};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  gpurec eval --checkpoint runs/lma4rec-kuairec-seed1
  gpurec eval --checkpoint runs/mine --dataset newer_sequences.txt --device cpu
  gpurec eval --checkpoint runs/mine --ranks runs/mine/ranks.safetensors";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct EvalArgs {
    /// The folder of a run, or a checkpoint file
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,

    /// Name or path of a data set with the items that the model was trained on; the run's own when not given
    #[arg(long, value_name = "NAME|PATH")]
    dataset: Option<String>,

    /// Write the rank of each user's held-out items, for `gpurec compare` or Python's safetensors
    #[arg(long, value_name = "FILE")]
    ranks: Option<PathBuf>,

    /// Change a setting that inference reads, such as samples=20 of diffrec; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    device: DeviceArgs,
}

/// The command that evaluates a run, and writes the ranks of its users where wanted.
pub fn eval_command(run: &Path, ranks: Option<&Path>) -> String {
    let mut words = vec!["gpurec".into(), "eval".into(), "--checkpoint".into(), run.to_string_lossy()];
    words.extend(ranks.into_iter().flat_map(|ranks| ["--ranks".into(), ranks.to_string_lossy()]));
    shell_command(words.iter().map(|word| &**word))
}

pub fn eval(args: &EvalArgs) -> Result<()> {
    let trained = Trained::open_with(&args.checkpoint, &args.settings)?;
    let data = match &args.dataset {
        Some(dataset) => resolve(dataset, &args.source.options()?)?,
        None => resolve(&trained.identity.data.dataset, &trained.identity.data.source).map_err(|error| {
            let problem = format!("the data set of this run cannot be read: {error}");
            Error::usage(problem, "give its name or path with --dataset")
        })?,
    };
    same_items(&trained, &data)?;
    let identity = DataIdentity::new(&trained.identity.data.dataset, &trained.identity.data.source, &data);
    same_users(&trained, &identity)?;
    let mut executor = args.device.open()?;
    let lists = data.lists.as_ref().filter(|_| trained.method.list_model().is_some());
    let statistics = lists.map_or_else(|| data.statistics().to_string(), |lists| lists.to_string());
    say(format!("method  {}\ndata    {}: {statistics}", trained.identity.method, data.name))?;
    say(format!("device  {}\n", executor.describe()))?;
    if args.ranks.is_some() && trained.method.list_model().is_some() {
        let problem = format!("{} scores impressions of lists, and ranks no items", trained.identity.method);
        return Err(Error::usage(problem, "leave --ranks away; the run's folder has scores.safetensors"));
    }
    let evaluation = trained.evaluator(executor.as_mut())?.evaluate(executor.as_mut(), &data)?;
    if let (Some(file), Basis::Ranks(ranks)) = (&args.ranks, &evaluation.basis) {
        ranks.write(file, &identity)?;
    }
    let published = published_rows(&trained.identity.method, &trained.identity.config, &data.name, data.rule());
    say(Results::of_evaluation(&evaluation, &data, published).text())
}

/// A model that learned about each user can rank for those users only.
fn same_users(trained: &Trained, data: &DataIdentity) -> Result<()> {
    let theirs = &trained.identity.data;
    if !trained.method.needs_user() || data.user_names == theirs.user_names {
        return Ok(());
    }
    let problem = format!(
        "{} was trained on the {} users of {}, and knows no others",
        trained.identity.method, theirs.users, theirs.dataset
    );
    Err(Error::usage(problem, "evaluate it on that data set, unchanged, or train a method that reads histories"))
}

/// The item table of a model has a row for each item it was trained on, in the order of their ids.
fn same_items(trained: &Trained, data: &Interactions) -> Result<()> {
    if trained.items == data.items {
        return Ok(());
    }
    let missing = |from: &[String], of: &[String]| {
        let held: std::collections::HashSet<&String> = from.iter().collect();
        of.iter().find(|item| !held.contains(item)).map_or("none".into(), |item| format!("`{item}`"))
    };
    let problem = format!(
        "{} has {} items, the model was trained with {}; first item unknown to the model: {}, to the data set: {}",
        data.name,
        data.n_items(),
        trained.items.len(),
        missing(&trained.items, &data.items),
        missing(&data.items, &trained.items),
    );
    Err(Error::usage(
        problem,
        format!(
            "evaluate on data with the same items, such as {}, or train a model on this data",
            trained.identity.data.dataset
        ),
    ))
}
