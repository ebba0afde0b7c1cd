//! `tidelake tail`: new rows of a table as JSON lines, straight from the log.
//!
//! Shows what is accepted, committed or not, bucket by bucket in the order of the log; a delete as
//! its key with `"__op":"delete"`. Records that a reader of the table would not see, because they
//! don't fit the schema, are told on standard error. What a message counts as is [`tidelake_intake`]'s
//! to say.
//!
//! Invariant: a portion of the log is read with columns that the table had after the portion was
//! written: what a schema change adds is shown from its first row on.

mod described;
mod key;
mod predicate;
mod printer;

use std::time::Duration;

use clap::Args;
use tidelake_core::{Bucket, ErrorKind, Offset};
use tidelake_log::{Admin, KafkaSettings, LogError, TailReader};

use self::described::Described;
use self::printer::Printer;
use crate::Global;
use crate::client::{Client, table_name};
use crate::failure::{Exit, Failure};
use crate::output::{Format, note};

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
    /// Only the rows of this primary key: its text or, of several columns, a JSON array
    #[arg(long, value_name = "KEY", conflicts_with = "bucket")]
    key: Option<String>,
    /// Only this bucket (repeat for each)
    #[arg(long, value_name = "N")]
    bucket: Vec<u32>,
    /// Only rows for which a condition holds: comparisons of columns with values, IS NULL, IN, LIKE,
    /// BETWEEN, AND, OR, NOT. Of a delete only the key is known, other columns are null
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// End after so many rows
    #[arg(short = 'n', long, value_name = "N")]
    rows: Option<u64>,
}

pub(crate) async fn run(args: TailArgs, global: &Global) -> Result<(), Failure> {
    if !matches!(global.output, Format::Table | Format::Json | Format::Ndjson) {
        let message = "tail shows JSON lines and nothing else";
        return Err(Failure::usage(message).hint("leave -o out, or say -o ndjson"));
    }
    let name = table_name(&args.table)?;
    let client = Client::new(global)?;
    let table = Described::ask(&client, &name).await?;
    let mut printer = Printer::new(
        &table,
        args.key.as_deref(),
        args.condition.as_deref(),
        args.rows,
    )?;
    let buckets = chosen(&args, &table, &printer)?;

    let (kafka, topic) = (kafka_settings(&args)?, table.topic.clone());
    let admin = Admin::new(&kafka).map_err(log)?;
    let reader = TailReader::open(&kafka, &topic).map_err(log)?;
    let mut positions = if args.from_start {
        admin.start_offsets(&topic, &buckets).await
    } else {
        admin.end_offsets(&topic, &buckets).await
    }
    .map_err(log)?;
    let (mut away, mut table) = (false, table);
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let ends = admin.end_offsets(&topic, &buckets).await.map_err(log)?;
        let ranges = ranges(&positions, &ends);
        if ranges.is_empty() {
            continue;
        }
        // After the ends: whoever wrote what lies before them did not know newer columns.
        match Described::ask(&client, &name).await {
            Ok(now) => {
                table.still(&now)?;
                away = false;
                if now != table {
                    table = now;
                    printer.adopt(&table)?;
                }
            }
            Err(failure) if failure.exit == Exit::NotFound => return Err(failure),
            Err(failure) => {
                if !std::mem::replace(&mut away, true) {
                    note(&format!(
                        "new columns are not seen for now: {}",
                        failure.message
                    ));
                }
            }
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

/// The buckets that are asked for: all, those that were named, or that of the key.
fn chosen(args: &TailArgs, table: &Described, printer: &Printer) -> Result<Vec<Bucket>, Failure> {
    if let Some(bucket) = printer.bucket() {
        return Ok(vec![bucket]);
    }
    if let Some(none) = args.bucket.iter().find(|bucket| **bucket >= table.buckets) {
        let message = format!("there is no bucket {none}: the table has {}", table.buckets);
        return Err(Failure::new(Exit::NotFound, message));
    }
    let mut buckets = args.bucket.clone();
    if buckets.is_empty() {
        buckets = (0..table.buckets).collect();
    }
    buckets.sort_unstable();
    buckets.dedup();
    Ok(buckets.into_iter().map(Bucket).collect())
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
