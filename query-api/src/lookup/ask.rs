//! What a client asks of a table's keys: from query string or body to checked values.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tidelake_core::{TableName, Token};

use crate::error::QueryError;
use crate::request::{self, Consistency};
use crate::settings::QuerySettings;
use crate::sql::{AsOf, parse_timestamp};

/// Keys of one lookup, rows of one range.
pub(crate) const KEYS_MAX: usize = 10_000;
/// Rows of a range that names no limit.
const LIMIT_DEFAULT: usize = 1000;

/// Which table, as of when.
#[derive(Debug, Clone)]
pub struct Ask {
    pub table: TableName,
    pub consistency: Consistency,
    pub token: Option<Token>,
    /// A version of the past; none for the newest rows.
    pub as_of: Option<AsOf>,
    pub timeout: Duration,
}

/// Which rows.
#[derive(Debug)]
pub enum Wanted<'a> {
    /// The row of one key.
    Text(&'a str),
    /// The rows of many keys.
    Json(Vec<&'a RawValue>),
    /// Rows in key order, from a key on, up to another (which is left out).
    Range {
        from: Option<String>,
        to: Option<String>,
        limit: usize,
    },
}

impl Ask {
    /// The newest rows of a table.
    ///
    /// # Errors
    /// A name that no table can have.
    pub fn new(table: &str, settings: &QuerySettings) -> Result<Self, QueryError> {
        let named = TableName::new(table);
        let table = named.map_err(|_| QueryError::TableNotFound {
            name: table.to_owned(),
            nearest: None,
            at: None,
        })?;
        Ok(Self {
            table,
            consistency: Consistency::Latest,
            token: None,
            as_of: None,
            timeout: Duration::from_millis(settings.timeout_ms_default),
        })
    }

    /// Of one key.
    pub(crate) fn of_key(
        table: &str,
        pairs: Vec<(String, String)>,
        settings: &QuerySettings,
    ) -> Result<Self, QueryError> {
        let mut ask = Self::new(table, settings)?;
        once(&pairs)?;
        for (name, text) in pairs {
            ask.set(&name, value(&name, text), settings)?;
        }
        ask.checked()
    }

    /// Of a range of keys.
    pub(crate) fn of_range(
        table: &str,
        pairs: Vec<(String, String)>,
        settings: &QuerySettings,
    ) -> Result<(Self, Wanted<'static>), QueryError> {
        let mut ask = Self::new(table, settings)?;
        let (mut first, mut last, mut limit) = (None, None, LIMIT_DEFAULT);
        once(&pairs)?;
        for (name, text) in pairs {
            match name.as_str() {
                "from" => first = Some(text),
                "to" => last = Some(text),
                "limit" => {
                    let rows = text
                        .parse()
                        .ok()
                        .filter(|rows| (1..=KEYS_MAX).contains(rows));
                    limit = rows.ok_or_else(|| {
                        let reason = format!("limit must be a whole number from 1 to {KEYS_MAX}");
                        QueryError::request("limit", reason)
                    })?;
                }
                _ => ask.set(&name, value(&name, text), settings)?,
            }
        }
        let (from, to) = (first, last);
        Ok((ask.checked()?, Wanted::Range { from, to, limit }))
    }

    /// Of many keys.
    pub(crate) fn of_body<'a>(
        table: &str,
        body: &'a [u8],
        settings: &QuerySettings,
    ) -> Result<(Self, Wanted<'a>), QueryError> {
        let body: Body<'a> =
            serde_json::from_slice(body).map_err(|error| QueryError::Body(error.to_string()))?;
        if body.keys.len() > KEYS_MAX {
            let found = body.keys.len();
            let reason = format!("a lookup may have {KEYS_MAX} keys, this one has {found}");
            return Err(QueryError::request("keys", reason));
        }
        let mut ask = Self::new(table, settings)?;
        for (name, value) in body.others {
            ask.set(&name, value, settings)?;
        }
        Ok((ask.checked()?, Wanted::Json(body.keys)))
    }

    fn set(
        &mut self,
        name: &str,
        value: Value,
        settings: &QuerySettings,
    ) -> Result<(), QueryError> {
        if value.is_null() {
            return Ok(());
        }
        match name {
            "consistency" => self.consistency = request::consistency(&value)?,
            "token" => {
                let token = Token::parse(&request::text("token", value)?);
                self.token = Some(token.map_err(|error| QueryError::Token(error.to_string()))?);
            }
            "as_of_version" => {
                self.version(request::version("as_of_version", &value)?)?;
            }
            "as_of_timestamp" => {
                let at = parse_timestamp(&request::text("as_of_timestamp", value)?)
                    .map_err(|reason| QueryError::request("as_of_timestamp", reason))?;
                self.version(AsOf::Timestamp(at))?;
            }
            "timeout_ms" => self.timeout = request::timeout(&value, settings)?,
            _ => return Err(QueryError::UnknownField(name.to_owned())),
        }
        Ok(())
    }

    fn version(&mut self, as_of: AsOf) -> Result<(), QueryError> {
        if self.as_of.replace(as_of).is_some() {
            let reason = "give as_of_version or as_of_timestamp, not both";
            return Err(QueryError::request("as_of_timestamp", reason));
        }
        Ok(())
    }

    fn checked(self) -> Result<Self, QueryError> {
        if self.as_of.is_some() && self.token.is_some() {
            let reason = "a token asks for the newest rows: it can't go with a past version";
            return Err(QueryError::request("token", reason));
        }
        Ok(self)
    }
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

/// Of a field that is given twice nobody knows which one counts.
fn once(pairs: &[(String, String)]) -> Result<(), QueryError> {
    let mut names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|two| two[0] == two[1]) {
        Some(two) => Err(QueryError::Query(format!("{} is given twice", two[0]))),
        None => Ok(()),
    }
}

/// Numbers stand bare in a query string.
fn value(name: &str, text: String) -> Value {
    match name {
        "as_of_version" | "timeout_ms" => {
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        }
        _ => Value::String(text),
    }
}
