//! How many bodies are handled at a time, and whose. Who waits has not had a byte of its body read:
//! the client's socket is the queue.
//!
//! Places go to the waiting tenant that has the fewest of them, and within a tenant to whoever came
//! first. One that wants several is waited for once it is its turn, so that it is not passed over
//! for ever.
//!
//! Invariants: places that are free and places that are held are always all of them; a tenant holds
//! at most its share, and takes at most its share of the queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidelake_core::TenantId;
use tokio::sync::oneshot;

use crate::settings::IngestSettings;

/// Too many wait already, or this request waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many request bodies are being handled")]
pub(crate) struct Overloaded;

#[derive(Debug)]
pub(crate) struct Admission {
    small: Arc<Places>,
    streams: Arc<Places>,
    timeout: Duration,
}

impl Admission {
    pub(crate) fn new(settings: &IngestSettings) -> Self {
        let percent = usize::from(settings.tenant_share_percent);
        let places = |places: usize| Arc::new(Places::new(places, settings.waiting_max, percent));
        Self {
            small: places(settings.small_bodies_max),
            streams: places(settings.streams_max),
            timeout: Duration::from_millis(settings.waiting_timeout_ms),
        }
    }

    /// A place for a body that fits in memory whole.
    pub(crate) async fn small(&self, tenant: &TenantId) -> Result<Place, Overloaded> {
        self.place(&self.small, tenant, 1).await
    }

    /// Places for a body that is streamed, and how many they are: no more than a tenant may have.
    pub(crate) async fn stream(
        &self,
        tenant: &TenantId,
        places: usize,
    ) -> Result<(Place, usize), Overloaded> {
        let places = places.min(self.streams.tenant_max);
        let place = self.place(&self.streams, tenant, places).await?;
        Ok((place, places))
    }

    async fn place(
        &self,
        places: &Arc<Places>,
        tenant: &TenantId,
        wanted: usize,
    ) -> Result<Place, Overloaded> {
        let granted = match places.ask(tenant, wanted)? {
            Asked::Granted(place) => return Ok(place),
            Asked::Queued(granted) => granted,
        };
        // Leaving the queue by itself, also when the request is given up.
        let _queued = Queued {
            places,
            number: granted.number,
        };
        match tokio::time::timeout(self.timeout, granted.place).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(Overloaded),
        }
    }
}

/// A body's place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    tenant: TenantId,
    held: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.give_back(&self.tenant, self.held);
    }
}

enum Asked {
    Granted(Place),
    Queued(Granted),
}

/// A place in the queue, and the way in which a place comes.
struct Granted {
    number: u64,
    place: oneshot::Receiver<Place>,
}

struct Queued<'a> {
    places: &'a Arc<Places>,
    number: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.places.leave(self.number);
    }
}

/// Places of one kind.
#[derive(Debug)]
struct Places {
    state: Mutex<State>,
    tenant_max: usize,
    waiting_max: usize,
    tenant_waiting_max: usize,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Of tenants that hold any.
    held: HashMap<TenantId, usize>,
    /// In the order of their numbers.
    waiting: Vec<Waiter>,
    next_number: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    tenant: TenantId,
    wanted: usize,
    grant: oneshot::Sender<Place>,
}

impl State {
    fn held(&self, tenant: &TenantId) -> usize {
        self.held.get(tenant).copied().unwrap_or(0)
    }

    /// The waiter whose turn it is; none where all have what a tenant may have.
    fn next(&self, tenant_max: usize) -> Option<usize> {
        let may = |(_, waiter): &(usize, &Waiter)| {
            self.held(&waiter.tenant) + waiter.wanted <= tenant_max
        };
        let waiting = self.waiting.iter().enumerate().filter(may);
        let next = waiting.min_by_key(|(_, waiter)| (self.held(&waiter.tenant), waiter.number));
        next.map(|(index, _)| index)
    }

    fn take(&mut self, tenant: &TenantId, wanted: usize) {
        self.free -= wanted;
        match self.held.get_mut(tenant) {
            Some(held) => *held += wanted,
            None => {
                self.held.insert(tenant.clone(), wanted);
            }
        }
    }
}

impl Places {
    fn new(places: usize, waiting_max: usize, tenant_share_percent: usize) -> Self {
        let places = places.max(1);
        let share = |all: usize| (all * tenant_share_percent.min(100) / 100).clamp(1, all.max(1));
        Self {
            state: Mutex::new(State {
                free: places,
                held: HashMap::new(),
                waiting: Vec::new(),
                next_number: 0,
            }),
            tenant_max: share(places),
            waiting_max,
            tenant_waiting_max: share(waiting_max).min(waiting_max),
        }
    }

    fn ask(self: &Arc<Self>, tenant: &TenantId, wanted: usize) -> Result<Asked, Overloaded> {
        let mut state = self.state.lock();
        let nobody_before = state.next(self.tenant_max).is_none();
        let fits = state.free >= wanted && state.held(tenant) + wanted <= self.tenant_max;
        if nobody_before && fits {
            state.take(tenant, wanted);
            return Ok(Asked::Granted(self.place(tenant.clone(), wanted)));
        }
        let of_tenant = |waiter: &&Waiter| waiter.tenant == *tenant;
        if state.waiting.len() >= self.waiting_max
            || state.waiting.iter().filter(of_tenant).count() >= self.tenant_waiting_max
        {
            return Err(Overloaded);
        }
        let (grant, place) = oneshot::channel();
        let number = state.next_number;
        state.next_number += 1;
        state.waiting.push(Waiter {
            number,
            tenant: tenant.clone(),
            wanted,
            grant,
        });
        // Somebody else's turn may leave room for this one: of a tenant that holds less.
        let granted = self.grant(&mut state);
        drop(state);
        hand_out(granted);
        Ok(Asked::Queued(Granted { number, place }))
    }

    fn place(self: &Arc<Self>, tenant: TenantId, held: usize) -> Place {
        Place {
            places: Arc::clone(self),
            tenant,
            held,
        }
    }

    /// What can be given to those who wait; to be handed out without the lock, since a place that
    /// nobody takes any more comes back at once.
    #[must_use]
    fn grant(self: &Arc<Self>, state: &mut State) -> Vec<(oneshot::Sender<Place>, Place)> {
        let mut granted = Vec::new();
        while let Some(next) = state.next(self.tenant_max)
            && state.waiting[next].wanted <= state.free
        {
            let waiter = state.waiting.remove(next);
            state.take(&waiter.tenant, waiter.wanted);
            granted.push((waiter.grant, self.place(waiter.tenant, waiter.wanted)));
        }
        granted
    }

    fn give_back(self: &Arc<Self>, tenant: &TenantId, places: usize) {
        let mut state = self.state.lock();
        state.free += places;
        if let Some(held) = state.held.get_mut(tenant) {
            *held -= places;
            if *held == 0 {
                state.held.remove(tenant);
            }
        }
        let granted = self.grant(&mut state);
        drop(state);
        hand_out(granted);
    }

    fn leave(self: &Arc<Self>, number: u64) {
        let mut state = self.state.lock();
        let Ok(index) = state
            .waiting
            .binary_search_by_key(&number, |waiter| waiter.number)
        else {
            return;
        };
        state.waiting.remove(index);
        // It may have been the one that was waited for.
        let granted = self.grant(&mut state);
        drop(state);
        hand_out(granted);
    }
}

fn hand_out(granted: Vec<(oneshot::Sender<Place>, Place)>) {
    for (grant, place) in granted {
        // One that went away gives its place back by dropping it.
        drop(grant.send(place));
    }
}

#[cfg(test)]
mod tests;
