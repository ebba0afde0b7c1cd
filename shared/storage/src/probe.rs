//! The start-up probe: does this store really create at most once?
//!
//! Some S3 look-alikes accept `If-None-Match: *` and overwrite all the same, or check first and write
//! later. On such a store two workers can commit the same table version and one of them loses
//! acknowledged rows. So we race before we trust.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::join_all;
use tidelake_core::ErrorKind;
use tidelake_core::ids::IdSource;

use crate::{PutOnce, StorageError, Store};

/// Races run one after the other.
const ROUNDS: usize = 6;
/// Writers of one race.
const WRITERS: usize = 8;

/// Why a store can't carry tables.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(
        "the object store {url} is not safe for Tidelake: of {writers} concurrent creates of one \
         object {winners} succeeded, exactly one must. It lacks an atomic put-if-absent \
         (`If-None-Match: *`); use a store that has it"
    )]
    NotAtomic {
        url: String,
        writers: usize,
        winners: usize,
    },
    #[error(
        "the object store {url} is not safe for Tidelake: it kept other bytes than those of the \
         writer that won a put-if-absent (`If-None-Match: *`); use a store that honours it"
    )]
    Overwritten { url: String },
    #[error("the object store could not be probed")]
    Storage(#[from] StorageError),
}

impl ProbeError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAtomic { .. } | Self::Overwritten { .. } => ErrorKind::Invalid,
            Self::Storage(error) => error.kind(),
        }
    }
}

/// Races concurrent creates under `_tidelake_probe/`, checks that each race has one winner whose
/// bytes stay, and removes what it wrote.
pub async fn probe(store: &Store, ids: &dyn IdSource) -> Result<(), ProbeError> {
    let store = store.scoped(&format!("_tidelake_probe/{}", ids.next_uuid()));
    let mut outcome = Ok(());
    for round in 0..ROUNDS {
        let rel = format!("{round}");
        outcome = race(&store, &rel, ids).await;
        let cleaned = store.delete(&rel).await;
        if outcome.is_err() {
            break;
        }
        cleaned?;
    }
    outcome
}

async fn race(store: &Store, rel: &str, ids: &dyn IdSource) -> Result<(), ProbeError> {
    let bodies: Vec<Bytes> = (0..WRITERS)
        .map(|_| ids.next_uuid().to_string().into())
        .collect();
    let puts = bodies.iter().map(|body| async move {
        let put = store
            .put_once(rel, body.clone(), |found| found == body)
            .await?;
        Ok::<_, StorageError>((body, put))
    });
    let mut winners = BTreeSet::new();
    for put in join_all(puts).await {
        if let (body, PutOnce::Created) = put? {
            winners.insert(body.clone());
        }
    }
    let found = store.get(rel).await?;
    let url = || store.url();
    if winners.len() != 1 {
        return Err(ProbeError::NotAtomic {
            url: url(),
            writers: WRITERS,
            winners: winners.len(),
        });
    }
    let late = ids.next_uuid().to_string();
    let late = store
        .put_once(rel, late.clone().into(), |found| found == late.as_bytes())
        .await?;
    let after = store.get(rel).await?;
    if !winners.contains(&found) || late == PutOnce::Created || after != found {
        return Err(ProbeError::Overwritten { url: url() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use tidelake_core::ids::RandomIds;

    use super::*;
    use crate::StoreOptions;
    use crate::faults::{Creates, FaultStore};

    fn lookalike(creates: Creates) -> Store {
        let faults = FaultStore::new(Arc::new(InMemory::new()));
        faults.creates(creates);
        Store::new(Arc::new(faults), "s3://lookalike")
    }

    #[tokio::test]
    async fn an_atomic_store_passes_and_is_left_clean() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        for url in ["memory:///", &url] {
            let store = Store::open(url, &StoreOptions::default()).unwrap();
            probe(&store, &RandomIds).await.unwrap();
            assert_eq!(store.list("").await.unwrap(), [], "{url}");
        }
    }

    #[tokio::test]
    async fn a_store_that_checks_first_and_writes_then_is_refused() {
        let store = lookalike(Creates::CheckThenWrite);
        let error = probe(&store, &RandomIds).await.unwrap_err();
        assert!(
            matches!(error, ProbeError::NotAtomic { winners: 2.., .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("s3://lookalike"), "{error}");
    }

    #[tokio::test]
    async fn a_store_that_ignores_the_condition_is_refused() {
        let store = lookalike(Creates::Overwrite);
        let error = probe(&store, &RandomIds).await.unwrap_err();
        assert!(!matches!(error, ProbeError::Storage(_)), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
