//! One statement, asked of the query service: what is read, and how it is given up.
//!
//! Invariant: a statement that is given up here is cancelled there by its id, whatever has come of
//! its answer.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use clap::{Args, ValueEnum};
use reqwest::{Method, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use tidelake_core::ids::{IdSource, RandomIds};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::Global;
use crate::client::{Client, send};
use crate::failure::Failure;
use crate::output::Format;
use crate::versions::version;

const QUERY_ID: &str = "x-query-id";
/// For the service to say that it has given a statement up.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// Which rows statements read, and how long they may take.
#[derive(Args, Debug, Default, Clone)]
pub(crate) struct ReadArgs {
    /// Read the tables as they were at this version: its number or a snapshot's name
    #[arg(long, value_name = "VERSION", conflicts_with = "as_of_timestamp")]
    as_of_version: Option<String>,
    /// Read the tables as they were at this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    as_of_timestamp: Option<String>,
    /// Which rows count: latest also reads what is not committed yet
    #[arg(long, value_enum)]
    consistency: Option<Consistency>,
    /// Wait until the write that gave this token is visible; of several tables as JSON:
    /// {"orders":"…","items":"…"}
    #[arg(long)]
    token: Option<String>,
    /// The zone that times without an offset are meant in, by its IANA name or as an offset
    /// [default: the profile's, else UTC]
    #[arg(long, value_name = "ZONE", env = "TIDELAKE_TIME_ZONE")]
    pub(crate) time_zone: Option<String>,
    /// Stop after so many rows
    #[arg(long, value_name = "N")]
    pub(crate) max_rows: Option<u64>,
    /// Give up after so long
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Consistency {
    Latest,
    Committed,
}

impl ReadArgs {
    /// With what a profile says where nothing else does.
    pub(crate) fn known(mut self, global: &Global) -> Self {
        self.time_zone = self.time_zone.or_else(|| global.time_zone.clone());
        self
    }

    /// The request for a statement. Parameters are JSON, or text where they are none.
    pub(crate) fn request(&self, sql: &str, params: &[String]) -> Value {
        let mut body = Map::new();
        body.insert("sql".into(), sql.into());
        if !params.is_empty() {
            let parse = |text: &String| {
                // Bare words are strings: nobody wants to write '"eu"' in a shell.
                serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()))
            };
            body.insert("params".into(), params.iter().map(parse).collect());
        }
        let consistency = self.consistency.map(|c| match c {
            Consistency::Latest => "latest",
            Consistency::Committed => "committed",
        });
        let token = self
            .token
            .as_ref()
            .map(|token| match token.starts_with('{') {
                true => serde_json::from_str(token).unwrap_or_else(|_| json!(token)),
                false => json!(token),
            });
        for (name, value) in [
            (
                "as_of_version",
                json!(self.as_of_version.as_deref().map(version)),
            ),
            ("as_of_timestamp", json!(self.as_of_timestamp)),
            ("consistency", json!(consistency)),
            ("token", json!(token)),
            ("time_zone", json!(self.time_zone)),
            ("max_rows", json!(self.max_rows)),
            ("timeout_ms", json!(self.timeout_ms)),
        ] {
            if !value.is_null() {
                body.insert(name.into(), value);
            }
        }
        Value::Object(body)
    }
}

/// What the service is asked to answer with. JSON comes as lines: an answer of any size.
pub(crate) fn media_type(format: Format) -> &'static str {
    match format {
        Format::Table | Format::Vertical | Format::Markdown => "application/json",
        Format::Json | Format::Ndjson => "application/x-ndjson",
        Format::Csv => "text/csv",
        Format::Arrow => "application/vnd.apache.arrow.stream",
        Format::Parquet => "application/vnd.apache.parquet",
    }
}

/// Sends a statement under an id.
pub(crate) async fn ask(
    client: &Client,
    id: &str,
    body: &Value,
    format: Format,
) -> Result<Response, Failure> {
    let request = client
        .query(Method::POST, "/v1/sql")
        .header(header::ACCEPT, media_type(format))
        .header(QUERY_ID, id)
        .json(body);
    send(request).await.map_err(in_our_words)
}

/// Hints of the service speak of its requests: here they have other names.
fn in_our_words(mut failure: Failure) -> Failure {
    if failure.message.contains("RESULT_TOO_LARGE") {
        failure.hint =
            Some("-o ndjson, csv or arrow take any number of rows; or set --max-rows".into());
    }
    failure
}

/// A name that no other statement has.
pub(crate) fn fresh_id() -> String {
    format!("cli-{}", RandomIds.next_uuid().as_simple())
}

/// What a person interrupts with Ctrl-C.
#[derive(Debug)]
pub(crate) struct Interrupts(mpsc::Receiver<()>);

impl Interrupts {
    /// From now on Ctrl-C does not end the process.
    pub(crate) fn of_signals() -> Result<Self, Failure> {
        let mut signals = signal(SignalKind::interrupt())?;
        let (sender, interrupts) = mpsc::channel(1);
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                // One that waits says all that a second would.
                let _full = sender.try_send(());
            }
        });
        Ok(Self(interrupts))
    }

    #[cfg(test)]
    pub(crate) fn of_channel(interrupts: mpsc::Receiver<()>) -> Self {
        Self(interrupts)
    }

    /// Forgets what came before there was anything to interrupt.
    pub(crate) fn forget(&mut self) {
        while self.0.try_recv().is_ok() {}
    }

    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Does the work of a statement, unless it is interrupted: then the service is told to give it up.
pub(crate) async fn unless_interrupted<T>(
    client: &Client,
    id: &str,
    interrupts: &mut Interrupts,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut work = pin!(work);
    tokio::select! {
        // Whoever interrupts is heard first, however much the work has to do.
        biased;
        () = interrupts.next() => {}
        done = &mut work => return done,
    }
    let request = client.query(Method::DELETE, &format!("/v1/queries/{id}"));
    // One that is done, or has not begun, is not known there. Closing the connection says the same,
    // later.
    let answer = request.timeout(CANCEL_TIMEOUT).send().await;
    Err(Failure::failed(match answer {
        Ok(answer) if answer.status().is_success() || answer.status() == StatusCode::NOT_FOUND => {
            "cancelled".to_owned()
        }
        _ => format!("given up; the service does not say that it has stopped statement {id}"),
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ReadArgs,
    }

    fn args(line: &[&str]) -> ReadArgs {
        Line::parse_from([&["q"], line].concat()).args
    }

    #[test]
    fn flags_become_the_request() {
        let params = ["7".to_owned(), "eu".to_owned()];
        assert_eq!(
            args(&["--as-of-version", "3"]).request("SELECT $1, $2", &params),
            json!({ "sql": "SELECT $1, $2", "params": [7, "eu"], "as_of_version": 3 })
        );
    }

    #[test]
    fn a_zone_is_asked_for_where_one_is_named() {
        let zone = |line: &[&str]| args(line).request("x", &[])["time_zone"].clone();
        assert_eq!(
            zone(&["--time-zone", "Europe/Berlin"]),
            json!("Europe/Berlin")
        );
        assert_eq!(zone(&[]), Value::Null);
    }

    #[test]
    fn tokens_of_several_tables_are_an_object() {
        let token = |text: &str| args(&["--token", text]).request("x", &[])["token"].clone();
        assert_eq!(token("AQAC"), json!("AQAC"));
        assert_eq!(
            token(r#"{"t":"AQAC","u":"AQAD"}"#),
            json!({"t": "AQAC", "u": "AQAD"})
        );
        assert_eq!(token("{oops"), json!("{oops"));
    }

    #[test]
    fn a_hint_names_what_the_command_line_has() {
        let large = Failure::failed("too large (RESULT_TOO_LARGE)").hint("accept application/x");
        assert!(in_our_words(large).hint.unwrap().starts_with("-o ndjson"));
    }
}
