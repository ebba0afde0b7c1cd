//! The table schema as Arrow, in memory ("logical") and as Parquet stores it ("storage").
//!
//! | type | logical | storage, where it differs |
//! | --- | --- | --- |
//! | boolean | Boolean | |
//! | byte, short, int, long | Int8, Int16, Int32, Int64 | |
//! | float, double | Float32, Float64 | |
//! | decimal(p,s) | Decimal128(p,s) | |
//! | date | Date32 | |
//! | time | Time64(µs) | Int64: microseconds of the day |
//! | timestamp, timestamptz | Timestamp(µs), Timestamp(µs, "UTC") | |
//! | timestamp_ns, timestamptz_ns | Timestamp(ns), Timestamp(ns, "UTC") | Int64: nanoseconds since 1970 |
//! | string | Utf8 | |
//! | uuid | Utf8: canonical lower-case hyphenated text | |
//! | fixed\[n\], binary | Binary | |
//! | struct | Struct | |
//! | list | List(`element`) | |
//! | map | Map(`key_value`{`key`,`value`}) | |
//!
//! Storage differs where Delta has no such type. Both forms have the same buffers, so converting
//! costs no copy. Every position carries its id in the metadata key `PARQUET:field_id`.

mod conform;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{
    DataType, Field as ArrowField, FieldRef, Fields, Schema, SchemaRef, TimeUnit,
};

use crate::delta::{PhysicalNames, physical_name};
use crate::error::SchemaError;
use crate::types::{Field, ListType, MapType, Primitive, TableSchema, Type};

pub use conform::{Identity, conform};

/// Where Parquet readers and writers look for a field's id.
pub const FIELD_ID_KEY: &str = "PARQUET:field_id";
/// The zone of `timestamptz` and `timestamptz_ns`.
pub const UTC: &str = "UTC";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Logical,
    Storage,
}

/// What rows look like in memory and on the wire.
pub fn to_arrow(schema: &TableSchema) -> SchemaRef {
    Arc::new(Schema::new(fields(&schema.fields, Form::Logical)))
}

/// What rows look like in a data file, hidden columns aside.
pub fn storage_schema(schema: &TableSchema) -> SchemaRef {
    Arc::new(Schema::new(fields(&schema.fields, Form::Storage)))
}

/// As [`storage_schema`], with the names that the columns have in the files of the table: those of
/// its column mapping, nested ones too. Statistics of a file go by these names as well.
pub fn physical_schema(schema: &TableSchema, names: &PhysicalNames) -> SchemaRef {
    if names.is_empty() {
        return storage_schema(schema);
    }
    Arc::new(Schema::new(fields(
        &renamed(&schema.fields, names),
        Form::Storage,
    )))
}

fn renamed(fields: &[Field], names: &PhysicalNames) -> Vec<Field> {
    fn inside(ty: &Type, names: &PhysicalNames) -> Type {
        match ty {
            Type::Primitive(primitive) => Type::Primitive(*primitive),
            Type::Struct(fields) => Type::Struct(renamed(fields, names)),
            Type::List(list) => Type::List(Box::new(ListType {
                element: inside(&list.element, names),
                ..list.as_ref().clone()
            })),
            Type::Map(map) => Type::Map(Box::new(MapType {
                key: inside(&map.key, names),
                value: inside(&map.value, names),
                ..map.as_ref().clone()
            })),
        }
    }
    let each = fields.iter().map(|field| Field {
        name: physical_name(field, names).to_owned(),
        ty: inside(&field.ty, names),
        ..field.clone()
    });
    each.collect()
}

/// The logical Arrow type of one type, as it stands in [`to_arrow`].
pub fn data_type(ty: &Type) -> DataType {
    type_in(ty, Form::Logical)
}

/// A batch of [`to_arrow`] columns as [`storage_schema`] columns.
pub fn to_storage(batch: &RecordBatch, schema: &TableSchema) -> Result<RecordBatch, SchemaError> {
    conform(batch, &storage_schema(schema), Identity::Id)
}

/// A batch of [`storage_schema`] columns as [`to_arrow`] columns.
pub fn to_logical(batch: &RecordBatch, schema: &TableSchema) -> Result<RecordBatch, SchemaError> {
    conform(batch, &to_arrow(schema), Identity::Id)
}

fn fields(fields: &[Field], form: Form) -> Fields {
    fields
        .iter()
        .map(|f| position(&f.name, f.id, !f.required, &f.ty, form))
        .collect()
}

fn position(name: &str, id: i32, nullable: bool, ty: &Type, form: Form) -> FieldRef {
    let id = HashMap::from([(FIELD_ID_KEY.to_owned(), id.to_string())]);
    Arc::new(ArrowField::new(name, type_in(ty, form), nullable).with_metadata(id))
}

fn type_in(ty: &Type, form: Form) -> DataType {
    match ty {
        Type::Primitive(primitive) => primitive_in(*primitive, form),
        Type::Struct(inner) => DataType::Struct(fields(inner, form)),
        Type::List(list) => DataType::List(position(
            "element",
            list.element_id,
            !list.element_required,
            &list.element,
            form,
        )),
        Type::Map(map) => {
            let key = position("key", map.key_id, false, &map.key, form);
            let value = position("value", map.value_id, !map.value_required, &map.value, form);
            let entries = DataType::Struct(Fields::from(vec![key, value]));
            DataType::Map(
                Arc::new(ArrowField::new("key_value", entries, false)),
                false,
            )
        }
    }
}

fn primitive_in(primitive: Primitive, form: Form) -> DataType {
    let utc = || Some(Arc::from(UTC));
    match (primitive, form) {
        (Primitive::Boolean, _) => DataType::Boolean,
        (Primitive::Byte, _) => DataType::Int8,
        (Primitive::Short, _) => DataType::Int16,
        (Primitive::Int, _) => DataType::Int32,
        (Primitive::Long, _) => DataType::Int64,
        (Primitive::Float, _) => DataType::Float32,
        (Primitive::Double, _) => DataType::Float64,
        (Primitive::Decimal { precision, scale }, _) => DataType::Decimal128(precision, scale),
        (Primitive::Date, _) => DataType::Date32,
        (Primitive::Time, Form::Logical) => DataType::Time64(TimeUnit::Microsecond),
        (Primitive::Timestamp, _) => DataType::Timestamp(TimeUnit::Microsecond, None),
        (Primitive::TimestampTz, _) => DataType::Timestamp(TimeUnit::Microsecond, utc()),
        (Primitive::TimestampNs, Form::Logical) => DataType::Timestamp(TimeUnit::Nanosecond, None),
        (Primitive::TimestampTzNs, Form::Logical) => {
            DataType::Timestamp(TimeUnit::Nanosecond, utc())
        }
        (Primitive::Time | Primitive::TimestampNs | Primitive::TimestampTzNs, Form::Storage) => {
            DataType::Int64
        }
        (Primitive::String | Primitive::Uuid, _) => DataType::Utf8,
        (Primitive::Fixed(_) | Primitive::Binary, _) => DataType::Binary,
    }
}
