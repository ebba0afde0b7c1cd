//! The live keys of a whole table, each compared with all others of the bucket that it belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use tidelake_core::Bucket;
use tidelake_manifest::DataFile;

use super::{NAMED_MAX, Report};
use crate::TableError;
use crate::index::{Index, IndexHome, KeyRef};
use crate::load::{StateLoader, blocking};
use crate::read::RowKeys;
use crate::rowset::RowSet;

/// Keys by the bucket that they belong to, whichever files they stand in.
#[derive(Default)]
pub(super) struct LiveKeys {
    buckets: BTreeMap<Bucket, Keys>,
}

struct Keys {
    index: Index,
    dead: BTreeMap<Arc<str>, Arc<RowSet>>,
}

impl LiveKeys {
    /// Adds the keys of a file.
    pub(super) async fn add(
        &mut self,
        loader: &StateLoader,
        file: &DataFile,
        keys: RowKeys,
        dead: RowSet,
    ) -> Result<(), TableError> {
        let path: Arc<str> = Arc::from(file.path());
        let (keys, dead) = (Arc::new(keys), Arc::new(dead));
        let owners = keys.owners().unwrap_or_default().iter();
        let owners: BTreeSet<Bucket> = owners.map(|owner| Bucket(*owner)).collect();
        for bucket in owners {
            let of_bucket = self.buckets.entry(bucket).or_insert_with(|| Keys {
                index: Index::new(loader.spec().kind()),
                dead: BTreeMap::new(),
            });
            let (home, index) = (Arc::clone(loader.home()), of_bucket.index.clone());
            let (name, keys) = (Arc::clone(&path), Arc::clone(&keys));
            let added = blocking(move || {
                let entries = keys.entries_of(bucket);
                Ok(index.with_entries(&home, name, &entries)?)
            });
            of_bucket.index = added.await?;
            of_bucket.dead.insert(Arc::clone(&path), Arc::clone(&dead));
        }
        Ok(())
    }

    /// Reports keys that are live twice.
    pub(super) async fn compare(
        self,
        loader: &StateLoader,
        report: &mut Report,
    ) -> Result<(), TableError> {
        for (bucket, keys) in self.buckets {
            let home = Arc::clone(loader.home());
            let compared = blocking(move || unique(keys.index, &keys.dead, &home));
            let (keys, twice) = compared.await?;
            report.keys += keys;
            for detail in twice {
                report.add("each_key_is_live_once", format!("bucket {bucket}"), detail);
            }
        }
        Ok(())
    }
}

/// Counts the live keys of a bucket and names those that are live twice.
fn unique(
    index: Index,
    dead: &BTreeMap<Arc<str>, Arc<RowSet>>,
    home: &IndexHome,
) -> Result<(u64, Vec<String>), TableError> {
    let names: Vec<&Arc<str>> = dead.keys().collect();
    let slot = |path: &str| {
        let place = names.binary_search_by(|name| name.as_ref().cmp(path));
        place.ok().map(|place| place as u32)
    };
    let sets: Vec<&Arc<RowSet>> = dead.values().collect();
    let mut index = index;
    while let Some(job) = index.due() {
        let run = index.merge(&job, home, &slot, &|slot, row| {
            sets[slot as usize].contains(row)
        })?;
        index = index.replaced(&job, run);
    }
    let (mut keys, mut twice) = (0, Vec::new());
    let mut last: Option<(Owned, u32, u32)> = None;
    index.range(
        Bound::Unbounded,
        Bound::Unbounded,
        &slot,
        &mut |key, slot, row| {
            if sets[slot as usize].contains(row) {
                return true;
            }
            keys += 1;
            if let Some((before, file, at)) = &last
                && before.is(key)
            {
                let (a, b) = (names[*file as usize], names[slot as usize]);
                twice.push(format!(
                    "key {key:?} lives in {a} row {at} and in {b} row {row}"
                ));
            }
            last = Some((Owned::of(key), slot, row));
            twice.len() < NAMED_MAX
        },
    )?;
    Ok((keys, twice))
}

/// A key that outlives the call that showed it.
enum Owned {
    Fixed(u128),
    Bytes(Vec<u8>),
}

impl Owned {
    fn of(key: KeyRef<'_>) -> Self {
        match key {
            KeyRef::Fixed(key) => Self::Fixed(key),
            KeyRef::Bytes(key) => Self::Bytes(key.to_vec()),
        }
    }

    fn is(&self, key: KeyRef<'_>) -> bool {
        match (self, key) {
            (Self::Fixed(own), KeyRef::Fixed(key)) => *own == key,
            (Self::Bytes(own), KeyRef::Bytes(key)) => own.as_slice() == key,
            _ => false,
        }
    }
}
