//! A service of canned answers, for tests of what is asked and of what is made of the answer.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What a service was asked: method and path, then the body, null where it is no JSON.
pub(crate) type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// An answer as it is written.
pub(crate) struct Reply {
    status: &'static str,
    headers: &'static str,
    body: String,
}

impl Reply {
    pub(crate) fn new(status: &'static str, body: &Value) -> Self {
        Self {
            status,
            headers: "",
            body: body.to_string(),
        }
    }

    /// With header lines, each ended by a line break.
    pub(crate) fn with(self, headers: &'static str) -> Self {
        Self { headers, ..self }
    }
}

/// Serves on a free port; requests that get no reply wait until their client is gone.
pub(crate) async fn service<F>(reply: F) -> (String, Asked)
where
    F: Fn(&str, &Value) -> Option<Reply> + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, reply) = (Asked::default(), Arc::new(reply));
    let known = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, Arc::clone(&known), Arc::clone(&reply)));
        }
    });
    (url, asked)
}

async fn converse<F>(stream: TcpStream, asked: Asked, reply: Arc<F>)
where
    F: Fn(&str, &Value) -> Option<Reply>,
{
    let mut stream = BufReader::new(stream);
    while let Some((request, length)) = head(&mut stream).await {
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let answer = reply(&request, &body);
        asked.lock().unwrap().push((request, body));
        let Some(Reply {
            status,
            headers,
            body,
        }) = answer
        else {
            continue;
        };
        let length = body.len();
        let text = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await.unwrap();
    }
}

/// Method and path, and the length of the body; none where the client is gone.
async fn head(stream: &mut BufReader<TcpStream>) -> Option<(String, usize)> {
    let (mut request, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return None;
        }
        if request.is_empty() {
            request = line.trim_end_matches(" HTTP/1.1\r\n").to_owned();
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            return Some((request, length));
        }
    }
}
