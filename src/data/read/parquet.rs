//! The columns of a parquet file, a row group at a time: numbers, timestamps, truth values and strings, or lists of them.
//! Decimals are refused, and lists of lists.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::parquet::basic::{ConvertedType, LogicalType, TimeUnit, TimestampType};
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, DataType};
use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use ::parquet::schema::types::{ColumnDescriptor, SchemaDescPtr};

use super::text::Place;
use crate::error::{Error, Result};

/// A file, as it is open while `read` has it.
pub(crate) struct ParquetFile<'a> {
    origin: &'a Path,
    reader: SerializedFileReader<File>,
    schema: SchemaDescPtr,
}

/// Reads a file, which errors call `origin`.
pub(crate) fn read<T>(file: File, origin: &Path, read: impl FnOnce(&ParquetFile) -> Result<T>) -> Result<T> {
    let open = || {
        let reader = SerializedFileReader::new(file).map_err(|error| failed(origin, error))?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        read(&ParquetFile { origin, reader, schema })
    };
    // The library takes some kinds of damage for a broken invariant of its own.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let read = catch_unwind(AssertUnwindSafe(open));
    std::panic::set_hook(hook);
    read.unwrap_or_else(|_| Err(unreadable(origin, "its pages are damaged")))
}

fn unreadable(origin: &Path, why: &str) -> Error {
    Error::Format { path: origin.into(), problem: format!("this parquet file cannot be read: {why}") }
}

fn failed(origin: &Path, error: ParquetError) -> Error {
    unreadable(origin, &error.to_string())
}

impl ParquetFile<'_> {
    /// The names of the columns, by their places. A column of lists has the name that its lists have.
    pub fn names(&self) -> Vec<&str> {
        self.schema.columns().iter().map(|column| name(column)).collect()
    }

    /// One row group after the other.
    pub fn each_group(&self, mut read: impl FnMut(&Group) -> Result<()>) -> Result<()> {
        let mut before = 0;
        for number in 0..self.reader.num_row_groups() {
            let reader = self.reader.get_row_group(number).map_err(|error| failed(self.origin, error))?;
            let group = Group { origin: self.origin, schema: &self.schema, reader, before };
            read(&group)?;
            before += group.rows();
        }
        Ok(())
    }
}

fn name(column: &ColumnDescriptor) -> &str {
    match column.max_rep_level() {
        0 => column.name(),
        _ => column.path().parts().first().map_or(column.name(), String::as_str),
    }
}

/// Rows that are stored together.
pub(crate) struct Group<'a> {
    origin: &'a Path,
    schema: &'a SchemaDescPtr,
    reader: Box<dyn RowGroupReader + 'a>,
    /// Rows of the groups before it.
    before: usize,
}

impl<'a> Group<'a> {
    pub fn rows(&self) -> usize {
        self.reader.metadata().num_rows() as usize
    }

    /// Where a row is in the file: rows stand for lines.
    pub fn place(&self, row: usize) -> Place<'a> {
        Place { path: self.origin, line: self.before + row + 1 }
    }

    /// All values of a column.
    pub fn column(&self, place: usize) -> Result<Column> {
        let described = self.schema.column(place);
        let unsupported = |what: &str| {
            Err(Error::usage(
                format!("{}: column {} {what}", self.origin.display(), name(&described)),
                "columns of whole numbers, floating-point numbers, timestamps, truth values and strings can be read; \
                 cast it",
            ))
        };
        if is_decimal(&described) {
            return unsupported("holds decimal numbers");
        }
        if described.max_rep_level() > 1 {
            return unsupported("holds lists of lists");
        }
        let (unsigned, rows) = (is_unsigned(&described), Rows { group: self, described: &described });
        let (starts, values) = match self.reader.get_column_reader(place).map_err(|error| failed(self.origin, error))? {
            ColumnReader::BoolColumnReader(reader) => {
                rows.read(reader, |values| Values::Int(values.into_iter().map(i64::from).collect()))?
            }
            ColumnReader::Int32ColumnReader(reader) => {
                let wide = |value: i32| if unsigned { i64::from(value as u32) } else { i64::from(value) };
                rows.read(reader, |values| Values::Int(values.into_iter().map(wide).collect()))?
            }
            ColumnReader::Int64ColumnReader(reader) if unsigned => {
                rows.read(reader, |values| Values::Unsigned(values.into_iter().map(|value| value as u64).collect()))?
            }
            ColumnReader::Int64ColumnReader(reader) => rows.read(reader, Values::Int)?,
            ColumnReader::FloatColumnReader(reader) => {
                rows.read(reader, |values| Values::Float(values.into_iter().map(f64::from).collect()))?
            }
            ColumnReader::DoubleColumnReader(reader) => rows.read(reader, Values::Float)?,
            ColumnReader::ByteArrayColumnReader(reader) => rows.read(reader, Values::Text)?,
            _ => return unsupported(&format!("is of type {}", described.physical_type())),
        };
        let column = Column { starts, values, unit: seconds(&described), is_list: described.max_rep_level() > 0 };
        if let Values::Text(texts) = &column.values
            && let Some(value) = texts.iter().position(|text| std::str::from_utf8(text.data()).is_err())
        {
            let row = column.starts.partition_point(|start| *start <= value).saturating_sub(1);
            return Err(self.place(row).not_utf8(1));
        }
        Ok(column)
    }
}

/// The rows of a column.
struct Rows<'a> {
    group: &'a Group<'a>,
    described: &'a ColumnDescriptor,
}

impl Rows<'_> {
    /// Where the values of each row begin and those of the last end, and all values.
    fn read<T: DataType>(
        &self,
        mut reader: ColumnReaderImpl<T>,
        values_of: impl FnOnce(Vec<T::T>) -> Values,
    ) -> Result<(Vec<usize>, Values)> {
        let (mut defined, mut repeated, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let (mut read, rows) = (0, self.group.rows());
        while read < rows {
            let (records, ..) = reader
                .read_records(rows - read, Some(&mut defined), Some(&mut repeated), &mut values)
                .map_err(|error| failed(self.group.origin, error))?;
            if records == 0 {
                let problem = format!("{} ends after {read} of {rows} rows", name(self.described));
                return Err(Error::Format { path: self.group.origin.into(), problem });
            }
            read += records;
        }
        // A level is there for each value and each null; there are none in a column that has neither nulls nor lists.
        let levels = if self.described.max_def_level() > 0 { defined.len() } else { values.len() };
        let (mut starts, mut place) = (Vec::with_capacity(rows + 1), 0);
        for level in 0..levels {
            if repeated.get(level).is_none_or(|level| *level == 0) {
                starts.push(place);
            }
            place += usize::from(defined.get(level).is_none_or(|level| *level == self.described.max_def_level()));
        }
        starts.push(place);
        if starts.len() != rows + 1 || place != values.len() {
            return Err(unreadable(self.group.origin, "its levels are damaged"));
        }
        Ok((starts, values_of(values)))
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
    /// Truth values too, as 0 and 1.
    Int(Vec<i64>),
    Unsigned(Vec<u64>),
    Float(Vec<f64>),
    /// Checked to be UTF-8.
    Text(Vec<ByteArray>),
}

/// The values of a column in a group.
pub(crate) struct Column {
    starts: Vec<usize>,
    values: Values,
    unit: f64,
    /// Whether a row has a list of values.
    pub is_list: bool,
}

impl Column {
    /// The values of a row: one, or none where it is null; any number in a column of lists, whose nulls are left out.
    pub fn of_row(&self, row: usize) -> Range<usize> {
        self.starts[row]..self.starts[row + 1]
    }

    /// A value that is no text; timestamps and dates in seconds.
    pub fn number(&self, value: usize) -> Option<f64> {
        match &self.values {
            Values::Int(values) => Some(values[value] as f64 * self.unit),
            Values::Unsigned(values) => Some(values[value] as f64 * self.unit),
            Values::Float(values) => Some(values[value]),
            Values::Text(_) => None,
        }
    }

    /// A value as a text; timestamps and dates in seconds.
    pub fn text(&self, value: usize) -> Cow<'_, str> {
        match &self.values {
            Values::Int(values) if self.unit == 1.0 => values[value].to_string().into(),
            Values::Unsigned(values) if self.unit == 1.0 => values[value].to_string().into(),
            Values::Int(values) => (values[value] as f64 * self.unit).to_string().into(),
            Values::Unsigned(values) => (values[value] as f64 * self.unit).to_string().into(),
            Values::Float(values) => values[value].to_string().into(),
            Values::Text(values) => std::str::from_utf8(values[value].data()).unwrap_or_default().into(),
        }
    }
}
