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
//! came meanwhile is applied when it is done. What the feed has ready is taken at once: a follower
//! that is behind takes larger bites, each of which costs less for a record.

mod base;
mod exact;
mod rebase;
mod table;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tidelake_core::Bucket;
use tidelake_log::{Feed, LogError, News};

use self::base::Base;
pub(super) use self::exact::{Positions, check as check_positions, view as exactly};
use self::rebase::Rebasing;
use self::table::{Table, Taken};
use super::Shared;
use super::view::Followed;
use crate::error::QueryError;
use crate::moment;

/// Batches of messages that are taken at once: what a feed keeps ready, and a few more.
const BITE_BATCHES_MAX: usize = 4;
/// Attempts to take one message in for which there was room, and then was not.
const TRIES_MAX: u32 = 2;
/// How often one follower reads keys anew because what it had of them was damaged.
const REPAIRS_MAX: u32 = 64;

/// Why a round of following is over.
enum Over {
    /// Nobody needs it any more.
    Unused,
    /// Begin again from the newest snapshot; what is known of the last one may help.
    Again(Box<Base>),
    /// The same, since where keys are could not be read.
    Damaged(Box<Base>, QueryError),
}

/// Follows the table until it is not used any more, or can't be followed.
pub(super) async fn run(shared: Arc<Shared>, followed: Arc<Followed>) {
    let work = async {
        if let Err(error) = shared.check_refused(followed.entry()).await {
            return Some(error);
        }
        let mut age = Duration::from_millis(shared.settings.snapshot_age_ms_max);
        let (mut before, mut repairs) = (None, 0);
        loop {
            match follow(&shared, &followed, age, before.as_ref()).await {
                Ok(Over::Unused) => return None,
                Ok(Over::Again(base)) => (age, before) = (Duration::ZERO, Some(*base)),
                Ok(Over::Damaged(base, error)) if repairs < REPAIRS_MAX => {
                    let table = &followed.entry().id;
                    tracing::warn!(%table, %error, "a key index is damaged, it is read anew");
                    repairs += 1;
                    (age, before) = (Duration::ZERO, Some(*base));
                }
                Ok(Over::Damaged(_, error)) | Err(error) => return Some(error),
            }
        }
    };
    let ended = tokio::select! {
        biased;
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
    let ended = follow_from(shared, followed, &mut table).await;
    match ended {
        Ok(Ended::Unused) => Ok(Over::Unused),
        Ok(Ended::Behind) => Ok(table.again()),
        Ok(Ended::Overrun(bucket)) => table.overrun(bucket).await,
        // Pieces that come look for what they supersede.
        Err(error) if table.base.is_damaged() => Ok(Over::Damaged(Box::new(table.base), error)),
        Err(error) => Err(error),
    }
}

/// Why a table is not followed any further from where it began.
enum Ended {
    Unused,
    /// What it stands on is not the table any more.
    Behind,
    /// The log does not reach back to where the bucket goes on.
    Overrun(Bucket),
}

async fn follow_from(
    shared: &Arc<Shared>,
    followed: &Arc<Followed>,
    table: &mut Table<'_>,
) -> Result<Ended, QueryError> {
    let topic = &followed.entry().topic;
    let mut feed = shared.source.follow(topic, &table.positions())?;
    table.tell();
    let mut rebasing = Rebasing::default();
    loop {
        let since = if followed.is_in_use() {
            moment::now()
        } else {
            followed.used()
        };
        let idle = since + shared.idle();
        let next = table.rebase_at().filter(|_| !rebasing.is_under_way());
        let wake = next.map_or(idle, |next| next.min(idle));
        tokio::select! {
            news = feed.next() => match bite(news, feed.as_mut()) {
                Ok(news) => {
                    if !swallow(table, news, &mut rebasing).await? {
                        return Ok(Ended::Behind);
                    }
                }
                Err(LogError::OffsetOutOfRange { bucket, .. }) => {
                    return Ok(Ended::Overrun(bucket));
                }
                Err(error) => return Err(error.into()),
            },
            done = rebasing.done(), if rebasing.is_under_way() => {
                if !table.rebased(done?).await? {
                    return Ok(Ended::Behind);
                }
            }
            woken = moment::by(wake, followed.woken()) => {
                if woken.is_err() && shared.retire(followed) {
                    return Ok(Ended::Unused);
                }
            }
        }
        if !table.reads_all_buckets() {
            return Ok(Ended::Behind);
        }
        if !rebasing.is_under_way() && table.rebase_at().is_some_and(|at| at <= moment::now()) {
            rebasing.begin(table.rebase());
        }
    }
}

/// What came, and what the feed has ready behind it. After an error all begins anew.
fn bite(first: Result<News, LogError>, feed: &mut dyn Feed) -> Result<Vec<News>, LogError> {
    let mut bite = vec![first?];
    while bite.len() < BITE_BATCHES_MAX
        && let Some(next) = feed.next().now_or_never()
    {
        bite.push(next?);
    }
    Ok(bite)
}

/// Takes all of it in, as there is room; false where the table must be begun with anew.
async fn swallow(
    table: &mut Table<'_>,
    mut news: Vec<News>,
    rebasing: &mut Rebasing,
) -> Result<bool, QueryError> {
    let mut tries = 0;
    loop {
        let needs = match table.take(news).await? {
            Taken::All => return Ok(true),
            // What was decoded is counted as what it is by now: there may be room for more.
            Taken::Some { rest, moved, .. } if moved => {
                (news, tries) = (rest, 0);
                continue;
            }
            Taken::Some { rest, needs, .. } => {
                news = rest;
                needs
            }
        };
        // Perhaps most of it is committed by now.
        rebasing.stop();
        let done = table.rebase().await?;
        if !table.rebased(done).await? {
            return Ok(false);
        }
        tries += 1;
        if tries > TRIES_MAX || !table.has_room(needs).await {
            return Err(table.too_large(needs).await);
        }
    }
}
