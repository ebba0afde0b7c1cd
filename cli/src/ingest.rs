//! `tidelake ingest`: a file into a table, through the gateway.
//!
//! The file is read on a thread of its own and cut into bodies; the next body is read while the one
//! before is under way. A body is accepted whole or not at all; the bodies before a refused one stay,
//! and `--skip` goes on behind them.

mod csv;
mod cut;
mod infer;
mod open;
mod post;
mod source;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::Method;
use serde_json::json;
use tidelake_core::{TableName, Token};
use tokio::sync::mpsc;

pub(crate) use post::{Op, post_body};
pub(crate) use source::{Body, FileFormat, Source};

use crate::Global;
use crate::client::{Client, json_of, send, table_name};
use crate::failure::{Exit, Failure};
use crate::moment;
use crate::output::{Format, note, print_object, say, thousands};
use crate::table::create_table;

/// Bodies that wait between the reading thread and the gateway.
const BODIES_WAITING_MAX: usize = 2;

#[derive(Args, Debug)]
pub(crate) struct IngestArgs {
    /// The file; - reads standard input
    file: PathBuf,
    /// The table
    #[arg(short, long)]
    table: String,
    /// What the file holds; told from its name where this is not given
    #[arg(long, value_enum)]
    format: Option<FileFormat>,
    /// Make the table if it is not there, with a schema read off the file
    #[arg(long)]
    create: bool,
    /// A column of the primary key of the table that is made, in key order (repeat for each): makes
    /// an upsert table
    #[arg(long, value_name = "COLUMN", requires = "create")]
    key: Vec<String>,
    /// A column of a CSV file that is text, whatever it holds (repeat for each)
    #[arg(long, value_name = "COLUMN")]
    text: Vec<String>,
    /// What the records are to the table
    #[arg(long, value_enum, default_value_t)]
    op: Op,
    /// Leave out so many records at the beginning: those that are in the table already
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: u64,
    /// Bytes of one body: it is accepted whole or not at all
    #[arg(long, value_name = "BYTES", default_value_t = 32 << 20)]
    body_bytes: usize,
    /// Commit the table at the end, and wait for it
    #[arg(long)]
    flush: bool,
}

/// Why it ended early.
#[derive(Debug)]
struct Stopped {
    failure: Failure,
    /// Certainly no record of the file is in the table.
    nothing_written: bool,
}

/// What went in.
#[derive(Debug, Default)]
struct Done {
    records: u64,
    bodies: u64,
    token: Token,
}

pub(crate) async fn run(args: IngestArgs, global: &Global) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let table = table_name(&args.table)?;
    let (done, begun) = ingest(&client, &table, &args).await?;
    let version = if args.flush {
        Some(flush(&client, &table).await?)
    } else {
        None
    };

    let elapsed = begun.elapsed();
    if global.output != Format::Table {
        return print_object(
            &json!({
                "table": table.as_str(), "records": done.records, "bodies": done.bodies,
                "elapsed_ms": elapsed.as_millis() as u64, "token": done.token.to_string(),
                "version": version,
            }),
            global.output,
        );
    }
    let rate = (done.records as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    let committed = version.map(|version| format!(", committed in version {version}"));
    say(&format!(
        "{} records into {table} in {:.1} s ({}/s){}",
        thousands(done.records),
        elapsed.as_secs_f64(),
        thousands(rate),
        committed.unwrap_or_default(),
    ))
}

/// What went in, and when that began. A table that was made for nothing is dropped again.
async fn ingest(
    client: &Client,
    table: &TableName,
    args: &IngestArgs,
) -> Result<(Done, Instant), Failure> {
    let source = Source::open(&args.file, args.format, &args.text)?;
    let (source, is_made) = if args.create {
        create(client, table, source, &args.key).await?
    } else {
        (source, false)
    };
    let begun = moment::now();
    let bar = progress_bar(source.bytes_total());
    let done = stream(client, table, source, args, &bar).await;
    bar.finish_and_clear();
    match done {
        Ok(done) => Ok((done, begun)),
        Err(stopped) => {
            if is_made && stopped.nothing_written {
                unmake(client, table).await;
            }
            Err(stopped.failure)
        }
    }
}

/// The file, and whether the table was not there.
async fn create(
    client: &Client,
    table: &TableName,
    source: Source,
    key: &[String],
) -> Result<(Source, bool), Failure> {
    let (mut schema, source) = tokio::task::spawn_blocking(move || source.infer())
        .await
        .map_err(|error| Failure::failed(error.to_string()))??;
    infer::make_key(&mut schema, key)?;
    match create_table(client, table.as_str(), schema, None, json!({})).await {
        Ok(_) => {
            note(&format!("created table {table}"));
            Ok((source, true))
        }
        Err(failure) if failure.message.contains("TABLE_EXISTS") => {
            has_key(client, table, key).await?;
            Ok((source, false))
        }
        Err(failure) => Err(failure),
    }
}

/// Drops a table that was made for a file of which nothing went in, unless others have written to it.
async fn unmake(client: &Client, table: &TableName) {
    let dropped = async {
        let told = client.get(&format!("/v1/tables/{table}")).await?;
        let is_empty = ["rows", "lag_records"].map(|count| told[count].as_u64() == Some(0));
        if is_empty == [true, true] {
            let path = format!("/v1/tables/{table}?purge=true");
            send(client.gateway(Method::DELETE, &path)).await?;
        }
        Ok::<_, Failure>(is_empty == [true, true])
    };
    match dropped.await {
        Ok(true) => note(&format!(
            "dropped table {table} again: nothing of the file went in"
        )),
        Ok(false) => {}
        Err(failure) => note(&format!(
            "table {table} was made and nothing of the file went in; dropping it failed: {}",
            failure.message
        )),
    }
}

/// A table that was there has the key that was asked for, or the rows would mean something else.
async fn has_key(client: &Client, table: &TableName, key: &[String]) -> Result<(), Failure> {
    if key.is_empty() {
        return Ok(());
    }
    let told = client.get(&format!("/v1/tables/{table}")).await?;
    if told["primary_key"] == json!(key) {
        return Ok(());
    }
    let message = format!(
        "table {table} is there already, with the primary key {}",
        told["primary_key"]
    );
    Err(Failure::new(Exit::Conflict, message)
        .hint("leave --create and --key out to use it as it is"))
}

async fn stream(
    client: &Client,
    table: &TableName,
    source: Source,
    args: &IngestArgs,
    bar: &ProgressBar,
) -> Result<Done, Stopped> {
    let (body_bytes, skip) = (args.body_bytes.max(1), args.skip);
    let (sender, mut bodies) = mpsc::channel::<Body>(BODIES_WAITING_MAX);
    let position = bar.clone();
    let reading = tokio::task::spawn_blocking(move || {
        source.bodies(body_bytes, skip, |body| {
            position.set_position(body.file_bytes);
            // Nobody listens any more: the other side says why.
            sender.blocking_send(body).is_ok()
        })
    });
    let mut done = Done::default();
    while let Some(body) = bodies.recv().await {
        let waiting = |why: &str| {
            bar.suspend(|| note(&format!("{why}; nothing was written, trying again")));
        };
        let answer =
            post::post_patiently(client, table, args.op, body, done.bodies > 0, waiting).await;
        let answer = answer.map_err(|(failure, unwritten)| Stopped {
            failure: with_place(failure, skip, done.records),
            nothing_written: unwritten && done.bodies == 0,
        })?;
        done.records += answer["records"].as_u64().unwrap_or_default();
        done.bodies += 1;
        let token = post::token_of(&answer).map_err(|failure| Stopped {
            failure,
            nothing_written: false,
        })?;
        for (bucket, mark) in token.iter() {
            done.token.raise(bucket, mark);
        }
        bar.set_message(thousands(done.records));
    }
    let read = reading.await.unwrap_or_else(|error| {
        let failure = Failure::failed(error.to_string());
        Err(failure)
    });
    read.map_err(|failure| Stopped {
        failure: with_place(failure, skip, done.records),
        nothing_written: done.bodies == 0,
    })?;
    Ok(done)
}

async fn flush(client: &Client, table: &TableName) -> Result<u64, Failure> {
    let path = format!("/v1/tables/{table}/flush?timeout_ms=120000");
    let answer = json_of(send(client.gateway(Method::POST, &path)).await?).await?;
    Ok(answer["version"].as_u64().unwrap_or_default())
}

/// Adds how much of the file is in the table already, where anything of it went in now.
fn with_place(mut failure: Failure, skipped: u64, records: u64) -> Failure {
    if records > 0 {
        let place = skipped + records;
        failure.message.push_str(&format!(
            "; the {} records before this body are in the table: --skip {place} goes on behind them",
            thousands(place)
        ));
    }
    failure
}

/// A bar on a terminal, nothing elsewhere.
fn progress_bar(bytes_total: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(bytes_total, ProgressDrawTarget::hidden());
    }
    let template = match bytes_total {
        Some(_) => "{bar:30} {bytes}/{total_bytes} {msg} records, {elapsed} (left: {eta})",
        None => "{spinner} {bytes} {msg} records, {elapsed}",
    };
    let bar = bytes_total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked of a gateway that answers a body of records so.
    async fn asked_for(records: &'static str, hint: &'static str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.ndjson");
        std::fs::write(&file, "{\"a\":1}\n").unwrap();
        let (url, asked) = crate::testing::service(move |request, _| {
            let (status, body) = match request {
                "GET /v1/tables/t" => ("200 OK", json!({ "rows": 0, "lag_records": 0 })),
                "POST /v1/tables/t/records" => (records, json!({ "detail": "no", "hint": hint })),
                _ => ("200 OK", json!({})),
            };
            Some(crate::testing::Reply::new(status, &body))
        })
        .await;
        let client = Client::to(url.clone(), url, None).unwrap();
        let line = ["i", file.to_str().unwrap(), "-t", "t", "--create"];
        let args = <Line as clap::Parser>::parse_from(line).args;
        let table = table_name(&args.table).unwrap();
        ingest(&client, &table, &args).await.unwrap_err();
        let asked = asked.lock().unwrap();
        asked.iter().map(|(request, _)| request.clone()).collect()
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: IngestArgs,
    }

    #[tokio::test]
    async fn a_table_that_was_made_for_nothing_is_dropped_again() {
        let made = ["POST /v1/tables", "POST /v1/tables/t/records"];
        let dropped = ["GET /v1/tables/t", "DELETE /v1/tables/t?purge=true"];
        let refused = asked_for("422 Unprocessable Entity", "").await;
        assert_eq!(refused, [made, dropped].concat());
        // Some of the body may be in the table.
        let unknown = asked_for("500 Internal Server Error", "may be in the table").await;
        assert_eq!(unknown, made);
    }

    #[test]
    fn what_is_in_the_table_already_is_told() {
        let told = |skipped, records| with_place(Failure::failed("no"), skipped, records).message;
        let expected = "no; the 1,234 records before this body are in the table: \
                        --skip 1234 goes on behind them";
        assert_eq!(told(0, 1234), expected);
        assert_eq!(told(1000, 234), expected);
        assert_eq!(told(9, 0), "no");
    }
}
