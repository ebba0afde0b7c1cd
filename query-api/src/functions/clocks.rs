//! What the clocks of a zone mean.
//!
//! Owns the instant that a clock shows ([`instant_of`]) and its function for columns. A time that the
//! clocks skip is read by the offset that they had before, as if they had not been changed; of one
//! that they show twice the caller says which is meant.

use std::sync::Arc;

use chrono::{DateTime, Duration, FixedOffset, MappedLocalTime, NaiveDateTime, Offset, TimeZone};
use datafusion::arrow::array::AsArray;
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{ScalarValue, internal_datafusion_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The instant at which the zone's clocks show a time: one that they show twice under `preferred`, if
/// that is one of its offsets, else the later one.
pub(super) fn instant_of(
    local: NaiveDateTime,
    zone: Tz,
    preferred: Option<FixedOffset>,
) -> Option<i64> {
    let under = |offset: FixedOffset| Some(local.checked_sub_offset(offset)?.and_utc());
    let instant = match zone.offset_from_local_datetime(&local) {
        MappedLocalTime::Single(found) => under(found.fix())?,
        MappedLocalTime::Ambiguous(first, _) if Some(first.fix()) == preferred => {
            under(first.fix())?
        }
        MappedLocalTime::Ambiguous(_, second) => under(second.fix())?,
        MappedLocalTime::None => {
            let before = local.checked_sub_signed(Duration::days(1))?;
            under(zone.offset_from_utc_datetime(&before).fix())?
        }
    };
    Some(instant.timestamp_micros())
}

/// Times without a zone as instants of one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Instants {
    zone: Arc<str>,
    signature: Signature,
}

/// The function that takes microseconds without a zone for what the zone's clocks show.
pub(super) fn instants_in(zone: &Arc<str>) -> Arc<ScalarUDF> {
    let (zone, signature) = (Arc::clone(zone), Signature::any(1, Volatility::Immutable));
    Arc::new(ScalarUDF::new_from_impl(Instants { zone, signature }))
}

impl ScalarUDFImpl for Instants {
    fn name(&self) -> &'static str {
        "timestamptz"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        let zone = Some(Arc::clone(&self.zone));
        Ok(DataType::Timestamp(TimeUnit::Microsecond, zone))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let zone: Tz = self.zone.parse()?;
        let instant = |at: i64| {
            let local = DateTime::from_timestamp_micros(at).map(|at| at.naive_utc());
            let instant = local.and_then(|local| instant_of(local, zone, None));
            instant.ok_or_else(|| out_of_range(at))
        };
        let own = Some(Arc::clone(&self.zone));
        Ok(match args.args.first() {
            Some(ColumnarValue::Array(array)) => {
                let times = array.as_primitive_opt::<TimestampMicrosecondType>();
                let times = times.ok_or_else(|| internal_datafusion_err!("no microseconds"))?;
                let instants = times.try_unary::<_, TimestampMicrosecondType, _>(instant)?;
                ColumnarValue::Array(Arc::new(instants.with_timezone_opt(own)))
            }
            Some(ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(at, _))) => {
                let instant = at.map(instant).transpose()?;
                ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(instant, own))
            }
            other => return Err(internal_datafusion_err!("an instant of {other:?}")),
        })
    }
}

pub(super) fn out_of_range(at: i64) -> DataFusionError {
    let reason = format!("{at} µs since 1970 is no time that zones have");
    ArrowError::ArithmeticOverflow(reason).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_were_changed_are_read_all_the_same() {
        let zone: Tz = "Europe/Berlin".parse().unwrap();
        let instant = |local: &str| {
            let instant = instant_of(local.parse().unwrap(), zone, None).unwrap();
            DateTime::from_timestamp_micros(instant)
                .unwrap()
                .to_rfc3339()
        };
        assert_eq!(instant("2026-07-01T12:00:00"), "2026-07-01T10:00:00+00:00");
        assert_eq!(instant("2026-03-29T02:30:00"), "2026-03-29T01:30:00+00:00");
        assert_eq!(instant("2026-10-25T02:30:00"), "2026-10-25T01:30:00+00:00");
        assert_eq!(instant("9999-12-31T23:59:59"), "9999-12-31T22:59:59+00:00");
    }
}
