//! Which columns of a table mean what in a log of lists: a small TOML file.
//!
//! ```toml
//! user = "user"                 # whose list it is; a list has a user of its own where it is left out
//! time = "timestamp"            # lists come in this order; in that of the file where it is left out
//! list = ["session", "items"]   # rows that agree in these are one list, and their clicks add up; else a row is a list
//! items = "items"               # the items shown, top first
//! clicked = "clicked_item"      # which of them were clicked; or flags = "COLUMN", a 0 or 1 for each
//! separator = "|"               # between the values of a column that holds several
//! length = 10                   # positions that count: longer lists are cut, shorter ones left out
//! split = [0.63, 0.07, 0.3]     # shares of the lists that train, validate and test, one after the other
//!
//! [[fields]]
//! name = "price"
//! of = "item"                   # user, item or context
//! column = "prices"
//! each = true                   # a value for each item shown; else one for the list
//! buckets = "log2"
//! ```
//!
//! Where a row is one impression (`impression = true`), `items`, `clicked` and fields of items hold one value, rows of a list
//! follow one another, and `flags` holds a 0 or 1. Lists may then be cut where the user, one of the columns of `list`, or
//! more than `gap` seconds separate two rows.

use crate::error::{Error, Result};
use crate::files::{read_toml, toml_of};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a log of lists is read by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    /// The column of the user.
    pub user: Option<String>,
    /// The column of the time.
    pub time: Option<String>,
    /// Columns that tell lists apart.
    #[serde(default)]
    pub list: Vec<String>,
    /// Whether a row is one item of a list.
    #[serde(default)]
    pub impression: bool,
    /// Seconds between two impressions that end a list.
    pub gap: Option<f64>,
    /// The column of the items shown.
    pub items: String,
    /// The column of the items clicked.
    pub clicked: Option<String>,
    /// The column that says of each item whether it was clicked.
    pub flags: Option<String>,
    /// Between columns, where it is not what the file's name says.
    pub delimiter: Option<char>,
    /// Between values of a column that holds several.
    #[serde(default = "bar")]
    pub separator: String,
    /// Positions of a list.
    #[serde(default = "ten")]
    pub length: usize,
    /// Shares of the lists: training, validation, test.
    #[serde(default = "seven_to_three")]
    pub split: [f64; 3],
    /// What is known of an impression.
    pub fields: Vec<FieldSchema>,
}

fn bar() -> String {
    "|".into()
}

fn ten() -> usize {
    10
}

/// The last tenth of the training part validates.
fn seven_to_three() -> [f64; 3] {
    [0.63, 0.07, 0.3]
}

/// Whose property a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// The user's.
    User,
    /// The item's.
    Item,
    /// That of the moment, the list, or the position in it.
    Context,
}

/// What a field is made of, in place of a column as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Derived {
    /// The place in the list.
    Position,
    /// Clicks further up in the list.
    ClicksBefore,
    /// Hour of the day of the list's time, in UTC.
    Hour,
    /// The place of the item's value among those of the list, smallest first.
    Rank,
    /// Whether the item's value is below all values further up.
    LowestSoFar,
    /// Items further up that share a value with this one.
    SeenBefore,
}

/// How numbers become categories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Buckets {
    /// `round(log2(1 + x))`.
    Log2,
    /// `round(x)`.
    Round,
}

/// One field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldSchema {
    /// Of tables and messages.
    pub name: String,
    /// Whose property it is.
    pub of: Group,
    /// Where its values are.
    pub column: Option<String>,
    /// Whether the column has a value for each item of a list.
    #[serde(default)]
    pub each: bool,
    /// What is made of them.
    pub derive: Option<Derived>,
    /// Between the values of a bag.
    pub separator: Option<String>,
    /// For numbers.
    pub buckets: Option<Buckets>,
    /// Rows that values are hashed to; else each value that training has often enough has its own.
    pub hashed: Option<u32>,
    /// How often that is.
    #[serde(default = "one")]
    pub at_least: u32,
}

fn one() -> u32 {
    1
}

/// Schemas that come with the program, by the names of the data sets.
const SHIPPED: &[(&str, &str)] = &[
    ("trivago2019_lists", include_str!("trivago2019_lists.toml")),
    ("yandex_serp10", include_str!("yandex_serp10.toml")),
    ("kuairand", include_str!("kuairand.toml")),
    ("rl4rs", include_str!("rl4rs.toml")),
];

impl Schema {
    /// The shipped one of a data set.
    pub fn shipped(name: &str) -> Option<Schema> {
        let (name, text) = SHIPPED.iter().find(|(known, _)| *known == name)?;
        Some(toml_of(text, Path::new(name)).expect("shipped schemas are well formed"))
    }

    /// From a file.
    pub fn read(path: &Path) -> Result<Schema> {
        let schema: Schema = read_toml(path)?;
        schema.checked(path)
    }

    /// Refuses what cannot be read.
    pub fn checked(self, path: &Path) -> Result<Schema> {
        let refuse = |problem: String, help: &str| Err(Error::usage(format!("{}: {problem}", path.display()), help));
        if self.clicked.is_some() == self.flags.is_some() {
            return refuse("says nothing of clicks, or twice".into(), "give `clicked` or `flags`");
        }
        if self.length < 2 {
            return refuse("has a length below 2".into(), "a list has at least two positions, ten in the paper");
        }
        if self.split.iter().any(|share| *share <= 0.0) || (self.split.iter().sum::<f64>() - 1.0).abs() > 1e-6 {
            let problem = "has shares of the split that are not positive or do not add up to 1".to_string();
            return refuse(problem, "for example split = [0.63, 0.07, 0.3]");
        }
        if self.impression && self.list.is_empty() && self.user.is_none() {
            return refuse("has impressions that nothing joins to lists".into(), "give `list`, `user` or both");
        }
        for group in [Group::User, Group::Item, Group::Context] {
            if !self.fields.iter().any(|field| field.of == group) {
                let problem = format!("has no field of the {}", format!("{group:?}").to_lowercase());
                return refuse(problem, "there must be at least one of user, item and context each");
            }
        }
        for (number, field) in self.fields.iter().enumerate() {
            use Derived::*;
            let name = &field.name;
            if self.fields[..number].iter().any(|other| other.name == *name) {
                return refuse(format!("has two fields `{name}`"), "give each its own name");
            }
            let wants_column = !matches!(field.derive, Some(Position | ClicksBefore | Hour));
            if wants_column != field.column.is_some() {
                let problem = if wants_column { "needs a column" } else { "is made of no column" };
                return refuse(format!("the field `{name}` {problem}"), "see `derive` and `column`");
            }
            if matches!(field.derive, Some(Rank | LowestSoFar | SeenBefore)) && !(field.each || self.impression) {
                return refuse(format!("the field `{name}` compares items"), "its column must have `each = true`");
            }
            if field.derive == Some(Hour) && self.time.is_none() {
                return refuse(format!("the field `{name}` is of the time"), "give `time`");
            }
        }
        Ok(self)
    }
}
