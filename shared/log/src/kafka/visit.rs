//! A visit to a consumer group, after which its buckets are shared out anew.
//!
//! A member with an instance id that comes back is given what it had, without a look at the others.
//! Where it had died while it handed a bucket over, the bucket is nobody's from then on: the group
//! that it left wants to see it given up, and the member that came back does not know that it ever
//! had it (Apache Kafka; the embedded broker looks by itself). A member that joins makes the
//! coordinator look at all of them. This one wants none of their topics, and leaves at once:
//! nothing moves but what nobody has.
//!
//! Each visit makes the group share out twice; so it is paid only where a bucket is nobody's, by what
//! the group's members were given. That is looked at twice: a topic of nobody's buckets may be
//! deleted at the first look and made again after it, and a member that never saw it gone does not
//! join anew for it. By the second look it has seen that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidelake_core::Bucket;

use super::message::Batch;
use super::native::{Client, Rebalance};
use super::{request, time};
use crate::{KafkaSettings, LogError, topics};

const POLL_MS: i32 = 100;
/// For the group to take a member in.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between the two looks at a group, beside what a member needs to see topics come and go.
const LOOK_APART: Duration = Duration::from_secs(1);
/// For a list of all topics.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Where the visitor goes.
#[derive(Debug, Clone)]
pub(crate) struct Visit {
    pub kafka: KafkaSettings,
    pub group: String,
    /// A topic that exists and that no member wants.
    pub topic: String,
    /// Of the tables' topics, where the group reads those.
    pub topic_prefix: Option<String>,
    /// How soon a member sees that a topic is gone, or there.
    pub discovery: Duration,
    /// The member that it is paid for has ended.
    pub ended: Arc<AtomicBool>,
}

impl Visit {
    /// Pays the visit on a thread of its own. Whether it succeeds is only worth a note: without it
    /// a bucket may wait for the next change in the group.
    pub(crate) fn begin(self) {
        let thread = std::thread::Builder::new().name("log-visit".into());
        let begun = thread.spawn(move || {
            if self.is_shared_out() && self.waits() && self.is_shared_out() {
                tracing::debug!(group = self.group, "every bucket has a member");
                return;
            }
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            match self.pay() {
                Ok(()) => tracing::debug!(group = self.group, "buckets are shared out anew"),
                Err(error) => tracing::warn!(group = self.group, %error, "visit to the group"),
            }
        });
        if let Err(error) = begun {
            tracing::warn!(%error, "no thread for a visit to the group");
        }
    }

    /// Until the member has looked at all topics since. False where it has ended.
    fn waits(&self) -> bool {
        let begun = time::now();
        let wait = 2 * self.discovery + LOOK_APART;
        while !self.ended.load(Ordering::Relaxed) {
            let left = wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return true;
            }
            std::thread::park_timeout(left.min(LOOK_APART / 4));
        }
        false
    }

    /// True where each bucket of the tables' topics is known to be some member's, or will be: a group
    /// that is being shared out looks at all of them by itself.
    fn is_shared_out(&self) -> bool {
        let Some(prefix) = &self.topic_prefix else {
            return false;
        };
        let looked = self.client().and_then(|client| {
            let members = request::describe_group(&client, &self.group)?.wait()?;
            let topics = client.topics(LOOK_MAX)?;
            Ok((members, topics))
        });
        let (members, topics) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                tracing::debug!(group = self.group, %error, "look at the group");
                return false;
            }
        };
        let Some(given) = members else {
            return true;
        };
        let mut wanted = topics
            .iter()
            .filter(|(topic, _)| topics::parse_table_topic(prefix, topic).is_some())
            .flat_map(|(topic, buckets)| (0..*buckets).map(move |bucket| (topic, Bucket(bucket))));
        wanted.all(|(topic, bucket)| given.get(topic).is_some_and(|all| all.contains(&bucket)))
    }

    fn client(&self) -> Result<Arc<Client>, LogError> {
        let fixed = [
            ("group.id", self.group.as_str()),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("partition.assignment.strategy", "cooperative-sticky"),
        ];
        let defaults = [
            ("session.timeout.ms", "10000"),
            ("heartbeat.interval.ms", "1000"),
        ];
        let mut properties = self.kafka.properties(&defaults, &fixed);
        properties.remove("group.instance.id");
        Client::consumer(&properties)
    }

    fn pay(&self) -> Result<(), LogError> {
        let client = self.client()?;
        client.subscribe(&self.topic)?;
        let taken_in = wait(&client);
        client.close();
        taken_in
    }
}

fn wait(client: &Arc<Client>) -> Result<(), LogError> {
    let begun = time::now();
    while begun.elapsed() < PATIENCE {
        let mut raw = Vec::new();
        client.consume(&mut raw, 1, POLL_MS);
        drop(Batch::new(raw, Arc::clone(client)));
        if let Some(error) = client.fatal_error() {
            return Err(error);
        }
        for rebalance in client.take_rebalances() {
            match rebalance {
                // It begins with nothing, whatever it was given.
                Rebalance::Assign(_) => return client.assign(&[]),
                Rebalance::Revoke(buckets) => client.unassign(&buckets)?,
                Rebalance::Failed(text) => tracing::debug!(error = text, "visit to the group"),
            }
        }
    }
    Err(LogError::unavailable("visit to the group", "not taken in"))
}
