//! What the owner's commands do to the assignment.

use std::sync::mpsc as std_mpsc;

use tidelake_core::Offset;

use super::{Command, Next, Poller};
use crate::kafka::time::{self, Instant};
use crate::{Event, LogError, Start, TopicBucket};

impl Poller {
    pub(super) fn obey(&mut self) -> Next {
        loop {
            let result = match self.commands.try_recv() {
                Err(std_mpsc::TryRecvError::Empty) => return Next::Go,
                Err(std_mpsc::TryRecvError::Disconnected) | Ok(Command::Close) => {
                    return Next::Stop;
                }
                Ok(Command::Begin { starts, parked }) => self.begin(&starts, parked),
                Ok(Command::Restart(starts)) => self.restart(&starts),
                Ok(Command::Release(buckets)) => self.release(&buckets),
                Ok(Command::Pause(buckets)) => self.pause(buckets),
                Ok(Command::Resume(buckets)) => self.resume(&buckets),
                Ok(Command::Commit(offsets)) => self.client.commit(&offsets),
            };
            if let Err(error) = result {
                tracing::warn!(%error, "consumer command failed");
            }
        }
    }

    /// Parked buckets are left out of librdkafka's assignment. Never assign them at a logical
    /// offset instead: the answer to its look-up can arrive after a restart, and move the bucket
    /// past messages that nobody has seen.
    fn begin(&mut self, starts: &[Start], parked: Vec<TopicBucket>) -> Result<(), LogError> {
        // What was asked back before the owner has answered for it is not begun with: it would come
        // back from being given up.
        let from: Vec<_> = starts
            .iter()
            .filter(|start| self.granted.contains(&start.at))
            .map(|start| (start.at.clone(), start.offset))
            .collect();
        let parked = parked.into_iter().filter(|at| self.granted.contains(at));
        let stood = self.stood(&from);
        // Also an empty answer must reach the group: it waits for one.
        self.client.assign(&from)?;
        self.owned.extend(parked);
        let now = time::now();
        for (at, offset) in from {
            self.progress.begin(&at, offset, now);
            self.owned.insert(at.clone());
            self.assigned.insert(at);
        }
        stood.iter().for_each(|at| self.progress.doubt(at));
        if self.stalled {
            self.client.pause(&self.all())?;
        }
        Ok(())
    }

    fn restart(&mut self, starts: &[Start]) -> Result<(), LogError> {
        let from: Vec<_> = starts
            .iter()
            .filter(|start| self.owned.contains(&start.at) && self.granted.contains(&start.at))
            .map(|start| (start.at.clone(), start.offset))
            .collect();
        let buckets: Vec<_> = from.iter().map(|(at, _)| at.clone()).collect();
        if buckets.is_empty() {
            return Ok(());
        }
        let stood = self.stood(&from);
        let moved: Vec<_> = buckets
            .iter()
            .filter(|at| self.assigned.remove(*at))
            .cloned()
            .collect();
        if !moved.is_empty() {
            self.client.unassign(&moved)?;
        }
        self.client.assign(&from)?;
        self.assigned.extend(buckets.iter().cloned());
        let now = time::now();
        for (at, offset) in &from {
            self.inquiries.forget(at);
            self.gaps.forget(at);
            self.progress.begin(at, *offset, now);
        }
        stood.iter().for_each(|at| self.progress.doubt(at));
        // Pausing outlives an assignment.
        for at in &buckets {
            self.held.remove(at);
        }
        if self.stalled {
            self.client.pause(&buckets)?;
        } else {
            self.client.resume(&buckets)?;
        }
        self.news.push(Event::Restarted(buckets));
        Ok(())
    }

    /// Which of these the client has a position of, from before.
    fn stood(&self, from: &[(TopicBucket, Offset)]) -> Vec<TopicBucket> {
        let all = from.iter().map(|(at, _)| at);
        let stood = all.filter(|at| self.client.position(at).is_some());
        stood.cloned().collect()
    }

    fn release(&mut self, buckets: &[TopicBucket]) -> Result<(), LogError> {
        for at in buckets {
            self.owned.remove(at);
            self.held.remove(at);
            self.progress.forget(at);
            self.inquiries.forget(at);
            self.gaps.forget(at);
        }
        let assigned: Vec<_> = buckets
            .iter()
            .filter(|at| self.assigned.remove(*at))
            .cloned()
            .collect();
        self.client.unassign(&assigned)
    }

    fn pause(&mut self, buckets: Vec<TopicBucket>) -> Result<(), LogError> {
        let (buckets, others): (Vec<_>, Vec<_>) = buckets
            .into_iter()
            .partition(|at| self.assigned.contains(at));
        let aside = others.into_iter().filter(|at| self.gaps.is_waiting(at));
        self.held.extend(aside);
        self.client.pause(&buckets)?;
        let now = time::now();
        for at in &buckets {
            self.progress.pause(at, true, now);
        }
        self.held.extend(buckets);
        Ok(())
    }

    fn resume(&mut self, buckets: &[TopicBucket]) -> Result<(), LogError> {
        let held: Vec<_> = buckets
            .iter()
            .filter(|at| self.held.remove(at))
            .cloned()
            .collect();
        let now = time::now();
        for at in &held {
            self.progress.pause(at, false, now);
        }
        let held: Vec<_> = held
            .into_iter()
            .filter(|at| self.assigned.contains(at))
            .collect();
        if self.stalled {
            Ok(())
        } else {
            self.client.resume(&held)
        }
    }

    pub(super) fn set_stalled(&mut self, stalled: bool) {
        if self.stalled == stalled {
            return;
        }
        let result = if stalled {
            self.client.pause(&self.all())
        } else {
            let free: Vec<_> = self.assigned.difference(&self.held).cloned().collect();
            self.progress.resumed(time::now());
            self.client.resume(&free)
        };
        if let Err(error) = result {
            tracing::warn!(%error, stalled, "pause or resume failed");
        }
        self.stalled = stalled;
    }

    /// Takes a bucket that can't go on out of the assignment, until the owner restarts it: left in,
    /// it would be fetched again and again.
    pub(super) fn park(&mut self, at: &TopicBucket) {
        self.held.remove(at);
        self.set_aside(at);
    }

    /// Takes a bucket out of the assignment for a while: whether it is paused stays as it is.
    pub(super) fn set_aside(&mut self, at: &TopicBucket) {
        self.progress.forget(at);
        if self.assigned.remove(at)
            && let Err(error) = self.client.unassign(std::slice::from_ref(at))
        {
            tracing::warn!(bucket = %at, %error, "park");
        }
    }

    /// Goes on with a bucket that was set aside.
    pub(super) fn go_on(
        &mut self,
        at: &TopicBucket,
        from: Offset,
        now: Instant,
    ) -> Result<(), LogError> {
        if !self.owned.contains(at) || !self.granted.contains(at) {
            return Ok(());
        }
        let from = [(at.clone(), from)];
        let stood = self.stood(&from);
        self.client.assign(&from)?;
        self.assigned.insert(at.clone());
        self.progress.begin(at, from[0].1, now);
        stood.iter().for_each(|at| self.progress.doubt(at));
        let held = self.held.contains(at);
        self.progress.pause(at, held, now);
        let only = std::slice::from_ref(at);
        match held || self.stalled {
            true => self.client.pause(only),
            false => self.client.resume(only),
        }
    }

    pub(super) fn all(&self) -> Vec<TopicBucket> {
        self.assigned.iter().cloned().collect()
    }
}
