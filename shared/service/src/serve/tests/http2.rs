//! HTTP/2 by raw frames: what hostile clients can make a connection hold, and for how long.

use std::collections::BTreeMap;

use axum::body::Bytes;
use hyper::body::Body as _;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::*;
use crate::serve::answers::{Answer, Answers, PIECE_BYTES, Standing};
use crate::serve::http2::{PREFACE, STREAM_WINDOW_BYTES, STREAMS_MAX};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u16 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A request's header block, by the static table where it has them.
fn head(method: u8, path: &str) -> Vec<u8> {
    // :method, :scheme http, :path as a literal, :authority x.
    let mut block = vec![method, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend(path.as_bytes());
    block.extend([0x41, 1, b'x']);
    block
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &head(GET, path))
}

#[derive(Debug)]
struct Got {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// The next frame; none once the connection is closed.
async fn frame_of(read: &mut OwnedReadHalf) -> Option<Got> {
    let mut header = [0_u8; 9];
    read.read_exact(&mut header).await.ok()?;
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
    let mut payload = vec![0; length as usize];
    read.read_exact(&mut payload).await.ok()?;
    Some(Got {
        kind: header[3],
        flags: header[4],
        stream: u32::from_be_bytes(header[5..9].try_into().unwrap()) & 0x7fff_ffff,
        payload,
    })
}

/// A client that answers pings and settings, and takes what it is told to.
struct Client {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
}

impl Client {
    async fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (read, write) = stream.into_split();
        let mut client = Self { read, write };
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        client
            .send(&[PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat())
            .await;
        client
    }

    /// Whoever is cut off while it sends finds out when it reads.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        self.write.write_all(bytes).await.is_ok()
    }

    /// The next frame; none once the connection is closed.
    async fn next(&mut self) -> Option<Got> {
        loop {
            let got = frame_of(&mut self.read).await?;
            match got.kind {
                PING if got.flags & ACK == 0 => {
                    self.send(&frame(PING, ACK, 0, &got.payload)).await;
                }
                SETTINGS if got.flags & ACK == 0 => {
                    self.send(&frame(SETTINGS, ACK, 0, &[])).await;
                    return Some(got);
                }
                PING | SETTINGS => {}
                _ => return Some(got),
            }
        }
    }

    async fn until(&mut self, kind: u8) -> Got {
        let found = async {
            while let Some(got) = self.next().await {
                if got.kind == kind {
                    return got;
                }
            }
            panic!("the connection is closed without a frame of kind {kind}");
        };
        tokio::time::timeout(WAIT, found).await.unwrap()
    }

    /// Reads on until the server closes the connection.
    async fn closed(mut self) -> Vec<Got> {
        let mut all = Vec::new();
        let reading = async {
            while let Some(got) = self.next().await {
                all.push(got);
            }
        };
        let ended = tokio::time::timeout(WAIT, reading).await;
        ended.expect("the server closes the connection");
        all
    }
}

/// Says when the body of an answer is given up.
struct Given(Arc<Notify>);

impl Drop for Given {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// `/` says hello, `/large` has one chunk of 64 MiB, `/chunks` as much in chunks of 512 bytes,
/// `/stuck` never answers, nor reads a body, other bodies are taken.
fn router(given_up: &Arc<Notify>) -> Router {
    let of_chunks = |bytes: usize| {
        let given_up = Arc::clone(given_up);
        axum::routing::get(move || {
            let body = Chunks {
                chunk: vec![0_u8; bytes].into(),
                left: (64 << 20) / bytes,
                _given: Given(Arc::clone(&given_up)),
            };
            std::future::ready(Body::new(body))
        })
    };
    let take = |body: Body| async move {
        let body = axum::body::to_bytes(body, usize::MAX).await;
        body.map_or_else(|error| format!("no body: {error}"), |b| b.len().to_string())
    };
    Router::new()
        .route("/", axum::routing::get(|| async { "hello" }).post(take))
        .route("/large", of_chunks(64 << 20))
        .route("/chunks", of_chunks(512))
        .route("/stuck", axum::routing::any(never))
}

/// Holds the request with its body.
async fn never(_request: axum::extract::Request) {
    std::future::pending().await
}

struct Chunks {
    chunk: Bytes,
    left: usize,
    _given: Given,
}

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        if self.left == 0 {
            return std::task::Poll::Ready(None);
        }
        self.left -= 1;
        let frame = hyper::body::Frame::data(self.chunk.clone());
        std::task::Poll::Ready(Some(Ok(frame)))
    }
}

async fn served(settings: HttpSettings) -> (SocketAddr, Arc<Notify>, Shutdown) {
    let given_up = Arc::new(Notify::new());
    let (address, shutdown, _task) = start_with(router(&given_up), WAIT, settings).await;
    (address, given_up, shutdown)
}

fn impatient() -> HttpSettings {
    HttpSettings {
        idle_timeout_ms: 400,
        ..HttpSettings::default()
    }
}

#[tokio::test]
async fn what_a_client_may_do_is_said_at_the_beginning() {
    let (address, _, _shutdown) = served(HttpSettings::default()).await;
    let mut client = Client::connect(address, &[]).await;
    let settings = client.until(SETTINGS).await.payload;
    let settings: BTreeMap<u16, u32> = settings
        .chunks(6)
        .map(|one| {
            let id = u16::from_be_bytes(one[..2].try_into().unwrap());
            (id, u32::from_be_bytes(one[2..].try_into().unwrap()))
        })
        .collect();
    assert_eq!(
        settings.get(&3),
        Some(&STREAMS_MAX),
        "streams: {settings:?}"
    );
    assert_eq!(
        settings.get(&INITIAL_WINDOW_SIZE),
        Some(&STREAM_WINDOW_BYTES)
    );
    assert_eq!(
        settings.get(&6),
        Some(&(16 << 10)),
        "header list: {settings:?}"
    );
}

#[tokio::test]
async fn bodies_that_wait_leave_the_window_to_one_that_is_read() {
    let (address, _, _shutdown) = served(HttpSettings::default()).await;
    let mut client = Client::connect(address, &[]).await;
    client.until(SETTINGS).await;
    let post = |stream, path| frame(HEADERS, END_HEADERS, stream, &head(POST, path));
    let piece = vec![0_u8; 16 << 10];
    // So much may be sent at first, whatever the server says later: a window is never less.
    let first = 3 * piece.len();
    let mut connection = 65_535_usize;
    let read = 2 * STREAMS_MAX - 1;
    for stream in (1..read).step_by(2) {
        client.send(&post(stream, "/stuck")).await;
        for _ in 0..first / piece.len() {
            while connection < piece.len() {
                connection += increment(&client.until(WINDOW_UPDATE).await, 0);
            }
            client.send(&frame(DATA, 0, stream, &piece)).await;
            connection -= piece.len();
        }
    }
    client.send(&post(read, "/")).await;
    for flags in [0, 0, END_STREAM] {
        while connection < piece.len() {
            connection += increment(&client.until(WINDOW_UPDATE).await, 0);
        }
        client.send(&frame(DATA, flags, read, &piece)).await;
        connection -= piece.len();
    }
    let answer = client.until(DATA).await;
    assert_eq!(
        (answer.stream, answer.payload),
        (read, first.to_string().into_bytes())
    );
}

/// What a frame adds to the window of a stream; 0 is the connection's.
fn increment(update: &Got, stream: u32) -> usize {
    match update.stream == stream {
        true => u32::from_be_bytes(update.payload[..4].try_into().unwrap()) as usize,
        false => 0,
    }
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let (address, _, _shutdown) = served(HttpSettings::default()).await;
    let mut client = Client::connect(address, &[]).await;
    client.until(SETTINGS).await;
    for number in 0..=STREAMS_MAX {
        client.send(&get(2 * number + 1, "/stuck")).await;
    }
    let reset = client.until(RST_STREAM).await;
    assert_eq!(reset.stream, 2 * STREAMS_MAX + 1);
    assert_eq!(reset.payload, 7_u32.to_be_bytes(), "REFUSED_STREAM");
}

#[tokio::test]
async fn an_answer_that_has_no_window_is_given_up() {
    let (address, given_up, _shutdown) = served(impatient()).await;
    let mut client = Client::connect(address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    client.send(&get(1, "/chunks")).await;
    client.until(HEADERS).await;
    let got = client.closed().await;
    assert!(got.iter().all(|got| got.kind != DATA), "{got:?}");
    tokio::time::timeout(WAIT, given_up.notified())
        .await
        .unwrap();
}

#[tokio::test]
async fn an_answer_that_is_taken_byte_by_byte_is_given_up() {
    let (address, given_up, _shutdown) = served(impatient()).await;
    let mut client = Client::connect(address, &[(INITIAL_WINDOW_SIZE, 1)]).await;
    client.send(&get(1, "/chunks")).await;
    let Client {
        mut read,
        mut write,
    } = client;
    let (to, mut pings) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Some(got) = frame_of(&mut read).await {
            if got.kind == PING && got.flags & ACK == 0 && to.send(got.payload).await.is_err() {
                return;
            }
        }
    });
    let taking = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let more = frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes());
        loop {
            let bytes = tokio::select! {
                _ = ticks.tick() => more.clone(),
                Some(ping) = pings.recv() => frame(PING, ACK, 0, &ping),
            };
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(WAIT, taking).await.unwrap();
    tokio::time::timeout(WAIT, given_up.notified())
        .await
        .unwrap();
}

#[tokio::test]
async fn an_answer_that_is_taken_slowly_but_moves_is_given_whole() {
    let (address, _, _shutdown) = served(impatient()).await;
    let mut client = Client::connect(address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    client.send(&get(1, "/large")).await;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let mut bytes = 0;
    for _ in 0..15 {
        ticks.tick().await;
        client
            .send(&frame(WINDOW_UPDATE, 0, 1, &4096_u32.to_be_bytes()))
            .await;
        bytes += client.until(DATA).await.payload.len();
    }
    assert_eq!(bytes, 15 * 4096);
}

#[tokio::test]
async fn answers_that_nobody_takes_hold_a_piece_each() {
    let answers = Answers::new(WAIT);
    let body = Body::from(vec![7_u8; 3 * PIECE_BYTES + 5]);
    let mut answer = Answer::new(body, answers.open());
    let mut left = 3 * PIECE_BYTES as u64 + 5;
    while left > 0 {
        assert_eq!(answer.size_hint().exact(), Some(left));
        assert!(!answer.is_end_stream());
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut answer).poll_frame(cx));
        let piece = frame.await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(piece.len() as u64, left.min(PIECE_BYTES as u64));
        left -= piece.len() as u64;
    }
    assert!(answer.is_end_stream());
    assert_eq!(answers.standing(), Standing::AtWork);
    drop(answer);
    assert!(matches!(answers.standing(), Standing::Quiet(_)));
}

#[tokio::test]
async fn headers_without_end_close_the_connection() {
    let (address, _, _shutdown) = served(HttpSettings::default()).await;
    let mut client = Client::connect(address, &[]).await;
    client
        .send(&frame(HEADERS, END_STREAM, 1, &head(GET, "/")))
        .await;
    // Literal headers without indexing: x: aaa…
    let mut block = vec![0x00, 1, b'x', 0x7f, 0x81, 0x1e];
    block.extend([b'a'; 4000]);
    let flood = frame(CONTINUATION, 0, 1, &block);
    let flooding = async {
        while client.send(&flood).await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT, flooding).await.unwrap();
    client.closed().await;
}

#[tokio::test]
async fn headers_that_stop_half_way_on_a_used_connection_are_cut_off() {
    let (address, _, _shutdown) = served(impatient()).await;
    let mut client = Client::connect(address, &[]).await;
    client.send(&get(1, "/")).await;
    client.until(DATA).await;
    client
        .send(&frame(HEADERS, END_STREAM, 3, &head(GET, "/")))
        .await;
    client.closed().await;
}

#[tokio::test]
async fn a_connection_that_stands_idle_is_ended() {
    let (address, _, _shutdown) = served(impatient()).await;
    let mut client = Client::connect(address, &[]).await;
    client.send(&get(1, "/")).await;
    client.until(DATA).await;
    let got = client.closed().await;
    assert!(got.iter().any(|got| got.kind == GOAWAY), "{got:?}");
}

#[tokio::test]
async fn a_service_that_takes_its_time_is_waited_for() {
    let settings = HttpSettings {
        idle_timeout_ms: 100,
        ..HttpSettings::default()
    };
    let slow = || async {
        let late = tokio::time::timeout(Duration::from_millis(500), std::future::pending::<()>());
        late.await.map_or("late", |()| "never")
    };
    let router = Router::new().route("/", axum::routing::get(slow));
    let (address, _shutdown, _task) = start_with(router, WAIT, settings).await;
    let mut client = Client::connect(address, &[]).await;
    client.send(&get(1, "/")).await;
    assert_eq!(client.until(DATA).await.payload, b"late");
}

#[tokio::test]
async fn a_flood_of_resets_ends_the_connection() {
    let (address, _, _shutdown) = served(HttpSettings::default()).await;
    let mut client = Client::connect(address, &[]).await;
    client.until(SETTINGS).await;
    let mut flood = Vec::new();
    for number in 0..2000 {
        let stream = 2 * number + 1;
        flood.extend(get(stream, "/stuck"));
        flood.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    client.send(&flood).await;
    let goaway = client.until(GOAWAY).await;
    assert_eq!(
        goaway.payload[4..8],
        11_u32.to_be_bytes(),
        "ENHANCE_YOUR_CALM"
    );
}

#[tokio::test]
async fn a_body_that_drips_is_cut_off() {
    let (address, _, _shutdown) = served(impatient()).await;
    let mut client = Client::connect(address, &[]).await;
    client
        .send(&frame(HEADERS, END_HEADERS, 1, &head(POST, "/")))
        .await;
    let Client { read, mut write } = client;
    let dripping = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(30));
        while write.write_all(&frame(DATA, 0, 1, b"x")).await.is_ok() {
            ticks.tick().await;
        }
    });
    // The other half is only read from.
    let (_, unused) = TcpStream::connect(address).await.unwrap().into_split();
    let mut client = Client {
        read,
        write: unused,
    };
    let answer = client.until(DATA).await.payload;
    assert!(
        answer.starts_with(b"no body"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    dripping.abort();
}

#[tokio::test]
async fn connections_with_http2_have_a_limit_of_their_own() {
    let settings = HttpSettings {
        http2_connections_max: 4,
        ..HttpSettings::default()
    };
    let (address, _, _shutdown) = served(settings).await;
    let mut open = Vec::new();
    // One address may have half of them.
    for _ in 0..2 {
        let mut client = Client::connect(address, &[]).await;
        client.until(SETTINGS).await;
        open.push(client);
    }
    assert!(
        Client::connect(address, &[])
            .await
            .closed()
            .await
            .is_empty()
    );
    assert!(ask(address, "/").await.ends_with("hello"));
    open.clear();
    let again = async {
        loop {
            let mut client = Client::connect(address, &[]).await;
            if client.next().await.is_some() {
                return;
            }
        }
    };
    tokio::time::timeout(WAIT, again).await.unwrap();
}
