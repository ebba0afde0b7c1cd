//! How many bodies are handled at a time. Who waits has not had a byte of its body read: the
//! client's socket is the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::settings::IngestSettings;

/// A body's place; free again when dropped.
pub(crate) type Place = OwnedSemaphorePermit;

/// Too many wait already, or this request waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many request bodies are being handled")]
pub(crate) struct Overloaded;

#[derive(Debug)]
pub(crate) struct Admission {
    small: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    streams_max: usize,
    waiting: AtomicUsize,
    waiting_max: usize,
    timeout: Duration,
}

impl Admission {
    pub(crate) fn new(settings: &IngestSettings) -> Self {
        let semaphore = |places: usize| Arc::new(Semaphore::new(places.max(1)));
        Self {
            small: semaphore(settings.small_bodies_max),
            streams: semaphore(settings.streams_max),
            streams_max: settings.streams_max.max(1),
            waiting: AtomicUsize::new(0),
            waiting_max: settings.waiting_max,
            timeout: Duration::from_millis(settings.waiting_timeout_ms),
        }
    }

    /// A place for a body that fits in memory whole.
    pub(crate) async fn small(&self) -> Result<Place, Overloaded> {
        self.place(&self.small, 1).await
    }

    /// Places for a body that is streamed; never more than there are.
    pub(crate) async fn stream(&self, places: usize) -> Result<Place, Overloaded> {
        self.place(&self.streams, places.min(self.streams_max) as u32)
            .await
    }

    async fn place(&self, places: &Arc<Semaphore>, wanted: u32) -> Result<Place, Overloaded> {
        if let Ok(place) = Arc::clone(places).try_acquire_many_owned(wanted) {
            return Ok(place);
        }
        let _waiter = Waiter::enter(&self.waiting, self.waiting_max)?;
        match tokio::time::timeout(self.timeout, Arc::clone(places).acquire_many_owned(wanted))
            .await
        {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(Overloaded),
        }
    }
}

/// Counts one who waits, also when its request is given up.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn enter(waiting: &'a AtomicUsize, waiting_max: usize) -> Result<Self, Overloaded> {
        let more = |waiting| (waiting < waiting_max).then_some(waiting + 1);
        match waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Self(waiting)),
            Err(_) => Err(Overloaded),
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(waiting_max: usize, waiting_timeout_ms: u64) -> Admission {
        Admission::new(&IngestSettings {
            streams_max: 1,
            waiting_max,
            waiting_timeout_ms,
            ..IngestSettings::default()
        })
    }

    #[tokio::test]
    async fn a_request_waits_for_its_place_and_gets_it() {
        let admission = Arc::new(admission(1, 60_000));
        let first = admission.stream(1).await.unwrap();
        let second = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.stream(1).await.map(drop) }
        });
        while admission.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            admission.stream(1).await.map(drop),
            Err(Overloaded),
            "one may wait"
        );
        assert!(
            admission.small().await.is_ok(),
            "small bodies have places of their own"
        );
        drop(first);
        assert_eq!(second.await.unwrap(), Ok(()));
        assert_eq!(admission.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn waiting_is_bounded_in_time() {
        let admission = admission(10, 1);
        let _first = admission.stream(1).await.unwrap();
        assert_eq!(admission.stream(1).await.map(drop), Err(Overloaded));
        assert_eq!(admission.waiting.load(Ordering::Relaxed), 0);
    }
}
