//! Points in time as users write them.

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use tidelake_core::clock::UnixMillis;

/// Reads RFC 3339, the same with a space or without a zone (then UTC), or a date (its first
/// moment).
pub(crate) fn parse_timestamp(text: &str) -> Result<UnixMillis, String> {
    let text = text.trim();
    if let Ok(zoned) = DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%:z"))
    {
        return Ok(zoned.timestamp_millis());
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"] {
        if let Ok(naive) = NaiveDateTime::parse_from_str(text, format) {
            return Ok(naive.and_utc().timestamp_millis());
        }
    }
    NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .ok()
        .and_then(|date| date.and_hms_opt(0, 0, 0))
        .map(|first| first.and_utc().timestamp_millis())
        .ok_or_else(|| format!("{text:?} is not a point in time; write it as 2026-11-21T12:34:56Z"))
}
