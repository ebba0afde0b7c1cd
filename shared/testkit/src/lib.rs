//! For tests only: the real things around Tidelake, started and killed at will, and the checker of
//! what came through.
//!
//! Owns [`Kafka`] (a real Apache Kafka), [`EmbeddedBroker`] (ours, in process), [`S3Server`],
//! [`Process`] (our own programs), [`Readers`] (Delta readers we did not write), [`History`] (which
//! acknowledged record was lost, doubled or made up) and [`wait_until`]. Holds no assertions about
//! Tidelake itself: those are in `tests/`.
//!
//! What is not ours comes from the cache that `scripts/setup-external` fills. A missing tool is an
//! error, unless `TIDELAKE_TEST_EXTERNAL=0` says to skip: then [`external::wanted`] is false, and
//! the skip is counted.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use tidelake_testkit::{Kafka, Program};
//! let Some(mut kafka) = Kafka::start().await? else { return Ok(()) };
//! let mut tidelake = Program::new("tidelake")
//!     .args(["local", "--gateway-port", "0", "--query-port", "0"])
//!     .args(["--kafka-bootstrap", &kafka.bootstrap()])
//!     .start()
//!     .await?;
//! let gateway = tidelake.ready("gateway")?.to_owned();
//! tidelake.kill()?;
//! kafka.kill()?;
//! kafka.restart().await?;
//! # Ok(()) }
//! ```

mod broker;
pub mod external;
mod history;
mod kafka;
mod process;
mod readers;
mod s3;
mod upserts;
mod wait;

pub use broker::EmbeddedBroker;
pub use history::{History, Verdict};
pub use kafka::Kafka;
pub use process::{Process, Program};
pub use readers::{Reader, Readers, Reading, Rows};
pub use s3::S3Server;
pub use upserts::{State, UpsertHistory, UpsertVerdict};
pub use wait::{WAIT_MAX, free_port, wait_until};
