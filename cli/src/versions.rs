//! `tidelake table history|diff|snapshot|key-history`: what a table was, and `tidelake get`: a row.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use crate::Global;
use crate::client::{Client, json_of, send, table_name};
use crate::failure::Failure;
use crate::output::{Format, Grid, note, print_object, print_row, say};

/// What `history` shows of each version, where not all of it is asked for.
const BRIEF: &str = "version, timestamp, operation, rows_added, rows_deleted, files_added, \
                     files_removed, watermarks";

#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    table: String,
    /// Show so many versions at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
    /// Show only versions before this one
    #[arg(long, value_name = "VERSION")]
    before: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    table: String,
    /// The earlier version: its number or the name of a snapshot
    #[arg(long, value_name = "VERSION")]
    from: String,
    /// The later version; the newest one where it is not given
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// Show so many rows at most
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum SnapshotCommand {
    /// Give a version a name that keeps it
    // Here --version says which version of the table.
    #[command(disable_version_flag = true)]
    Create(CreateSnapshot),
    /// List the named versions
    List { table: String },
    /// Drop a name: its version may expire
    Drop { table: String, name: String },
}

#[derive(Args, Debug)]
pub(crate) struct CreateSnapshot {
    table: String,
    name: String,
    /// The version: its number, or the name of another snapshot; the newest where it is not given
    #[arg(long, value_name = "VERSION", conflicts_with = "timestamp")]
    version: Option<String>,
    /// The version at this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    timestamp: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct KeyArgs {
    table: String,
    /// The primary key: its text or, of several columns, a JSON array in key order
    key: String,
}

pub(crate) async fn history(
    client: &Client,
    args: &HistoryArgs,
    format: Format,
) -> Result<(), Failure> {
    let name = table_name(&args.table)?;
    let columns = if format.is_drawn() { BRIEF } else { "*" };
    let sql = history_sql(name.as_str(), columns, args);
    let mut grid = Grid::of_query(&client.sql(&sql).await?);
    let more = cut(&mut grid, args.limit);
    grid.print(format)?;
    match more {
        Some(Some(last)) => note(&format!(
            "older versions are there: --before {last} goes on behind these"
        )),
        Some(None) => note("older versions are there: --limit shows more"),
        None => {}
    }
    Ok(())
}

/// Asks for one version more than is shown: it tells that there are older ones.
fn history_sql(table: &str, columns: &str, args: &HistoryArgs) -> String {
    let before = args.before;
    let before = before.map_or_else(String::new, |before| format!(" WHERE version < {before}"));
    let limit = args.limit.saturating_add(1).min(i64::MAX as u64);
    format!(
        "SELECT {columns} FROM table_history('{table}'){before} ORDER BY version DESC LIMIT {limit}"
    )
}

/// Cuts a history at the limit: where there is more of it, the last version that is shown, if any.
fn cut(grid: &mut Grid, limit: u64) -> Option<Option<Value>> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if grid.rows.len() <= limit {
        return None;
    }
    grid.rows.truncate(limit);
    Some(grid.rows.last().and_then(|row| row.first()).cloned())
}

pub(crate) async fn diff(client: &Client, args: &DiffArgs, format: Format) -> Result<(), Failure> {
    let body = diff_request(args)?;
    let answer = client.sql_body(&body).await?;
    let grid = Grid::of_query(&answer);
    if grid.rows.is_empty() && format.is_drawn() {
        note("the two versions hold the same rows");
        return Ok(());
    }
    grid.print(format)?;
    if answer["truncated"] == true {
        note("cut at --limit");
    }
    Ok(())
}

fn diff_request(args: &DiffArgs) -> Result<Value, Failure> {
    let name = table_name(&args.table)?;
    let mut params = vec![version(&args.from)];
    params.extend(args.to.as_deref().map(version));
    let places = if params.len() == 1 { "$1" } else { "$1, $2" };
    let mut body = json!({
        "sql": format!("SELECT * FROM table_changes('{name}', {places})"),
        "params": params,
    });
    if let Some(limit) = args.limit {
        body["max_rows"] = json!(limit);
    }
    Ok(body)
}

/// A number, or a name.
pub(crate) fn version(text: &str) -> Value {
    match text.parse::<u64>() {
        Ok(number) => json!(number),
        Err(_) => json!(text),
    }
}

pub(crate) async fn snapshot(
    client: &Client,
    command: &SnapshotCommand,
    format: Format,
) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Create(args) => create(client, args, format).await,
        SnapshotCommand::List { table } => {
            let table = table_name(table)?;
            let sql = format!("SELECT * FROM table_snapshots('{table}') ORDER BY version, name");
            let grid = Grid::of_query(&client.sql(&sql).await?);
            if grid.rows.is_empty() && format.is_drawn() {
                note("no snapshots yet; make one with `tidelake table snapshot create`");
                return Ok(());
            }
            grid.print(format)
        }
        SnapshotCommand::Drop { table, name } => {
            let table = table_name(table)?;
            let path = format!("/v1/tables/{table}/snapshots/{}", segment(name));
            send(client.query(Method::DELETE, &path)).await?;
            match format {
                Format::Table => say(&format!("dropped snapshot {name} of table {table}")),
                _ => print_object(&json!({ "name": name }), format),
            }
        }
    }
}

async fn create(client: &Client, args: &CreateSnapshot, format: Format) -> Result<(), Failure> {
    let table = table_name(&args.table)?;
    let path = format!("/v1/tables/{table}/snapshots");
    let body = json!({
        "name": args.name,
        "version": args.version.as_deref().map(version),
        "timestamp": args.timestamp,
    });
    let request = client.query(Method::POST, &path).json(&body);
    let made = json_of(send(request).await?).await?;
    match format {
        Format::Table => say(&format!(
            "snapshot {} keeps version {} of table {table}",
            args.name, made["version"]
        )),
        _ => print_object(&made, format),
    }
}

pub(crate) async fn key_history(
    client: &Client,
    args: &KeyArgs,
    format: Format,
) -> Result<(), Failure> {
    let name = table_name(&args.table)?;
    let body = json!({
        "sql": format!("SELECT * FROM key_history('{name}', $1)"),
        "params": [args.key],
    });
    let grid = Grid::of_query(&client.sql_body(&body).await?);
    if grid.rows.is_empty() && format.is_drawn() {
        note("no retained version has this key");
        return Ok(());
    }
    grid.print(format)
}

/// `tidelake get`
pub(crate) async fn get(args: KeyArgs, global: &Global) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let name = table_name(&args.table)?;
    if matches!(args.key.as_str(), "" | "." | "..") {
        let message = format!("key {:?} can't stand in a URL", args.key);
        return Err(Failure::usage(message).hint("ask by SQL: tidelake query 'SELECT …'"));
    }
    let path = format!("/v1/tables/{name}/rows/{}", segment(&args.key));
    let row = json_of(send(client.query(Method::GET, &path)).await?).await?;
    print_row(&row, global.output)
}

/// Text as one segment of a path.
fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_takes_numbers_and_names() {
        let args = |from: &str, to: Option<&str>, limit| DiffArgs {
            table: "orders".into(),
            from: from.into(),
            to: to.map(str::to_owned),
            limit,
        };
        assert_eq!(
            diff_request(&args("3", Some("after"), Some(10))).unwrap(),
            json!({"sql": "SELECT * FROM table_changes('orders', $1, $2)",
                "params": [3, "after"], "max_rows": 10})
        );
        assert_eq!(
            diff_request(&args("before", None, None)).unwrap(),
            json!({"sql": "SELECT * FROM table_changes('orders', $1)", "params": ["before"]})
        );
    }

    #[test]
    fn a_history_says_where_it_goes_on() {
        let args = |limit, before| HistoryArgs {
            table: "t".into(),
            limit,
            before,
        };
        assert_eq!(
            history_sql("t", "*", &args(5000, Some(42))),
            "SELECT * FROM table_history('t') WHERE version < 42 ORDER BY version DESC LIMIT 5001"
        );
        assert!(
            history_sql("t", "*", &args(u64::MAX, None)).ends_with("LIMIT 9223372036854775807")
        );
        let grid = |versions: std::ops::Range<u64>| {
            let mut grid = Grid::new(&["version", "operation"]);
            let rows = versions
                .rev()
                .map(|version| vec![json!(version), json!("FLUSH")]);
            grid.rows = rows.collect();
            grid
        };
        let mut more = grid(0..1001);
        assert_eq!(cut(&mut more, 1000), Some(Some(json!(1))));
        assert_eq!(more.rows.len(), 1000);
        assert_eq!(cut(&mut grid(0..1000), 1000), None);
        assert_eq!(cut(&mut grid(0..1), 0), Some(None));
        assert_eq!(cut(&mut grid(0..0), 0), None);
    }

    #[test]
    fn a_key_is_one_segment_of_the_path() {
        assert_eq!(segment("plain-1_2.~"), "plain-1_2.~");
        assert_eq!(segment("[\"eu\",1]"), "%5B%22eu%22%2C1%5D");
        assert_eq!(segment("a/b?c=ä %"), "a%2Fb%3Fc%3D%C3%A4%20%25");
    }
}
