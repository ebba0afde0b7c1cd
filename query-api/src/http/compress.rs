//! Answers in fewer bytes, where the client takes `zstd` or `gzip`.
//!
//! Owns the negotiation (RFC 9110, section 12.5.3) and the encoders. Each piece of an answer is
//! flushed as it comes, so that a row is not held back; a body that is cut off stays cut off: its
//! end mark is written only after its last piece. Trailers go on as they are.

use std::io::{self, Write};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use axum::middleware::Next;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::{Body as _, Frame};

/// Answers that are known to have fewer bytes are sent as they are.
const BYTES_MIN: u64 = 1024;
/// Bytes that are encoded at a time: a part of a millisecond of the threads that serve.
const PIECE_BYTES: usize = 64 * 1024;
/// The fastest of both: answers are made once and read once.
const ZSTD_LEVEL: i32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Zstd,
    Gzip,
}

impl Coding {
    const ALL: [(Self, &'static str); 2] = [(Self::Zstd, "zstd"), (Self::Gzip, "gzip")];

    /// The one that the client likes best, `zstd` of equals; none where it takes neither.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let accepted = headers.get_all(header::ACCEPT_ENCODING).iter();
        let accepted: Vec<(String, f32)> = accepted
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(quality)
            .collect();
        let wish = |name: &str| {
            let named = |wanted: &str| accepted.iter().find(|(found, _)| found == wanted);
            let found = named(name).or_else(|| named("*"));
            found.map_or(0.0, |(_, quality)| *quality)
        };
        // Who names it may like it best.
        let named = accepted.iter().find(|(found, _)| found == "identity");
        let plain = named.map_or(0.0, |(_, quality)| *quality);
        let mut best = None;
        for (coding, name) in Self::ALL {
            let wish = wish(name);
            if wish > 0.0 && wish >= plain && best.is_none_or(|(_, held)| wish > held) {
                best = Some((coding, wish));
            }
        }
        best.map(|(coding, _)| coding)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

/// `gzip;q=0.5` as name and wish.
fn quality(part: &str) -> (String, f32) {
    let mut parts = part.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    let quality = parts.find_map(|part| part.to_ascii_lowercase().strip_prefix("q=")?.parse().ok());
    (name, quality.unwrap_or(1.0))
}

/// Compresses the answers of routes below, where that pays.
pub(super) async fn compress(request: Request, next: Next) -> Response<Body> {
    let coding = Coding::of(request.headers());
    let response = next.run(request).await;
    if !pays(&response) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // What is told here depends on the header, whether or not it is compressed this time.
    let vary = HeaderValue::from_static("accept-encoding");
    parts.headers.append(header::VARY, vary);
    let Some(coding) = coding else {
        return Response::from_parts(parts, body);
    };
    let encoder = match Encoder::new(coding) {
        Ok(encoder) => encoder,
        Err(error) => {
            tracing::warn!(%error, coding = coding.name(), "an answer is sent uncompressed");
            return Response::from_parts(parts, body);
        }
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    let name = HeaderValue::from_static(coding.name());
    parts.headers.insert(header::CONTENT_ENCODING, name);
    Response::from_parts(parts, Body::new(Compressed::new(body, encoder)))
}

/// Parquet is compressed already.
fn pays(response: &Response<Body>) -> bool {
    let headers = response.headers();
    let media = headers.get(header::CONTENT_TYPE);
    let media = media
        .and_then(|media| media.to_str().ok())
        .unwrap_or_default();
    let plain = ["application/json", "application/x-ndjson", "text/"];
    let plain = plain.iter().any(|kind| media.starts_with(kind))
        || media == "application/vnd.apache.arrow.stream";
    let large = response
        .body()
        .size_hint()
        .exact()
        .is_none_or(|bytes| bytes >= BYTES_MIN);
    plain && large && !headers.contains_key(header::CONTENT_ENCODING)
}

enum Encoder {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Encoder {
    fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?),
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
        })
    }

    /// What the piece becomes; all of it where `flush`.
    fn write(&mut self, piece: &[u8], flush: bool) -> io::Result<Vec<u8>> {
        match self {
            Self::Zstd(encoder) => {
                encoder.write_all(piece)?;
                if flush {
                    encoder.flush()?;
                }
                Ok(mem::take(encoder.get_mut()))
            }
            Self::Gzip(encoder) => {
                encoder.write_all(piece)?;
                if flush {
                    encoder.flush()?;
                }
                Ok(mem::take(encoder.get_mut()))
            }
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Zstd(encoder) => encoder.finish(),
            Self::Gzip(encoder) => encoder.finish(),
        }
    }
}

/// A body on its way through an encoder.
struct Compressed {
    body: Body,
    /// None once its end was written.
    encoder: Option<Encoder>,
    /// Of the last frame, what is not encoded yet.
    left: Bytes,
    trailers: Option<HeaderMap>,
    /// The body has no more frames.
    ended: bool,
}

impl Compressed {
    fn new(body: Body, encoder: Encoder) -> Self {
        Self {
            body,
            encoder: Some(encoder),
            left: Bytes::new(),
            trailers: None,
            ended: false,
        }
    }
}

impl http_body::Body for Compressed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let data = |made: Vec<u8>| Poll::Ready(Some(Ok(Frame::data(Bytes::from(made)))));
        let failed = |error: io::Error| Poll::Ready(Some(Err(axum::Error::new(error))));
        loop {
            if let Some(encoder) = &mut this.encoder
                && !this.left.is_empty()
            {
                let piece = this.left.split_to(this.left.len().min(PIECE_BYTES));
                match encoder.write(&piece, this.left.is_empty()) {
                    Ok(made) if made.is_empty() => continue,
                    Ok(made) => return data(made),
                    Err(error) => return failed(error),
                }
            }
            if let Some(trailers) = this.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            if !this.ended {
                match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                    Some(Err(error)) => {
                        // No end mark: what was sent must not look whole.
                        (this.encoder, this.ended) = (None, true);
                        return Poll::Ready(Some(Err(error)));
                    }
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(bytes) => {
                            this.left = bytes;
                            continue;
                        }
                        Err(frame) => this.trailers = frame.into_trailers().ok(),
                    },
                    None => this.ended = true,
                }
            }
            match this.encoder.take().map(Encoder::finish) {
                Some(Ok(made)) => return data(made),
                Some(Err(error)) => return failed(error),
                None if this.trailers.is_none() => return Poll::Ready(None),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use axum::http::HeaderMap;
    use axum::http::header::ACCEPT_ENCODING;

    use super::*;
    use crate::settings::QuerySettings;
    use crate::testing::World;

    #[test]
    fn the_client_decides() {
        let of = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, accept.parse().unwrap());
            Coding::of(&headers)
        };
        assert_eq!(of("gzip, deflate, br, zstd"), Some(Coding::Zstd));
        assert_eq!(of("gzip"), Some(Coding::Gzip));
        assert_eq!(of("GZIP;q=0.8, zstd;q=0.2"), Some(Coding::Gzip));
        assert_eq!(of("*"), Some(Coding::Zstd));
        assert_eq!(of("*;q=0.5, zstd;q=0"), Some(Coding::Gzip));
        assert_eq!(of("identity, br"), None);
        assert_eq!(of("gzip;q=0"), None);
        assert_eq!(of("gzip;Q=0"), None);
        assert_eq!(of("identity, gzip;q=0.1"), None);
        assert_eq!(of("identity;q=0.5, gzip"), Some(Coding::Gzip));
        assert_eq!(Coding::of(&HeaderMap::new()), None);
    }

    async fn asked(world: &World, sql: &str, accept: &str, coding: &str) -> (HeaderMap, Vec<u8>) {
        let request = Request::post("/v1/sql")
            .header("content-type", "application/sql")
            .header("accept", accept)
            .header("accept-encoding", coding)
            .body(Body::from(sql.to_owned()))
            .unwrap();
        let (parts, bytes) = world.http(request).await;
        assert_eq!(parts.status, 200, "{sql}");
        (parts.headers, bytes.to_vec())
    }

    #[tokio::test]
    async fn answers_are_the_same_in_fewer_bytes() {
        let world = World::new(QuerySettings::default()).await;
        let large = "SELECT value, repeat('x', 50) x FROM generate_series(1, 20000)";
        for accept in [
            "application/json",
            "application/x-ndjson",
            "text/csv",
            "application/vnd.apache.arrow.stream",
        ] {
            let (headers, plain) = asked(&world, large, accept, "identity").await;
            assert!(!headers.contains_key("content-encoding"), "{accept}");
            assert_eq!(headers["vary"], "accept-encoding", "{accept}");
            let (headers, zstd) = asked(&world, large, accept, "zstd").await;
            assert_eq!(headers["content-encoding"], "zstd", "{accept}");
            let (headers, gzip) = asked(&world, large, accept, "gzip").await;
            assert_eq!(headers["content-encoding"], "gzip", "{accept}");
            assert!(zstd.len() < plain.len() / 4, "{accept}");
            let zstd = zstd::decode_all(&zstd[..]).unwrap();
            let mut gunzipped = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(&gzip[..]);
            decoder.read_to_end(&mut gunzipped).unwrap();
            // Only the time that it took is another each time.
            let untimed = |bytes: &[u8]| match accept {
                "application/json" => {
                    let mut answer: serde_json::Value = serde_json::from_slice(bytes).unwrap();
                    answer["elapsed_ms"].take();
                    answer.to_string().into_bytes()
                }
                _ => bytes.to_vec(),
            };
            assert!(untimed(&zstd) == untimed(&plain), "{accept}");
            assert!(untimed(&gunzipped) == untimed(&plain), "{accept}");
        }
    }

    #[tokio::test]
    async fn what_is_small_or_packed_stays_as_it_is() {
        let world = World::new(QuerySettings::default()).await;
        let (headers, bytes) = asked(&world, "SELECT 1", "application/json", "zstd").await;
        assert!(!headers.contains_key("content-encoding"));
        assert!(bytes.starts_with(b"{\"columns\""));
        let parquet = "application/vnd.apache.parquet";
        let large = "SELECT * FROM generate_series(1, 20000)";
        let (headers, bytes) = asked(&world, large, parquet, "zstd").await;
        assert!(!headers.contains_key("content-encoding"));
        assert!(bytes.starts_with(b"PAR1"));
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_has_no_end_mark() {
        let world = World::new(QuerySettings::default()).await;
        let sql =
            "SELECT 1 / (value - 300000) x, repeat('y', 20) y FROM generate_series(1, 400000)";
        let request = Request::post("/v1/sql")
            .header("content-type", "application/sql")
            .header("accept", "application/x-ndjson")
            .header("accept-encoding", "zstd")
            .body(Body::from(sql))
            .unwrap();
        let response = world.response(request).await;
        assert_eq!(response.headers()["content-encoding"], "zstd");
        let mut body = response.into_body();
        let (mut sent, mut cut) = (Vec::new(), false);
        while let Some(frame) = std::future::poll_fn(|c| Pin::new(&mut body).poll_frame(c)).await {
            match frame {
                Ok(frame) => sent.extend_from_slice(&frame.into_data().unwrap()),
                Err(_) => cut = true,
            }
        }
        assert!(cut);
        let mut told = Vec::new();
        let mut decoder = zstd::stream::read::Decoder::new(&sent[..]).unwrap();
        // Everything up to the last line, which says why; and then no end.
        let ended = decoder.read_to_end(&mut told);
        assert!(ended.is_err(), "a frame without its end is no whole frame");
        let told = String::from_utf8(told).unwrap();
        let last = told.lines().last().unwrap();
        assert!(last.contains("QUERY_FAILED"), "{last}");
    }
}
