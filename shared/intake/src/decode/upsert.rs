//! What a primary key adds to the decoding of messages: tombstones, and the check that every record
//! came through the bucket of its key.

use tidelake_core::Bucket;
use tidelake_core::limits::KEY_TEXT_BYTES_MAX;
use tidelake_core::partition::bucket_of;
use tidelake_schema::{SchemaError, TableSchema};

use super::{DecodedDeletes, POSITION_BYTES, Placement, Pushed, WireMessage};
use tidelake_codec::json::{JsonDecoder, key_too_large};
use tidelake_codec::key::{KeyBuilder, KeyError, KeyText};
use tidelake_codec::{CodecError, Reason, Rejection, packed};

/// What a primary key adds.
#[derive(Debug)]
pub(super) struct UpsertMessages {
    pub(super) key: KeyText,
    placement: Option<Placement>,
    tombstones: KeyBuilder,
    offsets: Vec<i64>,
    timestamps_ms: Vec<i64>,
    /// One key's text.
    text: Vec<u8>,
    /// Owners of a batch's rows.
    owners: Vec<u32>,
}

impl UpsertMessages {
    pub(super) fn new(
        key: KeyText,
        schema: &TableSchema,
        placement: Option<Placement>,
    ) -> Result<Self, SchemaError> {
        Ok(Self {
            tombstones: KeyBuilder::of(&key, schema)?,
            key,
            placement,
            offsets: Vec::new(),
            timestamps_ms: Vec::new(),
            text: Vec::new(),
            owners: Vec::new(),
        })
    }

    /// Tombstones taken in.
    pub(super) fn tombstones(&self) -> usize {
        self.offsets.len()
    }

    /// Memory they hold, about.
    pub(super) fn bytes(&self) -> usize {
        self.tombstones.bytes() + self.offsets.len() * POSITION_BYTES
    }

    /// The text of the key that was looked at last.
    pub(super) fn last_text(&self) -> &[u8] {
        &self.text
    }

    /// Gives back the room that is kept for more tombstones, where none waits.
    pub(super) fn shrink(&mut self, schema: &TableSchema) {
        if let Ok(tombstones) = KeyBuilder::of(&self.key, schema) {
            self.tombstones = tombstones;
        }
        self.offsets = Vec::new();
        self.timestamps_ms = Vec::new();
        self.text = Vec::new();
        self.owners = Vec::new();
    }

    /// Hands the tombstones over.
    pub(super) fn take_tombstones(&mut self) -> Result<Option<DecodedDeletes>, CodecError> {
        if self.offsets.is_empty() {
            return Ok(None);
        }
        let keys = self.tombstones.finish()?;
        Ok(Some(DecodedDeletes {
            rows: vec![0; keys.num_rows()],
            keys,
            offsets: std::mem::take(&mut self.offsets),
            timestamps_ms: std::mem::take(&mut self.timestamps_ms),
        }))
    }

    pub(super) fn push_tombstone(
        &mut self,
        message: &WireMessage<'_>,
    ) -> Result<Pushed, Rejection> {
        let Some(key) = message.key else {
            return Err(Rejection::of_row(0, Reason::MissingKey));
        };
        self.tombstones.push_text(key)?;
        // What came need not be the canonical text.
        self.text.clear();
        self.tombstones.append_last(&self.key, &mut self.text);
        let outcome = self.owner();
        if !matches!(outcome, Ok(None)) {
            self.tombstones.truncate(self.tombstones.rows() - 1);
        }
        if let Some(owner) = outcome? {
            return Ok(Pushed::Elsewhere(owner));
        }
        self.offsets.push(message.offset);
        self.timestamps_ms.push(message.timestamp_ms);
        Ok(Pushed::Rows(1))
    }

    /// The other bucket that the decoder's last row belongs to, if it does.
    #[inline]
    pub(super) fn owner_of_last(
        &mut self,
        json: &JsonDecoder,
    ) -> Result<Option<Bucket>, Rejection> {
        if self.placement.is_none() && self.key.is_bounded() {
            return Ok(None);
        }
        self.text.clear();
        json.append_last_key(self.key.columns(), &mut self.text);
        self.owner()
    }

    #[inline]
    fn owner(&self) -> Result<Option<Bucket>, Rejection> {
        if self.text.len() > KEY_TEXT_BYTES_MAX {
            return Err(Rejection::of_row(0, key_too_large()));
        }
        let elsewhere = |placement: Placement| placement.elsewhere(&self.text);
        Ok(self.placement.and_then(elsewhere))
    }

    /// Refuses a message with a row that is not in its place.
    pub(super) fn check_batch(&mut self, packed: &packed::Packed) -> Result<(), Rejection> {
        if self.placement.is_none() && self.key.is_bounded() {
            return Ok(());
        }
        let Self {
            key,
            placement,
            owners,
            ..
        } = self;
        let buckets = placement.map_or(1, |placement| placement.buckets);
        owners.clear();
        let rows = key.row_buckets(&packed.rows, buckets, owners);
        let misplaced = check_owners(rows, owners, &packed.row_numbers, *placement);
        let Some((keys, numbers)) = &packed.deletes else {
            return misplaced;
        };
        owners.clear();
        let deletes = key.key_buckets(keys, buckets, owners);
        let deletes = check_owners(deletes, owners, numbers, *placement);
        match (misplaced, deletes) {
            (Err(one), Err(other)) if other.row < one.row => Err(other),
            (Err(one), _) => Err(one),
            (Ok(()), deletes) => deletes,
        }
    }
}

/// Refuses the first of the rows `numbers` that has no owner, or another than the placement's.
fn check_owners(
    found: Result<(), KeyError>,
    owners: &[u32],
    numbers: &[u32],
    placement: Option<Placement>,
) -> Result<(), Rejection> {
    let number = |row: usize| numbers.get(row).map_or(row, |number| *number as usize);
    if let Some(Placement { bucket, .. }) = placement
        && let Some(row) = owners.iter().position(|owner| *owner != bucket.0)
    {
        let reason = Reason::WrongBucket {
            owner: owners[row],
            bucket: bucket.0,
        };
        return Err(Rejection::of_row(number(row), reason));
    }
    found.map_err(|error| match error {
        KeyError::Rejected(rejection) => Rejection {
            row: number(rejection.row),
            ..rejection
        },
        KeyError::Codec(error) => Rejection::of_row(
            0,
            Reason::CorruptArrow {
                detail: error.to_string(),
            },
        ),
    })
}

impl Placement {
    fn elsewhere(&self, key_text: &[u8]) -> Option<Bucket> {
        let owner = bucket_of(key_text, self.buckets);
        (owner != self.bucket).then_some(owner)
    }
}
