//! Object stores behind one door: a folder, memory or S3.
//!
//! Owns opening a store by URL ([`Store::open`]), durable files ([`local`]), bounded retries,
//! request counts ([`Store::requests`]), create-if-absent with resolved lost answers
//! ([`Store::put_once`]), logs of numbered commits ([`NumberedLog`]), the start-up [`probe`],
//! [`faults`] for tests and the [`conformance`] suite that every store must pass.
//! Does not know what the bytes mean: that is the manifest's and the catalog's business.
//!
//! Invariants:
//! - a write that was answered survives a crash of the process and of the machine;
//! - no reader ever sees a half-written object;
//! - of concurrent `put_once` calls on one name exactly one is told [`PutOnce::Created`].
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! use tidelake_storage::{PutOnce, Store, StoreOptions};
//! let store = Store::open("memory:///", &StoreOptions::default())?;
//! let commit = store.put_once("log/0.json", "mine".into(), |found| found == b"mine").await?;
//! assert!(matches!(commit, PutOnce::Created));
//! let other = store.put_once("log/0.json", "theirs".into(), |found| found == b"theirs").await?;
//! assert!(matches!(other, PutOnce::Exists(found) if found == "mine"));
//! # Ok::<(), tidelake_storage::StorageError>(())
//! # }).unwrap();
//! ```

mod backoff;
pub mod conformance;
mod error;
pub mod faults;
pub mod local;
mod metered;
mod numbered;
mod open;
mod probe;
mod put_once;
mod settling;
mod store;

pub use backoff::{Backoff, RetryPolicy};
pub use error::StorageError;
pub use metered::{Operation, Requests};
pub use numbered::NumberedLog;
pub use open::StoreOptions;
pub use probe::{ProbeError, probe};
pub use put_once::PutOnce;
pub use store::Store;

/// Outcome of a call on a store.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;
