//! Parquet: flat columns of numbers or strings, a row per event. Nulls are refused.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;

use super::{COLUMNS, FormatInfo, Reader};
use crate::data::log::{Event, EventLog};
use crate::data::read::ReadOptions;
use crate::data::read::parquet::{self, Column, Group};
use crate::error::{Error, Result};

pub(crate) const FORMATS: &[FormatInfo] = &[FormatInfo {
    name: "parquet",
    content: "flat columns of numbers, timestamps or strings",
    reader: Reader::File(read),
    options: COLUMNS,
}];

/// Reads the columns of interest, a row group at a time.
fn read(file: File, origin: &Path, options: &ReadOptions) -> Result<EventLog> {
    parquet::read(file, origin, |file| {
        let names = file.names();
        let places = options.columns.find(&names, origin)?;
        let mut log = EventLog::default();
        file.each_group(|group| {
            let column = |place: usize| EventColumn::of(group, place, names[place], origin);
            let (users, items) = (column(places.user)?, column(places.item)?);
            let times = places.time.map(column).transpose()?;
            let kinds = places.event.map(column).transpose()?;
            for row in 0..group.rows() {
                let (user, item) = (users.name(row, "user")?, items.name(row, "item")?);
                let kind = kinds.as_ref().map(|kinds| kinds.name(row, "event")).transpose()?;
                log.push(Event {
                    user: &user,
                    item: &item,
                    time: times.as_ref().map(|times| times.time(row)).transpose()?,
                    kind: kind.as_deref(),
                });
            }
            Ok(())
        })?;
        Ok(log)
    })
}

/// A column with one value in each row.
struct EventColumn<'a> {
    group: &'a Group<'a>,
    values: Column,
}

impl<'a> EventColumn<'a> {
    fn of(group: &'a Group, place: usize, name: &str, origin: &Path) -> Result<Self> {
        let values = group.column(place)?;
        if values.is_list {
            let problem = format!("{}: column {name} holds lists", origin.display());
            return Err(Error::usage(problem, "a table has one event a row: explode the lists first"));
        }
        match (0..group.rows()).find(|row| values.of_row(*row).is_empty()) {
            Some(row) => {
                let problem = format!("column {name} has no value");
                Err(group.place(row).error(1, problem, "remove such rows, or fill them in"))
            }
            None => Ok(EventColumn { group, values }),
        }
    }

    /// The value as a name.
    fn name(&self, row: usize, role: &str) -> Result<Cow<'_, str>> {
        let (value, place) = (self.values.of_row(row).start, self.group.place(row));
        match self.values.number(value) {
            Some(number) if !number.is_finite() => {
                Err(place.error(1, format!("the {role} is {number}"), "fill in such rows, or remove them"))
            }
            _ => match self.values.text(value) {
                Cow::Borrowed(text) => place.name(1, text, role).map(Cow::Borrowed),
                number => Ok(number),
            },
        }
    }

    /// The value in seconds where it is a timestamp or a date, else as it is.
    fn time(&self, row: usize) -> Result<f64> {
        let value = self.values.of_row(row).start;
        match self.values.number(value) {
            Some(time) if time.is_finite() => Ok(time),
            _ => self.group.place(row).time(1, &self.values.text(value)),
        }
    }
}
