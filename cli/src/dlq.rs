//! `tidelake dlq …`: dead letters, read by SQL and replayed by the gateway.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};
use tidelake_core::TableName;
use tidelake_schema::dead_letters as columns;

use crate::Global;
use crate::client::{Client, json_of, send, table_name};
use crate::failure::{Exit, Failure};
use crate::output::{Format, Grid, note, print_object};

/// Dead letters that are fetched at a time: each may be several megabytes.
const PAGE: usize = 50;
/// Bytes of dead letters that are sent at a time; a single one may be more.
const BODY_BYTES_MAX: usize = 12 << 20;
/// Bytes of a key or value that are shown as hexadecimal digits.
const HEX_BYTES_MAX: usize = 2048;

#[derive(Subcommand, Debug)]
pub(crate) enum DlqCommand {
    /// List the records that a table could not take, newest first
    List(ListArgs),
    /// Show one of them whole
    Show(ShowArgs),
    /// Give records to the table again, after what was wrong has been mended
    Replay(ReplayArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    table: String,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// Those that were replayed, too
    #[arg(long)]
    all: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    table: String,
    /// Where the record stands in the table's topic
    #[arg(value_name = "BUCKET/OFFSET")]
    source: Source,
}

#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    table: String,
    /// Where the records stand in the table's topic
    #[arg(
        value_name = "BUCKET/OFFSET",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    sources: Vec<Source>,
    /// Every record that was not replayed yet
    #[arg(long)]
    all: bool,
}

/// A dead letter's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Source {
    bucket: i32,
    offset: i64,
}

impl std::str::FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(bucket, offset)| {
            let (bucket, offset) = (bucket.parse().ok()?, offset.parse().ok()?);
            (bucket >= columns::NO_BUCKET && offset >= 0).then_some(Self { bucket, offset })
        });
        parsed.ok_or_else(|| "expected BUCKET/OFFSET, for example 0/17".to_owned())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket, self.offset)
    }
}

pub(crate) async fn run(command: DlqCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let format = global.output;
    match command {
        DlqCommand::List(args) => list(&client, &args, format).await,
        DlqCommand::Show(args) => show(&client, &args, format).await,
        DlqCommand::Replay(args) => replay(&client, args, format).await,
    }
}

/// A table, by its own name or by that of its dead-letter table.
fn table(name: &str) -> Result<TableName, Failure> {
    let name = table_name(name)?;
    Ok(name.dead_letters_of().unwrap_or(name))
}

/// The rows of a query as objects.
async fn objects(client: &Client, sql: &str) -> Result<Vec<Map<String, Value>>, Failure> {
    let grid = Grid::of_query(&client.sql(sql).await?);
    let names = grid.columns;
    let rows = grid.rows.into_iter();
    let object = |row: Vec<Value>| names.iter().cloned().zip(row).collect();
    Ok(rows.map(object).collect())
}

fn source_of(dead_letter: &Map<String, Value>) -> Result<Source, Failure> {
    let number = |name: &str| dead_letter.get(name).and_then(Value::as_i64);
    let bucket = number(columns::SOURCE_BUCKET).and_then(|bucket| i32::try_from(bucket).ok());
    match (bucket, number(columns::SOURCE_OFFSET)) {
        (Some(bucket), Some(offset)) => Ok(Source { bucket, offset }),
        _ => Err(Failure::failed(
            "an answer holds a dead letter without a source",
        )),
    }
}

fn text<'a>(dead_letter: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    dead_letter.get(name).and_then(Value::as_str)
}

async fn list(client: &Client, args: &ListArgs, format: Format) -> Result<(), Failure> {
    let dead_letters = table(&args.table)?.dead_letters();
    let open = if args.all {
        ""
    } else {
        " WHERE replayed_at IS NULL"
    };
    let sql = format!(
        "SELECT source_bucket, source_offset, code, field, \"row\", reason, source_timestamp, \
         dead_at, replayed_at, replayed_to FROM \"{dead_letters}\"{open} \
         ORDER BY dead_at DESC, source_bucket DESC, source_offset DESC LIMIT {}",
        args.limit
    );
    let mut shown = vec![
        "code",
        "field",
        "row",
        "reason",
        "source_timestamp",
        "dead_at",
    ];
    if args.all {
        shown.extend(["replayed_at", "replayed_to"]);
    }
    let mut grid = Grid::new(&[&["source"], shown.as_slice()].concat());
    for dead_letter in objects(client, &sql).await? {
        let source = Value::from(source_of(&dead_letter)?.to_string());
        let rest = shown
            .iter()
            .map(|name| dead_letter.get(*name).cloned().unwrap_or_default());
        grid.rows
            .push(std::iter::once(source).chain(rest).collect());
    }
    if grid.rows.is_empty() && format.is_drawn() {
        note("no dead letters");
        return Ok(());
    }
    grid.print(format)
}

async fn show(client: &Client, args: &ShowArgs, format: Format) -> Result<(), Failure> {
    let table = table(&args.table)?;
    let found = objects(client, &by_source(&table, &[args.source])).await?;
    let Some(mut dead_letter) = found.into_iter().next() else {
        return Err(not_found(&table, args.source));
    };
    if format.is_drawn() {
        for name in [columns::KEY, columns::VALUE] {
            if let Some(bytes) = dead_letter.get(name).and_then(bytes_of) {
                dead_letter.insert(name.to_owned(), readable(&bytes).into());
            }
        }
    }
    print_object(&Value::Object(dead_letter), format)
}

fn not_found(table: &TableName, source: Source) -> Failure {
    let message = format!("table {table} has no dead letter {source}");
    Failure::new(Exit::NotFound, message)
}

fn by_source(table: &TableName, sources: &[Source]) -> String {
    let each = sources.iter().map(|Source { bucket, offset }| {
        format!("(source_bucket = {bucket} AND source_offset = {offset})")
    });
    format!(
        "SELECT * FROM \"{}\" WHERE {} ORDER BY source_bucket, source_offset",
        table.dead_letters(),
        each.collect::<Vec<_>>().join(" OR ")
    )
}

fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    STANDARD.decode(value.as_str()?).ok()
}

/// Text as it is where a terminal can show it, hexadecimal digits of everything else.
fn readable(bytes: &[u8]) -> String {
    let printable = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(printable) => text.to_owned(),
        _ => {
            let shown = &bytes[..bytes.len().min(HEX_BYTES_MAX)];
            let digits: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
            let more = bytes.len() - shown.len();
            if more > 0 {
                format!("0x{digits}… and {more} bytes more")
            } else {
                format!("0x{digits}")
            }
        }
    }
}

/// What became of the dead letters so far.
#[derive(Debug)]
struct Report {
    grid: Grid,
    replayed: usize,
    unmarked: usize,
}

impl Report {
    fn new() -> Self {
        Self {
            grid: Grid::new(&["source", "replayed_to", "code", "reason"]),
            replayed: 0,
            unmarked: 0,
        }
    }

    fn add(&mut self, source: Source, outcome: &Value) {
        let part = |name: &str| outcome[name].clone();
        if outcome["replayed_to"].is_string() {
            self.replayed += 1;
            self.unmarked += usize::from(outcome["marked"] == false);
        }
        let names = ["replayed_to", "code", "reason"];
        let row = std::iter::once(source.to_string().into()).chain(names.map(part));
        self.grid.rows.push(row.collect());
    }

    fn end(self, format: Format) -> Result<(), Failure> {
        let all = self.grid.rows.len();
        if all == 0 && format.is_drawn() {
            note("nothing to replay");
            return Ok(());
        }
        self.grid.print(format)?;
        if self.unmarked > 0 {
            note(&format!(
                "{} replayed records are in the table, but their dead letters do not say so",
                self.unmarked
            ));
        }
        match all - self.replayed {
            0 => Ok(()),
            left => Err(Failure::failed(format!(
                "{left} of {all} records could not be replayed"
            ))),
        }
    }
}

async fn replay(client: &Client, args: ReplayArgs, format: Format) -> Result<(), Failure> {
    let table = table(&args.table)?;
    let mut report = Report::new();
    if args.all {
        replay_all(client, &table, &mut report).await?;
    } else {
        let mut sources = args.sources;
        sources.sort_unstable();
        sources.dedup();
        for some in sources.chunks(PAGE) {
            let dead_letters = objects(client, &by_source(&table, some)).await?;
            let found: Vec<_> = dead_letters
                .iter()
                .map(source_of)
                .collect::<Result<_, _>>()?;
            if let Some(missing) = some.iter().find(|source| !found.contains(source)) {
                return Err(not_found(&table, *missing));
            }
            let (done, open): (Vec<_>, Vec<_>) = dead_letters
                .into_iter()
                .partition(|dead_letter| text(dead_letter, columns::REPLAYED_AT).is_some());
            for dead_letter in done {
                let to = text(&dead_letter, columns::REPLAYED_TO).unwrap_or("?");
                let reason = format!("it was replayed already, as {to}");
                let outcome = json!({ "code": "REPLAYED", "reason": reason });
                report.add(source_of(&dead_letter)?, &outcome);
            }
            replay_these(client, &table, open, &mut report).await?;
        }
    }
    report.end(format)
}

/// Bucket by bucket, up to the dead letters that are there now: a record that is refused again becomes a
/// new dead letter, which must not be replayed in turn.
async fn replay_all(
    client: &Client,
    table: &TableName,
    report: &mut Report,
) -> Result<(), Failure> {
    let dead_letters = table.dead_letters();
    let ends = format!(
        "SELECT source_bucket, max(source_offset) AS source_offset FROM \"{dead_letters}\" \
         WHERE replayed_at IS NULL GROUP BY source_bucket ORDER BY source_bucket"
    );
    for end in objects(client, &ends).await? {
        let Source { bucket, offset } = source_of(&end)?;
        let mut after = -1;
        loop {
            let sql = format!(
                "SELECT * FROM \"{dead_letters}\" WHERE replayed_at IS NULL \
                 AND source_bucket = {bucket} AND source_offset > {after} \
                 AND source_offset <= {offset} ORDER BY source_offset LIMIT {PAGE}"
            );
            let page = objects(client, &sql).await?;
            let Some(last) = page.last() else { break };
            after = source_of(last)?.offset;
            replay_these(client, table, page, report).await?;
        }
    }
    Ok(())
}

async fn replay_these(
    client: &Client,
    table: &TableName,
    dead_letters: Vec<Map<String, Value>>,
    report: &mut Report,
) -> Result<(), Failure> {
    for dead_letters in bodies(dead_letters) {
        let path = format!("/v1/tables/{table}/dead-letters/replay");
        let request = client
            .gateway(Method::POST, &path)
            .json(&json!({ "letters": dead_letters }));
        let answer = json_of(send(request).await?).await?;
        let outcomes = answer["letters"].as_array().cloned().unwrap_or_default();
        for (dead_letter, outcome) in dead_letters.iter().zip(outcomes) {
            report.add(source_of(dead_letter)?, &outcome);
        }
    }
    Ok(())
}

/// Dead letters as the gateway wants them, in pieces that it takes.
fn bodies(dead_letters: Vec<Map<String, Value>>) -> Vec<Vec<Map<String, Value>>> {
    let mut bodies = Vec::new();
    let (mut body, mut bytes) = (Vec::new(), 0);
    for mut dead_letter in dead_letters {
        dead_letter.remove(columns::REPLAYED_AT);
        dead_letter.remove(columns::REPLAYED_TO);
        dead_letter.retain(|name, value| !value.is_null() || name == columns::VALUE);
        let sizes = dead_letter.values().filter_map(Value::as_str).map(str::len);
        let size: usize = sizes.sum();
        if bytes + size > BODY_BYTES_MAX && !body.is_empty() {
            bodies.push(std::mem::take(&mut body));
            bytes = 0;
        }
        bytes += size;
        body.push(dead_letter);
    }
    if !body.is_empty() {
        bodies.push(body);
    }
    bodies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead_letter(value: Value) -> Map<String, Value> {
        let Value::Object(dead_letter) = json!({
            "source_bucket": 0, "source_offset": 17, "code": "X", "field": null,
            "value": value, "replayed_at": null, "replayed_to": null,
        }) else {
            unreachable!()
        };
        dead_letter
    }

    #[test]
    fn a_source_is_a_bucket_and_an_offset() {
        let source = Source {
            bucket: 3,
            offset: 17,
        };
        assert_eq!("3/17".parse(), Ok(source));
        assert_eq!(source.to_string(), "3/17");
        assert!("-1/0".parse::<Source>().is_ok(), "no source of its own");
        for bad in ["", "3", "3/", "/17", "3/-1", "-2/1", "3/17/1"] {
            assert!(bad.parse::<Source>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_null_value_is_said_and_other_nulls_are_left_out() {
        let bodies = bodies(vec![dead_letter(Value::Null)]);
        let wanted = json!([[{
            "source_bucket": 0, "source_offset": 17, "code": "X", "value": null,
        }]]);
        assert_eq!(json!(bodies), wanted);
    }

    #[test]
    fn large_dead_letters_are_sent_one_by_one_and_small_ones_together() {
        let large = || dead_letter("x".repeat(BODY_BYTES_MAX).into());
        let small = || dead_letter("x".into());
        let sizes =
            |dead_letters| -> Vec<usize> { bodies(dead_letters).iter().map(Vec::len).collect() };
        assert_eq!(sizes(vec![large(), large(), small(), small()]), [1, 1, 2]);
        assert_eq!(sizes(Vec::new()), Vec::<usize>::new());
    }

    #[test]
    fn values_are_text_where_they_are_text() {
        assert_eq!(readable("{\"id\":\n1}".as_bytes()), "{\"id\":\n1}");
        assert_eq!(readable(b"\x00\xff"), "0x00ff");
        assert_eq!(
            readable(b"\x1b[2J"),
            "0x1b5b324a",
            "no escapes to a terminal"
        );
        assert!(readable(&vec![0; 5000]).ends_with("… and 2952 bytes more"));
    }
}
