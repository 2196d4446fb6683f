//! `gpurec eval`: ranks the held-out items of a data set with a trained model.

use super::DeviceArgs;
use super::console::{bar, note, say, shell_command};
use super::results::{Results, published_rows};
use super::source::SourceArgs;
use crate::data::lists::Lists;
use crate::data::{Interactions, resolve};
use crate::error::{Error, Result};
use crate::train::{Basis, DataIdentity, Trained, UserRanks};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXAMPLES: &str = "\
Examples:
  gpurec eval --checkpoint runs/lma4rec-kuairec-seed1
  gpurec eval --checkpoint runs/mine --split ratio:0.8,0.1,0.1
  gpurec eval --checkpoint runs/mine --dataset newer_sequences.txt --device cpu
  gpurec eval --checkpoint runs/mine --ranks runs/mine/ranks.safetensors";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct EvalArgs {
    /// The folder of a run, or a checkpoint file
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,

    /// Name or path of a data set whose items the model knows; the run's own when not given, read as it was but for the
    /// options below
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
    if args.ranks.is_some() && trained.method.list_model().is_some() {
        let problem = format!("{} scores impressions of lists, and ranks no items", trained.identity.method);
        return Err(Error::usage(problem, "leave --ranks away; the run's folder has scores.safetensors"));
    }
    let theirs = &trained.identity.data;
    let (dataset, source) = match &args.dataset {
        Some(dataset) => (dataset, args.source.options()?),
        None => (&theirs.dataset, args.source.options_over(&theirs.source)?),
    };
    let data = resolve(dataset, &source).map_err(|error| match &args.dataset {
        Some(_) => error,
        None => {
            let problem = format!("the data set of this run cannot be read: {error}");
            Error::usage(problem, error.help().unwrap_or_default() + "; --dataset gives its name or path")
        }
    })?;
    let rule = data.rule().drawn(trained.identity.seed);
    let data = by_items_of(&trained, data.with_split(rule)?)?;
    let identity = DataIdentity::new(dataset, &source, &data);
    same_users(&trained, &identity)?;
    if lists_of(&trained, &data).is_some() && identity.lists != theirs.lists {
        let problem = format!("{} is another log of lists than {}, the model's own", data.name, theirs.dataset);
        let help = "a model of lists knows the values of its own log's fields by number, and those of no other log";
        return Err(Error::usage(problem, help));
    }
    let mut executor = args.device.open()?;
    let lists = lists_of(&trained, &data);
    let statistics = lists.map_or_else(|| data.statistics().to_string(), |lists| lists.to_string());
    say(format!("method  {}\ndata    {}: {statistics}", trained.identity.method, data.name))?;
    say(format!("device  {}\n", executor.describe()))?;
    if identity.training_events != theirs.training_events {
        note(format!(
            "warning: the model was trained on other events than the training part of {}, or on its users in another order; \
             if the events are others, test items may have been among them",
            data.name
        ));
    }
    let mut evaluator = trained.evaluator(executor.as_mut())?;
    let runs = evaluator.runs(data.valid().count()) + evaluator.runs(data.test().count());
    let bar = bar(runs, "{bar:20} {percent:>3}%  {eta} left", false);
    let watched = bar.clone();
    evaluator.watch(Box::new(move || {
        watched.inc(1);
        Ok(())
    }));
    let evaluation = evaluator.evaluate(executor.as_mut(), &data)?;
    bar.finish_and_clear();
    if let (Some(file), Basis::Ranks(ranks)) = (&args.ranks, &evaluation.basis) {
        if *file == UserRanks::path(&args.checkpoint) && identity.difference(theirs).is_some() {
            let problem = format!("{} has the ranks that the run's own report is made of", file.display());
            return Err(Error::usage(problem, "these are of other data or another split: give --ranks another file"));
        }
        ranks.write(file, &identity)?;
    }
    let published = published_rows(&trained.identity.method, &trained.identity.config, &data.name, data.rule());
    say(Results::of_evaluation(&evaluation, &data, published).text())
}

/// What is scored, if the model scores lists.
fn lists_of<'d>(trained: &Trained, data: &'d Interactions) -> Option<&'d Arc<Lists>> {
    data.lists.as_ref().filter(|_| trained.method.list_model().is_some())
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

/// The data by the model's indices of items: its item table has a row for each item it was trained on, in their order.
fn by_items_of(trained: &Trained, data: Interactions) -> Result<Interactions> {
    let help = format!(
        "evaluate on data with items that the model knows, such as {}, or train a model on this data",
        trained.identity.data.dataset
    );
    if data.lists.is_some() && data.items != trained.items {
        let problem =
            format!("the items of {}, a log of lists, are not those of the model, or in another order", data.name);
        return Err(Error::usage(problem, help));
    }
    let (name, n_items, known) = (data.name.clone(), data.n_items(), trained.items.len());
    data.over_items(&trained.items).map_err(|unknown| {
        let problem = format!(
            "{name} has {n_items} items, the model was trained with {known}; it does not know {} of them, such as `{}`",
            unknown.len(),
            unknown[0]
        );
        Error::usage(problem, help)
    })
}
