//! Whether the client of an HTTP/2 connection takes its answers.
//!
//! With HTTP/1 a client that takes nothing shows at the socket. With HTTP/2 it may keep the window of
//! a stream at zero and answer every ping: the answer waits, with all that it holds, and nothing is
//! written that could stand still. So what each answer waits for is counted here, and the
//! connection's owner looks at it ([`Answers::standing`]).
//!
//! ```text
//!  request ─► router (its own time) ─► answer: asked for ⇄ a piece handed over ─► end
//!                                              └ the client's time, see Patience ┘
//! ```
//! An answer is handed over in pieces of [`PIECE_BYTES`], each once the one before has left: what
//! waits in the connection is bounded, however large one chunk of an answer is.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;

use super::pace::bought;
use crate::moment;

/// What is handed to the connection at a time.
pub(super) const PIECE_BYTES: usize = 16 << 10;

/// The requests of one connection that are not answered in full.
#[derive(Debug)]
pub(super) struct Answers {
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    open: BTreeMap<u64, Taking>,
    next: u64,
    /// Since when none is open.
    quiet_since: Instant,
}

/// How a client takes one answer.
#[derive(Debug)]
struct Taking {
    /// Patience that is left; bytes that move give it back.
    left: Duration,
    /// What the client needs for the piece that it was given, at the least pace.
    piece: Duration,
    /// Since when it has not asked for more.
    since: Option<Instant>,
}

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    AtWork,
    /// The client leaves an answer for longer than it may.
    NotTaken,
    /// No request is open since then.
    Quiet(Duration),
}

impl Answers {
    pub(super) fn new(patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            patience,
            state: Mutex::new(State {
                open: BTreeMap::new(),
                next: 0,
                quiet_since: moment::now(),
            }),
        })
    }

    /// True once there was a request.
    pub(super) fn any(&self) -> bool {
        self.state.lock().next > 0
    }

    pub(super) fn standing(&self) -> Standing {
        let state = self.state.lock();
        let now = moment::now();
        if state.open.is_empty() {
            return Standing::Quiet(now.saturating_duration_since(state.quiet_since));
        }
        let overdue = |taking: &Taking| {
            let waited = taking.since.map(|at| now.saturating_duration_since(at));
            waited.is_some_and(|waited| waited >= taking.left + taking.piece)
        };
        match state.open.values().any(overdue) {
            true => Standing::NotTaken,
            false => Standing::AtWork,
        }
    }

    /// A request has come.
    pub(super) fn open(self: &Arc<Self>) -> OpenAnswer {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let taking = Taking {
            left: self.patience,
            piece: Duration::ZERO,
            since: None,
        };
        state.open.insert(number, taking);
        OpenAnswer {
            answers: Arc::clone(self),
            number,
        }
    }
}

/// One request until the end of its answer.
#[derive(Debug)]
pub(super) struct OpenAnswer {
    answers: Arc<Answers>,
    number: u64,
}

impl OpenAnswer {
    fn with(&self, change: impl FnOnce(&mut Taking, Duration)) {
        let mut state = self.answers.state.lock();
        if let Some(taking) = state.open.get_mut(&self.number) {
            change(taking, self.answers.patience);
        }
    }

    /// The client has room for more.
    fn asked(&self) {
        self.with(|taking, most| {
            if let Some(since) = taking.since.take() {
                let patience = taking.left.saturating_add(taking.piece);
                taking.left = patience.saturating_sub(moment::age(since)).min(most);
            }
        });
    }

    /// It is the client's turn; it was given so many bytes.
    fn handed(&self, bytes: usize) {
        self.with(|taking, _| {
            taking.piece = bought(bytes);
            taking.since = Some(moment::now());
        });
    }
}

impl Drop for OpenAnswer {
    fn drop(&mut self) {
        let mut state = self.answers.state.lock();
        state.open.remove(&self.number);
        if state.open.is_empty() {
            state.quiet_since = moment::now();
        }
    }
}

/// An answer's body, in pieces.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    /// What is left of the chunk that came last.
    rest: Bytes,
    open: OpenAnswer,
}

impl Answer {
    /// The service is done with the head; the rest is the client's to take.
    pub(super) fn new(body: Body, open: OpenAnswer) -> Self {
        open.handed(0);
        Self {
            body,
            rest: Bytes::new(),
            open,
        }
    }

    fn piece(&mut self) -> Frame<Bytes> {
        let bytes = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(bytes);
        self.open.handed(bytes);
        Frame::data(piece)
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.open.asked();
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let Some(Ok(frame)) = frame else {
            return Poll::Ready(frame);
        };
        match frame.into_data() {
            Ok(data) => {
                self.rest = data;
                Poll::Ready(Some(Ok(self.piece())))
            }
            Err(trailers) => Poll::Ready(Some(Ok(trailers))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}
