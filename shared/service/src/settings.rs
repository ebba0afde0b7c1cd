//! Settings: defaults, then a YAML file, then the environment, then flags. Later ones win, key by
//! key.
//!
//! A settings type is plain data: `Serialize + Deserialize + Default`, best with
//! `#[serde(default, deny_unknown_fields)]`. Its serialized default is the list of the keys that
//! exist; an empty map in it is free-form (a pass-through such as `kafka.properties`).
//!
//! Environment: `TIDELAKE__SECTION__KEY=value`, in any case. In a free-form map `_` stands for `.`
//! (`TIDELAKE__KAFKA__PROPERTIES__SASL_PASSWORD` is `sasl.password`). Any name with `_FILE` behind it
//! takes the value from that file, for mounted secrets.
//!
//! An unknown key is an error that says where it stands and which key was probably meant.

mod redact;
mod source;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tidelake_core::ErrorKind;

pub use redact::redacted_yaml;
use source::{Layer, Source};

/// What the names of environment variables that are settings start with.
pub const ENV_PREFIX: &str = "TIDELAKE__";

/// Why settings can't be used. The message names the key and where it stands.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("could not read the settings file {path}")]
    ReadFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is not valid YAML: {reason}")]
    ParseFile { path: PathBuf, reason: String },
    #[error("unknown setting {key:?} ({place}){}", suggestion(.nearest.as_deref()))]
    UnknownKey {
        key: String,
        place: String,
        nearest: Option<String>,
    },
    #[error("setting {key:?} ({place}): {reason}")]
    Value {
        key: String,
        place: String,
        reason: String,
    },
    #[error("settings do not fit together: {reason}")]
    Combination { reason: String },
    #[error("default settings can't be written down: {reason}")]
    Defaults { reason: String },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest
        .map(|nearest| format!("; did you mean {nearest:?}?"))
        .unwrap_or_default()
}

impl SettingsError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ReadFile { .. } => ErrorKind::NotFound,
            Self::Defaults { .. } => ErrorKind::Bug,
            _ => ErrorKind::Invalid,
        }
    }
}

/// Puts the layers together: `T::default()`, `file`, the `TIDELAKE__…` ones of `env`, `overrides`
/// (a JSON object; `null` in it means "not given").
///
/// # Errors
/// On a file that can't be read or parsed, a key that does not exist, a value that does not fit.
pub fn load<T>(
    file: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
    overrides: Value,
) -> Result<T, SettingsError>
where
    T: Serialize + DeserializeOwned + Default,
{
    let defaults = serde_json::to_value(T::default()).map_err(|error| SettingsError::Defaults {
        reason: error.to_string(),
    })?;
    let accepts = |candidate: &Value| serde_json::from_value::<T>(candidate.clone()).is_ok();
    let mut layers = Vec::new();
    if let Some(path) = file {
        layers.push(source::from_file(path)?);
    }
    layers.extend(source::from_env(env, &defaults, &accepts)?);
    layers.push(Layer {
        source: Source::Flags,
        value: without_nulls(overrides),
    });

    let mut merged = defaults.clone();
    for layer in &layers {
        check_keys(&defaults, layer)?;
        merge(&mut merged, layer.value.clone());
    }
    serde_json::from_value(merged).map_err(|error| blame::<T>(&defaults, &layers, &error))
}

/// `over` wins; objects are merged key by key, everything else is replaced.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        other => other,
    }
}

fn check_keys(defaults: &Value, layer: &Layer) -> Result<(), SettingsError> {
    let mut unknown = None;
    walk(&layer.value, &mut Vec::new(), &mut |path, _| {
        if unknown.is_none() && !exists(defaults, path) {
            unknown = Some(path.to_vec());
        }
    });
    match unknown {
        None => Ok(()),
        Some(path) => Err(SettingsError::UnknownKey {
            key: path.join("."),
            place: layer.source.place(&path),
            nearest: nearest(defaults, &path),
        }),
    }
}

/// Visits every key, outer ones first.
fn walk<'a>(
    value: &'a Value,
    path: &mut Vec<&'a str>,
    visit: &mut impl FnMut(&[&'a str], &'a Value),
) {
    let Value::Object(map) = value else { return };
    for (key, value) in map {
        path.push(key);
        visit(path, value);
        walk(value, path, visit);
        path.pop();
    }
}

/// True for a key of the defaults, for one in a free-form map, and for one below a section that is
/// absent by default (serde checks those).
fn exists(defaults: &Value, path: &[&str]) -> bool {
    let mut at = defaults;
    for key in path {
        match at {
            Value::Object(map) if map.is_empty() => return true,
            Value::Object(map) => match map.get(*key) {
                Some(next) => at = next,
                None => return false,
            },
            // Too deep is a wrong value, not an unknown key: deserializing says it better.
            _ => return true,
        }
    }
    true
}

/// The existing key that an unknown one is most like, or nothing that is near enough.
fn nearest(defaults: &Value, path: &[&str]) -> Option<String> {
    let wanted = path.join(".").to_lowercase();
    let mut best: Option<(f64, String)> = None;
    walk(defaults, &mut Vec::new(), &mut |known, _| {
        let name = known.join(".");
        let last = known.last().copied().unwrap_or_default();
        let whole = strsim::jaro_winkler(&wanted, &name);
        // The right key in the wrong section is near too.
        let tail = strsim::jaro_winkler(path.last().copied().unwrap_or_default(), last) - 0.02;
        let score = whole.max(tail);
        if score > 0.8 && best.as_ref().is_none_or(|(held, _)| score > *held) {
            best = Some((score, name));
        }
    });
    best.map(|(_, name)| name)
}

/// Finds the one setting that alone makes the defaults unusable; else they only fail together.
fn blame<T: DeserializeOwned>(
    defaults: &Value,
    layers: &[Layer],
    error: &serde_json::Error,
) -> SettingsError {
    for layer in layers.iter().rev() {
        let mut found = None;
        walk(&layer.value, &mut Vec::new(), &mut |path, value| {
            let section = value.is_object() && exists_as_section(defaults, path);
            if found.is_some() || section {
                return;
            }
            let mut candidate = defaults.clone();
            merge(&mut candidate, nested(path, value.clone()));
            if let Err(error) = serde_json::from_value::<T>(candidate) {
                found = Some((path.to_vec(), error.to_string()));
            }
        });
        if let Some((path, reason)) = found {
            return SettingsError::Value {
                key: path.join("."),
                place: layer.source.place(&path),
                reason,
            };
        }
    }
    SettingsError::Combination {
        reason: error.to_string(),
    }
}

fn exists_as_section(defaults: &Value, path: &[&str]) -> bool {
    let mut at = Some(defaults);
    for key in path {
        at = at.and_then(|value| value.get(key));
    }
    at.is_some_and(Value::is_object)
}

fn nested(path: &[&str], leaf: Value) -> Value {
    path.iter().rev().fold(leaf, |inner, key| {
        let mut map = Map::new();
        map.insert((*key).to_owned(), inner);
        Value::Object(map)
    })
}
