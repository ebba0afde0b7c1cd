//! How long a client may keep a connection waiting: for the rest of its body, and for taking what it
//! asked for.
//!
//! Only the time in which nothing comes, or nothing is taken, counts; bytes that move give it back at
//! [`BYTES_PER_S_MIN`], so that dripping is no way around it. What the service itself needs for an
//! answer never counts. Invariant: patience is never more than it was at the beginning.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::AsyncWrite;
use tokio::time::{Sleep, sleep_until};

use crate::moment;

/// What buys a second of patience.
const BYTES_PER_S_MIN: u64 = 1024;

/// The client brings or takes too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client sends or takes less than {BYTES_PER_S_MIN} bytes a second")]
pub(super) struct TooSlow;

/// The patience that so many bytes give back.
pub(super) fn bought(bytes: usize) -> Duration {
    Duration::from_millis(bytes as u64 * 1000 / BYTES_PER_S_MIN)
}

#[derive(Debug)]
struct Patience {
    most: Duration,
    left: Duration,
    /// Since when it runs out, and the timer of its end.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Patience {
    fn new(most: Duration) -> Self {
        Self {
            most,
            left: most,
            waiting: None,
        }
    }

    /// Nothing moves; ready once that was so for too long.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<TooSlow> {
        let left = self.left;
        let (_, end) = self.waiting.get_or_insert_with(|| {
            let now = moment::now();
            (now, Box::pin(sleep_until((now + left).into())))
        });
        end.as_mut().poll(cx).map(|()| TooSlow)
    }

    /// So many bytes moved.
    fn moved(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waiting.take() {
            self.left = self.left.saturating_sub(moment::age(since));
        }
        if self.left < self.most {
            self.left = self.left.saturating_add(bought(bytes)).min(self.most);
        }
    }
}

/// A request's body that must come in time.
#[derive(Debug)]
pub(super) struct PacedBody<B> {
    body: B,
    patience: Patience,
}

impl<B> PacedBody<B> {
    pub(super) fn new(body: B, patience: Duration) -> Self {
        Self {
            body,
            patience: Patience::new(patience),
        }
    }
}

impl<B> Body for PacedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            let slow = ready!(self.patience.poll_end(cx));
            return Poll::Ready(Some(Err(slow.into())));
        };
        if let Some(Ok(frame)) = &frame {
            self.patience
                .moved(frame.data_ref().map_or(0, |data| data.len()));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection whose client must take what is written to it.
#[derive(Debug)]
pub(super) struct PacedWrite<W> {
    write: W,
    patience: Patience,
}

impl<W: AsyncWrite + Unpin> PacedWrite<W> {
    pub(super) fn new(write: W, patience: Duration) -> Self {
        Self {
            write,
            patience: Patience::new(patience),
        }
    }

    fn paced(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => {
                let slow = ready!(self.patience.poll_end(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, slow)))
            }
            Poll::Ready(Ok(bytes)) => {
                self.patience.moved(*bytes);
                written
            }
            Poll::Ready(Err(_)) => written,
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for PacedWrite<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.write).poll_write(cx, bytes);
        self.paced(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.write).poll_write_vectored(cx, pieces);
        self.paced(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.write.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}
