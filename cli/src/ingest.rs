//! `tidelake ingest`: a file into a table, through the gateway.
//!
//! The file is read on a thread of its own and cut into bodies; the next body is read while the one
//! before is under way. A body is accepted whole or not at all; the bodies before a refused one stay.

mod infer;
mod source;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::{Method, header};
use serde_json::{Value, json};
use tidelake_core::{TableName, Token};
use tokio::sync::mpsc;

pub(crate) use source::{Body, FileFormat, Source};

use crate::Global;
use crate::client::{Client, json_of, send, table_name};
use crate::failure::Failure;
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
    /// Bytes of one body: it is accepted whole or not at all
    #[arg(long, value_name = "BYTES", default_value_t = 32 << 20)]
    body_bytes: usize,
    /// Commit the table at the end, and wait for it
    #[arg(long)]
    flush: bool,
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
    let source = Source::open(&args.file, args.format)?;
    let source = if args.create {
        create(&client, &table, source).await?
    } else {
        source
    };

    let begun = moment::now();
    let bar = progress_bar(source.bytes_total());
    let done = stream(&client, &table, source, args.body_bytes, &bar).await;
    bar.finish_and_clear();
    let done = done?;
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
            Format::Json,
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

async fn create(client: &Client, table: &TableName, source: Source) -> Result<Source, Failure> {
    let (schema, source) = tokio::task::spawn_blocking(move || source.infer())
        .await
        .map_err(|error| Failure::failed(error.to_string()))??;
    match create_table(client, table.as_str(), schema, None, json!({})).await {
        Ok(_) => note(&format!("created table {table}")),
        Err(failure) if failure.message.contains("TABLE_EXISTS") => {}
        Err(failure) => return Err(failure),
    }
    Ok(source)
}

async fn stream(
    client: &Client,
    table: &TableName,
    source: Source,
    body_bytes: usize,
    bar: &ProgressBar,
) -> Result<Done, Failure> {
    let (sender, mut bodies) = mpsc::channel::<Body>(BODIES_WAITING_MAX);
    let position = bar.clone();
    let reading = tokio::task::spawn_blocking(move || {
        source.bodies(body_bytes.max(1), |body| {
            position.set_position(body.file_bytes);
            // Nobody listens any more: the other side says why.
            sender.blocking_send(body).is_ok()
        })
    });
    let mut done = Done::default();
    while let Some(body) = bodies.recv().await {
        let answer = post_body(client, table, body).await;
        let answer = answer.map_err(|failure| with_place(failure, done.records))?;
        done.records += answer["records"].as_u64().unwrap_or_default();
        done.bodies += 1;
        for (bucket, mark) in token_of(&answer)?.iter() {
            done.token.raise(bucket, mark);
        }
        bar.set_message(thousands(done.records));
    }
    let read = reading
        .await
        .map_err(|error| Failure::failed(error.to_string()))?;
    read.map_err(|failure| with_place(failure, done.records))?;
    Ok(done)
}

/// `POST /v1/tables/{t}/records`
pub(crate) async fn post_body(
    client: &Client,
    table: &TableName,
    body: Body,
) -> Result<Value, Failure> {
    let path = format!("/v1/tables/{table}/records");
    let request = client
        .gateway(Method::POST, &path)
        .header(header::CONTENT_TYPE, body.media_type)
        .body(body.bytes);
    let response = request
        .send()
        .await
        .map_err(|error| crate::client::unreachable(&error))?;
    if response.status().is_success() {
        return json_of(response).await;
    }
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    let failure = crate::client::of_problem(status, &text);
    let problem: Value = serde_json::from_str(&text).unwrap_or_default();
    Err(in_file(failure, problem["row"].as_u64(), body.first_record))
}

/// The gateway counts rows from the start of the body; a person looks them up in the file.
fn in_file(mut failure: Failure, row: Option<u64>, first_record: u64) -> Failure {
    if let Some(row) = row {
        let record = format!("record {}", first_record + row);
        failure.message = match failure.message.strip_prefix(&format!("row {row}")) {
            Some(rest) => format!("{record}{rest}"),
            None => format!("{record}: {}", failure.message),
        };
    }
    failure
}

pub(crate) fn token_of(answer: &Value) -> Result<Token, Failure> {
    let text = answer["token"].as_str().unwrap_or_default();
    Token::parse(text).map_err(|error| Failure::failed(error.to_string()))
}

async fn flush(client: &Client, table: &TableName) -> Result<u64, Failure> {
    let path = format!("/v1/tables/{table}/flush?timeout_ms=120000");
    let answer = json_of(send(client.gateway(Method::POST, &path)).await?).await?;
    Ok(answer["version"].as_u64().unwrap_or_default())
}

/// Adds how much of the file is in the table already.
fn with_place(mut failure: Failure, records: u64) -> Failure {
    if records > 0 {
        failure.message.push_str(&format!(
            "; the {} records before this body are in the table",
            thousands(records)
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

    #[test]
    fn a_refused_row_is_named_by_its_place_in_the_file() {
        let told = |message: &str, row| in_file(Failure::failed(message), row, 2400).message;
        assert_eq!(
            told("row 7, field \"x\": expected int", Some(7)),
            "record 2407, field \"x\": expected int"
        );
        assert_eq!(told("too long", Some(7)), "record 2407: too long");
        assert_eq!(told("the log is away", None), "the log is away");
    }

    #[test]
    fn what_is_in_the_table_already_is_told() {
        let failure = with_place(Failure::failed("no"), 1234);
        assert!(
            failure
                .message
                .ends_with("the 1,234 records before this body are in the table")
        );
        assert_eq!(with_place(Failure::failed("no"), 0).message, "no");
    }
}
