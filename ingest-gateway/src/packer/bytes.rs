//! How many bytes columns have, slices counted as what they show.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;

/// Bytes that a batch's rows take, without what lies outside of its slice.
pub(crate) fn column_bytes(batch: &RecordBatch) -> usize {
    batch
        .columns()
        .iter()
        .map(|column| array_bytes(column.as_ref()))
        .sum()
}

pub(super) fn array_bytes(array: &dyn Array) -> usize {
    let rows = array.len();
    let validity = if array.nulls().is_some() {
        rows.div_ceil(8)
    } else {
        0
    };
    let values = match array.data_type() {
        DataType::Boolean => rows.div_ceil(8),
        DataType::Utf8 => 4 * rows + spanned(array.as_string::<i32>().value_offsets()),
        DataType::Binary => 4 * rows + spanned(array.as_binary::<i32>().value_offsets()),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.value_offsets();
            4 * rows + child_bytes(list.values().as_ref(), offsets)
        }
        DataType::Map(..) => {
            let map = array.as_map();
            4 * rows + child_bytes(map.entries(), map.value_offsets())
        }
        DataType::Struct(_) => array
            .as_struct()
            .columns()
            .iter()
            .map(|column| array_bytes(column.as_ref()))
            .sum(),
        other => match other.primitive_width() {
            Some(width) => width * rows,
            None => array.to_data().get_slice_memory_size().unwrap_or(0),
        },
    };
    validity + values
}

fn span(offsets: &[i32]) -> (usize, usize) {
    match (offsets.first(), offsets.last()) {
        (Some(first), Some(last)) => (*first as usize, (*last - *first) as usize),
        _ => (0, 0),
    }
}

fn spanned(offsets: &[i32]) -> usize {
    span(offsets).1
}

fn child_bytes(child: &dyn Array, offsets: &[i32]) -> usize {
    let (first, len) = span(offsets);
    array_bytes(child.slice(first, len).as_ref())
}
