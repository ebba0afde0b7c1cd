//! An HTTP listener that drains before it closes, and that a few slow clients can't fill.
//!
//! ```text
//!  accept ─► a place among all connections ─► one among the peer's ─► HTTP/1 ─────────────────────► router
//!                                                                  └─► a place for HTTP/2 ─┘
//! ```
//!
//! Invariants: no more connections are open than the settings allow; one that brings no whole
//! request in time, or does not take its answer, is closed; requests under way at the stop are
//! answered, [`DRAIN_MAX`] at most; what is left of them then is cut.

mod answers;
mod connections;
mod http1;
mod http2;
mod pace;
#[cfg(test)]
mod tests;

use std::io::{self, Cursor};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tidelake_core::ErrorKind;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::{ServiceError, Shutdown};
use connections::{Connection, Connections};
use pace::PacedWrite;

/// How long requests under way may take to finish once the stop is requested.
pub const DRAIN_MAX: Duration = Duration::from_secs(20);
/// Between two tries to accept while the process has no file handles left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Bounds on the connections of one listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSettings {
    /// Connections at a time. While there are as many, new ones wait in the system's queue; each
    /// costs a file handle and some 20 KiB.
    pub connections_max: usize,
    /// Connections of one address; more are closed at once. Behind a proxy every client has the
    /// proxy's address: there it wants to be as large as `connections_max`.
    pub peer_connections_max: usize,
    /// Connections that speak HTTP/2, among all; one address may have half of them, and more are
    /// closed at once. Each serves 128 requests at a time, and a hostile client can make each hold
    /// some 12 MiB of headers, bodies and answers.
    pub http2_connections_max: usize,
    /// How long a connection may stand without a whole request: from its beginning or the last
    /// answer to the end of the next headers. Also how long a body may stand still, or an answer may
    /// wait to be taken, over all of it: each KiB that moves gives a second back. Shorter frees
    /// handles sooner and makes clients that keep connections open connect more often.
    pub idle_timeout_ms: u64,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            peer_connections_max: 2048,
            http2_connections_max: 128,
            idle_timeout_ms: 60_000,
        }
    }
}

impl HttpSettings {
    fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms.max(1))
    }
}

/// A started service: what `start` of every service returns.
#[derive(Debug)]
pub struct Running {
    /// Where it answers; the port is the real one where 0 was asked for.
    pub address: SocketAddr,
    /// Ends after the drain, or when the service fails.
    pub task: JoinHandle<Result<(), ServiceError>>,
}

impl Running {
    /// Waits for the end. A panic inside is an error of kind [`ErrorKind::Bug`].
    ///
    /// # Errors
    /// What the service ended with.
    pub async fn wait(self) -> Result<(), ServiceError> {
        match self.task.await {
            Ok(outcome) => outcome,
            Err(error) => Err(ServiceError::caused_by(
                ErrorKind::Bug,
                "the service's task died",
                error,
            )),
        }
    }
}

/// [`serve_with`] the default settings.
///
/// # Errors
/// As [`serve_with`].
pub async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) -> io::Result<()> {
    serve_with(listener, router, shutdown, &HttpSettings::default()).await
}

/// Serves HTTP/1 and HTTP/2 (with prior knowledge) until the stop is requested, then takes no more
/// connections and waits for requests under way, [`DRAIN_MAX`] at most.
///
/// # Errors
/// None today: errors of single connections are theirs alone.
pub async fn serve_with(
    listener: TcpListener,
    router: Router,
    shutdown: Shutdown,
    settings: &HttpSettings,
) -> io::Result<()> {
    serve_until(listener, router, shutdown, settings, DRAIN_MAX).await
}

/// [`serve`], for a service that ends its answers by itself once the stop is requested: what a client
/// has not taken `drain_max` after it is cut.
///
/// # Errors
/// As [`serve_with`].
pub async fn serve_draining(
    listener: TcpListener,
    router: Router,
    shutdown: Shutdown,
    drain_max: Duration,
) -> io::Result<()> {
    serve_until(
        listener,
        router,
        shutdown,
        &HttpSettings::default(),
        drain_max,
    )
    .await
}

async fn serve_until(
    listener: TcpListener,
    router: Router,
    shutdown: Shutdown,
    settings: &HttpSettings,
    drain_max: Duration,
) -> io::Result<()> {
    let connections = Connections::new(settings.connections_max, settings.peer_connections_max);
    let http2_max = settings.http2_connections_max;
    let of_http2 = Connections::new(http2_max, http2_max.div_ceil(2));
    let cut = Shutdown::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.requested() => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        match accepted {
            Ok(Some((stream, place))) => {
                let serving = Serving {
                    router: router.clone(),
                    shutdown: shutdown.clone(),
                    cut: cut.clone(),
                    idle_timeout: settings.idle_timeout(),
                    of_http2: Arc::clone(&of_http2),
                };
                tokio::spawn(serving.connection(stream, place));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // Without handles every try fails at once.
                let _stopped = tokio::time::timeout(ACCEPT_PAUSE, shutdown.requested()).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(drain_max, connections.all_closed())
        .await
        .is_err()
    {
        tracing::warn!(
            seconds = drain_max.as_secs(),
            "requests were still open after the drain"
        );
        cut.trigger();
    }
    Ok(())
}

/// The next connection, once there is a place for it; none where its peer has too many.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Connections>,
) -> io::Result<Option<(TcpStream, Connection)>> {
    let free = connections.free_place().await;
    let (stream, peer) = match listener.accept().await {
        Ok(accepted) => accepted,
        Err(error) if is_of_connection(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    // Answers are small and latency counts: never wait for more to fill a segment.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not set TCP_NODELAY");
    }
    Ok(free.of_peer(peer.ip()).map(|place| (stream, place)))
}

/// True where only the one connection failed, before it was accepted.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// What one connection is served with.
struct Serving {
    router: Router,
    shutdown: Shutdown,
    /// The drain is over.
    cut: Shutdown,
    idle_timeout: Duration,
    of_http2: Arc<Connections>,
}

impl Serving {
    /// Answers the connection's requests until its end, or that of the drain.
    async fn connection(self, stream: TcpStream, place: Connection) {
        let cut = self.cut.clone();
        tokio::select! {
            () = self.answer(stream, place) => {}
            () = cut.requested() => tracing::debug!("a connection is cut: the process stops"),
        }
    }

    async fn answer(self, stream: TcpStream, place: Connection) {
        let (shutdown, idle_timeout) = (&self.shutdown, self.idle_timeout);
        let (mut read, write) = stream.into_split();
        let begun = tokio::select! {
            begun = tokio::time::timeout(idle_timeout, first_bytes(&mut read)) => begun,
            () = shutdown.requested() => return,
        };
        let first = match begun {
            Ok(Ok(first)) => first,
            Ok(Err(error)) => {
                return tracing::debug!(%error, "a connection ended before its beginning");
            }
            Err(_) => return tracing::debug!("a connection brought nothing in time"),
        };
        let is_http2 = first == http2::PREFACE;
        let write = PacedWrite::new(write, idle_timeout);
        let io = TokioIo::new(tokio::io::join(Cursor::new(first).chain(read), write));
        let outcome = if is_http2 {
            let Some(_place) = self.of_http2.place_now(place.peer()) else {
                return tracing::debug!("too many connections speak HTTP/2");
            };
            http2::serve(io, self.router, shutdown, idle_timeout).await
        } else {
            http1::serve(io, self.router, shutdown, idle_timeout).await
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a connection ended");
        }
    }
}

/// As many bytes as tell HTTP/2 from HTTP/1, which has no request that begins like its preface.
async fn first_bytes(read: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut first = Vec::with_capacity(http2::PREFACE.len());
    while first.len() < http2::PREFACE.len() && http2::PREFACE.starts_with(&first) {
        let missing = (http2::PREFACE.len() - first.len()) as u64;
        if (&mut *read).take(missing).read_buf(&mut first).await? == 0 {
            break;
        }
    }
    Ok(first)
}
