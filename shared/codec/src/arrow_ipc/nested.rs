//! Columns of any depth into the table's own types: nulls, structs, lists and maps.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, UInt32Array, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field as ArrowField};
use tidelake_schema::Type;

use super::cast::{fit_primitive, type_name};
use super::{Misfit, corrupt, fit_field};
use crate::allowance::Allowance;
use crate::reject::Reason;

/// `array` as a column of `ty`, whose Arrow type is `target`. Rows that `live` calls null lie
/// beneath a null and are not looked at.
pub(super) fn fit(
    array: &ArrayRef,
    ty: &Type,
    target: &DataType,
    required: bool,
    live: Option<&NullBuffer>,
    allowance: &mut Allowance,
) -> Result<ArrayRef, Misfit> {
    // Who is null, and who is looked at.
    allowance.take(array.len().div_ceil(4))?;
    let array = &plain(array, allowance)?;
    let own = array.logical_nulls();
    if required && let Some(own) = own.as_ref().filter(|own| own.null_count() > 0) {
        let live = |row: &usize| live.is_none_or(|live| live.is_valid(*row));
        if let Some(row) = (0..array.len()).filter(live).find(|row| own.is_null(*row)) {
            return Err(Misfit::row(row, Reason::NullInRequired));
        }
    }
    if *array.data_type() == DataType::Null {
        return nulls(target, array.len(), allowance);
    }
    let live = NullBuffer::union(own.as_ref(), live);
    let live = live.filter(|live| live.null_count() > 0);
    match (ty, array.data_type()) {
        (Type::Primitive(primitive), _) => {
            fit_primitive(array, *primitive, target, live.as_ref(), allowance)
        }
        (Type::Struct(fields), DataType::Struct(_)) => {
            fit_struct(array.as_struct(), fields, target, live, allowance)
        }
        (
            Type::List(list),
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..),
        ) => {
            let DataType::List(field) = target else {
                return Err(unlike(ty, array));
            };
            let array = small_list(array, allowance)?;
            let items = Items::of(array.offsets(), live.as_ref(), allowance)?;
            let values = items.pick(array.values(), allowance)?;
            let (inner, required) = (&list.element, list.element_required);
            let values = fit(&values, inner, field.data_type(), required, None, allowance)
                .map_err(|misfit| items.misfit(misfit, true))?;
            let array = ListArray::try_new(Arc::clone(field), items.offsets, values, live);
            Ok(Arc::new(array.map_err(arrow_misfit)?))
        }
        (Type::Map(map), DataType::Map(..)) => {
            let DataType::Map(entries, sorted) = target else {
                return Err(unlike(ty, array));
            };
            let DataType::Struct(pair) = entries.data_type() else {
                return Err(unlike(ty, array));
            };
            let array = array.as_map();
            let items = Items::of(array.offsets(), live.as_ref(), allowance)?;
            let keys = items.pick(array.keys(), allowance)?;
            let values = items.pick(array.values(), allowance)?;
            let keys = fit(&keys, &map.key, pair[0].data_type(), true, None, allowance)
                .map_err(|misfit| items.misfit(misfit.inside("key"), false))?;
            let required = map.value_required;
            let value = pair[1].data_type();
            let values = fit(&values, &map.value, value, required, None, allowance)
                .map_err(|misfit| items.misfit(misfit.inside("value"), false))?;
            let rows = StructArray::try_new(pair.clone(), vec![keys, values], None);
            let rows = rows.map_err(arrow_misfit)?;
            let field = Arc::clone(entries);
            let array = MapArray::try_new(field, items.offsets, rows, live, *sorted);
            Ok(Arc::new(array.map_err(arrow_misfit)?))
        }
        _ => Err(unlike(ty, array)),
    }
}

/// A column of nothing but nulls.
pub(super) fn nulls(
    target: &DataType,
    rows: usize,
    allowance: &mut Allowance,
) -> Result<ArrayRef, Misfit> {
    allowance.take(null_bits(target).saturating_mul(rows).div_ceil(8))?;
    Ok(new_null_array(target, rows))
}

/// Bits that a null of the table's type takes.
fn null_bits(target: &DataType) -> usize {
    1 + match target {
        DataType::Struct(fields) => fields.iter().map(|f| null_bits(f.data_type())).sum(),
        DataType::Boolean => 1,
        // What is of any length has an offset.
        other => 8 * other.primitive_width().unwrap_or(size_of::<i32>()),
    }
}

/// Bytes of an array's rows, where they share buffers with others.
pub(super) fn slice_bytes(array: &ArrayRef) -> usize {
    let slice = array.to_data().get_slice_memory_size();
    slice.unwrap_or_else(|_| array.get_array_memory_size())
}

/// Dictionaries and views spelled out.
fn plain(array: &ArrayRef, allowance: &mut Allowance) -> Result<ArrayRef, Misfit> {
    let views = |lengths: &mut dyn Iterator<Item = u32>| {
        lengths.fold(0, |sum: usize, length| sum.saturating_add(length as usize))
    };
    let (to, bytes) = match array.data_type() {
        DataType::Dictionary(_, to) => {
            let bytes = spelled_bytes(array, allowance)?;
            (to.as_ref().clone(), bytes)
        }
        DataType::Utf8View => {
            let bytes = views(&mut array.as_string_view().lengths());
            (DataType::Utf8, bytes)
        }
        DataType::BinaryView => {
            let bytes = views(&mut array.as_binary_view().lengths());
            (DataType::Binary, bytes)
        }
        _ => return Ok(Arc::clone(array)),
    };
    // An offset, or what else each value has beside its bytes.
    let each = if matches!(to, DataType::Utf8View | DataType::BinaryView) {
        16
    } else {
        8
    };
    allowance.take_each(array.len(), each)?;
    allowance.take(bytes)?;
    let spelled = cast(array, &to).map_err(arrow_misfit)?;
    // A dictionary may hold views.
    if matches!(to, DataType::Utf8View | DataType::BinaryView) {
        plain(&spelled, allowance)
    } else {
        Ok(spelled)
    }
}

/// Bytes of a dictionary's values, each as often as a row has it.
fn spelled_bytes(array: &ArrayRef, allowance: &mut Allowance) -> Result<usize, Misfit> {
    let dictionary = array.as_any_dictionary();
    let values = dictionary.values();
    let Some(length) = value_length(values) else {
        let expected = "a plain column".to_owned();
        let found = type_name(array.data_type());
        return Err(Misfit::column(Reason::WrongType { expected, found }));
    };
    let keys_bytes = array.len().saturating_mul(size_of::<usize>());
    allowance.take(keys_bytes)?;
    allowance.give_back(keys_bytes);
    let used = dictionary.normalized_keys();
    // Keys of nulls are normalized to anything.
    let bytes = used
        .iter()
        .filter(|key| **key < values.len())
        .map(|key| length(*key));
    Ok(bytes.fold(0, usize::saturating_add))
}

/// The length of each value of a dictionary; none for values that have parts.
fn value_length(values: &ArrayRef) -> Option<Box<dyn Fn(usize) -> usize + '_>> {
    Some(match values.data_type() {
        DataType::Utf8 => Box::new(|row| values.as_string::<i32>().value(row).len()),
        DataType::LargeUtf8 => Box::new(|row| values.as_string::<i64>().value(row).len()),
        DataType::Utf8View => Box::new(|row| values.as_string_view().value(row).len()),
        DataType::Binary => Box::new(|row| values.as_binary::<i32>().value(row).len()),
        DataType::LargeBinary => Box::new(|row| values.as_binary::<i64>().value(row).len()),
        DataType::BinaryView => Box::new(|row| values.as_binary_view().value(row).len()),
        DataType::FixedSizeBinary(length) => {
            let length = usize::try_from(*length).unwrap_or(usize::MAX);
            Box::new(move |_| length)
        }
        DataType::Boolean | DataType::Null => Box::new(|_| 1),
        other => {
            let width = other.primitive_width()?;
            Box::new(move |_| width)
        }
    })
}

fn fit_struct(
    array: &StructArray,
    fields: &[tidelake_schema::Field],
    target: &DataType,
    live: Option<NullBuffer>,
    allowance: &mut Allowance,
) -> Result<ArrayRef, Misfit> {
    let DataType::Struct(wanted) = target else {
        return Err(Misfit::column(Reason::UnknownField));
    };
    let given = array.fields();
    for (index, field) in given.iter().enumerate() {
        let named = |other: &ArrowField| other.name() == field.name();
        let reason = if !fields.iter().any(|known| known.name == *field.name()) {
            Reason::UnknownField
        } else if given[..index].iter().any(|other| named(other)) {
            Reason::DuplicateField
        } else {
            continue;
        };
        return Err(Misfit::column(reason).inside(field.name()));
    }
    let mut children = Vec::with_capacity(fields.len());
    for (field, wanted) in fields.iter().zip(wanted) {
        let column = array.column_by_name(&field.name);
        let rows = array.len();
        let wanted = wanted.data_type();
        let fitted = fit_field(column, field, wanted, rows, live.as_ref(), allowance);
        children.push(fitted.map_err(|misfit| misfit.inside(&field.name))?);
    }
    let array = StructArray::try_new_with_length(wanted.clone(), children, live, array.len());
    Ok(Arc::new(array.map_err(arrow_misfit)?))
}

fn small_list(array: &ArrayRef, allowance: &mut Allowance) -> Result<ListArray, Misfit> {
    let field = match array.data_type() {
        DataType::List(_) => return Ok(array.as_list::<i32>().clone()),
        DataType::LargeList(field) | DataType::FixedSizeList(field, _) => Arc::clone(field),
        other => {
            return Err(Misfit::column(Reason::WrongType {
                expected: "list".to_owned(),
                found: type_name(other),
            }));
        }
    };
    allowance.take_each(array.len() + 1, size_of::<i32>())?;
    let list = cast(array, &DataType::List(field)).map_err(arrow_misfit)?;
    Ok(list.as_list::<i32>().clone())
}

/// The items of lists or maps, without those that lie beneath a null or outside every row.
struct Items {
    offsets: OffsetBuffer<i32>,
    pick: Pick,
}

enum Pick {
    Range(usize, usize),
    Rows(UInt32Array),
}

impl Items {
    fn of(
        offsets: &OffsetBuffer<i32>,
        live: Option<&NullBuffer>,
        allowance: &mut Allowance,
    ) -> Result<Self, Misfit> {
        allowance.take_each(offsets.len(), size_of::<i32>())?;
        let first = offsets.first().copied().unwrap_or_default();
        let last = offsets.last().copied().unwrap_or_default();
        let dead = |row: usize| live.is_some_and(|live| live.is_null(row));
        let lengths = || offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize);
        if !lengths()
            .enumerate()
            .any(|(row, length)| length > 0 && dead(row))
        {
            let shifted: Vec<i32> = offsets.iter().map(|offset| offset - first).collect();
            let offsets = OffsetBuffer::new(shifted.into());
            return Ok(Self {
                offsets,
                pick: Pick::Range(first as usize, (last - first) as usize),
            });
        }
        allowance.take_each((last - first) as usize, size_of::<u32>())?;
        let kept = |(row, length)| if dead(row) { 0 } else { length };
        let kept_lengths = lengths().enumerate().map(kept);
        let live_rows = offsets
            .windows(2)
            .enumerate()
            .filter(|(row, _)| !dead(*row));
        let rows = live_rows.flat_map(|(_, pair)| pair[0] as u32..pair[1] as u32);
        Ok(Self {
            offsets: OffsetBuffer::from_lengths(kept_lengths),
            pick: Pick::Rows(rows.collect()),
        })
    }

    fn pick(&self, values: &ArrayRef, allowance: &mut Allowance) -> Result<ArrayRef, Misfit> {
        match &self.pick {
            Pick::Range(0, length) if *length == values.len() => Ok(Arc::clone(values)),
            Pick::Range(first, length) => Ok(values.slice(*first, *length)),
            Pick::Rows(rows) => {
                allowance.take(slice_bytes(values))?;
                take(values, rows, None).map_err(arrow_misfit)
            }
        }
    }

    /// From a row of the items to the row that holds it.
    fn misfit(&self, misfit: Misfit, numbered: bool) -> Misfit {
        let Some(item) = misfit.row else {
            return misfit;
        };
        let row = self
            .offsets
            .partition_point(|offset| *offset as usize <= item);
        let row = row.saturating_sub(1);
        let index = item - self.offsets[row] as usize;
        let fault = if numbered {
            misfit.fault.at_index(index)
        } else {
            misfit.fault
        };
        Misfit {
            row: Some(row),
            fault,
        }
    }
}

fn unlike(ty: &Type, array: &ArrayRef) -> Misfit {
    let (expected, found) = (ty.name(), type_name(array.data_type()));
    Misfit::column(Reason::WrongType { expected, found })
}

pub(super) fn arrow_misfit(error: arrow::error::ArrowError) -> Misfit {
    Misfit::column(corrupt(&error))
}
