//! The messages that users see.

use serde_json::{Value, json};
use tidelake_core::limits::{FIELDS_MAX, SCHEMA_DEPTH_MAX};

use crate::TableSchema;

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
