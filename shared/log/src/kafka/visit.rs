//! A visit to a consumer group, after which its buckets are shared out anew.
//!
//! A member with an instance id that comes back is given what it had, without a look at the others.
//! Where it had died while it handed a bucket over, the bucket is nobody's from then on: the group
//! that it left wants to see it given up, and the member that came back does not know that it ever
//! had it (Apache Kafka; the embedded broker looks by itself). A member that joins makes the
//! coordinator look at all of them. This one wants none of their topics, and leaves at once:
//! nothing moves but what nobody has.

use std::sync::Arc;
use std::time::Duration;

use super::message::Batch;
use super::native::{Client, Rebalance};
use super::time;
use crate::{KafkaSettings, LogError};

const POLL_MS: i32 = 100;
/// For the group to take a member in.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the visitor goes.
#[derive(Debug, Clone)]
pub(crate) struct Visit {
    pub kafka: KafkaSettings,
    pub group: String,
    /// A topic that exists and that no member wants.
    pub topic: String,
}

impl Visit {
    /// Pays the visit on a thread of its own. Whether it succeeds is only worth a note: without it
    /// a bucket may wait for the next change in the group.
    pub(crate) fn begin(self) {
        let thread = std::thread::Builder::new().name("log-visit".into());
        let begun = thread.spawn(move || match self.pay() {
            Ok(()) => tracing::debug!(group = self.group, "buckets are shared out anew"),
            Err(error) => tracing::warn!(group = self.group, %error, "visit to the group"),
        });
        if let Err(error) = begun {
            tracing::warn!(%error, "no thread for a visit to the group");
        }
    }

    fn pay(&self) -> Result<(), LogError> {
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
        let client = Client::consumer(&properties)?;
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
