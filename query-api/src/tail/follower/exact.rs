//! A table at one version and up to given offsets, whatever its follower has come to since.
//!
//! The tail behind the version is read from the log once more, up to these offsets and no further:
//! a state of an upsert table can't be taken back to an earlier offset. (Rows of an append table that
//! its follower still has are cut from those, see [`View::up_to`].) Owns what makes the answer
//! exact, or an error that says why it can't be. Bounded as a followed tail is; nobody else waits for
//! it, writers are not paced by it, and what it takes is given back with the view.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelake_catalog::TableEntry;
use tidelake_core::{Bucket, Offset, Watermark};
use tidelake_log::{Feed, LogError, News};
use tokio::time::Instant;

use super::super::Shared;
use super::super::budget::Room;
use super::super::decode::Decoders;
use super::super::pieces::{BucketTail, piece_name};
use super::super::topic::look;
use super::super::view::View;
use super::base::Base;
use super::table::{Bite, BucketPen, blocking};
use crate::error::QueryError;
use crate::moment;
use crate::table::pinned::Pinned;

/// What was asked for, bucket by bucket.
pub(in super::super) type Positions = BTreeMap<Bucket, Watermark>;

/// Reads the view; `known` is another of the same version.
///
/// # Errors
/// [`QueryError::PositionGone`] where the log does not reach back to the version's watermarks any
/// more, and [`QueryError::TailBehind`] where it does not reach up to the positions yet.
pub(in super::super) async fn view(
    shared: &Arc<Shared>,
    entry: &Arc<TableEntry>,
    (pinned, known): (Arc<Pinned>, Option<&View>),
    positions: &Positions,
    deadline: Instant,
) -> Result<View, QueryError> {
    // Also whether the log is still the table's.
    let ends = look(&shared.source, entry).await?;
    for (bucket, wanted) in positions {
        let end = ends.iter().find(|(found, _)| found == bucket);
        let reached = end.map_or(0, |(_, end)| end.0);
        if reached < wanted.0 {
            return Err(QueryError::TailBehind {
                table: entry.id.clone(),
                bucket: *bucket,
                wanted: wanted.0,
                reached,
            });
        }
    }
    let looked = moment::now();
    let known = known.map(|view| Base::of_view(shared, view, looked));
    let base = match known.transpose()?.flatten() {
        Some(base) => base,
        None => Base::of(shared, entry, (pinned, looked), None).await?,
    };
    let mut exact = Exact::new(shared, entry, base, positions);
    let from = exact.behind();
    if !from.is_empty() {
        let mut feed = shared.source.follow(&entry.topic, &from)?;
        moment::by(deadline, exact.read(feed.as_mut()))
            .await
            .unwrap_or_else(|_| Err(exact.late()))?;
    }
    Ok(View::new(exact.base.pinned, looked, exact.tails))
}

/// Refuses positions that the version does not have: one before a watermark leaves out rows that are
/// in its files.
///
/// # Errors
/// [`QueryError::Request`].
pub(in super::super) fn check(
    entry: &TableEntry,
    pinned: &Pinned,
    positions: &Positions,
) -> Result<(), QueryError> {
    let (table, version) = (&entry.id, pinned.snapshot.version());
    let of_table = (0..entry.buckets).map(Bucket);
    let of_version = pinned.snapshot.watermarks(&entry.topic_id);
    let buckets = of_table.chain(of_version.into_keys());
    for bucket in buckets {
        let Some(wanted) = positions.get(&bucket) else {
            let reason = format!("table {table}: a position of bucket {bucket} is missing");
            return Err(QueryError::request("positions", reason));
        };
        let mark = pinned.watermark(bucket);
        if *wanted < mark {
            let reason = format!(
                "table {table} version {version} holds bucket {bucket} up to offset {mark} \
                 already, so it can't be read up to {wanted} only; ask for an earlier version"
            );
            return Err(QueryError::request("positions", reason));
        }
    }
    Ok(())
}

/// A view that is being read.
struct Exact<'a> {
    shared: &'a Arc<Shared>,
    entry: &'a Arc<TableEntry>,
    base: Base,
    tails: BTreeMap<Bucket, BucketTail>,
    /// What lies at or behind is not read.
    until: BTreeMap<Bucket, Offset>,
    decoders: Option<Decoders>,
    /// Pieces made so far: names them.
    named: u64,
}

impl<'a> Exact<'a> {
    fn new(
        shared: &'a Arc<Shared>,
        entry: &'a Arc<TableEntry>,
        base: Base,
        positions: &Positions,
    ) -> Self {
        let tails = positions.keys().map(|bucket| (*bucket, base.tail(*bucket)));
        let until = positions.iter();
        let until = until.map(|(bucket, mark)| (*bucket, Offset(mark.0)));
        let snapshot = Arc::clone(&base.pinned.snapshot);
        Self {
            tails: tails.collect(),
            until: until.collect(),
            // What is refused is counted where the table is followed.
            decoders: Some(Decoders::new(entry, snapshot, None)),
            shared,
            entry,
            base,
            named: 0,
        }
    }

    /// The buckets that are not read yet, each from where it goes on.
    fn behind(&self) -> Vec<(Bucket, Offset)> {
        let tails = self.tails.iter();
        let behind = tails.filter(|(bucket, tail)| tail.reached < self.until[bucket]);
        behind
            .map(|(bucket, tail)| (*bucket, tail.reached))
            .collect()
    }

    fn late(&self) -> QueryError {
        let table = self.entry.id.clone();
        match self.behind().first() {
            Some((bucket, reached)) => QueryError::TailBehind {
                table,
                bucket: *bucket,
                wanted: self.until[bucket].0,
                reached: reached.0,
            },
            None => QueryError::Store(format!("table {table} was not read in time")),
        }
    }

    async fn read(&mut self, feed: &mut dyn Feed) -> Result<(), QueryError> {
        while !self.behind().is_empty() {
            let mut news = match feed.next().await {
                Ok(news) => vec![news],
                Err(LogError::OffsetOutOfRange { bucket, start, .. }) => {
                    return Err(self.gone(bucket, start));
                }
                Err(error) => return Err(error.into()),
            };
            while let Some(rest) = self.take(news).await? {
                news = rest;
            }
        }
        Ok(())
    }

    fn gone(&self, bucket: Bucket, start: i64) -> QueryError {
        QueryError::PositionGone {
            table: self.entry.id.clone(),
            version: self.base.pinned.snapshot.version(),
            bucket,
            start,
            watermark: self.base.mark(bucket).0,
        }
    }

    /// Takes messages in; gives back those that there was no room to decode at once.
    async fn take(&mut self, news: Vec<News>) -> Result<Option<Vec<News>>, QueryError> {
        let Some(mut decoders) = self.decoders.take() else {
            return Err(QueryError::Engine("the tail's decoders are lost".into()));
        };
        let tails = self.tails.iter();
        let reached = tails.map(|(bucket, tail)| (*bucket, tail.reached));
        let reached: BTreeMap<_, _> = reached.collect();
        let bytes: usize = self.tails.values().map(BucketTail::bytes).sum();
        let left = self.shared.settings.tail_bytes_max.saturating_sub(bytes);
        let mut room = Room::new(&self.shared.budget, left);
        let pen = BucketPen::of(&self.base);
        let mut bites: Vec<Bite> = Vec::with_capacity(self.tails.len());
        for (bucket, tail) in &self.tails {
            self.named += 2;
            let names = [self.named - 1, self.named].map(|number| piece_name(*bucket, number));
            bites.push(Bite::new(*bucket, tail.clone(), names));
        }
        let until = self.until.clone();
        let work = move || -> Result<_, QueryError> {
            let mut decoded = decoders.decode(&news, (&reached, &until), &mut room)?;
            let moved = !decoded.came.is_empty();
            let mut taken = BTreeMap::new();
            for mut bite in bites {
                if let Some(came) = decoded.came.remove(&bite.bucket) {
                    bite.take(came, &mut room);
                    bite.push(&pen)?;
                    taken.insert(bite.bucket, bite.tail);
                }
            }
            Ok((taken, decoders, decoded.needs.map(|_| (news, moved))))
        };
        let (taken, decoders, rest) = blocking(work).await?;
        self.decoders = Some(decoders);
        self.tails.extend(taken);
        match rest {
            None => Ok(None),
            Some((news, true)) => Ok(Some(news)),
            Some((_, false)) => {
                let behind = self.behind();
                let left = behind
                    .iter()
                    .map(|(bucket, at)| self.until[bucket].0 - at.0);
                Err(QueryError::TailTooLarge {
                    table: self.entry.id.clone(),
                    bytes_max: self.shared.tail_bytes_max(),
                    left: left.sum(),
                })
            }
        }
    }
}
