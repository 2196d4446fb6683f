//! Lists of items as they were shown, with clicks: impressions in fields of categories, for methods that learn from whole
//! lists (DRL-Rec) or from single impressions (click-through models).
//!
//! A field is a set of categories with rows of its own in one joint table; row 0 of a field stands for a value that training
//! does not have. What an impression has in a field is a bag: one row, several, or row 0 where there is nothing.

mod read;
mod schema;
mod table;

use crate::error::{Error, Result};
pub use schema::{Buckets, Derived, FieldSchema, Group, Schema, TimeUnit};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// One field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// As the schema calls it.
    pub name: String,
    /// Whose property it is.
    pub of: Group,
    /// Its first row in the joint table, that of values which training does not have.
    pub first: u32,
    /// How many it has.
    pub rows: u32,
}

/// What was left out when a log was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Lists with fewer positions than count.
    pub short_lists: usize,
    /// Positions behind those that count.
    pub positions: usize,
    /// Clicks on items that the list does not show.
    pub clicks_outside: usize,
}

/// L lists of T impressions in F fields, in time order.
#[derive(Clone, Debug, PartialEq)]
pub struct Lists {
    /// What reports call them.
    pub name: String,
    /// `[F]`
    pub fields: Vec<Field>,
    /// Names, by index.
    pub users: Vec<String>,
    /// Names, by index.
    pub items: Vec<String>,
    /// T
    pub length: usize,
    /// What was left out.
    pub dropped: Dropped,
    /// Shares of the lists that train, validate and test, one after the other.
    pub split: [f64; 3],
    user: Vec<u32>,
    item: Vec<u32>,
    clicks: Vec<f32>,
    /// `[L T F + 1]`: impression `n` has in field `f` the rows `rows[offsets[n F + f] .. offsets[n F + f + 1]]`.
    offsets: Vec<u32>,
    rows: Vec<u32>,
    /// Where validation and test begin.
    ends: [usize; 2],
}

/// Which part of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Learned from.
    Train,
    /// Selects the best epoch.
    Valid,
    /// Reported.
    Test,
}

impl Lists {
    /// Reads a csv, tsv or parquet file by a schema: the given one, or the shipped one of the file's name. `None` where there is
    /// neither: then it is no log of lists.
    pub fn read(path: &Path, schema: Option<&Path>) -> Result<Option<Lists>> {
        Schema::of_file(path, schema)?.map(|schema| Lists::read_by(path, &schema)).transpose()
    }

    /// Reads a csv, tsv or parquet file by a schema.
    pub fn read_by(path: &Path, schema: &Schema) -> Result<Lists> {
        read::read(path, &super::read::dataset_name(path), schema)
    }

    fn empty(name: &str, length: usize, split: [f64; 3], ends: [usize; 2], dropped: Dropped) -> Lists {
        Lists {
            name: name.into(),
            split,
            fields: Vec::new(),
            users: Vec::new(),
            items: Vec::new(),
            length,
            dropped,
            user: Vec::new(),
            item: Vec::new(),
            clicks: Vec::new(),
            offsets: vec![0],
            rows: Vec::new(),
            ends,
        }
    }

    /// Appends what an impression has in a field; nothing becomes the row of what is not known.
    fn push_bag(&mut self, field: &Field, rows: impl Iterator<Item = u32>) {
        let before = self.rows.len();
        self.rows.extend(rows.map(|row| field.first + row));
        if self.rows.len() == before {
            self.rows.push(field.first);
        }
        self.offsets.push(self.rows.len() as u32);
    }

    /// Refuses a log from which nothing can be learned.
    fn checked(self, path: &Path) -> Result<Lists> {
        for part in [Part::Train, Part::Valid, Part::Test] {
            let labels = self.clicks(part).iter().map(|click| *click > 0.0);
            let clicked = labels.clone().filter(|clicked| *clicked).count();
            if clicked == 0 || clicked == labels.count() {
                let (what, name) = (if clicked == 0 { "no click" } else { "nothing but clicks" }, format!("{part:?}"));
                let problem = format!("{}: its {} lists hold {what}", path.display(), name.to_lowercase());
                let help =
                    "lists need impressions with and without clicks in each part; see `split`, `clicked` and `flags`";
                return Err(Error::usage(problem, help));
            }
        }
        Ok(self)
    }

    /// L
    pub fn count(&self) -> usize {
        self.user.len()
    }

    /// The lists of a part.
    pub fn part(&self, part: Part) -> Range<usize> {
        match part {
            Part::Train => 0..self.ends[0],
            Part::Valid => self.ends[0]..self.ends[1],
            Part::Test => self.ends[1]..self.count(),
        }
    }

    /// The numbers of the lists to train on.
    pub fn training(&self) -> Vec<u32> {
        self.part(Part::Train).map(|list| list as u32).collect()
    }

    /// The impressions of a part: list `l` has those from `l T` on.
    pub fn impressions(&self, part: Part) -> Range<usize> {
        let Range { start, end } = self.part(part);
        start * self.length..end * self.length
    }

    /// The user of a list.
    pub fn user(&self, list: usize) -> u32 {
        self.user[list]
    }

    /// The items of a list, top first.
    pub fn items_of(&self, list: usize) -> &[u32] {
        &self.item[list * self.length..(list + 1) * self.length]
    }

    /// Clicks of a part's impressions, 0 or 1.
    pub fn clicks(&self, part: Part) -> &[f32] {
        &self.clicks[self.impressions(part)]
    }

    /// Clicks of a list, 0 or 1 for each position: the rewards.
    pub fn clicks_of(&self, list: usize) -> &[f32] {
        &self.clicks[list * self.length..(list + 1) * self.length]
    }

    /// Rows of the joint table that an impression has in field `field`, one or more.
    pub fn bag(&self, impression: usize, field: usize) -> &[u32] {
        let place = impression * self.fields.len() + field;
        &self.rows[self.offsets[place] as usize..self.offsets[place + 1] as usize]
    }

    /// Everything that training and evaluation read, as bytes.
    pub fn content(&self) -> impl Iterator<Item = &[u8]> {
        let numbers = [&self.user, &self.offsets, &self.rows].map(|column| bytemuck::cast_slice(column));
        numbers.into_iter().chain([bytemuck::cast_slice(&self.clicks)])
    }

    /// Rows of the joint table.
    pub fn table_rows(&self) -> usize {
        self.fields.last().map_or(0, |field| (field.first + field.rows) as usize)
    }
}

impl fmt::Display for Lists {
    /// What `gpurec data check` and the first lines of a run say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clicks: f64 = self.clicks.iter().map(|click| f64::from(*click)).sum();
        let impressions = self.clicks.len();
        write!(
            f,
            "{} lists of {}, {} users, {} items, {} fields with {} values, {:.2} % of the impressions clicked",
            self.count(),
            self.length,
            self.users.len(),
            self.items.len(),
            self.fields.len(),
            self.table_rows(),
            100.0 * clicks / impressions.max(1) as f64
        )
    }
}

/// Made-up lists: who likes the colour of an item clicks it.
#[cfg(test)]
pub(crate) fn example(count: usize, length: usize) -> Lists {
    let split = [0.5, 0.25, 0.25];
    let mut lists = Lists::empty("example", length, split, [count / 2, count * 3 / 4], Dropped::default());
    let of = [
        ("likes", Group::User, 4),
        ("item", Group::Item, 11),
        ("colour", Group::Item, 4),
        ("place", Group::Context, 9),
    ];
    for (name, of, rows) in of {
        let first = lists.table_rows() as u32;
        lists.fields.push(Field { name: name.into(), of, first, rows });
    }
    let fields = lists.fields.clone();
    (lists.users, lists.items) =
        ((0..7).map(|u| format!("u{u}")).collect(), (0..10).map(|i| format!("i{i}")).collect());
    for list in 0..count as u32 {
        lists.user.push(list % 7);
        for place in 0..length as u32 {
            let (item, likes) = ((list * 3 + place * 7) % 10, list % 3);
            lists.item.push(item);
            lists.clicks.push(f32::from(u8::from(item % 3 == likes)));
            for (field, row) in fields.iter().zip([1 + likes, 1 + item, 1 + item % 3, 1 + place]) {
                lists.push_bag(field, [row].into_iter());
            }
        }
    }
    lists
}

#[cfg(test)]
mod tests;
