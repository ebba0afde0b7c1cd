//! Arrow IPC streams, message by message, within limits.
//!
//! ```text
//! message  = continuation ffffffff · u32 metadata bytes · metadata (flatbuffer) · body
//! stream   = schema · (dictionary | batch)* · end (continuation · 0)
//! ```
//!
//! A message's lengths are checked before anything is allocated for them ([`super::bounds`]), and
//! what it becomes is taken from the batch's [`Allowance`]; Arrow then validates every value. Arrow's reader panics on a few shapes that no writer makes: such a
//! panic is caught and becomes an error.

use std::collections::HashMap;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::{read_dictionary, read_record_batch};
use arrow::ipc::{DictionaryBatch, MessageHeader, MetadataVersion, root_as_message};

use super::bounds;
use crate::allowance::Allowance;
use crate::reject::{EXCERPT_CHARS_MAX, Reason, Rejection};

const CONTINUATION: [u8; 4] = [0xff; 4];
/// Dictionaries of a stream; each is kept until its end.
const DICTIONARIES_MAX: usize = 2000;

/// What a stream may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// Bytes of a message's metadata.
    pub metadata_bytes_max: usize,
    /// Bytes of a message's body, as it comes.
    pub body_bytes_max: usize,
    /// Bytes that a batch may take as it comes, decompressed, and as the table's columns, all
    /// together; dictionaries count until the stream's end. See [`Allowance`].
    pub decoded_bytes_max: usize,
    /// Rows of a batch.
    pub batch_rows_max: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            metadata_bytes_max: 4 << 20,
            body_bytes_max: 256 << 20,
            decoded_bytes_max: 512 << 20,
            batch_rows_max: 8 << 20,
        }
    }
}

/// Reads batches, as their sender made them, from a stream of bytes.
///
/// Yields nothing more after an error. Rows in rejections are counted from the stream's beginning.
/// [`conform`](super::conform) makes the batches the table's own.
pub struct StreamReader<R> {
    source: R,
    frames: Frames,
    rows: usize,
    ended: bool,
}

impl<R> std::fmt::Debug for StreamReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamReader")
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl<R: Read> StreamReader<R> {
    /// A reader at the stream's beginning.
    pub fn new(source: R, limits: StreamLimits) -> Self {
        Self {
            source,
            frames: Frames::new(limits),
            rows: 0,
            ended: false,
        }
    }

    /// What the batch that was read last may still take, for [`conform`](super::conform).
    pub fn allowance(&self) -> Allowance {
        self.frames.allowance.clone()
    }

    /// Rows of the batches so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn read_batch(&mut self) -> Result<Option<RecordBatch>, Reason> {
        self.frames.begin_batch()?;
        loop {
            let Some(length) = self.read_length()? else {
                return self.frames.expect_schema().map(|()| None);
            };
            self.frames.check_metadata(length)?;
            let metadata = self.read_exactly(length)?;
            let body = self.frames.body_length(&metadata)?;
            self.frames.allowance.take(body)?;
            let body = self.read_exactly(body)?;
            if let Some(batch) = self.frames.message(&metadata, &body)? {
                return Ok(Some(batch));
            }
        }
    }

    /// The next message's metadata bytes; none at the end, marked or not.
    fn read_length(&mut self) -> Result<Option<usize>, Reason> {
        let mut word = [0; 4];
        for part in 0..2 {
            let mut filled = 0;
            while filled < word.len() {
                match self.source.read(&mut word[filled..]) {
                    Ok(0) if filled == 0 && part == 0 => return Ok(None),
                    Ok(0) => return Err(corrupt("cut off in the middle of a message")),
                    Ok(bytes) => filled += bytes,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(corrupt(&error.to_string())),
                }
            }
            // Streams of before 2019 have no continuation mark.
            if part == 1 || word != CONTINUATION {
                break;
            }
        }
        Ok(Some(u32::from_le_bytes(word) as usize).filter(|length| *length > 0))
    }

    /// Grows with what comes, not with what was claimed; aligned as Arrow wants it.
    fn read_exactly(&mut self, bytes: usize) -> Result<Buffer, Reason> {
        let mut data = Vec::new();
        let mut source = self.source.by_ref().take(bytes as u64);
        source
            .read_to_end(&mut data)
            .map_err(|error| corrupt(&error.to_string()))?;
        if data.len() < bytes {
            return Err(corrupt("cut off in the middle of a message"));
        }
        Ok(Buffer::from_slice_ref(&data))
    }
}

impl<R: Read> Iterator for StreamReader<R> {
    type Item = Result<RecordBatch, Rejection>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.read_batch() {
            Ok(Some(batch)) => {
                self.rows += batch.num_rows();
                Some(Ok(batch))
            }
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(reason) => {
                self.ended = true;
                Some(Err(Rejection::of_row(self.rows, reason)))
            }
        }
    }
}

/// The state of a stream between its messages.
#[derive(Debug)]
pub(crate) struct Frames {
    limits: StreamLimits,
    schema: Option<SchemaRef>,
    dictionaries: HashMap<i64, ArrayRef>,
    /// What each dictionary took.
    dictionary_bytes: HashMap<i64, usize>,
    /// Of the batch that is being read.
    pub(super) allowance: Allowance,
}

impl Frames {
    pub(crate) fn new(limits: StreamLimits) -> Self {
        Self {
            allowance: Allowance::new(limits.decoded_bytes_max),
            limits,
            schema: None,
            dictionaries: HashMap::new(),
            dictionary_bytes: HashMap::new(),
        }
    }

    /// The allowance anew, without what the dictionaries hold.
    fn begin_batch(&mut self) -> Result<(), Reason> {
        self.allowance.renew();
        let held = self.dictionary_bytes.values();
        self.allowance
            .take(held.fold(0, |sum, bytes| sum.saturating_add(*bytes)))?;
        Ok(())
    }

    /// Reads a whole stream that lies in memory, end mark included, and nothing behind it. All its
    /// batches share `allowance`, from which the stream itself was taken.
    pub(crate) fn read_all(
        mut self,
        mut stream: Buffer,
        allowance: &mut Allowance,
    ) -> Result<Vec<RecordBatch>, Reason> {
        self.allowance = allowance.clone();
        let mut batches = Vec::new();
        loop {
            let length = self.take(&mut stream, 8)?;
            let Some((CONTINUATION, length)) = length
                .split_first_chunk::<4>()
                .and_then(|(mark, length)| Some((*mark, length.first_chunk::<4>()?)))
            else {
                return Err(corrupt("a message without its mark"));
            };
            let length = u32::from_le_bytes(*length) as usize;
            if length == 0 {
                break;
            }
            self.check_metadata(length)?;
            let metadata = self.take(&mut stream, length)?;
            let body = self.body_length(&metadata)?;
            let body = self.take(&mut stream, body)?;
            batches.extend(self.message(&metadata, &body)?);
        }
        self.expect_schema()?;
        *allowance = self.allowance;
        if stream.is_empty() {
            Ok(batches)
        } else {
            Err(corrupt("bytes behind the end"))
        }
    }

    fn take(&self, stream: &mut Buffer, bytes: usize) -> Result<Buffer, Reason> {
        if stream.len() < bytes {
            return Err(corrupt("cut off in the middle of a message"));
        }
        let taken = stream.slice_with_length(0, bytes);
        stream.advance(bytes);
        Ok(taken)
    }

    fn expect_schema(&self) -> Result<(), Reason> {
        if self.schema.is_some() {
            Ok(())
        } else {
            Err(corrupt("no schema"))
        }
    }

    fn check_metadata(&self, bytes: usize) -> Result<(), Reason> {
        // What is no Arrow at all mostly claims this.
        if bytes > self.limits.metadata_bytes_max {
            return Err(corrupt("a message's metadata is larger than allowed"));
        }
        Ok(())
    }

    fn body_length(&self, metadata: &[u8]) -> Result<usize, Reason> {
        let message = root_as_message(metadata).map_err(|e| corrupt(&e.to_string()))?;
        let (found, max) = (message.bodyLength(), self.limits.body_bytes_max);
        match usize::try_from(found) {
            Ok(length) if length <= max => Ok(length),
            Ok(_) => Err(Reason::BatchTooLarge {
                what: "bytes",
                found,
                max,
            }),
            Err(_) => Err(corrupt("a message's body has a negative length")),
        }
    }

    /// Takes in one message; a batch if it was one.
    fn message(&mut self, metadata: &Buffer, body: &Buffer) -> Result<Option<RecordBatch>, Reason> {
        // Nothing of `self` is changed before Arrow has returned, so a panic leaves it whole.
        catch_unwind(AssertUnwindSafe(|| self.read_message(metadata, body)))
            .unwrap_or_else(|_| Err(corrupt("a message that no writer makes")))
    }

    fn read_message(
        &mut self,
        metadata: &Buffer,
        body: &Buffer,
    ) -> Result<Option<RecordBatch>, Reason> {
        let message = root_as_message(metadata).map_err(|e| corrupt(&e.to_string()))?;
        let version = message.version();
        match message.header_type() {
            MessageHeader::Schema => {
                if self.schema.is_some() {
                    return Err(corrupt("a second schema"));
                }
                let schema = message.header_as_schema().filter(|s| s.fields().is_some());
                let schema =
                    fb_to_schema(schema.ok_or_else(|| corrupt("a schema without fields"))?);
                for field in schema.fields() {
                    bounds::check_type(field.data_type()).map_err(corrupt)?;
                }
                self.schema = Some(Arc::new(schema));
                Ok(None)
            }
            MessageHeader::RecordBatch => {
                let schema = self
                    .schema
                    .clone()
                    .ok_or_else(|| corrupt("a batch before its schema"))?;
                let batch = message.header_as_record_batch();
                let batch = batch.ok_or_else(|| corrupt("a batch without header"))?;
                self.check_batch(&batch, body)?;
                read_record_batch(body, batch, schema, &self.dictionaries, None, &version)
                    .map(Some)
                    .map_err(|error| arrow_reason(&error))
            }
            MessageHeader::DictionaryBatch => {
                let dictionary = message.header_as_dictionary_batch();
                let dictionary =
                    dictionary.ok_or_else(|| corrupt("a dictionary without header"))?;
                self.read_dictionary(dictionary, body, version)?;
                Ok(None)
            }
            _ => Err(corrupt("a message of unknown kind")),
        }
    }
}

impl Frames {
    fn check_batch(
        &mut self,
        batch: &arrow::ipc::RecordBatch<'_>,
        body: &[u8],
    ) -> Result<(), Reason> {
        bounds::check_shape(batch, &self.limits)?;
        bounds::take_buffers(batch, body, &mut self.allowance)
    }

    fn read_dictionary(
        &mut self,
        dictionary: DictionaryBatch<'_>,
        body: &Buffer,
        version: MetadataVersion,
    ) -> Result<(), Reason> {
        let schema = self.schema.clone();
        let schema = schema.ok_or_else(|| corrupt("a dictionary before the schema"))?;
        let batch = dictionary
            .data()
            .ok_or_else(|| corrupt("a dictionary without data"))?;
        let id = dictionary.id();
        let before = self.allowance.left();
        self.check_batch(&batch, body)?;
        let known = self.dictionary_bytes.get(&id).copied().unwrap_or(0);
        // One that goes on is copied together with what was there.
        let kept = if dictionary.isDelta() { known } else { 0 };
        self.allowance.take(kept)?;
        read_dictionary(body, dictionary, &schema, &mut self.dictionaries, &version)
            .map_err(|error| arrow_reason(&error))?;
        if self.dictionaries.len() > DICTIONARIES_MAX {
            return Err(corrupt("more dictionaries than are allowed"));
        }
        let taken = before - self.allowance.left();
        self.dictionary_bytes.insert(id, taken + body.len());
        Ok(())
    }
}

fn arrow_reason(error: &ArrowError) -> Reason {
    corrupt(&error.to_string())
}

/// Arrow's words can quote any part of the input, so they are cut.
pub(super) fn corrupt(detail: &str) -> Reason {
    let detail = detail.lines().next().unwrap_or_default();
    let detail: String = detail.chars().take(4 * EXCERPT_CHARS_MAX).collect();
    Reason::CorruptArrow { detail }
}
