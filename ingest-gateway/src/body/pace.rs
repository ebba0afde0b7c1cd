//! How fast a body must come: one that drips keeps its place from others.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::StreamExt;

use super::Fault;
use crate::moment;

/// How fast a body must come. What the decoder keeps the client waiting for does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Longest pause.
    pub idle: Duration,
    /// Over each window; 0 asks for nothing.
    pub bytes_per_s_min: u64,
    pub window: Duration,
}

/// A body that is read at its pace.
pub(super) struct Paced {
    pub(super) body: BodyDataStream,
    pace: Pace,
    /// Waited for bytes since the window began.
    waited: Duration,
    bytes: u64,
}

impl Paced {
    pub(super) fn new(body: Body, pace: Pace) -> Self {
        Self {
            body: body.into_data_stream(),
            pace,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// The next chunk; none at the body's end.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Fault>> {
        let mut paused = Duration::ZERO;
        loop {
            let idle_left = self.pace.idle.saturating_sub(paused);
            let window_left = self.pace.window.saturating_sub(self.waited);
            let began = moment::now();
            let chunk = tokio::time::timeout(idle_left.min(window_left), self.body.next()).await;
            let waited = moment::age(began);
            self.waited += waited;
            paused += waited;
            match chunk {
                Ok(None) => return None,
                Ok(Some(Err(error))) => return Some(Err(Fault::CutShort(error.to_string()))),
                Ok(Some(Ok(chunk))) => {
                    self.bytes += chunk.len() as u64;
                    return Some(self.check_window().map(|()| chunk));
                }
                Err(_) if paused >= self.pace.idle => {
                    return Some(Err(Fault::Idle(self.pace.idle)));
                }
                Err(_) => {
                    if let Err(fault) = self.check_window() {
                        return Some(Err(fault));
                    }
                }
            }
        }
    }

    /// Begins the next window where one is over.
    fn check_window(&mut self) -> Result<(), Fault> {
        if self.waited < self.pace.window {
            return Ok(());
        }
        let wanted = self.pace.bytes_per_s_min as f64 * self.waited.as_secs_f64();
        let slow = (self.bytes as f64) < wanted;
        self.waited = Duration::ZERO;
        self.bytes = 0;
        if slow {
            Err(Fault::Slow(self.pace))
        } else {
            Ok(())
        }
    }
}

/// A body of at most `bytes_max` bytes, read whole.
pub(crate) async fn whole(body: Body, bytes_max: usize, pace: Pace) -> Result<Bytes, Fault> {
    let mut body = Paced::new(body, pace);
    let Some(first) = body.next().await.transpose()? else {
        return Ok(Bytes::new());
    };
    if first.len() > bytes_max {
        return Err(Fault::TooLarge(bytes_max as u64));
    }
    let mut all: Option<Vec<u8>> = None;
    while let Some(chunk) = body.next().await.transpose()? {
        let all = all.get_or_insert_with(|| first.to_vec());
        if all.len() + chunk.len() > bytes_max {
            return Err(Fault::TooLarge(bytes_max as u64));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.map_or(first, Bytes::from))
}
