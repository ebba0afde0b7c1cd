//! A checked body into the log: bounded in flight, every acknowledgement awaited.

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
    pub buckets: u32,
    /// The bucket of the first message; the next ones take turns.
    pub first_bucket: u32,
    pub in_flight_max: usize,
    pub timeout: Duration,
}

type Awaited = BoxFuture<'static, (Bucket, Result<Offset, LogError>)>;

/// Writes the spool's messages and answers with the token that covers them.
pub(crate) async fn write(
    log: &dyn TableLog,
    mut spool: Spool,
    to: &Destination,
) -> Result<Token, ProduceError> {
    let mut token = Token::default();
    let mut in_flight = FuturesUnordered::<Awaited>::new();
    let mut bucket = to.first_bucket % to.buckets;
    let mut sent = 0u64;
    loop {
        let message = if spool.is_on_disk() {
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
        while in_flight.len() >= to.in_flight_max.max(1) {
            acknowledge(&mut in_flight, &mut token, to.timeout).await?;
        }
        let delivered = enqueue(log, packed_message(to, Bucket(bucket), message), to.timeout)
            .await
            .map_err(|error| failed(sent, error))?;
        let this = Bucket(bucket);
        in_flight.push(delivered.map(move |outcome| (this, outcome)).boxed());
        sent += 1;
        bucket = (bucket + 1) % to.buckets;
    }
    while !in_flight.is_empty() {
        acknowledge(&mut in_flight, &mut token, to.timeout).await?;
    }
    Ok(token)
}

/// Asks every bucket's flusher to commit what stands before the marker; the token covers the
/// markers.
pub(crate) async fn write_flush_markers(
    log: &dyn TableLog,
    to: &Destination,
) -> Result<Token, ProduceError> {
    let mut token = Token::default();
    let mut in_flight = FuturesUnordered::<Awaited>::new();
    for bucket in (0..to.buckets).map(Bucket) {
        let ask = vec![(headers::OP, Bytes::from_static(headers::OP_FLUSH))];
        let message = Message::marker(Arc::clone(&to.topic), bucket, ask);
        let delivered = enqueue(log, message, to.timeout)
            .await
            .map_err(ProduceError::Unknown)?;
        in_flight.push(delivered.map(move |outcome| (bucket, outcome)).boxed());
    }
    while !in_flight.is_empty() {
        acknowledge(&mut in_flight, &mut token, to.timeout).await?;
    }
    Ok(token)
}

fn packed_message(to: &Destination, bucket: Bucket, packed: Packed) -> Message {
    let encoding = (
        headers::ENCODING,
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

/// Waits for one more acknowledgement.
async fn acknowledge(
    in_flight: &mut FuturesUnordered<Awaited>,
    token: &mut Token,
    timeout: Duration,
) -> Result<(), ProduceError> {
    match tokio::time::timeout(timeout, in_flight.next()).await {
        Err(_) => Err(ProduceError::Silent(timeout)),
        Ok(None) => Ok(()),
        Ok(Some((bucket, Ok(offset)))) => {
            token.raise(bucket, Watermark::after(offset));
            Ok(())
        }
        Ok(Some((_, Err(error)))) => Err(ProduceError::Unknown(error)),
    }
}
