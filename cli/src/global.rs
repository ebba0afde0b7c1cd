//! Flags of every command: where the services are, who one is there, how answers look.
//!
//! Invariant: flags and the environment say more than a profile, a profile more than the defaults.

use std::path::PathBuf;

use clap::Args;

use crate::failure::Failure;
use crate::output::Format;
use crate::profile::{self, Profile, Secret};

/// Where the services are, and how answers look, as it was said.
#[derive(Args, Debug, Clone)]
pub(crate) struct GlobalArgs {
    /// The profile that says what is not said here [default: the one that profiles.yaml names]
    #[arg(long, global = true, value_name = "NAME", env = "TIDELAKE_PROFILE")]
    pub(crate) profile: Option<String>,
    /// The gateway [default: http://127.0.0.1:8080]
    #[arg(long, global = true, value_name = "URL", env = "TIDELAKE_URL")]
    pub(crate) url: Option<String>,
    /// The query service [default: http://127.0.0.1:8081]
    #[arg(long, global = true, value_name = "URL", env = "TIDELAKE_QUERY_URL")]
    pub(crate) query_url: Option<String>,
    /// A flusher, asked for the age of tables (repeat for each) [default: the gateway's address,
    /// where `tidelake local` runs all in one]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TIDELAKE_FLUSHER_URL",
        value_delimiter = ','
    )]
    pub(crate) flusher_url: Vec<String>,
    /// The tenant to act for
    #[arg(long, global = true, value_name = "NAME", env = "TIDELAKE_TENANT")]
    pub(crate) tenant: Option<String>,
    /// A key for the services, before the command (some commands have a --key of their own, which
    /// is a table's); other processes may see it here, unlike in the environment or a profile
    #[arg(long, value_name = "KEY", env = "TIDELAKE_KEY", hide_env_values = true)]
    pub(crate) key: Option<Secret>,
    /// How the answer looks
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub(crate) output: Format,
    /// Log more, on standard error
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

/// The same with what a profile and the defaults add.
#[derive(Debug, Clone)]
pub(crate) struct Global {
    /// The profile's name, where there is one.
    pub(crate) profile: Option<String>,
    pub(crate) url: String,
    pub(crate) query_url: String,
    pub(crate) flusher_url: Vec<String>,
    pub(crate) tenant: Option<String>,
    /// Of statements, where they name none.
    pub(crate) time_zone: Option<String>,
    pub(crate) key: Option<Key>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) output: Format,
}

/// Says who one is.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) secret: Secret,
    /// The services that it is for; none: all that are named.
    pub(crate) services: Option<Vec<String>>,
}

impl GlobalArgs {
    /// With the profile that is meant.
    pub(crate) fn resolve(self) -> Result<Global, Failure> {
        let found = profile::find(self.profile.as_deref())?;
        let (name, profile) = found.unzip();
        Ok(self.with(name, profile.unwrap_or_default()))
    }

    fn with(self, name: Option<String>, profile: Profile) -> Global {
        let filled = |text: String| (!text.is_empty()).then_some(text);
        let key = match self.key.filter(|key| !key.expose().is_empty()) {
            Some(secret) => Some(Key {
                secret,
                services: None,
            }),
            None if profile.key.expose().is_empty() => None,
            None => Some(Key {
                secret: profile.key,
                services: Some(
                    [&profile.url, &profile.query_url]
                        .into_iter()
                        .chain(&profile.flusher_url)
                        .cloned()
                        .filter_map(filled)
                        .collect(),
                ),
            }),
        };
        let said = |said: Option<String>, known: String, default: &str| {
            let url = said.or_else(|| filled(known));
            url.unwrap_or_else(|| default.to_owned())
        };
        Global {
            profile: name,
            url: said(self.url, profile.url, "http://127.0.0.1:8080"),
            query_url: said(self.query_url, profile.query_url, "http://127.0.0.1:8081"),
            flusher_url: match self.flusher_url.is_empty() {
                true => profile.flusher_url,
                false => self.flusher_url,
            },
            tenant: self.tenant.or_else(|| filled(profile.tenant)),
            time_zone: filled(profile.time_zone),
            key,
            ca_file: Some(profile.ca_file).filter(|path| !path.as_os_str().is_empty()),
            output: self.output,
        }
    }
}

impl Global {
    /// Who is asked how far tables are.
    pub(crate) fn flushers(&self) -> Vec<&str> {
        if self.flusher_url.is_empty() {
            return vec![&self.url];
        }
        self.flusher_url.iter().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: GlobalArgs,
    }

    fn global(line: &[&str], profile: Profile, key: Option<&str>) -> Global {
        let key = key.map_or_else(Vec::new, |key| vec!["--key", key]);
        let line = [&["tidelake"], key.as_slice(), line].concat();
        let args = Line::parse_from(line).args;
        args.with(Some("prod".into()), profile)
    }

    fn prod() -> Profile {
        Profile {
            url: "https://g".into(),
            query_url: "https://q".into(),
            tenant: "eu".into(),
            key: Secret::new("tl_1"),
            ..Profile::default()
        }
    }

    #[test]
    fn flags_say_more_than_a_profile_and_a_profile_more_than_defaults() {
        let plain = global(&[], Profile::default(), None);
        assert_eq!(plain.url, "http://127.0.0.1:8080");
        assert!(plain.key.is_none() && plain.tenant.is_none());
        let told = global(&["--query-url", "http://other"], prod(), None);
        assert_eq!(
            (told.url.as_str(), told.query_url.as_str()),
            ("https://g", "http://other")
        );
        assert_eq!(told.tenant.as_deref(), Some("eu"));
    }

    #[test]
    fn a_profile_s_key_is_for_its_own_services_and_one_of_the_environment_for_all() {
        let told = global(&["--query-url", "http://other"], prod(), None);
        let services = told.key.unwrap().services.unwrap();
        assert_eq!(services, ["https://g", "https://q"]);
        let told = global(&[], prod(), Some("tl_2")).key.unwrap();
        assert_eq!((told.secret.expose(), told.services), ("tl_2", None));
    }
}
