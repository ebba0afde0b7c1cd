//! Maps: objects by their keys, or arrays of entries; no key twice.

use super::column::{Column, Values};
use super::cursor::Cursor;
use super::faults::wrong_type;
use super::read::Reader;
use crate::reject::{Checked, Fault, Reason, excerpt};

impl Reader {
    /// Reads an object whose names are a map's keys.
    pub(super) fn text_map(
        &mut self,
        cursor: &mut Cursor<'_>,
        key: &mut Column,
        value: &mut Column,
        depth: usize,
    ) -> Checked<()> {
        self.check_depth(depth)?;
        cursor.advance(1);
        if cursor.next_token() == Some(b'}') {
            cursor.advance(1);
            return Ok(());
        }
        loop {
            if cursor.next_token() != Some(b'"') {
                return Err(cursor.malformed("expected a key"));
            }
            let row = key.len();
            self.allowance.take(key.value_bytes + value.value_bytes)?;
            self.value(cursor, key, depth)
                .map_err(|fault| fault.inside("key"))?;
            cursor.colon()?;
            self.value(cursor, value, depth)
                .map_err(|fault| fault.inside(&text_at(key, row)))?;
            match cursor.next_token() {
                Some(b',') => cursor.advance(1),
                Some(b'}') => break,
                _ => return Err(cursor.malformed("expected ',' or '}'")),
            }
        }
        cursor.advance(1);
        Ok(())
    }

    /// Reads `{"key":…,"value":…}` in either order.
    pub(super) fn entry(
        &mut self,
        cursor: &mut Cursor<'_>,
        key: &mut Column,
        value: &mut Column,
        depth: usize,
    ) -> Checked<()> {
        self.check_depth(depth)?;
        let start = cursor.position();
        if cursor.next_token() != Some(b'{') {
            let expected = "an object of \"key\" and \"value\"".to_owned();
            return Err(wrong_type(cursor, start, expected));
        }
        cursor.advance(1);
        self.allowance.take(key.value_bytes + value.value_bytes)?;
        let row = key.len();
        let mut token = cursor.next_token();
        while token != Some(b'}') {
            if token != Some(b'"') {
                return Err(cursor.malformed("expected \"key\" or \"value\""));
            }
            let name = cursor.string()?;
            let name = self.plain(cursor, name)?;
            let (column, name) = match name {
                b"key" => (&mut *key, "key"),
                b"value" => (&mut *value, "value"),
                other => {
                    let name = String::from_utf8_lossy(other);
                    return Err(Fault::new(Reason::UnknownField).inside(&name));
                }
            };
            cursor.colon()?;
            if column.len() != row {
                return Err(Fault::new(Reason::DuplicateField).inside(name));
            }
            self.value(cursor, column, depth)
                .map_err(|fault| fault.inside(name))?;
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
        for (column, name) in [(key, "key"), (value, "value")] {
            if column.len() == row {
                if column.required {
                    return Err(Fault::new(Reason::MissingField).inside(name));
                }
                column.append_null();
            }
        }
        Ok(())
    }
}

/// Refuses a map that has one key twice: the entries behind the last offset are its own.
pub(super) fn distinct_keys(offsets: &[i32], key: &Column) -> Checked<()> {
    let start = offsets.last().map_or(0, |end| *end as usize);
    if key.len() - start < 2 {
        return Ok(());
    }
    // All identities in one piece: a record of many short keys must not cost an allocation each.
    let mut bytes = Vec::new();
    let mut ends = Vec::with_capacity(key.len() - start + 1);
    ends.push(0);
    for row in start..key.len() {
        key.identity(row, &mut bytes);
        ends.push(bytes.len());
    }
    let identity = |entry: u32| &bytes[ends[entry as usize]..ends[entry as usize + 1]];
    let mut entries: Vec<u32> = (0..(key.len() - start) as u32).collect();
    entries.sort_unstable_by_key(|entry| (identity(*entry), *entry));
    match entries
        .windows(2)
        .find(|pair| identity(pair[0]) == identity(pair[1]))
    {
        Some(pair) => {
            let row = start + pair[0] as usize;
            Err(Fault::new(Reason::DuplicateKey).inside(&text_at(key, row)))
        }
        None => Ok(()),
    }
}

/// A map's key as a path names it.
fn text_at(key: &Column, row: usize) -> String {
    match &key.values {
        Values::String(bytes) | Values::Uuid(bytes) => excerpt(bytes.get(row)),
        _ => "key".to_owned(),
    }
}
