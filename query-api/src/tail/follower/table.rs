//! What the follower's loop owns: the tails, as far as they were read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use tidelake_core::{Bucket, Offset, threads};
use tidelake_log::News;
use tidelake_service::PacedReader;
use tokio::time::Instant;

use super::super::Shared;
use super::super::budget::{Held, Room};
use super::super::decode::{Came, Decoders};
use super::super::pieces::{BucketTail, Piece, Rows, piece_name};
use super::super::topic::check_end;
use super::super::upsert::Pen;
use super::super::view::{Followed, View};
use super::Over;
use super::base::Base;
use super::rebase::REBASE_PAUSE;
use crate::error::QueryError;
use crate::moment;
use crate::table::shape::Shape;

/// How long room is waited for that others who are gone are about to give back.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);

/// From so many rows on buckets are taken in beside one another: a thread for each costs less then
/// than waiting for the others.
const SPLIT_ROWS_MIN: usize = 8192;

/// What the loop owns.
pub(super) struct Table<'a> {
    pub shared: &'a Arc<Shared>,
    pub followed: &'a Arc<Followed>,
    pub base: Base,
    pub tails: BTreeMap<Bucket, BucketTail>,
    pub decoders: Option<Decoders>,
    /// Pieces made so far: names them.
    pub named: u64,
    pub rebased_at: Instant,
    bytes: usize,
    /// By which writers of this process know how far it is.
    reader: PacedReader,
}

/// What became of messages that came.
pub(super) enum Taken {
    All,
    /// There was no room for the rest.
    Some {
        rest: Vec<News>,
        /// Some were taken.
        moved: bool,
        /// Bytes that the next message needs.
        needs: usize,
    },
}

impl<'a> Table<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, followed: &'a Arc<Followed>, base: Base) -> Self {
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
            decoders: Some(Decoders::new(entry, snapshot, Some(rejected))),
            rebased_at: base.looked,
            base,
            tails,
            bytes: 0,
            named: 0,
            reader: shared.pace.follow(&entry.topic),
        }
    }

    pub(super) fn positions(&self) -> Vec<(Bucket, Offset)> {
        let tails = self.tails.iter();
        tails
            .map(|(bucket, tail)| (*bucket, tail.reached))
            .collect()
    }

    pub(super) fn tell(&mut self) {
        let pinned = Arc::clone(&self.base.pinned);
        let view = View::new(pinned, self.base.looked, self.tails.clone());
        self.bytes = view.bytes();
        self.followed.tell(view);
        self.shared.settle();
        self.reader.reached(self.positions());
        let of_table = self.bytes as f64 / self.shared.settings.tail_bytes_max.max(1) as f64;
        self.reader
            .filled(of_table.max(self.shared.budget.filled()));
    }

    /// The topic has no partition that is not followed.
    pub(super) fn reads_all_buckets(&self) -> bool {
        self.tails.len() >= self.followed.buckets() as usize
    }

    pub(super) fn again(self) -> Over {
        Over::Again(Box::new(self.base))
    }

    /// Takes messages in, as far as there is room, and tells the view that holds them.
    pub(super) async fn take(&mut self, news: Vec<News>) -> Result<Taken, QueryError> {
        let Some(mut decoders) = self.decoders.take() else {
            return Err(QueryError::Engine("the tail's decoders are lost".into()));
        };
        let reached: BTreeMap<Bucket, Offset> = self.positions().into_iter().collect();
        let left = self
            .shared
            .settings
            .tail_bytes_max
            .saturating_sub(self.bytes);
        let mut room = Room::new(&self.shared.budget, left);
        let pen = self.pen();
        let mut bites = self.bites();
        let work = move || -> Result<_, QueryError> {
            let decoded = decoders.decode(&news, (&reached, &BTreeMap::new()), &mut room)?;
            let moved = !decoded.came.is_empty();
            let taken = match decoded.needs {
                None => Taken::All,
                Some(needs) => Taken::Some {
                    rest: news,
                    moved,
                    needs,
                },
            };
            let mut came = decoded.came;
            bites.retain(|bite| came.contains_key(&bite.bucket));
            let rows: usize = came.values().map(Came::rows).sum();
            let each = bites.iter_mut().zip(came.values_mut());
            each.for_each(|(bite, came)| bite.take(std::mem::take(came), &mut room));
            if rows < SPLIT_ROWS_MIN {
                bites.iter_mut().try_for_each(|bite| bite.push(&pen))?;
            }
            Ok((taken, bites, decoders))
        };
        let (taken, bites, decoders) = blocking(work).await?;
        self.decoders = Some(decoders);
        let pushed = bites.into_iter().map(|mut bite| {
            let pen = self.pen();
            async move {
                if bite.is_pushed() {
                    return Ok(bite);
                }
                let push = move || bite.push(&pen).map(|()| bite);
                blocking(push).await
            }
        });
        for bite in try_join_all(pushed.collect::<Vec<_>>()).await? {
            self.tails.insert(bite.bucket, bite.tail);
        }
        self.tell();
        Ok(taken)
    }

    fn pen(&self) -> BucketPen {
        BucketPen::of(&self.base)
    }

    /// Of each bucket, with nothing in it yet.
    fn bites(&mut self) -> Vec<Bite> {
        let mut bites = Vec::with_capacity(self.tails.len());
        for (bucket, tail) in &self.tails {
            self.named += 2;
            let numbers = [self.named - 1, self.named];
            let names = numbers.map(|number| piece_name(*bucket, number));
            bites.push(Bite::new(*bucket, tail.clone(), names));
        }
        bites
    }

    /// When the next rebase is due, if one is wanted.
    pub(super) fn rebase_at(&self) -> Option<Instant> {
        let wanted = self.followed.wanted();
        if wanted
            .looked_after
            .is_some_and(|after| self.base.looked < after)
        {
            return Some(moment::now());
        }
        let version = self.base.pinned.snapshot.version();
        let newer = wanted.version.is_some_and(|wanted| version < wanted);
        newer.then(|| self.rebased_at + REBASE_PAUSE)
    }

    /// Whether there is room for so much more, perhaps once tables that nobody uses are gone.
    pub(super) async fn has_room(&self, bytes: usize) -> bool {
        let settings = &self.shared.settings;
        if self.bytes.saturating_add(bytes) > settings.tail_bytes_max {
            return false;
        }
        self.shared.evict(bytes);
        self.shared.budget.wait_free(bytes, ROOM_PATIENCE).await
    }

    /// The log does not reach back to where a bucket begins: the table may be committed further by
    /// now.
    pub(super) async fn overrun(&self, bucket: Bucket) -> Result<Over, QueryError> {
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

    /// The tail can't be kept; remembered until more of it is committed.
    pub(super) async fn too_large(&self, needs: usize) -> QueryError {
        let entry = self.followed.entry();
        let ends = self.followed.ends(&self.shared.source).await;
        let ends = ends.unwrap_or_else(|_| Vec::new().into());
        let left = ends.iter().map(|(bucket, end)| {
            let reached = self.tails.get(bucket).map_or(0, |tail| tail.reached.0);
            (end.0 - reached).max(0)
        });
        let error = QueryError::TailTooLarge {
            table: entry.id.clone(),
            bytes_max: self.shared.tail_bytes_max(),
            left: left.sum(),
        };
        let needs = self.bytes.saturating_add(needs);
        self.shared.refuse(&self.base.pinned, needs, error.clone());
        error
    }
}

/// What came of one bucket, on its way into the bucket's tail.
pub(super) struct Bite {
    pub bucket: Bucket,
    pub tail: BucketTail,
    /// Of the piece, and of the one that it is joined to.
    names: [Arc<str>; 2],
    came: Option<(Came, Held)>,
}

/// What any table's pieces are made with.
pub(super) struct BucketPen {
    upserts: Option<Pen>,
    shape: Arc<Shape>,
}

impl BucketPen {
    pub(super) fn of(base: &Base) -> Self {
        Self {
            upserts: base.pen.clone(),
            shape: Arc::clone(&base.pinned.shape),
        }
    }
}

impl Bite {
    pub(super) fn new(bucket: Bucket, tail: BucketTail, names: [Arc<str>; 2]) -> Self {
        Self {
            bucket,
            tail,
            names,
            came: None,
        }
    }

    pub(super) fn take(&mut self, came: Came, room: &mut Room) {
        let held = room.part(came.bytes);
        self.came = Some((came, held));
    }

    fn is_pushed(&self) -> bool {
        self.came.is_none()
    }

    /// Blocks.
    pub(super) fn push(&mut self, pen: &BucketPen) -> Result<(), QueryError> {
        let Some((came, mut held)) = self.came.take() else {
            return Ok(());
        };
        let [name, joined] = self.names.clone();
        let tail = &mut self.tail;
        match &pen.upserts {
            Some(upserts) => {
                upserts.push(tail, name, (came.chunks, came.deletes), held)?;
                upserts.join_last(tail, joined)?;
            }
            None => {
                for chunk in came.chunks {
                    let held = held.part(chunk.bytes());
                    let rows = Rows::new(chunk, &pen.shape)?;
                    let piece = Piece::new(Arc::clone(&name), vec![rows], Vec::new(), held);
                    tail.push(piece, &pen.shape)?;
                }
            }
        }
        tail.reached = tail.reached.max(came.reached);
        Ok(())
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
) -> Result<T, QueryError> {
    if threads::works_in_place() {
        return work();
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| QueryError::Engine(format!("decoding the tail: {error}")))?
}
