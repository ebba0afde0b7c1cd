//! The engine as sqllogictest speaks to it.
//!
//! `CREATE TABLE` and `INSERT` go to a plain DataFusion, of whose tables ours are made: their rows are
//! pushed into the log as packed batches. Ours are written only in the files' own words:
//!
//! ```text
//! FLUSH t                            what was inserted is in a file from here on
//! SET time_zone = 'Europe/Berlin'    of the statements that follow
//! ```

use std::collections::HashMap;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::Request;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::prelude::{SessionConfig, SessionContext};
use serde_json::{Value, json};
use sqllogictest::{AsyncDB, ColumnType, DBOutput};
use tidelake_codec::packed;

use super::cells;
use crate::settings::QuerySettings;
use crate::testing::{TestTable, Wire, World};

/// A statement that failed, by its code and in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Failed(String);

pub(super) struct Database {
    world: World,
    tables: HashMap<String, Filled>,
    /// Where tables are described and filled.
    plain: SessionContext,
    zone: Option<String>,
    /// Files that do not say when.
    flushes_at_once: bool,
}

struct Filled {
    table: TestTable,
    /// Of the plain table, how many rows are in ours.
    rows: usize,
    messages: i64,
}

impl Database {
    pub(super) async fn new(flushes_at_once: bool) -> Self {
        // A TIMESTAMPTZ has a zone.
        let mut plain = SessionConfig::new();
        plain.options_mut().execution.time_zone = (!flushes_at_once).then(|| "+00:00".to_owned());
        Self {
            world: World::new(settings()).await,
            tables: HashMap::new(),
            plain: SessionContext::new_with_config(plain),
            zone: None,
            flushes_at_once,
        }
    }

    /// Does what the engine has no statement for; none for what it has.
    async fn done(&mut self, sql: &str) -> Result<Option<DBOutput>, Failed> {
        let words = sql.split_whitespace().map(str::to_lowercase);
        let words: Vec<String> = words.take(7).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let complete = Ok(Some(DBOutput::StatementComplete(0)));
        match words.as_slice() {
            ["create", "table", "if", "not", "exists", name, ..]
            | ["create", "or", "replace", "table", name, ..]
            | ["create", "table", name, ..]
            | ["insert", "into", name, ..] => {
                let name = name.split('(').next().unwrap_or_default().to_owned();
                let done = self.plain.sql(sql).await.map_err(failed)?;
                let done = done.collect().await.map_err(failed)?;
                let is_insert = words.first() == Some(&"insert");
                if !is_insert && self.tables.remove(&name).is_some() {
                    self.anew().await?;
                }
                self.fill(&name).await?;
                let rows: Vec<_> = done.iter().flat_map(cells::rows).collect();
                Ok(Some(match is_insert {
                    true => rows_of(1, rows),
                    false => DBOutput::StatementComplete(0),
                }))
            }
            // Ours stays until its name is needed again.
            ["drop", "table", ..] => {
                self.plain.sql(sql).await.map_err(failed)?;
                complete
            }
            ["flush", name] => {
                self.flush(name).await;
                complete
            }
            ["set", "time_zone", "=", _] => {
                let zone = sql.split('\'').nth(1);
                self.zone = zone.map(str::to_owned);
                complete
            }
            _ => Ok(None),
        }
    }

    /// All tables in another world: a name is given once in each.
    async fn anew(&mut self) -> Result<(), Failed> {
        self.world = World::new(settings()).await;
        let names: Vec<String> = self.tables.drain().map(|(name, _)| name).collect();
        for name in names {
            if self.plain.table_exist(name.as_str()).map_err(failed)? {
                self.fill(&name).await?;
            }
        }
        Ok(())
    }

    /// What the plain table has and ours has not.
    async fn fill(&mut self, name: &str) -> Result<(), Failed> {
        let found = self.plain.table(name).await.map_err(failed)?;
        let schema = found.schema().as_arrow().clone();
        let batches = found.collect().await.map_err(failed)?;
        if !self.tables.contains_key(name) {
            let table = self.world.table(name, &iceberg(&schema)?, 1).await;
            let filled = Filled {
                table,
                rows: 0,
                messages: 0,
            };
            self.tables.insert(name.to_owned(), filled);
        }
        let Some(filled) = self.tables.get_mut(name) else {
            return Ok(());
        };
        let all = concat_batches(&schema.into(), &batches).map_err(failed)?;
        let new = all.slice(filled.rows, all.num_rows() - filled.rows);
        if new.num_rows() == 0 {
            return Ok(());
        }
        let ours = tidelake_schema::arrow::to_arrow(&filled.table.schema);
        let columns = new.columns().iter().zip(ours.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type()));
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let batch = RecordBatch::try_new(ours, columns).map_err(failed)?;
        let wire = Wire {
            value: Some(packed::encode(&batch).map_err(failed)?.to_vec()),
            encoding: Some(packed::ENCODING.as_bytes().to_vec()),
            ..Wire::default()
        };
        self.world.log.push(&filled.table.entry.topic, 0, wire);
        filled.messages += 1;
        filled.rows = all.num_rows();
        if self.flushes_at_once {
            self.flush(name).await;
        }
        Ok(())
    }

    async fn flush(&mut self, name: &str) {
        let filled = self.tables.get_mut(name).expect("a table to flush");
        filled.table.flush(0, filled.messages).await;
    }

    async fn ask(&self, sql: &str) -> Result<DBOutput, Failed> {
        let body = json!({"sql": sql, "time_zone": self.zone});
        let request = Request::post("/v1/sql")
            .header("content-type", "application/json")
            .header("accept", "application/vnd.apache.arrow.stream")
            .body(Body::from(body.to_string()))
            .map_err(failed)?;
        let (parts, bytes) = self.world.http(request).await;
        if parts.status != 200 {
            let problem: Value = serde_json::from_slice(&bytes).map_err(failed)?;
            let [code, detail] = ["code", "detail"].map(|name| problem[name].as_str());
            let (code, detail) = (code.unwrap_or_default(), detail.unwrap_or_default());
            let state = problem["sqlstate"].as_str().unwrap_or_default();
            return Err(Failed(format!("{code} {state}: {detail}")));
        }
        let stream = StreamReader::try_new(&bytes[..], None).map_err(failed)?;
        let columns = stream.schema().fields().len();
        let mut rows = Vec::new();
        for batch in stream {
            rows.extend(cells::rows(&batch.map_err(failed)?));
        }
        Ok(rows_of(columns, rows))
    }
}

/// Rows without an order keep that of the file.
fn settings() -> QuerySettings {
    QuerySettings {
        target_partitions: 1,
        ..QuerySettings::default()
    }
}

fn rows_of(columns: usize, rows: Vec<Vec<String>>) -> DBOutput {
    let types = vec![ColumnType::Any; columns];
    DBOutput::Rows { types, rows }
}

#[async_trait]
impl AsyncDB for Database {
    type Error = Failed;

    async fn run(&mut self, sql: &str) -> Result<DBOutput, Failed> {
        match self.done(sql.trim_end_matches(';')).await? {
            Some(done) => Ok(done),
            None => self.ask(sql).await,
        }
    }

    fn engine_name(&self) -> &str {
        "tidelake"
    }
}

fn failed(error: impl std::fmt::Display) -> Failed {
    Failed(error.to_string())
}

/// A schema of ours for the columns of a plain table.
fn iceberg(schema: &Schema) -> Result<String, Failed> {
    let fields = schema.fields().iter().map(|field| field_of(field));
    let fields = fields.collect::<Result<Vec<_>, _>>()?;
    Ok(json!({"type": "struct", "fields": fields}).to_string())
}

fn field_of(field: &Field) -> Result<Value, Failed> {
    let data_type = type_of(field.data_type())?;
    Ok(json!({"name": field.name(), "type": data_type, "required": false}))
}

fn type_of(data_type: &DataType) -> Result<Value, Failed> {
    use DataType as D;
    let name = match data_type {
        D::Boolean => "boolean",
        D::Int8 | D::Int16 | D::Int32 | D::UInt8 | D::UInt16 => "int",
        D::Int64 | D::UInt32 | D::UInt64 => "long",
        D::Float16 | D::Float32 => "float",
        D::Float64 => "double",
        D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Null => "string",
        D::Binary | D::LargeBinary | D::BinaryView => "binary",
        D::Date32 | D::Date64 => "date",
        D::Time32(_) | D::Time64(_) => "time",
        D::Timestamp(_, None) => "timestamp",
        D::Timestamp(_, Some(_)) => "timestamptz",
        D::Decimal128(precision, scale) => {
            return Ok(json!(format!("decimal({precision},{scale})")));
        }
        D::Dictionary(_, of) => return type_of(of),
        D::Struct(fields) => {
            let fields = fields.iter().map(|field| field_of(field));
            let fields = fields.collect::<Result<Vec<_>, _>>()?;
            return Ok(json!({"type": "struct", "fields": fields}));
        }
        D::List(of) | D::LargeList(of) | D::ListView(of) | D::FixedSizeList(of, _) => {
            let element = type_of(of.data_type())?;
            return Ok(json!({"type": "list", "element": element, "element-required": false}));
        }
        other => return Err(Failed(format!("no column of ours is a {other}"))),
    };
    Ok(json!(name))
}
