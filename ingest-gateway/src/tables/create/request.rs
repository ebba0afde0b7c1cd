//! What a new table is to be: a request's body, checked.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tidelake_catalog::TableMode;
use tidelake_core::limits::BUCKETS_MAX;
use tidelake_core::{DEAD_LETTERS_SUFFIX, TableId, TableName, TenantId};
use tidelake_schema::TableSchema;
use tidelake_service::Problem;

use crate::problem::{Answer, refuse};
use crate::settings::TableSettings;

/// Messages of a table's topic and of its dead letters are kept so long.
const RETENTION: &str = "retention_ms";
const PROPERTIES_MAX: usize = 100;
const PROPERTY_BYTES_MAX: usize = 4096;
/// Properties of Delta itself are ours to set.
const RESERVED_PREFIX: &str = "delta.";

/// A request for a table, checked.
#[derive(Debug, Clone)]
pub(crate) struct NewTable {
    pub(super) id: TableId,
    pub(super) mode: TableMode,
    pub(super) schema: TableSchema,
    pub(super) buckets: u32,
    pub(super) retention_ms: i64,
    pub(super) properties: BTreeMap<String, String>,
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
pub(in super::super) fn parse(
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

pub(in super::super) fn retention(
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
