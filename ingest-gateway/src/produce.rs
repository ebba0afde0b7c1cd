//! A checked body into the log: bounded in flight, every acknowledgement awaited.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tidelake_core::{Bucket, Offset, Token, Watermark};
use tidelake_log::{LogError, Message, headers};
use tidelake_service::{Pace, Writing};

use crate::log::{Delivered, TableLog};
use crate::moment;
use crate::packer::Packed;
use crate::spool::{Spool, SpoolError};
use crate::tables::Reached;

/// Why a body is not known to be in the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProduceError {
    /// Nothing of the body is in the log.
    #[error("the log did not take the records")]
    Nothing(#[source] LogError),
    /// Some of it, all of it or nothing may be in the log.
    #[error("the log did not acknowledge all records")]
    Unknown(#[source] LogError),
    #[error("the log acknowledged nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// Nothing of the body is in the log.
    #[error("records that waited could not be read back")]
    Spool(#[from] SpoolError),
    #[error("records that waited could not be read back, and some are in the log")]
    SpoolCut(#[source] SpoolError),
}

/// Where messages go.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    pub topic: Arc<str>,
    /// Up to where the topic is known to reach.
    pub reached: Arc<Reached>,
    pub buckets: u32,
    /// The bucket of the first message that may go to any; the next ones take turns.
    pub first_bucket: u32,
    pub in_flight_max: usize,
    pub timeout: Duration,
    /// How far the readers of this process are.
    pub pace: Pace,
    /// How far they may be behind; 0: as far as they like.
    pub reader_lag_max: Duration,
}

/// What the log has acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub token: Token,
    /// The least offsets that lie before what the topic had given out already: it was made anew, or
    /// cut back.
    pub behind: BTreeMap<Bucket, Offset>,
    /// For how long messages were held back for readers of this process.
    pub held: Duration,
}

/// Bytes that may be on their way whatever their number: small messages of many buckets must not wait
/// for each other.
const IN_FLIGHT_BYTES_MIN: usize = 1 << 20;

/// A body goes at most so many times slower than it could, and twice the lag that readers may have:
/// a reader may have much to catch up with that others wrote.
const SLOWER_MAX: u32 = 4;

/// A message on its way.
#[derive(Debug)]
struct Sent {
    bucket: Bucket,
    bytes: usize,
    /// The least offset that it can get.
    floor: Offset,
    writing: Option<Writing>,
}

type Awaited = BoxFuture<'static, (Sent, Result<Offset, LogError>)>;

/// Writes the spool's messages and answers with the token that covers them. No message goes before
/// the readers of this process are near: a lookup waits for all that stands in the log.
pub(crate) async fn write(
    log: &dyn TableLog,
    mut spool: Spool,
    to: &Destination,
) -> Result<Written, ProduceError> {
    let mut written = Written::default();
    let mut in_flight = FuturesUnordered::<Awaited>::new();
    let mut bucket = to.first_bucket % to.buckets;
    let (mut sent, mut in_flight_bytes) = (0u64, 0usize);
    let begun = moment::now();
    loop {
        let message = if spool.may_block() {
            let read = tokio::task::spawn_blocking(move || (spool.pop(), spool)).await;
            let Ok((message, returned)) = read else {
                return Err(failed(sent, LogError::Closed));
            };
            spool = returned;
            message
        } else {
            spool.pop()
        };
        let message = match message {
            Ok(message) => message,
            Err(error) if sent == 0 => return Err(error.into()),
            Err(error) => return Err(ProduceError::SpoolCut(error)),
        };
        let Some(message) = message else { break };
        let bytes = message.value.len();
        while in_flight.len() >= to.in_flight_max.max(1)
            && in_flight_bytes + bytes > IN_FLIGHT_BYTES_MIN
        {
            in_flight_bytes -= acknowledge(&mut in_flight, &mut written, to).await?;
        }
        while let Some(wait) = to.hold(begun, written.held) {
            let held = moment::now();
            in_flight_bytes -= hear(&mut in_flight, &mut written, to, wait).await?;
            written.held += moment::age(held);
        }
        let this = message.bucket.unwrap_or_else(|| {
            let turn = Bucket(bucket);
            bucket = (bucket + 1) % to.buckets;
            turn
        });
        let now = Sent {
            bucket: this,
            bytes,
            floor: to.reached.floor(this),
            writing: Some(to.pace.writing(&to.topic, bytes)),
        };
        let delivered = enqueue(log, packed_message(to, this, message), to.timeout)
            .await
            .map_err(|error| failed(sent, error))?;
        in_flight.push(delivered.map(move |outcome| (now, outcome)).boxed());
        in_flight_bytes += bytes;
        sent += 1;
    }
    while !in_flight.is_empty() {
        acknowledge(&mut in_flight, &mut written, to).await?;
    }
    Ok(written)
}

impl Destination {
    /// How long a message of a body should wait until it asks again, if it is not to go.
    fn hold(&self, begun: moment::Instant, held: Duration) -> Option<Duration> {
        let took = moment::age(begun).saturating_sub(held);
        let held_max = 2 * self.reader_lag_max + SLOWER_MAX * took;
        if held >= held_max {
            return None;
        }
        self.pace.hold(self.reader_lag_max)
    }
}

/// Asks every bucket's flusher to commit what stands before the marker; the token covers the
/// markers.
pub(crate) async fn write_flush_markers(
    log: &dyn TableLog,
    to: &Destination,
) -> Result<Written, ProduceError> {
    let mut written = Written::default();
    let mut in_flight = FuturesUnordered::<Awaited>::new();
    for bucket in (0..to.buckets).map(Bucket) {
        let ask = vec![(headers::OP, Bytes::from_static(headers::OP_FLUSH))];
        let message = Message::marker(Arc::clone(&to.topic), bucket, ask);
        let now = Sent {
            bucket,
            bytes: 0,
            floor: to.reached.floor(bucket),
            writing: None,
        };
        let delivered = enqueue(log, message, to.timeout)
            .await
            .map_err(ProduceError::Unknown)?;
        in_flight.push(delivered.map(move |outcome| (now, outcome)).boxed());
    }
    while !in_flight.is_empty() {
        acknowledge(&mut in_flight, &mut written, to).await?;
    }
    Ok(written)
}

fn packed_message(to: &Destination, bucket: Bucket, packed: Packed) -> Message {
    let encoding = (
        headers::ENCODING.into(),
        Bytes::from_static(headers::ENCODING_ARROW),
    );
    let mut message = Message::new(Arc::clone(&to.topic), bucket, packed.value);
    message.headers.push(encoding);
    message
}

async fn enqueue(
    log: &dyn TableLog,
    message: Message,
    timeout: Duration,
) -> Result<Delivered, LogError> {
    match tokio::time::timeout(timeout, log.enqueue(message)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(LogError::QueueFull),
    }
}

fn failed(sent: u64, error: LogError) -> ProduceError {
    if sent == 0 {
        ProduceError::Nothing(error)
    } else {
        ProduceError::Unknown(error)
    }
}

/// Waits for one more acknowledgement; the bytes it was for.
async fn acknowledge(
    in_flight: &mut FuturesUnordered<Awaited>,
    written: &mut Written,
    to: &Destination,
) -> Result<usize, ProduceError> {
    match tokio::time::timeout(to.timeout, in_flight.next()).await {
        Err(_) => Err(ProduceError::Silent(to.timeout)),
        Ok(None) => Ok(0),
        Ok(Some((sent, outcome))) => written.heard(sent, outcome, to),
    }
}

/// Lets the time pass, or one acknowledgement come; the bytes that it was for.
async fn hear(
    in_flight: &mut FuturesUnordered<Awaited>,
    written: &mut Written,
    to: &Destination,
    time: Duration,
) -> Result<usize, ProduceError> {
    if in_flight.is_empty() {
        moment::pass(time).await;
        return Ok(0);
    }
    match tokio::time::timeout(time, in_flight.next()).await {
        Ok(Some((sent, outcome))) => written.heard(sent, outcome, to),
        Ok(None) | Err(_) => Ok(0),
    }
}

impl Written {
    /// What the log said of a message; its bytes.
    fn heard(
        &mut self,
        sent: Sent,
        outcome: Result<Offset, LogError>,
        to: &Destination,
    ) -> Result<usize, ProduceError> {
        let offset = outcome.map_err(ProduceError::Unknown)?;
        let bucket = sent.bucket;
        self.token.raise(bucket, Watermark::after(offset));
        if let Some(writing) = sent.writing {
            writing.wrote(bucket, Offset(offset.0 + 1));
        }
        if offset < sent.floor {
            let least = self.behind.entry(bucket).or_insert(offset);
            *least = offset.min(*least);
        } else {
            to.reached.acknowledge(bucket, offset);
        }
        Ok(sent.bytes)
    }
}
