//! What a broker can be told. Every field has a default that fits one machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidelake_core::clock::{self, SharedClock};
use tidelake_core::ids::{self, SharedIds};

use crate::segment::{Disk, RealDisk};

const MIB: usize = 1024 * 1024;

/// Settings of one [`Broker`](crate::Broker). Start from [`BrokerSettings::new`].
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// Everything the broker keeps lives below this folder; one process at a time may use it.
    pub dir: PathBuf,
    /// Where to listen; port 0 picks a free one. The address is also the one advertised to clients.
    pub listen: SocketAddr,
    /// Waits for the disk before an acknowledgement. Off, a power cut may lose acknowledged records
    /// (a killed process does not).
    pub fsync: bool,
    /// A segment is closed when the next append would pass this size. Small segments make retention
    /// finer and cost files.
    pub segment_bytes_max: u64,
    /// How long an append may wait for company before the disk is asked. Adds to every
    /// acknowledgement; appends that arrive while the disk is busy share the next sync anyway.
    pub flush_linger: Duration,
    /// Retention of topics that do not set `retention.ms`; `None` keeps records for ever.
    pub default_retention_ms: Option<i64>,
    /// Largest record batch of topics that do not set `max.message.bytes`.
    pub message_bytes_max: usize,
    /// Largest record batch once it is unpacked. More would cost every consumer that much memory,
    /// and clients that bound it (librdkafka's: at 100 MB) could not read it.
    pub unpacked_bytes_max: usize,
    /// Partitions of a topic that is created without a count.
    pub default_partitions: i32,
    /// How often retention runs.
    pub retention_interval: Duration,
    /// How long an empty group waits for more members before its first generation.
    pub group_initial_delay: Duration,
    /// Segment files that are open at one time, however many partitions there are. The process's
    /// own limit lowers it. Too few cost an `open` for many reads and appends.
    pub open_files_max: usize,
    /// How long a start after an unclean stop may check closed segments; what is left then is
    /// checked when it is read. Zero leaves all to the reads.
    pub recovery_check_max: Duration,
    /// A longer request closes its connection.
    pub request_bytes_max: usize,
    /// Further connections are closed at once. Half of the process's open files lowers it.
    pub connections_max: usize,
    /// Requests of one connection that may be under way; the socket is not read beyond that.
    pub connection_requests_max: usize,
    /// Bytes of one connection's requests under way; its socket is not read beyond that, but one
    /// request is always taken.
    pub connection_bytes_max: usize,
    /// Bytes of all requests under way. One request at a time may go beyond it, and each connection
    /// has 64 KiB of its own. Sockets are not read beyond that.
    pub inflight_bytes_max: usize,
    /// Largest fetch answer, whatever the client asks for (one batch is always returned).
    pub fetch_bytes_max: usize,
    /// Bytes of fetch answers under way. An answer gets a part of what is left; where nothing is,
    /// 256 KiB or one batch.
    pub fetch_inflight_bytes_max: usize,
    /// Recent records of all partitions kept in memory for consumers that follow closely.
    pub tail_bytes_max: usize,
    /// The same for one partition.
    pub partition_tail_bytes_max: usize,
    /// The present.
    pub clock: SharedClock,
    /// New topic, cluster and member ids.
    pub ids: SharedIds,
    /// The seam through which segments are written, for fault injection.
    pub(crate) disk: Arc<dyn Disk>,
}

impl BrokerSettings {
    /// The defaults, over the machine's clock and randomness.
    pub fn new(dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            dir: dir.into(),
            listen,
            fsync: true,
            segment_bytes_max: 256 * MIB as u64,
            flush_linger: Duration::ZERO,
            default_retention_ms: Some(7 * 24 * 60 * 60 * 1000),
            message_bytes_max: 9 * MIB,
            unpacked_bytes_max: 95 * MIB,
            default_partitions: 1,
            retention_interval: Duration::from_secs(10),
            group_initial_delay: Duration::ZERO,
            open_files_max: 256,
            recovery_check_max: Duration::from_secs(10),
            request_bytes_max: 100 * MIB,
            connections_max: 2_000,
            connection_requests_max: 64,
            connection_bytes_max: 64 * MIB,
            inflight_bytes_max: 256 * MIB,
            fetch_bytes_max: 64 * MIB,
            fetch_inflight_bytes_max: 256 * MIB,
            tail_bytes_max: 64 * MIB,
            partition_tail_bytes_max: 8 * MIB,
            clock: clock::system(),
            ids: ids::random(),
            disk: Arc::new(RealDisk),
        }
    }
}
