//! The entries of the offsets' log, as bytes.
//!
//! ```text
//! entry: body length u32 │ crc32c of body u32 │ body
//!   body: kind u8 │ group text │ and for
//!         kind 1 (commit):            topic text │ partition i32 │ offset i64 │ leader epoch i32
//!                                     │ metadata text │ committed ms i64
//!         kind 2 (forget the group):  nothing
//!         kind 3 (forget a position): topic text │ partition i32
//!         kind 4 (the group lives):   seen ms i64
//!         kind 5 (forget if stale):   before ms i64
//!   text: length u32 │ UTF-8
//! ```

use crate::producers::field;

/// No entry that is written is longer: names and notes are bounded where they come in.
const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Bytes that a search for the next entry may put through the checksum.
const SEARCHED_BYTES_MAX: usize = 1 << 30;
const HEAD_BYTES: usize = 8;

/// One committed position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    pub committed_ms: i64,
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Commit {
        group: String,
        topic: String,
        partition: i32,
        committed: Committed,
    },
    ForgetGroup {
        group: String,
    },
    Forget {
        group: String,
        topic: String,
        partition: i32,
    },
    /// The group had members at this time.
    Seen {
        group: String,
        seen_ms: i64,
    },
    /// Forgets the group unless it gave a sign of life since: one that commits while this is on its
    /// way to the disk keeps its positions.
    ForgetStale {
        group: String,
        before_ms: i64,
    },
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_be_bytes());
    out.extend(text.as_bytes());
}

fn take_text(bytes: &mut &[u8]) -> Option<String> {
    let len = u32::from_be_bytes(field(bytes)?) as usize;
    let (text, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// Appends an entry.
pub(super) fn encode(change: &Change, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; HEAD_BYTES]);
    let begin = |out: &mut Vec<u8>, kind: u8, group: &str| {
        out.push(kind);
        put_text(out, group);
    };
    match change {
        Change::Commit {
            group,
            topic,
            partition,
            committed,
        } => {
            begin(out, 1, group);
            put_text(out, topic);
            out.extend(partition.to_be_bytes());
            out.extend(committed.offset.to_be_bytes());
            out.extend(committed.leader_epoch.to_be_bytes());
            put_text(out, &committed.metadata);
            out.extend(committed.committed_ms.to_be_bytes());
        }
        Change::ForgetGroup { group } => begin(out, 2, group),
        Change::Forget {
            group,
            topic,
            partition,
        } => {
            begin(out, 3, group);
            put_text(out, topic);
            out.extend(partition.to_be_bytes());
        }
        Change::Seen { group, seen_ms } => {
            begin(out, 4, group);
            out.extend(seen_ms.to_be_bytes());
        }
        Change::ForgetStale { group, before_ms } => {
            begin(out, 5, group);
            out.extend(before_ms.to_be_bytes());
        }
    }
    let body = start + HEAD_BYTES;
    let len = (out.len() - body) as u32;
    let crc = crc32c::crc32c(&out[body..]);
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
    out[start + 4..body].copy_from_slice(&crc.to_be_bytes());
}

/// Takes one whole entry; leaves `bytes` as it is where there is none.
///
/// The length is bounded by what is there alone: an entry that some version wrote is never refused
/// for its size, because whatever follows it would be lost with it.
pub(super) fn decode(bytes: &mut &[u8]) -> Option<Change> {
    let mut rest = *bytes;
    let len = u32::from_be_bytes(field(&mut rest)?) as usize;
    let crc = u32::from_be_bytes(field(&mut rest)?);
    let (body, rest) = rest.split_at_checked(len)?;
    if crc32c::crc32c(body) != crc {
        return None;
    }
    let change = decode_body(body)?;
    *bytes = rest;
    Some(change)
}

fn decode_body(mut body: &[u8]) -> Option<Change> {
    let body = &mut body;
    let [kind] = field(body)?;
    let group = take_text(body)?;
    Some(match kind {
        1 => Change::Commit {
            group,
            topic: take_text(body)?,
            partition: i32::from_be_bytes(field(body)?),
            committed: Committed {
                offset: i64::from_be_bytes(field(body)?),
                leader_epoch: i32::from_be_bytes(field(body)?),
                metadata: take_text(body)?,
                committed_ms: i64::from_be_bytes(field(body)?),
            },
        },
        2 => Change::ForgetGroup { group },
        3 => Change::Forget {
            group,
            topic: take_text(body)?,
            partition: i32::from_be_bytes(field(body)?),
        },
        4 => Change::Seen {
            group,
            seen_ms: i64::from_be_bytes(field(body)?),
        },
        5 => Change::ForgetStale {
            group,
            before_ms: i64::from_be_bytes(field(body)?),
        },
        _ => return None,
    })
}

/// Where the next whole entry starts behind bytes that are none. `None` where nothing valid follows:
/// then `bytes` are what a crash left of the last write.
pub(super) fn next_entry(bytes: &[u8]) -> Option<usize> {
    let mut searched = 0;
    for at in 1..bytes.len().saturating_sub(HEAD_BYTES) {
        let mut rest = &bytes[at..];
        let mut head = rest;
        let len = u32::from_be_bytes(field(&mut head)?) as usize;
        let kind = rest[HEAD_BYTES];
        if !(1..=5).contains(&kind) || len > ENTRY_BYTES_MAX.min(rest.len() - HEAD_BYTES) {
            continue;
        }
        searched += len;
        if searched > SEARCHED_BYTES_MAX {
            return None;
        }
        if decode(&mut rest).is_some() {
            return Some(at);
        }
    }
    None
}
