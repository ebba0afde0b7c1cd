//! `tidelake query`

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use futures::StreamExt;
use reqwest::{Method, Response, header};
use serde_json::{Map, Value, json};

use crate::Global;
use crate::client::{Client, json_of, send};
use crate::failure::{Failure, chain};
use crate::moment;
use crate::output::{Format, Grid, note, thousands};
use crate::versions::version;

#[derive(Args, Debug)]
pub(crate) struct QueryArgs {
    /// The statement; - reads it from standard input
    #[arg(required_unless_present = "file")]
    sql: Option<String>,
    /// Read the statement from a file
    #[arg(short, long, conflicts_with = "sql")]
    file: Option<PathBuf>,
    /// Values of $1, $2, … as JSON (repeat for each)
    #[arg(short, long = "param", value_name = "JSON")]
    params: Vec<String>,
    /// Read the tables as they were at this version: its number or a snapshot's name
    #[arg(long, value_name = "VERSION", conflicts_with = "as_of_timestamp")]
    as_of_version: Option<String>,
    /// Read the tables as they were at this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    as_of_timestamp: Option<String>,
    /// Which rows count: latest also reads what is not committed yet
    #[arg(long, value_enum)]
    consistency: Option<Consistency>,
    /// Wait until the write that gave this token is visible
    #[arg(long)]
    token: Option<String>,
    /// Stop after so many rows
    #[arg(long, value_name = "N")]
    max_rows: Option<u64>,
    /// Give up after so long
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Consistency {
    Latest,
    Committed,
}

pub(crate) async fn run(args: QueryArgs, global: &Global) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let body = request(&args)?;
    let accept = match global.output {
        Format::Table | Format::Json => "application/json",
        Format::Ndjson => "application/x-ndjson",
        Format::Csv => "text/csv",
    };
    let begun = moment::now();
    let request = client
        .query(Method::POST, "/v1/sql")
        .header(header::ACCEPT, accept)
        .json(&body);
    let response = send(request).await?;
    if global.output != Format::Table {
        return pass_through(response).await;
    }
    let answer = json_of(response).await?;
    let grid = Grid::of_query(&answer);
    grid.print(Format::Table)?;
    note(&footer(&grid, &answer, begun));
    Ok(())
}

fn request(args: &QueryArgs) -> Result<Value, Failure> {
    let sql = match (&args.file, args.sql.as_deref()) {
        (Some(path), _) => std::fs::read_to_string(path)
            .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?,
        (None, Some("-")) => std::io::read_to_string(std::io::stdin())?,
        (None, sql) => sql.unwrap_or_default().to_owned(),
    };
    let mut body = Map::new();
    body.insert("sql".into(), sql.into());
    if !args.params.is_empty() {
        let parse = |text: &String| {
            // Bare words are strings: nobody wants to write '"eu"' in a shell.
            serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()))
        };
        body.insert("params".into(), args.params.iter().map(parse).collect());
    }
    let consistency = args.consistency.map(|c| match c {
        Consistency::Latest => "latest",
        Consistency::Committed => "committed",
    });
    for (name, value) in [
        (
            "as_of_version",
            json!(args.as_of_version.as_deref().map(version)),
        ),
        ("as_of_timestamp", json!(args.as_of_timestamp)),
        ("consistency", json!(consistency)),
        ("token", json!(args.token)),
        ("max_rows", json!(args.max_rows)),
        ("timeout_ms", json!(args.timeout_ms)),
    ] {
        if !value.is_null() {
            body.insert(name.into(), value);
        }
    }
    Ok(Value::Object(body))
}

/// The answer's bytes as they come, however many.
async fn pass_through(response: Response) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let mut ends_line = true;
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| {
            Failure::failed(format!("the answer was cut short: {}", chain(&error)))
        })?;
        out.write_all(&chunk)?;
        ends_line = chunk.last().map_or(ends_line, |byte| *byte == b'\n');
    }
    if !ends_line {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

fn footer(grid: &Grid, answer: &Value, begun: Instant) -> String {
    let rows = grid.rows.len();
    let elapsed = answer["elapsed_ms"]
        .as_f64()
        .unwrap_or_else(|| begun.elapsed().as_secs_f64() * 1000.0);
    let mut text = format!(
        "{} row{} in {elapsed:.0} ms",
        thousands(rows as u64),
        if rows == 1 { "" } else { "s" }
    );
    for (table, version) in answer["version"].as_object().into_iter().flatten() {
        text.push_str(&format!(", {table} at version {version}"));
    }
    if answer["truncated"] == true {
        text.push_str(", cut at --max-rows");
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: QueryArgs,
    }

    #[test]
    fn flags_become_the_request() {
        let line = [
            "q",
            "SELECT $1, $2",
            "-p",
            "7",
            "-p",
            "eu",
            "--as-of-version",
            "3",
        ];
        let args = Line::parse_from(line).args;
        assert_eq!(
            request(&args).unwrap(),
            json!({ "sql": "SELECT $1, $2", "params": [7, "eu"], "as_of_version": 3 })
        );
    }

    #[test]
    fn the_footer_names_the_versions() {
        let grid = Grid {
            columns: vec!["n".into()],
            rows: vec![vec![json!(1)]],
        };
        let answer = json!({ "elapsed_ms": 12.4, "version": { "flights": 7 } });
        let text = footer(&grid, &answer, moment::now());
        assert_eq!(text, "1 row in 12 ms, flights at version 7");
    }
}
