//! Where settings come from, and how a place is named in an error.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format, Yaml};
use serde_json::Value;

use super::{ENV_PREFIX, SettingsError, exists, merge, nearest, nested};

/// One source's keys, as an object.
#[derive(Debug)]
pub(super) struct Layer {
    pub source: Source,
    pub value: Value,
}

#[derive(Debug)]
pub(super) enum Source {
    File { path: PathBuf, text: String },
    Env(String),
    Flags,
}

impl Source {
    /// For a person: `tidelake.yaml:12`, `environment TIDELAKE__STORE`, `command line`.
    pub(super) fn place(&self, key: &[&str]) -> String {
        match self {
            Self::File { path, text } => match line_of(text, key) {
                Some(line) => format!("{}:{line}", path.display()),
                None => path.display().to_string(),
            },
            Self::Env(name) => format!("environment {name}"),
            Self::Flags => "command line".to_owned(),
        }
    }
}

pub(super) fn from_file(path: &Path) -> Result<Layer, SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::ReadFile {
        path: path.to_owned(),
        source,
    })?;
    let blank = text
        .lines()
        .map(str::trim)
        .all(|line| line.is_empty() || line.starts_with('#') || line == "---" || line == "...");
    let value = if blank {
        Value::Object(serde_json::Map::new())
    } else {
        Figment::from(Yaml::string(&text))
            .extract::<Value>()
            .map_err(|error| SettingsError::ParseFile {
                path: path.to_owned(),
                reason: error.to_string(),
            })?
    };
    Ok(Layer {
        source: Source::File {
            path: path.to_owned(),
            text,
        },
        value,
    })
}

/// `accepts` says whether settings would be usable: it decides how a value is read whose type the
/// defaults don't show.
pub(super) fn from_env(
    env: impl Iterator<Item = (String, String)>,
    defaults: &Value,
    accepts: &dyn Fn(&Value) -> bool,
) -> Result<Vec<Layer>, SettingsError> {
    let mut named: Vec<_> = env
        .filter(|(name, _)| {
            name.get(..ENV_PREFIX.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(ENV_PREFIX))
        })
        .collect();
    named.sort();
    named
        .into_iter()
        .map(|(name, text)| env_layer(name, text, defaults, accepts))
        .collect()
}

fn env_layer(
    name: String,
    text: String,
    defaults: &Value,
    accepts: &dyn Fn(&Value) -> bool,
) -> Result<Layer, SettingsError> {
    let lower = name[ENV_PREFIX.len()..].to_ascii_lowercase();
    let segments: Vec<&str> = lower.split("__").collect();
    let place = format!("environment {name}");
    let (path, text) = match resolve(defaults, &segments) {
        Some(path) if !reads_file(defaults, &path) => (path, text),
        // `…_FILE` counts only where no setting is called that itself.
        _ => {
            let trimmed = lower
                .strip_suffix("_file")
                .map(|l| l.split("__").collect::<Vec<_>>());
            match trimmed.and_then(|segments| resolve(defaults, &segments)) {
                Some(path) => {
                    let content = std::fs::read_to_string(&text).map_err(|error| {
                        let (key, reason) = (path.join("."), format!("{text}: {error}"));
                        SettingsError::Value {
                            key,
                            place: place.clone(),
                            reason,
                        }
                    })?;
                    (path, content.trim_end_matches(['\r', '\n']).to_owned())
                }
                None => {
                    return Err(SettingsError::UnknownKey {
                        key: segments.join("."),
                        place,
                        nearest: nearest(defaults, &segments),
                    });
                }
            }
        }
    };
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let value = typed(defaults, &path, text, accepts);
    Ok(Layer {
        source: Source::Env(name),
        value: nested(&path, value),
    })
}

/// The path of the setting that the variable's segments name, if there is one.
fn resolve(defaults: &Value, segments: &[&str]) -> Option<Vec<String>> {
    let mut at = defaults;
    for (index, segment) in segments.iter().enumerate() {
        match at {
            Value::Object(map) if map.is_empty() => {
                let mut path: Vec<String> =
                    segments[..index].iter().map(|s| (*s).to_owned()).collect();
                path.push(segments[index..].join("_").replace('_', "."));
                return Some(path);
            }
            Value::Object(map) => at = map.get(*segment)?,
            _ => break,
        }
    }
    exists(defaults, segments).then(|| segments.iter().map(|s| (*s).to_owned()).collect())
}

/// A free-form key that ends in `.file`: the value is to be read from there.
fn reads_file(defaults: &Value, path: &[String]) -> bool {
    let mut at = Some(defaults);
    for key in path {
        at = at.and_then(|value| value.get(key));
    }
    at.is_none() && path.last().is_some_and(|key| key.ends_with(".file"))
}

/// Reads the text as what the default is: text stays text, even where it looks like a number.
fn typed(defaults: &Value, path: &[&str], text: String, accepts: &dyn Fn(&Value) -> bool) -> Value {
    let mut at = Some(defaults);
    for key in path {
        at = at.and_then(|value| value.get(key));
    }
    let parsed = serde_json::from_str::<Value>(&text).ok();
    match at {
        Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
            parsed.unwrap_or(Value::String(text))
        }
        Some(Value::Array(_)) => match parsed {
            Some(list @ Value::Array(_)) => list,
            _ => text
                .split(',')
                .map(|item| Value::String(item.trim().to_owned()))
                .collect(),
        },
        Some(Value::String(_)) => Value::String(text),
        _ => {
            let as_text = Value::String(text);
            let mut candidate = defaults.clone();
            merge(&mut candidate, nested(path, as_text.clone()));
            match parsed {
                Some(parsed) if !accepts(&candidate) => parsed,
                _ => as_text,
            }
        }
    }
}

/// The line of a key in block-style YAML, counted from 1; in flow style only the outer key is found.
fn line_of(text: &str, key: &[&str]) -> Option<usize> {
    let mut open: Vec<(usize, &str)> = Vec::new();
    let mut best = None;
    for (number, line) in text.lines().enumerate() {
        let body = line.trim_start();
        let indent = line.len() - body.len();
        let Some((name, _)) = body.split_once(':') else {
            continue;
        };
        if body.starts_with('#') || body.starts_with('-') {
            continue;
        }
        open.retain(|(outer, _)| *outer < indent);
        open.push((indent, name.trim().trim_matches(['"', '\''])));
        let matching = open
            .iter()
            .zip(key)
            .take_while(|((_, a), b)| a == *b)
            .count();
        if matching == open.len() && best.is_none_or(|(held, _)| matching > held) {
            best = Some((matching, number + 1));
        }
    }
    best.map(|(_, line)| line)
}
