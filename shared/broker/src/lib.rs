//! An embedded, single-node broker that speaks Kafka's protocol over segment files.
//!
//! It makes `tidelake local` need nothing else, and any Kafka client can produce to it and consume
//! from it. It owns its folder, the protocol, and consumer groups; it knows nothing of tables, and
//! nothing in the workspace knows it is not Kafka. It says no, in Kafka's error codes, to what it
//! does not do: transactions, replication, compaction, authentication. It is not for clusters.
//!
//! ```no_run
//! use tidelake_broker::{Broker, BrokerSettings};
//!
//! # async fn run() -> Result<(), tidelake_broker::BrokerError> {
//! let settings = BrokerSettings::new("./data/log", ([127, 0, 0, 1], 9092).into());
//! let broker = Broker::start(settings).await?;
//! let bootstrap_servers = broker.address().to_string();
//! // … any Kafka client …
//! broker.shutdown().await
//! # }
//! ```
//!
//! # A record's walk
//! Batches are stored whole, as they came: only the base offset is assigned. Before that, records are
//! counted, and unpacked for it piece by piece: what no consumer could read is refused, not stored
//! (`records.rs`). Nothing is ever packed, copied or changed.
//! ```text
//!  socket ─ connection.rs ─► api/produce.rs ─► partition/ queue      ack: after the sync
//!             frames           batches whole,     │ one round at a time   ▲
//!                              checksums          ▼                       │
//!                                        partition/writer.rs ── write, fdatasync ──► high watermark
//!                                          producers.rs: duplicates, gaps              │ wakes
//!  socket ◄─ connection.rs ◄─ api/fetch.rs ◄─ partition/read.rs ◄── tail in memory ◄───┘
//!                                                            ◄───── segment/file.rs
//! ```
//! Appends that arrive while the disk is busy wait together and share the next sync. Consumers see
//! nothing at or past the high watermark, and the high watermark never passes what is on disk: no
//! consumer can commit the offset of a record that a crash takes back.
//!
//! # The folder
//! ```text
//!  lock                       held by the process that runs
//!  clean                      there only after a clean stop                folder.rs
//!  broker.json                cluster id, producer ids given out           identity.rs
//!  groups/offsets.log         committed offsets                            group/offsets.rs
//!  topics/<name>/topic.json   id, partitions, settings                     topics.rs
//!  topics/<name>/<partition>/
//!    00000000000000000000.log    closed segment                            segment/file.rs
//!    00000000000000000000.index  its index and producers, derived          segment/index.rs
//!    00000000000000004711.log    active segment, appended to
//!
//!  segment:  │ batch 0..9 │ batch 10..12 │ batch 13..99 │ … whole batches, offsets contiguous
//!              ▲                           ▲
//!  index:      0 → byte 0                  13 → byte 65903   one entry for each 64 KiB or so
//! ```
//! A kill or a power cut can leave a torn batch at the end of the active segment, never acknowledged:
//! it is cut. Damage anywhere else takes that partition offline by name: at the start, or when it is
//! read ([`Broker::offline_partitions`]). [`repair`] makes it fit to be served, and says what is lost.
//!
//! # Where to look
//! `api/` has one file for each family of requests; `api/supported.rs` lists what is served, in which
//! versions; `api/shape.rs` guards the decoder against claimed lengths. `group/state.rs` and
//! `group/session.rs` are the group state machine, without I/O; `group/registry.rs` gives each
//! group its lock and its time, `group/coordinator.rs` is the shell. `memory.rs` says what requests may
//! take.
//!
//! # Where it differs from Kafka
//! Retention by time goes by when the broker appended, not by record timestamps: loading old events
//! does not delete them. `acks=1` waits for the disk like `acks=all`. Fetch sessions are declined.

mod api;
mod batch;
mod connection;
mod damage;
mod error;
mod files;
mod folder;
mod group;
mod identity;
mod memory;
mod partition;
mod producers;
mod records;
mod segment;
mod server;
mod settings;
mod state;
mod time;
mod topic_config;
mod topics;
mod unpack;

pub use damage::{LostRecords, OfflinePartition, check, repair};
pub use error::BrokerError;
pub use group::shares::CoordinatorUse;
pub use server::Broker;
pub use settings::BrokerSettings;

#[cfg(test)]
mod tests;
