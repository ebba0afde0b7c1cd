//! The Delta protocol: a table's log, read and written exactly as other engines do.
//!
//! Owns the actions ([`action`]), their replay into a [`Snapshot`], the [`Transaction`] with its
//! rules of [`Conflict`] and rebase, the [`invariants`] of every commit, classic
//! checkpoints, the formats of deletion vectors ([`vector`]) and statistics ([`Stats`]), and the
//! [`NamedSnapshot`]s that vacuum must respect, and the one [`SnapshotCache`] of a process. Protocol logic does no I/O; [`DeltaTable`] is the
//! thin shell that does.
//! Does not know Parquet data files, Kafka or indexes: that is `tidelake_table` and above.
//!
//! Invariants:
//! - a version, once written, never changes;
//! - a watermark moves only from the value that the log holds, and only forward;
//! - no file counts twice, and a remove names exactly what is live;
//! - a name's versions never repeat, whatever is dropped and created under it
//!   ([`DeltaTable::create`]).
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! use std::collections::BTreeMap;
//! use tidelake_core::{TableVersion, clock, ids};
//! use tidelake_manifest::{CommitOutcome, CreateTable, DeltaTable, Transaction, action::Add};
//! use tidelake_schema::TableSchema;
//! use tidelake_storage::{Store, StoreOptions};
//!
//! let store = Store::open("memory:///", &StoreOptions::default())?;
//! let table = DeltaTable::new(store, clock::system(), ids::random());
//! let schema = r#"{"type": "struct", "fields":
//!     [{"name": "id", "type": "long", "required": true}]}"#;
//! let schema = TableSchema::from_iceberg_json(schema)?;
//! let created = table
//!     .create(CreateTable {
//!         name: "orders".into(),
//!         schema,
//!         append_only: true,
//!         properties: BTreeMap::new(),
//!         first_version: TableVersion(0),
//!     })
//!     .await?;
//! let add = Add {
//!     path: "1.parquet".into(),
//!     size: 100,
//!     data_change: true,
//!     stats: Some(r#"{"numRecords":3}"#.into()),
//!     ..Add::default()
//! };
//! let flush = Transaction::flush(vec![add], vec![]);
//! let outcome = table.commit(created.snapshot(), flush).await?;
//! let CommitOutcome::Committed { version, snapshot } = outcome else { panic!("no contention") };
//! assert_eq!((version, snapshot.total_rows()), (TableVersion(1), 3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

pub mod action;
pub mod cache;
mod checkpoint;
mod checkpointer;
mod commit;
mod commit_file;
mod conflict;
mod error;
mod features;
mod history;
pub mod invariants;
mod layered;
mod lifetime;
mod log_files;
mod log_io;
mod pins;
mod properties;
mod rebase;
mod replay;
mod retyped;
mod rules;
mod snapshot;
pub mod stats;
mod table;
#[cfg(test)]
mod testing;
mod transaction;
mod trust;
pub mod vector;
mod vector_reads;

pub use action::{Add, Metadata, Protocol, Remove, Txn, VectorDescriptor};
pub use cache::{CachedTable, Freshness, Seen, SnapshotCache};
pub use commit_file::Commit;
pub use conflict::Conflict;
pub use error::{ManifestError, Result, Violation};
pub use features::with_column_mapping;
pub use history::{CommitSummary, History};
pub use lifetime::{CreateOutcome, CreateTable};
pub use pins::{CreateNamed, NAMED_SNAPSHOTS_MAX, NamedSnapshot};
pub use rebase::{Rebased, rebase};
pub use rules::fits_still;
pub use snapshot::{DataFile, FileChanges, Snapshot, Totals, app_id};
pub use stats::{Stats, StatsCollector};
pub use table::DeltaTable;
pub use transaction::{CommitOutcome, MarkMove, Transaction};
