//! A request body as bytes to read on a blocking thread: bounded chunks in, decompressed bytes out.
//!
//! ```text
//!  socket ─ pump (async) ─ bounded channel ─► Chunks ─► gzip | zstd ─► cap ─► decode (blocking)
//! ```
//!
//! The channel is the back-pressure: while it is full, the socket is not read. Invariant: whatever
//! ends the bytes early is kept as a [`Fault`], however many readers wrap the error on its way.

mod pace;

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use pace::Paced;
pub(crate) use pace::{Pace, whole};

/// Chunks that wait between socket and decoder; the HTTP server makes them up to 64 KiB.
const CHUNKS_MAX: usize = 16;
/// After a refusal the client is listened to for so many bytes more, so that it gets to read the
/// answer instead of a reset connection.
const DRAIN_BYTES_MAX: usize = 256 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
/// Largest zstd window, as a power of two: 8 MiB, what the format asks every decoder to support.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Why a body ended before its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the body was cut short: {0}")]
    CutShort(String),
    #[error("no byte of the body came for {} s", .0.as_secs())]
    Idle(Duration),
    #[error("the body came at less than {} bytes a second for {} s", .0.bytes_per_s_min, .0.window.as_secs())]
    Slow(Pace),
    #[error("the body has more than {0} bytes, decompressed")]
    TooLarge(u64),
    #[error("the body is not valid {coding}: {reason}")]
    Coding {
        coding: &'static str,
        reason: String,
    },
}

/// `content-encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Zstd,
}

/// Where a reader leaves its fault.
#[derive(Debug, Clone, Default)]
pub(crate) struct FaultCell(Arc<Mutex<Option<Fault>>>);

impl FaultCell {
    fn set(&self, fault: Fault) -> io::Error {
        let error = io::Error::other(fault.clone());
        self.0.lock().get_or_insert(fault);
        error
    }

    fn is_set(&self) -> bool {
        self.0.lock().is_some()
    }

    pub(crate) fn take(&self) -> Option<Fault> {
        self.0.lock().take()
    }
}

/// Starts to read the body; the bytes arrive in the answered [`Chunks`].
pub(crate) fn pump(body: Body, pace: Pace) -> Chunks {
    let (to, from) = mpsc::channel(CHUNKS_MAX);
    tokio::spawn(async move {
        let mut body = Paced::new(body, pace);
        while let Some(chunk) = body.next().await {
            let failed = chunk.is_err();
            if to.send(chunk).await.is_err() {
                drain(body.body).await;
                return;
            }
            if failed {
                return;
            }
        }
    });
    Chunks {
        current: Bytes::new(),
        inbox: Some(from),
        faults: FaultCell::default(),
    }
}

async fn drain(mut body: BodyDataStream) {
    let all = async {
        let mut bytes = 0;
        while let Some(Ok(chunk)) = body.next().await {
            bytes += chunk.len();
            if bytes > DRAIN_BYTES_MAX {
                return;
            }
        }
    };
    // A client that goes on for longer gets its connection closed.
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, all).await;
}

/// The body's bytes as they came. Blocks; not for async threads unless the body is whole.
#[derive(Debug)]
pub(crate) struct Chunks {
    current: Bytes,
    inbox: Option<mpsc::Receiver<Result<Bytes, Fault>>>,
    faults: FaultCell,
}

impl Chunks {
    /// A body that is there already.
    pub(crate) fn whole(body: Bytes) -> Self {
        Self {
            current: body,
            inbox: None,
            faults: FaultCell::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn of(chunks: Vec<Result<Bytes, Fault>>) -> Self {
        let (to, from) = mpsc::channel(chunks.len().max(1));
        for chunk in chunks {
            to.try_send(chunk).unwrap();
        }
        Self {
            current: Bytes::new(),
            inbox: Some(from),
            faults: FaultCell::default(),
        }
    }

    pub(crate) fn faults(&self) -> FaultCell {
        self.faults.clone()
    }

    /// The bytes behind `coding`, `bytes_max` at most.
    pub(crate) fn decompressed(
        self,
        coding: Coding,
        bytes_max: u64,
    ) -> io::Result<Capped<Box<dyn Read + Send>>> {
        let faults = self.faults();
        let inner: Box<dyn Read + Send> = match coding {
            Coding::Identity => Box::new(self),
            Coding::Gzip => Box::new(Coded {
                inner: flate2::bufread::MultiGzDecoder::new(self),
                coding: "gzip",
                faults: faults.clone(),
            }),
            Coding::Zstd => {
                let mut inner = zstd::stream::read::Decoder::with_buffer(self)?;
                inner.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(Coded {
                    inner,
                    coding: "zstd",
                    faults: faults.clone(),
                })
            }
        };
        Ok(Capped {
            inner,
            left: bytes_max,
            bytes_max,
            faults,
        })
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            let Some(inbox) = &mut self.inbox else { break };
            match inbox.blocking_recv() {
                Some(Ok(chunk)) => self.current = chunk,
                Some(Err(fault)) => return Err(self.faults.set(fault)),
                None => self.inbox = None,
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, bytes: usize) {
        let _ = self.current.split_to(bytes);
    }
}

impl Read for Chunks {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let bytes = available.len().min(to.len());
        to[..bytes].copy_from_slice(&available[..bytes]);
        self.consume(bytes);
        Ok(bytes)
    }
}

/// Names the decompressor's errors.
struct Coded<R> {
    inner: R,
    coding: &'static str,
    faults: FaultCell,
}

impl<R: Read> Read for Coded<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(to) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if !self.faults.is_set() => {
                    let (coding, reason) = (self.coding, error.to_string());
                    return Err(self.faults.set(Fault::Coding { coding, reason }));
                }
                other => return other,
            }
        }
    }
}

/// Ends with [`Fault::TooLarge`] where more bytes come than allowed.
pub(crate) struct Capped<R> {
    inner: R,
    left: u64,
    bytes_max: u64,
    faults: FaultCell,
}

impl<R> Capped<R> {
    /// Bytes that went through.
    pub(crate) fn passed(&self) -> u64 {
        self.bytes_max - self.left
    }
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(to)?;
        match self.left.checked_sub(bytes as u64) {
            Some(left) => {
                self.left = left;
                Ok(bytes)
            }
            None => Err(self.faults.set(Fault::TooLarge(self.bytes_max))),
        }
    }
}
