//! One client: frames in, answers out, in the order of the requests.
//!
//! Reading and answering are two tasks with a bounded queue between them. Produce requests are under
//! way as soon as they are read; everything else starts when its turn has come ([`api::begin`]).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::api::{self, Hangup, Outcome, Reply};
use crate::state::{BrokerState, budget_units};

const BUFFER_BYTES: usize = 32 * 1024;
/// A request that has begun must arrive within this time, an answer must be taken within it.
const STALL_MAX: Duration = Duration::from_secs(120);

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("socket failed")]
    Io(#[from] io::Error),
    #[error("request of {0} bytes, at most {1} are taken")]
    TooLarge(i64, usize),
    #[error("client is stalled")]
    Stalled,
    #[error(transparent)]
    Hangup(#[from] Hangup),
}

/// A request under way, and its share of the memory.
struct Underway {
    outcome: BoxFuture<'static, Outcome>,
    budget: Option<OwnedSemaphorePermit>,
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
    loop {
        let Some(len) = broker.stopping.run_until_cancelled(read.read_i32()).await else {
            return Ok(());
        };
        let len = match len {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let max = broker.settings.request_bytes_max;
        let bytes = usize::try_from(len).ok().filter(|bytes| *bytes <= max);
        let bytes = bytes.ok_or(Ended::TooLarge(i64::from(len), max))?;
        let units = budget_units(bytes, broker.settings.inflight_bytes_max);
        let budget = Arc::clone(&broker.request_budget)
            .acquire_many_owned(units)
            .await
            .ok();
        let frame = timeout(STALL_MAX, read_frame(&mut read, bytes))
            .await
            .map_err(|_| Ended::Stalled)??;
        let outcome = api::begin(broker, peer, frame).await?;
        if sender.send(Underway { outcome, budget }).await.is_err() {
            return Ok(());
        }
    }
}

async fn read_frame(read: &mut BufReader<OwnedReadHalf>, bytes: usize) -> io::Result<Bytes> {
    let mut frame = BytesMut::with_capacity(bytes);
    let mut read = read.take(bytes as u64);
    while frame.len() < bytes {
        if read.read_buf(&mut frame).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
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
        let Underway {
            mut outcome,
            budget,
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
        drop(budget);
        if let Some(reply) = outcome? {
            let written = timeout(STALL_MAX, write_reply(&mut write, reply)).await;
            written.map_err(|_| Ended::Stalled)??;
        }
    }
}

async fn write_reply(write: &mut BufWriter<OwnedWriteHalf>, reply: Reply) -> io::Result<()> {
    let bytes: usize = reply.chunks.iter().map(Bytes::len).sum();
    let len = i32::try_from(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "answer of more than 2 GiB"))?;
    write.write_i32(len).await?;
    for chunk in &reply.chunks {
        write.write_all(chunk).await?;
    }
    Ok(())
}
