//! The head of a Kafka record batch (magic 2): all the broker ever looks at on the way in and out.
//!
//! ```text
//!   0 base offset i64 │  8 length i32 (of what follows) │ 12 leader epoch i32 │ 16 magic i8
//!  17 crc32c u32 (over all that follows it) │ 21 attributes i16 │ 23 last offset delta i32
//!  27 base timestamp i64 │ 35 max timestamp i64 │ 43 producer id i64 │ 51 producer epoch i16
//!  53 base sequence i32 │ 57 records i32 │ 61 the records, perhaps compressed
//! ```
//! The checksum does not cover the base offset and the leader epoch, so the broker can assign both
//! without touching the rest.

/// Bytes before the first record.
pub(crate) const HEADER_BYTES: usize = 61;
/// Records of one batch: consumers, which keep each of them apart, read no more.
const RECORDS_MAX: i32 = 1_000_000;
/// Bytes that the length field does not count.
const LENGTH_END: usize = 12;
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
/// The only leader epoch there is: one node never loses an election.
pub(crate) const LEADER_EPOCH: i32 = 0;

/// Why bytes are not a record batch that can be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BatchError {
    #[error("batch needs {expected} bytes, {found} are there")]
    Short { expected: usize, found: usize },
    #[error("batch length {0} is not possible")]
    Length(i32),
    #[error("record format {0} is not served: use magic 2 (clients of Kafka 0.11 or later)")]
    Magic(i8),
    #[error("checksum {found:#010x} expected, {computed:#010x} computed")]
    Checksum { found: u32, computed: u32 },
    #[error("batch of {records} records ends at offset delta {last_offset_delta}")]
    Count {
        records: i32,
        last_offset_delta: i32,
    },
    #[error("transactional and control batches are not served")]
    Transactional,
    #[error(
        "batch of {found} records, at most {RECORDS_MAX} are read by every consumer: send it in parts"
    )]
    TooMany { found: i32 },
    #[error("batch of {found} bytes, at most {max} allowed by max.message.bytes")]
    TooLarge { found: usize, max: usize },
    #[error("no record batch at all")]
    Empty,
}

/// The fields of a batch's head that the broker uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub base_offset: i64,
    /// The whole batch, head included.
    pub bytes: usize,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub records: i32,
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

impl BatchHeader {
    /// Reads the head at the start of `bytes`; the records themselves need not be there.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::Short {
                expected: HEADER_BYTES,
                found: bytes.len(),
            });
        }
        let magic = i8::from_be_bytes(take(bytes, 16));
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        let length = i32::from_be_bytes(take(bytes, 8));
        let whole = usize::try_from(length).map_or(0, |length| length + LENGTH_END);
        if whole < HEADER_BYTES {
            return Err(BatchError::Length(length));
        }
        Ok(Self {
            base_offset: i64::from_be_bytes(take(bytes, 0)),
            bytes: whole,
            attributes: i16::from_be_bytes(take(bytes, 21)),
            last_offset_delta: i32::from_be_bytes(take(bytes, 23)),
            base_timestamp: i64::from_be_bytes(take(bytes, 27)),
            max_timestamp: i64::from_be_bytes(take(bytes, 35)),
            producer_id: i64::from_be_bytes(take(bytes, 43)),
            producer_epoch: i16::from_be_bytes(take(bytes, 51)),
            base_sequence: i32::from_be_bytes(take(bytes, 53)),
            records: i32::from_be_bytes(take(bytes, 57)),
        })
    }

    /// Reads the head and checks the checksum over the whole batch at the start of `bytes`.
    pub(crate) fn parse_whole(bytes: &[u8]) -> Result<Self, BatchError> {
        let header = Self::parse(bytes)?;
        if bytes.len() < header.bytes {
            return Err(BatchError::Short {
                expected: header.bytes,
                found: bytes.len(),
            });
        }
        let found = u32::from_be_bytes(take(bytes, CRC_AT));
        let computed = crc32c::crc32c(&bytes[CRC_FROM..header.bytes]);
        if found != computed {
            return Err(BatchError::Checksum { found, computed });
        }
        let full = header.records > 0
            && i64::from(header.last_offset_delta) == i64::from(header.records) - 1;
        if !(full || header.is_filler()) {
            return Err(BatchError::Count {
                records: header.records,
                last_offset_delta: header.last_offset_delta,
            });
        }
        Ok(header)
    }

    /// The offset of the last record.
    pub(crate) fn last_offset(&self) -> i64 {
        self.base_offset
            .saturating_add(i64::from(self.last_offset_delta))
    }

    /// The offset after the last record.
    pub(crate) fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// True for what stands in the place of offsets whose records are lost.
    pub(crate) fn is_filler(&self) -> bool {
        self.records == 0 && self.last_offset_delta >= 0
    }

    /// True for batches of an idempotent producer.
    pub(crate) fn is_sequenced(&self) -> bool {
        self.producer_id >= 0
    }
}

/// Assigns offset and leader epoch to the batch at the start of `batch`.
pub(crate) fn assign_offset(batch: &mut [u8], base_offset: i64) {
    batch[0..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&LEADER_EPOCH.to_be_bytes());
}

/// A batch without records that takes the offsets from `base_offset` up to `next_offset`, or as many
/// of them as one batch can. Consumers know such batches from compaction, and go on behind them.
pub(crate) fn filler(base_offset: i64, next_offset: i64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    let last = next_offset.saturating_sub(base_offset).saturating_sub(1);
    let delta = i32::try_from(last).unwrap_or(i32::MAX).max(0);
    bytes[8..12].copy_from_slice(&((HEADER_BYTES - LENGTH_END) as i32).to_be_bytes());
    bytes[16] = 2;
    bytes[23..27].copy_from_slice(&delta.to_be_bytes());
    // No timestamp, no producer: -1, as for every field that a batch does without.
    bytes[27..57].fill(0xff);
    assign_offset(&mut bytes, base_offset);
    let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
    bytes[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Checks a producer's record set: whole batches only, each fit to be stored.
pub(crate) fn check_record_set(
    mut bytes: &[u8],
    batch_bytes_max: usize,
) -> Result<Vec<BatchHeader>, BatchError> {
    let mut headers = Vec::with_capacity(1);
    while !bytes.is_empty() {
        let header = BatchHeader::parse(bytes)?;
        if header.bytes > batch_bytes_max {
            return Err(BatchError::TooLarge {
                found: header.bytes,
                max: batch_bytes_max,
            });
        }
        let header = BatchHeader::parse_whole(bytes)?;
        if header.attributes & (TRANSACTIONAL | CONTROL) != 0 {
            return Err(BatchError::Transactional);
        }
        if header.is_filler() {
            return Err(BatchError::Count {
                records: header.records,
                last_offset_delta: header.last_offset_delta,
            });
        }
        if header.records > RECORDS_MAX {
            return Err(BatchError::TooMany {
                found: header.records,
            });
        }
        bytes = &bytes[header.bytes..];
        headers.push(header);
    }
    if headers.is_empty() {
        Err(BatchError::Empty)
    } else {
        Ok(headers)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Batches for tests, made by hand.

    use super::*;

    /// What a test batch should look like.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Batch {
        pub records: i32,
        pub payload_bytes: usize,
        pub timestamp: i64,
        pub producer: Option<(i64, i16, i32)>,
    }

    impl Default for Batch {
        fn default() -> Self {
            Self {
                records: 1,
                payload_bytes: 10,
                timestamp: 1_000,
                producer: None,
            }
        }
    }

    impl Batch {
        /// The bytes, with a correct checksum. The payload is records where it has room for them
        /// and its length can be met; otherwise it is opaque.
        pub(crate) fn encode(&self) -> Vec<u8> {
            let (id, epoch, sequence) = self.producer.unwrap_or((-1, -1, -1));
            let mut bytes = vec![0; HEADER_BYTES];
            bytes[8..12].copy_from_slice(
                &((HEADER_BYTES - LENGTH_END + self.payload_bytes) as i32).to_be_bytes(),
            );
            bytes[12..16].copy_from_slice(&(-1_i32).to_be_bytes());
            bytes[16] = 2;
            bytes[23..27].copy_from_slice(&(self.records - 1).to_be_bytes());
            bytes[27..35].copy_from_slice(&self.timestamp.to_be_bytes());
            bytes[35..43].copy_from_slice(&self.timestamp.to_be_bytes());
            bytes[43..51].copy_from_slice(&id.to_be_bytes());
            bytes[51..53].copy_from_slice(&epoch.to_be_bytes());
            bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
            bytes[57..61].copy_from_slice(&self.records.to_be_bytes());
            let payload = records(self.records, self.payload_bytes);
            let opaque = || (0..self.payload_bytes).map(|i| (i % 251) as u8).collect();
            bytes.extend(payload.unwrap_or_else(opaque));
            seal(&mut bytes);
            bytes
        }
    }

    fn varint(value: usize) -> Vec<u8> {
        let (mut rest, mut out) = (value << 1, Vec::new());
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
        out
    }

    /// So many records in exactly so many bytes; the last one takes what is left.
    fn records(count: i32, bytes: usize) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for index in 0..count as usize {
            let mut head = vec![0, 0];
            head.extend(varint(index));
            let last = index + 1 == count as usize;
            let body = if last {
                let left = bytes.checked_sub(out.len())?;
                (head.len()..=left).find(|body| varint(*body).len() + body == left)?
            } else {
                head.len() + 3
            };
            out.extend(varint(body));
            out.extend(&head);
            out.extend(inside(body - head.len())?);
        }
        Some(out)
    }

    /// A key, a value and no headers in exactly so many bytes.
    fn inside(bytes: usize) -> Option<Vec<u8>> {
        // No key, or one byte where the value's length would jump over what is left.
        for key in [&[1][..], &[2, 7]] {
            for width in 1..=5 {
                let value = bytes.checked_sub(key.len() + width + 1)?;
                if varint(value).len() == width {
                    let value_bytes = (0..value).map(|at| (at % 251) as u8);
                    let lead = key.iter().copied().chain(varint(value));
                    return Some(lead.chain(value_bytes).chain([0]).collect());
                }
            }
        }
        None
    }

    /// Recomputes the checksum.
    pub(crate) fn seal(bytes: &mut [u8]) {
        let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
        bytes[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Batch, seal};
    use super::*;

    const MAX: usize = 1 << 20;

    #[test]
    fn a_record_set_of_many_batches_is_accepted() {
        let mut set = Batch {
            records: 3,
            ..Batch::default()
        }
        .encode();
        set.extend(Batch::default().encode());
        let headers = check_record_set(&set, MAX).unwrap();
        assert_eq!(
            headers.iter().map(|h| h.records).collect::<Vec<_>>(),
            [3, 1]
        );
    }

    #[test]
    fn every_flipped_byte_that_the_checksum_covers_is_noticed() {
        let whole = Batch::default().encode();
        for at in CRC_AT..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x40;
            assert!(check_record_set(&bad, MAX).is_err(), "byte {at}");
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let whole = Batch::default().encode();
        for len in 0..whole.len() {
            assert!(check_record_set(&whole[..len], MAX).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        let mut old = Batch::default().encode();
        old[16] = 1;
        assert_eq!(check_record_set(&old, MAX), Err(BatchError::Magic(1)));

        let mut counted = Batch::default().encode();
        counted[57..61].copy_from_slice(&7_i32.to_be_bytes());
        seal(&mut counted);
        assert!(matches!(
            check_record_set(&counted, MAX),
            Err(BatchError::Count { .. })
        ));

        let mut control = Batch::default().encode();
        control[22] |= 0x20;
        seal(&mut control);
        assert_eq!(
            check_record_set(&control, MAX),
            Err(BatchError::Transactional)
        );

        let large = Batch {
            payload_bytes: 200,
            ..Batch::default()
        }
        .encode();
        assert!(matches!(
            check_record_set(&large, 100),
            Err(BatchError::TooLarge { .. })
        ));
    }

    #[test]
    fn offset_assignment_leaves_the_checksum_valid() {
        let mut batch = Batch {
            records: 5,
            ..Batch::default()
        }
        .encode();
        assign_offset(&mut batch, 77);
        let header = BatchHeader::parse_whole(&batch).unwrap();
        assert_eq!((header.base_offset, header.next_offset()), (77, 82));
    }
}
