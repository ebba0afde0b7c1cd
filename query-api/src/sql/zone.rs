//! The time zone that a statement is meant in.

use std::sync::Arc;

use datafusion::arrow::array::timezone::Tz;
use tidelake_schema::arrow::UTC;

/// No zone has a longer name.
const NAME_BYTES_MAX: usize = 64;

/// A zone by its IANA name, or an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeZone(Arc<str>);

impl TimeZone {
    /// Reads `Europe/Berlin`, `+02:00`, `UTC`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let name = match text.trim() {
            "Z" | "z" | "utc" | "Etc/UTC" | "+00:00" => UTC,
            name => name,
        };
        let is_known = name.len() <= NAME_BYTES_MAX && name.parse::<Tz>().is_ok();
        if is_known {
            return Ok(Self(name.into()));
        }
        let shown: String = name.chars().take(NAME_BYTES_MAX).collect();
        Err(format!(
            "{shown:?} is no time zone; write an IANA name as it is spelled (\"Europe/Berlin\") or \
             an offset (\"+02:00\")"
        ))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// What statements are meant in that name none.
    pub(crate) fn is_utc(&self) -> bool {
        *self.0 == *UTC
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_offsets_are_zones() {
        for name in [
            "Europe/Berlin",
            "Asia/Kolkata",
            "+02:00",
            "-0930",
            "America/Sao_Paulo",
        ] {
            assert_eq!(TimeZone::parse(name).unwrap().name(), name);
        }
        for name in ["UTC", "Z", "utc", "+00:00"] {
            assert!(TimeZone::parse(name).unwrap().is_utc(), "{name}");
        }
        let long = "x".repeat(10_000);
        for name in [
            "",
            "Berlin",
            "europe/berlin",
            "+25:00",
            "MESZ",
            "UTC+2",
            &long,
        ] {
            let error = TimeZone::parse(name).unwrap_err();
            assert!(error.contains("IANA") && error.len() < 300, "{error}");
        }
    }
}
