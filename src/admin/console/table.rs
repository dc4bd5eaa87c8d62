//! What a SHOW answers: columns and rows.

use std::borrow::Cow;

use bytes::BytesMut;

use crate::wire::backend::{self, ColumnType};

/// Columns and rows.
#[derive(Debug, Default)]
pub(super) struct Table {
    columns: Vec<(&'static str, ColumnType)>,
    rows: Vec<Vec<Cell>>,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// NULL.
    Null,
    /// A text.
    Text(String),
    /// A number.
    Int(i64),
}

impl Table {
    /// Without rows. Names are separated by blanks; one that begins with `#` is a number's.
    pub(super) fn new(columns: &'static str) -> Self {
        let column = |name: &'static str| match name.strip_prefix('#') {
            Some(name) => (name, ColumnType::Int8),
            None => (name, ColumnType::Text),
        };
        Self { columns: columns.split_ascii_whitespace().map(column).collect(), rows: Vec::new() }
    }

    /// One more row, with a value for each column.
    pub(super) fn row(&mut self, values: impl IntoIterator<Item = Cell>) {
        let row: Vec<Cell> = values.into_iter().collect();
        debug_assert_eq!(row.len(), self.columns.len(), "{:?}", self.columns);
        self.rows.push(row);
    }

    /// Rows in it.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Appends its RowDescription, for results in these formats.
    pub(super) fn put_columns(&self, formats: &Formats, out: &mut BytesMut) {
        let columns = self.columns.iter().enumerate().map(|(at, (name, kind))| (*name, *kind, formats.of(at)));
        backend::put_row_description(out, columns);
    }

    /// Appends a row; nothing if there is none of this number.
    pub(super) fn put_row(&self, number: usize, formats: &Formats, out: &mut BytesMut) {
        let Some(row) = self.rows.get(number) else { return };
        backend::put_data_row(out, row.iter().enumerate().map(|(at, cell)| cell.bytes(formats.of(at))));
    }
}

impl Cell {
    fn bytes(&self, format: i16) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Null => None,
            Self::Text(text) => Some(Cow::Borrowed(text.as_bytes())),
            Self::Int(number) if format == 1 => Some(Cow::Owned(number.to_be_bytes().to_vec())),
            Self::Int(number) => Some(Cow::Owned(number.to_string().into_bytes())),
        }
    }
}

/// The formats that a client wants its results in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Formats(pub(super) Vec<i16>);

impl Formats {
    /// Of this column: one for each, one for all, or text.
    fn of(&self, column: usize) -> i16 {
        match &*self.0 {
            [one] => *one,
            all => all.get(column).copied().unwrap_or(0),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&std::sync::Arc<str>> for Cell {
    fn from(text: &std::sync::Arc<str>) -> Self {
        Self::Text(text.to_string())
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u128> for Cell {
    fn from(number: u128) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Cell {
    fn from(fact: bool) -> Self {
        Self::Int(i64::from(fact))
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
