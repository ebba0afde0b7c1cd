//! Waiting for what is not there yet: a token's rows.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidelake_catalog::TableEntry;
use tidelake_core::{Bucket, Token, Watermark};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admission::Running;
use crate::error::QueryError;
use crate::moment;

/// A token may be ahead of the log's end as this query saw it: by what was written since.
const RECORDS_AHEAD_MAX: i64 = 10_000_000;
/// Back-off while a token is waited for.
const TOKEN_PAUSE_FIRST: Duration = Duration::from_millis(5);
const TOKEN_PAUSE_MAX: Duration = Duration::from_millis(250);

/// The first bucket that has not reached the token.
pub(crate) fn behind(
    entry: &TableEntry,
    token: Option<&Token>,
    reached: impl Fn(Bucket) -> Watermark,
) -> Option<QueryError> {
    let (bucket, wanted) = token?
        .iter()
        .find(|(bucket, mark)| reached(*bucket) < *mark)?;
    Some(QueryError::TokenNotCovered {
        table: entry.id.clone(),
        bucket,
        wanted: wanted.0,
        reached: reached(bucket).0,
    })
}

/// Refuses a token that asks for more than the log can have soon.
pub(crate) fn beyond(
    entry: &TableEntry,
    token: Option<&Token>,
    end: impl Fn(Bucket) -> Watermark,
) -> Result<(), QueryError> {
    let too_far = |(bucket, mark): &(Bucket, Watermark)| {
        mark.0.saturating_sub(end(*bucket).0) > RECORDS_AHEAD_MAX
    };
    let found = token.and_then(|token| token.iter().find(too_far));
    let Some((bucket, mark)) = found else {
        return Ok(());
    };
    Err(QueryError::Token(format!(
        "the token asks for table {} bucket {bucket} up to offset {mark}, the log ends at {}: it \
         belongs to another table, or to one that was created anew",
        entry.id,
        end(bucket)
    )))
}

/// How long somebody waits for what is not there yet.
#[derive(Debug, Clone)]
pub(crate) struct Patience<'a> {
    pub deadline: Instant,
    /// Ends the wait early.
    running: Option<&'a Running>,
    /// Ends it, too.
    closed: Option<&'a CancellationToken>,
    pause: Duration,
    /// What is waited for; shared by clones.
    behind: Arc<Mutex<Option<QueryError>>>,
}

impl<'a> Patience<'a> {
    pub(crate) fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            running: None,
            closed: None,
            pause: TOKEN_PAUSE_FIRST,
            behind: Arc::default(),
        }
    }

    /// The same wait, which `closed` ends between one look and the next.
    pub(crate) fn ended_by(self, closed: &'a CancellationToken) -> Self {
        Self {
            closed: Some(closed),
            ..self
        }
    }

    /// What was waited for last.
    pub(crate) fn behind(&self) -> Option<QueryError> {
        self.behind.lock().take()
    }

    pub(crate) fn of(running: &'a Running) -> Self {
        Self {
            running: Some(running),
            behind: Arc::clone(&running.behind),
            ..Self::until(running.deadline())
        }
    }

    /// Nothing was waited for yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.pause == TOKEN_PAUSE_FIRST
    }

    /// Nothing is waited for any more.
    pub(crate) fn over(&self) {
        self.behind.lock().take();
    }

    /// Backs off; at the deadline it is `behind` that is told.
    pub(crate) async fn wait(&mut self, behind: QueryError) -> Result<(), QueryError> {
        let until = moment::now() + self.pause;
        if self.deadline <= until {
            return Err(behind);
        }
        *self.behind.lock() = Some(behind);
        match self.running {
            Some(running) => running.pause(self.pause).await?,
            // Who waits is dropped where the client goes.
            None => moment::reach(until).await,
        }
        if self.closed.is_some_and(CancellationToken::is_cancelled) {
            return Err(QueryError::Closed);
        }
        self.pause = (self.pause * 2).min(TOKEN_PAUSE_MAX);
        Ok(())
    }
}
