//! A table schema read off a file.
//!
//! | Arrow | column type |
//! | --- | --- |
//! | Boolean | boolean |
//! | Int8..Int32, UInt8, UInt16 | int |
//! | Int64, UInt32 | long |
//! | UInt64 | decimal(20,0) |
//! | Float16, Float32 · Float64 | float · double |
//! | Decimal(p,s), p up to 38, s from 0 to p | decimal(p,s) |
//! | Utf8, LargeUtf8, Utf8View, Null | string |
//! | Binary, LargeBinary, BinaryView · FixedSizeBinary(n) | binary · fixed[n] |
//! | Date32, Date64 | date |
//! | Time32, Time64 | time |
//! | Timestamp without zone (with) | timestamp (timestamptz); of nanoseconds timestamp_ns (timestamptz_ns) |
//! | List, LargeList, FixedSizeList · Struct · Map | list · struct · map |
//! | Dictionary | as its values |
//!
//! Every column may be null: what the file shows is no promise about what comes later.

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use serde_json::{Value, json};

use crate::failure::Failure;

/// Iceberg schema JSON, ids left out.
pub(super) fn table_schema(schema: &Schema) -> Result<Value, Failure> {
    Ok(
        json!({ "type": "struct", "fields": fields(schema.fields().iter().map(AsRef::as_ref), "")? }),
    )
}

/// Makes columns the primary key, in this order.
pub(super) fn make_key(schema: &mut Value, key: &[String]) -> Result<(), Failure> {
    if key.is_empty() {
        return Ok(());
    }
    // A key names columns by their ids, and a schema has all ids or none.
    number(schema, &mut 0);
    let mut ids = vec![Value::Null; key.len()];
    for field in fields_of(schema) {
        let id = field["id"].clone();
        if let Some(at) = key
            .iter()
            .position(|column| field["name"] == column.as_str())
        {
            field["required"] = json!(true);
            ids[at] = id;
        }
    }
    if let Some(at) = ids.iter().position(Value::is_null) {
        let message = format!("the file has no column {:?} for the primary key", key[at]);
        return Err(Failure::usage(message));
    }
    schema["identifier-field-ids"] = json!(ids);
    Ok(())
}

/// Gives ids to all fields of a type, at every depth.
fn number(ty: &mut Value, last: &mut usize) {
    let mut next = || {
        *last += 1;
        json!(*last)
    };
    let parts: &[(&str, &str)] = match ty.get("type").and_then(Value::as_str) {
        Some("list") => &[("element", "element-id")],
        Some("map") => &[("key", "key-id"), ("value", "value-id")],
        _ => &[],
    };
    for (_, id) in parts {
        ty[*id] = next();
    }
    for field in fields_of(ty) {
        field["id"] = next();
    }
    for (part, _) in parts {
        number(&mut ty[*part], last);
    }
    for field in fields_of(ty) {
        number(&mut field["type"], last);
    }
}

fn fields_of(ty: &mut Value) -> impl Iterator<Item = &mut Value> {
    let fields = ty.get_mut("fields").and_then(Value::as_array_mut);
    fields.into_iter().flatten()
}

fn fields<'a>(
    columns: impl Iterator<Item = &'a Field>,
    within: &str,
) -> Result<Vec<Value>, Failure> {
    columns
        .map(|field| {
            let path = format!("{within}{}", field.name());
            let ty = column_type(field.data_type(), &path)?;
            Ok(json!({ "name": field.name(), "type": ty, "required": false }))
        })
        .collect()
}

fn column_type(ty: &DataType, path: &str) -> Result<Value, Failure> {
    let name = match ty {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => {
            "int".to_owned()
        }
        DataType::Int64 | DataType::UInt32 => "long".to_owned(),
        DataType::UInt64 => "decimal(20,0)".to_owned(),
        DataType::Float16 | DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale)
            if *precision <= 38 && *scale >= 0 && i16::from(*scale) <= i16::from(*precision) =>
        {
            format!("decimal({precision},{scale})")
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
            "string".to_owned()
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary".to_owned(),
        DataType::FixedSizeBinary(length) => format!("fixed[{length}]"),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "time".to_owned(),
        DataType::Timestamp(unit, zone) => {
            let base = if zone.is_some() {
                "timestamptz"
            } else {
                "timestamp"
            };
            let nanos = if *unit == TimeUnit::Nanosecond {
                "_ns"
            } else {
                ""
            };
            format!("{base}{nanos}")
        }
        DataType::Dictionary(_, values) => return column_type(values, path),
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::FixedSizeList(element, _) => {
            let element = column_type(element.data_type(), &format!("{path}[]"))?;
            return Ok(json!({ "type": "list", "element-required": false, "element": element }));
        }
        DataType::Struct(inner) => {
            let inner = fields(inner.iter().map(AsRef::as_ref), &format!("{path}."))?;
            return Ok(json!({ "type": "struct", "fields": inner }));
        }
        DataType::Map(entries, _) => return map_type(entries, path),
        other => {
            let message = format!("column {path:?}: type {other} has no place in a table");
            return Err(Failure::failed(message).hint("make the table with a schema of your own"));
        }
    };
    Ok(json!(name))
}

fn map_type(entries: &Field, path: &str) -> Result<Value, Failure> {
    let DataType::Struct(pair) = entries.data_type() else {
        return Err(Failure::failed(format!(
            "column {path:?}: the map has no entries"
        )));
    };
    let [key, value] = &pair[..] else {
        return Err(Failure::failed(format!(
            "column {path:?}: the map has no key and value"
        )));
    };
    Ok(json!({
        "type": "map",
        "key": column_type(key.data_type(), &format!("{path}.key"))?,
        "value": column_type(value.data_type(), &format!("{path}.value"))?,
        "value-required": false,
    }))
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_of_a_file_become_the_key_of_a_table() {
        use super::*;
        let nested = Field::new_list("tags", Field::new("item", DataType::Utf8, true), true);
        let file = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            nested,
            Field::new("region", DataType::Utf8, true),
        ]);
        let mut schema = table_schema(&file).unwrap();
        make_key(&mut schema, &["region".into(), "id".into()]).unwrap();
        let made = tidelake_schema::TableSchema::from_iceberg_value(&schema).unwrap();
        let key = made.identifier_fields();
        let key: Vec<_> = key
            .iter()
            .map(|field| (field.name.as_str(), field.required))
            .collect();
        assert_eq!(key, [("region", true), ("id", true)]);
        let none = make_key(&mut schema, &["x".into()]).unwrap_err();
        assert!(none.message.contains("no column \"x\""), "{}", none.message);
    }

    use std::sync::Arc;

    use tidelake_schema::TableSchema;

    use super::*;

    #[test]
    fn what_is_inferred_is_a_valid_schema() {
        let item = |ty| Arc::new(Field::new("item", ty, true));
        let entries = DataType::Struct(
            vec![
                Field::new("k", DataType::Utf8, false),
                Field::new("v", DataType::Int64, true),
            ]
            .into(),
        );
        let point = vec![Field::new("x", DataType::Float64, true)];
        let schema = Schema::new(vec![
            Field::new("id", DataType::UInt64, false),
            Field::new(
                "at",
                DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
                true,
            ),
            Field::new("price", DataType::Decimal128(10, 2), true),
            Field::new("tags", DataType::LargeList(item(DataType::LargeUtf8)), true),
            Field::new("pt", DataType::Struct(point.into()), true),
            Field::new(
                "m",
                DataType::Map(Arc::new(Field::new("e", entries, false)), false),
                true,
            ),
            Field::new("h", DataType::FixedSizeBinary(4), true),
        ]);
        let schema = TableSchema::from_iceberg_value(&table_schema(&schema).unwrap()).unwrap();
        let names: Vec<&str> = schema
            .fields
            .iter()
            .map(|field| field.name.as_str())
            .collect();
        assert_eq!(names, ["id", "at", "price", "tags", "pt", "m", "h"]);
        assert!(schema.fields.iter().all(|field| !field.required));
    }

    #[test]
    fn a_type_without_a_place_names_its_column() {
        let inner = vec![Field::new("d", DataType::Duration(TimeUnit::Second), true)];
        let schema = Schema::new(vec![Field::new("s", DataType::Struct(inner.into()), true)]);
        let failure = table_schema(&schema).unwrap_err();
        assert!(failure.message.contains("\"s.d\""), "{}", failure.message);
    }
}
