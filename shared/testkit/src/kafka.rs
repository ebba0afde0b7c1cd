//! A real Apache Kafka: one KRaft node from the cache, on free ports, in a folder of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tidelake_log::{Admin, KafkaSettings};

use crate::external;
use crate::process::{Process, Program};
use crate::wait::{WAIT_MAX, free_port, wait_until};

/// What `scripts/setup-external` fetches.
const LIBS: &str = "kafka-4.1.1/libs";
/// Any 16 bytes in URL-safe base64; a cluster keeps its id over restarts.
const CLUSTER_ID: &str = "dGlkZWxha2UtdGVzdGtpdA";

/// A running node. Stopped and its data removed when dropped.
#[derive(Debug)]
pub struct Kafka {
    dir: TempDir,
    libs: PathBuf,
    port: u16,
    jvm: &'static [&'static str],
    process: Option<Process>,
}

/// Up soon and small: tests start many.
const JVM_FOR_TESTS: &[&str] = &["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
/// As its own scripts start it.
const JVM_FOR_BENCHMARKS: &[&str] = &["-Xmx1g", "-Xms1g", "-server", "-XX:+UseG1GC"];

impl Kafka {
    /// Formats and starts a node and waits until it answers. `None` where external tests are
    /// switched off.
    ///
    /// # Errors
    /// When Kafka is not in the cache, or does not come up; with its output.
    pub async fn start() -> Result<Option<Self>> {
        Self::start_with(&[]).await
    }

    /// With more lines for `server.properties`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(properties: &[(&str, &str)]) -> Result<Option<Self>> {
        Self::start_on(JVM_FOR_TESTS, properties).await
    }

    /// With the full compiler and heap, to be measured against.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_for_benchmarks() -> Result<Option<Self>> {
        Self::start_on(JVM_FOR_BENCHMARKS, &[]).await
    }

    async fn start_on(
        jvm: &'static [&'static str],
        properties: &[(&str, &str)],
    ) -> Result<Option<Self>> {
        if !external::wanted("Apache Kafka") {
            return Ok(None);
        }
        let libs = external::cached(LIBS)?;
        let dir = tempfile::tempdir().context("no folder for Kafka")?;
        let (port, controller) = (free_port()?, free_port()?);
        let mut kafka = Self {
            dir,
            libs,
            port,
            jvm,
            process: None,
        };
        let mut text = server_properties(port, controller, &kafka.dir.path().join("data"));
        for (name, value) in properties {
            text.push_str(&format!("{name}={value}\n"));
        }
        fs::write(kafka.properties_path(), text)?;
        kafka.format()?;
        kafka.restart().await?;
        Ok(Some(kafka))
    }

    /// `host:port`, the same over restarts.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The node's process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// kill -9, as a crash of the machine's broker. The disk keeps what it has.
    ///
    /// # Errors
    /// When it does not run, or the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("kafka is not running")?.kill()
    }

    /// SIGSTOP: connections stay open and nothing is answered. [`Self::resume`] ends it.
    ///
    /// # Errors
    /// When it does not run, or the system refuses.
    pub fn pause(&self) -> Result<()> {
        let process = self.process.as_ref();
        process.context("kafka is not running")?.pause()
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run, or the system refuses.
    pub fn resume(&self) -> Result<()> {
        let process = self.process.as_ref();
        process.context("kafka is not running")?.resume()
    }

    /// An orderly stop.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub async fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("kafka is not running")?;
        process.terminate()?;
        // Java answers SIGTERM with 143 whatever happens.
        process.wait_exit(WAIT_MAX).await?;
        Ok(())
    }

    /// Starts it again on the same data and ports, after [`Self::kill`] or [`Self::stop`].
    ///
    /// # Errors
    /// When it does not answer within [`WAIT_MAX`].
    pub async fn restart(&mut self) -> Result<()> {
        let process = Program::new("/usr/bin/env")
            .args(["java"])
            .args(self.jvm.iter().copied())
            .args(["-cp"])
            .args([self.libs.join("*").into_os_string(), "kafka.Kafka".into()])
            .args([self.properties_path()])
            .without_ready_line()
            .start()
            .await?;
        let process = self.process.insert(process);
        let settings = KafkaSettings {
            bootstrap: format!("127.0.0.1:{}", self.port),
            ..Default::default()
        };
        let admin = Admin::new(&settings)?;
        let answered = wait_until("Apache Kafka to answer", WAIT_MAX, async || {
            if !process.is_running() {
                return Some(false);
            }
            admin.alive().await.is_ok().then_some(true)
        });
        match answered.await {
            Ok(true) => Ok(()),
            Ok(false) => bail!("kafka ended by itself\n{}", process.output()),
            Err(error) => bail!("{error}\n{}", process.output()),
        }
    }

    fn properties_path(&self) -> PathBuf {
        self.dir.path().join("server.properties")
    }

    fn format(&self) -> Result<()> {
        let done = Command::new("java")
            .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
            .args([
                self.libs.join("*").into_os_string(),
                "kafka.tools.StorageTool".into(),
            ])
            .args(["format", "-t", CLUSTER_ID, "-c"])
            .arg(self.properties_path())
            .output()
            .context("could not start java; Apache Kafka needs Java 17 or newer")?;
        if !done.status.success() {
            bail!(
                "kafka's storage was not formatted\n{}",
                String::from_utf8_lossy(&done.stderr)
            );
        }
        Ok(())
    }
}

fn server_properties(port: u16, controller: u16, data: &std::path::Path) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=PLAINTEXT\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         log.dirs={}\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         share.coordinator.state.topic.replication.factor=1\n\
         group.initial.rebalance.delay.ms=0\n\
         auto.create.topics.enable=false\n",
        data.display()
    )
}

#[cfg(test)]
mod tests {
    use tidelake_core::{Bucket, Offset};
    use tidelake_log::{Message, Producer, ProducerSettings, TopicSpec};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_kafka_acknowledged_is_there_after_a_crash() {
        let Some(mut kafka) = Kafka::start().await.unwrap() else {
            return;
        };
        let settings = KafkaSettings {
            bootstrap: kafka.bootstrap(),
            ..Default::default()
        };
        let admin = Admin::new(&settings).unwrap();
        let spec = TopicSpec {
            name: "t".into(),
            buckets: 2,
            retention_ms: None,
            config: Default::default(),
        };
        admin.create_topic(&spec).await.unwrap();
        let producer = Producer::new(&settings, ProducerSettings::default()).unwrap();
        let message = Message::new("t", Bucket(1), "{}");
        assert_eq!(producer.send(message.clone()).await.unwrap(), Offset(0));
        kafka.kill().unwrap();
        kafka.restart().await.unwrap();
        let ends = admin
            .end_offsets("t", &[Bucket(0), Bucket(1)])
            .await
            .unwrap();
        assert_eq!(ends, [(Bucket(0), Offset(0)), (Bucket(1), Offset(1))]);
        kafka.stop().await.unwrap();
        kafka.restart().await.unwrap();
        assert_eq!(producer.send(message).await.unwrap(), Offset(1));
    }
}
