//! Round trips of random schemas and batches, and the messages that users see.

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
use serde_json::{Value, json};
use tidelake_core::ErrorKind;
use tidelake_core::limits::{FIELDS_MAX, SCHEMA_DEPTH_MAX};

use crate::iceberg::assign_fresh_ids;
use crate::{Field, ListType, MapType, Primitive, Problem, SchemaError, TableSchema, Type};
use crate::{arrow, delta};

fn any_primitive() -> impl Strategy<Value = Primitive> {
    let decimal = (1u8..=38).prop_flat_map(|precision| {
        let scale = 0..=i8::try_from(precision).unwrap();
        scale.prop_map(move |scale| Primitive::Decimal { precision, scale })
    });
    prop_oneof![
        Just(Primitive::Boolean),
        Just(Primitive::Byte),
        Just(Primitive::Short),
        Just(Primitive::Int),
        Just(Primitive::Long),
        Just(Primitive::Float),
        Just(Primitive::Double),
        decimal,
        Just(Primitive::Date),
        Just(Primitive::Time),
        Just(Primitive::Timestamp),
        Just(Primitive::TimestampTz),
        Just(Primitive::TimestampNs),
        Just(Primitive::TimestampTzNs),
        Just(Primitive::String),
        Just(Primitive::Uuid),
        (1u32..100).prop_map(Primitive::Fixed),
        Just(Primitive::Binary),
    ]
}

fn any_fields(ty: impl Strategy<Value = Type> + Clone) -> impl Strategy<Value = Vec<Field>> {
    let doc = proptest::option::of("[ -~é]{0,12}");
    let field = (".{0,3}[a-z é.\"\\\\,;]", any::<bool>(), ty, doc);
    proptest::collection::vec(field, 1..5).prop_map(|fields| {
        let field = |(index, (name, required, ty, doc)): (usize, (String, bool, Type, _))| {
            let name: String = name.chars().filter(|c| !c.is_control()).collect();
            // The number keeps names distinct even without case.
            Field {
                id: 0,
                name: format!("{index}{name}"),
                required,
                ty,
                doc,
            }
        };
        fields.into_iter().enumerate().map(field).collect()
    })
}

fn any_type() -> impl Strategy<Value = Type> + Clone {
    let leaf = any_primitive().prop_map(Type::Primitive);
    leaf.prop_recursive(3, 12, 4, |inner| {
        let list = (any::<bool>(), inner.clone()).prop_map(|(element_required, element)| {
            Type::List(Box::new(ListType {
                element_id: 0,
                element_required,
                element,
            }))
        });
        let map = (inner.clone(), any::<bool>(), inner.clone()).prop_map(
            |(key, value_required, value)| {
                Type::Map(Box::new(MapType {
                    key_id: 0,
                    key,
                    value_id: 0,
                    value_required,
                    value,
                }))
            },
        );
        prop_oneof![list, map, any_fields(inner).prop_map(Type::Struct)]
    })
    .boxed()
}

/// Ids are shuffled by a bijection, so that nothing can rely on their order.
fn any_schema() -> impl Strategy<Value = TableSchema> {
    (any_fields(any_type()), any::<bool>(), 0..1000i32, 0..9i32).prop_map(
        |(fields, keyed, spread, schema_id)| {
            let mut schema = TableSchema {
                schema_id,
                fields,
                identifier_field_ids: vec![],
            };
            assign_fresh_ids(&mut schema);
            let last = schema.last_column_id();
            let shuffle = |id: &mut i32| *id = last + 1 - *id + spread;
            schema
                .fields
                .iter_mut()
                .for_each(|field| each_id(field, &shuffle));
            if keyed {
                let fits = |f: &&Field| {
                    f.required
                        && matches!(&f.ty, Type::Primitive(p)
                            if !matches!(p, Primitive::Float | Primitive::Double))
                };
                schema.identifier_field_ids = schema
                    .fields
                    .iter()
                    .rev()
                    .filter(fits)
                    .map(|f| f.id)
                    .collect();
            }
            schema
        },
    )
}

fn each_id(field: &mut Field, change: &impl Fn(&mut i32)) {
    fn inside(ty: &mut Type, change: &impl Fn(&mut i32)) {
        match ty {
            Type::Primitive(_) => {}
            Type::Struct(fields) => fields.iter_mut().for_each(|f| each_id(f, change)),
            Type::List(list) => {
                change(&mut list.element_id);
                inside(&mut list.element, change);
            }
            Type::Map(map) => {
                change(&mut map.key_id);
                change(&mut map.value_id);
                inside(&mut map.key, change);
                inside(&mut map.value, change);
            }
        }
    }
    change(&mut field.id);
    inside(&mut field.ty, change);
}

/// The fields in the opposite order under other names, nested ones too.
fn reversed(fields: &[Field]) -> Vec<Field> {
    fn inside(ty: &Type) -> Type {
        match ty {
            Type::Primitive(primitive) => Type::Primitive(*primitive),
            Type::Struct(fields) => Type::Struct(reversed(fields)),
            Type::List(list) => Type::List(Box::new(ListType {
                element: inside(&list.element),
                ..(**list).clone()
            })),
            Type::Map(map) => Type::Map(Box::new(MapType {
                key: inside(&map.key),
                value: inside(&map.value),
                ..(**map).clone()
            })),
        }
    }
    let fields = fields.iter().rev().map(|field| Field {
        name: format!("{}.", field.name),
        ty: inside(&field.ty),
        ..field.clone()
    });
    fields.collect()
}

fn without_ids(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|key, _| !["id", "element-id", "key-id", "value-id"].contains(&&key[..]));
            object.remove("identifier-field-ids");
            object.values_mut().for_each(without_ids);
        }
        Value::Array(values) => values.iter_mut().for_each(without_ids),
        _ => {}
    }
}

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

fn nested() -> TableSchema {
    TableSchema::from_iceberg_value(&json!({
        "type": "struct", "schema-id": 3, "identifier-field-ids": [2, 1],
        "fields": [
            {"id": 1, "name": "id", "required": true, "type": "long", "doc": "the key"},
            {"id": 2, "name": "who", "required": true, "type": "uuid"},
            {"id": 3, "name": "tags", "required": false, "type": {
                "type": "list", "element-id": 9, "element-required": true, "element": "time"}},
            {"id": 4, "name": "m", "required": false, "type": {
                "type": "map", "key-id": 10, "key": "uuid", "value-id": 11,
                "value-required": false, "value": {
                    "type": "list", "element-id": 12, "element-required": false,
                    "element": {"type": "struct", "fields": [
                        {"id": 13, "name": "raw", "required": false, "type": "fixed[16]"}]}}}},
        ]
    }))
    .unwrap()
}

#[test]
fn delta_schema_string_has_the_documented_shape() {
    let plain: Value = serde_json::from_str(&delta::schema_string(&nested())).unwrap();
    let mapped = delta::mapped_schema_string(&nested(), &delta::PhysicalNames::new());
    let mapped: Value = serde_json::from_str(&mapped).unwrap();
    assert_eq!(plain, expected_schema(|id, _| json!({"tidelake.id": id})));
    assert_eq!(
        mapped,
        expected_schema(|id, name| json!({
            "delta.columnMapping.id": id,
            "delta.columnMapping.physicalName": name,
        }))
    );
}

/// [`nested`] as a `schemaString`; `metadata` gives what identifies a field.
fn expected_schema(metadata: impl Fn(i32, &str) -> Value) -> Value {
    let with = |mut base: Value, more: Value| {
        base.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        base
    };
    json!({"type": "struct", "fields": [
        {"name": "id", "type": "long", "nullable": false, "metadata":
            with(metadata(1, "id"), json!({"comment": "the key", "tidelake.identifier": 1}))},
        {"name": "who", "type": "string", "nullable": false, "metadata":
            with(metadata(2, "who"), json!({"tidelake.type": "uuid", "tidelake.identifier": 0}))},
        {"name": "tags", "nullable": true,
            "type": {"type": "array", "elementType": "long", "containsNull": false}, "metadata":
            with(metadata(3, "tags"), json!({
                "tidelake.id.element": 9, "tidelake.type.element": "time"}))},
        {"name": "m", "nullable": true, "type": {"type": "map", "keyType": "string",
            "valueType": {"type": "array", "containsNull": true, "elementType":
                {"type": "struct", "fields": [{"name": "raw", "type": "binary", "nullable": true,
                    "metadata": with(metadata(13, "raw"), json!({"tidelake.type": "fixed[16]"}))}]}},
            "valueContainsNull": true}, "metadata":
            with(metadata(4, "m"), json!({
                "tidelake.id.key": 10, "tidelake.type.key": "uuid", "tidelake.id.value": 11,
                "tidelake.id.value.element": 12}))},
    ]})
}

#[test]
fn a_foreign_delta_table_without_column_mapping_is_read() {
    let text = json!({"type": "struct", "fields": [
        {"name": "a", "type": "short", "nullable": true, "metadata": {"x": [1]}},
        {"name": "d", "type": "byte", "nullable": true, "metadata": {}},
        {"name": "b", "type": {"type": "map", "keyType": "string", "valueType": "timestamp",
            "valueContainsNull": true}, "nullable": false, "metadata": {}},
        {"name": "c", "type": "decimal(9,2)", "nullable": true, "metadata": {"comment": "money"}},
    ]});
    let schema = delta::from_schema_string(&text.to_string()).unwrap();
    assert_eq!(
        schema.field("a").unwrap().ty,
        Type::Primitive(Primitive::Short)
    );
    assert_eq!(
        schema.field("d").unwrap().ty,
        Type::Primitive(Primitive::Byte)
    );
    let ids: Vec<_> = schema.fields.iter().map(|field| field.id).collect();
    assert_eq!((ids, schema.last_column_id()), (vec![1, 2, 3, 4], 6));
    assert_eq!(schema.field("c").unwrap().doc.as_deref(), Some("money"));
    assert!(schema.field("b").unwrap().required);
}

#[test]
fn physical_names_of_renamed_columns_survive() {
    let schema = nested();
    let names = delta::PhysicalNames::from([(1, "old".to_owned()), (13, "older".to_owned())]);
    let text = delta::mapped_schema_string(&schema, &names);
    assert_eq!(delta::physical_names(&text).unwrap(), names);
    assert_eq!(
        delta::from_schema_string(&text).unwrap(),
        TableSchema {
            schema_id: 0,
            ..schema
        }
    );
}

#[test]
fn only_names_that_delta_refuses_need_column_mapping() {
    assert!(!delta::needs_column_mapping(&nested()));
    for name in ["a b", "a,b", "a;b", "{a", "a}", "(a", "a)", "a=b"] {
        let mut schema = nested();
        schema.fields[0].name = name.to_owned();
        assert!(delta::needs_column_mapping(&schema), "{name}");
        let text = delta::schema_string(&schema);
        assert!(text.contains("delta.columnMapping.physicalName"), "{text}");
        assert_eq!(
            delta::from_schema_string(&text).unwrap().fields,
            schema.fields
        );
    }
    let mut schema = nested();
    let Type::Map(map) = &mut schema.fields[3].ty else {
        panic!("a map")
    };
    let Type::List(list) = &mut map.value else {
        panic!("a list")
    };
    let Type::Struct(fields) = &mut list.element else {
        panic!("a struct")
    };
    fields[0].name = "ra w".to_owned();
    assert!(delta::needs_column_mapping(&schema), "nested names count");
    for name in ["größe", "a.b", "a-b", "a:b", "a\"b", "a/b", "a'b", "a%20b"] {
        let mut schema = nested();
        schema.fields[0].name = name.to_owned();
        assert!(!delta::needs_column_mapping(&schema), "{name}");
    }
}

#[test]
fn columns_that_other_engines_add_have_one_id_in_every_order() {
    let text = delta::schema_string(&nested());
    let mut value: Value = serde_json::from_str(&text).unwrap();
    let fields = value["fields"].as_array_mut().unwrap();
    fields.push(json!({"name": "x", "type": "long", "nullable": true, "metadata": {}}));
    fields.push(
        json!({"name": "y", "nullable": true, "metadata": {}, "type":
        {"type": "array", "elementType": "string", "containsNull": true}}),
    );
    let added = delta::from_schema_string(&value.to_string()).unwrap();
    assert_eq!(added.fields[..4], nested().fields, "ours keep their ids");
    let id = |schema: &TableSchema, name: &str| schema.field(name).unwrap().id;
    value["fields"].as_array_mut().unwrap().reverse();
    let reversed = delta::from_schema_string(&value.to_string()).unwrap();
    for name in ["id", "x", "y"] {
        assert_eq!(id(&added, name), id(&reversed, name), "{name}");
    }
    assert_ne!(id(&added, "x"), id(&added, "y"));
    assert_eq!(added.identifier_field_ids, reversed.identifier_field_ids);
    let written = delta::schema_string(&added);
    assert_eq!(delta::from_schema_string(&written).unwrap(), added);
}

#[test]
fn numbers_that_other_engines_wrote_as_text_are_the_same_numbers() {
    fn as_text(value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(as_text),
            Value::Object(object) => object.values_mut().for_each(as_text),
            Value::Number(number) => *value = json!(number.to_string()),
            _ => {}
        }
    }
    let names = delta::PhysicalNames::from([(1, "old".to_owned()), (13, "older".to_owned())]);
    for written in [
        delta::schema_string(&nested()),
        delta::mapped_schema_string(&nested(), &names),
    ] {
        let mut value: Value = serde_json::from_str(&written).unwrap();
        as_text(&mut value);
        let text = value.to_string();
        assert_ne!(text, written);
        let (own, other) = (
            delta::from_schema_string(&written),
            delta::from_schema_string(&text),
        );
        assert_eq!(other.unwrap(), own.unwrap());
        assert_eq!(
            delta::physical_names(&text).unwrap(),
            delta::physical_names(&written).unwrap()
        );
    }
    let mut damaged: Value = serde_json::from_str(&delta::schema_string(&nested())).unwrap();
    damaged["fields"][0]["metadata"]["tidelake.id"] = json!("x");
    let error = delta::from_schema_string(&damaged.to_string()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("must be an id"), "{error}");
}

#[test]
fn what_other_engines_may_not_do_to_a_schema_is_told_by_column() {
    let change = |field: usize, key: &str, to: Value| {
        let mut value: Value = serde_json::from_str(&delta::schema_string(&nested())).unwrap();
        value["fields"][field][key] = to;
        delta::from_schema_string(&value.to_string())
            .unwrap_err()
            .to_string()
    };
    let nullable = change(0, "nullable", json!(true));
    assert!(
        nullable.contains("\"id\"") && nullable.contains("NOT NULL"),
        "{nullable}"
    );
    let hidden = change(2, "name", json!("__x"));
    assert!(
        hidden.contains("\"__x\"") && hidden.contains("reserved"),
        "{hidden}"
    );
    let unknown = change(2, "type", json!("variant"));
    assert!(
        unknown.contains("\"tags\"") && unknown.contains("variant"),
        "{unknown}"
    );
}

#[test]
fn files_have_physical_names_at_every_level() {
    let names = delta::PhysicalNames::from([(1, "col-1".to_owned()), (13, "col-13".to_owned())]);
    let stored = arrow::physical_schema(&nested(), &names);
    assert_eq!(stored.field(0).name(), "col-1");
    assert_eq!(stored.field(0).metadata()["PARQUET:field_id"], "1");
    assert!(stored.field(3).to_string().contains("col-13"), "{stored}");
    assert_eq!(
        arrow::physical_schema(&nested(), &delta::PhysicalNames::new()),
        arrow::storage_schema(&nested())
    );
}

#[test]
fn timestamp_ntz_is_found_wherever_it_hides() {
    assert!(!delta::uses_timestamp_ntz(&nested()));
    let mut schema = nested();
    schema.fields[2].ty = Type::List(Box::new(ListType {
        element_id: 9,
        element_required: true,
        element: Type::Primitive(Primitive::Timestamp),
    }));
    assert!(delta::uses_timestamp_ntz(&schema));
}

#[test]
fn arrow_schema_has_ids_and_parquet_names_at_every_level() {
    let arrow = arrow::to_arrow(&nested());
    let DataType::Map(entries, false) = arrow.field(3).data_type() else {
        panic!("a map")
    };
    assert_eq!(entries.name(), "key_value");
    let DataType::Struct(pair) = entries.data_type() else {
        panic!("a struct")
    };
    let names: Vec<_> = pair
        .iter()
        .map(|f| (f.name().as_str(), f.is_nullable()))
        .collect();
    assert_eq!(names, [("key", false), ("value", true)]);
    assert_eq!(pair[1].metadata()[arrow::FIELD_ID_KEY], "11");
    let DataType::List(element) = arrow.field(2).data_type() else {
        panic!("a list")
    };
    assert_eq!(
        (element.name().as_str(), element.is_nullable()),
        ("element", false)
    );
    assert_eq!(element.metadata()[arrow::FIELD_ID_KEY], "9");
}

#[test]
fn a_batch_of_another_shape_is_refused() {
    let schema = nested();
    let batch = RecordBatch::new_empty(arrow::to_arrow(&schema))
        .project(&[0])
        .unwrap();
    let error = arrow::to_storage(&batch, &schema).unwrap_err();
    assert!(matches!(error, SchemaError::Batch { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Bug);
}

fn message(value: Value) -> String {
    TableSchema::from_iceberg_value(&value)
        .unwrap_err()
        .to_string()
}

fn columns(fields: Value) -> Value {
    json!({"type": "struct", "fields": fields})
}

fn column(name: &str, ty: Value) -> Value {
    json!({"name": name, "required": false, "type": ty})
}

#[test]
fn messages_name_the_field_and_what_to_do() {
    let deep = (0..SCHEMA_DEPTH_MAX).fold(
        json!("int"),
        |inner, _| json!({"type": "list", "element-required": true, "element": inner}),
    );
    let many: Vec<_> = (0..=FIELDS_MAX)
        .map(|i| column(&format!("c{i}"), json!("int")))
        .collect();
    let key = |field: Value| json!({"fields": [field], "identifier-field-ids": [1]});
    let messages = [
        TableSchema::from_iceberg_json("{").unwrap_err().to_string(),
        message(json!([1])),
        message(json!({"type": "list", "fields": []})),
        message(json!({"type": "struct"})),
        message(columns(json!([]))),
        message(columns(json!([{"name": "a", "type": "int"}]))),
        message(columns(
            json!([{"name": "a", "required": "yes", "type": "int"}]),
        )),
        message(columns(json!([column("a", json!("integer"))]))),
        message(columns(json!([column("a", json!("decimal(39,2)"))]))),
        message(columns(json!([column("a", json!("fixed[0]"))]))),
        message(columns(json!([column(
            "a",
            json!({"type": "struct", "fields": []})
        )]))),
        message(columns(json!([column("", json!("int"))]))),
        message(columns(json!([column("__offset", json!("int"))]))),
        message(columns(json!([column("a\nb", json!("int"))]))),
        message(columns(json!([column(&"x".repeat(256), json!("int"))])))
            .replace(&"x".repeat(256), "xxx"),
        message(columns(json!([
            column("Id", json!("int")),
            column("iD", json!("int"))
        ]))),
        message(columns(json!([
            {"id": 1, "name": "a", "required": true, "type": "int"}, column("b", json!("int"))]))),
        message(columns(json!([
            {"id": 1, "name": "a", "required": true, "type": "int"},
            {"id": 1, "name": "b", "required": true, "type": "int"}]))),
        message(columns(
            json!([{"id": 0, "name": "a", "required": true, "type": "int"}]),
        )),
        message(columns(
            json!([{"name": "a", "required": true, "type": "int", "size": 3}]),
        )),
        message(columns(json!([
            {"name": "a", "required": true, "type": "int", "write-default": 3}]))),
        message(key(column("a", json!("int")))),
        message(key(
            json!({"name": "a", "required": true, "type": "double"}),
        )),
        message(json!({"fields": [column("a", json!("int"))], "identifier-field-ids": [7]})),
        message(columns(json!([column("a", deep)]))).replace(".element", ""),
        message(columns(json!(many))),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn nested_names_may_look_hidden_and_limits_are_inclusive() {
    let ty = json!({"type": "struct", "fields": [column("__typename", json!("string"))]});
    TableSchema::from_iceberg_value(&columns(json!([column("a", ty)]))).unwrap();
    let many: Vec<_> = (0..FIELDS_MAX)
        .map(|i| column(&format!("c{i}"), json!("int")))
        .collect();
    let schema = TableSchema::from_iceberg_value(&columns(json!(many))).unwrap();
    assert_eq!(schema.last_column_id(), FIELDS_MAX as i32);
}

#[test]
fn a_declared_type_that_contradicts_the_stored_one_is_refused() {
    let text = delta::schema_string(&nested()).replace("\"fixed[16]\"", "\"time\"");
    let error = delta::from_schema_string(&text).unwrap_err();
    assert_eq!(
        error,
        SchemaError::Field {
            path: "m.value.element.raw".to_owned(),
            problem: Problem::DeclaredType {
                declared: "time".into(),
                stored: "binary".into()
            },
        }
    );
}
