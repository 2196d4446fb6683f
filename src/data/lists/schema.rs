//! Which columns of a table mean what in a log of lists: a small TOML file.
//!
//! ```toml
//! user = "user"                 # whose list it is; a list has a user of its own where it is left out
//! time = "timestamp"            # lists come in this order; in that of the file where it is left out
//! time_unit = "s"               # what its numbers count, or "ms"; dates count seconds
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
//! follow one another, and `flags` holds a 0 or 1. Lists are then cut where the user, one of the columns of `list`, or more
//! than `gap` separates two rows.

use crate::data::read::dataset_name;
use crate::error::{Error, Result};
use crate::files::{TomlKind, read_toml, toml_of};
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
    /// What a number in it counts.
    #[serde(default)]
    pub time_unit: TimeUnit,
    /// Columns that tell lists apart.
    #[serde(default)]
    pub list: Vec<String>,
    /// Whether a row is one item of a list.
    #[serde(default)]
    pub impression: bool,
    /// Time between two impressions that ends a list, in the units of the column of the time: seconds where it holds dates.
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

/// What a number in the column of the time counts; dates count seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeUnit {
    /// Seconds.
    #[default]
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
}

impl TimeUnit {
    /// How many are a second.
    pub fn per_second(self) -> f64 {
        match self {
            TimeUnit::Seconds => 1.0,
            TimeUnit::Milliseconds => 1000.0,
        }
    }
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
    /// Hour of the day of the list's time, which counts from 1970 by `time_unit`, in UTC.
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

impl Buckets {
    /// The category of a number, a whole number; 0 has no sign.
    pub fn of(self, x: f64) -> f64 {
        match self {
            Buckets::Log2 => (1.0 + x.max(0.0)).log2().round(),
            Buckets::Round => x.round() + 0.0,
        }
    }
}

/// Rows that a field may be hashed to. Rows of the joint table are counted in 32 bits.
pub const MOST_HASHED: u32 = 10_000_000;

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

const KIND: TomlKind =
    TomlKind { doing: "read the schema", help: "docs/list-logs.md has the keys of a schema, and an example" };

impl Schema {
    /// The shipped one of a data set.
    pub fn shipped(name: &str) -> Option<Schema> {
        let (name, text) = SHIPPED.iter().find(|(known, _)| *known == name)?;
        Some(toml_of(text, Path::new(name), KIND).expect("shipped schemas are well formed"))
    }

    /// From a file.
    pub fn read(path: &Path) -> Result<Schema> {
        let schema: Schema = read_toml(path, KIND)?;
        schema.checked(path)
    }

    /// The one by which a file is read: the given one, which is a file or the name of a shipped one, or the shipped one of
    /// the name that the file has. `None` where it is no log of lists.
    pub fn of_file(path: &Path, given: Option<&Path>) -> Result<Option<Schema>> {
        match given {
            Some(given)
                if !given.exists()
                    && let Some(shipped) = given.to_str().and_then(Schema::shipped) =>
            {
                Ok(Some(shipped))
            }
            Some(given) => Schema::read(given).map(Some),
            None => Ok(Schema::shipped(&dataset_name(path))),
        }
    }

    /// Refuses what cannot be read, and what would mean nothing.
    pub fn checked(self, path: &Path) -> Result<Schema> {
        let refuse = |problem: &str, help: &str| Err(Error::usage(format!("{}: {problem}", path.display()), help));
        let adds_up = (self.split.iter().sum::<f64>() - 1.0).abs() <= 1e-6;
        let cuts = self.impression && self.time.is_some();
        let rules = [
            (
                self.clicked.is_some() == self.flags.is_some(),
                "says nothing of clicks, or twice",
                "give `clicked` or `flags`",
            ),
            (self.separator.is_empty(), "has an empty separator", "give what is between values, such as \"|\""),
            (self.length < 2, "has a length below 2", "a list has at least two positions, ten in the paper"),
            (
                !adds_up || self.split.iter().any(|share| *share <= 0.0),
                "has shares of the split that are not positive or do not add up to 1",
                "for example split = [0.63, 0.07, 0.3]",
            ),
            (
                self.impression && self.list.is_empty() && self.user.is_none(),
                "has impressions that nothing joins to lists",
                "give `list`, `user` or both",
            ),
            (
                self.gap.is_some() && !cuts,
                "has a gap, and no impressions with times",
                "`gap` wants `impression = true` and `time`",
            ),
            (
                self.gap.is_some_and(|gap| gap.is_nan() || gap < 0.0),
                "has a gap below 0",
                "give a length of time in the units of the column of the time",
            ),
        ];
        if let Some((_, problem, help)) = rules.into_iter().find(|(wrong, ..)| *wrong) {
            return refuse(problem, help);
        }
        for group in [Group::User, Group::Item, Group::Context] {
            if !self.fields.iter().any(|field| field.of == group) {
                let problem = format!("has no field of the {}", format!("{group:?}").to_lowercase());
                return refuse(&problem, "there must be at least one of user, item and context each");
            }
        }
        for (number, field) in self.fields.iter().enumerate() {
            let name = &field.name;
            if self.fields[..number].iter().any(|other| other.name == *name) {
                return refuse(&format!("has two fields `{name}`"), "give each its own name");
            }
            if let Some((problem, help)) = field.problem(&self) {
                return refuse(&format!("the field `{name}` {problem}"), help);
            }
            if let Some(rows) = field.hashed.filter(|rows| !(1..=MOST_HASHED).contains(rows)) {
                let help = format!("give 1 to {MOST_HASHED} rows, or leave `hashed` away");
                return refuse(&format!("the field `{name}` is hashed to {rows} rows"), &help);
            }
        }
        Ok(self)
    }
}

impl FieldSchema {
    /// What is wrong with the field, and what to do about it.
    fn problem(&self, schema: &Schema) -> Option<(&'static str, &'static str)> {
        use Derived::*;
        let of_place = matches!(self.derive, Some(Position | ClicksBefore | Hour));
        let of_numbers = matches!(self.derive, Some(Rank | LowestSoFar));
        let compares = matches!(self.derive, Some(Rank | LowestSoFar | SeenBefore));
        let bag = self.separator.is_some();
        let rules = [
            (of_place && self.column.is_some(), "is made of no column", "leave `column` or `derive` away"),
            (of_place && (self.each || bag), "is made of no column", "leave `each` and `separator` away"),
            (!of_place && self.column.is_none(), "needs a column", "give `column`, or `derive` what needs none"),
            (compares && !self.each && !schema.impression, "compares items", "its column must have `each = true`"),
            (self.derive == Some(Hour) && schema.time.is_none(), "is of the time", "give `time`"),
            (self.derive.is_some() && self.buckets.is_some(), "has `derive` and `buckets`", "leave one of them away"),
            (self.hashed.is_some() && self.at_least > 1, "has `hashed` and `at_least`", "leave one of them away"),
            (
                self.separator.as_deref() == Some(""),
                "has an empty separator",
                "give what is between the values of the bag, or leave `separator` away",
            ),
            (
                bag && self.each && !schema.impression,
                "has `each = true` and a separator of its own",
                "leave one of them away: the schema's `separator` is between the values of a list's items",
            ),
            (bag && of_numbers, "compares numbers, and is a bag", "leave `separator` away: each item has one number"),
        ];
        rules.into_iter().find(|(wrong, ..)| *wrong).map(|(_, problem, help)| (problem, help))
    }
}
