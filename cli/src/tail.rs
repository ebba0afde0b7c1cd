//! `tidelake tail`: new rows of a table as JSON lines, straight from the log.
//!
//! Shows what is accepted, committed or not; a delete as its key with `"__op":"delete"`. Records that a reader of the table would not see, because
//! they don't fit the schema, are told on standard error.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use clap::Args;
use tidelake_codec::json::encode::{JsonStyle, write_rows};
use tidelake_core::{Bucket, ErrorKind, Offset};
use tidelake_intake::{BucketIntake, IntakeError, Seen, TableKind, Taken};
use tidelake_log::{Admin, KafkaSettings, LogError, MessageBatch, TailReader};
use tidelake_schema::TableSchema;
use tidelake_schema::delta::PhysicalNames;

use crate::Global;
use crate::client::{Client, table_name};
use crate::failure::Failure;
use crate::output::note;

const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Messages of one bucket that are read at a time.
const MESSAGES_MAX: i64 = 10_000;

#[derive(Args, Debug)]
pub(crate) struct TailArgs {
    table: String,
    /// The log, as host:port
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "TIDELAKE_KAFKA",
        default_value = "127.0.0.1:9092"
    )]
    kafka: String,
    /// A property of the Kafka client (repeat for each)
    #[arg(long, value_name = "KEY=VALUE")]
    kafka_property: Vec<String>,
    /// Begin with the oldest record that the log has
    #[arg(long)]
    from_start: bool,
    /// End after so many rows
    #[arg(short = 'n', long, value_name = "N")]
    rows: Option<u64>,
}

pub(crate) async fn run(args: TailArgs, global: &Global) -> Result<(), Failure> {
    let name = table_name(&args.table)?;
    let table = Client::new(global)?
        .get(&format!("/v1/tables/{name}"))
        .await?;
    let schema = TableSchema::from_iceberg_value(&table["schema"])
        .map_err(|error| Failure::of("the table's schema can't be read", error.kind(), &error))?;
    let names: PhysicalNames =
        serde_json::from_value(table["physical_names"].clone()).unwrap_or_default();
    let topic = table["topic"].as_str().unwrap_or_default().to_owned();
    let count = u32::try_from(table["buckets"].as_u64().unwrap_or_default()).unwrap_or_default();
    let buckets: Vec<Bucket> = (0..count).map(Bucket).collect();

    let kafka = kafka_settings(&args)?;
    let admin = Admin::new(&kafka).map_err(log)?;
    let reader = TailReader::open(&kafka, &topic).map_err(log)?;
    let mut positions = if args.from_start {
        admin.start_offsets(&topic, &buckets).await
    } else {
        admin.end_offsets(&topic, &buckets).await
    }
    .map_err(log)?;
    let kind = match table["mode"].as_str() {
        _ if name.dead_letters_of().is_some() => TableKind::DeadLetters,
        Some("upsert") => TableKind::Upsert,
        _ => TableKind::Append,
    };
    let mut printer = Printer::new(kind, (&schema, names), count, args.rows)?;
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let ends = admin.end_offsets(&topic, &buckets).await.map_err(log)?;
        let ranges = ranges(&positions, &ends);
        if ranges.is_empty() {
            continue;
        }
        let batches = reader
            .read(ranges.clone(), READ_TIMEOUT)
            .await
            .map_err(log)?;
        for (bucket, from, to) in &ranges {
            printer.print(&batches, *bucket, *from, *to)?;
            if printer.is_done() {
                return Ok(());
            }
        }
        for (bucket, position) in &mut positions {
            if let Some((.., to)) = ranges.iter().find(|(other, ..)| other == bucket) {
                *position = *to;
            }
        }
    }
}

fn kafka_settings(args: &TailArgs) -> Result<KafkaSettings, Failure> {
    let mut kafka = KafkaSettings {
        bootstrap: args.kafka.clone(),
        ..KafkaSettings::default()
    };
    for property in &args.kafka_property {
        let (key, value) = property.split_once('=').ok_or_else(|| {
            Failure::usage(format!("Kafka property {property:?}: expected KEY=VALUE"))
        })?;
        kafka.properties.insert(key.to_owned(), value.to_owned());
    }
    Ok(kafka)
}

/// What is new in each bucket, in bounded portions.
fn ranges(
    positions: &[(Bucket, Offset)],
    ends: &[(Bucket, Offset)],
) -> Vec<(Bucket, Offset, Offset)> {
    let end_of = |bucket| {
        ends.iter()
            .find(|(other, _)| *other == bucket)
            .map(|(_, end)| *end)
    };
    positions
        .iter()
        .filter_map(|(bucket, from)| {
            let to = end_of(*bucket)?.min(Offset(from.0 + MESSAGES_MAX));
            (*from < to).then_some((*bucket, *from, to))
        })
        .collect()
}

fn log(error: LogError) -> Failure {
    let failure = Failure::of("the log can't be read", error.kind(), &error);
    match error.kind() {
        ErrorKind::Unavailable => failure.hint("say where the log is: --kafka HOST:PORT"),
        _ => failure,
    }
}

/// Prints the rows of messages.
struct Printer {
    /// By bucket.
    intakes: Vec<BucketIntake>,
    left: u64,
}

impl Printer {
    fn new(
        kind: TableKind,
        (schema, names): (&TableSchema, PhysicalNames),
        buckets: u32,
        rows_max: Option<u64>,
    ) -> Result<Self, Failure> {
        let names = Arc::new(names);
        let intakes = (0..buckets).map(|bucket| {
            let intake = BucketIntake::without_origins(kind, schema, Bucket(bucket), buckets)?;
            Ok(intake.named(Arc::clone(&names)))
        });
        let intakes = intakes.collect::<Result<_, IntakeError>>();
        Ok(Self {
            intakes: intakes.map_err(|error| {
                Failure::of(
                    "the table's schema can't be used",
                    ErrorKind::Invalid,
                    &error,
                )
            })?,
            left: rows_max.unwrap_or(u64::MAX),
        })
    }

    fn is_done(&self) -> bool {
        self.left == 0
    }

    fn print(
        &mut self,
        batches: &[MessageBatch],
        bucket: Bucket,
        from: Offset,
        to: Offset,
    ) -> Result<(), Failure> {
        let Some(intake) = self.intakes.get_mut(bucket.0 as usize) else {
            return Ok(());
        };
        for message in batches.iter().flat_map(MessageBatch::iter) {
            let offset = message.offset();
            if message.bucket() != bucket || offset < from || offset >= to {
                continue;
            }
            let taken = intake.take(&Seen {
                offset,
                timestamp_ms: message.timestamp_ms(),
                key: message.key(),
                value: message.value(),
                headers: &message,
            });
            match taken {
                Taken::Refused(why) => note(&format!("bucket {bucket} offset {offset}: {why}")),
                Taken::Misrouted(owner) => note(&format!(
                    "bucket {bucket} offset {offset}: its key belongs to bucket {owner}, where it \
                     comes again"
                )),
                Taken::Rows(_) | Taken::Marker | Taken::Repeated => {}
            }
        }
        let drained = intake.drain();
        let drained = drained.map_err(|error| Failure::failed(error.to_string()))?;
        let mut text = Vec::new();
        for chunk in drained.chunks {
            let batch = self.shown(&chunk.batch);
            rows_of(&batch, &mut text)?;
        }
        for deletes in drained.deletes {
            let batch = self.shown(&deletes.keys);
            rows_of(&marked(&batch)?, &mut text)?;
        }
        let mut out = std::io::stdout().lock();
        out.write_all(&text)?;
        Ok(out.flush()?)
    }

    /// As many rows as are still wanted.
    fn shown(&mut self, batch: &RecordBatch) -> RecordBatch {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX);
        let shown = batch.num_rows().min(wanted);
        self.left -= shown as u64;
        batch.slice(0, shown)
    }
}

fn rows_of(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), Failure> {
    write_rows(batch, &batch.schema(), out, JsonStyle::Objects)
        .map_err(|error| Failure::failed(error.to_string()))
}

/// Deleted keys, and a column that says so.
fn marked(keys: &RecordBatch) -> Result<RecordBatch, Failure> {
    let mut fields: Vec<_> = keys.schema().fields().iter().cloned().collect();
    fields.insert(0, Arc::new(Field::new("__op", DataType::Utf8, false)));
    let mut columns = keys.columns().to_vec();
    let words = StringArray::from(vec!["delete"; keys.num_rows()]);
    columns.insert(0, Arc::new(words));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|error| Failure::failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_are_bounded_and_idle_buckets_are_left_alone() {
        let positions = [
            (Bucket(0), Offset(5)),
            (Bucket(1), Offset(7)),
            (Bucket(2), Offset(0)),
        ];
        let ends = [
            (Bucket(0), Offset(9)),
            (Bucket(1), Offset(7)),
            (Bucket(2), Offset(1 << 40)),
        ];
        assert_eq!(
            ranges(&positions, &ends),
            [
                (Bucket(0), Offset(5), Offset(9)),
                (Bucket(2), Offset(0), Offset(MESSAGES_MAX))
            ]
        );
    }
}
