//! Histories of many users from a file, by the items of a trained model.

use super::console::{grouped, note};
use super::source::SourceArgs;
use crate::data::read_log;
use crate::error::{Error, Result};
use crate::train::Request;
use std::collections::HashMap;
use std::path::Path;

/// Names in a message about many of them.
const SHOWN: usize = 5;

/// Users in the order of the file, each with at least one item that the model knows.
#[derive(Debug, PartialEq)]
pub struct Histories {
    pub users: Vec<String>,
    /// Item indices of the model, oldest first.
    items: Vec<Vec<u32>>,
    skipped: Skipped,
}

/// What a file holds and the model cannot use.
#[derive(Debug, Default, PartialEq)]
struct Skipped {
    events: usize,
    items: usize,
    /// Users without any item that the model knows.
    users: Vec<String>,
}

impl Histories {
    /// Reads every event as history. Items unknown to the model are refused, or left out with `skip_unknown`.
    pub fn read(path: &Path, source: &SourceArgs, model_items: &[String], skip_unknown: bool) -> Result<Histories> {
        let options = source.options()?;
        if let Some(split) = &options.split {
            let problem = format!("--split {split} has nothing to split in {}", path.display());
            return Err(Error::usage(problem, "leave it out: every event of the file is history"));
        }
        let log = read_log(path, &options)?;
        let index_of = indices_by_name(model_items);
        let known: Vec<Option<u32>> = log.items.iter().map(|item| index_of.get(&**item).copied()).collect();
        let is_unknown = |row: &usize| known[log.item[*row] as usize].is_none();
        let unknown = (0..log.len()).filter(is_unknown).count();
        if let (Some(first), false) = ((0..log.len()).find(is_unknown), skip_unknown) {
            let (item, user) = (&log.items[log.item[first] as usize], &log.users[log.user[first] as usize]);
            let place = format!("user `{user}` of {} has it", path.display());
            let help = format!("{}; --skip-unknown leaves such items out", nearest_items(item, model_items));
            return Err(Error::usage(format!("the model was trained on no item `{item}`: {place}"), help));
        }
        let unknown_items = known.iter().filter(|index| index.is_none()).count();
        let skipped = Skipped { events: unknown, items: unknown_items, users: Vec::new() };
        let mut histories = Histories { users: Vec::new(), items: Vec::new(), skipped };
        let (rows, offsets) = log.by_user_and_time();
        for (user, ends) in log.users.iter().zip(offsets.windows(2)) {
            let own = rows[ends[0]..ends[1]].iter().filter_map(|&row| known[log.item[row as usize] as usize]);
            let own: Vec<u32> = own.collect();
            if own.is_empty() {
                histories.skipped.users.push(user.to_string());
            } else {
                histories.users.push(user.to_string());
                histories.items.push(own);
            }
        }
        if histories.users.is_empty() {
            let problem = format!("the model knows no item of {}", path.display());
            return Err(Error::usage(problem, nearest_items(&log.items[0], model_items)));
        }
        Ok(histories)
    }

    pub fn requests(&self) -> Vec<Request<'_>> {
        self.items.iter().map(|history| Request::new(history)).collect()
    }

    /// Says on stderr what was left out, and who therefore gets no `what`: list or query.
    pub fn report_skipped(&self, what: &str) {
        let Skipped { events, items, users } = &self.skipped;
        if *events > 0 {
            note(format!(
                "left out: {} events with {} items that the model does not know",
                grouped(*events),
                grouped(*items)
            ));
        }
        if !users.is_empty() {
            let more = if users.len() > SHOWN { ", ..." } else { "" };
            let shown = users[..users.len().min(SHOWN)].join(", ");
            note(format!(
                "no {what} for {} users, of whose items the model knows none: {shown}{more}",
                grouped(users.len())
            ));
        }
    }
}

/// The model's indices of items by name.
pub fn indices(names: &[String], items: &[String]) -> Result<Vec<u32>> {
    let index_of = indices_by_name(items);
    let index = |name: &str| {
        let unknown = || Error::usage(format!("the model was trained on no item `{name}`"), nearest_items(name, items));
        index_of.get(name).copied().ok_or_else(unknown)
    };
    names.iter().map(|name| index(name.trim())).collect()
}

fn indices_by_name(items: &[String]) -> HashMap<&str, u32> {
    items.iter().map(String::as_str).zip(0..).collect()
}

fn nearest_items(name: &str, items: &[String]) -> String {
    let mut nearest: Vec<&String> = items.iter().collect();
    nearest.sort_by_cached_key(|item| (strsim::levenshtein(name, item), item.len(), item.to_string()));
    let nearest: Vec<&str> = nearest.into_iter().take(3).map(String::as_str).collect();
    format!(
        "write items as in the data set; this model knows {} items, the nearest are {}",
        grouped(items.len()),
        nearest.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<String> {
        ["3", "17", "29", "2900"].map(String::from).into()
    }

    #[test]
    fn an_unknown_item_is_answered_with_the_nearest_names() {
        assert_eq!(indices(&["29".into(), " 3".into()], &items()).unwrap(), [2, 0]);
        let error = indices(&["290".into()], &items()).unwrap_err();
        assert_eq!(error.to_string(), "the model was trained on no item `290`");
        assert!(error.help().unwrap().ends_with("4 items, the nearest are 29, 2900, 3"), "{:?}", error.help());
    }

    #[test]
    fn unknown_items_are_refused_with_their_user_or_left_out_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.csv");
        std::fs::write(&path, "user,item,time\nann,29,2\nbob,cup,1\nann,290,3\nann,3,1\nbob,pot,2\n").unwrap();
        let read = |skip| Histories::read(&path, &SourceArgs::default(), &items(), skip);
        let error = read(false).unwrap_err();
        assert!(error.to_string().contains("no item `cup`: user `bob` of "), "{error}");
        assert!(error.help().unwrap().contains("--skip-unknown"));
        let skipped = Skipped { events: 3, items: 3, users: vec!["bob".into()] };
        let expected = Histories { users: vec!["ann".into()], items: vec![vec![0, 2]], skipped };
        assert_eq!(read(true).unwrap(), expected);
    }
}
