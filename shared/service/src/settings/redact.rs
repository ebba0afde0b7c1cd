//! Settings for showing: YAML without the secrets.

use serde::Serialize;
use serde_json::Value;

/// What stands in place of a secret.
const REDACTED: &str = "(redacted)";

/// Parts of key names whose values are secret, compared in lower case with `.` and `-` as `_`.
const SECRET_PARTS: [&str; 9] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "credential",
    "private",
    "api_key",
    "access_key",
    "sasl",
];
/// Keys that the parts above would hide though they help and harm nobody.
const PUBLIC_PARTS: [&str; 2] = ["sasl_mechanism", "sasl_mechanisms"];

/// Settings as YAML that [`super::load`] reads back, secrets replaced.
pub fn redacted_yaml<T: Serialize>(settings: &T) -> String {
    match serde_json::to_value(settings) {
        Ok(value) => {
            let mut text = String::new();
            write_map(&mut text, &redact(value), 0);
            text
        }
        Err(error) => format!("# settings can't be written down: {error}\n"),
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase().replace(['.', '-'], "_");
    !PUBLIC_PARTS.contains(&key.as_str()) && SECRET_PARTS.iter().any(|part| key.contains(part))
}

fn redact(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, value)| {
                    let empty = value.is_null() || value.as_str() == Some("");
                    let hide = !empty && !value.is_object() && is_secret(&key);
                    let value = if hide {
                        Value::from(REDACTED)
                    } else {
                        redact(value)
                    };
                    (key, value)
                })
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(redact).collect()),
        Value::String(text) => Value::String(without_user_info(text)),
        other => other,
    }
}

/// `scheme://user:secret@host` keeps its host only.
fn without_user_info(text: String) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text;
    };
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.rsplit_once('@') {
        Some((user_info, _)) => format!("{scheme}://{REDACTED}{}", &rest[user_info.len()..]),
        None => text,
    }
}

fn write_map(out: &mut String, value: &Value, indent: usize) {
    let Value::Object(map) = value else {
        out.push_str(&scalar(value));
        out.push('\n');
        return;
    };
    for (key, value) in map {
        out.push_str(&" ".repeat(indent));
        out.push_str(&text(key));
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                write_map(out, value, indent + 2);
            }
            other => {
                out.push(' ');
                out.push_str(&scalar(other));
                out.push('\n');
            }
        }
    }
}

/// JSON is YAML's flow style, so lists and empty maps are written as JSON.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        other => other.to_string(),
    }
}

/// Bare where no reader could take it for anything but this text, else quoted.
fn text(string: &str) -> String {
    let plain = string.starts_with(|c: char| c.is_ascii_alphabetic())
        && string
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&string.to_lowercase().as_str());
    if plain {
        string.to_owned()
    } else {
        Value::from(string).to_string()
    }
}
