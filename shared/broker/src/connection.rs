//! One client: frames in, answers out, in the order of the requests.
//!
//! Reading and answering are two tasks with a bounded queue between them. Produce requests are under
//! way as soon as they are read; everything else starts when its turn has come ([`api::begin`]).
//! Whoever sends or takes too slowly is cut off; until then it holds no more than its own share of
//! the memory and what it really sent ([`crate::memory`]).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::api::{self, Hangup, Outcome, Reply};
use crate::memory::{ConnectionMemory, Lease, OWN_BYTES, RequestMemory};
use crate::state::BrokerState;
use crate::time;

const BUFFER_BYTES: usize = 32 * 1024;
/// Reserved at once for a request; the system gives the memory as it is written to.
const RESERVED_BYTES: usize = 8 << 20;
/// Memory is taken, and answers are written, in pieces of this size.
const PIECE_BYTES: usize = 256 * 1024;
/// A new client must ask something within this time.
const FIRST_MAX: Duration = Duration::from_secs(30);
/// A client that neither asks nor waits for this long is cut off, as by Kafka.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// The length in front of a request must arrive whole within this time.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Something of a request must arrive, and a piece of an answer be taken, within this time.
const STALL_MAX: Duration = Duration::from_secs(30);
/// A request must arrive at this rate, after a start of `STALL_MAX`.
const BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// And at this one where it goes beyond the memory of all requests, because others wait for it.
const BYTES_PER_SECOND_MIN_BEYOND: u64 = 1 << 20;
/// A request that does not get memory for this long is given up; its client tries again.
const MEMORY_WAIT_MAX: Duration = Duration::from_secs(60);

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("socket failed")]
    Io(#[from] io::Error),
    #[error("request of {0} bytes, at most {1} are taken")]
    TooLarge(i64, usize),
    #[error("client is stalled: it sends or takes too slowly")]
    Stalled,
    #[error("no memory for a request of {0} bytes: too many are under way")]
    NoMemory(usize),
    #[error(transparent)]
    Hangup(#[from] Hangup),
}

/// A request under way, and its share of the memory.
struct Underway {
    outcome: BoxFuture<'static, Outcome>,
    lease: Lease,
}

/// Serves a client until it goes away, breaks the protocol, or the broker stops.
pub(crate) async fn serve(broker: Arc<BrokerState>, stream: TcpStream, peer: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no-delay not set");
    }
    let (read, write) = stream.into_split();
    let (sender, receiver) = mpsc::channel(broker.settings.connection_requests_max);
    let reading = async {
        let ended = read_requests(&broker, peer, read, sender).await;
        if let Err(error) = &ended {
            log_end(peer, error);
        }
        // What was asked before the client hung up is not worth finishing, but before a stop it is.
        if !broker.stopping.is_cancelled() {
            return;
        }
        std::future::pending().await
    };
    let writing = async {
        if let Err(error) = write_answers(receiver, write).await {
            log_end(peer, &error);
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

fn log_end(peer: SocketAddr, error: &Ended) {
    match error {
        Ended::Io(error) => tracing::debug!(%peer, %error, "connection lost"),
        error => tracing::warn!(%peer, %error, "connection closed"),
    }
}

async fn read_requests(
    broker: &Arc<BrokerState>,
    peer: SocketAddr,
    read: OwnedReadHalf,
    sender: mpsc::Sender<Underway>,
) -> Result<(), Ended> {
    let mut read = BufReader::with_capacity(BUFFER_BYTES, read);
    let settings = &broker.settings;
    let memory = ConnectionMemory::new(settings.connection_bytes_max);
    let mut patience = FIRST_MAX;
    loop {
        let next = next_length(&mut read, &memory, patience);
        let Some(len) = broker.stopping.run_until_cancelled(next).await else {
            return Ok(());
        };
        let Some(len) = len? else { return Ok(()) };
        patience = IDLE_MAX;
        let max = settings.request_bytes_max;
        let bytes = usize::try_from(len).ok().filter(|bytes| *bytes <= max);
        let bytes = bytes.ok_or(Ended::TooLarge(i64::from(len), max))?;
        let Some(mut lease) = memory.admit(bytes).await else {
            return Ok(());
        };
        let frame = read_frame(&mut read, bytes, &broker.request_memory, &mut lease).await?;
        let outcome = api::begin(broker, peer, frame, &mut lease).await?;
        if sender.send(Underway { outcome, lease }).await.is_err() {
            return Ok(());
        }
    }
}

/// The length of the next request; `None` where the client is done, or asks nothing for too long.
async fn next_length(
    read: &mut BufReader<OwnedReadHalf>,
    memory: &ConnectionMemory,
    patience: Duration,
) -> Result<Option<i32>, Ended> {
    loop {
        match timeout(patience, read.fill_buf()).await {
            Ok(begun) => {
                if begun?.is_empty() {
                    return Ok(None);
                }
                break;
            }
            // It may be waiting for records.
            Err(_) if !memory.is_idle() => {}
            Err(_) => return Ok(None),
        }
    }
    let len = timeout(HEAD_MAX, read.read_i32()).await;
    match len.map_err(|_| Ended::Stalled)? {
        Ok(len) => Ok(Some(len)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads a request's bytes, with memory for what has arrived and the next piece.
async fn read_frame(
    read: &mut BufReader<OwnedReadHalf>,
    bytes: usize,
    memory: &RequestMemory,
    lease: &mut Lease,
) -> Result<Bytes, Ended> {
    let time_for =
        |bytes: usize, rate: u64| STALL_MAX + Duration::from_secs((bytes as u64).div_ceil(rate));
    let mut frame = BytesMut::with_capacity(bytes.min(RESERVED_BYTES));
    let mut deadline = time::now() + time_for(bytes, BYTES_PER_SECOND_MIN);
    while frame.len() < bytes {
        let piece = if frame.is_empty() {
            OWN_BYTES
        } else {
            PIECE_BYTES
        };
        let end = bytes.min(frame.len() + piece);
        let (before, had_turn) = (time::now(), lease.has_turn());
        timeout(MEMORY_WAIT_MAX, lease.cover(memory, end))
            .await
            .map_err(|_| Ended::NoMemory(bytes))?;
        deadline += before.elapsed();
        if lease.has_turn() && !had_turn {
            let left = time_for(bytes - frame.len(), BYTES_PER_SECOND_MIN_BEYOND);
            deadline = deadline.min(time::now() + left);
        }
        let mut read = (&mut *read).take((end - frame.len()) as u64);
        while frame.len() < end {
            let until = deadline.min(time::now() + STALL_MAX);
            let arrived = time::by(until, read.read_buf(&mut frame)).await;
            if arrived.map_err(|_| Ended::Stalled)?? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
    Ok(frame.freeze())
}

async fn write_answers(
    mut receiver: mpsc::Receiver<Underway>,
    write: OwnedWriteHalf,
) -> Result<(), Ended> {
    let mut write = BufWriter::with_capacity(BUFFER_BYTES, write);
    loop {
        let underway = match receiver.try_recv() {
            Ok(underway) => underway,
            Err(_) => {
                timeout(STALL_MAX, write.flush())
                    .await
                    .map_err(|_| Ended::Stalled)??;
                match receiver.recv().await {
                    Some(underway) => underway,
                    None => return Ok(()),
                }
            }
        };
        // The memory is given back once the answer is taken: a client that does not read may not
        // ask without end either.
        let Underway {
            mut outcome,
            lease: _lease,
        } = underway;
        // Earlier answers must not wait for one that takes its time.
        let outcome = match futures::poll!(&mut outcome) {
            std::task::Poll::Ready(outcome) => outcome,
            std::task::Poll::Pending => {
                timeout(STALL_MAX, write.flush())
                    .await
                    .map_err(|_| Ended::Stalled)??;
                outcome.await
            }
        };
        if let Some(reply) = outcome? {
            write_reply(&mut write, reply).await?;
        }
    }
}

async fn write_reply(write: &mut BufWriter<OwnedWriteHalf>, reply: Reply) -> Result<(), Ended> {
    let bytes: usize = reply.chunks.iter().map(Bytes::len).sum();
    let len = i32::try_from(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "answer of more than 2 GiB"))?;
    let len = len.to_be_bytes();
    let pieces = reply.chunks.iter().flat_map(|c| c.chunks(PIECE_BYTES));
    for piece in std::iter::once(&len[..]).chain(pieces) {
        let taken = timeout(STALL_MAX, write.write_all(piece)).await;
        taken.map_err(|_| Ended::Stalled)??;
    }
    Ok(())
}
