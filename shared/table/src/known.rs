//! States of buckets that services of one process know of each other.
//!
//! A flusher has the keys of the buckets that it commits to at hand; a query service that follows
//! the same tables would read them from the store again, and merge them again. What one of them has
//! at a version, another's load of that version or a later one can begin at: see
//! [`crate::StateLoader::load_all`], for which it is an earlier state like its own.
//!
//! Invariants: a state is known only as long as whoever told it holds it; a load is never given a
//! state of a version beyond its own, of another incarnation or of another schema.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tidelake_core::{Bucket, TableVersion, TopicId};

use crate::state::BucketState;

/// From so many entries on, those that nobody holds any more are removed.
const SWEPT_FROM: usize = 64;

/// A clone knows the same.
#[derive(Debug, Clone, Default)]
pub struct KnownStates {
    states: Arc<Mutex<States>>,
}

#[derive(Debug, Default)]
struct States {
    by_bucket: HashMap<(TopicId, Bucket), Weak<KnownState>>,
    /// Swept once there are more.
    swept_from: usize,
}

/// What was told of a bucket; known to others until it is dropped.
#[derive(Debug)]
pub struct KnownState {
    version: TableVersion,
    /// Of the table's metadata.
    schema: Arc<str>,
    state: BucketState,
}

impl KnownStates {
    /// The bucket's state at a version that is committed.
    pub fn tell(
        &self,
        (topic, bucket): (TopicId, Bucket),
        schema: &Arc<str>,
        version: TableVersion,
        state: &BucketState,
    ) -> Arc<KnownState> {
        let told = Arc::new(KnownState {
            version,
            schema: Arc::clone(schema),
            state: state.clone(),
        });
        let mut states = self.states();
        if states.by_bucket.len() >= states.swept_from.max(SWEPT_FROM) {
            states.by_bucket.retain(|_, state| state.strong_count() > 0);
            states.swept_from = 2 * states.by_bucket.len();
        }
        states
            .by_bucket
            .insert((topic, bucket), Arc::downgrade(&told));
        told
    }

    /// What is known of a bucket at one of these versions.
    pub fn find(
        &self,
        at: (TopicId, Bucket),
        schema: &str,
        versions: RangeInclusive<TableVersion>,
    ) -> Option<BucketState> {
        let known = self.states().by_bucket.get(&at)?.upgrade()?;
        let fits = versions.contains(&known.version) && *known.schema == *schema;
        fits.then(|| known.state.clone())
    }

    fn states(&self) -> MutexGuard<'_, States> {
        // Nobody panics while holding it.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::KeyKind;

    #[test]
    fn a_state_is_known_at_its_version_and_later_while_it_is_held() {
        let known = KnownStates::default();
        let state = BucketState::new(KeyKind::Bytes);
        let (at, schema) = ((TopicId([7; 16]), Bucket(1)), Arc::from("{}"));
        let upto = |version| TableVersion(0)..=TableVersion(version);
        let find = |version| known.find(at, "{}", upto(version)).is_some();
        assert!(!find(9));
        let told = known.tell(at, &schema, TableVersion(5), &state);
        assert_eq!([find(4), find(5), find(6)], [false, true, true]);
        let newer_than = TableVersion(6)..=TableVersion(9);
        assert!(known.find(at, "{}", newer_than).is_none());
        assert!(known.find(at, "{ }", upto(5)).is_none());
        let other = (at.0, Bucket(2));
        assert!(known.find(other, "{}", upto(5)).is_none());
        let newer = known.tell(at, &schema, TableVersion(6), &state);
        drop(told);
        assert_eq!([find(5), find(6)], [false, true]);
        drop(newer);
        assert!(!find(9));
    }

    #[test]
    fn what_nobody_holds_is_swept() {
        let known = KnownStates::default();
        let (state, schema) = (BucketState::new(KeyKind::Bytes), Arc::from("{}"));
        for bucket in 0..10_000 {
            let at = (TopicId([7; 16]), Bucket(bucket));
            drop(known.tell(at, &schema, TableVersion(1), &state));
        }
        assert!(known.states().by_bucket.len() <= SWEPT_FROM);
    }
}
