//! From a table to lists: rows are joined, clicks found in them, values become rows of the fields' tables.

use super::schema::{Buckets, Derived, FieldSchema, Schema};
use super::table::{Table, Wanted};
use super::{Dropped, Field, Lists};
use crate::data::log::parse_time;
use crate::data::read::text::shortened;
use crate::error::Result;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// A list before its values have rows: where its items stand in the table.
struct Shown {
    time: f64,
    user: Option<u32>,
    /// Row and place in the row, of each item.
    items: Vec<(u32, u32)>,
    clicked: Vec<bool>,
}

/// Reads a log of lists.
pub fn read(path: &Path, name: &str, schema: &Schema) -> Result<Lists> {
    let source = Source::open(path, schema)?;
    let mut dropped = Dropped::default();
    let mut shown = if schema.impression { source.impressions()? } else { source.lists(&mut dropped)? };
    let all = shown.len();
    shown.retain(|list| list.items.len() >= schema.length);
    dropped.short_lists = all - shown.len();
    for list in &mut shown {
        dropped.positions += list.items.len() - schema.length;
        list.items.truncate(schema.length);
        list.clicked.truncate(schema.length);
    }
    shown.sort_by(|a, b| a.time.total_cmp(&b.time));
    source.encode(name, shown, dropped)
}

struct Source<'s> {
    schema: &'s Schema,
    table: Table,
}

/// A column as it is, or with the values in it.
fn wanted(column: &str, separator: Option<&str>) -> Wanted {
    Wanted { column: column.into(), separator: separator.map(String::from) }
}

impl<'s> Source<'s> {
    fn open(path: &Path, schema: &'s Schema) -> Result<Self> {
        let several = (!schema.impression).then_some(schema.separator.as_str());
        let single = schema.user.iter().chain(&schema.time).chain(&schema.list).map(|column| wanted(column, None));
        let shown = std::iter::once(&schema.items).chain(&schema.clicked).chain(&schema.flags);
        let shown = shown.map(|column| wanted(column, several));
        let fields = schema.fields.iter().filter_map(|field| Self::of_field(schema, field));
        let mut columns: Vec<Wanted> = single.chain(shown).chain(fields).collect();
        let mut known = HashSet::new();
        columns.retain(|column| known.insert((column.column.clone(), column.separator.clone())));
        Ok(Source { schema, table: Table::read(path, schema, &columns)? })
    }

    /// The column of a field.
    fn of_field(schema: &Schema, field: &FieldSchema) -> Option<Wanted> {
        let several = field.each && !schema.impression;
        let separator = if several { Some(schema.separator.as_str()) } else { field.separator.as_deref() };
        Some(wanted(field.column.as_ref()?, separator))
    }

    fn single(&self, column: &str, row: usize) -> u32 {
        self.table.values(self.table.place(&wanted(column, None)), row)[0]
    }

    fn shown(&self, column: &str, row: usize) -> &[u32] {
        let several = (!self.schema.impression).then_some(self.schema.separator.as_str());
        self.table.values(self.table.place(&wanted(column, several)), row)
    }

    fn time(&self, row: usize) -> Result<f64> {
        let Some(column) = &self.schema.time else { return Ok(0.0) };
        let text = self.table.text(self.single(column, row));
        parse_time(text).ok_or_else(|| {
            let problem = format!("`{}` in {column} is no time", shortened(text));
            self.table.error(row, problem, "times are finite numbers or dates such as 2019-10-01T12:30:00Z")
        })
    }

    fn user(&self, row: usize) -> Option<u32> {
        self.schema.user.as_ref().map(|column| self.single(column, row))
    }

    fn flag(&self, column: &str, row: usize, flag: u32) -> Result<bool> {
        match self.table.text(flag) {
            "0" => Ok(false),
            "1" => Ok(true),
            other => {
                let problem = format!("`{}` in {column} is neither 0 nor 1", shortened(other));
                Err(self.table.error(row, problem, "each item shown has a 1 if it was clicked, else a 0"))
            }
        }
    }

    /// A list per row; rows that agree in the columns of `list` are one.
    fn lists(&self, dropped: &mut Dropped) -> Result<Vec<Shown>> {
        let (mut lists, mut of_key) = (Vec::<Shown>::new(), HashMap::<Vec<u32>, usize>::new());
        for row in 0..self.table.rows() {
            let items = self.shown(&self.schema.items, row);
            let key: Vec<u32> = self.schema.list.iter().map(|column| self.single(column, row)).collect();
            let place = match key.is_empty() {
                true => lists.len(),
                false => *of_key.entry(key).or_insert(lists.len()),
            };
            if place == lists.len() {
                lists.push(Shown {
                    time: self.time(row)?,
                    user: self.user(row),
                    items: (0..items.len() as u32).map(|place| (row as u32, place)).collect(),
                    clicked: vec![false; items.len()],
                });
            }
            self.expect_a_value_each(row, items.len())?;
            let list = &mut lists[place];
            if let Some((first, _)) = list.items.first().filter(|_| list.items.len() == items.len())
                && self.shown(&self.schema.items, *first as usize) != items
            {
                let help = "add `items` to the columns of `list`, or whatever else tells these lists apart";
                return Err(self.table.error(
                    row,
                    "this list shows other items than an earlier line of it".into(),
                    help,
                ));
            }
            if list.items.len() != items.len() {
                let problem =
                    format!("this list has {} items, and {} in an earlier line", items.len(), list.items.len());
                return Err(self.table.error(
                    row,
                    problem,
                    "rows that agree in the columns of `list` show the same items",
                ));
            }
            if let Some(column) = &self.schema.flags {
                let flags = self.shown(column, row);
                if flags.len() != items.len() {
                    let problem = format!("{} values in {column} for {} items", flags.len(), items.len());
                    return Err(self.table.error(row, problem, "each item shown has a 0 or a 1"));
                }
                for (clicked, flag) in list.clicked.iter_mut().zip(flags) {
                    *clicked |= self.flag(column, row, *flag)?;
                }
            }
            for clicked in self.schema.clicked.iter().flat_map(|column| self.shown(column, row)) {
                match items.iter().position(|item| item == clicked) {
                    Some(place) => list.clicked[place] = true,
                    None => dropped.clicks_outside += 1,
                }
            }
        }
        Ok(lists)
    }

    /// Refuses a row whose fields of items have not as many values as it shows items.
    fn expect_a_value_each(&self, row: usize, items: usize) -> Result<()> {
        for field in self.schema.fields.iter().filter(|field| field.each) {
            let column = Self::of_field(self.schema, field).expect("a field of each item has a column");
            let values = self.table.values(self.table.place(&column), row).len();
            if values != items {
                let problem = format!("{values} values in {} for {items} items", column.column);
                return Err(self.table.error(
                    row,
                    problem,
                    "a field with `each = true` has a value for each item shown",
                ));
            }
        }
        Ok(())
    }

    /// Impressions of one user, and of one value in each column of `list`, in their order; cut at gaps and every `length`.
    fn impressions(&self) -> Result<Vec<Shown>> {
        let (mut groups, mut of_key) = (Vec::<Vec<(f64, u32)>>::new(), HashMap::<Vec<u32>, usize>::new());
        for row in 0..self.table.rows() {
            let columns = self.schema.user.iter().chain(&self.schema.list);
            let key: Vec<u32> = columns.map(|column| self.single(column, row)).collect();
            let place = *of_key.entry(key).or_insert(groups.len());
            if place == groups.len() {
                groups.push(Vec::new());
            }
            groups[place].push((self.time(row)?, row as u32));
        }
        let mut lists = Vec::new();
        for mut group in groups {
            group.sort_by(|a, b| a.0.total_cmp(&b.0));
            let gap = self.schema.gap.unwrap_or(f64::INFINITY);
            for together in group.chunk_by(|a, b| b.0 - a.0 <= gap) {
                for list in together.chunks(self.schema.length) {
                    let (time, first) = list[0];
                    let mut clicked = Vec::new();
                    for (_, row) in list {
                        clicked.push(self.was_clicked(*row as usize)?);
                    }
                    let items = list.iter().map(|(_, row)| (*row, 0)).collect();
                    lists.push(Shown { time, user: self.user(first as usize), items, clicked });
                }
            }
        }
        Ok(lists)
    }

    /// Whether the item of an impression was.
    fn was_clicked(&self, row: usize) -> Result<bool> {
        let value = |column: &String| self.shown(column, row)[0];
        match (&self.schema.flags, &self.schema.clicked) {
            (Some(column), _) => self.flag(column, row, value(column)),
            (None, Some(column)) => Ok(value(column) == value(&self.schema.items)),
            (None, None) => unreachable!("schemas are checked"),
        }
    }

    /// The values of a field at a position of a list, as texts that a vocabulary can hold.
    fn values(&self, field: &FieldSchema, list: &Shown, position: usize) -> Result<Vec<String>> {
        let numbers = |place: usize| -> Vec<u32> {
            let Some(column) = Self::of_field(self.schema, field) else { return Vec::new() };
            let (row, in_row) = list.items[place];
            let values = self.table.values(self.table.place(&column), row as usize);
            if field.each && !self.schema.impression { vec![values[in_row as usize]] } else { values.to_vec() }
        };
        let number = |place: usize| -> Result<f64> {
            let text = self.table.text(numbers(place).first().copied().unwrap_or(0));
            text.parse::<f64>().ok().filter(|x| x.is_finite()).ok_or_else(|| {
                let problem = format!("`{}` of the field {} is no number", shortened(text), field.name);
                self.table.error(list.items[place].0 as usize, problem, "leave `buckets` and `derive` away for texts")
            })
        };
        let count = |n: usize| Ok(vec![n.to_string()]);
        match field.derive {
            Some(Derived::Position) => count(position + 1),
            Some(Derived::ClicksBefore) => count(list.clicked[..position].iter().filter(|c| **c).count()),
            Some(Derived::Hour) => count((list.time.rem_euclid(86_400.0) / 3600.0) as usize),
            Some(Derived::Rank) => {
                let own = number(position)?;
                let all = (0..list.items.len()).map(number).collect::<Result<Vec<f64>>>()?;
                count(1 + all.iter().filter(|x| **x < own).count())
            }
            Some(Derived::LowestSoFar) => {
                let own = number(position)?;
                let before = (0..position).map(number).collect::<Result<Vec<f64>>>()?;
                count(usize::from(before.iter().all(|x| own < *x)))
            }
            Some(Derived::SeenBefore) => {
                let own = numbers(position);
                count((0..position).filter(|place| numbers(*place).iter().any(|value| own.contains(value))).count())
            }
            None => match field.buckets {
                None => Ok(numbers(position).into_iter().map(|n| self.table.text(n).to_string()).collect()),
                Some(buckets) => {
                    let x = number(if field.each || self.schema.impression { position } else { 0 })?;
                    let bucket = match buckets {
                        Buckets::Log2 => (1.0 + x.max(0.0)).log2().round(),
                        Buckets::Round => x.round(),
                    };
                    Ok(vec![format!("{bucket}")])
                }
            },
        }
    }

    /// Rows of the values that these lists have often enough, from 1 in the order of their appearance.
    fn vocabulary(&self, field: &FieldSchema, lists: &[Shown]) -> Result<HashMap<String, u32>> {
        let mut seen: HashMap<String, (u32, usize)> = HashMap::new();
        for list in lists {
            for position in 0..self.schema.length {
                for text in self.values(field, list, position)? {
                    let order = seen.len();
                    seen.entry(text).or_insert((0, order)).0 += 1;
                }
            }
        }
        let mut kept: Vec<(String, (u32, usize))> =
            seen.into_iter().filter(|(_, (n, _))| *n >= field.at_least).collect();
        kept.sort_by_key(|(_, (_, order))| *order);
        Ok((1..).zip(kept).map(|(row, (text, _))| (text, row)).collect())
    }

    /// Gives users, items and values their numbers; a value has a row of its own if it is in training often enough.
    fn encode(&self, name: &str, shown: Vec<Shown>, dropped: Dropped) -> Result<Lists> {
        let (count, length) = (shown.len(), self.schema.length);
        let share = |share: f64| (share * count as f64).round() as usize;
        let [train, valid, _] = self.schema.split;
        let ends = [share(train), share(train + valid)];
        let mut lists = Lists::empty(name, length, self.schema.split, ends, dropped);
        let mut numbered: Vec<HashMap<String, u32>> = Vec::new();
        for field in &self.schema.fields {
            let own = match field.hashed {
                Some(_) => HashMap::new(),
                None => self.vocabulary(field, &shown[..ends[0].min(count)])?,
            };
            let first = lists.table_rows() as u32;
            let rows = 1 + field.hashed.unwrap_or(own.len() as u32);
            lists.fields.push(Field { name: field.name.clone(), of: field.of, first, rows });
            numbered.push(own);
        }
        let fields: Vec<Field> = lists.fields.clone();
        for list in &shown {
            for position in 0..length {
                for ((field, schema), own) in fields.iter().zip(&self.schema.fields).zip(&numbered) {
                    let values = self.values(schema, list, position)?;
                    let row = |text: &String| match schema.hashed {
                        Some(rows) => 1 + hash(text) % rows,
                        None => own.get(text).copied().unwrap_or(0),
                    };
                    lists.push_bag(field, values.iter().map(row));
                }
            }
        }
        let (mut users, mut items) = (HashMap::new(), HashMap::new());
        for list in &shown {
            let user = list.user.map(|user| self.table.text(user).to_string());
            let user = user.unwrap_or_else(|| format!("list {}", lists.users.len() + 1));
            let next = lists.users.len() as u32;
            let number = *users.entry(user.clone()).or_insert(next);
            if number == next {
                lists.users.push(user);
            }
            lists.user.push(number);
            for (place, clicked) in list.items.iter().zip(&list.clicked) {
                let item = self.shown(&self.schema.items, place.0 as usize)[place.1 as usize];
                let next = lists.items.len() as u32;
                let number = *items.entry(item).or_insert(next);
                if number == next {
                    lists.items.push(self.table.text(item).to_string());
                }
                lists.item.push(number);
                lists.clicks.push(f32::from(u8::from(*clicked)));
            }
        }
        lists.checked(&self.table.path)
    }
}

/// FNV-1a.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
