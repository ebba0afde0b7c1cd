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

use crate::log::{Delivered, TableLog};
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
}

/// What the log has acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub token: Token,
    /// The least offsets that lie before what the topic had given out already: it was made anew, or
    /// cut back.
    pub behind: BTreeMap<Bucket, Offset>,
}

/// Bytes that may be on their way whatever their number: small messages of many buckets must not wait
/// for each other.
const IN_FLIGHT_BYTES_MIN: usize = 1 << 20;

/// A message on its way.
#[derive(Debug, Clone, Copy)]
struct Sent {
    bucket: Bucket,
    bytes: usize,
    /// The least offset that it can get.
    floor: Offset,
}

type Awaited = BoxFuture<'static, (Sent, Result<Offset, LogError>)>;

/// Writes the spool's messages and answers with the token that covers them.
pub(crate) async fn write(
    log: &dyn TableLog,
    mut spool: Spool,
    to: &Destination,
) -> Result<Written, ProduceError> {
    let mut written = Written::default();
    let mut in_flight = FuturesUnordered::<Awaited>::new();
    let mut bucket = to.first_bucket % to.buckets;
    let (mut sent, mut in_flight_bytes) = (0u64, 0usize);
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
        let this = message.bucket.unwrap_or_else(|| {
            let turn = Bucket(bucket);
            bucket = (bucket + 1) % to.buckets;
            turn
        });
        let now = Sent {
            bucket: this,
            bytes,
            floor: to.reached.floor(this),
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
        Ok(Some((sent, Ok(offset)))) => {
            let bucket = sent.bucket;
            written.token.raise(bucket, Watermark::after(offset));
            if offset < sent.floor {
                let least = written.behind.entry(bucket).or_insert(offset);
                *least = offset.min(*least);
            } else {
                to.reached.acknowledge(bucket, offset);
            }
            Ok(sent.bytes)
        }
        Ok(Some((_, Err(error)))) => Err(ProduceError::Unknown(error)),
    }
}
