//! `tidelake demo`: everything on one folder, three million flights streamed in two ways, five
//! questions. What `scripts/demo` runs once it has built this program and found the data.

mod flights;
mod progress;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use tidelake_service::{Runtime, program};

use crate::client::{Client, json_of, send, table_name};
use crate::failure::Failure;
use crate::local::{FolderLock, Local, LocalSettings, Places};
use crate::moment;
use crate::output::{Format, Grid, bytes, say, thousands};
use crate::table::{create_table, schema_of};
use flights::{Flights, Half};

const TABLE: &str = "flights";
const BUCKETS: u32 = 4;

/// What a person would ask of flights.
const QUESTIONS: [(&str, &str); 5] = [
    (
        "How many flights are there, from how many airports, and when?",
        "SELECT count(*) AS flights, count(DISTINCT origin) AS airports,\n       \
         min(date) AS first, max(date) AS last\nFROM flights",
    ),
    (
        "Which routes are the busiest?",
        "SELECT origin, destination, count(*) AS flights, round(avg(delay), 1) AS avg_delay\n\
         FROM flights GROUP BY origin, destination ORDER BY flights DESC, origin LIMIT 5",
    ),
    (
        "At which hours of departure do delays hurt most?",
        "SELECT date_part('hour', date) AS hour, count(*) AS flights,\n       \
         round(avg(delay), 1) AS avg_delay, max(delay) AS worst\n\
         FROM flights GROUP BY 1 ORDER BY avg_delay DESC LIMIT 5",
    ),
    (
        "Which large airports send most flights off more than half an hour late?",
        "SELECT origin, count(*) AS flights,\n       \
         round(100.0 * count(*) FILTER (WHERE delay > 30) / count(*), 1) AS late_percent\n\
         FROM flights GROUP BY origin\n\
         HAVING count(*) > (SELECT count(*) FROM flights) / 100\n\
         ORDER BY late_percent DESC LIMIT 5",
    ),
    (
        "Do long flights make up for lost time?",
        "SELECT CASE WHEN distance < 500 THEN '1: under 500 miles'\n            \
         WHEN distance < 1500 THEN '2: 500 to 1,500 miles'\n            \
         ELSE '3: over 1,500 miles' END AS length,\n       \
         count(*) AS flights, round(avg(delay), 1) AS avg_delay\n\
         FROM flights GROUP BY 1 ORDER BY 1",
    ),
];

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Parquet file with flights
    #[arg(long, value_name = "FILE")]
    flights: PathBuf,
    /// Folder for the demo; emptied first
    #[arg(long, value_name = "FOLDER", default_value = "./tidelake-data/demo")]
    dir: PathBuf,
    /// End after the answers
    #[arg(long)]
    exit: bool,
}

pub(crate) async fn run(args: DemoArgs) -> Result<(), Failure> {
    let flights = Flights::open(&args.flights)?;
    empty(&args.dir)?;
    let runtime = Runtime::new();
    runtime.shutdown.on_signals()?;
    let begun = moment::now();
    let mut local = Local::start(settings(&args.dir), &runtime).await?;
    headline(&format!(
        "everything runs in one process ({} ms)",
        begun.elapsed().as_millis()
    ))?;
    let places = local.places.clone();
    program::say(&places.ready_line());
    if cfg!(debug_assertions) {
        say("    (a development build; a release build is faster)")?;
    }

    let told = tokio::select! {
        told = tell(&places, &flights) => told.map(|()| args.exit),
        () = runtime.shutdown.requested() => Ok(true),
        failure = local.failed() => Err(failure),
    };
    let ended = match told {
        Ok(false) => {
            lines_to_try(&places, &args.dir)?;
            tokio::select! {
                () = runtime.shutdown.requested() => Ok(()),
                failure = local.failed() => Err(failure),
            }
        }
        Ok(true) => Ok(()),
        Err(failure) => Err(failure),
    };
    let stopped = local.stop().await;
    ended.and(stopped)
}

/// The usual ports where they are free.
fn settings(dir: &Path) -> LocalSettings {
    let free = |port: u16| match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => port,
        Err(_) => 0,
    };
    let defaults = LocalSettings::default();
    LocalSettings {
        dir: dir.to_owned(),
        gateway_port: free(defaults.gateway_port),
        query_port: free(defaults.query_port),
        kafka_port: free(defaults.kafka_port),
        ..defaults
    }
}

/// Removes what an earlier demo left. Only a folder that is ours, and that nobody uses.
fn empty(dir: &Path) -> Result<(), Failure> {
    let mut entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Failure::failed(format!(
                "folder {}: {error}",
                dir.display()
            )));
        }
    };
    if entries.next().is_none() {
        return Ok(());
    }
    if !FolderLock::is_ours(dir) {
        let message = format!("folder {} holds something else", dir.display());
        return Err(Failure::usage(message).hint("choose another folder with --dir"));
    }
    let lock = FolderLock::take(dir)?;
    std::fs::remove_dir_all(dir)?;
    drop(lock);
    Ok(())
}

/// The whole story: table, both ways in, questions.
async fn tell(places: &Places, flights: &Flights) -> Result<(), Failure> {
    let (gateway, query) = (
        format!("http://{}", places.gateway),
        format!("http://{}", places.query),
    );
    let client = Client::to(gateway, query, None)?;
    let table = table_name(TABLE)?;
    let columns = [
        "date:timestamp",
        "delay:int",
        "distance:int",
        "origin:string",
        "destination:string",
    ];
    let schema = schema_of(&columns.map(str::to_owned), &[])?;
    let made = create_table(&client, TABLE, schema, Some(BUCKETS), json!({})).await?;
    let topic = made["topic"].as_str().unwrap_or_default().to_owned();
    headline(&format!(
        "table {TABLE} is there, and so is its topic {topic}"
    ))?;

    let begun = moment::now();
    let kafka = flights
        .through_kafka(places.kafka()?, &topic, BUCKETS)
        .await?;
    told(
        "through the Kafka protocol, one JSON record a message",
        &kafka,
    )?;
    let http = flights.through_http(&client, &table).await?;
    told("through HTTP, NDJSON", &http)?;

    let count = client.sql("SELECT count(*) FROM flights").await?;
    let count = count["rows"][0][0].as_u64().unwrap_or_default();
    say(&format!(
        "    {} rows answer to SQL {:.1} s after the first record was sent",
        thousands(count),
        begun.elapsed().as_secs_f64()
    ))?;
    if count != flights.rows() {
        let wanted = thousands(flights.rows());
        return Err(Failure::failed(format!(
            "{} rows are visible, not {wanted}",
            thousands(count)
        )));
    }

    headline("five questions")?;
    for (number, (question, sql)) in QUESTIONS.iter().enumerate() {
        ask(&client, number + 1, question, sql).await?;
    }
    commit(&client, flights.rows(), kafka.bytes + http.bytes).await
}

async fn ask(client: &Client, number: usize, question: &str, sql: &str) -> Result<(), Failure> {
    let begun = moment::now();
    let answer = client.sql(sql).await?;
    let elapsed = begun.elapsed();
    say(&format!("\n{number}. {question}\n"))?;
    for line in sql.lines() {
        say(&format!("    {line}"))?;
    }
    say("")?;
    Grid::of_query(&answer).print(Format::Table)?;
    say(&format!("    answered in {} ms", elapsed.as_millis()))
}

/// Commits what is in the log, and says what the store holds now: all of it, or the demo has failed.
async fn commit(client: &Client, rows: u64, json_bytes: u64) -> Result<(), Failure> {
    let path = format!("/v1/tables/{TABLE}/flush?timeout_ms=120000");
    send(client.gateway(Method::POST, &path)).await?;
    let request = client.gateway(Method::GET, &format!("/v1/tables/{TABLE}"));
    let table: Value = json_of(send(request).await?).await?;
    let committed = table["rows"].as_u64().unwrap_or_default();
    if committed != rows {
        return Err(Failure::failed(format!(
            "{} rows were committed, not {}",
            thousands(committed),
            thousands(rows)
        )));
    }
    let stored = table["bytes"].as_u64().unwrap_or_default();
    let smaller = 100.0 * (1.0 - stored as f64 / json_bytes.max(1) as f64);
    headline(&format!(
        "all of it is a Delta table now: version {}, {} files, {} ({smaller:.1} % less than as JSON)",
        table["version"],
        table["files"],
        bytes(stored)
    ))
}

fn told(how: &str, half: &Half) -> Result<(), Failure> {
    let rate = half.records as f64 / half.elapsed.as_secs_f64().max(0.001);
    say(&format!(
        "    {} records {how}: {:.1} s, {} a second, all acknowledged",
        thousands(half.records),
        half.elapsed.as_secs_f64(),
        thousands(rate as u64)
    ))
}

fn lines_to_try(places: &Places, dir: &Path) -> Result<(), Failure> {
    let program = std::env::current_exe().unwrap_or_else(|_| "tidelake".into());
    let program = program.display();
    let urls = format!(
        "--url http://{} --query-url http://{}",
        places.gateway, places.query
    );
    let store = url::Url::parse(&places.store)
        .ok()
        .and_then(|url| url.to_file_path().ok());
    let store = store.unwrap_or_else(|| dir.join("store"));
    headline("it goes on running; Ctrl-C ends it. Try, in another terminal:")?;
    for line in [
        format!("{program} query {urls} \"SELECT * FROM flights LIMIT 5\""),
        format!("{program} table history flights {urls}"),
        format!("{program} tail flights {urls} --kafka {}", places.kafka()?),
        format!(
            "curl -X POST http://{}/v1/tables/flights/records -H 'content-type: application/json' \
             -d '{{\"date\":\"2001-07-01T00:00:00\",\"delay\":3,\"distance\":11,\"origin\":\"LGA\",\
             \"destination\":\"JFK\"}}'",
            places.gateway
        ),
        format!(
            "duckdb -c \"INSTALL delta; LOAD delta; SELECT count(*) FROM delta_scan('{}')\"",
            store.join("default").join(TABLE).display()
        ),
    ] {
        say(&format!("    {line}"))?;
    }
    Ok(())
}

fn headline(text: &str) -> Result<(), Failure> {
    say(&format!("\n==> {text}"))
}
