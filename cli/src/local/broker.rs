//! The embedded broker inside of `tidelake local`, and what is told of its damaged partitions and
//! of how full its group coordinator is.
//!
//! A partition that is offline takes nothing else with it: the rest of the log is served, the process
//! starts and goes on. Readiness, `tidelake status` and a metric name it until it is repaired
//! (`tidelake log repair`).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidelake_broker::{Broker, BrokerSettings, CoordinatorUse, OfflinePartition};
use tidelake_core::ErrorKind;
use tidelake_service::Runtime;
use tokio::task::JoinHandle;

use super::LocalSettings;
use crate::failure::Failure;

/// The component's name in readiness.
pub(super) const COMPONENT: &str = "broker";
/// Between two looks: a partition goes offline when damage is met.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Partitions that readiness names one by one.
const NAMED_MAX: usize = 20;

/// A broker that is looked after.
#[derive(Debug)]
pub(super) struct WatchedBroker {
    broker: Arc<Broker>,
    watch: JoinHandle<()>,
}

impl WatchedBroker {
    pub(super) async fn start(
        settings: &LocalSettings,
        dir: &Path,
        runtime: &Runtime,
    ) -> Result<Self, Failure> {
        let listen = SocketAddr::new(settings.listen, settings.kafka_port);
        let mut broker = BrokerSettings::new(dir.join("log"), listen);
        broker.fsync = settings.broker.fsync;
        broker.flush_linger = Duration::from_millis(settings.broker.flush_linger_ms);
        broker.clock = runtime.clock.clone();
        broker.ids = runtime.ids.clone();
        let started = Broker::start(broker).await.map_err(|error| {
            let failure = Failure::of("the broker did not start", error.kind(), &error);
            if failure.message.contains("in use") {
                failure.hint("--kafka-port chooses another port, 0 a free one")
            } else {
                failure
            }
        });
        let broker = Arc::new(started?);
        let tell = teller(runtime);
        let tell_use = teller_of_use(runtime);
        // Before anybody asks: a damaged log is never said to be ready first.
        tell(&broker.offline_partitions());
        let watched = Arc::clone(&broker);
        let watch = tokio::spawn(async move {
            let mut looks = tokio::time::interval(LOOK_INTERVAL);
            loop {
                looks.tick().await;
                tell(&watched.offline_partitions());
                tell_use(&watched.coordinator_use());
            }
        });
        Ok(Self { broker, watch })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.broker.address()
    }

    pub(super) async fn stop(self) -> Result<(), Failure> {
        self.watch.abort();
        // Cancelled, as it was told to.
        let _cancelled = self.watch.await;
        let Some(broker) = Arc::into_inner(self.broker) else {
            return Err(Failure::failed("the broker is still in use"));
        };
        let stopped = broker.shutdown().await;
        stopped.map_err(|error| Failure::of("the broker did not stop well", ErrorKind::Bug, &error))
    }
}

/// Tells readiness and metrics. A partition that went offline stays so as long as the broker runs.
fn teller(runtime: &Runtime) -> impl Fn(&[OfflinePartition]) + Send + use<> {
    let health = runtime.health.component(COMPONENT);
    let metric = runtime.metrics.int_gauge_vec(
        "tidelake_broker_partition_offline",
        "1 for each partition of the embedded broker that refuses every request: it is damaged.",
        &["topic", "partition"],
    );
    move |offline| {
        for found in offline {
            let partition = found.partition.to_string();
            let labels = [found.topic.as_str(), partition.as_str()];
            metric.with_label_values(&labels).set(1);
        }
        match summary(offline) {
            None => health.ready(),
            Some(reason) => health.not_ready(reason),
        }
    }
}

/// Tells the metrics how much of the group coordinator is taken.
fn teller_of_use(runtime: &Runtime) -> impl Fn(&[CoordinatorUse]) + Send + use<> {
    let used = runtime.metrics.int_gauge_vec(
        "tidelake_broker_coordinator_used",
        "What consumer groups take of the embedded broker: groups, bytes of subscriptions, bytes \
         of positions.",
        &["what"],
    );
    let max = runtime.metrics.int_gauge_vec(
        "tidelake_broker_coordinator_max",
        "What consumer groups may take of the embedded broker at most.",
        &["what"],
    );
    let signed = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    move |all| {
        for found in all {
            let labels = [found.what];
            used.with_label_values(&labels).set(signed(found.used));
            max.with_label_values(&labels).set(signed(found.max));
        }
    }
}

/// One line for people; none where every partition is served.
fn summary(offline: &[OfflinePartition]) -> Option<String> {
    if offline.is_empty() {
        return None;
    }
    let named = offline.iter().take(NAMED_MAX).map(|found| {
        let OfflinePartition {
            topic,
            partition,
            reason,
        } = found;
        format!(
            "partition {partition} of topic {topic} is offline: {reason}; stop this process and run \
             `tidelake log repair {topic} {partition} --dir …`"
        )
    });
    let mut lines: Vec<_> = named.collect();
    if offline.len() > NAMED_MAX {
        lines.push(format!("and {} more", offline.len() - NAMED_MAX));
    }
    Some(lines.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offline_partition_shows_in_readiness_and_in_the_metrics() {
        let runtime = Runtime::new();
        let tell = teller(&runtime);
        tell(&[]);
        assert!(runtime.health.report().ready);
        tell(&[OfflinePartition {
            topic: "orders".into(),
            partition: 3,
            reason: "damaged".into(),
        }]);
        let report = runtime.health.report();
        assert!(!report.ready);
        let reason = report.components[COMPONENT].reason.clone().unwrap();
        assert!(
            reason.starts_with("partition 3 of topic orders is offline"),
            "{reason}"
        );
        let line = "tidelake_broker_partition_offline{partition=\"3\",topic=\"orders\"} 1";
        assert!(runtime.metrics.render().contains(line));
    }

    #[test]
    fn how_full_the_group_coordinator_is_shows_in_the_metrics() {
        let runtime = Runtime::new();
        let tell = teller_of_use(&runtime);
        for used in [9, 7] {
            tell(&[CoordinatorUse {
                what: "groups",
                used,
                max: 10,
            }]);
        }
        let metrics = runtime.metrics.render();
        for line in [
            "tidelake_broker_coordinator_used{what=\"groups\"} 7",
            "tidelake_broker_coordinator_max{what=\"groups\"} 10",
        ] {
            assert!(metrics.contains(line), "{metrics}");
        }
    }

    #[test]
    fn each_offline_partition_is_named_with_the_command_that_helps_and_the_line_is_bounded() {
        assert_eq!(summary(&[]), None);
        let offline: Vec<_> = (0..25)
            .map(|partition| OfflinePartition {
                topic: "orders".into(),
                partition,
                reason: "a batch at byte 7 is damaged".into(),
            })
            .collect();
        let text = summary(&offline).unwrap();
        let first = "partition 0 of topic orders is offline: a batch at byte 7 is damaged; stop";
        assert!(text.starts_with(first), "{text}");
        assert!(
            text.contains("`tidelake log repair orders 0 --dir …`"),
            "{text}"
        );
        assert!(text.ends_with("; and 5 more"), "{text}");
    }
}
