//! Random schemas and batches come back from every form.

use std::sync::Arc;

use ::arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array,
    Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, ListArray, MapArray, RecordBatch,
    StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampNanosecondArray,
};
use ::arrow::buffer::{NullBuffer, OffsetBuffer};
use ::arrow::datatypes::{DataType, TimeUnit};
use proptest::prelude::*;
use proptest::test_runner::TestRng;

use super::{any_schema, reversed, without_ids};
use crate::ids::assign_fresh_ids;
use crate::{Primitive, TableSchema, Type, arrow, delta};

proptest! {
    #[test]
    fn iceberg_json_comes_back_byte_for_byte(schema in any_schema()) {
        schema.validate().unwrap();
        let text = serde_json::to_string(&schema).unwrap();
        let parsed = TableSchema::from_iceberg_json(&text).unwrap();
        prop_assert_eq!(&parsed, &schema);
        prop_assert_eq!(serde_json::to_string(&parsed).unwrap(), text);
    }

    #[test]
    fn a_schema_without_ids_gets_those_of_iceberg(schema in any_schema()) {
        let mut value = schema.to_iceberg_value();
        without_ids(&mut value);
        let parsed = TableSchema::from_iceberg_value(&value).unwrap();
        let mut expected = TableSchema { identifier_field_ids: vec![], ..schema };
        assign_fresh_ids(&mut expected);
        prop_assert_eq!(parsed, expected);
    }

    #[test]
    fn delta_schema_string_keeps_everything_but_the_schema_id(schema in any_schema()) {
        let text = delta::schema_string(&schema);
        let parsed = delta::from_schema_string(&text).unwrap();
        prop_assert_eq!(parsed, TableSchema { schema_id: 0, ..schema });
        prop_assert_eq!(delta::physical_names(&text).unwrap(), delta::PhysicalNames::new());
    }

    #[test]
    fn storage_and_logical_batches_convert_both_ways(
        (schema, seed) in (any_schema(), any::<[u8; 32]>())
    ) {
        let mut rng = TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &seed);
        let logical = arrow::to_arrow(&schema);
        let columns = logical.fields().iter()
            .map(|f| random_array(f.data_type(), f.is_nullable(), 7, &mut rng))
            .collect();
        let batch = RecordBatch::try_new(logical, columns).unwrap();
        let stored = arrow::to_storage(&batch, &schema).unwrap();
        prop_assert_eq!(stored.schema(), arrow::storage_schema(&schema));
        prop_assert!(stored.schema().fields().iter().all(|f| !has_time(f.data_type())));
        prop_assert_eq!(arrow::to_logical(&stored, &schema).unwrap(), batch.clone());
        // A slice keeps its rows.
        let part = arrow::to_storage(&batch.slice(2, 3), &schema).unwrap();
        prop_assert_eq!(part, stored.slice(2, 3));
    }

    #[test]
    fn columns_are_told_by_their_ids_wherever_they_stand(
        (schema, seed) in (any_schema(), any::<[u8; 32]>())
    ) {
        let mut rng = TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &seed);
        let logical = arrow::to_arrow(&schema);
        let columns = logical.fields().iter()
            .map(|f| random_array(f.data_type(), f.is_nullable(), 7, &mut rng))
            .collect();
        let batch = RecordBatch::try_new(logical.clone(), columns).unwrap();
        let mut moved = schema.clone();
        moved.fields = reversed(&schema.fields);
        let there = arrow::conform(&batch, &arrow::to_arrow(&moved), arrow::Identity::Id).unwrap();
        let last = there.num_columns() - 1;
        for (at, field) in schema.fields.iter().enumerate() {
            prop_assert_eq!(there.schema_ref().field(last - at).name(), &format!("{}.", field.name));
            if matches!(field.ty, Type::Primitive(_)) {
                prop_assert_eq!(there.column(last - at), batch.column(at));
            }
        }
        let back = arrow::conform(&there, &logical, arrow::Identity::Id).unwrap();
        prop_assert_eq!(back, batch.clone());
        // By names nothing is found again.
        let named = arrow::conform(&batch, &arrow::to_arrow(&moved), arrow::Identity::Name);
        prop_assert!(named.is_err());
    }

    #[test]
    fn arbitrary_text_is_refused_not_panicked_on(text in ".{0,60}") {
        let _ = TableSchema::from_iceberg_json(&text);
        let _ = delta::from_schema_string(&text);
        let _ = text.parse::<Primitive>();
    }
}

fn has_time(ty: &DataType) -> bool {
    match ty {
        DataType::Time64(_) | DataType::Timestamp(TimeUnit::Nanosecond, _) => true,
        DataType::Struct(fields) => fields.iter().any(|f| has_time(f.data_type())),
        DataType::List(inner) | DataType::Map(inner, _) => has_time(inner.data_type()),
        _ => false,
    }
}

fn random_array(ty: &DataType, nullable: bool, rows: usize, rng: &mut TestRng) -> ArrayRef {
    let bits: Vec<u64> = (0..rows).map(|_| rng.next_u64()).collect();
    let nulls = nullable
        .then(|| NullBuffer::from_iter(bits.iter().map(|bits| bits % 3 != 0)))
        .filter(|nulls| nulls.null_count() > 0);
    let long = || bits.iter().map(|bits| *bits as i64);
    let int = || bits.iter().map(|bits| *bits as i32);
    let wide = || bits.iter().map(|bits| i128::from(bits % 10));
    let lengths = || OffsetBuffer::from_lengths(bits.iter().map(|bits| (bits % 4) as usize));
    match ty {
        DataType::Boolean => Arc::new(BooleanArray::new(
            bits.iter().map(|b| b % 2 == 0).collect(),
            nulls,
        )),
        DataType::Int8 => Arc::new(Int8Array::new(int().map(|v| v as i8).collect(), nulls)),
        DataType::Int16 => Arc::new(Int16Array::new(int().map(|v| v as i16).collect(), nulls)),
        DataType::Int32 => Arc::new(Int32Array::new(int().collect(), nulls)),
        DataType::Int64 => Arc::new(Int64Array::new(long().collect(), nulls)),
        DataType::Float32 => Arc::new(Float32Array::new(int().map(|v| v as f32).collect(), nulls)),
        DataType::Float64 => Arc::new(Float64Array::new(long().map(|v| v as f64).collect(), nulls)),
        DataType::Decimal128(..) => {
            Arc::new(Decimal128Array::new(wide().collect(), nulls).with_data_type(ty.clone()))
        }
        DataType::Date32 => Arc::new(Date32Array::new(int().collect(), nulls)),
        DataType::Time64(_) => Arc::new(Time64MicrosecondArray::new(long().collect(), nulls)),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let array = TimestampMicrosecondArray::new(long().collect(), nulls);
            Arc::new(array.with_timezone_opt(zone.clone()))
        }
        DataType::Timestamp(_, zone) => {
            let array = TimestampNanosecondArray::new(long().collect(), nulls);
            Arc::new(array.with_timezone_opt(zone.clone()))
        }
        DataType::Utf8 => {
            let text: String = "é€x".repeat(rows);
            let offsets = OffsetBuffer::from_lengths((0..rows).map(|_| "é€x".len()));
            Arc::new(StringArray::new(offsets, text.into_bytes().into(), nulls))
        }
        DataType::Binary => {
            let offsets = lengths();
            let bytes = vec![7u8; offsets.last().copied().unwrap_or_default() as usize];
            Arc::new(BinaryArray::new(offsets, bytes.into(), nulls))
        }
        DataType::Struct(fields) => {
            let children = fields
                .iter()
                .map(|f| random_array(f.data_type(), f.is_nullable(), rows, rng))
                .collect();
            Arc::new(StructArray::new(fields.clone(), children, nulls))
        }
        DataType::List(element) => {
            let offsets = lengths();
            let inner = *offsets.last().unwrap() as usize;
            let values = random_array(element.data_type(), element.is_nullable(), inner, rng);
            Arc::new(ListArray::new(Arc::clone(element), offsets, values, nulls))
        }
        DataType::Map(entries, _) => {
            let offsets = lengths();
            let inner = *offsets.last().unwrap() as usize;
            let values = random_array(entries.data_type(), false, inner, rng);
            let values = values
                .as_any()
                .downcast_ref::<StructArray>()
                .unwrap()
                .clone();
            Arc::new(MapArray::new(
                Arc::clone(entries),
                offsets,
                values,
                nulls,
                false,
            ))
        }
        other => panic!("no table has a column of {other}"),
    }
}
