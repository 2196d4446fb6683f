//! Parquet: flat columns of numbers or strings, a row per event. Nulls are refused.

use std::fs::File;
use std::path::Path;

use parquet::basic::{ConvertedType, LogicalType, TimeUnit, TimestampType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::{FormatInfo, Reader};
use crate::data::log::{Event, EventLog, parse_time};
use crate::data::read::ReadOptions;
use crate::data::read::text::{Place, shortened};
use crate::error::{Error, Result};

pub(crate) const FORMATS: &[FormatInfo] = &[FormatInfo {
    name: "parquet",
    content: "flat columns of numbers, timestamps or strings",
    reader: Reader::File(read),
}];

/// Reads the columns of interest, a row group at a time.
fn read(file: File, origin: &Path, options: &ReadOptions) -> Result<EventLog> {
    // The library takes some kinds of damage for a broken invariant of its own.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read_groups(file, origin, options)));
    std::panic::set_hook(hook);
    read.unwrap_or_else(|_| {
        Err(Error::Format {
            path: origin.into(),
            problem: "this parquet file cannot be read: its pages are damaged".into(),
        })
    })
}

fn read_groups(file: File, origin: &Path, options: &ReadOptions) -> Result<EventLog> {
    let table = Table { origin };
    let reader = SerializedFileReader::new(file).map_err(|error| table.failed(error))?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let names: Vec<&str> = schema.columns().iter().map(|column| column.name()).collect();
    let places = options.columns.find(&names, origin)?;
    let (mut log, mut rows) = (EventLog::default(), 0);
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(|error| table.failed(error))?;
        let column = |place: usize| table.column(group.as_ref(), place, &schema.column(place), rows);
        let (users, items) = (column(places.user)?, column(places.item)?);
        let times = places.time.map(column).transpose()?;
        let kinds = places.event.map(column).transpose()?;
        let mut text = [String::new(), String::new(), String::new()];
        for row in 0..users.len() {
            let [user, item, kind] = &mut text;
            users.write(row, user);
            items.write(row, item);
            let time = times
                .as_ref()
                .map(|times| times.time(row).ok_or_else(|| table.no_time(times, row, rows)))
                .transpose()?;
            let kind = kinds.as_ref().map(|kinds| {
                kinds.write(row, kind);
                kind.as_str()
            });
            if let Some((role, _)) =
                [("user", &*user), ("item", &*item)].into_iter().find(|(_, name)| name.trim().is_empty())
            {
                return Err(table.row(rows + row).error(1, format!("the {role} is empty"), "remove such rows"));
            }
            log.push(Event { user: user.trim(), item: item.trim(), time, kind });
        }
        rows += users.len();
    }
    Ok(log)
}

struct Table<'a> {
    origin: &'a Path,
}

impl Table<'_> {
    fn failed(&self, error: ParquetError) -> Error {
        Error::Format { path: self.origin.into(), problem: format!("this parquet file cannot be read: {error}") }
    }

    /// Rows stand for lines.
    fn row(&self, row: usize) -> Place<'_> {
        Place { path: self.origin, line: row + 1 }
    }

    fn no_time(&self, times: &Column, row: usize, before: usize) -> Error {
        let mut text = String::new();
        times.write(row, &mut text);
        let help = "times are finite numbers, timestamps, or dates as text";
        self.row(before + row).error(1, format!("`{}` is no time", shortened(&text)), help)
    }

    fn column(
        &self,
        group: &dyn RowGroupReader,
        place: usize,
        described: &ColumnDescriptor,
        before: usize,
    ) -> Result<Column> {
        let rows = group.metadata().num_rows() as usize;
        let unit = seconds(described);
        let values = match group.get_column_reader(place).map_err(|error| self.failed(error))? {
            ColumnReader::Int32ColumnReader(reader) => {
                Values::Int(self.values(reader, described, rows, before)?.into_iter().map(i64::from).collect())
            }
            ColumnReader::Int64ColumnReader(reader) => Values::Int(self.values(reader, described, rows, before)?),
            ColumnReader::FloatColumnReader(reader) => {
                Values::Float(self.values(reader, described, rows, before)?.into_iter().map(f64::from).collect())
            }
            ColumnReader::DoubleColumnReader(reader) => Values::Float(self.values(reader, described, rows, before)?),
            ColumnReader::ByteArrayColumnReader(reader) => Values::Text(self.values(reader, described, rows, before)?),
            _ => {
                let problem = format!("column {} is of type {}", described.name(), described.physical_type());
                return Err(Error::usage(
                    format!("{}: {problem}", self.origin.display()),
                    "columns of whole numbers, floating-point numbers, timestamps and strings can be read; cast it",
                ));
            }
        };
        let text = |value: &ByteArray| std::str::from_utf8(value.data()).is_ok();
        if let Values::Text(texts) = &values
            && let Some(row) = texts.iter().position(|value| !text(value))
        {
            return Err(self.row(before + row).not_utf8(1));
        }
        Ok(Column { values, unit })
    }

    /// All values of a column of the group; one that is missing is an error.
    fn values<T: DataType>(
        &self,
        mut reader: ColumnReaderImpl<T>,
        described: &ColumnDescriptor,
        rows: usize,
        before: usize,
    ) -> Result<Vec<T::T>> {
        if described.max_rep_level() > 0 {
            let problem = format!("{}: column {} holds lists", self.origin.display(), described.name());
            return Err(Error::usage(problem, "a table has one event a row: explode the lists first"));
        }
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let mut read = 0;
        while read < rows {
            let (records, ..) = reader
                .read_records(rows - read, Some(&mut levels), None, &mut values)
                .map_err(|error| self.failed(error))?;
            if records == 0 {
                let problem = format!("{} ends after {read} of {rows} rows", described.name());
                return Err(Error::Format { path: self.origin.into(), problem });
            }
            read += records;
        }
        if values.len() < rows {
            let row = levels.iter().position(|level| *level < described.max_def_level()).unwrap_or(0);
            let problem = format!("column {} has no value", described.name());
            return Err(self.row(before + row).error(1, problem, "remove such rows, or fill them in"));
        }
        Ok(values)
    }
}

/// What one unit of a column of timestamps is in seconds; 1 for other columns.
fn seconds(column: &ColumnDescriptor) -> f64 {
    match (column.logical_type_ref(), column.converted_type()) {
        (Some(LogicalType::Timestamp(TimestampType { unit: TimeUnit::MILLIS, .. })), _)
        | (_, ConvertedType::TIMESTAMP_MILLIS) => 1e-3,
        (Some(LogicalType::Timestamp(TimestampType { unit: TimeUnit::MICROS, .. })), _)
        | (_, ConvertedType::TIMESTAMP_MICROS) => 1e-6,
        (Some(LogicalType::Timestamp(TimestampType { unit: TimeUnit::NANOS, .. })), _) => 1e-9,
        (Some(LogicalType::Date), _) | (_, ConvertedType::DATE) => 86_400.0,
        _ => 1.0,
    }
}

enum Values {
    Int(Vec<i64>),
    Float(Vec<f64>),
    /// Checked to be UTF-8.
    Text(Vec<ByteArray>),
}

struct Column {
    values: Values,
    unit: f64,
}

impl Column {
    fn len(&self) -> usize {
        match &self.values {
            Values::Int(values) => values.len(),
            Values::Float(values) => values.len(),
            Values::Text(values) => values.len(),
        }
    }

    /// The value as text, in place of what `text` holds.
    fn write(&self, row: usize, text: &mut String) {
        use std::fmt::Write;
        text.clear();
        match &self.values {
            Values::Int(values) => _ = write!(text, "{}", values[row]),
            Values::Float(values) => _ = write!(text, "{}", values[row]),
            Values::Text(values) => text.push_str(std::str::from_utf8(values[row].data()).unwrap_or_default()),
        }
    }

    fn time(&self, row: usize) -> Option<f64> {
        match &self.values {
            Values::Int(values) => Some(values[row] as f64 * self.unit),
            Values::Float(values) => Some(values[row]).filter(|time| time.is_finite()),
            Values::Text(values) => parse_time(std::str::from_utf8(values[row].data()).ok()?),
        }
    }
}
