//! Parquet: flat columns of numbers or strings, a row per event. Nulls are refused, as are decimals.

use std::fs::File;
use std::path::Path;

use parquet::basic::{ConvertedType, LogicalType, TimeUnit, TimestampType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::{COLUMNS, FormatInfo, Reader};
use crate::data::log::{Event, EventLog};
use crate::data::read::ReadOptions;
use crate::data::read::text::Place;
use crate::error::{Error, Result};

pub(crate) const FORMATS: &[FormatInfo] = &[FormatInfo {
    name: "parquet",
    content: "flat columns of numbers, timestamps or strings",
    reader: Reader::File(read),
    options: COLUMNS,
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
            let ([user, item, kind], place) = (&mut text, table.row(rows + row));
            log.push(Event {
                user: users.name(row, place, "user", user)?,
                item: items.name(row, place, "item", item)?,
                time: times.as_ref().map(|times| times.time(row, place)).transpose()?,
                kind: kinds.as_ref().map(|kinds| kinds.name(row, place, "event", kind)).transpose()?,
            });
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

    fn column(
        &self,
        group: &dyn RowGroupReader,
        place: usize,
        described: &ColumnDescriptor,
        before: usize,
    ) -> Result<Column> {
        let rows = group.metadata().num_rows() as usize;
        let unsupported = |what: String| {
            Error::usage(
                format!("{}: column {} {what}", self.origin.display(), described.name()),
                "columns of whole numbers, floating-point numbers, timestamps and strings can be read; cast it",
            )
        };
        if is_decimal(described) {
            return Err(unsupported("holds decimal numbers".into()));
        }
        let (unit, unsigned) = (seconds(described), is_unsigned(described));
        let values = match group.get_column_reader(place).map_err(|error| self.failed(error))? {
            ColumnReader::Int32ColumnReader(reader) => {
                let wide = |value: i32| if unsigned { i64::from(value as u32) } else { i64::from(value) };
                Values::Int(self.values(reader, described, rows, before)?.into_iter().map(wide).collect())
            }
            ColumnReader::Int64ColumnReader(reader) if unsigned => {
                let values = self.values(reader, described, rows, before)?;
                Values::Unsigned(values.into_iter().map(|value| value as u64).collect())
            }
            ColumnReader::Int64ColumnReader(reader) => Values::Int(self.values(reader, described, rows, before)?),
            ColumnReader::FloatColumnReader(reader) => {
                Values::Float(self.values(reader, described, rows, before)?.into_iter().map(f64::from).collect())
            }
            ColumnReader::DoubleColumnReader(reader) => Values::Float(self.values(reader, described, rows, before)?),
            ColumnReader::ByteArrayColumnReader(reader) => Values::Text(self.values(reader, described, rows, before)?),
            _ => return Err(unsupported(format!("is of type {}", described.physical_type()))),
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

/// Whether its numbers are whole ones that a scale of the column divides.
fn is_decimal(column: &ColumnDescriptor) -> bool {
    matches!(column.logical_type_ref(), Some(LogicalType::Decimal(_)))
        || column.converted_type() == ConvertedType::DECIMAL
}

/// Whether its whole numbers, which are stored as signed ones, have no sign.
fn is_unsigned(column: &ColumnDescriptor) -> bool {
    use ConvertedType::{UINT_8, UINT_16, UINT_32, UINT_64};
    matches!(column.logical_type_ref(), Some(LogicalType::Integer(kind)) if !kind.is_signed)
        || matches!(column.converted_type(), UINT_8 | UINT_16 | UINT_32 | UINT_64)
}

enum Values {
    Int(Vec<i64>),
    Unsigned(Vec<u64>),
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
            Values::Unsigned(values) => values.len(),
            Values::Float(values) => values.len(),
            Values::Text(values) => values.len(),
        }
    }

    /// The value as a name; `text` is where a number is written.
    fn name<'t>(&'t self, row: usize, place: Place, role: &str, text: &'t mut String) -> Result<&'t str> {
        use std::fmt::Write;
        text.clear();
        match &self.values {
            Values::Int(values) => _ = write!(text, "{}", values[row]),
            Values::Unsigned(values) => _ = write!(text, "{}", values[row]),
            Values::Float(values) if !values[row].is_finite() => {
                let problem = format!("the {role} is {}", values[row]);
                return Err(place.error(1, problem, "fill in such rows, or remove them"));
            }
            Values::Float(values) => _ = write!(text, "{}", values[row]),
            Values::Text(values) => return place.name(1, utf8(&values[row]), role),
        }
        Ok(text)
    }

    /// The value in seconds where it is a timestamp or a date, else as it is.
    fn time(&self, row: usize, place: Place) -> Result<f64> {
        match &self.values {
            Values::Int(values) => Ok(values[row] as f64 * self.unit),
            Values::Unsigned(values) => Ok(values[row] as f64 * self.unit),
            Values::Float(values) if values[row].is_finite() => Ok(values[row]),
            Values::Float(values) => place.time(1, &values[row].to_string()),
            Values::Text(values) => place.time(1, utf8(&values[row])),
        }
    }
}

/// A text that was checked to be UTF-8.
fn utf8(text: &ByteArray) -> &str {
    std::str::from_utf8(text.data()).unwrap_or_default()
}
