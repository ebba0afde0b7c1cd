//! One HTTP/1 connection.

use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use tower::Service;

use super::pace::PacedBody;
use crate::Shutdown;

/// What is read or written at once; the bytes of a request's headers, too: each connection may hold
/// so much of a request that never gets whole.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Answers the connection's requests until its end.
pub(super) async fn serve<I: Read + Write + Unpin>(
    io: I,
    router: Router,
    shutdown: &Shutdown,
    idle_timeout: Duration,
) -> hyper::Result<()> {
    let service = Paced {
        router,
        patience: idle_timeout,
    };
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        // Begins anew with each answer, so it ends idle connections too.
        .header_read_timeout(idle_timeout)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(io, TowerToHyperService::new(service));
    let mut serving = pin!(serving);
    tokio::select! {
        outcome = serving.as_mut() => return outcome,
        () = shutdown.requested() => serving.as_mut().graceful_shutdown(),
    }
    serving.await
}

/// The router, for requests whose bodies must come in time.
#[derive(Clone)]
struct Paced {
    router: Router,
    patience: Duration,
}

impl Service<Request<Incoming>> for Paced {
    type Response = <Router as Service<Request<PacedBody<Incoming>>>>::Response;
    type Error = <Router as Service<Request<PacedBody<Incoming>>>>::Error;
    type Future = <Router as Service<Request<PacedBody<Incoming>>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request<PacedBody<Incoming>>>::poll_ready(&mut self.router, cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let request = request.map(|body| PacedBody::new(body, self.patience));
        self.router.call(request)
    }
}
