//! The HTTP surface as a client sees it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A client of one gateway and one query node.
#[derive(Debug, Clone)]
pub struct Client {
    pub gateway: String,
    pub query: String,
    pub http: reqwest::Client,
}

/// Status and JSON body of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The body of a success.
    ///
    /// # Errors
    /// Any other answer, as text.
    pub fn ok(self) -> Result<Value> {
        if (200..300).contains(&self.status) {
            Ok(self.body)
        } else {
            bail!("status {}: {}", self.status, self.body)
        }
    }

    /// The stable code of a problem.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }
}

/// Nothing that a test asks for takes longer on a busy machine.
const REQUEST_MAX: Duration = Duration::from_secs(150);

impl Client {
    /// # Errors
    /// When the HTTP client can't be built.
    pub fn new(gateway: &str, query: &str) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(REQUEST_MAX).build()?;
        Ok(Self {
            gateway: gateway.to_owned(),
            query: query.to_owned(),
            http,
        })
    }

    /// # Errors
    /// When there is no answer, or one that is not JSON.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer> {
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).with_context(|| format!("status {status}: {text}"))?
        };
        Ok(Answer { status, body })
    }

    /// # Errors
    /// As [`Self::send`].
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(self.http.get(format!("{}{path}", self.gateway)))
            .await
    }

    /// # Errors
    /// As [`Self::send`].
    pub async fn post(&self, path: &str, mime: &str, body: impl Into<Vec<u8>>) -> Result<Answer> {
        let url = format!("{}{path}", self.gateway);
        self.send(
            self.http
                .post(url)
                .header("content-type", mime)
                .body(body.into()),
        )
        .await
    }

    /// # Errors
    /// As [`Self::send`], and when the table is not created.
    pub async fn create_table(&self, name: &str, schema: &Value, buckets: u32) -> Result<Value> {
        let body = json!({"name": name, "mode": "append", "buckets": buckets, "schema": schema});
        self.post("/v1/tables", "application/json", body.to_string())
            .await?
            .ok()
    }

    /// An upsert table; its schema names the primary key.
    ///
    /// # Errors
    /// As [`Self::create_table`].
    pub async fn create_upsert(&self, name: &str, schema: &Value, buckets: u32) -> Result<Value> {
        let body = json!({"name": name, "mode": "upsert", "buckets": buckets, "schema": schema});
        self.post("/v1/tables", "application/json", body.to_string())
            .await?
            .ok()
    }

    /// Drops a table for good, or with a grace in which it may be brought back.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn drop_table(&self, name: &str, purge: bool) -> Result<Answer> {
        let url = format!("{}/v1/tables/{name}?purge={purge}", self.gateway);
        self.send(self.http.delete(url)).await
    }

    /// Sends NDJSON.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn ndjson(&self, table: &str, lines: &str) -> Result<Answer> {
        let path = format!("/v1/tables/{table}/records");
        self.post(&path, "application/x-ndjson", lines).await
    }

    /// # Errors
    /// As [`Self::send`], and when the flush is not answered in time.
    pub async fn flush(&self, table: &str) -> Result<Value> {
        let path = format!("/v1/tables/{table}/flush?timeout_ms=120000");
        self.post(&path, "application/json", "").await?.ok()
    }

    /// Sends a query with more fields than `sql`.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn sql_with(&self, sql: &str, more: Value) -> Result<Answer> {
        let mut body = json!({ "sql": sql });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        self.send(self.http.post(format!("{}/v1/sql", self.query)).json(&body))
            .await
    }

    /// The rows of a query.
    ///
    /// # Errors
    /// As [`Self::send`], and when the query fails.
    pub async fn sql(&self, sql: &str, consistency: &str) -> Result<Vec<Value>> {
        let answer = self
            .sql_with(sql, json!({ "consistency": consistency }))
            .await?
            .ok()?;
        let rows = answer["rows"]
            .as_array()
            .with_context(|| format!("no rows in {answer}"))?;
        Ok(rows.clone())
    }

    /// The first column of every row as numbers.
    ///
    /// # Errors
    /// As [`Self::sql`], and where it is no number.
    pub async fn ids(&self, sql: &str, consistency: &str) -> Result<Vec<u64>> {
        let rows = self.sql(sql, consistency).await?;
        rows.iter()
            .map(|row| row[0].as_u64().with_context(|| format!("no id in {row}")))
            .collect()
    }

    /// The first two columns of every row as numbers.
    ///
    /// # Errors
    /// As [`Self::sql`], and where they are none.
    pub async fn pairs(&self, sql: &str, consistency: &str) -> Result<Vec<(u64, u64)>> {
        pairs(&self.sql(sql, consistency).await?)
    }

    /// [`Self::pairs`] of a past version.
    ///
    /// # Errors
    /// As [`Self::pairs`].
    pub async fn pairs_at(&self, sql: &str, version: u64) -> Result<Vec<(u64, u64)>> {
        let request = json!({ "as_of_version": version });
        let answer = self.sql_with(sql, request).await?.ok()?;
        pairs(answer["rows"].as_array().context("no rows")?)
    }

    /// Rows by primary key; `request` has the `keys`.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn lookup(&self, table: &str, request: &Value) -> Result<Answer> {
        let url = format!("{}/v1/tables/{table}/lookup", self.query);
        self.send(self.http.post(url).json(request)).await
    }

    /// NDJSON of keys to delete.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn delete(&self, table: &str, lines: &str) -> Result<Answer> {
        let path = format!("/v1/tables/{table}/records?op=delete");
        self.post(&path, "application/x-ndjson", lines).await
    }

    /// [`Self::flush`], and the version that covers everything then.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn flushed(&self, table: &str) -> Result<u64> {
        let flushed = self.flush(table).await?;
        flushed["version"]
            .as_u64()
            .with_context(|| format!("no version in {flushed}"))
    }

    /// Why a table stands still, by the metrics of the flusher at `address`: the causes' words.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn stopped(&self, address: &str, table: &str) -> Result<Vec<String>> {
        let text = self.text(&format!("{address}/metrics")).await?;
        let of_table = format!("\",table=\"{table}\",tenant=\"default\"}} 1");
        let reasons = text.lines().filter_map(|line| {
            let line = line.strip_prefix("tidelake_table_stopped{reason=\"")?;
            Some(line.strip_suffix(&of_table)?.to_owned())
        });
        Ok(reasons.collect())
    }

    /// The body of any answer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn text(&self, url: &str) -> Result<String> {
        Ok(self.http.get(url).send().await?.text().await?)
    }

    /// A figure of the service at `address`, its labels included in the name; 0 where it is not told.
    ///
    /// # Errors
    /// When there is no answer, or the figure is no number.
    pub async fn metric(&self, address: &str, name: &str) -> Result<f64> {
        let text = self.text(&format!("{address}/metrics")).await?;
        let figure = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(figure.map_or(Ok(0.0), str::parse)?)
    }
}

fn pairs(rows: &[Value]) -> Result<Vec<(u64, u64)>> {
    let number = |value: &Value| {
        value
            .as_u64()
            .with_context(|| format!("no number: {value}"))
    };
    rows.iter()
        .map(|row| Ok((number(&row[0])?, number(&row[1])?)))
        .collect()
}
