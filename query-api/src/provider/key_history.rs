//! `key_history`: which version brought which value of a key, as far as versions are retained.
//!
//! ```text
//!  commits ─► files that may hold the key, and when each was live with which vector   (Timeline)
//!  files ─► their rows of that key, with position and sequence                        (hits)
//!  both ─► at each version the live row; an event wherever it is another one than before
//! ```
//! A row is another one if its sequence is: what compaction moved is not told. Rows of other engines
//! have no sequence; there the commit's own word counts (`dataChange`).
//!
//! Bounded: the newest [`VERSIONS_MAX`] versions; files are ruled out by the bounds of their keys,
//! row groups and pages by theirs; of the log only what is about the files left is held. What the
//! earliest of these versions held already is shown as `existing`: who brought it is not known.

mod hits;
mod timeline;

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use datafusion::execution::SessionState;
use datafusion::functions::string::expr_fn::lower;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, ident, lit};
use tidelake_codec::key::{KeyBuilder, KeyText};
use tidelake_core::{Bucket, TableVersion};
use tidelake_manifest::{DeltaTable, Snapshot};
use tidelake_schema::arrow::UTC;
use tidelake_schema::{Primitive, Type};

use self::hits::Hits;
use self::timeline::{Event, Timeline};
use super::changes::{CHANGE_TYPE, COMMIT_VERSION};
use super::scan::PinnedRows;
use crate::error::QueryError;
use crate::sql::KeyPart;
use crate::table::facts::FileFacts;
use crate::table::shape::Shape;

const COMMIT_TIMESTAMP: &str = "_commit_timestamp";
/// Versions that are looked at, newest first.
const VERSIONS_MAX: u64 = 1000;

/// The versions of one key, newest first. `rows` reads the version `to`; the table
/// has `buckets` of them.
pub(crate) async fn table(
    state: &SessionState,
    rows: PinnedRows,
    table: Arc<DeltaTable>,
    to: &Snapshot,
    buckets: u32,
    key: &[KeyPart],
) -> Result<MemTable, QueryError> {
    let key = Key::read(&rows.shape, key, buckets)?;
    let earliest = table.earliest().await?;
    let first = earliest
        .0
        .max((to.version().0 + 1).saturating_sub(VERSIONS_MAX));
    let base = table.snapshot_at(TableVersion(first)).await?;
    let shape = Arc::new(rows.shape.with_sequence());
    let mut timeline = Timeline::new(&table, &shape, &key, &base);
    if first < to.version().0 {
        let visit = |version, ms, commit| {
            timeline.push(version, ms, commit);
            Ok(())
        };
        table
            .visit_commits(first + 1..=to.version().0, visit)
            .await?;
    }
    let hits = Hits::read(state, &rows, &shape, &key, &timeline.files).await?;
    let dead = timeline.dead(&table, &hits).await?;
    let events = timeline.events(&hits, &dead);
    output(&rows.shape, &key, &hits, &events)
}

#[derive(Clone)]
struct Key {
    /// By the places of its columns.
    values: Vec<(usize, ScalarValue)>,
    /// Places of those that are uuids: other engines may have written them in capitals.
    uuids: Vec<usize>,
    /// The one that all its rows came through.
    bucket: Option<Bucket>,
}

impl Key {
    fn read(shape: &Shape, parts: &[KeyPart], buckets: u32) -> Result<Self, QueryError> {
        let places = shape.key();
        let fields: Vec<_> = places
            .iter()
            .map(|place| &shape.table.fields[*place])
            .collect();
        let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
        if places.is_empty() {
            let reason = "the table has no primary key: key_history is for upsert tables";
            return Err(QueryError::Invalid(reason.into()));
        }
        // One text may stand for the whole key, as it does in messages and paths.
        let whole = matches!(parts, [KeyPart::Text(_)]);
        if !whole && places.len() != parts.len() {
            return Err(QueryError::Invalid(format!(
                "the table's key has {} columns ({}), not {}",
                places.len(),
                names.join(", "),
                parts.len()
            )));
        }
        let unfit = |reason: String| QueryError::Invalid(format!("the key does not fit: {reason}"));
        let Some(mut builder) = KeyBuilder::new(&shape.table)? else {
            return Err(unfit("the table has none".into()));
        };
        // Read by the rules of ingestion, so that a key means here what it means there.
        let read = match parts {
            [KeyPart::Text(text)] => builder.push_text(text.as_bytes()),
            _ => {
                let values = fields.iter().zip(parts);
                let object: serde_json::Map<_, _> = values
                    .map(|(field, part)| (field.name.clone(), json_of(&field.ty, part)))
                    .collect();
                let text = serde_json::Value::Object(object).to_string();
                builder.push_object(text.as_bytes())
            }
        };
        read.map_err(|rejection| unfit(rejection.to_string()))?;
        let batch = builder.finish().map_err(|error| unfit(error.to_string()))?;
        let mut bucket = Vec::with_capacity(1);
        if let Some(text) = KeyText::new(&shape.table)? {
            text.key_buckets(&batch, buckets, &mut bucket)
                .map_err(|error| unfit(error.to_string()))?;
        }
        let values = places.iter().zip(batch.columns()).map(|(place, column)| {
            let value = ScalarValue::try_from_array(column, 0)?;
            let value = value.cast_to(shape.schema.field(*place).data_type())?;
            Ok::<_, QueryError>((*place, value))
        });
        let uuids = places.iter().filter(|place| shape.is_uuid(**place));
        Ok(Self {
            uuids: uuids.copied().collect(),
            values: values.collect::<Result<_, _>>()?,
            bucket: bucket.first().copied().map(Bucket),
        })
    }

    /// False where the file's bucket or bounds rule the key out.
    fn may_be_in(&self, file: &FileFacts) -> bool {
        let elsewhere = |bucket| file.buckets().is_some_and(|own| !own.contains(&bucket));
        if self.bucket.is_some_and(elsewhere) {
            return false;
        }
        let any_case = is_foreign(file);
        self.values.iter().all(|(place, value)| {
            if any_case && self.uuids.contains(place) {
                return true;
            }
            let bound = file.bound(*place);
            let below = bound.min.as_ref().is_some_and(|min| value < min);
            let above = bound.max.as_ref().is_some_and(|max| value > max);
            !below && !above
        })
    }

    /// By the names that files use. Of capitals no bounds within a file tell.
    fn filter(&self, scan: &SchemaRef, files: &[Arc<FileFacts>]) -> Option<Expr> {
        let any_case = files.iter().any(|file| is_foreign(file));
        let equal = self.values.iter().map(|(place, value)| {
            let column = ident(scan.field(*place).name());
            let column = match any_case && self.uuids.contains(place) {
                true => lower(column),
                false => column,
            };
            column.eq(lit(value.clone()))
        });
        conjunction(equal)
    }
}

/// Whether another engine may have written it.
fn is_foreign(file: &FileFacts) -> bool {
    file.sidecar().is_none()
}

/// Numbers and booleans may come as text.
fn json_of(ty: &Type, part: &KeyPart) -> serde_json::Value {
    let plain = matches!(
        ty,
        Type::Primitive(
            Primitive::Byte
                | Primitive::Short
                | Primitive::Int
                | Primitive::Long
                | Primitive::Boolean
        )
    );
    match part {
        KeyPart::Value(value) => value.clone(),
        KeyPart::Text(text) if plain => {
            serde_json::from_str(text.trim()).unwrap_or_else(|_| text.as_str().into())
        }
        KeyPart::Text(text) => text.as_str().into(),
    }
}

/// The columns of the history of any key.
pub(crate) fn schema(shape: &Shape) -> Result<SchemaRef, QueryError> {
    let taken = [COMMIT_VERSION, COMMIT_TIMESTAMP, CHANGE_TYPE]
        .into_iter()
        .find(|name| shape.schema.index_of(name).is_ok());
    if let Some(taken) = taken {
        return Err(QueryError::Unsupported(format!(
            "the table has a column {taken:?} of its own, so its history can't be shown"
        )));
    }
    let moment = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
    let mut fields = vec![
        Field::new(COMMIT_VERSION, DataType::Int64, true),
        Field::new(COMMIT_TIMESTAMP, moment, false),
        Field::new(CHANGE_TYPE, DataType::Utf8, false),
    ];
    let columns = shape.schema.fields().iter();
    fields.extend(columns.map(|field| field.as_ref().clone().with_nullable(true)));
    Ok(Arc::new(Schema::new(fields)))
}

/// The events as a table, newest first. Of a deleted row only the key is left.
fn output(shape: &Shape, key: &Key, hits: &Hits, events: &[Event]) -> Result<MemTable, QueryError> {
    let schema = schema(shape)?;
    let newest = || events.iter().rev();
    let index = |hit: usize| u32::try_from(hit).ok();
    let rows: UInt32Array = newest().map(|event| event.hit.and_then(index)).collect();
    let keys: UInt32Array = newest().map(|event| index(event.key_of)).collect();
    let versions = newest().map(|event| i64::try_from(event.version.0).ok());
    let times = newest().map(|event| Some(event.ms.saturating_mul(1000)));
    let times: TimestampMicrosecondArray = times.collect();
    let kinds = newest().map(|event| event.kind);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(versions.collect::<Int64Array>()),
        Arc::new(times.with_timezone(UTC)),
        Arc::new(StringArray::from_iter_values(kinds)),
    ];
    for place in 0..shape.schema.fields().len() {
        let is_key = key.values.iter().any(|(of_key, _)| *of_key == place);
        let from = if is_key { &keys } else { &rows };
        columns.push(take(hits.rows.column(place), from, None)?);
    }
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    Ok(MemTable::try_new(schema, vec![vec![batch]])?)
}
