//! Grown columns into Arrow arrays, without copying.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, Date32Array, Decimal128Array,
    Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, ListArray, MapArray,
    NullBufferBuilder, StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampNanosecondArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, DataType, Fields};
use arrow::error::ArrowError;

use super::column::{Bytes, Column, Record, Values};

impl Column {
    /// Takes the values out as an array of `ty`, the column's own type; room for as many is kept.
    pub(super) fn finish(&mut self, ty: &DataType) -> Result<ArrayRef, ArrowError> {
        let length = self.len();
        let nulls = std::mem::replace(&mut self.nulls, NullBufferBuilder::new(length)).build();
        Ok(match (&mut self.values, ty) {
            (Values::Boolean(values), _) => {
                let values = std::mem::replace(values, BooleanBufferBuilder::new(length)).build();
                Arc::new(BooleanArray::new(values, nulls))
            }
            (Values::Byte(values), _) => Arc::new(Int8Array::try_new(take(values), nulls)?),
            (Values::Short(values), _) => Arc::new(Int16Array::try_new(take(values), nulls)?),
            (Values::Int(values), _) => Arc::new(Int32Array::try_new(take(values), nulls)?),
            (Values::Long(values), _) => Arc::new(Int64Array::try_new(take(values), nulls)?),
            (Values::Float(values), _) => Arc::new(Float32Array::try_new(take(values), nulls)?),
            (Values::Double(values), _) => Arc::new(Float64Array::try_new(take(values), nulls)?),
            (
                Values::Decimal {
                    values,
                    precision,
                    scale,
                },
                _,
            ) => {
                let array = Decimal128Array::try_new(take(values), nulls)?;
                Arc::new(array.with_precision_and_scale(*precision, *scale)?)
            }
            (Values::Date(values), _) => Arc::new(Date32Array::try_new(take(values), nulls)?),
            (Values::Time(values), _) => {
                Arc::new(Time64MicrosecondArray::try_new(take(values), nulls)?)
            }
            (Values::Timestamp { values, kind }, DataType::Timestamp(_, zone)) => {
                let zone = zone.clone();
                if kind.nanos {
                    let array = TimestampNanosecondArray::try_new(take(values), nulls)?;
                    Arc::new(array.with_timezone_opt(zone))
                } else {
                    let array = TimestampMicrosecondArray::try_new(take(values), nulls)?;
                    Arc::new(array.with_timezone_opt(zone))
                }
            }
            (Values::String(values) | Values::Uuid(values), _) => {
                let (offsets, data) = values.take();
                Arc::new(StringArray::try_new(offsets, data, nulls)?)
            }
            (Values::Fixed { values, .. } | Values::Binary(values), _) => {
                let (offsets, data) = values.take();
                Arc::new(BinaryArray::try_new(offsets, data, nulls)?)
            }
            (Values::Struct(record), DataType::Struct(fields)) => {
                Arc::new(record.finish(fields, nulls, length)?)
            }
            (Values::List { offsets, element }, DataType::List(field)) => {
                let values = element.finish(field.data_type())?;
                let offsets = take_offsets(offsets);
                Arc::new(ListArray::try_new(
                    Arc::clone(field),
                    offsets,
                    values,
                    nulls,
                )?)
            }
            (
                Values::Map {
                    offsets,
                    key,
                    value,
                    ..
                },
                DataType::Map(entries, sorted),
            ) => {
                let DataType::Struct(pair) = entries.data_type() else {
                    return Err(unlike(ty));
                };
                let length = key.len();
                let columns = vec![
                    key.finish(pair[0].data_type())?,
                    value.finish(pair[1].data_type())?,
                ];
                let rows = StructArray::try_new_with_length(pair.clone(), columns, None, length)?;
                let offsets = take_offsets(offsets);
                Arc::new(MapArray::try_new(
                    Arc::clone(entries),
                    offsets,
                    rows,
                    nulls,
                    *sorted,
                )?)
            }
            _ => return Err(unlike(ty)),
        })
    }
}

impl Bytes {
    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        let data = std::mem::take(&mut self.data);
        self.data.reserve(data.len());
        (take_offsets(&mut self.offsets), Buffer::from_vec(data))
    }
}

impl Record {
    pub(super) fn columns(&mut self, fields: &Fields) -> Result<Vec<ArrayRef>, ArrowError> {
        let slots = self.slots.iter_mut().zip(fields);
        slots
            .map(|(slot, field)| slot.column.finish(field.data_type()))
            .collect()
    }

    /// The columns at `places`, whose fields are `fields`; what was skipped is dropped.
    pub(super) fn picked(
        &mut self,
        places: &[usize],
        fields: &Fields,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let picked = places.iter().zip(fields);
        let columns = picked
            .map(|(place, field)| self.slots[*place].column.finish(field.data_type()))
            .collect();
        self.truncate(0);
        columns
    }

    fn finish(
        &mut self,
        fields: &Fields,
        nulls: Option<NullBuffer>,
        length: usize,
    ) -> Result<StructArray, ArrowError> {
        let columns = self.columns(fields)?;
        StructArray::try_new_with_length(fields.clone(), columns, nulls, length)
    }
}

fn take<T: ArrowNativeType>(values: &mut Vec<T>) -> ScalarBuffer<T> {
    let taken = std::mem::take(values);
    values.reserve(taken.len());
    ScalarBuffer::from(taken)
}

fn take_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let taken = take(offsets);
    offsets.push(0);
    OffsetBuffer::new(taken)
}

fn unlike(ty: &DataType) -> ArrowError {
    ArrowError::SchemaError(format!("a column builder cannot make {ty}"))
}
