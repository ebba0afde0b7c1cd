//! Schema strings: ours, those of other writers, and what may not be in them.

use serde_json::{Value, json};

use super::nested;
use crate::{ListType, Primitive, Problem, SchemaError, TableSchema, Type, delta};

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
