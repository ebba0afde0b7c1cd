//! Profiles: where services are and who one is there, under a name.
//!
//! A YAML file, `$TIDELAKE_PROFILES`, else `tidelake/profiles.yaml` in the folder for configuration
//! (`$XDG_CONFIG_HOME`, else `~/.config`):
//!
//! ```yaml
//! default: prod            # where no profile is named
//! profiles:
//!   prod:
//!     url: https://gateway.example.com
//!     query_url: https://query.example.com
//!     tenant: eu
//!     time_zone: Europe/Berlin
//!     key_file: /home/me/.tidelake-key
//!     ca_file: /etc/ssl/our-ca.pem
//! ```
//! Flags and the environment say more than a profile, a profile more than the defaults.
//!
//! Invariant: a profile's key goes to the profile's own services and to nobody else, whatever URLs
//! flags and environment name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tidelake_service::settings;

use crate::failure::Failure;
use crate::output::note;

const FILE: &str = "tidelake/profiles.yaml";

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Profiles {
    /// The profile where none is named; empty: none.
    default: String,
    profiles: BTreeMap<String, Profile>,
}

/// What is known under one name; what is empty is not said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Profile {
    pub url: String,
    pub query_url: String,
    pub flusher_url: Vec<String>,
    pub tenant: String,
    /// Of statements.
    pub time_zone: String,
    /// Sent as a bearer token.
    pub key: Secret,
    /// The key is what this file holds.
    pub key_file: PathBuf,
    /// PEM file with the authority that signed the services' certificates, beside the system's.
    pub ca_file: PathBuf,
}

/// Text that is not shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The profile of this name, or the file's default; none where neither is there.
pub(crate) fn find(name: Option<&str>) -> Result<Option<(String, Profile)>, Failure> {
    let Some(path) = path() else {
        return match name {
            Some(name) => Err(missing(name, "there is no folder for configuration", &[])),
            None => Ok(None),
        };
    };
    find_in(&path, name)
}

fn path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = set("TIDELAKE_PROFILES") {
        return Some(path.into());
    }
    let config = set("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(Path::new(&set("HOME")?).join(".config")));
    config.map(|folder| folder.join(FILE))
}

fn find_in(path: &Path, name: Option<&str>) -> Result<Option<(String, Profile)>, Failure> {
    if !path.exists() {
        return match name {
            Some(name) => Err(missing(
                name,
                &format!("there is no {}", path.display()),
                &[],
            )),
            None => Ok(None),
        };
    }
    let mut all: Profiles = settings::load(Some(path), std::iter::empty(), json!({}))?;
    let name = match name {
        Some(name) => name.to_owned(),
        None if all.default.is_empty() => return Ok(None),
        None => all.default.clone(),
    };
    let Some(mut profile) = all.profiles.remove(&name) else {
        let known: Vec<_> = all.profiles.keys().map(String::as_str).collect();
        let why = format!("{} has no such profile", path.display());
        return Err(missing(&name, &why, &known));
    };
    // Files are named as they lie beside this one.
    let beside = |file: &Path| path.parent().unwrap_or(path).join(file);
    if !profile.ca_file.as_os_str().is_empty() {
        profile.ca_file = beside(&profile.ca_file);
    }
    if !profile.key_file.as_os_str().is_empty() {
        let file = beside(&profile.key_file);
        let key = std::fs::read_to_string(&file).map_err(|error| {
            Failure::usage(format!(
                "key file {} of profile {name}: {error}",
                file.display()
            ))
        })?;
        profile.key = Secret::new(key.trim());
    } else if !profile.key.expose().is_empty() && others_read(path) {
        note(&format!(
            "others may read {}, which holds a key: chmod 600 it",
            path.display()
        ));
    }
    Ok(Some((name, profile)))
}

fn missing(name: &str, why: &str, known: &[&str]) -> Failure {
    let failure = Failure::usage(format!("no profile {name}: {why}"));
    match known {
        [] => failure,
        known => failure.hint(format!("known are {}", known.join(", "))),
    }
}

fn others_read(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let mode = path
        .metadata()
        .map(|metadata| metadata.permissions().mode());
    mode.is_ok_and(|mode| mode & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profiles.yaml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn a_profile_is_found_by_its_name_or_as_the_default() {
        let (dir, path) = written(
            "default: prod\nprofiles:\n  prod:\n    url: https://g\n    key_file: k\n  \
             test:\n    url: http://t\n    tenant: eu\n",
        );
        std::fs::write(dir.path().join("k"), "tl_secret\n").unwrap();
        let (name, prod) = find_in(&path, None).unwrap().unwrap();
        assert_eq!((name.as_str(), prod.url.as_str()), ("prod", "https://g"));
        assert_eq!(prod.key.expose(), "tl_secret");
        assert!(!format!("{prod:?}").contains("tl_secret"));
        let (_, test) = find_in(&path, Some("test")).unwrap().unwrap();
        assert_eq!(test.tenant, "eu");
        let none = find_in(&path, Some("tst")).unwrap_err();
        assert_eq!(none.hint.unwrap(), "known are prod, test");
    }

    #[test]
    fn a_slip_in_the_file_is_told_and_no_file_is_no_profile() {
        let (_dir, path) = written("profiles:\n  prod:\n    urll: https://g\n");
        let failure = find_in(&path, Some("prod")).unwrap_err();
        assert!(failure.message.contains("urll"), "{}", failure.message);
        let gone = path.with_extension("gone");
        assert_eq!(find_in(&gone, None).unwrap(), None);
        assert!(
            find_in(&gone, Some("x"))
                .unwrap_err()
                .message
                .contains("no profile x")
        );
    }
}
