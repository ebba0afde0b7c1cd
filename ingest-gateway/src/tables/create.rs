//! Creating a table: checks first, then topic, Delta log, catalog.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use serde::Deserialize;
use serde_json::Value;
use tidelake_catalog::{AddTable, TableEntry, TableMode, location};
use tidelake_core::limits::BUCKETS_MAX;
use tidelake_core::{
    Bucket, DEAD_LETTERS_SUFFIX, Offset, TableId, TableName, TableVersion, TenantId, TopicId,
};
use tidelake_log::{TopicCreated, TopicSpec, topics};
use tidelake_manifest::{CreateOutcome, CreateTable, Snapshot};
use tidelake_schema::TableSchema;
use tidelake_service::Problem;

use super::live::{LiveTable, Tables};
use crate::moment;
use crate::problem::{Answer, refuse, table_exists};
use crate::settings::TableSettings;

/// Messages of a table's topic and of its dead letters are kept so long.
const RETENTION: &str = "retention_ms";
const PROPERTIES_MAX: usize = 100;
const PROPERTY_BYTES_MAX: usize = 4096;
/// Properties of Delta itself are ours to set.
const RESERVED_PREFIX: &str = "delta.";
/// Tries while others create and drop the same name.
const ATTEMPTS_MAX: usize = 5;

/// How long another maker, whose traces stand in the way, may take to finish.
const MAKER_WAIT_MAX: Duration = Duration::from_secs(1);
const MAKER_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A request for a table, checked.
#[derive(Debug, Clone)]
pub(crate) struct NewTable {
    id: TableId,
    mode: TableMode,
    schema: TableSchema,
    buckets: u32,
    retention_ms: i64,
    properties: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    name: Option<String>,
    schema: Option<Value>,
    mode: Option<String>,
    buckets: Option<u64>,
    #[serde(default)]
    properties: BTreeMap<String, Value>,
    ddl: Option<Value>,
}

fn invalid(code: &'static str, field: &str, detail: impl Into<String>) -> Problem {
    Problem::new(422, code, "the table can't be made like this")
        .detail(detail)
        .field(field)
}

/// Checks a request body.
pub(super) fn parse(
    tenant: &TenantId,
    body: &[u8],
    settings: &TableSettings,
) -> Result<NewTable, Answer> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return refuse(
            Problem::new(400, "EMPTY_BODY", "the body is empty")
                .hint(r#"send {"name":…,"schema":{"type":"struct","fields":[…]}}"#),
        );
    }
    let request: Request = serde_json::from_slice(body).map_err(|error| {
        let code = if error.is_data() {
            "INVALID_REQUEST"
        } else {
            "MALFORMED_JSON"
        };
        Problem::new(400, code, "the body is not a table's description").detail(error.to_string())
    })?;
    if request.ddl.is_some() {
        return refuse(
            invalid("NOT_SUPPORTED", "ddl", "DDL is not supported yet")
                .hint("describe the table by name and schema"),
        );
    }
    let name = request
        .name
        .ok_or_else(|| invalid("MISSING_FIELD", "name", "name is missing"))?;
    let name = TableName::new(&name)
        .map_err(|error| invalid("INVALID_NAME", "name", error.to_string()))?;
    if name.dead_letters_of().is_some() {
        let detail = format!("names that end in {DEAD_LETTERS_SUFFIX} are those of dead letters");
        return refuse(invalid("RESERVED_NAME", "name", detail).hint("choose another name"));
    }
    let mode = mode(request.mode.as_deref())?;
    let buckets = match request.buckets {
        None => settings.buckets_default,
        Some(buckets) => u32::try_from(buckets)
            .ok()
            .filter(|buckets| (1..=BUCKETS_MAX).contains(buckets))
            .ok_or_else(|| {
                let detail = format!("{buckets} buckets; a table has 1 to {BUCKETS_MAX}");
                invalid("INVALID_BUCKETS", "buckets", detail)
            })?,
    };
    let schema = request
        .schema
        .ok_or_else(|| invalid("MISSING_FIELD", "schema", "schema is missing"))?;
    let schema = TableSchema::from_iceberg_value(&schema)
        .map_err(|error| invalid("INVALID_SCHEMA", "schema", error.to_string()))?;
    check_key(mode, &schema)?;
    let properties = check_properties(request.properties)?;
    let retention_ms = retention(&properties, settings)?;
    Ok(NewTable {
        id: TableId::new(tenant.clone(), name),
        mode,
        schema,
        buckets,
        retention_ms,
        properties,
    })
}

fn mode(given: Option<&str>) -> Result<TableMode, Answer> {
    match given {
        None | Some("append") => Ok(TableMode::Append),
        Some("upsert") => Ok(TableMode::Upsert),
        Some(other) => refuse(
            invalid("INVALID_MODE", "mode", format!("{other:?} is not a mode"))
                .hint("modes are append and upsert"),
        ),
    }
}

/// The key's columns themselves were checked with the schema.
fn check_key(mode: TableMode, schema: &TableSchema) -> Result<(), Answer> {
    let wrong = |detail| invalid("INVALID_SCHEMA", "schema.identifier-field-ids", detail);
    match (mode, schema.identifier_field_ids.is_empty()) {
        (TableMode::Append, true) | (TableMode::Upsert, false) => Ok(()),
        (TableMode::Append, false) => refuse(
            wrong("an append table has no primary key")
                .hint("leave identifier-field-ids out, or say \"mode\":\"upsert\""),
        ),
        (TableMode::Upsert, true) => refuse(
            wrong("an upsert table needs a primary key")
                .hint("name the ids of its columns, as in \"identifier-field-ids\":[1]"),
        ),
    }
}

fn check_properties(given: BTreeMap<String, Value>) -> Result<BTreeMap<String, String>, Answer> {
    let wrong = |name: &str, detail: &str| {
        let field = format!("properties.{}", name.chars().take(80).collect::<String>());
        invalid("INVALID_PROPERTY", &field, detail)
    };
    if given.len() > PROPERTIES_MAX {
        let detail = format!("{} properties; {PROPERTIES_MAX} are the limit", given.len());
        return refuse(invalid("INVALID_PROPERTY", "properties", detail));
    }
    let mut properties = BTreeMap::new();
    for (name, value) in given {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if name.is_empty() || name.len() > 128 || !name.bytes().all(plain) {
            return refuse(wrong(
                &name,
                "a name is 1 to 128 letters, digits, '_', '.' and '-'",
            ));
        }
        if name.starts_with(RESERVED_PREFIX) {
            return refuse(wrong(&name, "delta.* is set by Tidelake alone"));
        }
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            _ => return refuse(wrong(&name, "expected a string, a number, true or false")),
        };
        if text.len() > PROPERTY_BYTES_MAX {
            return refuse(wrong(&name, "the value has more than 4096 bytes"));
        }
        properties.insert(name, text);
    }
    Ok(properties)
}

pub(super) fn retention(
    properties: &BTreeMap<String, String>,
    settings: &TableSettings,
) -> Result<i64, Answer> {
    let Some(text) = properties.get(RETENTION) else {
        return Ok(settings.retention_ms_default);
    };
    text.parse()
        .ok()
        .filter(|ms| *ms > 0 || *ms == -1)
        .ok_or_else(|| {
            let detail = format!("{text:?}: expected milliseconds above 0, or -1 for ever");
            invalid("INVALID_PROPERTY", "properties.retention_ms", detail).into()
        })
}

impl Tables {
    /// Makes the table. Of several makers of one name exactly one gets it; the others are told
    /// TABLE_EXISTS.
    pub(super) async fn create(&self, new: NewTable) -> Result<Arc<LiveTable>, Answer> {
        for _ in 0..ATTEMPTS_MAX {
            self.catalog.refresh().await?;
            self.finish_purge(&new.id).await?;
            let mark = self.catalog.mark(&new.id);
            if self.catalog.get(&new.id).is_some() {
                return Err(table_exists(&new.id).into());
            }
            let entry = match self.make(&new).await {
                Ok(entry) => entry,
                Err(answer) => {
                    // What stood in the way may be what others made, or left, of the name meanwhile.
                    self.catalog.refresh().await?;
                    if self.catalog.mark(&new.id) == mark {
                        return Err(answer);
                    }
                    continue;
                }
            };
            match self.catalog.add_table_since(entry, mark).await? {
                AddTable::Added(entry) => {
                    tracing::info!(table = %new.id, buckets = new.buckets, "table created");
                    return Ok(self.live(&entry));
                }
                AddTable::Exists(_) => return Err(table_exists(&new.id).into()),
                AddTable::Moved => {}
            }
        }
        Err(
            Problem::new(409, "TABLE_BEING_DROPPED", "the name is not free yet")
                .detail(format!(
                    "others keep creating and dropping table {}",
                    new.id.table
                ))
                .retry_after_s(1)
                .into(),
        )
    }

    /// Topics and logs of a table that the catalog does not have yet.
    async fn make(&self, new: &NewTable) -> Result<TableEntry, Answer> {
        let topic = topics::table_topic(&self.topic_prefix, &new.id);
        let topic_id = self.make_topic(new, &topic).await?;
        self.make_delta(&new.id, new.mode, &new.schema, &new.properties)
            .await?;
        let dead_letters = self
            .make_dead_letters(&new.id, new.retention_ms, true)
            .await?;
        Ok(TableEntry {
            id: new.id.clone(),
            mode: new.mode,
            schema: new.schema.clone(),
            buckets: new.buckets,
            topic,
            topic_id,
            properties: new.properties.clone(),
            created_ms: self.clock.now_ms(),
            dead_letters_topic_id: Some(dead_letters),
            restores: 0,
        })
    }

    async fn make_topic(&self, new: &NewTable, topic: &str) -> Result<TopicId, Answer> {
        let spec = TopicSpec {
            name: topic.to_owned(),
            buckets: new.buckets,
            retention_ms: Some(new.retention_ms),
            config: BTreeMap::new(),
        };
        let created = self.log.create_topic(&spec).await?;
        let info = self
            .log
            .describe(topic)
            .await?
            .ok_or_else(|| tidelake_log::LogError::NoTopic(topic.to_owned()))?;
        if created == TopicCreated::Exists {
            self.check_adoptable(&new.id, new.buckets, topic, info.buckets)
                .await?;
        }
        Ok(info.id)
    }

    /// A topic that is there before its table: left by a maker that died, made by hand, or by a
    /// maker at work right now.
    pub(super) async fn check_adoptable(
        &self,
        id: &TableId,
        wanted: u32,
        topic: &str,
        buckets: u32,
    ) -> Result<(), Answer> {
        let all: Vec<_> = (0..buckets).map(Bucket).collect();
        let ends = self.log.end_offsets(topic, &all).await?;
        let reason = if ends.iter().any(|(_, end)| *end > Offset(0)) {
            "holds messages".to_owned()
        } else if buckets != wanted {
            format!("has {buckets} buckets, and the table wants {wanted}")
        } else {
            return Ok(());
        };
        self.refuse_leftover(
            id,
            "TOPIC_EXISTS",
            format!("topic {topic} exists and {reason}"),
        )
        .await
    }

    pub(super) async fn make_delta(
        &self,
        id: &TableId,
        mode: TableMode,
        schema: &TableSchema,
        properties: &BTreeMap<String, String>,
    ) -> Result<(), Answer> {
        let location = location(id);
        let spec = CreateTable {
            name: id.table.to_string(),
            schema: schema.clone(),
            append_only: mode == TableMode::Append,
            properties: properties.clone(),
            first_version: self.first_version(id),
        };
        // Boxed, or the compiler can't see that the whole future is `Send`.
        let made = self.delta(&location).create(spec).boxed().await?;
        match made {
            CreateOutcome::Created(_) => Ok(()),
            CreateOutcome::Exists(found) if is_as_made(&found, schema) => Ok(()),
            CreateOutcome::Exists(_) => {
                let detail =
                    format!("a Delta table that the catalog does not know is in {location}");
                self.refuse_leftover(id, "LOCATION_TAKEN", detail).await
            }
        }
    }

    /// Where the log of a new table of this name begins: above every version that an earlier one
    /// had, and one more, which a late writer of that one may still take.
    fn first_version(&self, id: &TableId) -> TableVersion {
        let last = self.catalog.last_version(id);
        last.map_or(TableVersion(0), |last| last.next().next())
    }

    /// Says TABLE_EXISTS where what stands in the way turns out to be somebody else's new table.
    async fn refuse_leftover(
        &self,
        id: &TableId,
        code: &'static str,
        detail: String,
    ) -> Result<(), Answer> {
        let started = moment::now();
        let mut looks = tokio::time::interval(MAKER_LOOK_INTERVAL);
        while moment::age(started) < MAKER_WAIT_MAX {
            looks.tick().await;
            if self.catalog.find_fresh(id).await?.is_some() {
                return Err(table_exists(id).into());
            }
        }
        Err(
            Problem::new(409, code, "something else has the table's place")
                .detail(detail)
                .hint("remove it if nothing needs it, or choose another name")
                .into(),
        )
    }
}

/// True where `found` is what is to be made, and nothing was written to it.
fn is_as_made(found: &Snapshot, schema: &TableSchema) -> bool {
    found.version() == found.first_version()
        && found.file_count() == 0
        && found.schema().fields == schema.fields
        && found.schema().identifier_field_ids == schema.identifier_field_ids
}
