mod http2;

use std::sync::Arc;

use axum::body::Body;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::*;
use crate::{Runtime, standard_routes};

/// For what comes in any case; no test measures it.
const WAIT: Duration = Duration::from_secs(60);

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
    start_with(router, drain_max, HttpSettings::default()).await
}

async fn start_with(
    router: Router,
    drain_max: Duration,
    settings: HttpSettings,
) -> (SocketAddr, Shutdown, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    let task = tokio::spawn(async move {
        serve_until(listener, router, stop, &settings, drain_max)
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

/// Waits until the server closes the connection; what it said before.
async fn closed(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end too.
    let _end = tokio::time::timeout(WAIT, stream.read_to_end(&mut answer))
        .await
        .expect("the server closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

#[tokio::test]
async fn a_connection_that_brings_no_request_in_time_is_closed() {
    let settings = HttpSettings {
        idle_timeout_ms: 200,
        ..HttpSettings::default()
    };
    let (address, _shutdown, _task) = start_with(hello(), WAIT, settings).await;
    // Nothing at all, the beginning of either protocol, headers that never end.
    for begin in [
        "",
        "P",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\n",
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        closed(stream).await;
    }
    // One that was used and stands idle.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(closed(stream).await.ends_with("hello"));
}

#[tokio::test]
async fn headers_that_drip_are_cut_off() {
    let settings = HttpSettings {
        idle_timeout_ms: 300,
        ..HttpSettings::default()
    };
    let (address, _shutdown, _task) = start_with(hello(), WAIT, settings).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (read, mut write) = stream.into_split();
    let drip = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while write.write_all(b"x").await.is_ok() {
            ticks.tick().await;
        }
    });
    let stream = tokio::spawn(async move {
        let mut read = read;
        let mut answer = Vec::new();
        let _end = read.read_to_end(&mut answer).await;
    });
    tokio::time::timeout(WAIT, stream).await.unwrap().unwrap();
    drip.abort();
}

#[tokio::test]
async fn one_peer_cannot_open_more_connections_than_it_may() {
    let settings = HttpSettings {
        connections_max: 10,
        peer_connections_max: 2,
        ..HttpSettings::default()
    };
    let (address, _shutdown, _task) = start_with(hello(), WAIT, settings).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        open.push(stream);
    }
    assert_eq!(closed(TcpStream::connect(address).await.unwrap()).await, "");
    open.clear();
    let answered = async {
        loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let ask = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            let mut answer = String::new();
            if stream.write_all(ask).await.is_ok()
                && stream.read_to_string(&mut answer).await.is_ok()
                && answer.ends_with("hello")
            {
                return;
            }
        }
    };
    tokio::time::timeout(WAIT, answered).await.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let settings = HttpSettings {
        connections_max: 1,
        ..HttpSettings::default()
    };
    let (address, shutdown, task) = start_with(hello(), WAIT, settings).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    first
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    first.read_exact(&mut [0]).await.unwrap();
    let second = tokio::spawn(async move { ask(address, "/").await });
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    drop(first);
    assert!(second.await.unwrap().ends_with("hello"));
    shutdown.trigger();
    tokio::time::timeout(WAIT, task).await.unwrap().unwrap();
}

/// Takes bodies, and has an answer that is larger than any socket's buffers.
fn bodies_and_large() -> Router {
    let take = |body: Body| async move {
        let body = axum::body::to_bytes(body, usize::MAX).await;
        body.map_or_else(|error| format!("no body: {error}"), |b| b.len().to_string())
    };
    let large = || async { vec![0_u8; 64 << 20] };
    Router::new()
        .route("/", axum::routing::post(take))
        .route("/large", get(large))
}

fn impatient() -> HttpSettings {
    HttpSettings {
        idle_timeout_ms: 300,
        connections_max: 1,
        ..HttpSettings::default()
    }
}

const BODY_HEAD: &[u8] = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8192\r\n\r\n";

#[tokio::test]
async fn a_body_that_does_not_come_or_drips_is_cut_off() {
    let (address, _shutdown, _task) = start_with(bodies_and_large(), WAIT, impatient()).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(BODY_HEAD).await.unwrap();
    assert!(closed(silent).await.contains("no body"));
    let (read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    write.write_all(BODY_HEAD).await.unwrap();
    let dripping = tokio::spawn(async move {
        let mut pause = tokio::time::interval(Duration::from_millis(30));
        while write.write_all(b"x").await.is_ok() {
            pause.tick().await;
        }
        write
    });
    let mut said = vec![0; 1024];
    let mut read = read;
    let n = tokio::time::timeout(WAIT, read.read(&mut said)).await;
    let n = n.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&said[..n]).contains("no body"));
    drop(read);
    dripping.abort();
}

#[tokio::test]
async fn a_slow_body_that_moves_is_taken() {
    let (address, _shutdown, _task) = start_with(bodies_and_large(), WAIT, impatient()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(BODY_HEAD).await.unwrap();
    let mut pause = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..8 {
        pause.tick().await;
        stream.write_all(&[b'x'; 1024]).await.unwrap();
    }
    assert!(closed(stream).await.ends_with("8192"));
}

#[tokio::test]
async fn an_answer_that_nobody_takes_frees_its_place() {
    let (address, _shutdown, _task) = start_with(bodies_and_large(), WAIT, impatient()).await;
    let mut stalled = TcpStream::connect(address).await.unwrap();
    let ask_large = b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n";
    stalled.write_all(ask_large).await.unwrap();
    stalled.read_exact(&mut [0]).await.unwrap();
    assert!(ask(address, "/").await.starts_with("HTTP/1.1 405"));
    drop(stalled);
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused_before_they_end() {
    let (address, _shutdown, _task) = start(hello(), WAIT).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx: ")
        .await
        .unwrap();
    stream.write_all(&[b'a'; 100_000]).await.unwrap();
    let mut said = [0; 12];
    tokio::time::timeout(WAIT, stream.read_exact(&mut said))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&said, b"HTTP/1.1 431");
}
