//! What each type's column begins as, what its values take, and what it is called.

use arrow::array::BooleanBufferBuilder;
use tidelake_schema::Primitive;

use super::column::{Bytes, Values};
use crate::temporal::StampKind;

impl Values {
    pub(super) fn new(primitive: Primitive) -> Self {
        let stamp = |nanos, zoned| Self::Timestamp {
            values: Vec::new(),
            kind: StampKind { nanos, zoned },
        };
        match primitive {
            Primitive::Boolean => Self::Boolean(BooleanBufferBuilder::new(0)),
            Primitive::Byte => Self::Byte(Vec::new()),
            Primitive::Short => Self::Short(Vec::new()),
            Primitive::Int => Self::Int(Vec::new()),
            Primitive::Long => Self::Long(Vec::new()),
            Primitive::Float => Self::Float(Vec::new()),
            Primitive::Double => Self::Double(Vec::new()),
            Primitive::Decimal { precision, scale } => Self::Decimal {
                values: Vec::new(),
                precision,
                scale,
            },
            Primitive::Date => Self::Date(Vec::new()),
            Primitive::Time => Self::Time(Vec::new()),
            Primitive::Timestamp => stamp(false, false),
            Primitive::TimestampTz => stamp(false, true),
            Primitive::TimestampNs => stamp(true, false),
            Primitive::TimestampTzNs => stamp(true, true),
            Primitive::String => Self::String(Bytes::new()),
            Primitive::Uuid => Self::Uuid(Bytes::new()),
            Primitive::Fixed(length) => {
                // A length that usize cannot hold fits no value either.
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                Self::Fixed {
                    values: Bytes::new(),
                    length,
                }
            }
            Primitive::Binary => Self::Binary(Bytes::new()),
        }
    }

    /// See [`Column::value_bytes`]; a null counts as a byte.
    pub(super) fn value_bytes(&self) -> usize {
        1 + match self {
            Self::Boolean(_) | Self::Byte(_) => 1,
            Self::Short(_) => 2,
            Self::Int(_) | Self::Float(_) | Self::Date(_) => 4,
            Self::Long(_) | Self::Double(_) | Self::Time(_) | Self::Timestamp { .. } => 8,
            Self::Decimal { .. } => 16,
            Self::String(_) | Self::Uuid(_) | Self::Fixed { .. } | Self::Binary(_) => 4,
            Self::Struct(record) => record.row_bytes,
            Self::List { .. } | Self::Map { .. } => 4,
            Self::Skipped => 0,
        }
    }

    /// The type as messages name it.
    pub(super) fn name(&self) -> String {
        let stamp = |kind: &StampKind| match (kind.nanos, kind.zoned) {
            (false, false) => Primitive::Timestamp,
            (false, true) => Primitive::TimestampTz,
            (true, false) => Primitive::TimestampNs,
            (true, true) => Primitive::TimestampTzNs,
        };
        let primitive = match self {
            Self::Boolean(_) => Primitive::Boolean,
            Self::Byte(_) => Primitive::Byte,
            Self::Short(_) => Primitive::Short,
            Self::Int(_) => Primitive::Int,
            Self::Long(_) => Primitive::Long,
            Self::Float(_) => Primitive::Float,
            Self::Double(_) => Primitive::Double,
            Self::Decimal {
                precision, scale, ..
            } => Primitive::Decimal {
                precision: *precision,
                scale: *scale,
            },
            Self::Date(_) => Primitive::Date,
            Self::Time(_) => Primitive::Time,
            Self::Timestamp { kind, .. } => stamp(kind),
            Self::String(_) => Primitive::String,
            Self::Uuid(_) => Primitive::Uuid,
            Self::Fixed { length, .. } => return format!("fixed[{length}] as base64"),
            Self::Binary(_) => return "binary as base64".to_owned(),
            Self::Struct(_) => return "struct as object".to_owned(),
            Self::List { .. } => return "list as array".to_owned(),
            Self::Map {
                text_keys: true, ..
            } => return "map as object".to_owned(),
            Self::Map { .. } => return "map as array of {\"key\",\"value\"}".to_owned(),
            Self::Skipped => return "any value".to_owned(),
        };
        primitive.to_string()
    }
}
