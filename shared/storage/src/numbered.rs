//! A log of numbered commits under one folder: `<folder>/00000000000000000042.json`.
//!
//! The number is the lock: whoever creates it has committed. The manifest (a Delta log) and the
//! catalog are both such logs.
//!
//! A listing is no snapshot: of two commits that are made while it runs, the later may show and the
//! earlier not. So a listing only tells how far the log goes at least; whether a number below that
//! is there is asked of the store by name, and only a commit that can't be had that way is missing.
//!
//! A log that other programs write, too, may show commits that are not whole yet: see
//! [`NumberedLog::written_by_others`].

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tidelake_core::clock::SharedClock;

use crate::settling::Settling;
use crate::{PutOnce, Result, StorageError, Store};

/// Commits that a reader fetches one by one before it asks for a listing.
const STEPS_MAX: u64 = 4;
/// Commits fetched at a time after a listing.
const READS_IN_FLIGHT_MAX: usize = 16;

/// Numbered commits, each written once and never changed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NumberedLog {
    store: Store,
    folder: String,
    /// None where all commits appear whole.
    settling: Option<Settling>,
}

impl NumberedLog {
    /// The log in `folder` of `store`.
    pub fn new(store: Store, folder: &str) -> Self {
        Self {
            store,
            folder: folder.trim_matches('/').to_owned(),
            settling: None,
        }
    }

    /// A log that others write, too, and not always by creating whole files: where the store shows
    /// parts of a file, a commit of which `is_whole` does not say that its writer creates it whole
    /// is there once it no longer grows.
    #[must_use]
    pub fn written_by_others(self, is_whole: fn(&[u8]) -> bool, clock: SharedClock) -> Self {
        let settling = self.store.shows_parts();
        Self {
            settling: settling.then_some(Settling { clock, is_whole }),
            ..self
        }
    }

    /// The name of commit `number`, relative to the store.
    pub fn name(&self, number: u64) -> String {
        format!("{}/{number:020}.json", self.folder)
    }

    /// The number that a file of the log's folder stands for; none for other files.
    pub fn parse(file_name: &str) -> Option<u64> {
        let digits = file_name.strip_suffix(".json")?;
        let plain = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse().ok())?
    }

    /// Takes the number, if it is free. See [`Store::put_once`].
    ///
    /// # Errors
    /// [`StorageError::Unfinished`] where somebody has taken it and goes on writing.
    pub async fn append(
        &self,
        number: u64,
        bytes: Bytes,
        is_ours: impl Fn(&[u8]) -> bool + Send + Sync,
    ) -> Result<PutOnce> {
        let name = self.name(number);
        let put = self.store.put_once(&name, bytes, is_ours).await?;
        match (&put, &self.settling) {
            (PutOnce::Exists(found), Some(settling)) if !(settling.is_whole)(found) => {
                match settling.read(&self.store, &name).await? {
                    Some(found) => Ok(PutOnce::Exists(found)),
                    None => Err(StorageError::Unfinished {
                        at: self.store.url_of(&name),
                    }),
                }
            }
            _ => Ok(put),
        }
    }

    /// One commit, if it exists and is whole. One request, unless somebody is writing it.
    pub async fn read(&self, number: u64) -> Result<Option<Bytes>> {
        let name = self.name(number);
        match &self.settling {
            None => self.store.get_opt(&name).await,
            Some(settling) => settling.read(&self.store, &name).await,
        }
    }

    /// True where commits of others may show before they are whole.
    pub fn shows_parts(&self) -> bool {
        self.settling.is_some()
    }

    /// True where the newest commit, whose file changed at `changed_ms`, is not to be counted on
    /// before it was read.
    pub fn may_grow(&self, changed_ms: i64) -> bool {
        let settling = self.settling.as_ref();
        settling.is_some_and(|settling| settling.may_grow(changed_ms))
    }

    /// All commits from `number` on, in order, without a gap. One request where there is none.
    pub async fn read_from(&self, number: u64) -> Result<Vec<(u64, Bytes)>> {
        let mut commits = Vec::new();
        self.visit_from(number, |number, bytes| {
            commits.push((number, bytes));
            Ok::<_, StorageError>(())
        })
        .await?;
        Ok(commits)
    }

    /// Shows `visit` all commits from `number` on, in order, without a gap; few are in memory at a
    /// time. One request where there is none.
    pub async fn visit_from<E: From<StorageError>>(
        &self,
        number: u64,
        mut visit: impl FnMut(u64, Bytes) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut next = number;
        // Mostly there are none or few: no listing then.
        while next < number.saturating_add(STEPS_MAX) {
            let Some(bytes) = self.read(next).await? else {
                return Ok(());
            };
            visit(next, bytes)?;
            next += 1;
        }
        let Some(last) = self.numbers_from(next).await?.last().copied() else {
            return Ok(());
        };
        match self.visit_range(next, last, &mut visit).await? {
            None => Ok(()),
            // Nothing follows: it was taken back, or is not whole yet.
            Some(missing) if missing == last => Ok(()),
            Some(missing) => Err(self.missing(missing).into()),
        }
    }

    /// Shows `visit` the commits from `first` to `last`, in order; few are in memory at a time.
    /// Stops at the first that is missing, and returns its number.
    pub async fn visit_range<E: From<StorageError>>(
        &self,
        first: u64,
        last: u64,
        mut visit: impl FnMut(u64, Bytes) -> std::result::Result<(), E>,
    ) -> std::result::Result<Option<u64>, E> {
        let numbers = futures::stream::iter(first..=last);
        let mut reads = numbers
            .map(|number| self.clone().read_numbered(number))
            .buffered(READS_IN_FLIGHT_MAX);
        while let Some((number, bytes)) = reads.try_next().await? {
            match bytes {
                Some(bytes) => visit(number, bytes)?,
                None => return Ok(Some(number)),
            }
        }
        Ok(None)
    }

    async fn read_numbered(self, number: u64) -> Result<(u64, Option<Bytes>)> {
        Ok((number, self.read(number).await?))
    }

    fn missing(&self, number: u64) -> StorageError {
        StorageError::Corrupt {
            at: self.store.url_of(&self.name(number)),
            reason: "this commit is missing although later ones exist".into(),
        }
    }

    /// The numbers present from `number` on, in order. One listing.
    pub async fn numbers_from(&self, number: u64) -> Result<Vec<u64>> {
        let found = match number.checked_sub(1) {
            None => self.store.list(&self.folder).await?,
            Some(before) => {
                self.store
                    .list_from(&self.folder, &self.name(before))
                    .await?
            }
        };
        let numbers = found
            .iter()
            .filter_map(|meta| Self::parse(meta.location.filename()?));
        Ok(numbers.filter(|found| *found >= number).collect())
    }

    /// The highest number, if there is any commit. One listing.
    pub async fn latest(&self) -> Result<Option<u64>> {
        Ok(self.numbers_from(0).await?.last().copied())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::faults::FaultStore;
    use crate::{Operation, StoreOptions};

    async fn log_of(commits: u64) -> (Store, NumberedLog) {
        let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
        let log = NumberedLog::new(store.clone(), "log/");
        for number in 0..commits {
            let put = log
                .append(number, format!("{number}").into(), |_| false)
                .await;
            assert_eq!(put.unwrap(), PutOnce::Created);
        }
        (store, log)
    }

    #[tokio::test]
    async fn reading_on_from_the_end_costs_one_request() {
        let (store, log) = log_of(3).await;
        let before = store.requests();
        assert_eq!(log.read_from(3).await.unwrap(), []);
        assert_eq!(store.requests().since(&before).total(), 1);
        assert_eq!(store.requests().of(Operation::List), 0);
    }

    #[tokio::test]
    async fn every_commit_comes_once_and_in_order() {
        for commits in [0, 1, 4, 5, 40] {
            let (_, log) = log_of(commits).await;
            let read = log.read_from(0).await.unwrap();
            let numbers: Vec<_> = read.iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers, (0..commits).collect::<Vec<_>>());
            assert!(
                read.iter()
                    .all(|(number, bytes)| *bytes == number.to_string())
            );
            assert_eq!(log.latest().await.unwrap(), commits.checked_sub(1));
        }
    }

    #[tokio::test]
    async fn a_commit_that_a_listing_skips_is_asked_for_by_name() {
        let faults = FaultStore::new(Arc::new(InMemory::new()));
        let store = Store::with_policy(
            Arc::new(faults.clone()),
            "memory://",
            crate::RetryPolicy::QUICK,
        );
        let log = NumberedLog::new(store.clone(), "log");
        for number in 0..20 {
            let put = log.append(number, format!("{number}").into(), |_| false);
            assert_eq!(put.await.unwrap(), PutOnce::Created);
        }
        faults.hide_from_listings("0000000007.json");
        faults.hide_from_listings("0000000018.json");
        assert_eq!(log.numbers_from(5).await.unwrap()[..3], [5, 6, 8]);
        let read = log.read_from(0).await.unwrap();
        let numbers: Vec<_> = read.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_range_tells_where_it_breaks_off() {
        let (store, log) = log_of(10).await;
        store.delete(&log.name(7)).await.unwrap();
        let mut seen = Vec::new();
        let missing = log.visit_range(5, 9, |number, _| {
            seen.push(number);
            Ok::<_, StorageError>(())
        });
        assert_eq!(missing.await.unwrap(), Some(7));
        assert_eq!(seen, [5, 6]);
    }

    #[tokio::test]
    async fn a_hole_is_corruption() {
        let (store, log) = log_of(10).await;
        store.delete(&log.name(7)).await.unwrap();
        let error = log.read_from(0).await.unwrap_err();
        assert!(matches!(&error, StorageError::Corrupt { at, .. } if at.contains("0007.json")));
    }

    #[test]
    fn only_commit_names_are_numbers() {
        assert_eq!(NumberedLog::parse("00000000000000000042.json"), Some(42));
        for other in [
            "42.json",
            "00000000000000000042.json.tmp",
            "_last_checkpoint",
            "x.json",
        ] {
            assert_eq!(NumberedLog::parse(other), None, "{other}");
        }
        assert_eq!(NumberedLog::parse("+0000000000000000042.json"), None);
    }
}
