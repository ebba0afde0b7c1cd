//! One HTTP/2 connection, and what its client can make it hold.
//!
//! | of a connection | at most | beyond it |
//! | --- | --- | --- |
//! | requests at a time | [`STREAMS_MAX`] | the stream is refused |
//! | bytes of one request's headers | [`HEADERS_BYTES_MAX`] | 431; CONTINUATION without end: the connection is closed |
//! | bytes of one body that nobody read yet | [`STREAM_WINDOW_BYTES`] | the client may not send |
//! | of all of them | [`WINDOW_BYTES`]: what all requests together may send | the others' bodies come on |
//! | bytes of one answer that nobody took | a piece of it, see [`super::answers`] | the rest waits in the service, as long as the client's patience |
//! | streams opened and reset before they were looked at | [`RESETS_MAX`] | the connection is closed |
//!
//! Together some 12 MiB, times `http2_connections_max`. Time is bounded as with HTTP/1: a connection
//! that brings no request, or does not take an answer, is closed.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::Response;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tower::Service;

use super::answers::{Answer, Answers, PIECE_BYTES, Standing};
use super::pace::PacedBody;
use crate::Shutdown;

/// What every connection with HTTP/2 begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests of one connection at a time.
pub(super) const STREAMS_MAX: u32 = 128;
/// Names and values of one request's headers.
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// Headers of former requests that the client may refer to.
const HEADER_TABLE_BYTES: u32 = 4096;
/// Of one stream. More would make a single upload faster where the way is long.
pub(super) const STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// Of the connection: bodies that wait for their turn never keep the window from one that is read.
pub(super) const WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;
const FRAME_BYTES_MAX: u32 = 16 << 10;
/// Of one answer, while the socket does not take what the client has room for.
const SEND_BYTES_MAX: usize = 4 * PIECE_BYTES;
/// Streams that the client resets before they were looked at.
const RESETS_MAX: usize = 20;
/// Streams that are reset for the client's mistakes.
const ERRORS_MAX: usize = 1024;
/// Looks at the connection in the time that it may stand idle.
const LOOKS_PER_TIMEOUT: u32 = 8;

/// Answers the connection's requests until its end.
pub(super) async fn serve<I: Read + Write + Unpin>(
    io: I,
    router: Router,
    shutdown: &Shutdown,
    idle_timeout: Duration,
) -> hyper::Result<()> {
    let answers = Answers::new(idle_timeout);
    let service = TowerToHyperService::new(Counted {
        router,
        patience: idle_timeout,
        answers: Arc::clone(&answers),
    });
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // A peer that went away without a word is noticed.
        .keep_alive_interval(idle_timeout)
        .keep_alive_timeout(idle_timeout)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .header_table_size(HEADER_TABLE_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buf_size(SEND_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(ERRORS_MAX)
        .serve_connection(io, service);
    let mut serving = pin!(serving);
    let mut looks = tokio::time::interval(idle_timeout.div_f64(f64::from(LOOKS_PER_TIMEOUT)));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ending = false;
    loop {
        tokio::select! {
            outcome = serving.as_mut() => return outcome,
            () = shutdown.requested(), if !ending => {
                serving.as_mut().graceful_shutdown();
                ending = true;
            }
            _ = looks.tick() => match answers.standing() {
                Standing::AtWork => {}
                Standing::NotTaken => {
                    tracing::debug!("a client does not take an answer in time");
                    return Ok(());
                }
                Standing::Quiet(quiet) => match verdict(quiet, idle_timeout, &answers) {
                    Quiet::Wait => {}
                    Quiet::End if ending => {}
                    Quiet::End => {
                        serving.as_mut().graceful_shutdown();
                        ending = true;
                    }
                    Quiet::Close => {
                        tracing::debug!("a connection brought no request in time");
                        return Ok(());
                    }
                },
            },
        }
    }
}

/// What is done about a connection without a request.
enum Quiet {
    Wait,
    /// Its client is told to open another one.
    End,
    Close,
}

fn verdict(quiet: Duration, idle_timeout: Duration, answers: &Answers) -> Quiet {
    match quiet {
        quiet if quiet < idle_timeout => Quiet::Wait,
        // The end of an answer may still be on its way to the client.
        quiet if answers.any() && quiet < 2 * idle_timeout => Quiet::End,
        _ => Quiet::Close,
    }
}

/// The router, for requests whose bodies must come in time, and whose answers are counted.
#[derive(Clone)]
struct Counted {
    router: Router,
    patience: Duration,
    answers: Arc<Answers>,
}

impl Service<Request<Incoming>> for Counted {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request<PacedBody<Incoming>>>::poll_ready(&mut self.router, cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let open = self.answers.open();
        let request = request.map(|body| PacedBody::new(body, self.patience));
        let answering = self.router.call(request);
        Box::pin(async move {
            let response = answering.await?;
            Ok(response.map(|body| Answer::new(body, open)))
        })
    }
}
