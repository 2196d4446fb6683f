//! `gpurec recommend`: the best items for one history, by the user's own item names.

use super::DeviceArgs;
use super::console::{grouped, say, table};
use crate::error::{Error, Result};
use crate::ops::linear_topk::MAX_K;
use crate::train::Trained;
use serde::Serialize;
use std::collections::HashMap;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  gpurec recommend --checkpoint runs/lma4rec-kuairec-seed1 --history 3,17,29
  gpurec recommend --checkpoint runs/lma4rec-kuairec-seed1 --history 3,17,29 --top-k 5 --json";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RecommendArgs {
    /// The folder of a run, or a checkpoint file
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,

    /// The items someone met, oldest first, by the names they have in the data set
    #[arg(long, value_name = "ITEM,ITEM,...", value_delimiter = ',', required = true)]
    history: Vec<String>,

    /// How many items to recommend, up to 256; those of the history are left out
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=MAX_K as i64))]
    top_k: u16,

    /// Print [{"item": ..., "score": ...}, ...] for other programs
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Serialize)]
struct Recommendation<'a> {
    item: &'a str,
    score: f32,
}

pub fn recommend(args: &RecommendArgs) -> Result<()> {
    let trained = Trained::open(&args.checkpoint)?;
    let history = indices(&args.history, &trained.items)?;
    let mut executor = args.device.open()?;
    let mut ranker = trained.ranker(executor.as_mut())?;
    let k = usize::from(args.top_k).min(trained.items.len());
    let best = ranker.top_k(executor.as_mut(), &history, k)?;
    let best: Vec<Recommendation> =
        best.iter().map(|&(item, score)| Recommendation { item: &trained.items[item as usize], score }).collect();
    if args.json {
        return say(serde_json::to_string(&best).expect("numbers and strings serialise"));
    }
    let rows = (1..).zip(&best).map(|(place, r)| [format!("{place}"), r.item.to_string(), format!("{:.4}", r.score)]);
    say(table(&["", "item", "score"], rows, 0))
}

/// The model's indices of items by name.
fn indices(names: &[String], items: &[String]) -> Result<Vec<u32>> {
    let index_of: HashMap<&str, u32> = items.iter().map(String::as_str).zip(0..).collect();
    let index = |name: &String| index_of.get(name.trim()).copied().ok_or_else(|| unknown_item(name.trim(), items));
    names.iter().map(index).collect()
}

fn unknown_item(name: &str, items: &[String]) -> Error {
    let mut nearest: Vec<&String> = items.iter().collect();
    nearest.sort_by_cached_key(|item| (strsim::levenshtein(name, item), item.len(), item.to_string()));
    let nearest: Vec<&str> = nearest.into_iter().take(3).map(String::as_str).collect();
    let help = format!(
        "write items as in the data set, separated by commas; this model knows {} items, the nearest are {}",
        grouped(items.len()),
        nearest.join(", ")
    );
    Error::usage(format!("the model was trained on no item `{name}`"), help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_item_is_answered_with_the_nearest_names() {
        let items: Vec<String> = ["3", "17", "29", "2900"].map(String::from).into();
        assert_eq!(indices(&["29".into(), " 3".into()], &items).unwrap(), [2, 0]);
        let error = indices(&["290".into()], &items).unwrap_err();
        assert_eq!(error.to_string(), "the model was trained on no item `290`");
        assert!(error.help().unwrap().ends_with("4 items, the nearest are 29, 2900, 3"), "{:?}", error.help());
    }
}
