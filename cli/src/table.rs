//! `tidelake table …`

mod create;

use std::io::{IsTerminal, Write};

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

pub(crate) use create::{create_table, schema_of};

use crate::Global;
use crate::client::{Client, json_of, send, table_name};
use crate::failure::Failure;
use crate::output::{Format, Grid, bytes, note, print_object, say};
use crate::schema;
use crate::versions::{self, DiffArgs, HistoryArgs, KeyArgs, SnapshotCommand};

#[derive(Subcommand, Debug)]
pub(crate) enum TableCommand {
    /// Make a table
    Create(create::CreateArgs),
    /// List the tables
    List(ListArgs),
    /// Show a table's schema, size and progress
    Describe(OneTable),
    /// Show the versions of a table, newest first
    History(HistoryArgs),
    /// Show the rows that differ between two versions
    Diff(DiffArgs),
    /// Name versions that are kept until the name is dropped
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Show which version brought which value of a key, newest first
    KeyHistory(KeyArgs),
    /// Show the data files of a table
    Files(OneTable),
    /// Commit everything that was accepted, and wait for it
    Flush(FlushArgs),
    /// Drop a table; it can be brought back for a while
    Drop(DropArgs),
    /// Bring back a table that was dropped
    Undrop(OneTable),
    /// Go on with the topic that is in the place of the one that the table was filled from
    AdoptTopic(OneTable),
}

#[derive(Args, Debug)]
pub(crate) struct OneTable {
    table: String,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Dead-letter tables, too
    #[arg(long)]
    all: bool,
}

#[derive(Args, Debug)]
pub(crate) struct FlushArgs {
    table: String,
    /// How long to wait
    #[arg(long, default_value_t = 60_000)]
    timeout_ms: u64,
}

#[derive(Args, Debug)]
pub(crate) struct DropArgs {
    table: String,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
    /// Remove all its rows at once: nothing brings it back. Also frees the name of a table that
    /// was dropped before
    #[arg(long)]
    purge: bool,
}

pub(crate) async fn run(command: TableCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let format = global.output;
    match command {
        TableCommand::Create(args) => create::run(&client, args, format).await,
        TableCommand::List(args) => list(&client, &args, format).await,
        TableCommand::Describe(args) => describe(&client, &args.table, format).await,
        TableCommand::History(args) => versions::history(&client, &args, format).await,
        TableCommand::Diff(args) => versions::diff(&client, &args, format).await,
        TableCommand::Snapshot(command) => versions::snapshot(&client, &command, format).await,
        TableCommand::KeyHistory(args) => versions::key_history(&client, &args, format).await,
        TableCommand::Files(args) => function(&client, "table_files", &args.table, format).await,
        TableCommand::Flush(args) => flush(&client, &args, format).await,
        TableCommand::Drop(args) => drop_table(&client, &args, format).await,
        TableCommand::Undrop(args) => undrop(&client, &args.table, format).await,
        TableCommand::AdoptTopic(args) => adopt_topic(&client, &args.table, format).await,
    }
}

async fn list(client: &Client, args: &ListArgs, format: Format) -> Result<(), Failure> {
    let tables = client.tables(args.all).await?;
    if format == Format::Json {
        return say(&format!("{:#}", Value::Array(tables)));
    }
    let columns = [
        "name",
        "mode",
        "buckets",
        "version",
        "rows",
        "files",
        "bytes",
        "lag_records",
    ];
    let mut grid = Grid::new(&columns);
    for table in &tables {
        grid.rows
            .push(columns.iter().map(|name| table[*name].clone()).collect());
    }
    if grid.rows.is_empty() && format.is_drawn() {
        note("no tables yet; make one with `tidelake table create`");
        return Ok(());
    }
    grid.print(format)
}

async fn describe(client: &Client, table: &str, format: Format) -> Result<(), Failure> {
    let name = table_name(table)?;
    let mut answer = client.get(&format!("/v1/tables/{name}")).await?;
    if format != Format::Table {
        return print_object(&answer, format);
    }
    let columns = schema::columns(&answer);
    if let Value::Object(map) = &mut answer {
        map.remove("schema");
        if let Some(size) = map.get("bytes").and_then(Value::as_u64) {
            map.insert("bytes".into(), format!("{size} ({})", bytes(size)).into());
        }
    }
    print_object(&answer, format)?;
    say("")?;
    columns.print(format)
}

async fn function(
    client: &Client,
    function: &str,
    table: &str,
    format: Format,
) -> Result<(), Failure> {
    let name = table_name(table)?;
    let answer = client
        .sql(&format!("SELECT * FROM {function}('{name}')"))
        .await?;
    Grid::of_query(&answer).print(format)
}

async fn flush(client: &Client, args: &FlushArgs, format: Format) -> Result<(), Failure> {
    let name = table_name(&args.table)?;
    let path = format!("/v1/tables/{name}/flush?timeout_ms={}", args.timeout_ms);
    let answer = json_of(send(client.gateway(Method::POST, &path)).await?).await?;
    match format {
        Format::Table => say(&format!(
            "table {name} is at version {}",
            cell(&answer["version"])
        )),
        _ => print_object(&answer, format),
    }
}

async fn drop_table(client: &Client, args: &DropArgs, format: Format) -> Result<(), Failure> {
    let name = table_name(&args.table)?;
    if !args.yes {
        confirm(name.as_str(), args.purge)?;
    }
    let path = match args.purge {
        true => format!("/v1/tables/{name}?purge=true"),
        false => format!("/v1/tables/{name}"),
    };
    let answer = json_of(send(client.gateway(Method::DELETE, &path)).await?).await?;
    if format != Format::Table {
        return print_object(&answer, format);
    }
    say(&format!("dropped table {name}"))?;
    if let Some(until) = answer["kept_until_ms"].as_i64() {
        note(&format!(
            "until {} `tidelake table undrop {name}` brings it back",
            utc(until)
        ));
    }
    Ok(())
}

/// `POST /v1/tables/{t}/undrop`
async fn undrop(client: &Client, table: &str, format: Format) -> Result<(), Failure> {
    let name = table_name(table)?;
    let path = format!("/v1/tables/{name}/undrop");
    let answer = json_of(send(client.gateway(Method::POST, &path)).await?).await?;
    match format {
        Format::Table => say(&format!(
            "table {name} is back, with {} rows at version {}",
            cell(&answer["rows"]),
            cell(&answer["version"])
        )),
        _ => print_object(&answer, format),
    }
}

/// `POST /v1/tables/{t}/adopt-topic`
async fn adopt_topic(client: &Client, table: &str, format: Format) -> Result<(), Failure> {
    let name = table_name(table)?;
    let path = format!("/v1/tables/{name}/adopt-topic");
    let answer = json_of(send(client.gateway(Method::POST, &path)).await?).await?;
    if format != Format::Table {
        return print_object(&answer, format);
    }
    let topic = cell(&answer["topic"]);
    if answer["left_topic_id"].is_null() {
        return say(&format!(
            "table {name} is filled from topic {topic} already"
        ));
    }
    say(&format!(
        "table {name} goes on with topic {topic} (id {}) from its beginning",
        cell(&answer["topic_id"])
    ))
}

/// A time as people read it, in whole seconds.
fn utc(ms: i64) -> String {
    let at = arrow::temporal_conversions::timestamp_s_to_datetime(ms.div_euclid(1000));
    at.map_or_else(|| format!("{ms} ms"), |at| format!("{at} UTC"))
}

/// Asks on a terminal; elsewhere `--yes` must have been said.
fn confirm(table: &str, purge: bool) -> Result<(), Failure> {
    let grace = if purge { " at once and for ever" } else { "" };
    if !std::io::stdin().is_terminal() {
        let message = format!("table {table} and all its rows would be dropped{grace}");
        return Err(Failure::usage(message).hint("say --yes to do it without a question"));
    }
    let mut out = std::io::stderr().lock();
    write!(
        out,
        "drop table {table} and all its rows{grace}? type its name: "
    )?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() == table {
        Ok(())
    } else {
        Err(Failure::failed("not dropped"))
    }
}

fn cell(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_grace_is_told_in_whole_seconds() {
        assert_eq!(utc(1_800_000_000_123), "2027-01-15 08:00:00 UTC");
    }
}
