//! Reading JSON documents that describe a schema: what is common to their forms.

use serde_json::{Map, Value};

use crate::error::{Problem, SchemaError};
use crate::types::shorten;

/// A type as documents write it: a name, or an object that names its kind.
pub(crate) enum TypeText<'a> {
    Name(&'a str),
    Parts(&'a str, &'a Map<String, Value>),
}

/// What stands under `key`; `kinds` are those that an object may name.
pub(crate) fn type_text<'a>(
    value: &'a Value,
    path: &str,
    key: &'static str,
    kinds: &'static str,
) -> Result<TypeText<'a>, SchemaError> {
    match value {
        Value::String(text) => Ok(TypeText::Name(text)),
        Value::Object(object) => {
            let kind = required(object, path, "type", kinds, Value::as_str)?;
            Ok(TypeText::Parts(kind, object))
        }
        other => {
            let problem = Problem::WrongJson {
                key,
                expected: "a type's name or an object",
                found: kind_of(other),
            };
            Err(SchemaError::at(path, problem))
        }
    }
}

/// The objects under `fields`, each read by `read`.
pub(crate) fn fields<'a, T>(
    object: &'a Map<String, Value>,
    path: &str,
    mut read: impl FnMut(&'a Map<String, Value>) -> Result<T, SchemaError>,
) -> Result<Vec<T>, SchemaError> {
    let expected = "an array of fields";
    let fields = required(object, path, "fields", expected, Value::as_array)?;
    let fields = fields.iter().map(|field| match field {
        Value::Object(field) => read(field),
        other => {
            let problem = Problem::WrongJson {
                key: "fields",
                expected: "an array of objects",
                found: kind_of(other),
            };
            Err(SchemaError::at(path, problem))
        }
    });
    fields.collect()
}

pub(crate) fn required<'a, T>(
    object: &'a Map<String, Value>,
    path: &str,
    key: &'static str,
    expected: &'static str,
    read: impl FnOnce(&'a Value) -> Option<T>,
) -> Result<T, SchemaError> {
    let Some(value) = object.get(key) else {
        return Err(SchemaError::at(path, Problem::Missing { key, expected }));
    };
    read(value).ok_or_else(|| {
        SchemaError::at(
            path,
            Problem::WrongJson {
                key,
                expected,
                found: kind_of(value),
            },
        )
    })
}

/// Absent and null are both nothing.
pub(crate) fn optional<'a, T>(
    object: &'a Map<String, Value>,
    path: &str,
    key: &'static str,
    expected: &'static str,
    read: impl FnOnce(&'a Value) -> Option<T>,
) -> Result<Option<T>, SchemaError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => required(object, path, key, expected, read).map(Some),
    }
}

pub(crate) fn flag(
    object: &Map<String, Value>,
    path: &str,
    key: &'static str,
) -> Result<bool, SchemaError> {
    required(object, path, key, "true or false", Value::as_bool)
}

pub(crate) fn integer(value: &Value) -> Option<i32> {
    i32::try_from(value.as_i64()?).ok()
}

/// A JSON value as messages name it.
pub(crate) fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => shorten(&number.to_string()),
        Value::String(text) => format!("{:?}", shorten(text)),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
