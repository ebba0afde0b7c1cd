//! Checkpoints of the catalog's log: its state at some event, so that opening it reads what came
//! after, and not thousands of files.
//!
//! ```text
//!  _tidelake/catalog_checkpoints/00000000000000000400.json.zst   every event before number 400
//! ```
//! Owns these files. The log stays whole and is the truth: a checkpoint that can't be read, or is of
//! another log (of a catalog that was restored from a backup, say), is passed over. It names the
//! last event that it holds by the id that no other event has.
//!
//! Anybody writes one, once so many events have come that reading them would be felt; the two newest
//! are kept, so that whoever has just listed them finds one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidelake_core::clock::UnixMillis;
use tidelake_core::{TableId, TableVersion};
use tidelake_storage::{NumberedLog, PutOnce, StorageError, Store};

use crate::CatalogError;
use crate::cache::{Dropped, Name, State};
use crate::entry::{self, LastVersions, TableEntry};

const FOLDER: &str = "_tidelake/catalog_checkpoints";
const SUFFIX: &str = ".json.zst";
/// The newest format that this program reads.
const FORMAT: u32 = 1;
const KEPT: usize = 2;
/// Events after which another one is worth its writing, in a small catalog.
const EVENTS_MIN: u64 = 100;
/// In a large one it is a part of the names, so that what is written stays in proportion.
const NAMES_PART: u64 = 16;
/// The default of zstd: some megabytes at most.
const LEVEL: i32 = 3;

/// The checkpoints of one catalog.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoints {
    store: Store,
    log: NumberedLog,
}

#[derive(Serialize, Deserialize)]
struct File<'a> {
    format: u32,
    engine: Cow<'a, str>,
    /// The number of the first event that is not in it.
    next: u64,
    /// The id of the event before that one.
    last_id: Cow<'a, str>,
    names: Vec<Named<'a>>,
    last_versions: Vec<(Cow<'a, TableId>, TableVersion)>,
}

#[derive(Serialize, Deserialize)]
struct Named<'a> {
    table: Cow<'a, TableId>,
    /// The number of its last event.
    event: u64,
    #[serde(flatten)]
    is: Is<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum Is<'a> {
    Live {
        entry: Cow<'a, TableEntry>,
    },
    Dropped {
        entry: Cow<'a, TableEntry>,
        purger: Cow<'a, str>,
        claimed_ms: UnixMillis,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept_until_ms: Option<UnixMillis>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<LastVersions>,
    },
    Purged,
}

/// The part that older and newer programs agree on.
#[derive(Deserialize)]
struct Envelope {
    format: u32,
}

impl Checkpoints {
    pub(crate) fn new(store: Store, log: NumberedLog) -> Self {
        Self { store, log }
    }

    /// The state that the newest checkpoint of this log holds; where there is none, that before the
    /// first event.
    pub(crate) async fn newest(&self) -> Result<State, CatalogError> {
        for number in self.numbers().await?.into_iter().rev() {
            match self.read(number).await? {
                Ok(state) => return Ok(state),
                Err(reason) => tracing::warn!(
                    at = self.store.url_of(&name(number)),
                    reason,
                    "catalog checkpoint passed over"
                ),
            }
        }
        Ok(State::default())
    }

    /// Whether so many events have come since the checkpoint at `last` that another is due.
    pub(crate) fn is_due(state: &State, last: u64) -> bool {
        let names = state.names().len() as u64;
        state.next.saturating_sub(last) >= EVENTS_MIN.max(names / NAMES_PART)
    }

    /// Writes one, unless somebody else has, and removes those that are not needed any more. The
    /// number of the newest there is.
    pub(crate) async fn write(&self, state: &State, engine: &str) -> Result<u64, CatalogError> {
        let mut numbers = self.numbers().await?;
        let newest = numbers.last().copied().unwrap_or(0);
        if !Self::is_due(state, newest) {
            return Ok(newest);
        }
        let bytes = encode(state, engine)?;
        // Whoever was faster wrote the same.
        let name_of_it = name(state.next);
        let put = self.store.put_once(&name_of_it, bytes.into(), |_| true);
        if let PutOnce::Created = put.await? {
            tracing::debug!(next = state.next, "catalog checkpoint written");
        }
        numbers.push(state.next);
        numbers.dedup();
        let unneeded = numbers.len().saturating_sub(KEPT);
        for number in &numbers[..unneeded] {
            self.store.delete(&name(*number)).await?;
        }
        Ok(state.next)
    }

    /// The numbers of those present, in order.
    async fn numbers(&self) -> Result<Vec<u64>, StorageError> {
        let found = self.store.list(FOLDER).await?;
        let names = found.iter().filter_map(|meta| meta.location.filename());
        let mut numbers: Vec<_> = names.filter_map(parse_name).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The state at `number`, or why it is not to be used.
    async fn read(&self, number: u64) -> Result<Result<State, String>, StorageError> {
        let Some(bytes) = self.store.get_opt(&name(number)).await? else {
            return Ok(Err("it was removed meanwhile".to_owned()));
        };
        let state = match decode(&bytes) {
            Ok(state) if state.next == number => state,
            Ok(state) => return Ok(Err(format!("it says that it is number {}", state.next))),
            Err(reason) => return Ok(Err(reason)),
        };
        let last = match number.checked_sub(1) {
            Some(last) => self.log.read(last).await?,
            None => None,
        };
        let of_this_log = last.is_some_and(|last| entry::is_record(&last, &state.last_id));
        if !of_this_log {
            return Ok(Err("it is of another catalog's log".to_owned()));
        }
        Ok(Ok(state))
    }
}

fn name(number: u64) -> String {
    format!("{FOLDER}/{number:020}{SUFFIX}")
}

fn parse_name(file_name: &str) -> Option<u64> {
    NumberedLog::parse(file_name.strip_suffix(".zst")?)
}

fn encode(state: &State, engine: &str) -> Result<Vec<u8>, serde_json::Error> {
    let names = state.names().iter().map(|(table, (event, name))| Named {
        table: Cow::Borrowed(table),
        event: *event,
        is: Is::from(name),
    });
    let last_versions = state.last_versions().iter();
    let file = File {
        format: FORMAT,
        engine: engine.into(),
        next: state.next,
        last_id: state.last_id.as_str().into(),
        names: names.collect(),
        last_versions: last_versions
            .map(|(table, version)| (Cow::Borrowed(table), *version))
            .collect(),
    };
    let encoder = zstd::Encoder::new(Vec::new(), LEVEL).and_then(|mut encoder| {
        encoder.include_checksum(true)?;
        Ok(encoder)
    });
    let mut encoder = encoder.map_err(serde_json::Error::io)?;
    serde_json::to_writer(&mut encoder, &file)?;
    encoder.finish().map_err(serde_json::Error::io)
}

fn decode(bytes: &[u8]) -> Result<State, String> {
    let json = zstd::Decoder::new(bytes).and_then(|mut decoder| {
        let mut json = Vec::new();
        io::copy(&mut decoder, &mut json)?;
        Ok(json)
    });
    let json = json.map_err(|error| error.to_string())?;
    let envelope: Envelope = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
    if envelope.format > FORMAT {
        return Err(format!(
            "format {} is newer than this program, which reads up to {FORMAT}",
            envelope.format
        ));
    }
    let file: File<'_> = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
    let names = file.names.into_iter();
    let names: BTreeMap<_, _> = names
        .map(|named| (named.table.into_owned(), (named.event, named.is.into())))
        .collect();
    let last_versions = file.last_versions.into_iter();
    let last_versions = last_versions.map(|(table, version)| (table.into_owned(), version));
    Ok(State::kept(
        file.next,
        file.last_id.into_owned(),
        names,
        last_versions.collect(),
    ))
}

impl<'a> From<&'a Name> for Is<'a> {
    fn from(name: &'a Name) -> Self {
        match name {
            Name::Live(entry) => Self::Live {
                entry: Cow::Borrowed(entry),
            },
            Name::Dropped(Dropped {
                entry,
                purger,
                claimed_ms,
                kept_until_ms,
                last,
            }) => Self::Dropped {
                entry: Cow::Borrowed(entry),
                purger: purger.into(),
                claimed_ms: *claimed_ms,
                kept_until_ms: *kept_until_ms,
                last: *last,
            },
            Name::Purged => Self::Purged,
        }
    }
}

impl From<Is<'_>> for Name {
    fn from(is: Is<'_>) -> Self {
        match is {
            Is::Live { entry } => Self::Live(Arc::new(entry.into_owned())),
            Is::Dropped {
                entry,
                purger,
                claimed_ms,
                kept_until_ms,
                last,
            } => Self::Dropped(Dropped {
                entry: Arc::new(entry.into_owned()),
                purger: purger.into_owned(),
                claimed_ms,
                kept_until_ms,
                last,
            }),
            Is::Purged => Self::Purged,
        }
    }
}

#[cfg(test)]
pub(crate) fn round_trip(state: &State) -> State {
    decode(&encode(state, "test").unwrap()).unwrap()
}
