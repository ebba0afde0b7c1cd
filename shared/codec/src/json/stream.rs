//! Bodies that come in chunks, cut into records.
//!
//! Owns where a record begins and ends, across chunk borders; what stands between the records of an
//! array is checked here, what stands inside a record by the decoder. At most one record is kept,
//! within the limit for its size.
//!
//! ```text
//! LineSplitter    …}\n{…}\n{…   ──► whole lines as they lie in the chunk, and the torn one joined
//! ArraySplitter   [{…},{…},{…   ──► one record at a time
//! ```

use super::cursor::plain_prefix;
use crate::reject::{Reason, Rejection};

/// Cuts newline-delimited records out of chunks. Pieces are one or more whole lines, for
/// [`push_ndjson`](super::JsonDecoder::push_ndjson); how lines are grouped depends on the chunks.
#[derive(Debug)]
pub struct LineSplitter {
    torn: Vec<u8>,
    record_bytes_max: usize,
    lines: usize,
}

impl LineSplitter {
    /// Refuses lines of more than `record_bytes_max` bytes that span chunks; the row of such a
    /// rejection counts all lines before it, blank ones too.
    pub fn new(record_bytes_max: usize) -> Self {
        Self {
            torn: Vec::new(),
            record_bytes_max,
            lines: 0,
        }
    }

    /// Hands every line that `chunk` completes to `sink`. After an error the splitter is spent.
    pub fn feed<E: From<Rejection>>(
        &mut self,
        chunk: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = chunk;
        if !self.torn.is_empty() {
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                return self.keep(rest);
            };
            let (line, tail) = rest.split_at(end + 1);
            self.keep::<E>(line)?;
            sink(&self.torn)?;
            self.torn.clear();
            self.lines += 1;
            rest = tail;
        }
        if let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') {
            let (lines, tail) = rest.split_at(end + 1);
            self.lines += lines.iter().filter(|byte| **byte == b'\n').count();
            sink(lines)?;
            rest = tail;
        }
        self.keep(rest)
    }

    /// Hands over the last line if it has no newline.
    pub fn finish<E>(mut self, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let torn = std::mem::take(&mut self.torn);
        if torn.is_empty() { Ok(()) } else { sink(&torn) }
    }

    fn keep<E: From<Rejection>>(&mut self, bytes: &[u8]) -> Result<(), E> {
        if self.torn.len() + bytes.len() > self.record_bytes_max + 1 {
            let reason = Reason::TooLarge {
                what: "the record",
                max: self.record_bytes_max,
            };
            return Err(Rejection::of_row(self.lines, reason).into());
        }
        self.torn.extend_from_slice(bytes);
        Ok(())
    }
}

/// Cuts the records out of one JSON array, or hands on the one object that is the whole body.
#[derive(Debug)]
pub struct ArraySplitter {
    place: Place,
    /// A record's beginning, from chunks before.
    torn: Vec<u8>,
    record_bytes_max: usize,
    records: usize,
    offset: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing but white space so far.
    Start,
    /// Behind `[`: a record or `]`.
    First,
    /// Behind a comma: a record.
    Next,
    /// Inside a record; `depth` counts open brackets, `text` is 0 outside a string, 1 inside, 2
    /// behind a backslash inside.
    Record {
        depth: usize,
        text: u8,
        single: bool,
    },
    /// Behind a record: a comma or `]`.
    After,
    /// Behind everything: white space.
    End,
}

impl ArraySplitter {
    /// Refuses records of more than `record_bytes_max` bytes.
    pub fn new(record_bytes_max: usize) -> Self {
        Self {
            place: Place::Start,
            torn: Vec::new(),
            record_bytes_max,
            records: 0,
            offset: 0,
        }
    }

    /// Hands every record that `chunk` completes to `sink`, for
    /// [`push_record`](super::JsonDecoder::push_record). After an error the splitter is spent.
    pub fn feed<E: From<Rejection>>(
        &mut self,
        chunk: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = 0;
        // Where the current record begins in this chunk.
        let mut start = 0;
        while let Some(&byte) = chunk.get(at) {
            if let Place::Record {
                depth,
                text,
                single,
            } = self.place
            {
                let (end, place) = scan_record(chunk, at, depth, text, single);
                at = end;
                self.place = place;
                if place == Place::After || place == Place::End {
                    self.hand_over(&chunk[start..end], &mut sink)?;
                }
                continue;
            }
            if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                at += 1;
                continue;
            }
            let next = match (self.place, byte) {
                (Place::Start, b'[') => Place::First,
                (Place::First, b']') | (Place::After, b']') => Place::End,
                (Place::After, b',') => Place::Next,
                (Place::Start, b'{') => Place::Record {
                    depth: 0,
                    text: 0,
                    single: true,
                },
                (Place::First | Place::Next, b']' | b',' | b'}' | b':') => {
                    return Err(self.malformed(at, "expected a record").into());
                }
                (Place::First | Place::Next, _) => Place::Record {
                    depth: 0,
                    text: 0,
                    single: false,
                },
                (Place::After, _) => {
                    return Err(self.malformed(at, "expected ',' or ']'").into());
                }
                (Place::End, _) => {
                    return Err(self.malformed(at, "expected nothing more").into());
                }
                (Place::Start | Place::Record { .. }, _) => {
                    return Err(self.malformed(at, "expected an array or an object").into());
                }
            };
            if matches!(next, Place::Record { .. }) {
                start = at;
            } else {
                at += 1;
            }
            self.place = next;
        }
        if let Place::Record { .. } = self.place {
            self.check_size(chunk.len() - start)?;
            self.torn.extend_from_slice(&chunk[start..]);
        }
        self.offset += chunk.len();
        Ok(())
    }

    /// Refuses a body that ended too early; the number of records otherwise.
    pub fn finish(self) -> Result<usize, Rejection> {
        match self.place {
            Place::End => Ok(self.records),
            Place::Start => Err(self.malformed(0, "expected an array or an object, found nothing")),
            _ => Err(self.malformed(0, "the array is not closed")),
        }
    }

    fn hand_over<E: From<Rejection>>(
        &mut self,
        end: &[u8],
        sink: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check_size(end.len())?;
        if self.torn.is_empty() {
            sink(end)?;
        } else {
            self.torn.extend_from_slice(end);
            sink(&self.torn)?;
            self.torn.clear();
        }
        self.records += 1;
        Ok(())
    }

    fn check_size(&self, more: usize) -> Result<(), Rejection> {
        if self.torn.len() + more > self.record_bytes_max {
            let reason = Reason::TooLarge {
                what: "the record",
                max: self.record_bytes_max,
            };
            return Err(Rejection::of_row(self.records, reason));
        }
        Ok(())
    }

    /// Between records there is no record to count from, so the offset is that of the body.
    fn malformed(&self, at: usize, detail: &'static str) -> Rejection {
        let offset = self.offset + at;
        Rejection::of_row(self.records, Reason::Malformed { offset, detail })
    }
}

/// Walks on from `at` to the end of the record or of the chunk. Brackets are counted, not matched:
/// the decoder sees to that.
fn scan_record(
    chunk: &[u8],
    mut at: usize,
    mut depth: usize,
    mut text: u8,
    single: bool,
) -> (usize, Place) {
    let after = if single { Place::End } else { Place::After };
    loop {
        if text == 1 {
            at += plain_prefix(chunk.get(at..).unwrap_or_default());
        }
        let Some(&byte) = chunk.get(at) else { break };
        match (text, byte) {
            (2, _) | (1, b'\\') => text = 3 - text,
            (1, b'"') => text = 0,
            (1, _) => {}
            (_, b'"') => text = 1,
            (_, b'{' | b'[') => depth += 1,
            // A record that is no object or array ends where the array goes on.
            (_, b',' | b']' | b'}') if depth == 0 => return (at, after),
            (_, b'}' | b']') => {
                depth -= 1;
                if depth == 0 {
                    return (at + 1, after);
                }
            }
            _ => {}
        }
        at += 1;
    }
    (
        at,
        Place::Record {
            depth,
            text,
            single,
        },
    )
}
