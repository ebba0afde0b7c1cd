//! Our own broker, in the test's process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tidelake_broker::{Broker, BrokerSettings};
use tidelake_log::KafkaSettings;

use crate::wait::free_port;

/// The embedded broker on a free port, over a folder of its own.
#[derive(Debug)]
pub struct EmbeddedBroker {
    dir: TempDir,
    address: SocketAddr,
    broker: Option<Broker>,
}

impl EmbeddedBroker {
    /// # Errors
    /// When the broker does not start.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir().context("no folder for the broker")?;
        // A port that nobody else takes while it is down.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let broker = start(dir.path().join("log"), address).await?;
        Ok(Self {
            dir,
            address: broker.address(),
            broker: Some(broker),
        })
    }

    /// `host:port`, the same over restarts.
    pub fn bootstrap(&self) -> String {
        self.address.to_string()
    }

    /// For clients of the log crate.
    pub fn settings(&self) -> KafkaSettings {
        KafkaSettings {
            bootstrap: self.bootstrap(),
            ..KafkaSettings::default()
        }
    }

    /// Where its segments are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// An orderly stop; a second one does nothing.
    ///
    /// # Errors
    /// When its files can't be closed.
    pub async fn stop(&mut self) -> Result<()> {
        match self.broker.take() {
            Some(broker) => broker
                .shutdown()
                .await
                .context("the broker did not stop well"),
            None => Ok(()),
        }
    }

    /// Stops it if it runs, and starts it on the same data and port.
    ///
    /// # Errors
    /// When the broker does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.broker = Some(start(self.dir.path().join("log"), self.address).await?);
        Ok(())
    }
}

async fn start(dir: PathBuf, listen: SocketAddr) -> Result<Broker> {
    Broker::start(BrokerSettings::new(dir, listen))
        .await
        .context("the broker did not start")
}

#[cfg(test)]
mod tests {
    use tidelake_core::{Bucket, Offset};
    use tidelake_log::{Admin, Message, Producer, ProducerSettings, TopicSpec};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_broker_acknowledged_is_there_after_a_restart() {
        let mut broker = EmbeddedBroker::start().await.unwrap();
        let admin = Admin::new(&broker.settings()).unwrap();
        let config = Default::default();
        let spec = TopicSpec {
            name: "t".into(),
            buckets: 1,
            retention_ms: None,
            config,
        };
        admin.create_topic(&spec).await.unwrap();
        let producer = Producer::new(&broker.settings(), ProducerSettings::default()).unwrap();
        let message = Message::new("t", Bucket(0), "{}");
        assert_eq!(producer.send(message.clone()).await.unwrap(), Offset(0));
        broker.restart().await.unwrap();
        assert_eq!(producer.send(message).await.unwrap(), Offset(1));
        broker.stop().await.unwrap();
    }
}
