//! What must hold before a flush may commit, and what its failures mean.

use tidelake_catalog::CatalogError;
use tidelake_core::{ErrorKind, Offset};
use tidelake_log::LogError;
use tidelake_manifest::fits_still;
use tidelake_table::TableError;

use super::{Job, Workbench};
use crate::identity::check_topic;
use crate::policy::{Cause, Trouble, chain};

/// Why an attempt came to nothing.
pub(super) enum Failure {
    /// The table or the topic is another, or gone: what was read is read again.
    Changed,
    /// May pass by itself, or when an operator mends it; the rows wait.
    Passing(String),
    /// The store takes nothing until somebody mends that, or makes room; the rows wait.
    Refused(String),
    Lasting(Trouble),
}

impl Job {
    /// A topic or a table that was made anew has other offsets and other rows: incarnations are
    /// never mixed. Rows behind a gap must lie inside of the log at least. The table must be there
    /// at each attempt; of the log one answer is enough, because it is younger than the rows: what
    /// becomes of the topic later changes nothing about where they came from.
    pub(super) async fn proves_its_place(&mut self, bench: &Workbench) -> Result<(), Failure> {
        let current = bench.opener.is_current(&self.table);
        if self.proven {
            return self.is_still_there(current.await);
        }
        let (current, rows) = tokio::join!(current, self.rows_are_of_the_topic(bench));
        self.is_still_there(current)?;
        rows?;
        self.proven = true;
        Ok(())
    }

    /// A record that was refused for the columns that the table had may be a row of those that it
    /// has: it is a dead letter only where both are the same. Costs a look at the table's log where
    /// some record was refused.
    pub(super) async fn refused_by_what_holds(&self) -> Result<(), Failure> {
        if !self.deliveries.has_dead_letters() {
            return Ok(());
        }
        // Where the log can't be read, nothing can be committed to it, which says so by itself.
        let Ok(newest) = self.table.delta.refresh(&self.base).await else {
            return Ok(());
        };
        fits_still(&self.base, &newest).map_err(|_| Failure::Changed)
    }

    fn is_still_there(&self, current: Result<bool, CatalogError>) -> Result<(), Failure> {
        match current {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Changed),
            Err(error) => Err(self.failure(error.kind(), &error)),
        }
    }

    async fn rows_are_of_the_topic(&self, bench: &Workbench) -> Result<(), Failure> {
        let opener = &bench.opener;
        let found = opener.topic_of(&self.table).await;
        let found = found.map_err(|error| Failure::Passing(chain(&error)))?;
        check_topic(&self.table.entry, found.as_ref()).map_err(Failure::Lasting)?;
        let behind_gaps = self.buckets.iter().filter(|held| held.has_gaps);
        let reached: Vec<_> = behind_gaps
            .map(|held| (held.sealed.bucket, Offset(held.sealed.to.0)))
            .collect();
        if reached.is_empty() {
            return Ok(());
        }
        let outside = opener.check_positions(&self.table, &reached).await;
        match outside.map_err(|error| Failure::Passing(chain(&error)))? {
            None => Ok(()),
            Some((bucket, end)) => {
                let text = format!(
                    "table {} bucket {bucket}: messages were read beyond the log's end {end}: a \
                     damaged batch names other offsets than its own; check the log with \
                     `tidelake log verify`",
                    self.table.entry.id
                );
                Err(Failure::Lasting(Trouble::new(Cause::LogDamaged, text)))
            }
        }
    }

    pub(super) fn failure(
        &self,
        kind: ErrorKind,
        error: &(dyn std::error::Error + 'static),
    ) -> Failure {
        match kind {
            // A full disk or a folder that can't be written is the operator's to mend; the rows
            // wait until then, as many as the budget allows.
            ErrorKind::Unavailable | ErrorKind::Denied | ErrorKind::TooLarge => {
                Failure::Passing(chain(error))
            }
            // Somebody else changed the table, or ended it.
            ErrorKind::Conflict | ErrorKind::NotFound => Failure::Changed,
            _ => {
                let trouble = Trouble::of(kind, error);
                let text = format!("table {}: {}", self.table.entry.id, trouble.text);
                Failure::Lasting(Trouble::new(trouble.cause, text))
            }
        }
    }

    /// An object that the table's version names is not there. Where that version is still the
    /// newest, nobody changed the table: the object is lost.
    pub(super) async fn missing(&self, error: &TableError) -> Failure {
        match self.table.delta.refresh(&self.base).await {
            Ok(newest) if newest.version() == self.base.version() => {
                let (id, version) = (&self.table.entry.id, newest.version());
                let text = format!(
                    "table {id}: version {version} names an object that is lost: {}; put it back, \
                     or restore an older version",
                    chain(error)
                );
                Failure::Lasting(Trouble::new(Cause::Corrupt, text))
            }
            Ok(_) => Failure::Changed,
            Err(error) => self.failure(error.kind(), &error),
        }
    }

    /// What an answer of the log to a re-publication or a dead letter means.
    pub(super) fn refused(&self, error: &LogError) -> Failure {
        if error.kind().is_transient() {
            return Failure::Passing(chain(error));
        }
        if matches!(error, LogError::NoTopic(topic) if *topic == self.table.entry.topic) {
            return Failure::Changed;
        }
        let text = format!(
            "table {}: the log takes no misrouted record or dead letter of it: {}; the rows behind \
             it wait",
            self.table.entry.id,
            chain(error)
        );
        Failure::Lasting(Trouble::new(Cause::LogRefused, text))
    }
}
