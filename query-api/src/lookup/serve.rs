//! From what is asked to rows: which view, which way.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use tidelake_catalog::{TableEntry, TableMode};
use tidelake_core::{TableId, TenantId};

use super::ask::{Ask, Wanted};
use super::batches::{self, KeyedBatches};
use super::fetch::{self, Rows};
use super::scan;
use crate::admission::Looking;
use crate::engine::{Engine, Seen};
use crate::error::QueryError;
use crate::formats::OddFloats;
use crate::moment;
use crate::request::Consistency;
use crate::table::keys::TableKeys;
use crate::table::pinned::Pinned;
use crate::table::stored_keys::StoredKeys;
use crate::tail::{Finder, Found, View, searched};
use crate::wait::{Patience, behind};

/// Attempts to answer by indexes that turn out to be damaged.
const TRIES_MAX: u32 = 16;

/// Rows of one view, in the order of their keys: to be written as JSON, or taken as batches.
#[derive(Debug)]
pub struct Answered {
    pub(crate) rows: Rows,
    pub seen: Seen,
    /// Where a range goes on.
    pub next: Option<String>,
    /// Of the table.
    schema: SchemaRef,
    /// Of what the rows' keys are.
    keys: Arc<TableKeys>,
    is_range: bool,
}

/// Keys, read by the types of the table.
enum Keys {
    Points(RecordBatch),
    Range {
        from: Option<RecordBatch>,
        to: Option<RecordBatch>,
        limit: usize,
    },
}

/// Which rows of the table count.
enum Source {
    /// Who follows the table knows where they are.
    Indexed(Finder, Seen),
    /// What is stored beside the files may tell, else they must be looked for.
    Stored(Arc<Pinned>),
}

impl Engine {
    /// Rows by key, as of one view of the table.
    ///
    /// # Errors
    /// A table that is not there or has no key, keys that are none of it, a token or a log that does
    /// not come so far in time, and rows that take more than an answer may.
    pub async fn lookup(
        &self,
        tenant: &TenantId,
        ask: &Ask,
        wanted: &Wanted<'_>,
    ) -> Result<Answered, QueryError> {
        let begun = moment::now();
        let patience = Patience::until(begun + ask.timeout).ended_by(self.closed());
        let work = self.begin_lookup(tenant, ask, wanted, &patience);
        let done = moment::by(patience.deadline, work).await;
        let done = done.unwrap_or_else(|_| {
            let millis = u64::try_from(ask.timeout.as_millis()).unwrap_or(u64::MAX);
            Err(patience.behind().unwrap_or(QueryError::Timeout(millis)))
        });
        let metrics = self.metrics();
        let (outcome, rows) = match &done {
            Ok(answered) => ("ok", answered.rows.len()),
            Err(error) => (error.outcome(), 0),
        };
        metrics.lookups.with_label_values(&[outcome]).inc();
        metrics.lookup_rows.inc_by(rows as u64);
        metrics
            .lookup_seconds
            .observe(begun.elapsed().as_secs_f64());
        done
    }

    async fn begin_lookup(
        &self,
        tenant: &TenantId,
        ask: &Ask,
        wanted: &Wanted<'_>,
        patience: &Patience<'_>,
    ) -> Result<Answered, QueryError> {
        let looking = self.lookups().begin(tenant)?;
        let id = TableId::new(tenant.clone(), ask.table.clone());
        let entry = self.entry_soon(&id).await?;
        if entry.mode != TableMode::Upsert {
            return Err(QueryError::NoKey(id));
        }
        let mut tries = 0;
        loop {
            // Whoever waits for a token or a topic takes nobody's turn.
            let done = match self.source(&entry, ask, patience).await? {
                Source::Stored(pinned) => return self.by_files(&looking, &pinned, wanted).await,
                Source::Indexed(finder, seen) => {
                    let _turn = looking.turn().await?;
                    let keys = keys(finder.keys(), wanted)?;
                    let done = self.indexed(finder.clone(), seen, keys).await;
                    done.map_err(|error| (error, finder.is_damaged()))
                }
            };
            tries += 1;
            match done {
                Ok(answered) => return Ok(answered),
                // The next view has an index that was read anew.
                Err((error, true)) if tries < TRIES_MAX => {
                    tracing::warn!(table = %entry.id, %error, "a key index is damaged");
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Rows of one version, without a follower.
    async fn by_files(
        &self,
        looking: &Looking<'_>,
        pinned: &Arc<Pinned>,
        wanted: &Wanted<'_>,
    ) -> Result<Answered, QueryError> {
        let Some(known) = pinned.keys.clone() else {
            return Err(QueryError::NoKey(pinned.entry.id.clone()));
        };
        let keys = keys(&known, wanted)?;
        if let Keys::Points(points) = &keys {
            let _turn = looking.turn().await?;
            if let Some(answered) = self.stored(pinned, points).await? {
                return Ok(answered);
            }
        }
        let (engine, pinned) = (self.clone(), Arc::clone(pinned));
        let scan = async move { engine.scanned(&pinned, &known, keys).await };
        self.aside(scan).await
    }

    async fn source(
        &self,
        entry: &Arc<TableEntry>,
        ask: &Ask,
        patience: &Patience<'_>,
    ) -> Result<Source, QueryError> {
        if let Some(as_of) = &ask.as_of {
            let followed = self.tails().followed(entry);
            let view = followed.and_then(|followed| followed.view());
            let pinned = self.pins().past(entry, as_of).await?;
            return Ok(
                match view.and_then(|view| Finder::committed(&view, &pinned)) {
                    Some(finder) => Source::Indexed(finder, Seen::committed(&pinned)),
                    None => Source::Stored(pinned),
                },
            );
        }
        let token = ask.token.as_ref();
        self.check_token(entry, token).await?;
        let mut patience = patience.clone();
        if ask.consistency == Consistency::Latest {
            let view = self.latest(entry, token, &patience).await?;
            let seen = Seen::of(&view.pinned, view.positions());
            return match Finder::fresh(&view) {
                Some(finder) => Ok(Source::Indexed(finder, seen)),
                None => Err(QueryError::NoKey(entry.id.clone())),
            };
        }
        loop {
            let source = match self.followed_committed(entry, &patience).await {
                Some(view) => Finder::committed(&view, &view.pinned)
                    .map(|finder| Source::Indexed(finder, Seen::committed(&view.pinned))),
                None => None,
            };
            let source = match source {
                Some(source) => source,
                None => Source::Stored(self.pins().newest(entry, Duration::ZERO).await?),
            };
            let pinned = source.pinned();
            match behind(entry, token, |bucket| pinned.watermark(bucket)) {
                None => {
                    patience.over();
                    return Ok(source);
                }
                Some(behind) => {
                    if patience.is_fresh() {
                        self.check_in_log(entry, token).await?;
                    }
                    patience.wait(behind).await?;
                }
            }
        }
    }

    /// The newest version by a follower that is there already. Nobody begins to follow a table for
    /// its committed rows: they do without the log, and few keys cost less by themselves than all.
    async fn followed_committed(
        &self,
        entry: &Arc<TableEntry>,
        patience: &Patience<'_>,
    ) -> Option<Arc<View>> {
        let followed = self.tails().followed(entry)?;
        followed.view()?;
        let following = self.tails().follow(entry);
        let view = following.view(&[], Duration::ZERO, patience.deadline).await;
        if let Err(error) = &view {
            tracing::debug!(table = %entry.id, %error, "keys are looked for without the log");
        }
        view.ok()
    }

    async fn indexed(
        &self,
        finder: Finder,
        seen: Seen,
        keys: Keys,
    ) -> Result<Answered, QueryError> {
        let (found, limit) = match keys {
            Keys::Points(keys) => (finder.found(keys).await?, None),
            Keys::Range { from, to, limit } => {
                let search = finder.clone();
                let find = move || {
                    // One row more than is sent: it tells where to go on.
                    let found = search.range(from.as_ref(), to.as_ref(), limit + 1)?;
                    Ok(found.into_iter().map(Some).collect())
                };
                (searched(find).await?, Some(limit))
            }
        };
        let bytes_max = self.settings().json_bytes_max;
        let rows = fetch::fetch(self.readers(), finder.pinned(), &found, bytes_max).await?;
        let keys = finder.keys();
        let is_cut = rows.len() < found.len();
        let of_table = (keys, &finder.pinned().shape.schema);
        answered(of_table, rows, seen, (limit, is_cut), bytes_max)
    }

    /// The rows by what is stored beside the files; `None` where only a scan finds them.
    async fn stored(
        &self,
        pinned: &Arc<Pinned>,
        keys: &RecordBatch,
    ) -> Result<Option<Answered>, QueryError> {
        let Some(stored) = StoredKeys::of(pinned) else {
            return Ok(None);
        };
        let found = stored.find(self.readers(), keys).await?;
        let Some(found) = found else {
            return Ok(None);
        };
        let found = found.into_iter().map(|row| row.map(Found::from));
        let found: Vec<Option<Found>> = found.collect();
        let bytes_max = self.settings().json_bytes_max;
        let rows = fetch::fetch(self.readers(), pinned, &found, bytes_max).await?;
        let (seen, is_cut) = (Seen::committed(pinned), rows.len() < found.len());
        let of_table = (stored.keys(), &pinned.shape.schema);
        answered(of_table, rows, seen, (None, is_cut), bytes_max).map(Some)
    }

    async fn scanned(
        &self,
        pinned: &Arc<Pinned>,
        known: &Arc<TableKeys>,
        keys: Keys,
    ) -> Result<Answered, QueryError> {
        let seen = Seen::committed(pinned);
        let bytes_max = self.settings().json_bytes_max;
        match keys {
            Keys::Points(keys) => {
                let rows = scan::points(self, pinned, known, &keys).await?;
                answered(
                    (known, &pinned.shape.schema),
                    rows,
                    seen,
                    (None, false),
                    bytes_max,
                )
            }
            Keys::Range { from, to, limit } => {
                let range = (from.as_ref(), to.as_ref());
                let (rows, is_cut) = scan::range(self, pinned, known, range, limit + 1).await?;
                let of_table = (known, &pinned.shape.schema);
                answered(of_table, rows, seen, (Some(limit), is_cut), bytes_max)
            }
        }
    }
}

impl Source {
    fn pinned(&self) -> &Arc<Pinned> {
        match self {
            Self::Indexed(finder, _) => finder.pinned(),
            Self::Stored(pinned) => pinned,
        }
    }
}

fn keys(known: &TableKeys, wanted: &Wanted<'_>) -> Result<Keys, QueryError> {
    let bound = |text: &Option<String>| {
        let key = text.as_ref().map(|text| known.of_text(text.as_bytes()));
        key.transpose()
    };
    Ok(match wanted {
        Wanted::Text(text) => Keys::Points(known.of_text(text.as_bytes())?),
        Wanted::Json(keys) => Keys::Points(known.of_json(keys)?),
        Wanted::Range { from, to, limit } => Keys::Range {
            from: bound(from)?,
            to: bound(to)?,
            limit: *limit,
        },
    })
}

/// Cuts a range at its limit, or where its rows became too large; the first row that is left out
/// names where it goes on.
fn answered(
    (keys, schema): (&Arc<TableKeys>, &SchemaRef),
    mut rows: Rows,
    seen: Seen,
    (limit, is_cut): (Option<usize>, bool),
    bytes_max: usize,
) -> Result<Answered, QueryError> {
    let is_range = limit.is_some();
    let limit = match (limit, is_cut) {
        (None, true) => return Err(QueryError::ResultTooLarge { bytes_max }),
        (None, false) => rows.len(),
        (Some(limit), false) => limit,
        (Some(limit), true) => limit.min(rows.len().saturating_sub(1)),
    };
    if is_cut && limit == 0 {
        return Err(QueryError::ResultTooLarge { bytes_max });
    }
    let mut next = None;
    if rows.len() > limit {
        next = key_of(keys, &rows, limit)?;
        rows.truncate(limit);
    }
    Ok(Answered {
        rows,
        seen,
        next,
        schema: Arc::clone(schema),
        keys: Arc::clone(keys),
        is_range,
    })
}

fn key_of(keys: &TableKeys, rows: &Rows, place: usize) -> Result<Option<String>, QueryError> {
    let row = rows.batch_of(place);
    row.map(|(batch, row)| keys.text_of(batch, row)).transpose()
}

impl Answered {
    /// Writes the rows as `[…]` has them, within the bound; a range that does not fit ends early
    /// and says where it goes on.
    pub(crate) fn write(
        &mut self,
        odd: OddFloats,
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<(), QueryError> {
        let written = self.rows.write(odd, out, bytes_max)?;
        self.ends_at(written, bytes_max)
    }

    /// The rows as columns, within the bound, as JSON has them.
    ///
    /// # Errors
    /// [`QueryError::ResultTooLarge`] where they take more, unless a range can be cut.
    pub fn batches(&mut self, bytes_max: usize) -> Result<KeyedBatches, QueryError> {
        let made = batches::batches(&self.rows, &self.schema, bytes_max)?;
        self.ends_at(made.present.len(), bytes_max)?;
        Ok(made)
    }

    /// So many of the rows fit.
    fn ends_at(&mut self, written: usize, bytes_max: usize) -> Result<(), QueryError> {
        if written == self.rows.len() {
            return Ok(());
        }
        if !self.is_range || written == 0 {
            return Err(QueryError::ResultTooLarge { bytes_max });
        }
        self.next = key_of(&self.keys, &self.rows, written)?;
        self.rows.truncate(written);
        Ok(())
    }
}
