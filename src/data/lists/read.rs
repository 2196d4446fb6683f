//! From a table to lists: rows are joined, clicks found in them, values become rows of the fields' tables.

use super::schema::{Derived, FieldSchema, Schema};
use super::table::{Table, Wanted};
use super::{Dropped, Field, Lists};
use crate::data::read::text::shortened;
use crate::error::Result;
use foldhash::fast::RandomState;
use indexmap::{IndexMap, IndexSet};
use std::collections::HashMap;
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
    source.encode(name, &shown, dropped)
}

/// Where the columns of a schema are in the table.
struct Columns {
    user: Option<usize>,
    time: Option<usize>,
    list: Vec<usize>,
    items: usize,
    clicked: Option<usize>,
    flags: Option<usize>,
    /// Of each field; `None` for one that is made of the list alone.
    fields: Vec<Option<usize>>,
}

impl Columns {
    /// The columns of a schema, and what the table must have at their places.
    fn of(schema: &Schema) -> (Columns, Vec<Wanted>) {
        let mut wanted = IndexSet::<Wanted>::new();
        let mut place = |column: &str, separator: Option<&str>| {
            wanted.insert_full(Wanted { column: column.into(), separator: separator.map(String::from) }).0
        };
        let several = (!schema.impression).then_some(schema.separator.as_str());
        let columns = Columns {
            user: schema.user.as_deref().map(|column| place(column, None)),
            time: schema.time.as_deref().map(|column| place(column, None)),
            list: schema.list.iter().map(|column| place(column, None)).collect(),
            items: place(&schema.items, several),
            clicked: schema.clicked.as_deref().map(|column| place(column, several)),
            flags: schema.flags.as_deref().map(|column| place(column, several)),
            fields: Vec::new(),
        };
        let fields = schema.fields.iter().map(|field| {
            let of_items = several.filter(|_| field.each);
            Some(place(field.column.as_deref()?, of_items.or(field.separator.as_deref())))
        });
        let columns = Columns { fields: fields.collect(), ..columns };
        (columns, wanted.into_iter().collect())
    }
}

/// A value before it has a row: a text of the table, or a number that was made, by its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Value {
    Text(u32),
    Number(u64),
}

/// The values that training has often enough, and how often. The first has row 1.
type Vocabulary = IndexMap<Value, u32, RandomState>;

struct Source<'s> {
    schema: &'s Schema,
    columns: Columns,
    table: Table,
}

impl<'s> Source<'s> {
    fn open(path: &Path, schema: &'s Schema) -> Result<Self> {
        let (columns, wanted) = Columns::of(schema);
        Ok(Source { schema, columns, table: Table::read(path, schema, &wanted)? })
    }

    /// The value of a column that holds one.
    fn single(&self, column: usize, row: usize) -> u32 {
        self.table.values(column, row)[0]
    }

    fn items(&self, row: usize) -> &[u32] {
        self.table.values(self.columns.items, row)
    }

    fn time(&self, row: usize) -> Result<f64> {
        let Some(column) = self.columns.time else { return Ok(0.0) };
        self.table.place(row).time(1, self.table.text(self.single(column, row)))
    }

    fn user(&self, row: usize) -> Option<u32> {
        self.columns.user.map(|column| self.single(column, row))
    }

    fn flag(&self, row: usize, flag: u32) -> Result<bool> {
        match self.table.text(flag) {
            "0" => Ok(false),
            "1" => Ok(true),
            other => {
                let column = self.schema.flags.as_deref().unwrap_or_default();
                let problem = format!("`{}` in {column} is neither 0 nor 1", shortened(other));
                Err(self.table.error(row, problem, "each item shown has a 1 if it was clicked, else a 0"))
            }
        }
    }

    /// A list per row; rows that agree in the columns of `list` are one.
    fn lists(&self, dropped: &mut Dropped) -> Result<Vec<Shown>> {
        let (mut lists, mut of_key) = (Vec::<Shown>::new(), HashMap::<Vec<u32>, usize>::new());
        for row in 0..self.table.rows() {
            let items = self.items(row);
            let key: Vec<u32> = self.columns.list.iter().map(|column| self.single(*column, row)).collect();
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
            self.expect_the_same_items(row, list)?;
            if let Some(column) = self.columns.flags {
                let flags = self.table.values(column, row);
                if flags.len() != items.len() {
                    let column = self.schema.flags.as_deref().unwrap_or_default();
                    let problem = format!("{} values in {column} for {} items", flags.len(), items.len());
                    return Err(self.table.error(row, problem, "each item shown has a 0 or a 1"));
                }
                for (clicked, flag) in list.clicked.iter_mut().zip(flags) {
                    *clicked |= self.flag(row, *flag)?;
                }
            }
            for clicked in self.columns.clicked.iter().flat_map(|column| self.table.values(*column, row)) {
                match items.iter().position(|item| item == clicked) {
                    Some(place) => list.clicked[place] = true,
                    None => dropped.clicks_outside += 1,
                }
            }
        }
        Ok(lists)
    }

    /// Refuses a row that does not show what the first row of its list does.
    fn expect_the_same_items(&self, row: usize, list: &Shown) -> Result<()> {
        let items = self.items(row);
        if list.items.len() != items.len() {
            let problem = format!("this list has {} items, and {} in an earlier line", items.len(), list.items.len());
            let help = "rows that agree in the columns of `list` show the same items";
            return Err(self.table.error(row, problem, help));
        }
        match list.items.first() {
            Some((first, _)) if self.items(*first as usize) != items => {
                let problem = "this list shows other items than an earlier line of it".into();
                let help = "add `items` to the columns of `list`, or whatever else tells these lists apart";
                Err(self.table.error(row, problem, help))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a row whose fields of items have not as many values as it shows items.
    fn expect_a_value_each(&self, row: usize, items: usize) -> Result<()> {
        let fields = self.schema.fields.iter().zip(&self.columns.fields).filter(|(field, _)| field.each);
        for (field, column) in fields {
            let values = column.map_or(items, |column| self.table.values(column, row).len());
            if values != items {
                let column = field.column.as_deref().unwrap_or_default();
                let problem = format!("{values} values in {column} for {items} items");
                let help = "a field with `each = true` has a value for each item shown";
                return Err(self.table.error(row, problem, help));
            }
        }
        Ok(())
    }

    /// Impressions of one user, and of one value in each column of `list`, in their order; cut at gaps and every `length`.
    fn impressions(&self) -> Result<Vec<Shown>> {
        let (mut groups, mut of_key) = (Vec::<Vec<(f64, u32)>>::new(), HashMap::<Vec<u32>, usize>::new());
        for row in 0..self.table.rows() {
            let columns = self.columns.user.iter().chain(&self.columns.list);
            let key: Vec<u32> = columns.map(|column| self.single(*column, row)).collect();
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
        match (self.columns.flags, self.columns.clicked) {
            (Some(column), _) => self.flag(row, self.single(column, row)),
            (None, Some(column)) => Ok(self.single(column, row) == self.single(self.columns.items, row)),
            (None, None) => unreachable!("schemas are checked"),
        }
    }

    /// What the column of a field has at a position of a list: several values in a bag.
    fn cell(&self, field: usize, list: &Shown, position: usize) -> &[u32] {
        let Some(column) = self.columns.fields[field] else { return &[] };
        let (row, place) = list.items[position];
        let values = self.table.values(column, row as usize);
        match self.schema.fields[field].each && !self.schema.impression {
            true => std::slice::from_ref(&values[place as usize]),
            false => values,
        }
    }

    /// The number of a field at a position of a list; `None` for a bag of nothing.
    fn number(&self, field: usize, list: &Shown, position: usize) -> Result<Option<f64>> {
        let name = &self.schema.fields[field].name;
        let refuse = |problem, help| Err(self.table.error(list.items[position].0 as usize, problem, help));
        match self.cell(field, list, position) {
            [] => Ok(None),
            [value] => {
                let text = self.table.text(*value);
                match text.parse::<f64>() {
                    Ok(number) if number.is_finite() => Ok(Some(number)),
                    _ => refuse(
                        format!("`{}` of the field {name} is no number", shortened(text)),
                        "leave `buckets` and `derive` away for texts",
                    ),
                }
            }
            values => refuse(
                format!("{} values of the field {name}, of which `buckets` takes one", values.len()),
                "leave `buckets` away, or have one number in each line",
            ),
        }
    }

    /// Appends the values of a field at a position of a list.
    fn values(&self, field: usize, list: &Shown, position: usize, values: &mut Vec<Value>) -> Result<()> {
        let FieldSchema { derive, buckets, each, .. } = self.schema.fields[field];
        let cell = |place: usize| self.cell(field, list, place);
        let number = |place: usize| -> Result<f64> {
            Ok(self.number(field, list, place)?.expect("fields that compare numbers are no bags"))
        };
        let made = match (derive, buckets) {
            (Some(Derived::Position), _) => (position + 1) as f64,
            (Some(Derived::ClicksBefore), _) => list.clicked[..position].iter().filter(|c| **c).count() as f64,
            (Some(Derived::Hour), _) => {
                ((list.time / self.schema.time_unit.per_second()).rem_euclid(86_400.0) / 3600.0).floor()
            }
            (Some(Derived::Rank), _) => {
                let (own, mut below) = (number(position)?, 0);
                for place in 0..list.items.len() {
                    below += usize::from(number(place)? < own);
                }
                (1 + below) as f64
            }
            (Some(Derived::LowestSoFar), _) => {
                let (own, mut lowest) = (number(position)?, true);
                for place in 0..position {
                    lowest &= own < number(place)?;
                }
                f64::from(u8::from(lowest))
            }
            (Some(Derived::SeenBefore), _) => {
                let own = cell(position);
                let seen = |place: &usize| cell(*place).iter().any(|value| own.contains(value));
                (0..position).filter(seen).count() as f64
            }
            (None, Some(buckets)) => {
                let place = if each || self.schema.impression { position } else { 0 };
                match self.number(field, list, place)? {
                    Some(number) => buckets.of(number),
                    None => return Ok(()),
                }
            }
            (None, None) => {
                values.extend(cell(position).iter().copied().map(Value::Text));
                return Ok(());
            }
        };
        values.push(Value::Number(made.to_bits()));
        Ok(())
    }

    /// Rows of the values that these lists have often enough, from 1 in the order of their appearance.
    fn vocabulary(&self, field: usize, lists: &[Shown]) -> Result<Vocabulary> {
        let (mut seen, mut values) = (Vocabulary::default(), Vec::new());
        for list in lists {
            for position in 0..self.schema.length {
                self.values(field, list, position, &mut values)?;
                values.drain(..).for_each(|value| *seen.entry(value).or_default() += 1);
            }
        }
        seen.retain(|_, count| *count >= self.schema.fields[field].at_least);
        Ok(seen)
    }

    /// The row of a value in its field.
    fn row(&self, value: Value, hashed: Option<u32>, vocabulary: &Vocabulary) -> u32 {
        match (hashed, value) {
            (Some(rows), Value::Text(text)) => 1 + hash(self.table.text(text)) % rows,
            (Some(rows), Value::Number(bits)) => 1 + hash(&f64::from_bits(bits).to_string()) % rows,
            (None, _) => vocabulary.get_index_of(&value).map_or(0, |place| 1 + place as u32),
        }
    }

    /// Gives users, items and values their numbers; a value has a row of its own if it is in training often enough.
    fn encode(&self, name: &str, shown: &[Shown], dropped: Dropped) -> Result<Lists> {
        let share = |share: f64| (share * shown.len() as f64).round() as usize;
        let [train, valid, _] = self.schema.split;
        let ends = [share(train), share(train + valid)];
        let mut lists = Lists::empty(name, self.schema.length, self.schema.split, ends, dropped);
        self.encode_items(&mut lists, shown)?;
        let mut vocabularies = Vec::new();
        for (number, field) in self.schema.fields.iter().enumerate() {
            let own = match field.hashed {
                Some(_) => Vocabulary::default(),
                None => self.vocabulary(number, &shown[..ends[0]])?,
            };
            let first = lists.table_rows() as u32;
            let rows = 1 + field.hashed.unwrap_or(own.len() as u32);
            lists.fields.push(Field { name: field.name.clone(), of: field.of, first, rows });
            vocabularies.push(own);
        }
        let (fields, mut values) = (lists.fields.clone(), Vec::new());
        for list in shown {
            for position in 0..self.schema.length {
                for (number, (field, own)) in fields.iter().zip(&vocabularies).enumerate() {
                    self.values(number, list, position, &mut values)?;
                    let hashed = self.schema.fields[number].hashed;
                    lists.push_bag(field, values.drain(..).map(|value| self.row(value, hashed, own)));
                }
            }
        }
        lists.checked(&self.table.path)
    }

    /// Users, items and clicks of the lists, with the names of the first two.
    fn encode_items(&self, lists: &mut Lists, shown: &[Shown]) -> Result<()> {
        let name = |text: u32, row: u32, role: &str| {
            self.table.place(row as usize).name(1, self.table.text(text), role).map(String::from)
        };
        let (mut users, mut items) = (IndexSet::<u32>::new(), IndexSet::<u32>::new());
        for (number, list) in (0..).zip(shown) {
            let (user, is_new) = users.insert_full(list.user.unwrap_or(number));
            if is_new {
                let own = || Ok(format!("list {}", number + 1));
                lists.users.push(list.user.map_or_else(own, |user| name(user, list.items[0].0, "user"))?);
            }
            lists.user.push(user as u32);
            for ((row, place), clicked) in list.items.iter().zip(&list.clicked) {
                let text = self.items(*row as usize)[*place as usize];
                let (item, is_new) = items.insert_full(text);
                if is_new {
                    lists.items.push(name(text, *row, "item")?);
                }
                lists.item.push(item as u32);
                lists.clicks.push(f32::from(u8::from(*clicked)));
            }
        }
        Ok(())
    }
}

/// FNV-1a.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
