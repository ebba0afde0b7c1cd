//! What the types of result columns are called: Iceberg's names where there is one.

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};

use super::shape::DECLARED_TYPE;

/// The name of a field's type, such as `long`, `decimal(10,2)` or `list<string>`.
pub(crate) fn type_name(field: &Field) -> String {
    match field.metadata().get(DECLARED_TYPE) {
        Some(declared) => declared.clone(),
        None => name(field.data_type()),
    }
}

fn name(data_type: &DataType) -> String {
    use DataType as T;
    match data_type {
        T::Null => "unknown".into(),
        T::Boolean => "boolean".into(),
        T::Int8 => "byte".into(),
        T::Int16 => "short".into(),
        T::Int32 | T::UInt8 | T::UInt16 => "int".into(),
        T::Int64 | T::UInt32 | T::UInt64 => "long".into(),
        T::Float16 | T::Float32 => "float".into(),
        T::Float64 => "double".into(),
        T::Decimal32(p, s) | T::Decimal64(p, s) | T::Decimal128(p, s) | T::Decimal256(p, s) => {
            format!("decimal({p},{s})")
        }
        T::Date32 | T::Date64 => "date".into(),
        T::Time32(_) | T::Time64(_) => "time".into(),
        T::Timestamp(unit, zone) => {
            let zoned = if zone.is_some() {
                "timestamptz"
            } else {
                "timestamp"
            };
            match unit {
                TimeUnit::Nanosecond => format!("{zoned}_ns"),
                _ => zoned.into(),
            }
        }
        T::Duration(_) | T::Interval(_) => "interval".into(),
        T::Utf8 | T::LargeUtf8 | T::Utf8View => "string".into(),
        T::Binary | T::LargeBinary | T::BinaryView => "binary".into(),
        T::FixedSizeBinary(length) => format!("fixed[{length}]"),
        T::List(element)
        | T::LargeList(element)
        | T::ListView(element)
        | T::LargeListView(element)
        | T::FixedSizeList(element, _) => format!("list<{}>", type_name(element)),
        T::Struct(fields) => {
            let parts: Vec<_> = fields
                .iter()
                .map(|f| format!("{}: {}", f.name(), type_name(f)))
                .collect();
            format!("struct<{}>", parts.join(", "))
        }
        T::Map(entries, _) => match entries.data_type() {
            T::Struct(fields) if fields.len() == 2 => {
                format!("map<{}, {}>", type_name(&fields[0]), type_name(&fields[1]))
            }
            _ => "map".into(),
        },
        T::Dictionary(_, values) => name(values),
        T::RunEndEncoded(_, values) => type_name(values),
        T::Union(_, _) => "union".into(),
    }
}
