//! The follower of one table: reads, decodes, applies, and moves to newer snapshots.
//!
//! ```text
//!            ┌── feed: messages ─► decode ─► apply ─► tell ──┐
//!  select ───┼── wanted: a newer snapshot ─► rebase (task)   ├─► the next view
//!            ├── rebased: states of the new snapshot, ───────┘
//!            │            the pieces behind it applied anew
//!            └── nobody asked for a while ─► end
//! ```
//! One owner, one loop. A rebase runs beside the loop, so that fresh rows do not wait for it; what
//! came meanwhile is applied when it is done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidelake_core::{Bucket, Offset, Watermark};
use tidelake_log::{LogError, News};
use tidelake_table::StateLoader;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Shared;
use super::decode::Decoders;
use super::pieces::{BucketTail, Piece, Rows, piece_name};
use super::topic::check_end;
use super::upsert::{self, UpsertState};
use super::view::{Followed, View};
use crate::error::QueryError;
use crate::moment;
use crate::table::pinned::Pinned;
use crate::table::shape::is_same;

/// Between two rebases that commit events ask for: each applies the tail anew.
const REBASE_PAUSE: Duration = Duration::from_millis(500);
/// Pieces of an upsert table's bucket; more are made one.
const PIECES_MAX: usize = 256;

/// Why a round of following is over.
enum Over {
    /// Nobody needs it any more.
    Unused,
    /// Begin again from the newest snapshot; what is known of the last one may help.
    Again(Box<Base>),
}

/// Follows the table until it is not used any more, or can't be followed.
pub(super) async fn run(shared: Arc<Shared>, followed: Arc<Followed>) {
    let work = async {
        let mut age = Duration::from_millis(shared.settings.snapshot_age_ms_max);
        let mut before = None;
        loop {
            match follow(&shared, &followed, age, before.as_ref()).await {
                Ok(Over::Unused) => return None,
                Ok(Over::Again(base)) => (age, before) = (Duration::ZERO, Some(*base)),
                Err(error) => return Some(error),
            }
        }
    };
    let ended = tokio::select! {
        ended = work => ended,
        () = followed.stopped() => None,
        () = shared.closed.cancelled() => None,
    };
    if let Some(error) = &ended {
        let table = &followed.entry().id;
        tracing::debug!(%table, %error, "the tail can't be followed");
    }
    followed.end(ended.unwrap_or(QueryError::Closed));
    shared.remove(&followed);
}

async fn follow(
    shared: &Arc<Shared>,
    followed: &Arc<Followed>,
    age: Duration,
    before: Option<&Base>,
) -> Result<Over, QueryError> {
    let base = Base::read(shared, followed, age, before).await?;
    let mut table = Table::new(shared, followed, base);
    let topic = &followed.entry().topic;
    let mut feed = shared.source.follow(topic, &table.positions())?;
    table.tell();
    let mut rebase: Option<JoinHandle<Result<Rebased, QueryError>>> = None;
    loop {
        let since = if followed.is_in_use() {
            moment::now()
        } else {
            followed.used()
        };
        let idle = since + shared.idle();
        let next = table.rebase_at().filter(|_| rebase.is_none());
        let wake = next.map_or(idle, |next| next.min(idle));
        tokio::select! {
            news = feed.next() => match news {
                Ok(news) => table.take(news).await?,
                Err(LogError::OffsetOutOfRange { bucket, .. }) => {
                    return table.overrun(bucket).await;
                }
                Err(error) => return Err(error.into()),
            },
            done = ended(&mut rebase), if rebase.is_some() => {
                rebase = None;
                if !table.rebased(done?).await? {
                    return Ok(Over::Again(Box::new(table.base)));
                }
            }
            woken = moment::by(wake, followed.woken()) => {
                if woken.is_err() && shared.retire(followed) {
                    return Ok(Over::Unused);
                }
            }
        }
        if table.tails.len() < followed.buckets() as usize {
            return Ok(Over::Again(Box::new(table.base)));
        }
        if table.bytes > shared.settings.tail_bytes_max {
            // Perhaps most of it is committed by now.
            if let Some(under_way) = rebase.take() {
                under_way.abort();
            }
            let done = table.rebase().await?;
            if !table.rebased(done).await? {
                return Ok(Over::Again(Box::new(table.base)));
            }
            if table.bytes > shared.settings.tail_bytes_max {
                return Err(table.too_large().await);
            }
        }
        if rebase.is_none() && table.rebase_at().is_some_and(|at| at <= moment::now()) {
            rebase = Some(tokio::spawn(table.rebase()));
        }
    }
}

async fn ended(
    rebase: &mut Option<JoinHandle<Result<Rebased, QueryError>>>,
) -> Result<Rebased, QueryError> {
    match rebase {
        Some(task) => task
            .await
            .map_err(|error| QueryError::Engine(format!("reading a table's state: {error}")))?,
        None => std::future::pending().await,
    }
}

/// A snapshot and, for upsert tables, each bucket's state at it.
#[derive(Debug, Clone)]
struct Base {
    pinned: Arc<Pinned>,
    looked: Instant,
    loader: Option<StateLoader>,
    upsert: BTreeMap<Bucket, UpsertState>,
}

impl Base {
    /// Reads what `before` does not know.
    async fn read(
        shared: &Shared,
        followed: &Followed,
        age: Duration,
        before: Option<&Self>,
    ) -> Result<Self, QueryError> {
        let entry = followed.entry();
        let (pinned, looked) = shared.pins.newest_read(entry, age).await?;
        let before = before.filter(|before| before.has_schema_of(&pinned));
        if let Some(before) = before
            && before.pinned.snapshot.version() == pinned.snapshot.version()
        {
            return Ok(Self {
                looked,
                ..before.clone()
            });
        }
        let metadata = &pinned.snapshot.metadata().schema_string;
        let loader = match before {
            Some(before) => before.loader.clone(),
            None => match &pinned.keys {
                Some(keys) => {
                    let home = Arc::clone(&shared.home);
                    StateLoader::new(&pinned.shape.table, metadata, keys.owners(), home)?
                }
                None => None,
            },
        };
        let mut upsert = BTreeMap::new();
        if let Some(loader) = &loader {
            let table = shared.pins.table(entry);
            let wanted = (0..entry.buckets).map(Bucket).map(|bucket| {
                let known = before.and_then(|before| before.upsert.get(&bucket));
                (bucket, known.map(|known| known.committed.clone()))
            });
            let wanted: Vec<_> = wanted.collect();
            let states = loader.load_all(&table, &pinned.snapshot, wanted).await?;
            let states = states.into_iter();
            upsert = states
                .map(|(bucket, state, _)| (bucket, UpsertState::of(state)))
                .collect();
        }
        Ok(Self {
            pinned,
            looked,
            loader,
            upsert,
        })
    }

    fn has_schema_of(&self, pinned: &Pinned) -> bool {
        let metadata = self.pinned.snapshot.metadata();
        is_same(metadata, pinned.snapshot.metadata())
    }

    fn mark(&self, bucket: Bucket) -> Watermark {
        self.pinned.watermark(bucket)
    }

    /// An empty tail behind the snapshot.
    fn tail(&self, bucket: Bucket) -> BucketTail {
        BucketTail::new(self.mark(bucket), self.upsert.get(&bucket).cloned())
    }
}

/// The outcome of a rebase: a newer base with the pieces that were known when it began.
struct Rebased {
    base: Base,
    /// `None` where the snapshot is the same and nothing had to be joined.
    tails: Option<BTreeMap<Bucket, BucketTail>>,
    /// Pieces of each bucket that are in it.
    pieces: BTreeMap<Bucket, usize>,
}

/// What the loop owns.
struct Table<'a> {
    shared: &'a Arc<Shared>,
    followed: &'a Arc<Followed>,
    base: Base,
    tails: BTreeMap<Bucket, BucketTail>,
    decoders: Option<Decoders>,
    bytes: usize,
    /// Pieces made so far: names them.
    named: u64,
    rebased_at: Instant,
}

impl<'a> Table<'a> {
    fn new(shared: &'a Arc<Shared>, followed: &'a Arc<Followed>, base: Base) -> Self {
        let entry = followed.entry();
        let tails = (0..followed.buckets())
            .map(Bucket)
            .map(|bucket| (bucket, base.tail(bucket)))
            .collect();
        let snapshot = Arc::clone(&base.pinned.snapshot);
        let rejected = shared.metrics.tail_rejected.clone();
        Self {
            shared,
            followed,
            decoders: Some(Decoders::new(entry, snapshot, rejected)),
            rebased_at: base.looked,
            base,
            tails,
            bytes: 0,
            named: 0,
        }
    }

    fn positions(&self) -> Vec<(Bucket, Offset)> {
        let tails = self.tails.iter();
        tails
            .map(|(bucket, tail)| (*bucket, tail.reached))
            .collect()
    }

    fn tell(&mut self) {
        let pinned = Arc::clone(&self.base.pinned);
        let view = View::new(pinned, self.base.looked, self.tails.clone());
        self.bytes = view.bytes();
        self.followed.tell(view);
        self.shared.settle();
    }

    /// Takes messages in and tells the view that holds them.
    async fn take(&mut self, news: News) -> Result<(), QueryError> {
        let Some(mut decoders) = self.decoders.take() else {
            return Err(QueryError::Engine("the tail's decoders are lost".into()));
        };
        let mut tails = self.tails.clone();
        let (loader, shape) = (self.base.loader.clone(), self.base.pinned.shape.clone());
        let mut named = self.named;
        let work = move || -> Result<_, QueryError> {
            let reached = tails.iter().map(|(bucket, tail)| (*bucket, tail.reached));
            let came = decoders.decode(&news, &reached.collect())?;
            drop(news);
            for (bucket, came) in came {
                let Some(tail) = tails.get_mut(&bucket) else {
                    continue;
                };
                named += 1;
                let name = piece_name(bucket, named);
                match &loader {
                    Some(loader) => {
                        upsert::push(tail, loader, name, (came.chunks, came.deletes), &shape)?;
                    }
                    None => {
                        for chunk in came.chunks {
                            let rows = Rows::new(chunk, &shape)?;
                            let piece = Piece::new(Arc::clone(&name), vec![rows], Vec::new());
                            tail.push(piece, &shape)?;
                        }
                    }
                }
                tail.reached = tail.reached.max(came.reached);
            }
            Ok((tails, decoders, named))
        };
        let (tails, decoders, named) = blocking(work).await?;
        self.tails = tails;
        self.decoders = Some(decoders);
        self.named = named;
        self.tell();
        Ok(())
    }

    /// When the next rebase is due, if one is wanted.
    fn rebase_at(&self) -> Option<Instant> {
        let wanted = self.followed.wanted();
        if wanted
            .looked_after
            .is_some_and(|after| self.base.looked < after)
        {
            return Some(moment::now());
        }
        let crowded = self.base.loader.is_some()
            && self
                .tails
                .values()
                .any(|tail| tail.pieces.len() > PIECES_MAX);
        let version = self.base.pinned.snapshot.version();
        let newer = wanted.version.is_some_and(|wanted| version < wanted);
        (crowded || newer).then(|| self.rebased_at + REBASE_PAUSE)
    }

    /// Reads the newest snapshot and applies what lies behind it. Borrows nothing: runs beside the
    /// loop.
    fn rebase(&mut self) -> impl Future<Output = Result<Rebased, QueryError>> + Send + use<> {
        self.rebased_at = moment::now();
        let (shared, followed) = (Arc::clone(self.shared), Arc::clone(self.followed));
        let (before, tails) = (self.base.clone(), self.tails.clone());
        self.named += 1;
        let named = self.named;
        async move {
            let base = Base::read(&shared, &followed, Duration::ZERO, Some(&before)).await?;
            let same = base.pinned.snapshot.version() == before.pinned.snapshot.version();
            let crowded = tails.values().any(|tail| tail.pieces.len() > PIECES_MAX);
            let pieces = tails
                .iter()
                .map(|(bucket, tail)| (*bucket, tail.pieces.len()))
                .collect();
            if (same && !crowded) || !before.has_schema_of(&base.pinned) {
                let tails = None;
                return Ok(Rebased {
                    base,
                    tails,
                    pieces,
                });
            }
            let target = base.clone();
            let work = move || -> Result<_, QueryError> {
                let mut rebuilt = BTreeMap::new();
                for (bucket, tail) in tails {
                    let mut next = target.tail(bucket);
                    // Pieces without keys cost nothing to take over, which is done at the end.
                    if let Some(loader) = &target.loader {
                        let behind = tail.behind(target.mark(bucket));
                        let shape = &target.pinned.shape;
                        let name = piece_name(bucket, named);
                        upsert::rebuild(&mut next, loader, name, &behind, shape)?;
                    }
                    rebuilt.insert(bucket, next);
                }
                Ok(rebuilt)
            };
            let tails = Some(blocking(work).await?);
            Ok(Rebased {
                base,
                tails,
                pieces,
            })
        }
    }

    /// Goes over to the new base; false where the tail must be read anew for it.
    async fn rebased(&mut self, done: Rebased) -> Result<bool, QueryError> {
        let Rebased {
            base,
            tails,
            pieces,
        } = done;
        if !self.base.has_schema_of(&base.pinned) {
            return Ok(false);
        }
        let Some(mut tails) = tails else {
            self.base.looked = base.looked;
            self.tell();
            return Ok(true);
        };
        let before = std::mem::take(&mut self.tails);
        let target = base.clone();
        let mut named = self.named;
        let work = move || -> Result<_, QueryError> {
            for (bucket, tail) in before {
                let Some(next) = tails.get_mut(&bucket) else {
                    continue;
                };
                // A bucket that was committed beyond what was read of it goes on from there: what
                // still comes from before is left out.
                next.reached = next.reached.max(tail.reached);
                match &target.loader {
                    Some(loader) => {
                        let known = pieces.get(&bucket).copied().unwrap_or(0);
                        let late = BucketTail {
                            pieces: tail.pieces.get(known..).unwrap_or_default().to_vec(),
                            ..tail
                        };
                        let late = late.behind(target.mark(bucket));
                        named += 1;
                        let name = piece_name(bucket, named);
                        upsert::rebuild(next, loader, name, &late, &target.pinned.shape)?;
                    }
                    None => next.pieces = tail.behind(target.mark(bucket)),
                }
            }
            Ok((tails, named))
        };
        (self.tails, self.named) = blocking(work).await?;
        if let Some(decoders) = &mut self.decoders {
            decoders.rebased(&base.pinned.snapshot);
        }
        self.base = base;
        self.tell();
        Ok(true)
    }

    /// The log does not reach back to where a bucket begins: the table may be committed further by
    /// now.
    async fn overrun(&self, bucket: Bucket) -> Result<Over, QueryError> {
        let entry = self.followed.entry();
        let pinned = self.shared.pins.newest(entry, Duration::ZERO).await?;
        let mark = pinned.watermark(bucket);
        // Only after the watermark: in a log that is intact they are not before it.
        let ends = self.followed.ends(&self.shared.source).await?;
        if let Some((_, end)) = ends.iter().find(|(found, _)| *found == bucket) {
            check_end(entry, bucket, *end, mark)?;
        }
        let start = self.shared.source.start(&entry.topic, bucket).await?;
        if start.0 <= mark.0 && mark > self.base.mark(bucket) {
            return Ok(Over::Again(Box::new(self.base.clone())));
        }
        Err(QueryError::LogGap {
            table: entry.id.clone(),
            bucket,
            start: start.0,
            watermark: mark.0,
        })
    }

    async fn too_large(&self) -> QueryError {
        let entry = self.followed.entry();
        let ends = self.followed.ends(&self.shared.source).await;
        let ends = ends.unwrap_or_else(|_| Vec::new().into());
        let left = ends.iter().map(|(bucket, end)| {
            let reached = self.tails.get(bucket).map_or(0, |tail| tail.reached.0);
            (end.0 - reached).max(0)
        });
        QueryError::TailTooLarge {
            table: entry.id.clone(),
            bytes_max: self.shared.settings.tail_bytes_max,
            left: left.sum(),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
) -> Result<T, QueryError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| QueryError::Engine(format!("decoding the tail: {error}")))?
}
