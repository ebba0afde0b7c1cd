//! `date_bin` of timestamps in microseconds, whatever their year.
//!
//! DataFusion's computes in nanoseconds: for years before 1677 and after 2262 its answer is null.
//! Here timestamps in microseconds are binned; what else it takes (times, nanoseconds) is left to
//! it.

use std::sync::Arc;

use chrono::{DateTime, Datelike, Months};
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{
    DataType, IntervalMonthDayNano, TimeUnit, TimestampMicrosecondType,
};
use datafusion::common::{ScalarValue, exec_datafusion_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

const DAY_US: i64 = 86_400_000_000;

/// `date_bin`, for microseconds too.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DateBin {
    pub function: Arc<ScalarUDF>,
}

/// How wide a bin is.
#[derive(Debug, Clone, Copy)]
enum Width {
    Micros(i64),
    Months(i64),
}

impl ScalarUDFImpl for DateBin {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.function.return_type(arg_types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.function.documentation()
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [width, time, origin @ ..] = args.args.as_mut_slice() else {
            return self.function.inner().invoke_with_args(args);
        };
        let is_micros = matches!(
            time.data_type(),
            DataType::Timestamp(TimeUnit::Microsecond, _)
        );
        let from = match origin.first() {
            None => Some(0),
            Some(ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(at, _))) => *at,
            Some(ColumnarValue::Scalar(ScalarValue::TimestampNanosecond(at, _))) => {
                at.map(|at| at.div_euclid(1_000))
            }
            Some(_) => None,
        };
        if let (true, Some(width), Some(from)) = (is_micros, width_of(width), from) {
            return binned(time, width, from);
        }
        // It takes no other origin.
        if let Some(origin) = origin.first_mut()
            && let DataType::Timestamp(TimeUnit::Microsecond, zone) = origin.data_type()
        {
            *origin = origin.cast_to(&DataType::Timestamp(TimeUnit::Nanosecond, zone), None)?;
        }
        self.function.inner().invoke_with_args(args)
    }
}

/// Absent: it is refused, or what it means is left to DataFusion.
fn width_of(width: &ColumnarValue) -> Option<Width> {
    let ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(width))) = width else {
        return None;
    };
    let IntervalMonthDayNano {
        months,
        days,
        nanoseconds,
    } = *width;
    match (months, days, nanoseconds) {
        (1.., 0, 0) => Some(Width::Months(months.into())),
        (0, _, _) if nanoseconds % 1_000 == 0 => {
            let days = i64::from(days).checked_mul(DAY_US)?;
            let micros = days.checked_add(nanoseconds / 1_000)?;
            (micros > 0).then_some(Width::Micros(micros))
        }
        _ => None,
    }
}

fn binned(time: &ColumnarValue, width: Width, origin: i64) -> Result<ColumnarValue> {
    let bin = |at: i64| begin_of(at, width, origin).ok_or_else(|| out_of_range(at));
    Ok(match time {
        ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(at, zone)) => {
            let bin = at.map(bin).transpose()?;
            ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(bin, zone.clone()))
        }
        ColumnarValue::Scalar(_) => ColumnarValue::Scalar(ScalarValue::Null),
        ColumnarValue::Array(array) => {
            let times = array.as_primitive::<TimestampMicrosecondType>();
            let zone = times.timezone().map(Into::into);
            let bins = times.try_unary::<_, TimestampMicrosecondType, _>(bin)?;
            ColumnarValue::Array(Arc::new(bins.with_timezone_opt::<Arc<str>>(zone)))
        }
    })
}

fn out_of_range(at: i64) -> datafusion::error::DataFusionError {
    exec_datafusion_err!("the bin of {at} µs since 1970 begins before the first timestamp")
}

fn begin_of(at: i64, width: Width, origin: i64) -> Option<i64> {
    let width = match width {
        Width::Micros(width) => {
            let bins = at.checked_sub(origin)?.div_euclid(width);
            return origin.checked_add(bins.checked_mul(width)?);
        }
        Width::Months(width) => width,
    };
    let first = DateTime::from_timestamp_micros(origin)?;
    let time = DateTime::from_timestamp_micros(at)?;
    let month = |time: &DateTime<_>| i64::from(time.year()) * 12 + i64::from(time.month0());
    let bins = (month(&time) - month(&first)).div_euclid(width);
    let begin = |bins: i64| {
        let months = bins.checked_mul(width)?;
        let span = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
        let begin = match months < 0 {
            true => first.checked_sub_months(span)?,
            false => first.checked_add_months(span)?,
        };
        Some(begin.timestamp_micros())
    };
    // A later day of the month begins a bin later in it.
    match begin(bins)? {
        found if found <= at => Some(found),
        _ => begin(bins - 1),
    }
}
