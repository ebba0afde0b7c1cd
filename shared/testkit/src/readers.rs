//! Delta readers that we did not write: DuckDB, delta-rs, Polars, ClickHouse; in a Python process.
//!
//! All of them read any version and apply deletion vectors. What one of them can't read is told by
//! a method of [`Reader`], so that a test leaves it out where its table needs that.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::external;

const SCRIPT: &str = include_str!("readers.py");

/// Readings of one process: they are an argument of its command line, which is bounded.
const READINGS_MAX: usize = 150;

/// Rows as JSON objects: numbers as numbers; decimals, dates and times as text (times with six
/// digits of a second, with zone in `Z`); binary as base64; maps as objects.
pub type Rows = Vec<Value>;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    DuckDb,
    DeltaRs,
    Polars,
    ClickHouse,
}

impl Reader {
    pub const ALL: [Self; 4] = [Self::DuckDb, Self::DeltaRs, Self::Polars, Self::ClickHouse];

    pub fn name(self) -> &'static str {
        match self {
            Self::DuckDb => "duckdb",
            Self::DeltaRs => "delta-rs",
            Self::Polars => "polars",
            Self::ClickHouse => "clickhouse",
        }
    }

    /// Whether it opens tables whose columns were renamed or dropped.
    pub fn reads_column_mapping(self) -> bool {
        self != Self::Polars
    }
}

/// SQL over the table at `path`, named `t` in it; at the latest version or the one given.
#[derive(Debug, Clone)]
pub struct Reading {
    pub reader: Reader,
    pub path: String,
    pub version: Option<u64>,
    pub sql: String,
}

/// The Python environment of the cache.
#[derive(Debug, Clone)]
pub struct Readers {
    python: PathBuf,
    env: Vec<(String, String)>,
}

impl Readers {
    /// `None` where external tests are switched off.
    ///
    /// # Errors
    /// When the environment is not in the cache.
    pub fn new() -> Result<Option<Self>> {
        if !external::wanted("other Delta readers") {
            return Ok(None);
        }
        Ok(Some(Self {
            python: external::cached("venv/bin/python")?,
            env: Vec::new(),
        }))
    }

    /// The environment that finds an S3 server ([`crate::S3Server::env`]); for delta-rs.
    #[must_use]
    pub fn with_env(mut self, env: Vec<(String, String)>) -> Self {
        self.env = env;
        self
    }

    /// Runs `sql` over the table at `path`, named `t` in it, with DuckDB's `delta_scan`; at the
    /// latest version or the one given.
    ///
    /// # Errors
    /// When DuckDB refuses.
    pub async fn duckdb(&self, path: &str, version: Option<u64>, sql: &str) -> Result<Rows> {
        self.read(Reader::DuckDb, path, version, sql).await
    }

    /// The same with delta-rs (its own DataFusion).
    ///
    /// # Errors
    /// When delta-rs refuses.
    pub async fn delta_rs(&self, path: &str, version: Option<u64>, sql: &str) -> Result<Rows> {
        self.read(Reader::DeltaRs, path, version, sql).await
    }

    /// Runs any Python of a test with `arguments` (`sys.argv[1:]`), gives what it prints: for the
    /// Kafka client and for writers.
    ///
    /// # Errors
    /// When it ends with another exit code than 0; with what it printed as errors.
    pub async fn python(&self, script: &str, arguments: &[&str]) -> Result<String> {
        let done = Command::new(&self.python)
            .args(["-c", script])
            .args(arguments)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("could not start {}", self.python.display()))?;
        if !done.status.success() {
            bail!(
                "python: {}\n{}",
                done.status,
                String::from_utf8_lossy(&done.stderr)
            );
        }
        Ok(String::from_utf8(done.stdout)?)
    }

    /// All of them in few processes, which costs less than one for each; rows in the order asked.
    ///
    /// # Errors
    /// When one of them is refused.
    pub async fn all(&self, readings: &[Reading]) -> Result<Vec<Rows>> {
        let mut found = Vec::new();
        for readings in readings.chunks(READINGS_MAX) {
            let asked = readings.iter().map(|reading| {
                let Reading {
                    reader,
                    path,
                    version,
                    sql,
                } = reading;
                json!([reader.name(), path, version, sql])
            });
            let asked = Value::Array(asked.collect()).to_string();
            let text = self.python(SCRIPT, &[&asked]).await?;
            let before = found.len();
            for line in text.lines() {
                found.push(serde_json::from_str(line).with_context(|| line.to_owned())?);
            }
            let answers = found.len() - before;
            if answers != readings.len() {
                bail!("{answers} answers to {} readings", readings.len());
            }
        }
        Ok(found)
    }

    async fn read(
        &self,
        reader: Reader,
        path: &str,
        version: Option<u64>,
        sql: &str,
    ) -> Result<Rows> {
        let reading = Reading {
            reader,
            path: path.to_owned(),
            version,
            sql: sql.to_owned(),
        };
        let rows = self.all(&[reading]).await.context(reader.name())?;
        rows.into_iter().next().context("no answer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: &str = r#"
import datetime, decimal, sys
import pyarrow as pa
from deltalake import write_deltalake
utc = datetime.timezone.utc
rows = pa.table({
    "id": pa.array([2, 1], pa.int64()),
    "price": pa.array([decimal.Decimal("1.50"), None], pa.decimal128(10, 2)),
    "at": pa.array([datetime.datetime(2026, 11, 21, 12, 0, 0, 5, utc)] * 2, pa.timestamp("us", "UTC")),
    "raw": pa.array([b"\x00\xff", b""], pa.binary()),
    "tags": pa.array([["a"], []], pa.list_(pa.string())),
})
write_deltalake(sys.argv[1], rows)
write_deltalake(sys.argv[1], rows.slice(0, 1), mode="append")
"#;

    #[tokio::test]
    async fn all_readers_give_the_same_rows_at_every_version() {
        let Some(readers) = Readers::new().unwrap() else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t").display().to_string();
        readers.python(WRITE, &[&path]).await.unwrap();
        let sql = "SELECT * FROM t ORDER BY id";
        for (version, rows) in [(Some(0), 2), (None, 3)] {
            let duckdb = readers.duckdb(&path, version, sql).await.unwrap();
            assert_eq!(duckdb.len(), rows);
            for reader in Reader::ALL {
                let found = readers.read(reader, &path, version, sql).await.unwrap();
                assert_eq!(duckdb, found, "{}", reader.name());
            }
            assert_eq!(
                duckdb[1],
                serde_json::json!({
                    "id": 2, "price": "1.50", "at": "2026-11-21T12:00:00.000005Z",
                    "raw": "AP8=", "tags": ["a"],
                })
            );
        }
    }

    #[tokio::test]
    async fn an_error_of_a_reader_is_an_error() {
        let Some(readers) = Readers::new().unwrap() else {
            return;
        };
        let error = readers
            .duckdb("/no/such/table", None, "SELECT 1 FROM t")
            .await
            .unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/table"), "{error:#}");
    }
}
