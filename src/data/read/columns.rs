//! Which columns of a table hold what.

use std::path::Path;

use super::Place;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Columns by name, or by number from 1. What is not given is found by the usual names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Columns {
    /// `--user-col`
    #[serde(rename = "user_col", skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `--item-col`
    #[serde(rename = "item_col", skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// `--time-col`
    #[serde(rename = "time_col", skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// `--event-col`
    #[serde(rename = "event_col", skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The first line is data: columns have numbers only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_header: bool,
}

const USER: &[&str] =
    &["user", "user_id", "userid", "uid", "visitorid", "reviewerid", "session", "session_id", "sessionid"];
const ITEM: &[&str] =
    &["item", "item_id", "itemid", "iid", "asin", "parent_asin", "movieid", "movie_id", "product_id", "aid"];
const TIME: &[&str] =
    &["time", "timestamp", "timestamp_ms", "ts", "datetime", "date", "unixreviewtime", "position", "step"];
const EVENT: &[&str] = &["event", "event_type", "kind", "type", "action", "behavior"];

/// Places of the columns, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    pub user: usize,
    pub item: usize,
    pub time: Option<usize>,
    pub event: Option<usize>,
}

impl Columns {
    /// Finds the columns in a header; without one, `header` is the first line of data and only its length counts.
    pub fn find(&self, header: &[&str], origin: &Path) -> Result<Places> {
        let at = |role, asked: &Option<String>, usual| self.place(role, asked.as_deref(), usual, header, origin);
        let missing = |role: &str, flag: &str| {
            let problem = format!("no column of {role}s among: {}", header.join(", "));
            Place { path: origin, line: 1 }.error(1, problem, &format!("name it with --{flag}-col NAME, or by number"))
        };
        Ok(Places {
            user: at("user", &self.user, USER)?.ok_or_else(|| missing("user", "user"))?,
            item: at("item", &self.item, ITEM)?.ok_or_else(|| missing("item", "item"))?,
            time: at("time", &self.time, TIME)?,
            event: at("event", &self.event, EVENT)?,
        })
    }

    fn place(
        &self,
        role: &str,
        asked: Option<&str>,
        usual: &[&str],
        header: &[&str],
        origin: &Path,
    ) -> Result<Option<usize>> {
        // RecBole writes the type behind the name.
        let plain = |name: &&str| name.trim().split(':').next().unwrap_or_default().to_lowercase();
        let named =
            |name: &str| header.iter().position(|column| column.trim() == name || plain(column) == name.to_lowercase());
        let Some(asked) = asked else {
            return Ok(if self.no_header { None } else { usual.iter().find_map(|name| named(name)) });
        };
        let number = || asked.parse::<usize>().ok().filter(|n| (1..=header.len()).contains(n)).map(|n| n - 1);
        let found = if self.no_header { number() } else { named(asked).or_else(number) };
        match found {
            Some(place) => Ok(Some(place)),
            None if self.no_header => Err(Error::usage(
                format!("--{role}-col {asked} is no column of {}, which has {}", origin.display(), header.len()),
                "with --no-header columns are given by number, from 1",
            )),
            None => Err(Error::unknown(&format!("column of {}", origin.display()), asked, header)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(columns: &Columns, header: &[&str]) -> Result<Places> {
        columns.find(header, Path::new("t.csv"))
    }

    #[test]
    fn usual_names_are_found_whatever_their_case_and_type() {
        let places =
            find(&Columns::default(), &["Timestamp:float", "item_id:token", "rating", "USER_ID:token"]).unwrap();
        assert_eq!(places, Places { user: 3, item: 1, time: Some(0), event: None });
    }

    #[test]
    fn columns_are_named_or_numbered_and_a_wrong_one_is_answered_with_those_there_are() {
        let named = |user: &str| Columns { user: Some(user.into()), ..Columns::default() };
        assert_eq!(find(&named("who"), &["who", "item"]).unwrap().user, 0);
        assert_eq!(find(&named("2"), &["item", "x"]).unwrap().user, 1);
        assert!(find(&named("whoo"), &["who", "item"]).unwrap_err().help().unwrap().contains("`who`"));
        assert!(find(&named("3"), &["who", "item"]).is_err() && find(&named("0"), &["who", "item"]).is_err());
        let error = find(&Columns::default(), &["who", "what"]).unwrap_err();
        assert_eq!(error.to_string(), "t.csv:1:1: no column of users among: who, what");
        let bare = Columns { no_header: true, ..Columns::default() };
        assert!(find(&bare, &["user", "item"]).is_err(), "without a header nothing has a name");
        let numbered = Columns { user: Some("2".into()), item: Some("1".into()), ..bare };
        assert_eq!(find(&numbered, &["7", "8"]).unwrap(), Places { user: 1, item: 0, time: None, event: None });
    }
}
