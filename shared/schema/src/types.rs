//! The table schema: fields with ids.
//!
//! Owns the value types; what makes them valid is [`TableSchema::validate`]. Every public way of
//! making a schema from text validates it; a schema built by hand must be validated by its builder.

use std::fmt;

use crate::error::Problem;

/// Bytes of a column's name.
pub const COLUMN_NAME_BYTES_MAX: usize = 255;
/// Names that start so belong to hidden physical columns.
pub const HIDDEN_PREFIX: &str = "__";
/// Digits that a decimal can have.
pub const DECIMAL_PRECISION_MAX: u8 = 38;

/// The schema of a table. Serializes as Iceberg schema JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSchema {
    /// The version of the schema within its table.
    pub schema_id: i32,
    /// Columns in order.
    pub fields: Vec<Field>,
    /// The primary key in key order; empty without one.
    pub identifier_field_ids: Vec<i32>,
}

/// One column, or one field of a struct.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Field {
    /// Unique within the schema, never used again.
    pub id: i32,
    pub name: String,
    /// True where null is refused.
    pub required: bool,
    pub ty: Type,
    pub doc: Option<String>,
}

/// The type of a field, element, key or value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Type {
    Primitive(Primitive),
    Struct(Vec<Field>),
    List(Box<ListType>),
    Map(Box<MapType>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListType {
    pub element_id: i32,
    pub element_required: bool,
    pub element: Type,
}

/// A map; keys are always required.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MapType {
    pub key_id: i32,
    pub key: Type,
    pub value_id: i32,
    pub value_required: bool,
    pub value: Type,
}

/// A type without parts. `Display` and `FromStr` are Iceberg's spelling; `byte` and `short`, which
/// Iceberg lacks, are Delta's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Primitive {
    Boolean,
    /// 8 bits, signed.
    Byte,
    /// 16 bits, signed.
    Short,
    Int,
    Long,
    Float,
    Double,
    /// Precision 1 to 38, scale 0 to precision.
    Decimal {
        precision: u8,
        scale: i8,
    },
    Date,
    /// Microseconds of the day.
    Time,
    /// Microseconds, no zone.
    Timestamp,
    /// Microseconds, UTC.
    TimestampTz,
    TimestampNs,
    TimestampTzNs,
    String,
    Uuid,
    /// Exactly so many bytes.
    Fixed(u32),
    Binary,
}

impl fmt::Display for Primitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "boolean",
            Self::Byte => "byte",
            Self::Short => "short",
            Self::Int => "int",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Decimal { precision, scale } => return write!(f, "decimal({precision},{scale})"),
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp => "timestamp",
            Self::TimestampTz => "timestamptz",
            Self::TimestampNs => "timestamp_ns",
            Self::TimestampTzNs => "timestamptz_ns",
            Self::String => "string",
            Self::Uuid => "uuid",
            Self::Fixed(length) => return write!(f, "fixed[{length}]"),
            Self::Binary => "binary",
        })
    }
}

impl std::str::FromStr for Primitive {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let unknown = || Problem::UnknownType(shorten(text));
        Ok(match text {
            "boolean" => Self::Boolean,
            "byte" => Self::Byte,
            "short" => Self::Short,
            "int" => Self::Int,
            "long" => Self::Long,
            "float" => Self::Float,
            "double" => Self::Double,
            "date" => Self::Date,
            "time" => Self::Time,
            "timestamp" => Self::Timestamp,
            "timestamptz" => Self::TimestampTz,
            "timestamp_ns" => Self::TimestampNs,
            "timestamptz_ns" => Self::TimestampTzNs,
            "string" => Self::String,
            "uuid" => Self::Uuid,
            "binary" => Self::Binary,
            _ => {
                if let Some(parts) = argument(text, "decimal(", ")") {
                    return decimal(parts).ok_or_else(unknown);
                }
                let length = argument(text, "fixed[", "]").ok_or_else(unknown)?;
                Self::Fixed(length.trim().parse().map_err(|_| unknown())?)
            }
        })
    }
}

fn argument<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    text.strip_prefix(open)?.strip_suffix(close)
}

/// `p,s` or `p`.
pub(crate) fn decimal(parts: &str) -> Option<Primitive> {
    let (precision, scale) = parts.split_once(',').unwrap_or((parts, "0"));
    let precision = precision.trim().parse().ok()?;
    let scale = scale.trim().parse().ok()?;
    Some(Primitive::Decimal { precision, scale })
}

/// User text as it may stand in a message.
pub(crate) fn shorten(text: &str) -> String {
    if text.chars().count() <= 40 {
        text.to_owned()
    } else {
        text.chars().take(39).chain(['…']).collect()
    }
}

impl Type {
    /// The name of the type as messages say it.
    pub fn name(&self) -> String {
        match self {
            Self::Primitive(primitive) => primitive.to_string(),
            Self::Struct(_) => "struct".to_owned(),
            Self::List(_) => "list".to_owned(),
            Self::Map(_) => "map".to_owned(),
        }
    }

    /// The directly nested positions: path segment, id, type.
    pub(crate) fn children(&self) -> Vec<(&str, i32, &Type)> {
        match self {
            Self::Primitive(_) => Vec::new(),
            Self::Struct(fields) => fields
                .iter()
                .map(|f| (f.name.as_str(), f.id, &f.ty))
                .collect(),
            Self::List(list) => vec![("element", list.element_id, &list.element)],
            Self::Map(map) => {
                vec![
                    ("key", map.key_id, &map.key),
                    ("value", map.value_id, &map.value),
                ]
            }
        }
    }
}

impl TableSchema {
    /// A top-level field by its exact name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The largest id in use, nested ones included; 0 for none.
    pub fn last_column_id(&self) -> i32 {
        fn walk(ty: &Type, last: &mut i32) {
            for (_, id, child) in ty.children() {
                *last = (*last).max(id);
                walk(child, last);
            }
        }
        let mut last = 0;
        for field in &self.fields {
            last = last.max(field.id);
            walk(&field.ty, &mut last);
        }
        last
    }

    /// The primary key's columns in key order; unknown ids are left out.
    pub fn identifier_fields(&self) -> Vec<&Field> {
        let by_id = |id: &i32| self.fields.iter().find(|field| field.id == *id);
        self.identifier_field_ids.iter().filter_map(by_id).collect()
    }
}

/// A dotted path; an empty side adds nothing.
pub(crate) fn join(parent: &str, name: &str) -> String {
    match (parent, name) {
        ("", path) | (path, "") => path.to_owned(),
        _ => format!("{parent}.{name}"),
    }
}
