//! What every store must do, as functions over a [`Store`]: run on memory, folders, fault-injecting
//! wrappers and real S3 servers alike. Each works below its own fresh folder and leaves objects there.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream;
use object_store::{MultipartUpload, PutPayload};
use tidelake_core::ErrorKind;
use tidelake_core::ids::IdSource;

use crate::{NumberedLog, ProbeError, PutOnce, StorageError, Store, probe};

/// A promise that a store did not keep.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    #[error("{promise}: {found}")]
    Broken {
        promise: &'static str,
        found: String,
    },
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

type Verdict = Result<(), Violation>;

fn expect(promise: &'static str, holds: bool, found: impl std::fmt::Debug) -> Verdict {
    if holds {
        Ok(())
    } else {
        Err(Violation::Broken {
            promise,
            found: format!("{found:?}"),
        })
    }
}

/// Runs everything below; `ids` keeps runs on a shared store apart.
pub async fn suite(store: &Store, ids: &dyn IdSource) -> Verdict {
    let store = store.scoped(&format!("conformance/{}", ids.next_uuid()));
    what_is_put_can_be_read(&store.scoped("read")).await?;
    what_is_missing_is_missing(&store.scoped("missing")).await?;
    puts_overwrite(&store.scoped("overwrite")).await?;
    creates_have_one_winner(&store.scoped("create")).await?;
    listings_are_whole_and_sorted(&store.scoped("list")).await?;
    odd_names_are_kept(&store.scoped("names")).await?;
    deletes_are_idempotent(&store.scoped("delete")).await?;
    uploads_appear_whole_or_not_at_all(&store.scoped("upload")).await?;
    numbered_logs_hold(&store.scoped("numbered")).await?;
    probe(&store, ids).await?;
    Ok(())
}

pub async fn what_is_put_can_be_read(store: &Store) -> Verdict {
    let body = Bytes::from(
        (0..100_000u32)
            .flat_map(u32::to_le_bytes)
            .collect::<Vec<_>>(),
    );
    store.put("a/b/body", body.clone()).await?;
    store.put("empty", Bytes::new()).await?;
    expect(
        "a whole read returns what was put",
        store.get("a/b/body").await? == body,
        "other",
    )?;
    expect(
        "an empty object is readable",
        store.get("empty").await?.is_empty(),
        "bytes",
    )?;
    let part = store.get_range("a/b/body", 1000..1064).await?;
    expect(
        "a ranged read returns the range",
        part == body[1000..1064],
        part.len(),
    )?;
    // No try mends it, so that it is not the store that is away.
    let beyond = store.get_range("a/b/body", 500_000..500_064).await;
    let told = matches!(&beyond, Err(error) if error.kind() == ErrorKind::Corrupt);
    expect("a range behind the end is damage", told, beyond)?;
    let size = store.head("a/b/body").await?.size;
    expect("head tells the size", size == body.len() as u64, size)
}

pub async fn what_is_missing_is_missing(store: &Store) -> Verdict {
    let got = store.get_opt("nothing").await?;
    expect("a missing object reads as none", got.is_none(), got)?;
    let head = store.head("nothing").await;
    let missing = matches!(head, Err(StorageError::NotFound { .. }));
    expect("head of a missing object says so", missing, head)?;
    let found = store.list("no/such/folder").await?;
    expect("a missing folder lists empty", found.is_empty(), found)
}

pub async fn puts_overwrite(store: &Store) -> Verdict {
    for body in ["first", "second, longer", "third"] {
        store.put("x", body.into()).await?;
        let found = store.get("x").await?;
        expect("a put replaces the whole object", found == body, found)?;
    }
    Ok(())
}

pub async fn creates_have_one_winner(store: &Store) -> Verdict {
    for round in 0..5 {
        let rel = format!("log/{round:020}.json");
        let bodies: Vec<_> = (0..12).map(|writer| format!("{round} {writer}")).collect();
        let puts = bodies.iter().map(|body| {
            store.put_once(&rel, body.clone().into(), |found| found == body.as_bytes())
        });
        let mut winner = None;
        for (body, put) in bodies.iter().zip(join_all(puts).await) {
            if put? == PutOnce::Created {
                expect("a create has one winner", winner.is_none(), (&winner, body))?;
                winner = Some(body.clone());
            }
        }
        let found = store.get(&rel).await?;
        let same = winner.as_deref().is_some_and(|winner| found == winner);
        expect("the winner's bytes stay", same, (winner, found))?;
    }
    Ok(())
}

pub async fn listings_are_whole_and_sorted(store: &Store) -> Verdict {
    let mut names: Vec<_> = (0..30).map(|i| format!("log/{i:05}.json")).collect();
    names.push("log/deep/er/00000.json".into());
    names.push("log2/not-below-log".into());
    for name in &names {
        store.put(name, "x".into()).await?;
    }
    let listed = |found: Vec<object_store::ObjectMeta>| -> Vec<String> {
        found
            .iter()
            .filter_map(|meta| store.relative(&meta.location))
            .collect()
    };
    let mut want: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with("log/"))
        .cloned()
        .collect();
    want.sort();
    let found = listed(store.list("log").await?);
    expect(
        "a listing has every object of the folder, in order",
        found == want,
        found,
    )?;
    let from = listed(store.list_from("log", "log/00027.json").await?);
    let late: Vec<_> = want
        .iter()
        .filter(|n| n.as_str() > "log/00027.json")
        .cloned()
        .collect();
    expect("a listing starts after the given name", from == late, from)?;
    let folders = store.folders("").await?;
    expect("folders are listed", folders == ["log", "log2"], folders)
}

pub async fn odd_names_are_kept(store: &Store) -> Verdict {
    let names = [
        "a b",
        "a%20b",
        "key=väl/x",
        "plus+and&amp",
        "__HIVE__=x/p.parquet",
        "~tilde'",
    ];
    for name in names {
        store.put(name, name.to_owned().into()).await?;
    }
    let found: BTreeSet<_> = store
        .list("")
        .await?
        .iter()
        .filter_map(|meta| store.relative(&meta.location))
        .collect();
    let want: BTreeSet<_> = names.into_iter().map(str::to_owned).collect();
    expect("names come back as they were given", found == want, found)?;
    for name in names {
        let body = store.get(name).await?;
        expect("odd names don't collide", body == name, (name, body))?;
    }
    Ok(())
}

pub async fn deletes_are_idempotent(store: &Store) -> Verdict {
    store.put("x", "x".into()).await?;
    store.delete("x").await?;
    let got = store.get_opt("x").await?;
    expect("a deleted object is gone", got.is_none(), got)?;
    store.delete("x").await?;
    let put = store
        .put_once("x", "new".into(), |found| found == b"new")
        .await?;
    expect(
        "a deleted name can be created again",
        put == PutOnce::Created,
        put,
    )
}

pub async fn uploads_appear_whole_or_not_at_all(store: &Store) -> Verdict {
    let chunk = Bytes::from(vec![7u8; 3 * 1024 * 1024 + 1]);
    let chunks = stream::iter((0..7).map(|_| Ok::<_, StorageError>(chunk.clone())));
    let size = store.put_stream("large", chunks).await?;
    expect(
        "an upload reports its size",
        size == 7 * chunk.len() as u64,
        size,
    )?;
    let found = store.get("large").await?;
    expect(
        "an upload is read whole",
        found.len() as u64 == size,
        found.len(),
    )?;

    let broken = stream::iter([
        Ok(chunk.clone()),
        Err(StorageError::Corrupt {
            at: "source".into(),
            reason: "on purpose".into(),
        }),
    ]);
    let outcome = store.put_stream("broken", broken).await;
    let ours = matches!(outcome, Err(StorageError::Corrupt { .. }));
    expect("an upload whose source fails fails with it", ours, outcome)?;
    let got = store.get_opt("broken").await?;
    expect(
        "an upload that failed leaves nothing to read",
        got.is_none(),
        "an object",
    )?;

    let mut upload: Box<dyn MultipartUpload> = store.upload("open").await?;
    let part = upload.put_part(PutPayload::from_bytes(chunk)).await;
    part.map_err(|error| store.error("open", error))?;
    let got = store.get_opt("open").await?;
    expect(
        "an upload under way can't be read",
        got.is_none(),
        "an object",
    )?;
    let listed = store.list("").await?;
    expect(
        "an upload under way is not listed",
        listed.len() == 1,
        listed,
    )?;
    upload
        .abort()
        .await
        .map_err(|error| store.error("open", error))?;
    Ok(())
}

pub async fn numbered_logs_hold(store: &Store) -> Verdict {
    let log = NumberedLog::new(store.clone(), "_log");
    for number in 0..8u64 {
        let text = number.to_string();
        // The answer to a put that succeeded may get lost.
        let is_ours = |found: &[u8]| found == text.as_bytes();
        let put = log.append(number, text.clone().into(), is_ours).await?;
        expect("a free number is taken", put == PutOnce::Created, put)?;
    }
    let again = log
        .append(3, "other".into(), |found| found == b"other")
        .await?;
    expect(
        "a taken number stays",
        again == PutOnce::Exists("3".into()),
        again,
    )?;
    let latest = log.latest().await?;
    expect("the latest number is found", latest == Some(7), latest)?;
    let read: Vec<u64> = log
        .read_from(2)
        .await?
        .iter()
        .map(|(number, _)| *number)
        .collect();
    expect(
        "commits are read in order",
        read == [2, 3, 4, 5, 6, 7],
        read,
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use tidelake_core::ids::RandomIds;

    use super::*;
    use crate::faults::{Creates, FaultStore, Odds};
    use crate::{RetryPolicy, StoreOptions};

    #[tokio::test]
    async fn memory_conforms() {
        fn sendable<T: Send>(future: T) -> T {
            future
        }
        let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
        sendable(suite(&store, &RandomIds)).await.unwrap();
        suite(&store, &RandomIds).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_folder_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        let store = Store::open(&url, &StoreOptions::default()).unwrap();
        suite(&store, &RandomIds).await.unwrap();
    }

    #[tokio::test]
    async fn a_flaky_store_conforms_thanks_to_retries() {
        let faults = FaultStore::new(Arc::new(InMemory::new()));
        for seed in 0..5 {
            faults.random(
                seed,
                Odds {
                    fail_before: 50,
                    lose_answer: 50,
                },
            );
            let store =
                Store::with_policy(Arc::new(faults.clone()), "memory://", RetryPolicy::QUICK);
            suite(&store, &RandomIds)
                .await
                .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
    }

    #[tokio::test]
    async fn the_suite_catches_a_store_without_conditions() {
        let faults = FaultStore::new(Arc::new(InMemory::new()));
        faults.creates(Creates::CheckThenWrite);
        let store = Store::new(Arc::new(faults), "memory://");
        let verdict = creates_have_one_winner(&store).await;
        assert!(
            matches!(verdict, Err(Violation::Broken { .. })),
            "{verdict:?}"
        );
    }

    /// Run by hand and by the integration tests' S3 server: `TIDELAKE_TEST_S3_URL=s3://bucket/prefix`
    /// with the `AWS_*` variables of that server.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn s3_conforms_where_a_server_is_named() {
        let Ok(url) = std::env::var("TIDELAKE_TEST_S3_URL") else {
            return;
        };
        let open = |url: &str, s3: &[(&str, &str)]| {
            let s3 = s3
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            Store::open(
                url,
                &StoreOptions {
                    s3,
                    ..StoreOptions::default()
                },
            )
            .unwrap()
        };
        let store = open(&url, &[]);
        suite(&store, &RandomIds).await.unwrap();
        let refused = open(&url, &[("aws_secret_access_key", "wrong")])
            .get_opt("x")
            .await;
        assert!(
            matches!(refused, Err(StorageError::Credentials { .. })),
            "{refused:?}"
        );
        let elsewhere = open("s3://tidelake-no-such-bucket/x", &[]);
        let missing = elsewhere.get_opt("x").await;
        assert!(
            matches!(missing, Err(StorageError::NoBucket { .. })),
            "{missing:?}"
        );
        let missing = elsewhere.put_once("x", "x".into(), |_| true).await;
        assert!(
            matches!(missing, Err(StorageError::NoBucket { .. })),
            "{missing:?}"
        );
        let missing = elsewhere.list("").await;
        assert!(
            matches!(missing, Err(StorageError::NoBucket { .. })),
            "{missing:?}"
        );
    }
}
