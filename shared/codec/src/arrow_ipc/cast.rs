//! Primitive columns into the table's own types, where no value changes by it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::buffer::NullBuffer;
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, Float16Type, Float32Type, Float64Type,
    Time64MicrosecondType,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidelake_schema::Primitive;

use super::Misfit;
use super::nested::{arrow_misfit, slice_bytes};
use crate::allowance::Allowance;
use crate::decimal;
use crate::json::read::append_uuid;
use crate::reject::{Reason, excerpt};
use crate::temporal::MICROS_A_DAY;

/// What each value of any length adds to its bytes.
const OFFSET_BYTES: usize = 4;
/// A UUID as text.
const UUID_BYTES: usize = 36 + OFFSET_BYTES;

/// `array` as a column of `primitive`, whose Arrow type is `target`; rows that `live` calls null
/// are not looked at.
pub(super) fn fit_primitive(
    array: &ArrayRef,
    primitive: Primitive,
    target: &DataType,
    live: Option<&NullBuffer>,
    allowance: &mut Allowance,
) -> Result<ArrayRef, Misfit> {
    let from = array.data_type();
    if !family(from, primitive) {
        let (expected, found) = (primitive.to_string(), type_name(from));
        return Err(Misfit::column(Reason::WrongType { expected, found }));
    }
    let cast = if from == target {
        Arc::clone(array)
    } else if primitive == Primitive::Uuid && matches!(from, DataType::FixedSizeBinary(_)) {
        uuids_from_bytes(array, allowance)?
    } else {
        lossless(array, primitive, target, live, allowance)?
    };
    check_values(cast, primitive, live, allowance)
}

/// Which types are meant the same way.
fn family(from: &DataType, primitive: Primitive) -> bool {
    use DataType as D;
    let text = matches!(from, D::Utf8 | D::LargeUtf8);
    let bytes = matches!(from, D::Binary | D::LargeBinary | D::FixedSizeBinary(_));
    match primitive {
        Primitive::Boolean => *from == D::Boolean,
        Primitive::Byte
        | Primitive::Short
        | Primitive::Int
        | Primitive::Long
        | Primitive::Float
        | Primitive::Double
        | Primitive::Decimal { .. } => from.is_numeric(),
        Primitive::Date => matches!(from, D::Date32 | D::Date64),
        Primitive::Time => matches!(from, D::Time32(_) | D::Time64(_)),
        Primitive::Timestamp | Primitive::TimestampNs => matches!(from, D::Timestamp(_, None)),
        Primitive::TimestampTz | Primitive::TimestampTzNs => {
            matches!(from, D::Timestamp(_, Some(_)))
        }
        Primitive::String => text,
        Primitive::Uuid => text || *from == D::FixedSizeBinary(16),
        Primitive::Fixed(_) | Primitive::Binary => bytes,
    }
}

fn is_nan(array: &ArrayRef, row: usize) -> bool {
    match array.data_type() {
        DataType::Float16 => array.as_primitive::<Float16Type>().value(row).is_nan(),
        DataType::Float32 => array.as_primitive::<Float32Type>().value(row).is_nan(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).is_nan(),
        _ => false,
    }
}

/// Casts there and back; every live value must survive.
fn lossless(
    array: &ArrayRef,
    primitive: Primitive,
    target: &DataType,
    live: Option<&NullBuffer>,
    allowance: &mut Allowance,
) -> Result<ArrayRef, Misfit> {
    let given_bytes = slice_bytes(array);
    allowance.take(match target.primitive_width() {
        Some(width) => width.saturating_mul(array.len()),
        None => given_bytes.saturating_add(OFFSET_BYTES * array.len()),
    })?;
    let options = CastOptions {
        safe: true,
        ..CastOptions::default()
    };
    let there = cast_with_options(array, target, &options).map_err(arrow_misfit)?;
    let exact = matches!(
        primitive,
        Primitive::String | Primitive::Uuid | Primitive::Fixed(_) | Primitive::Binary
    );
    if exact {
        return Ok(there);
    }
    // The way back is given up again at once.
    allowance.take(given_bytes)?;
    allowance.give_back(given_bytes);
    let back = cast_with_options(&there, array.data_type(), &options).map_err(arrow_misfit)?;
    let lost = distinct(array, &back).map_err(arrow_misfit)?;
    let is_live = |row: &usize| live.is_none_or(|live| live.is_valid(*row));
    // A NaN stays one, whatever becomes of its other bits.
    let is_changed = |row: &usize| !(is_nan(array, *row) && is_nan(&there, *row));
    let mut lost = lost.values().set_indices();
    match lost.find(|row| is_live(row) && is_changed(row)) {
        None => Ok(there),
        Some(row) => {
            let (expected, found) = (primitive.to_string(), shown(array, row));
            let reason = if there.is_null(row) {
                Reason::OutOfRange { expected, found }
            } else {
                Reason::Inexact { expected, found }
            };
            Err(Misfit::row(row, reason))
        }
    }
}

/// What Arrow's type does not say and the table's does.
fn check_values(
    array: ArrayRef,
    primitive: Primitive,
    live: Option<&NullBuffer>,
    allowance: &mut Allowance,
) -> Result<ArrayRef, Misfit> {
    let first_bad = |good: &dyn Fn(usize) -> bool| {
        let is_live = |row: &usize| live.is_none_or(|live| live.is_valid(*row));
        (0..array.len()).filter(is_live).find(|row| !good(*row))
    };
    let bad = match primitive {
        Primitive::Time => {
            let values = array.as_primitive::<Time64MicrosecondType>().values();
            first_bad(&|row| (0..MICROS_A_DAY).contains(&values[row]))
        }
        Primitive::Decimal { precision, .. } => {
            let values = array.as_primitive::<Decimal128Type>().values();
            let limit = 10_u128.pow(precision.into());
            first_bad(&|row| values[row].unsigned_abs() < limit)
        }
        Primitive::Fixed(length) => {
            let values = array.as_binary::<i32>();
            first_bad(&|row| u32::try_from(values.value(row).len()) == Ok(length))
        }
        Primitive::Uuid => return canonical_uuids(array, live, allowance),
        Primitive::Float => {
            let odd = |value: f32| value.is_nan() && value.to_bits() != f32::NAN.to_bits();
            return one_nan::<Float32Type>(array, f32::NAN, odd, allowance);
        }
        Primitive::Double => {
            let odd = |value: f64| value.is_nan() && value.to_bits() != f64::NAN.to_bits();
            return one_nan::<Float64Type>(array, f64::NAN, odd, allowance);
        }
        _ => None,
    };
    match bad {
        None => Ok(array),
        Some(row) => {
            let (expected, found) = (primitive.to_string(), shown(&array, row));
            let reason = if let Primitive::Fixed(_) = primitive {
                Reason::InvalidValue {
                    expected,
                    found,
                    detail: "another length",
                }
            } else {
                Reason::OutOfRange { expected, found }
            };
            Err(Misfit::row(row, reason))
        }
    }
}

/// Puts the one NaN where there is another, `odd` one: they differ in sign and other bits, which
/// Arrow's order and equality go by. Processors make NaN with the sign bit set of `0.0 / 0.0`, and
/// whoever sent it meant no value below all numbers.
fn one_nan<T: ArrowPrimitiveType>(
    array: ArrayRef,
    nan: T::Native,
    odd: impl Fn(T::Native) -> bool,
    allowance: &mut Allowance,
) -> Result<ArrayRef, Misfit> {
    let floats = array.as_primitive::<T>();
    if !floats.values().iter().any(|value| odd(*value)) {
        return Ok(array);
    }
    allowance.take(size_of::<T::Native>().saturating_mul(array.len()))?;
    let one = floats.unary::<_, T>(|value| if odd(value) { nan } else { value });
    Ok(Arc::new(one))
}

/// Lower-cases where needed; most columns pass as they are.
fn canonical_uuids(
    array: ArrayRef,
    live: Option<&NullBuffer>,
    allowance: &mut Allowance,
) -> Result<ArrayRef, Misfit> {
    let text = array.as_string::<i32>();
    let is_live = |row: &usize| live.is_none_or(|live| live.is_valid(*row));
    let mut canonical = Vec::with_capacity(36);
    let mut changed = false;
    for row in (0..text.len()).filter(is_live) {
        canonical.clear();
        append_uuid(text.value(row).as_bytes(), &mut canonical).map_err(|detail| {
            let found = format!("string \"{}\"", excerpt(text.value(row).as_bytes()));
            let expected = Primitive::Uuid.to_string();
            Misfit::row(
                row,
                Reason::InvalidValue {
                    expected,
                    found,
                    detail,
                },
            )
        })?;
        changed |= canonical != text.value(row).as_bytes();
    }
    if !changed {
        return Ok(array);
    }
    allowance.take_each(text.len(), UUID_BYTES)?;
    let mut builder = StringBuilder::with_capacity(text.len(), 36 * text.len());
    for row in 0..text.len() {
        if is_live(&row) {
            builder.append_value(text.value(row).to_ascii_lowercase());
        } else {
            builder.append_null();
        }
    }
    Ok(Arc::new(builder.finish()))
}

fn uuids_from_bytes(array: &ArrayRef, allowance: &mut Allowance) -> Result<ArrayRef, Misfit> {
    allowance.take_each(array.len(), UUID_BYTES)?;
    let bytes = array.as_fixed_size_binary();
    let mut builder = StringBuilder::with_capacity(bytes.len(), 36 * bytes.len());
    let mut text = String::with_capacity(36);
    for value in bytes {
        let Some(value) = value else {
            builder.append_null();
            continue;
        };
        text.clear();
        for (index, byte) in value.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            for nibble in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(nibble.into(), 16));
            }
        }
        builder.append_value(&text);
    }
    Ok(Arc::new(builder.finish()))
}

/// A value as messages quote it.
fn shown(array: &ArrayRef, row: usize) -> String {
    // Arrow prints no more digits than the precision allows, which is what may be wrong here.
    if let DataType::Decimal128(_, scale) = array.data_type() {
        let mut text = Vec::new();
        decimal::print(
            array.as_primitive::<Decimal128Type>().value(row),
            *scale,
            &mut text,
        );
        return excerpt(&text);
    }
    let options = FormatOptions::default();
    let text = ArrayFormatter::try_new(array, &options)
        .and_then(|formatter| formatter.value(row).try_to_string());
    text.map_or_else(|_| "a value".to_owned(), |text| excerpt(text.as_bytes()))
}

/// An Arrow type as messages name it.
pub(super) fn type_name(ty: &DataType) -> String {
    format!("a column of type {}", excerpt(ty.to_string().as_bytes()))
}
