//! Files cut into bodies, between two records and never within one.

use std::io::{BufRead, Read};

use arrow::ipc::writer::StreamWriter;
use tidelake_codec::Rejection;
use tidelake_codec::json::stream::ArraySplitter;
use tidelake_core::limits::RECORD_BYTES_MAX;

use super::open::{Batches, READ_BYTES, Text};
use crate::failure::chain;

/// Lines, whole ones, blank ones left out of the count.
pub(super) fn lines(
    mut text: Text,
    body_bytes: usize,
    skip: u64,
    mut sink: impl FnMut(Vec<u8>, u64) -> bool,
) -> Result<(), String> {
    let (mut line, mut skipped) = (Vec::new(), 0);
    while skipped < skip {
        line.clear();
        let read = text.read_until(b'\n', &mut line);
        if read.map_err(|error| error.to_string())? == 0 {
            return Err(fewer(skipped));
        }
        skipped += u64::from(!line.iter().all(u8::is_ascii_whitespace));
    }
    drop(line);
    loop {
        let mut body = Vec::with_capacity(body_bytes.min(64 << 20) + READ_BYTES);
        let limit = body_bytes as u64;
        text.by_ref()
            .take(limit)
            .read_to_end(&mut body)
            .map_err(|error| error.to_string())?;
        if body.is_empty() {
            return Ok(());
        }
        if body.last() != Some(&b'\n') {
            text.read_until(b'\n', &mut body)
                .map_err(|error| error.to_string())?;
        }
        let records = body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.iter().all(u8::is_ascii_whitespace))
            .count();
        if records > 0 && !sink(body, records as u64) {
            return Ok(());
        }
    }
}

fn fewer(records: u64) -> String {
    format!("it has {records} records, fewer than --skip says")
}

/// The records of an array in arrays of their own.
pub(super) fn array(
    mut text: Text,
    body_bytes: usize,
    skip: u64,
    mut sink: impl FnMut(Vec<u8>, u64) -> bool,
) -> Result<(), String> {
    let mut splitter = ArraySplitter::new(RECORD_BYTES_MAX);
    let mut left_out = 0;
    let (mut body, mut records, mut go_on) = (Vec::new(), 0, true);
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let length = text.read(&mut chunk).map_err(|error| error.to_string())?;
        if length == 0 || !go_on {
            break;
        }
        let fed = splitter.feed(&chunk[..length], |record| {
            if left_out < skip {
                left_out += 1;
                return Ok::<(), Rejection>(());
            }
            body.push(if records == 0 { b'[' } else { b',' });
            body.extend_from_slice(record);
            records += 1;
            if body.len() >= body_bytes && go_on {
                body.push(b']');
                go_on = sink(std::mem::take(&mut body), records);
                records = 0;
            }
            Ok(())
        });
        fed.map_err(|rejection| rejection.to_string())?;
    }
    if !go_on {
        return Ok(());
    }
    splitter
        .finish()
        .map_err(|rejection| rejection.to_string())?;
    if left_out < skip {
        return Err(fewer(left_out));
    }
    if records > 0 {
        body.push(b']');
        sink(body, records);
    }
    Ok(())
}

/// Batches as Arrow streams, each complete in itself.
pub(super) fn streams(
    batches: Batches,
    body_bytes: usize,
    skip: u64,
    mut sink: impl FnMut(Vec<u8>, u64) -> bool,
) -> Result<(), String> {
    let schema = batches.schema();
    let mut open: Option<(StreamWriter<Vec<u8>>, u64)> = None;
    let mut left_out = 0;
    for batch in batches {
        let batch = batch.map_err(|error| chain(&error))?;
        let rows = usize::try_from(skip - left_out).unwrap_or(usize::MAX);
        let rows = rows.min(batch.num_rows());
        left_out += rows as u64;
        let batch = batch.slice(rows, batch.num_rows() - rows);
        if batch.num_rows() == 0 {
            continue;
        }
        let (mut writer, records) = match open.take() {
            Some(writing) => writing,
            None => (
                StreamWriter::try_new(Vec::new(), &schema).map_err(|e| chain(&e))?,
                0,
            ),
        };
        writer.write(&batch).map_err(|error| chain(&error))?;
        let records = records + batch.num_rows() as u64;
        if writer.get_ref().len() < body_bytes {
            open = Some((writer, records));
        } else if !sink(writer.into_inner().map_err(|error| chain(&error))?, records) {
            return Ok(());
        }
    }
    if left_out < skip {
        return Err(fewer(left_out));
    }
    if let Some((writer, records)) = open {
        sink(writer.into_inner().map_err(|error| chain(&error))?, records);
    }
    Ok(())
}
