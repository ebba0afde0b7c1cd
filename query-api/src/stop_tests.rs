//! Answers that end before their end, over connections: at the stop, beside clients that take them
//! slowly or not at all, and by an error on the way.

use std::time::Duration;

use serde_json::{Value, json};
use tidelake_core::{Bucket, Token, Watermark};
use tidelake_service::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::settings::QuerySettings;
use crate::testing::World;

const DRAIN: Drain = Drain {
    queries: Duration::from_millis(500),
    answers: Duration::from_millis(1500),
};
const TABLE: &str = r#"{"type": "struct", "identifier-field-ids": [1], "fields": [
    {"id": 1, "name": "id", "type": "long", "required": true}]}"#;
/// Some gigabytes.
const LARGE: &str = "SELECT value, repeat('x', 1000) AS text FROM generate_series(1, 3000000)";

/// A query service that listens.
struct Service {
    address: std::net::SocketAddr,
    shutdown: Shutdown,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Service {
    async fn start(world: &World, drain: Drain) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let router = router(world.engine.clone(), &world.runtime);
        let (engine, stop) = (world.engine.clone(), shutdown.clone());
        Self {
            address,
            shutdown,
            serving: tokio::spawn(serve(listener, router, engine, stop, drain)),
        }
    }
}

async fn ask(address: std::net::SocketAddr, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = body.to_string();
    let request = format!(
        "POST /v1/sql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         accept: application/x-ndjson\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 1];
    stream.read_exact(&mut first).await.unwrap();
    stream
}

/// What is left, up to the end or to a connection that is gone.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let (mut all, mut part) = (Vec::new(), vec![0; 1 << 16]);
    while let Ok(read @ 1..) = stream.read(&mut part).await {
        all.extend_from_slice(&part[..read]);
    }
    all
}

fn is_whole(answer: &[u8]) -> bool {
    answer.ends_with(b"\r\n0\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_taken_slowly_holds_no_stop_up() {
    let world = World::new(QuerySettings::default()).await;
    let Service {
        address,
        shutdown,
        serving,
    } = Service::start(&world, DRAIN).await;
    let large = json!({ "sql": LARGE });
    let mut unread = ask(address, &large).await;
    let mut dripping = ask(address, &large).await;
    let mut read = ask(address, &large).await;
    let table = world.table("t", TABLE, 1).await;
    table.push(0, &[json!({"id": 1})]);
    let token = Token::new([(Bucket(0), Watermark(1000))]);
    let path = format!("/v1/tables/t/rows/1?timeout_ms=60000&token={token}");
    let waiting = world.get(&path);
    let drips = tokio::spawn(async move {
        let mut part = [0; 512];
        while let Ok(1..) = dripping.read(&mut part).await {
            moment::reach(moment::now() + Duration::from_millis(20)).await;
        }
    });
    let reading = tokio::spawn(async move { rest(&mut read).await });
    let begun = moment::now();
    shutdown.trigger();
    let (waited, served) = tokio::join!(waiting, serving);
    assert_eq!(
        (waited.0, &waited.1["code"]),
        (503, &json!("SHUTTING_DOWN"))
    );
    served.unwrap().unwrap();
    let took = moment::age(begun);
    assert!(took >= DRAIN.queries, "{took:?}");
    assert!(took < DRAIN.answers + Duration::from_secs(1), "{took:?}");
    // Who reads is told, and who reads later does not take it for whole.
    let told = reading.await.unwrap();
    assert!(!is_whole(&told));
    let end = String::from_utf8_lossy(&told[told.len().saturating_sub(400)..]).into_owned();
    assert!(end.contains("SHUTTING_DOWN"), "{end}");
    assert!(!is_whole(&rest(&mut unread).await));
    drips.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_in_time_is_answered_after_the_stop() {
    let world = World::new(QuerySettings::default()).await;
    let drain = Drain {
        queries: Duration::from_secs(20),
        answers: Duration::from_secs(30),
    };
    let Service {
        address,
        shutdown,
        serving,
    } = Service::start(&world, drain).await;
    let sql = "SELECT value, repeat('x', 100) AS text FROM generate_series(1, 100000)";
    let mut stream = ask(address, &json!({ "sql": sql })).await;
    shutdown.trigger();
    assert!(is_whole(&rest(&mut stream).await));
    serving.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_fails_on_its_way_says_why_before_it_is_cut() {
    let world = World::new(QuerySettings::default()).await;
    let Service {
        address,
        shutdown,
        serving,
    } = Service::start(&world, DRAIN).await;
    let sql = "SELECT 1 / (value - 100000) AS x, repeat('x', 100) AS text \
               FROM generate_series(1, 200000)";
    let mut stream = ask(address, &json!({ "sql": sql })).await;
    let told = rest(&mut stream).await;
    assert!(!is_whole(&told));
    let end = String::from_utf8_lossy(&told[told.len().saturating_sub(400)..]).into_owned();
    assert!(end.contains("QUERY_FAILED"), "{end}");
    shutdown.trigger();
    serving.await.unwrap().unwrap();
}
