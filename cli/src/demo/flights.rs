//! The data of the demo, and the two ways in.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_reader::RowSelection;
use parquet::arrow::arrow_reader::RowSelector;
use tidelake_codec::json::encode::{JsonStyle, write_rows};
use tidelake_core::{Bucket, TableName};
use tidelake_log::{Delivery, KafkaSettings, LogError, Message, Producer, ProducerSettings};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::progress::Progress;
use crate::client::Client;
use crate::failure::{Failure, chain};
use crate::ingest::{Body, post_body};
use crate::moment;

const BATCH_ROWS: usize = 8192;
/// Records of a body; large enough that requests cost nothing, small enough to show progress.
const BODY_RECORDS: u64 = 65_536;
/// Messages whose acknowledgement is waited for later.
const IN_FLIGHT_MAX: usize = 200_000;

/// A Parquet file of flights.
#[derive(Debug)]
pub(super) struct Flights {
    path: PathBuf,
    rows: u64,
}

/// What one way in came to.
#[derive(Debug)]
pub(super) struct Half {
    pub records: u64,
    /// As JSON lines.
    pub bytes: u64,
    pub elapsed: Duration,
}

/// Rows as JSON lines.
#[derive(Debug)]
struct Lines {
    text: Bytes,
    records: u64,
}

impl Flights {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let rows = builder(path)?.metadata().file_metadata().num_rows();
        Ok(Self {
            path: path.to_owned(),
            rows: u64::try_from(rows).unwrap_or_default(),
        })
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// The first half, as any Kafka producer would send it: a JSON record a message.
    pub(super) async fn through_kafka(
        &self,
        kafka: &str,
        topic: &str,
        buckets: u32,
    ) -> Result<Half, Failure> {
        let settings = KafkaSettings {
            bootstrap: kafka.to_owned(),
            ..KafkaSettings::default()
        };
        let linger = Duration::from_millis(20);
        let options = ProducerSettings {
            linger,
            compression: "lz4",
            ..Default::default()
        };
        let producer = Producer::new(&settings, options).map_err(log)?;
        let topic: std::sync::Arc<str> = topic.into();

        let begun = moment::now();
        let (mut lines, reading) = self.read(0, self.rows / 2, BATCH_ROWS as u64);
        let mut progress = Progress::new("Kafka", self.rows / 2);
        let mut in_flight: VecDeque<Delivery> = VecDeque::new();
        let (mut records, mut bytes) = (0, 0);
        while let Some(Lines { text, .. }) = lines.recv().await {
            bytes += text.len() as u64;
            for line in text
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
            {
                let bucket = Bucket((records % u64::from(buckets)) as u32);
                let message = Message::new(topic.clone(), bucket, text.slice_ref(line));
                in_flight.push_back(producer.enqueue_waiting(message).await.map_err(log)?);
                records += 1;
                if in_flight.len() > IN_FLIGHT_MAX
                    && let Some(oldest) = in_flight.pop_front()
                {
                    oldest.await.map_err(log)?;
                }
            }
            progress.at(records);
        }
        for delivery in in_flight {
            delivery.await.map_err(log)?;
        }
        finished(reading).await?;
        progress.done();
        Ok(Half {
            records,
            bytes,
            elapsed: begun.elapsed(),
        })
    }

    /// The other half, in large NDJSON bodies.
    pub(super) async fn through_http(
        &self,
        client: &Client,
        table: &TableName,
    ) -> Result<Half, Failure> {
        let begun = moment::now();
        let (first, total) = (self.rows / 2, self.rows - self.rows / 2);
        let (mut lines, reading) = self.read(first, total, BODY_RECORDS);
        let mut progress = Progress::new("HTTP", total);
        let (mut records, mut bytes) = (0, 0);
        while let Some(part) = lines.recv().await {
            bytes += part.text.len() as u64;
            let media_type = "application/x-ndjson";
            let first_record = first + records;
            let body = Body {
                bytes: part.text,
                media_type,
                first_record,
                file_bytes: 0,
            };
            post_body(client, table, body).await?;
            records += part.records;
            progress.at(records);
        }
        finished(reading).await?;
        progress.done();
        Ok(Half {
            records,
            bytes,
            elapsed: begun.elapsed(),
        })
    }

    /// Reads `count` rows from `first` on a thread of its own, as JSON lines of about
    /// `part_records` each.
    fn read(
        &self,
        first: u64,
        count: u64,
        part_records: u64,
    ) -> (mpsc::Receiver<Lines>, JoinHandle<Result<(), Failure>>) {
        let (sender, lines) = mpsc::channel(2);
        let path = self.path.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let skip = RowSelector::skip(usize::try_from(first).unwrap_or(usize::MAX));
            let select = RowSelector::select(usize::try_from(count).unwrap_or(usize::MAX));
            let reader = builder(&path)?
                .with_row_selection(RowSelection::from(vec![skip, select]))
                .with_batch_size(BATCH_ROWS)
                .build()
                .map_err(|error| Failure::failed(chain(&error)))?;
            let (mut text, mut records) = (Vec::new(), 0);
            for batch in reader {
                let batch = batch.map_err(|error| Failure::failed(chain(&error)))?;
                write_rows(&batch, &batch.schema(), &mut text, JsonStyle::Objects)
                    .map_err(|error| Failure::failed(chain(&error)))?;
                records += batch.num_rows() as u64;
                if records >= part_records {
                    let part = Lines {
                        text: std::mem::take(&mut text).into(),
                        records,
                    };
                    records = 0;
                    if sender.blocking_send(part).is_err() {
                        return Ok(());
                    }
                }
            }
            if records > 0 {
                let _nobody_listens = sender.blocking_send(Lines {
                    text: text.into(),
                    records,
                });
            }
            Ok(())
        });
        (lines, reading)
    }
}

fn builder(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, Failure> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| Failure::failed(format!("{shown}: {error}")))?;
    ParquetRecordBatchReaderBuilder::try_new(file)
        .map_err(|error| Failure::failed(format!("{shown}: {}", chain(&error))))
}

async fn finished(reading: JoinHandle<Result<(), Failure>>) -> Result<(), Failure> {
    reading
        .await
        .map_err(|error| Failure::failed(error.to_string()))?
}

fn log(error: LogError) -> Failure {
    Failure::of("the log did not take a record", error.kind(), &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Flights {
        Flights::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/flights-200k.parquet"))
            .unwrap()
    }

    #[tokio::test]
    async fn the_two_halves_are_the_whole_file() {
        let flights = shipped();
        let mut seen = 0;
        for (first, count) in [(0, 100_000), (100_000, flights.rows() - 100_000)] {
            let (mut lines, reading) = flights.read(first, count, 50_000);
            let mut records = 0;
            while let Some(part) = lines.recv().await {
                assert_eq!(
                    part.text.iter().filter(|byte| **byte == b'\n').count() as u64,
                    part.records
                );
                records += part.records;
            }
            finished(reading).await.unwrap();
            assert_eq!(records, count);
            seen += records;
        }
        assert_eq!(seen, 200_000);
    }
}
