//! An HTTP listener that drains before it closes.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use tidelake_core::ErrorKind;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::{ServiceError, Shutdown};

/// How long requests under way may take to finish once the stop is requested.
pub const DRAIN_MAX: Duration = Duration::from_secs(20);

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

/// Serves HTTP/1 and HTTP/2 (with prior knowledge) until the stop is requested, then takes no more
/// connections and waits for requests under way, [`DRAIN_MAX`] at most.
///
/// # Errors
/// None today: errors of single connections are theirs alone.
pub async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) -> io::Result<()> {
    serve_until(listener, router, shutdown, DRAIN_MAX).await
}

async fn serve_until(
    listener: TcpListener,
    router: Router,
    shutdown: Shutdown,
    drain_max: Duration,
) -> io::Result<()> {
    // Answers are small and latency counts: never wait for more to fill a segment.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "could not set TCP_NODELAY");
        }
    });
    let stop = shutdown.clone();
    let graceful =
        axum::serve(listener, router).with_graceful_shutdown(async move { stop.requested().await });
    let mut serving = pin!(async move { graceful.await });
    tokio::select! {
        outcome = &mut serving => return outcome,
        () = shutdown.requested() => {}
    }
    match tokio::time::timeout(drain_max, serving).await {
        Ok(outcome) => outcome,
        Err(_) => {
            tracing::warn!(
                seconds = drain_max.as_secs(),
                "requests were still open after the drain"
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Notify;

    use super::*;
    use crate::{Runtime, standard_routes};

    const WAIT: Duration = Duration::from_secs(10);

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(WAIT, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        answer
    }

    async fn start(router: Router, drain_max: Duration) -> (SocketAddr, Shutdown, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move {
            serve_until(listener, router, stop, drain_max)
                .await
                .unwrap();
        });
        (address, shutdown, task)
    }

    #[tokio::test]
    async fn a_request_under_way_is_answered_after_the_stop() {
        let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (entered_in, go_in) = (Arc::clone(&entered), Arc::clone(&go));
        let router = Router::new().route(
            "/slow",
            get(move || async move {
                entered_in.notify_one();
                go_in.notified().await;
                "done"
            }),
        );
        let (address, shutdown, task) = start(router, WAIT).await;
        let answer = tokio::spawn(async move { ask(address, "/slow").await });
        entered.notified().await;
        shutdown.trigger();
        go.notify_one();
        assert!(answer.await.unwrap().ends_with("done"));
        tokio::time::timeout(WAIT, task).await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn the_drain_is_bounded() {
        let entered = Arc::new(Notify::new());
        let entered_in = Arc::clone(&entered);
        let router = Router::new().route(
            "/stuck",
            get(move || async move {
                entered_in.notify_one();
                std::future::pending::<()>().await;
            }),
        );
        let (address, shutdown, task) = start(router, Duration::from_millis(50)).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /stuck HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        entered.notified().await;
        shutdown.trigger();
        tokio::time::timeout(WAIT, task).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn readiness_follows_the_components_and_liveness_does_not() {
        let runtime = Runtime::new();
        let log = runtime.health.component("log");
        let (address, _shutdown, _task) = start(standard_routes("gateway", &runtime), WAIT).await;
        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let verbose = ask(address, "/readyz?verbose").await;
        assert!(verbose.starts_with("HTTP/1.1 503") && verbose.contains("log: starting"));
        log.ready();
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(
            ask(address, "/health")
                .await
                .contains("\"service\":\"gateway\"")
        );
        assert!(
            ask(address, "/version")
                .await
                .contains(env!("CARGO_PKG_VERSION"))
        );
        assert!(
            ask(address, "/metrics")
                .await
                .contains("tidelake_build_info")
        );
        runtime.shutdown.trigger();
        assert!(ask(address, "/readyz").await.contains("draining"));
    }

    #[tokio::test]
    async fn http2_with_prior_knowledge_is_spoken() {
        let (address, _shutdown, _task) = start(Router::new(), WAIT).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The client preface and an empty SETTINGS frame; the server answers with its SETTINGS.
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        let mut frame = [0u8; 9];
        tokio::time::timeout(WAIT, stream.read_exact(&mut frame))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(frame[3], 4, "the first frame is SETTINGS");
    }
}
