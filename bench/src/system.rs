//! The system under measurement: `tidelake local` as a process of its own, in a fresh folder.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::records;
use crate::report::now;

const READY_MAX: Duration = Duration::from_secs(60);
const COVERED_MAX: Duration = Duration::from_secs(300);

/// A running `tidelake local`; killed when dropped.
#[derive(Debug)]
pub(crate) struct System {
    child: Child,
    pub folder: Arc<TempDir>,
    pub gateway: String,
    pub query: String,
    pub kafka: String,
    /// From the start of the process to its `ready` line.
    pub ready_after: Duration,
    pub http: reqwest::Client,
}

/// What a started system is told beyond its defaults.
#[derive(Debug, Default, Clone)]
pub(crate) struct Options {
    /// An existing Kafka in place of the embedded broker.
    pub kafka: Option<String>,
    pub environment: Vec<(String, String)>,
}

impl System {
    /// Starts the binary that was built beside this one.
    pub(crate) fn start(options: &Options) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("tidelake-bench-")
            .tempdir()?;
        Self::start_in(Arc::new(folder), options)
    }

    /// Kills this system and starts another on the same folder.
    pub(crate) fn restart(self, options: &Options) -> Result<Self> {
        let folder = self.folder.clone();
        drop(self);
        Self::start_in(folder, options)
    }

    fn start_in(folder: Arc<TempDir>, options: &Options) -> Result<Self> {
        let begun = now();
        let mut command = Command::new(program("tidelake")?);
        command
            .arg("local")
            .args([
                "--gateway-port",
                "0",
                "--query-port",
                "0",
                "--kafka-port",
                "0",
            ])
            .arg("--dir")
            .arg(folder.path().join("data"))
            .envs(options.environment.iter().cloned());
        if let Some(kafka) = &options.kafka {
            command.args(["--kafka-bootstrap", kafka]);
        }
        let (child, line) = ready(command, &folder.path().join("log"))?;
        let ready_after = begun.elapsed();
        Ok(Self {
            gateway: address(&line, "gateway")?,
            query: address(&line, "query")?,
            kafka: address(&line, "kafka")?,
            child,
            folder,
            ready_after,
            http: reqwest::Client::new(),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Creates a table of the usual records.
    pub(crate) async fn create_table(&self, name: &str, buckets: u32) -> Result<()> {
        let schema: Value = serde_json::from_str(records::SCHEMA)?;
        let body = json!({"name": name, "schema": schema, "mode": "append", "buckets": buckets});
        let body = body.to_string().into_bytes();
        let answer = self.post("/v1/tables", body, "application/json").await;
        answer.map(|_| ())
    }

    /// Creates an upsert table of the usual records, with `id` as its key.
    pub(crate) async fn create_upsert(&self, name: &str, buckets: u32) -> Result<()> {
        let mut schema: Value = serde_json::from_str(records::SCHEMA)?;
        schema["identifier-field-ids"] = json!([1]);
        for field in schema["fields"].as_array_mut().into_iter().flatten() {
            field["required"] = json!(field["id"] == 1);
        }
        let body = json!({"name": name, "schema": schema, "mode": "upsert", "buckets": buckets});
        let body = body.to_string().into_bytes();
        let answer = self.post("/v1/tables", body, "application/json").await;
        answer.map(|_| ())
    }

    /// Posts to the gateway; anything but success is an error with the answer in it.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: Vec<u8>,
        content_type: &str,
    ) -> Result<Value> {
        let url = format!("{}{path}", self.gateway);
        let request = self
            .http
            .post(url)
            .header("content-type", content_type)
            .body(body);
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() {
            bail!("{path}: {status}: {text}");
        }
        Ok(serde_json::from_str(&text)?)
    }

    /// What the gateway says of a table.
    pub(crate) async fn describe(&self, table: &str) -> Result<Value> {
        let url = format!("{}/v1/tables/{table}", self.gateway);
        Ok(self
            .http
            .get(url)
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?)
    }

    /// Asks for a flush and waits until everything is committed.
    pub(crate) async fn flush(&self, table: &str) -> Result<Value> {
        let timeout = COVERED_MAX.as_millis();
        let path = format!("/v1/tables/{table}/flush?timeout_ms={timeout}");
        self.post(&path, Vec::new(), "application/json").await
    }

    /// Rows that a committed read counts.
    pub(crate) async fn count(&self, table: &str) -> Result<u64> {
        let body = json!({
            "sql": format!("SELECT count(*) AS n FROM {table}"), "consistency": "committed"
        });
        let url = format!("{}/v1/sql", self.query);
        let answer: Value = self
            .http
            .post(url)
            .json(&body)
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        answer["rows"][0][0]
            .as_u64()
            .with_context(|| format!("no count in {answer}"))
    }

    /// The last warnings and errors that it logged.
    pub(crate) fn complaints(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let mut lines: Vec<&str> = log
            .lines()
            .rev()
            .filter(|line| line.contains("\"WARN\"") || line.contains("\"ERROR\""))
            .take(20)
            .collect();
        lines.reverse();
        lines.join("\n")
    }

    /// The table's folder.
    pub(crate) fn table_folder(&self, table: &str) -> Result<PathBuf> {
        find_folder(self.folder.path(), table)
            .with_context(|| format!("no folder of table {table} below the data folder"))
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Lets time pass: what is measured is what happens meanwhile.
#[expect(
    clippy::disallowed_methods,
    reason = "a measurement takes its time, nothing is asserted on it"
)]
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Starts a program and waits for its `ready` line.
pub(crate) fn ready(mut command: Command, log: &Path) -> Result<(Child, String)> {
    command
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(log)?);
    let mut child = command.spawn().context("start a program")?;
    let out = child.stdout.take().context("no standard output")?;
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let _gone = sender.send(line);
        }
    });
    match lines.recv_timeout(READY_MAX) {
        Ok(line) => Ok((child, line)),
        Err(_) => {
            let _gone = child.kill();
            let log = std::fs::read_to_string(log).unwrap_or_default();
            bail!("a program did not get ready:\n{log}");
        }
    }
}

/// The address that a `ready` line gives for a service.
pub(crate) fn address(line: &str, service: &str) -> Result<String> {
    line.split_whitespace()
        .find_map(|part| part.strip_prefix(service)?.strip_prefix('='))
        .map(str::to_owned)
        .with_context(|| format!("no {service} in {line:?}"))
}

/// A program built beside this one.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.parent().context("no folder")?.join(name);
    if !path.exists() {
        bail!(
            "{} is not built: run cargo build --release --workspace",
            path.display()
        );
    }
    Ok(path)
}

fn find_folder(root: &Path, table: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(root).ok()?.flatten() {
        let path = entry.path();
        if !path.is_dir() {
            continue;
        }
        if path.file_name().is_some_and(|name| name == table) && path.join("_delta_log").is_dir() {
            return Some(path);
        }
        if let Some(found) = find_folder(&path, table) {
            return Some(found);
        }
    }
    None
}
