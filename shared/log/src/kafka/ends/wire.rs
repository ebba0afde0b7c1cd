//! One connection to a broker: a request, its answer, the next request.

use std::io;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Answers are short: a topic's leaders or its offsets.
const ANSWER_BYTES_MAX: i32 = 16 << 20;

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    asked: i32,
}

impl Connection {
    pub(super) async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, asked: 0 })
    }

    /// After an error, or where it was dropped half-way, the connection can't be used any more.
    pub(super) async fn call<R: Request>(
        &mut self,
        version: i16,
        client_id: &StrBytes,
        request: &R,
    ) -> io::Result<R::Response> {
        self.asked = self.asked.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.asked)
            .with_client_id(Some(client_id.clone()));
        let mut frame = BytesMut::zeroed(size_of::<i32>());
        header
            .encode(&mut frame, R::header_version(version))
            .map_err(malformed)?;
        request.encode(&mut frame, version).map_err(malformed)?;
        let length = i32::try_from(frame.len() - size_of::<i32>()).map_err(malformed)?;
        frame[..size_of::<i32>()].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).await?;

        let length = self.stream.read_i32().await?;
        if !(0..=ANSWER_BYTES_MAX).contains(&length) {
            return Err(malformed(format!("an answer of {length} bytes")));
        }
        let mut answer = vec![0; length.unsigned_abs() as usize];
        self.stream.read_exact(&mut answer).await?;
        let mut answer = Bytes::from(answer);
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version));
        let answered = header.map_err(malformed)?.correlation_id;
        if answered != self.asked {
            return Err(malformed(format!(
                "an answer to request {answered}, not {}",
                self.asked
            )));
        }
        R::Response::decode(&mut answer, version).map_err(malformed)
    }
}

fn malformed(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}
