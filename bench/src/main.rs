//! The figures that Tidelake is held against, each a named benchmark that prints JSON lines.
//!
//! ```text
//! cargo build --release --workspace
//! target/release/tidelake-bench json_decode
//! target/release/tidelake-bench all
//! ```
//! Everything runs on this machine, on loopback, with bounded work. The system is a process of its
//! own (`tidelake local`), the client is this one; processor seconds are reported for each.

mod broker;
mod end_to_end;
mod files_50k;
mod follow;
mod footprint;
mod freshness;
mod hostile;
mod ingest;
mod json_decode;
mod reads;
mod records;
mod report;
mod scale;
mod system;
mod takeover;
mod upsert;
mod upsert_kafka;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tidelake_testkit::Kafka;

use crate::upsert::Keys;

/// The client takes from the same processors as the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Tidelake and prints one JSON line for each figure
#[derive(Parser, Debug)]
struct Arguments {
    /// What to measure
    #[arg(value_enum, required = true)]
    figures: Vec<Figure>,
    /// Records of each rate
    #[arg(long, default_value_t = 5_000_000)]
    records: u64,
    /// Live keys of the upsert tables
    #[arg(long, default_value_t = 10_000_000)]
    keys: u64,
    /// Rounds where two systems are compared
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Upserts a second beside `freshness`; 0: as many as two clients can. Without it: 50,000, then
    /// as many as they can, then 80 % of that
    #[arg(long)]
    rate: Option<u64>,
    /// How long each rate of `freshness` is held
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Tables of `flusher_scale`
    #[arg(long, default_value_t = 10_000)]
    tables: u64,
    /// Commits of `tombstones`
    #[arg(long, default_value_t = 20_000)]
    commits: u64,
    /// `lookup` by SQL beside lookups by route
    #[arg(long)]
    sql: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
#[value(rename_all = "snake_case")]
enum Figure {
    All,
    JsonDecode,
    /// Also `end_to_end_packed`
    IngestPacked,
    IngestArrow,
    /// On Apache Kafka and on the embedded broker, beside the afternoon script
    EndToEndKafkaJson,
    /// `broker_produce` and `broker_consume`, both brokers
    Broker,
    Size,
    FlusherMemory,
    LocalStart,
    UpsertUniform,
    UpsertZipf,
    UpsertRecent,
    /// Single JSON records, beside the afternoon script with a merge
    UpsertKafka,
    /// A table of 100 M keys: takes minutes and some 10 GB of disk
    #[value(name = "upsert_100m")]
    Upsert100m,
    /// The same updates at 1 M, 10 M and 100 M keys
    UpsertScaling,
    Lookup,
    Freshness,
    /// What a query node of its own takes to follow upserts, at `--rate`
    Follow,
    ScanAfterUpdates,
    #[value(name = "files_50k")]
    Files50k,
    Takeover,
    /// How long nobody commits after a flusher was killed, stopped or replaced.
    Restart,
    Idle,
    /// Tables of four buckets, one record a second each: takes minutes
    FlusherScale,
    /// A commit by the number of a table's files
    CommitCost,
    /// Memory over many commits: takes minutes
    Tombstones,
    /// Careless and hostile statements beside ingest and lookups
    Hostile,
}

const ALL: [Figure; 22] = [
    Figure::JsonDecode,
    Figure::IngestPacked,
    Figure::IngestArrow,
    Figure::EndToEndKafkaJson,
    Figure::Broker,
    Figure::Size,
    Figure::FlusherMemory,
    Figure::LocalStart,
    Figure::UpsertUniform,
    Figure::UpsertZipf,
    Figure::UpsertRecent,
    Figure::UpsertKafka,
    Figure::Lookup,
    Figure::Freshness,
    Figure::Follow,
    Figure::ScanAfterUpdates,
    Figure::Files50k,
    Figure::Takeover,
    Figure::Restart,
    Figure::Idle,
    Figure::CommitCost,
    Figure::Hostile,
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let figures = match arguments.figures.as_slice() {
        [Figure::All] => ALL.to_vec(),
        some => some.to_vec(),
    };
    let runtime = tokio::runtime::Runtime::new()?;
    for figure in figures {
        runtime.block_on(measure(figure, &arguments))?;
    }
    Ok(())
}

async fn measure(figure: Figure, arguments: &Arguments) -> Result<()> {
    let (count, live) = (arguments.records, arguments.keys);
    match figure {
        Figure::All => Ok(()),
        Figure::JsonDecode => json_decode::run(count),
        Figure::IngestPacked => ingest::ndjson(count).await,
        Figure::IngestArrow => ingest::arrow(count).await,
        Figure::EndToEndKafkaJson => {
            end_to_end::run(count, None, false).await?;
            let kafka = kafka().await?;
            end_to_end::run(count, Some(&kafka.bootstrap()), true).await
        }
        Figure::Broker => {
            let kafka = kafka().await?;
            let pid = kafka.id().context("kafka is not running")?;
            broker::run(count, &kafka.bootstrap(), pid, arguments.rounds).await
        }
        Figure::Size => footprint::size(count).await,
        Figure::FlusherMemory => footprint::flusher_memory(count).await,
        Figure::LocalStart => footprint::local_start(arguments.rounds.max(5)),
        Figure::UpsertUniform => {
            upsert::run("upsert_uniform", Keys::Uniform, live, 2 * count, 5e5).await
        }
        Figure::UpsertZipf => upsert::run("upsert_zipf", Keys::Zipf, live, 2 * count, 7e5).await,
        Figure::UpsertRecent => {
            upsert::run("upsert_recent", Keys::Recent, live, 2 * count, 7e5).await
        }
        Figure::UpsertKafka => {
            upsert_kafka::run(live, count, None).await?;
            let kafka = kafka().await?;
            upsert_kafka::run(live, count, Some(&kafka.bootstrap())).await
        }
        Figure::Upsert100m => {
            upsert::run("upsert_100m", Keys::Uniform, 100_000_000, count, 2e5).await
        }
        Figure::UpsertScaling => {
            for live in [1_000_000, 10_000_000, 100_000_000] {
                upsert::run("upsert_scaling", Keys::Uniform, live, count, 0.0).await?;
            }
            Ok(())
        }
        Figure::Lookup if arguments.sql => reads::lookup_by_sql(live, arguments.rounds).await,
        Figure::Lookup => reads::lookup(live).await,
        Figure::Freshness => freshness::run(live, arguments.rate, arguments.seconds).await,
        Figure::Follow => follow::run(live, arguments.rate, arguments.seconds).await,
        Figure::ScanAfterUpdates => reads::scan_after_updates(live, arguments.rounds).await,
        Figure::Files50k => files_50k::run().await,
        Figure::Takeover => {
            takeover::run(live, None).await?;
            let kafka = kafka().await?;
            takeover::run(live, Some(&kafka.bootstrap())).await
        }
        Figure::Restart => {
            takeover::restart(live, None).await?;
            let kafka = kafka().await?;
            takeover::restart(live, Some(&kafka.bootstrap())).await
        }
        Figure::Idle => reads::idle(live.min(1_000_000)).await,
        Figure::FlusherScale => scale::flusher_scale(arguments.tables, arguments.seconds).await,
        Figure::CommitCost => scale::commit_cost().await,
        Figure::Tombstones => scale::tombstones(arguments.commits).await,
        Figure::Hostile => hostile::run(live.min(1_000_000), 60).await,
    }
}

async fn kafka() -> Result<Kafka> {
    Kafka::start_for_benchmarks()
        .await?
        .context("external tools are switched off")
}
