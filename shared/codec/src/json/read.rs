//! One JSON value into one column: which JSON a type takes, and how it is refused otherwise.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::column::{Bytes, Column, Record, Values};
use super::cursor::{Cursor, Text};
use super::faults::{column_full, decimal_fault, invalid, out_of_range};
use super::maps::distinct_keys;
use crate::allowance::Allowance;
use crate::decimal;
use crate::reject::{Checked, Fault, Reason};
use crate::temporal;

/// What reading needs beside the column: limits, and room to unescape in.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) depth_max: usize,
    /// Dates may have the signed years that printing gives them.
    pub(super) any_year: bool,
    pub(super) scratch: Vec<u8>,
    /// What one call's records may become. A row takes it once for all of its columns, and each
    /// element of a list or map for itself.
    pub(super) allowance: Allowance,
}

impl Reader {
    /// Reads an object into `record`, whose columns all have `row` rows; `depth` counts this object.
    pub(super) fn object(
        &mut self,
        cursor: &mut Cursor<'_>,
        record: &mut Record,
        row: usize,
        depth: usize,
    ) -> Checked<()> {
        self.check_depth(depth)?;
        cursor.advance(1);
        let mut given = 0;
        let mut previous: Option<usize> = None;
        let mut expected = record.first;
        let mut token = cursor.next_token();
        while token != Some(b'}') {
            let index = match record.slots.get(expected) {
                Some(slot) if cursor.take(&slot.token) => expected,
                _ => {
                    let index = self.unexpected_name(cursor, record, token)?;
                    match previous {
                        Some(previous) => record.slots[previous].next = index,
                        None => record.first = index,
                    }
                    index
                }
            };
            let slot = &mut record.slots[index];
            cursor.colon()?;
            if slot.column.len() != row {
                return Err(Fault::new(Reason::DuplicateField).inside(&slot.name));
            }
            self.value(cursor, &mut slot.column, depth)
                .map_err(|fault| fault.inside(&slot.name))?;
            given += 1;
            previous = Some(index);
            expected = slot.next;
            match cursor.next_token() {
                Some(b',') => {
                    cursor.advance(1);
                    token = cursor.next_token();
                    if token == Some(b'}') {
                        return Err(cursor.malformed("expected a field's name after ','"));
                    }
                }
                Some(b'}') => break,
                _ => return Err(cursor.malformed("expected ',' or '}'")),
            }
        }
        cursor.advance(1);
        if given < record.slots.len() {
            fill_missing(record, row)
        } else {
            Ok(())
        }
    }

    /// The slot of a name that is not the expected one, or is spelled with escapes.
    #[cold]
    fn unexpected_name(
        &mut self,
        cursor: &mut Cursor<'_>,
        record: &Record,
        token: Option<u8>,
    ) -> Checked<usize> {
        if token != Some(b'"') {
            return Err(cursor.malformed("expected a field's name or '}'"));
        }
        let name = cursor.string()?;
        let name = self.plain(cursor, name)?;
        record.by_name.get(name).copied().ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            Fault::new(Reason::UnknownField).inside(&name)
        })
    }

    /// Reads one value; `depth` is that of the container.
    #[inline]
    pub(super) fn value(
        &mut self,
        cursor: &mut Cursor<'_>,
        column: &mut Column,
        depth: usize,
    ) -> Checked<()> {
        let Some(first) = cursor.next_token() else {
            return Err(cursor.malformed("expected a value"));
        };
        if first == b'n' && cursor.word(b"null") {
            if column.required {
                return Err(Fault::new(Reason::NullInRequired));
            }
            column.append_null();
            return Ok(());
        }
        let start = cursor.position();
        match (&mut column.values, first) {
            (Values::String(bytes), b'"') => {
                let text = cursor.string()?;
                append(cursor, text, &mut bytes.data)?;
                close(bytes)?;
            }
            (Values::Long(values), b'-' | b'0'..=b'9') => match cursor.short_integer() {
                Some(value) => values.push(value),
                None => values.push(long_integer(cursor, start, "long")?),
            },
            (Values::Double(values), b'-' | b'0'..=b'9') => {
                let value = cursor.number()?.to_f64();
                if value.is_infinite() {
                    return Err(out_of_range(cursor, start, "double"));
                }
                values.push(value);
            }
            _ => self.other_value(cursor, column, depth, first)?,
        }
        column.nulls.append_non_null();
        Ok(())
    }

    /// The less usual types. Appends to the values only; the caller appends to the nulls.
    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each type, on the path of each value"
    )]
    fn other_value(
        &mut self,
        cursor: &mut Cursor<'_>,
        column: &mut Column,
        depth: usize,
        first: u8,
    ) -> Checked<()> {
        let start = cursor.position();
        let row = column.len();
        match (&mut column.values, first) {
            (Values::Boolean(values), b't') if cursor.word(b"true") => values.append(true),
            (Values::Boolean(values), b'f') if cursor.word(b"false") => values.append(false),
            (Values::Byte(values), b'-' | b'0'..=b'9') => {
                values.push(narrow_integer(cursor, start, "byte")?);
            }
            (Values::Short(values), b'-' | b'0'..=b'9') => {
                values.push(narrow_integer(cursor, start, "short")?);
            }
            (Values::Int(values), b'-' | b'0'..=b'9') => {
                values.push(narrow_integer(cursor, start, "int")?);
            }
            (Values::Float(values), b'-' | b'0'..=b'9') => {
                let value = cursor.number()?.to_f32();
                if value.is_infinite() {
                    return Err(out_of_range(cursor, start, "float"));
                }
                values.push(value);
            }
            (
                Values::Decimal {
                    values,
                    precision,
                    scale,
                },
                b'"' | b'-' | b'0'..=b'9',
            ) => {
                let text = if first == b'"' {
                    let text = cursor.string()?;
                    self.plain(cursor, text)?
                } else {
                    cursor.number()?.text
                };
                let value = decimal::parse(text, *precision, *scale).map_err(|misfit| {
                    let expected = format!("decimal({precision},{scale})");
                    decimal_fault(misfit, expected, cursor.found(start))
                })?;
                values.push(value);
            }
            (Values::Date(values), b'"') => {
                let parse = if self.any_year {
                    temporal::parse_any_date
                } else {
                    temporal::parse_date
                };
                values.push(self.parsed(cursor, "date", parse)?);
            }
            (Values::Time(values), b'"') => {
                values.push(self.parsed(cursor, "time", temporal::parse_time)?);
            }
            (Values::Timestamp { values, kind }, b'"') => {
                let name = match (kind.nanos, kind.zoned) {
                    (false, false) => "timestamp",
                    (false, true) => "timestamptz",
                    (true, false) => "timestamp_ns",
                    (true, true) => "timestamptz_ns",
                };
                let parse = if self.any_year {
                    temporal::parse_any_timestamp
                } else {
                    temporal::parse_timestamp
                };
                values.push(self.parsed(cursor, name, |text| parse(text, *kind))?);
            }
            (Values::Uuid(bytes), b'"') => {
                let text = cursor.string()?;
                let text = self.plain(cursor, text)?;
                append_uuid(text, &mut bytes.data)
                    .map_err(|detail| invalid("uuid".to_owned(), cursor.found(start), detail))?;
                close(bytes)?;
            }
            (
                Values::Fixed {
                    values: bytes,
                    length,
                },
                b'"',
            ) => {
                let length = *length;
                self.base64(cursor, bytes, &|| format!("fixed[{length}] as base64"))?;
                if bytes.data.len() - bytes.open() != length {
                    let expected = format!("fixed[{length}] as base64");
                    return Err(invalid(expected, cursor.found(start), "another length"));
                }
                close(bytes)?;
            }
            (Values::Binary(bytes), b'"') => {
                self.base64(cursor, bytes, &|| "binary as base64".to_owned())?;
                close(bytes)?;
            }
            (Values::Struct(record), b'{') => self.object(cursor, record, row, depth + 1)?,
            (Values::List { offsets, element }, b'[') => {
                self.elements(cursor, depth, |reader, cursor, _| {
                    reader.allowance.take(element.value_bytes)?;
                    reader.value(cursor, element, depth + 1)
                })?;
                push_offset(offsets, element.len())?;
            }
            (
                Values::Map {
                    offsets,
                    key,
                    value,
                    text_keys: true,
                },
                b'{',
            ) => {
                self.text_map(cursor, key, value, depth + 1)?;
                distinct_keys(offsets, key)?;
                push_offset(offsets, key.len())?;
            }
            (
                Values::Map {
                    offsets,
                    key,
                    value,
                    text_keys: false,
                },
                b'[',
            ) => {
                self.elements(cursor, depth, |reader, cursor, _| {
                    reader.entry(cursor, key, value, depth + 2)
                })?;
                distinct_keys(offsets, key)?;
                push_offset(offsets, key.len())?;
            }
            (Values::Skipped, _) => self.skip(cursor, depth)?,
            (values, _) => {
                let (expected, found) = (values.name(), cursor.found(start));
                if !matches!(first, b'"' | b'{' | b'[' | b'-' | b'0'..=b'9')
                    && !cursor.word(b"true")
                    && !cursor.word(b"false")
                {
                    return Err(cursor.malformed("expected a value"));
                }
                return Err(Fault::new(Reason::WrongType { expected, found }));
            }
        }
        Ok(())
    }

    /// Reads the elements of an array; the cursor is at its bracket.
    pub(super) fn elements(
        &mut self,
        cursor: &mut Cursor<'_>,
        depth: usize,
        mut read: impl FnMut(&mut Self, &mut Cursor<'_>, usize) -> Checked<()>,
    ) -> Checked<()> {
        self.check_depth(depth + 1)?;
        cursor.advance(1);
        if cursor.next_token() == Some(b']') {
            cursor.advance(1);
            return Ok(());
        }
        for index in 0.. {
            read(self, cursor, index).map_err(|fault| fault.at_index(index))?;
            match cursor.next_token() {
                Some(b',') => cursor.advance(1),
                Some(b']') => break,
                _ => return Err(cursor.malformed("expected ',' or ']'")),
            }
        }
        cursor.advance(1);
        Ok(())
    }

    pub(super) fn check_depth(&self, depth: usize) -> Checked<()> {
        if depth > self.depth_max {
            return Err(Fault::new(Reason::TooDeep {
                max: self.depth_max,
            }));
        }
        Ok(())
    }

    /// The text itself, unescaped if need be.
    pub(super) fn plain<'b>(
        &'b mut self,
        cursor: &Cursor<'_>,
        text: Text<'b>,
    ) -> Checked<&'b [u8]> {
        if !text.escaped {
            return Ok(text.raw);
        }
        self.scratch.clear();
        append(cursor, text, &mut self.scratch)?;
        Ok(&self.scratch)
    }

    fn parsed<T>(
        &mut self,
        cursor: &mut Cursor<'_>,
        expected: &str,
        parse: impl Fn(&[u8]) -> Result<T, temporal::Misfit>,
    ) -> Checked<T> {
        let start = cursor.position();
        let text = cursor.string()?;
        let text = self.plain(cursor, text)?;
        parse(text).map_err(|misfit| {
            if misfit == temporal::OUT_OF_RANGE {
                out_of_range(cursor, start, expected)
            } else {
                invalid(expected.to_owned(), cursor.found(start), misfit)
            }
        })
    }

    /// Appends the bytes that base64 text stands for.
    fn base64(
        &mut self,
        cursor: &mut Cursor<'_>,
        bytes: &mut Bytes,
        expected: &dyn Fn() -> String,
    ) -> Checked<()> {
        let start = cursor.position();
        let text = cursor.string()?;
        let text = self.plain(cursor, text)?;
        STANDARD.decode_vec(text, &mut bytes.data).map_err(|_| {
            invalid(
                expected(),
                cursor.found(start),
                "not base64 (standard alphabet, padded)",
            )
        })
    }
}

/// Nulls for the fields that the object did not name.
pub(super) fn fill_missing(record: &mut Record, row: usize) -> Checked<()> {
    for slot in &mut record.slots {
        if slot.column.len() == row {
            if slot.column.required {
                return Err(Fault::new(Reason::MissingField).inside(&slot.name));
            }
            slot.column.append_null();
        }
    }
    Ok(())
}

fn push_offset(offsets: &mut Vec<i32>, end: usize) -> Checked<()> {
    offsets.push(i32::try_from(end).map_err(|_| column_full())?);
    Ok(())
}

#[inline]
pub(super) fn close(bytes: &mut Bytes) -> Checked<()> {
    if bytes.close() {
        Ok(())
    } else {
        Err(column_full())
    }
}

#[inline]
fn append(cursor: &Cursor<'_>, text: Text<'_>, out: &mut Vec<u8>) -> Checked<()> {
    text.append_to(out)
        .map_err(|detail| cursor.malformed(detail))
}

/// Appends the canonical spelling.
pub(crate) fn append_uuid(text: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let fits = text.len() == 36
        && text.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if !fits {
        return Err("not 8-4-4-4-12 hexadecimal digits");
    }
    out.extend(text.iter().map(u8::to_ascii_lowercase));
    Ok(())
}

/// An integer that the short way did not take: long, or not an integer at all.
#[cold]
fn long_integer(cursor: &mut Cursor<'_>, start: usize, expected: &str) -> Checked<i64> {
    let number = cursor.number()?;
    if !number.integral {
        let (expected, found) = (expected.to_owned(), cursor.found(start));
        return Err(Fault::new(Reason::NotAnInteger { expected, found }));
    }
    number
        .to_i64()
        .ok_or_else(|| out_of_range(cursor, start, expected))
}

/// An integer of fewer bits than the JSON may hold; `expected` is its type.
#[inline]
fn narrow_integer<T: TryFrom<i64>>(
    cursor: &mut Cursor<'_>,
    start: usize,
    expected: &str,
) -> Checked<T> {
    let value = match cursor.short_integer() {
        Some(value) => value,
        None => long_integer(cursor, start, expected)?,
    };
    T::try_from(value).map_err(|_| out_of_range(cursor, start, expected))
}
