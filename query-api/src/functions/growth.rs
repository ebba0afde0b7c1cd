//! How many bytes a function's value will have, by its arguments and without making it.

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, IntervalMonthDayNanoType, TimeUnit};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

/// Bytes of a character, at most.
const CHARACTER_BYTES_MAX: usize = 4;
/// Bytes of a number, date or timestamp in a series.
const ITEM_BYTES: usize = 8;
/// Bytes that one sign of a format becomes, and a number in a text, at most.
const FORMATTED_BYTES_MAX: usize = 32;
const DAY_NS: i128 = 86_400_000_000_000;
/// Of the shortest month.
const MONTH_NS: i128 = 28 * DAY_NS;

/// How much a function makes of what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Growth {
    /// `f(a, b, …)`: all of them once.
    Sum,
    /// `concat_ws(separator, a, …)`
    Joined,
    /// `repeat(text, times)`
    Repeat,
    /// `lpad(text, characters[, fill])`
    Pad,
    /// `replace(text, from, to)`
    Replace,
    /// `regexp_replace(text, pattern, to[, flags])`
    PatternReplace,
    /// `to_char(time, format)`
    Format,
    /// `range([from,] to[, step])`
    Series,
    /// `array_repeat(item, times)`
    ListRepeat,
    /// `array_resize(list, items[, item])`
    ListResize,
    /// `array_replace_all(list, from, to)`
    ListReplace,
    /// `array_to_string(list, separator[, null])`
    ListText,
}

/// A number for each row, or one for all.
#[derive(Debug)]
pub(super) enum Sizes {
    One(usize),
    Each(Vec<usize>),
}

impl Sizes {
    pub(super) fn get(&self, row: usize) -> usize {
        match self {
            Self::One(size) => *size,
            Self::Each(sizes) => sizes.get(row).copied().unwrap_or_default(),
        }
    }

    /// Absent where there is one for all.
    pub(super) fn rows(&self) -> Option<usize> {
        match self {
            Self::One(_) => None,
            Self::Each(sizes) => Some(sizes.len()),
        }
    }
}

impl Growth {
    /// Whether the sizes are what is made, not only a bound of it.
    pub(super) fn is_exact(self) -> bool {
        !matches!(
            self,
            Self::Replace | Self::PatternReplace | Self::Format | Self::Pad
        )
    }

    /// Bytes of the value of each row.
    pub(super) fn of(self, args: &[ColumnarValue]) -> Result<Sizes> {
        let rows = args.iter().find_map(|arg| match arg {
            ColumnarValue::Array(array) => Some(array.len()),
            ColumnarValue::Scalar(_) => None,
        });
        let row = self.by_row(args)?;
        Ok(match rows {
            None => Sizes::One(row(0)),
            Some(rows) => Sizes::Each((0..rows).map(row).collect()),
        })
    }

    fn by_row(self, args: &[ColumnarValue]) -> Result<Box<dyn Fn(usize) -> usize>> {
        let size = |place: usize| args.get(place).map_or(Sizes::One(0), bytes);
        let count = |place: usize| args.get(place).map_or(Ok(Sizes::One(0)), counts);
        Ok(match self {
            Self::Sum => {
                let sizes: Vec<_> = args.iter().map(bytes).collect();
                Box::new(move |row| sum(&sizes, row))
            }
            Self::Joined => {
                let (separator, rest) = (size(0), args.len());
                let sizes: Vec<_> = args.iter().skip(1).map(bytes).collect();
                Box::new(move |row| {
                    sum(&sizes, row).saturating_add(separator.get(row).saturating_mul(rest))
                })
            }
            Self::Repeat | Self::ListRepeat => {
                let (item, times) = (size(0), count(1)?);
                Box::new(move |row| item.get(row).saturating_mul(times.get(row)))
            }
            Self::Pad => {
                let characters = count(1)?;
                Box::new(move |row| characters.get(row).saturating_mul(CHARACTER_BYTES_MAX))
            }
            Self::Replace => {
                let (text, from, to) = (size(0), size(1), size(2));
                Box::new(move |row| {
                    let places = text.get(row) / from.get(row).max(1) + 1;
                    let made = places.saturating_mul(to.get(row));
                    made.saturating_add(text.get(row))
                })
            }
            Self::PatternReplace => {
                let (text, to) = (size(0), size(2));
                // Each sign may stand for a part of the text, and the text may match everywhere.
                Box::new(move |row| {
                    let places = text.get(row).saturating_add(1);
                    places.saturating_mul(to.get(row).saturating_add(1))
                })
            }
            Self::Format => {
                let format = size(1);
                Box::new(move |row| {
                    format
                        .get(row)
                        .saturating_add(1)
                        .saturating_mul(FORMATTED_BYTES_MAX)
                })
            }
            Self::Series => series(args)?,
            Self::ListResize => {
                let (list, items, item) = (items(args.first()), count(1)?, size(2));
                Box::new(move |row| {
                    let each = list.item_bytes.saturating_add(item.get(row));
                    items.get(row).saturating_mul(each)
                })
            }
            Self::ListReplace => {
                let (list, to) = (items(args.first()), size(2));
                Box::new(move |row| {
                    let each = list.item_bytes.saturating_add(to.get(row));
                    list.counts.get(row).saturating_mul(each)
                })
            }
            Self::ListText => {
                let (list, separator, null) = (items(args.first()), size(1), size(2));
                Box::new(move |row| {
                    let each = list.item_bytes + FORMATTED_BYTES_MAX;
                    let each = each.saturating_add(separator.get(row));
                    let each = each.saturating_add(null.get(row));
                    list.counts.get(row).saturating_mul(each)
                })
            }
        })
    }
}

fn sum(sizes: &[Sizes], row: usize) -> usize {
    let sizes = sizes.iter().map(|size| size.get(row));
    sizes.fold(0, usize::saturating_add)
}

/// Bytes of each value: of texts exactly, of others on average.
fn bytes(arg: &ColumnarValue) -> Sizes {
    let array = match arg {
        ColumnarValue::Scalar(scalar) => {
            return Sizes::One(match scalar.try_as_str() {
                Some(text) => text.map_or(0, str::len),
                None => scalar.size(),
            });
        }
        ColumnarValue::Array(array) => array,
    };
    let lengths = |length: &dyn Fn(usize) -> usize| {
        let rows = 0..array.len();
        Sizes::Each(
            rows.map(|row| if array.is_null(row) { 0 } else { length(row) })
                .collect(),
        )
    };
    match array.data_type() {
        DataType::Utf8 => {
            let texts = array.as_string::<i32>();
            lengths(&|row| texts.value(row).len())
        }
        DataType::LargeUtf8 => {
            let texts = array.as_string::<i64>();
            lengths(&|row| texts.value(row).len())
        }
        DataType::Utf8View => {
            let texts = array.as_string_view();
            lengths(&|row| texts.value(row).len())
        }
        _ => Sizes::One(average(array)),
    }
}

fn average(array: &ArrayRef) -> usize {
    let bytes = array.to_data().get_slice_memory_size();
    let bytes = bytes.unwrap_or_else(|_| array.get_array_memory_size());
    bytes.div_ceil(array.len().max(1))
}

/// Whole numbers; negative ones and nulls make nothing.
fn counts(arg: &ColumnarValue) -> Result<Sizes> {
    let numbers = cast(&arg.to_array(arg_rows(arg))?, &DataType::Int64)?;
    let numbers = numbers.as_primitive::<Int64Type>();
    let count = |number: Option<i64>| usize::try_from(number.unwrap_or(0)).unwrap_or(0);
    Ok(match arg {
        ColumnarValue::Scalar(_) => Sizes::One(count(numbers.iter().next().flatten())),
        ColumnarValue::Array(_) => Sizes::Each(numbers.iter().map(count).collect()),
    })
}

fn arg_rows(arg: &ColumnarValue) -> usize {
    match arg {
        ColumnarValue::Scalar(_) => 1,
        ColumnarValue::Array(array) => array.len(),
    }
}

/// The items of lists.
struct Items {
    counts: Sizes,
    /// On average.
    item_bytes: usize,
}

fn items(arg: Option<&ColumnarValue>) -> Items {
    let none = Items {
        counts: Sizes::One(0),
        item_bytes: 0,
    };
    let (array, one) = match arg {
        None => return none,
        Some(ColumnarValue::Array(array)) => (std::sync::Arc::clone(array), false),
        Some(ColumnarValue::Scalar(scalar)) => match scalar.to_array() {
            Ok(array) => (array, true),
            Err(_) => return none,
        },
    };
    let (lengths, values): (Vec<usize>, ArrayRef) = match array.data_type() {
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            let lengths = lists.offsets().lengths().collect();
            (lengths, std::sync::Arc::clone(lists.values()))
        }
        DataType::LargeList(_) => {
            let lists = array.as_list::<i64>();
            let lengths = lists.offsets().lengths().collect();
            (lengths, std::sync::Arc::clone(lists.values()))
        }
        // As many items as there are bytes, at most.
        _ => {
            return Items {
                counts: Sizes::One(average(&array)),
                item_bytes: 1,
            };
        }
    };
    Items {
        counts: match one {
            true => Sizes::One(lengths.first().copied().unwrap_or(0)),
            false => Sizes::Each(lengths),
        },
        item_bytes: average(&values),
    }
}

/// How many steps lie between two numbers, dates or timestamps.
fn series(args: &[ColumnarValue]) -> Result<Box<dyn Fn(usize) -> usize>> {
    let zero = ColumnarValue::Scalar(ScalarValue::Int64(Some(0)));
    let (from, to, step) = match args {
        [to] => (&zero, to, None),
        [from, to] => (from, to, None),
        [from, to, step, ..] => (from, to, Some(step)),
        [] => return Ok(Box::new(|_| 0)),
    };
    let from = places(from)?;
    let to = places(to)?;
    let step = step.map(steps).transpose()?;
    Ok(Box::new(move |row| {
        let at = |places: &[Option<i128>]| match places {
            [one] => *one,
            each => each.get(row).copied().flatten(),
        };
        let step = step.as_ref().map_or(Some(1), |step| at(step));
        let (Some(from), Some(to), Some(step)) = (at(&from), at(&to), step) else {
            return 0;
        };
        // Against the step there is nothing; without one it is refused.
        if step == 0 || (to < from) == (step > 0) && to != from {
            return 0;
        }
        let items = (to - from) / step + 1;
        usize::try_from(items)
            .unwrap_or(usize::MAX)
            .saturating_mul(ITEM_BYTES)
    }))
}

/// Numbers as they are, dates and timestamps in nanoseconds.
fn places(arg: &ColumnarValue) -> Result<Vec<Option<i128>>> {
    let unit: i128 = match arg.data_type() {
        DataType::Date32 => DAY_NS,
        DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        _ => 1,
    };
    let is_time = matches!(arg.data_type(), DataType::Timestamp(..));
    let array = arg.to_array(arg_rows(arg))?;
    if matches!(array.data_type(), DataType::Null) {
        return Ok(vec![None]);
    }
    let array = match array.data_type() {
        DataType::Date32 => cast(&array, &DataType::Int32)?,
        _ => array,
    };
    let numbers = cast(&array, &DataType::Int64)?;
    let numbers = numbers.as_primitive::<Int64Type>();
    let place = |number: Option<i64>| {
        let place = number.map(|number| i128::from(number) * unit);
        // The functions count nanoseconds, and answer with null where those end.
        match place {
            Some(place) if is_time && i64::try_from(place).is_err() => exec_err!(
                "a series of timestamps reaches from year 1678 to 2261; add intervals to a date \
                 and a series of numbers instead"
            ),
            place => Ok(place),
        }
    };
    numbers.iter().map(place).collect()
}

fn steps(arg: &ColumnarValue) -> Result<Vec<Option<i128>>> {
    let array = arg.to_array(arg_rows(arg))?;
    let Some(steps) = array.as_primitive_opt::<IntervalMonthDayNanoType>() else {
        return places(arg);
    };
    let ns = |months: i32, days: i32, ns: i64| {
        i128::from(months) * MONTH_NS + i128::from(days) * DAY_NS + i128::from(ns)
    };
    let steps = steps.iter();
    Ok(steps
        .map(|step| step.map(|step| ns(step.months, step.days, step.nanoseconds)))
        .collect())
}
