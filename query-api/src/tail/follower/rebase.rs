//! Going over to a newer snapshot: a task that runs beside the loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use tidelake_core::{Bucket, Offset, Watermark};
use tokio::task::JoinHandle;

use super::super::pieces::{BucketTail, piece_name};
use super::base::Base;
use super::table::{Table, blocking};
use crate::error::QueryError;
use crate::moment;

/// Between two rebases that commit events ask for: each applies the tail anew.
pub(super) const REBASE_PAUSE: Duration = Duration::from_millis(500);

/// The outcome of a rebase: a newer base with the pieces that were known when it began.
#[derive(Debug)]
pub(super) struct Rebased {
    base: Base,
    /// `None` where the snapshot is the same, and its keys are not read anew.
    tails: Option<BTreeMap<Bucket, BucketTail>>,
    /// What lies before is in it.
    reached: BTreeMap<Bucket, Offset>,
}

/// A rebase that may be under way; given up when dropped.
#[derive(Debug, Default)]
pub(super) struct Rebasing(Option<JoinHandle<Result<Rebased, QueryError>>>);

impl Rebasing {
    pub(super) fn is_under_way(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn begin(
        &mut self,
        rebase: impl Future<Output = Result<Rebased, QueryError>> + Send + 'static,
    ) {
        self.stop();
        self.0 = Some(tokio::spawn(rebase));
    }

    pub(super) fn stop(&mut self) {
        if let Some(under_way) = self.0.take() {
            under_way.abort();
        }
    }

    /// Its outcome; may be dropped while it is waited for.
    pub(super) async fn done(&mut self) -> Result<Rebased, QueryError> {
        let Some(task) = &mut self.0 else {
            return std::future::pending().await;
        };
        let ended = task.await;
        self.0 = None;
        ended.map_err(|error| QueryError::Engine(format!("reading a table's state: {error}")))?
    }
}

impl Drop for Rebasing {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Table<'_> {
    /// Reads the newest snapshot and applies what lies behind it. Borrows nothing: runs beside the
    /// loop.
    pub(super) fn rebase(
        &mut self,
    ) -> impl Future<Output = Result<Rebased, QueryError>> + Send + use<> {
        self.rebased_at = moment::now();
        let (shared, followed) = (Arc::clone(self.shared), Arc::clone(self.followed));
        let (before, tails) = (self.base.clone(), self.tails.clone());
        let reached = self.positions().into_iter().collect();
        async move {
            let base = Base::read(&shared, &followed, Duration::ZERO, Some(&before)).await?;
            if before.is_at(&base.pinned) || !before.has_schema_of(&base.pinned) {
                let tails = None;
                return Ok(Rebased {
                    base,
                    tails,
                    reached,
                });
            }
            let target = base.clone();
            let work = move || -> Result<_, QueryError> {
                let mut rebuilt = BTreeMap::new();
                for (bucket, tail) in tails {
                    let mut next = target.tail(bucket);
                    // Pieces without keys cost nothing to take over, which is done at the end.
                    if let Some(pen) = &target.pen {
                        pen.carry(&mut next, &tail, target.mark(bucket))?;
                    }
                    rebuilt.insert(bucket, next);
                }
                Ok(rebuilt)
            };
            let tails = Some(blocking(work).await?);
            Ok(Rebased {
                base,
                tails,
                reached,
            })
        }
    }

    /// Goes over to the new base; false where the tail must be read anew for it.
    pub(super) async fn rebased(&mut self, done: Rebased) -> Result<bool, QueryError> {
        let Rebased {
            base,
            tails,
            reached,
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
        self.named += 1;
        let named = self.named;
        let late = before.into_iter().filter_map(|(bucket, tail)| {
            let mut next = tails.remove(&bucket)?;
            // A bucket that was committed beyond what was read of it goes on from there: what still
            // comes from before is left out.
            next.reached = next.reached.max(tail.reached);
            let mark = base.mark(bucket);
            // Pieces may have become one meanwhile, but rows keep their offsets.
            let known = reached.get(&bucket).map_or(0, |reached| reached.0);
            let (pen, name) = (base.pen.clone(), piece_name(bucket, named));
            Some(blocking(move || {
                match &pen {
                    Some(pen) => {
                        let late = (&tail, mark.max(Watermark(known)));
                        pen.push_behind(&mut next, name, late)?;
                    }
                    None => next.pieces = tail.behind(mark),
                }
                Ok((bucket, next))
            }))
        });
        let late = try_join_all(late.collect::<Vec<_>>()).await?;
        self.tails = late.into_iter().collect();
        if let Some(decoders) = &mut self.decoders {
            decoders.rebased(&base.pinned.snapshot);
        }
        self.base = base;
        self.tell();
        Ok(true)
    }
}
