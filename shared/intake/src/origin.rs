//! The origin of a re-published record: header `tl-origin`.
//!
//! ```text
//!  <topic id>/<source bucket>/<offset>/<floor>/<code>
//! ```
//! Source bucket and offset say where the record stood first. The floor says that the log has
//! everything of this source for this target that stood below it: the sender had its
//! acknowledgement before it sent this record, so it stands before this record.
//!
//! Whoever can write to the topic can write such a header: a mirrored topic, a restored one, a
//! hostile producer. So the sender signs it, with a key that comes from the table's id in its Delta
//! log, which is random and which no reader or writer of the topic is shown: the code is the
//! BLAKE3 keyed hash of everything else, the target bucket included, cut to 128 bits. A header that
//! is not ours is no origin: the record counts as if it had none. So a forged one takes nothing
//! away, and nobody has to know how far the source's log reaches: we sign no offset ahead of it.
//!
//! A header that this table signed while another topic fed it is neither: its record was on its way
//! when the table went on with this topic, or was copied from the topic that was left. What that
//! one held and no commit had was given up then, so the record counts for nothing. If it counted,
//! it would come to stand behind newer records of its key. In a copy of the topic that was left,
//! the record that it repeats stands in its source bucket, and is sent on anew from there.

use bytes::Bytes;
use tidelake_core::{Bucket, Offset, TopicId};
use tidelake_manifest::Snapshot;

/// Records of one source for one target that may be on their way at once: what a sender may send
/// beyond the first that the log has not acknowledged. It bounds what a receiver has to remember.
pub const ORIGIN_WINDOW: usize = 32;

const CODE_BYTES: usize = 16;
/// Two bytes a digit, and a topic id, three numbers and the slashes at their longest.
const HEADER_BYTES_MAX: usize = 160;
const KEY_CONTEXT: &str = "tidelake 2026-11-29 origins of re-published records";

/// Where a re-published record stood first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub bucket: Bucket,
    pub offset: Offset,
    /// Everything of the source for this target below it stands before this record.
    pub floor: Offset,
}

/// What a header says that this table signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// Where the record stood first in the topic that feeds the table.
    Here(Origin),
    /// It was sent on in a topic that the table has left.
    InTopicLeft,
}

/// Signs and checks the origins of one incarnation of a table.
#[derive(Clone)]
pub struct OriginKey {
    key: [u8; 32],
    topic_id: TopicId,
}

impl std::fmt::Debug for OriginKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OriginKey")
            .field("topic_id", &self.topic_id)
            .finish_non_exhaustive()
    }
}

impl OriginKey {
    /// The key of a table and the topic that it is fed from.
    pub fn of(snapshot: &Snapshot, topic_id: TopicId) -> Self {
        Self::new(&snapshot.metadata().id, topic_id)
    }

    /// The key of a table by its id in the Delta log.
    pub fn new(table_id: &str, topic_id: TopicId) -> Self {
        Self {
            key: blake3::derive_key(KEY_CONTEXT, table_id.as_bytes()),
            topic_id,
        }
    }

    /// The header of a record that goes from one bucket to another.
    pub fn header(&self, origin: Origin, target: Bucket) -> Bytes {
        let Origin {
            bucket,
            offset,
            floor,
        } = origin;
        let topic = self.topic_id;
        let mut text = format!("{topic}/{bucket}/{offset}/{floor}/");
        for byte in self.code(topic, origin, target) {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        Bytes::from(text.into_bytes())
    }

    /// What a header says; `None` where it is not ours, or names no other of the table's buckets.
    pub fn read(&self, header: &[u8], own: Bucket, buckets: u32) -> Option<Signed> {
        if header.len() > HEADER_BYTES_MAX {
            return None;
        }
        let text = std::str::from_utf8(header).ok()?;
        let mut parts = text.split('/');
        let mut part = || parts.next();
        let (topic, bucket, offset, floor, code) = (part()?, part()?, part()?, part()?, part()?);
        let topic = TopicId::parse(topic)?;
        if part().is_some() {
            return None;
        }
        let origin = Origin {
            bucket: Bucket(bucket.parse().ok()?),
            offset: Offset(offset.parse().ok()?),
            floor: Offset(floor.parse().ok()?),
        };
        let ordered = Offset(0) <= origin.floor && origin.floor <= origin.offset;
        let elsewhere = origin.bucket != own && origin.bucket.0 < buckets;
        let ours = same(&hex(code)?, &self.code(topic, origin, own));
        let signed = if topic == self.topic_id {
            Signed::Here(origin)
        } else {
            Signed::InTopicLeft
        };
        (ordered && elsewhere && ours).then_some(signed)
    }

    fn code(&self, topic: TopicId, origin: Origin, target: Bucket) -> [u8; CODE_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&topic.0);
        hasher.update(&origin.bucket.0.to_be_bytes());
        hasher.update(&target.0.to_be_bytes());
        hasher.update(&origin.offset.0.to_be_bytes());
        hasher.update(&origin.floor.0.to_be_bytes());
        let mut code = [0; CODE_BYTES];
        code.copy_from_slice(&hasher.finalize().as_bytes()[..CODE_BYTES]);
        code
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex(text: &str) -> Option<[u8; CODE_BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * CODE_BYTES {
        return None;
    }
    let digit = |byte: u8| HEX.iter().position(|known| *known == byte);
    let mut code = [0; CODE_BYTES];
    for (byte, pair) in code.iter_mut().zip(digits.chunks(2)) {
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(code)
}

/// Compares in a time that does not tell where they differ.
fn same(a: &[u8; CODE_BYTES], b: &[u8; CODE_BYTES]) -> bool {
    let differing = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: TopicId = TopicId([7; 16]);

    fn origin(bucket: u32, offset: i64, floor: i64) -> Origin {
        Origin {
            bucket: Bucket(bucket),
            offset: Offset(offset),
            floor: Offset(floor),
        }
    }

    #[test]
    fn an_origin_is_read_back_by_its_target_only() {
        let key = OriginKey::new("a", TOPIC);
        let sent = origin(3, i64::MAX, 15);
        let header = key.header(sent, Bucket(1));
        assert!(header.len() <= HEADER_BYTES_MAX);
        assert_eq!(key.read(&header, Bucket(1), 4), Some(Signed::Here(sent)));
        assert_eq!(key.read(&header, Bucket(0), 4), None, "another target");
        assert_eq!(key.read(&header, Bucket(1), 3), None, "no such source");
        let other_table = OriginKey::new("b", TOPIC);
        assert_eq!(other_table.read(&header, Bucket(1), 4), None);
        let other_topic = OriginKey::new("a", TopicId([8; 16]));
        let left = other_topic.read(&header, Bucket(1), 4);
        assert_eq!(left, Some(Signed::InTopicLeft));
    }

    #[test]
    fn whatever_is_changed_in_a_header_makes_it_none() {
        let key = OriginKey::new("a", TOPIC);
        let header = key.header(origin(3, 17, 15), Bucket(1));
        for at in 0..header.len() {
            for byte in [b'0', b'1', b'9', b'/', b'a', b'-', 0, 0xff] {
                let mut changed = header.to_vec();
                if changed[at] != byte {
                    changed[at] = byte;
                    assert_eq!(key.read(&changed, Bucket(1), 4), None, "byte {at}");
                }
            }
        }
        let long = [header.as_ref(), &[b'0'; 200]].concat();
        for bad in [&b""[..], b"3/17", b"////", &header[1..], &long] {
            assert_eq!(key.read(bad, Bucket(1), 4), None);
        }
    }

    #[test]
    fn what_can_not_be_is_not_read_even_if_signed() {
        let key = OriginKey::new("a", TOPIC);
        for wrong in [origin(1, 17, 15), origin(3, 17, 18), origin(3, -1, -1)] {
            let header = key.header(wrong, Bucket(1));
            assert_eq!(key.read(&header, Bucket(1), 4), None, "{wrong:?}");
        }
    }
}
