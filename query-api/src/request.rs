//! What a client asks: from body or query string to a checked [`Request`].

use std::collections::BTreeMap;
use std::time::Duration;

use datafusion::common::ScalarValue;
use serde_json::Value;
use tidelake_core::{Bucket, SnapshotName, TableId, TableName, TableVersion, Token, Watermark};

use crate::error::QueryError;
use crate::settings::QuerySettings;
use crate::sql::{AsOf, TimeZone, parse_timestamp};

/// Which rows of a table count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// What is committed, and the tail of the log up to its end at query start.
    #[default]
    Latest,
    /// What is committed.
    Committed,
}

/// What must be visible before the query runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tokens {
    #[default]
    None,
    /// For the one table that the query reads.
    Only(Token),
    ByTable(BTreeMap<TableName, Token>),
}

/// A table as a query saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub table: TableId,
    pub version: TableVersion,
    /// Of each bucket, the offset up to which (exclusive) its rows were seen.
    pub positions: BTreeMap<Bucket, Watermark>,
}

/// One query.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub sql: String,
    /// `$1` is the first. Text is read as the type of the place where it stands, as a literal in
    /// quotes is; a null has no type.
    pub params: Vec<ScalarValue>,
    pub as_of: AsOf,
    pub consistency: Consistency,
    pub tokens: Tokens,
    /// Exactly what to read of each table whose newest rows the statement asks for, as an earlier
    /// answer has seen it; empty where the newest are wanted. For answers in parts, read one after
    /// another or by several nodes.
    pub exactly: Vec<Seen>,
    /// Rows beyond are cut off.
    pub max_rows: Option<usize>,
    pub timeout: Duration,
    /// What times without an offset are meant in, and days begin by; UTC where absent.
    pub time_zone: Option<TimeZone>,
    /// Statements that change something are refused.
    pub read_only: bool,
}

impl Request {
    /// A query with defaults for everything but its text.
    pub fn new(sql: impl Into<String>, settings: &QuerySettings) -> Self {
        Self {
            sql: sql.into(),
            params: Vec::new(),
            as_of: AsOf::Latest,
            consistency: Consistency::Latest,
            tokens: Tokens::None,
            exactly: Vec::new(),
            max_rows: None,
            timeout: Duration::from_millis(settings.timeout_ms_default),
            time_zone: None,
            read_only: false,
        }
    }

    /// Reads a JSON body.
    pub fn from_json(body: &[u8], settings: &QuerySettings) -> Result<Self, QueryError> {
        let body: Value =
            serde_json::from_slice(body).map_err(|error| QueryError::Body(error.to_string()))?;
        let Value::Object(fields) = body else {
            return Err(QueryError::Body("it must be a JSON object".into()));
        };
        Self::from_fields(fields, settings)
    }

    /// Reads a query string, which only reads. Numbers may stand bare; `params` and a `token` of
    /// several tables are JSON.
    pub fn from_pairs(
        pairs: Vec<(String, String)>,
        settings: &QuerySettings,
    ) -> Result<Self, QueryError> {
        let mut fields = serde_json::Map::new();
        for (key, text) in pairs {
            let json = matches!(
                key.as_str(),
                "params" | "as_of_version" | "max_rows" | "timeout_ms"
            ) || (key == "token" && text.starts_with('{'));
            let value = match json {
                true => serde_json::from_str(&text).unwrap_or(Value::String(text)),
                false => Value::String(text),
            };
            if fields.insert(key.clone(), value).is_some() {
                return Err(QueryError::Body(format!("{key} is given twice")));
            }
        }
        let request = Self::from_fields(fields, settings)?;
        Ok(Self {
            read_only: true,
            ..request
        })
    }

    fn from_fields(
        fields: serde_json::Map<String, Value>,
        settings: &QuerySettings,
    ) -> Result<Self, QueryError> {
        let mut request = Self::new(String::new(), settings);
        let mut has_sql = false;
        let mut as_of = Vec::new();
        for (key, value) in fields {
            // A null is as good as no field.
            if value.is_null() {
                continue;
            }
            match key.as_str() {
                "sql" => {
                    request.sql = text("sql", value)?;
                    has_sql = true;
                }
                "params" => request.params = params(value)?,
                "as_of_version" => as_of.push(version("as_of_version", &value)?),
                "as_of_timestamp" => {
                    let at = parse_timestamp(&text("as_of_timestamp", value)?)
                        .map_err(|reason| QueryError::request("as_of_timestamp", reason))?;
                    as_of.push(AsOf::Timestamp(at));
                }
                "consistency" => request.consistency = consistency(&value)?,
                "token" => request.tokens = tokens(value)?,
                "max_rows" => {
                    let rows = number("max_rows", &value)?;
                    request.max_rows = Some(usize::try_from(rows).unwrap_or(usize::MAX));
                }
                "timeout_ms" => request.timeout = timeout(&value, settings)?,
                "time_zone" => {
                    let zone = TimeZone::parse(&text("time_zone", value)?)
                        .map_err(|reason| QueryError::request("time_zone", reason))?;
                    request.time_zone = Some(zone).filter(|zone| !zone.is_utc());
                }
                _ => return Err(QueryError::UnknownField(key)),
            }
        }
        if !has_sql {
            return Err(QueryError::request("sql", "sql is missing"));
        }
        if as_of.len() > 1 {
            let reason = "give as_of_version or as_of_timestamp, not both";
            return Err(QueryError::request("as_of_timestamp", reason));
        }
        if let Some(as_of) = as_of.pop() {
            if request.tokens != Tokens::None {
                let reason = "a token asks for the newest rows: it can't go with a past version";
                return Err(QueryError::request("token", reason));
            }
            request.as_of = as_of;
        }
        Ok(request)
    }
}

pub(crate) fn text(field: &'static str, value: Value) -> Result<String, QueryError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(QueryError::request(
            field,
            format!("{field} must be a string"),
        )),
    }
}

pub(crate) fn number(field: &'static str, value: &Value) -> Result<u64, QueryError> {
    value
        .as_u64()
        .ok_or_else(|| QueryError::request(field, format!("{field} must be a whole number from 0")))
}

/// A version's number, or a snapshot's name.
pub(crate) fn version(field: &'static str, value: &Value) -> Result<AsOf, QueryError> {
    if let Some(name) = value.as_str() {
        let name = SnapshotName::new(name)
            .map_err(|error| QueryError::request(field, error.to_string()))?;
        return Ok(AsOf::Snapshot(name));
    }
    let number = number(field, value)?;
    Ok(AsOf::Version(TableVersion(number)))
}

fn params(value: Value) -> Result<Vec<ScalarValue>, QueryError> {
    let Value::Array(values) = value else {
        return Err(QueryError::request("params", "params must be an array"));
    };
    values.into_iter().map(scalar).collect()
}

fn scalar(value: Value) -> Result<ScalarValue, QueryError> {
    Ok(match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(value) => ScalarValue::Boolean(Some(value)),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => ScalarValue::Int64(Some(value)),
            (None, Some(value)) => ScalarValue::UInt64(Some(value)),
            _ => ScalarValue::Float64(number.as_f64()),
        },
        Value::String(text) => ScalarValue::Utf8(Some(text)),
        nested @ (Value::Array(_) | Value::Object(_)) => {
            let reason = format!("a parameter must be a string, number, boolean or null: {nested}");
            return Err(QueryError::request("params", reason));
        }
    })
}

pub(crate) fn consistency(value: &Value) -> Result<Consistency, QueryError> {
    match value.as_str() {
        Some("latest") => Ok(Consistency::Latest),
        Some("committed") => Ok(Consistency::Committed),
        _ => {
            let reason = "consistency must be \"latest\" or \"committed\"";
            Err(QueryError::request("consistency", reason))
        }
    }
}

fn tokens(value: Value) -> Result<Tokens, QueryError> {
    let parse =
        |text: &str| Token::parse(text).map_err(|error| QueryError::Token(error.to_string()));
    match value {
        Value::String(text) => Ok(Tokens::Only(parse(&text)?)),
        Value::Object(tables) => {
            let mut tokens = BTreeMap::new();
            for (table, token) in tables {
                let name =
                    TableName::new(&table).map_err(|error| QueryError::Token(error.to_string()))?;
                let Value::String(token) = token else {
                    return Err(QueryError::Token(format!(
                        "the token of {table} is no string"
                    )));
                };
                tokens.insert(name, parse(&token)?);
            }
            Ok(Tokens::ByTable(tokens))
        }
        _ => Err(QueryError::Token("a token is a string".into())),
    }
}

pub(crate) fn timeout(value: &Value, settings: &QuerySettings) -> Result<Duration, QueryError> {
    let millis = number("timeout_ms", value)?;
    if !(1..=settings.timeout_ms_max).contains(&millis) {
        let reason = format!("timeout_ms must be from 1 to {}", settings.timeout_ms_max);
        return Err(QueryError::request("timeout_ms", reason));
    }
    Ok(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<Request, QueryError> {
        Request::from_json(body.to_string().as_bytes(), &QuerySettings::default())
    }

    #[test]
    fn every_field_is_read() {
        let token = Token::new([(tidelake_core::Bucket(1), tidelake_core::Watermark(7))]);
        let request = read(json!({
            "sql": "SELECT $1", "params": [1, "x", null], "consistency": "committed",
            "token": token.to_string(), "max_rows": 10, "timeout_ms": 5,
        }))
        .unwrap();
        let params = [
            ScalarValue::Int64(Some(1)),
            ScalarValue::from("x"),
            ScalarValue::Null,
        ];
        assert_eq!(request.params, params);
        assert_eq!(request.consistency, Consistency::Committed);
        assert_eq!(request.tokens, Tokens::Only(token));
        assert_eq!(request.max_rows, Some(10));
        assert_eq!(request.timeout, Duration::from_millis(5));
        let past = read(json!({"sql": "x", "as_of_timestamp": "2026-11-21T00:00:01Z"})).unwrap();
        assert_eq!(past.as_of, AsOf::Timestamp(1_795_219_201_000));
        let past = read(json!({"sql": "x", "as_of_version": "before"})).unwrap();
        let before = SnapshotName::new("before").unwrap();
        assert_eq!(past.as_of, AsOf::Snapshot(before));
        assert!(!past.read_only);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (json!({}), "sql"),
            (json!({"sql": 1}), "sql"),
            (json!({"sql": "x", "params": {}}), "params"),
            (json!({"sql": "x", "params": [[1]]}), "params"),
            (json!({"sql": "x", "as_of_version": -1}), "as_of_version"),
            (json!({"sql": "x", "as_of_version": "7"}), "as_of_version"),
            (
                json!({"sql": "x", "as_of_version": 1, "as_of_timestamp": "2026-01-01"}),
                "as_of_timestamp",
            ),
            (
                json!({"sql": "x", "as_of_timestamp": "yesterday"}),
                "as_of_timestamp",
            ),
            (json!({"sql": "x", "consistency": "strong"}), "consistency"),
            (json!({"sql": "x", "max_rows": 1.5}), "max_rows"),
            (json!({"sql": "x", "timeout_ms": 0}), "timeout_ms"),
            (json!({"sql": "x", "time_zone": "Berlin"}), "time_zone"),
            (json!({"sql": "x", "time_zone": 2}), "time_zone"),
            (
                json!({"sql": "x", "as_of_version": 1, "token": Token::default().to_string()}),
                "token",
            ),
        ];
        for (body, wanted) in cases {
            match read(body.clone()) {
                Err(QueryError::Request { field, .. }) => assert_eq!(field, wanted, "{body}"),
                other => panic!("{body}: {other:?}"),
            }
        }
        let unknown = read(json!({"sql": "x", "maxrows": 1})).unwrap_err();
        assert!(matches!(unknown, QueryError::UnknownField(field) if field == "maxrows"));
        assert!(matches!(read(json!([1])), Err(QueryError::Body(_))));
    }

    #[test]
    fn a_query_string_says_the_same() {
        let pairs = |list: &[(&str, &str)]| {
            let owned = list
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            Request::from_pairs(owned, &QuerySettings::default())
        };
        let request = pairs(&[("sql", "SELECT $1"), ("params", "[1]"), ("max_rows", "5")]).unwrap();
        assert_eq!((request.params.len(), request.max_rows), (1, Some(5)));
        assert!(request.read_only);
        assert_eq!(pairs(&[("sql", "123")]).unwrap().sql, "123");
        let zone = |name| {
            pairs(&[("sql", "x"), ("time_zone", name)])
                .unwrap()
                .time_zone
        };
        assert_eq!(zone("Europe/Berlin").unwrap().name(), "Europe/Berlin");
        assert_eq!(zone("utc"), None);
        assert!(pairs(&[("sql", "a"), ("sql", "b")]).is_err());
        assert!(pairs(&[("sql", "a"), ("max_rows", "many")]).is_err());
    }
}
