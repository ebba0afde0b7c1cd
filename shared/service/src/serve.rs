//! An HTTP listener that drains before it closes, and that a few slow clients can't fill.
//!
//! ```text
//!  accept ─► a place among all connections ─► one among the peer's ─► HTTP/1 or HTTP/2 ─► router
//! ```
//!
//! Invariants: no more connections are open than the settings allow; one that brings no whole
//! request in time, or does not take its answer, is closed; requests under way at the stop are
//! answered, [`DRAIN_MAX`] at most.

mod connections;
mod pace;
#[cfg(test)]
mod tests;

use std::io::{self, Cursor};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tidelake_core::ErrorKind;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tower::Service;

use crate::{ServiceError, Shutdown};
use connections::{Connection, Connections};
use pace::{PacedBody, PacedWrite};

/// How long requests under way may take to finish once the stop is requested.
pub const DRAIN_MAX: Duration = Duration::from_secs(20);
/// Between two tries to accept while the process has no file handles left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// What every connection with HTTP/2 begins with.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a request's headers. With HTTP/1 also what is read or written at once: each connection
/// may hold so much of a request that never gets whole.
const HEADERS_BYTES_MAX: u32 = 64 << 10;
/// Requests of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 128;

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

async fn serve_until(
    listener: TcpListener,
    router: Router,
    shutdown: Shutdown,
    settings: &HttpSettings,
    drain_max: Duration,
) -> io::Result<()> {
    let connections = Connections::new(settings.connections_max, settings.peer_connections_max);
    loop {
        let accepted = tokio::select! {
            () = shutdown.requested() => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        match accepted {
            Ok(Some((stream, place))) => {
                let (router, stop) = (router.clone(), shutdown.clone());
                tokio::spawn(connection(
                    stream,
                    router,
                    stop,
                    settings.idle_timeout(),
                    place,
                ));
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

/// Answers one connection's requests until its end.
async fn connection(
    stream: TcpStream,
    router: Router,
    shutdown: Shutdown,
    idle_timeout: Duration,
    _place: Connection,
) {
    let (mut read, write) = stream.into_split();
    let begun = tokio::select! {
        begun = tokio::time::timeout(idle_timeout, first_bytes(&mut read)) => begun,
        () = shutdown.requested() => return,
    };
    let first = match begun {
        Ok(Ok(first)) => first,
        Ok(Err(error)) => return tracing::debug!(%error, "a connection ended before its beginning"),
        Err(_) => return tracing::debug!("a connection brought nothing in time"),
    };
    let is_http2 = first == HTTP2_PREFACE;
    let write = PacedWrite::new(write, idle_timeout);
    let io = TokioIo::new(tokio::io::join(Cursor::new(first).chain(read), write));
    let outcome = if is_http2 {
        http2(io, router, &shutdown, idle_timeout).await
    } else {
        http1(io, router, &shutdown, idle_timeout).await
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended");
    }
}

/// As many bytes as tell HTTP/2 from HTTP/1, which has no request that begins like its preface.
async fn first_bytes(read: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut first = Vec::with_capacity(HTTP2_PREFACE.len());
    while first.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&first) {
        let missing = (HTTP2_PREFACE.len() - first.len()) as u64;
        if (&mut *read).take(missing).read_buf(&mut first).await? == 0 {
            break;
        }
    }
    Ok(first)
}

async fn http1<I: Read + Write + Unpin>(
    io: I,
    router: Router,
    shutdown: &Shutdown,
    idle_timeout: Duration,
) -> hyper::Result<()> {
    let service = Asked {
        router,
        patience: idle_timeout,
        asked: Arc::default(),
    };
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        // Begins anew with each answer, so it ends idle connections too.
        .header_read_timeout(idle_timeout)
        .max_buf_size(HEADERS_BYTES_MAX as usize)
        .serve_connection(io, TowerToHyperService::new(service));
    let mut serving = pin!(serving);
    tokio::select! {
        outcome = serving.as_mut() => return outcome,
        () = shutdown.requested() => serving.as_mut().graceful_shutdown(),
    }
    serving.await
}

async fn http2<I: Read + Write + Unpin>(
    io: I,
    router: Router,
    shutdown: &Shutdown,
    idle_timeout: Duration,
) -> hyper::Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    let service = TowerToHyperService::new(Asked {
        router,
        patience: idle_timeout,
        asked: Arc::clone(&asked),
    });
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // A peer that went away without a word is noticed.
        .keep_alive_interval(idle_timeout)
        .keep_alive_timeout(idle_timeout)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .serve_connection(io, service);
    let mut serving = pin!(serving);
    tokio::select! {
        begun = tokio::time::timeout(idle_timeout, serving.as_mut()) => match begun {
            Ok(outcome) => return outcome,
            Err(_) if asked.load(Ordering::Relaxed) => {}
            Err(_) => {
                tracing::debug!("a connection brought no request in time");
                return Ok(());
            }
        },
        () = shutdown.requested() => {}
    }
    tokio::select! {
        outcome = serving.as_mut() => return outcome,
        () = shutdown.requested() => serving.as_mut().graceful_shutdown(),
    }
    serving.await
}

/// The router, noting that there was a request, whose body must come in time.
#[derive(Clone)]
struct Asked {
    router: Router,
    patience: Duration,
    asked: Arc<AtomicBool>,
}

impl Service<Request<Incoming>> for Asked {
    type Response = <Router as Service<Request<PacedBody<Incoming>>>>::Response;
    type Error = <Router as Service<Request<PacedBody<Incoming>>>>::Error;
    type Future = <Router as Service<Request<PacedBody<Incoming>>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request<PacedBody<Incoming>>>::poll_ready(&mut self.router, cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.asked.store(true, Ordering::Relaxed);
        let request = request.map(|body| PacedBody::new(body, self.patience));
        self.router.call(request)
    }
}
