//! The tail from a real log.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tidelake_core::{Bucket, Offset};
use tidelake_log::{Admin, KafkaSettings, LogError, MessageBatch, TailReader, headers};

use super::{Messages, RawMessage, TailSource};

/// Reads from Kafka. One consumer a topic, opened at its first read.
#[derive(Debug)]
pub struct KafkaTail {
    kafka: KafkaSettings,
    admin: Admin,
    readers: Mutex<HashMap<String, TailReader>>,
}

impl KafkaTail {
    pub fn new(kafka: KafkaSettings, admin: Admin) -> Self {
        Self {
            kafka,
            admin,
            readers: Mutex::default(),
        }
    }

    fn reader(&self, topic: &str) -> Result<TailReader, LogError> {
        let mut readers = self.readers.lock();
        if let Some(reader) = readers.get(topic) {
            return Ok(reader.clone());
        }
        let reader = TailReader::open(&self.kafka, topic)?;
        readers.insert(topic.to_owned(), reader.clone());
        Ok(reader)
    }
}

#[async_trait]
impl TailSource for KafkaTail {
    async fn ends(&self, topic: &str, buckets: u32) -> Result<Vec<(Bucket, Offset)>, LogError> {
        let buckets: Vec<Bucket> = (0..buckets).map(Bucket).collect();
        self.admin.end_offsets(topic, &buckets).await
    }

    async fn start(&self, topic: &str, bucket: Bucket) -> Result<Offset, LogError> {
        let starts = self.admin.start_offsets(topic, &[bucket]).await?;
        Ok(starts.first().map_or(Offset(-1), |(_, start)| *start))
    }

    async fn read(
        &self,
        topic: &str,
        ranges: Vec<(Bucket, Offset, Offset)>,
        deadline: Duration,
    ) -> Result<Vec<Box<dyn Messages>>, LogError> {
        let reader = self.reader(topic)?;
        let batches = reader.read(ranges, deadline).await?;
        Ok(batches
            .into_iter()
            .map(|batch| Box::new(Batch(batch)) as Box<dyn Messages>)
            .collect())
    }

    fn close(&self, topic: &str) {
        self.readers.lock().remove(topic);
    }
}

struct Batch(MessageBatch);

impl Messages for Batch {
    fn visit(&self, visit: &mut dyn FnMut(RawMessage<'_>)) {
        for message in self.0.iter() {
            let plain = !message.has_headers();
            let header = |name| if plain { None } else { message.header(name) };
            visit(RawMessage {
                bucket: message.bucket(),
                offset: message.offset().0,
                timestamp_ms: message.timestamp_ms(),
                value: message.value(),
                encoding: header(headers::ENCODING),
                op: header(headers::OP),
            });
        }
    }
}
