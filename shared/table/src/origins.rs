//! Records that were written to another bucket than their key's.
//!
//! ```text
//!  bucket A @17: key belongs to B ─► re-published to B with `tl-origin: A/17`, before A's watermark passes 17
//!  bucket B: takes origins of one source in rising order only; the last one stands in the log
//!            as a transaction `tidelake/<topic>/B/from/A`, in the commit that holds the row
//! ```
//! So a re-publication that is repeated, after a crash or by a zombie, changes nothing: its origin is
//! not above the last one. Whoever reads a bucket's messages, to commit them or to show them, must
//! leave out the same ones: what is taken depends on nothing but the messages before it.

use std::collections::BTreeMap;

use tidelake_core::clock::UnixMillis;
use tidelake_core::{Bucket, Offset, TopicId};
use tidelake_manifest::action::Txn;
use tidelake_manifest::{Snapshot, app_id};

/// Where a re-published record stood first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub bucket: Bucket,
    pub offset: Offset,
}

impl Origin {
    /// Reads the header of a record in bucket `own` of `buckets`; `None` where it does not name a
    /// position in another one.
    pub fn parse(header: &[u8], own: Bucket, buckets: u32) -> Option<Self> {
        let (bucket, offset) = std::str::from_utf8(header).ok()?.split_once('/')?;
        let (bucket, offset) = (Bucket(bucket.parse().ok()?), Offset(offset.parse().ok()?));
        let elsewhere = bucket != own && bucket.0 < buckets && offset >= Offset(0);
        elsewhere.then_some(Self { bucket, offset })
    }
}

/// The last origin taken from each source.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    taken: BTreeMap<Bucket, Offset>,
    /// Sources whose last origin no commit holds yet.
    moved: BTreeMap<Bucket, Offset>,
}

impl Origins {
    /// What the log holds for a bucket.
    pub fn of(snapshot: &Snapshot, topic: &TopicId, bucket: Bucket) -> Self {
        let prefix = format!("{}/from/", app_id(topic, bucket));
        let taken = snapshot.txns().filter_map(|txn| {
            let source = txn.app_id.strip_prefix(&prefix)?.parse().ok()?;
            Some((Bucket(source), Offset(txn.version)))
        });
        Self {
            taken: taken.collect(),
            moved: BTreeMap::new(),
        }
    }

    /// A commit may cover more than was read here: what it took counts as taken.
    pub fn committed(&mut self, snapshot: &Snapshot, topic: &TopicId, bucket: Bucket) {
        for (source, offset) in Self::of(snapshot, topic, bucket).taken {
            let taken = self.taken.entry(source).or_insert(offset);
            *taken = offset.max(*taken);
        }
    }

    /// True where the record was not taken before.
    pub fn is_new(&self, origin: Origin) -> bool {
        let taken = self.taken.get(&origin.bucket);
        taken.is_none_or(|taken| *taken < origin.offset)
    }

    pub fn take(&mut self, origin: Origin) {
        self.taken.insert(origin.bucket, origin.offset);
        self.moved.insert(origin.bucket, origin.offset);
    }

    /// What the next commit has to hold.
    pub fn seal(&mut self) -> BTreeMap<Bucket, Offset> {
        std::mem::take(&mut self.moved)
    }
}

/// The transactions that keep a bucket's last origins.
pub fn txns(
    topic: &TopicId,
    bucket: Bucket,
    origins: &BTreeMap<Bucket, Offset>,
    now_ms: UnixMillis,
) -> impl Iterator<Item = Txn> {
    let own = app_id(topic, bucket);
    origins.iter().map(move |(source, offset)| Txn {
        app_id: format!("{own}/from/{source}"),
        version: offset.0,
        last_updated: Some(now_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(bucket: u32, offset: i64) -> Origin {
        Origin {
            bucket: Bucket(bucket),
            offset: Offset(offset),
        }
    }

    #[test]
    fn origins_are_read_strictly() {
        let parse = |text: &str| Origin::parse(text.as_bytes(), Bucket(1), 4);
        assert_eq!(parse("3/17"), Some(origin(3, 17)));
        for bad in ["", "3", "3/", "/17", "3/-1", "x/1", "3/17/1", "3 /17"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(
            (parse("1/17"), parse("4/17")),
            (None, None),
            "no other bucket"
        );
    }

    #[test]
    fn one_source_s_origins_are_taken_in_rising_order_only() {
        let mut origins = Origins::default();
        assert!(origins.is_new(origin(1, 5)));
        origins.take(origin(1, 5));
        assert!(!origins.is_new(origin(1, 5)) && !origins.is_new(origin(1, 4)));
        assert!(origins.is_new(origin(1, 6)) && origins.is_new(origin(2, 0)));
        assert_eq!(origins.seal(), BTreeMap::from([(Bucket(1), Offset(5))]));
        assert!(origins.seal().is_empty() && !origins.is_new(origin(1, 5)));
    }

    #[test]
    fn each_source_has_a_transaction_of_its_own() {
        let topic = TopicId([7; 16]);
        let moved = BTreeMap::from([(Bucket(0), Offset(9)), (Bucket(2), Offset(1))]);
        let found: Vec<_> = txns(&topic, Bucket(1), &moved, 5).collect();
        assert_eq!(found[0].app_id, format!("tidelake/{topic}/1/from/0"));
        assert_eq!((found[1].version, found[1].last_updated), (1, Some(5)));
    }
}
