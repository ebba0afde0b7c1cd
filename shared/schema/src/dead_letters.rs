//! The columns of every dead-letter table, `<table>__dead_letters`.
//!
//! One row for each record that its table could not take, named by where the record stands in the
//! table's topic: a letter that comes again replaces itself.

use std::sync::LazyLock;

use crate::types::{Field, Primitive, TableSchema, Type};

/// Partition of the table's topic, or [`NO_BUCKET`]. With [`SOURCE_OFFSET`] the primary key.
pub const SOURCE_BUCKET: &str = "source_bucket";
pub const SOURCE_OFFSET: &str = "source_offset";
/// The stable word for the reason.
pub const CODE: &str = "code";
pub const REASON: &str = "reason";
/// Path of the field that was wrong.
pub const FIELD: &str = "field";
/// Row within the record's message.
pub const ROW: &str = "row";
pub const SOURCE_TIMESTAMP: &str = "source_timestamp";
/// Key and value as they were produced.
pub const KEY: &str = "key";
pub const VALUE: &str = "value";
/// Headers as they were produced: `tl-encoding`, `tl-op`, `tl-schema`.
pub const ENCODING: &str = "encoding";
pub const OP: &str = "op";
pub const SCHEMA_VERSION: &str = "schema_version";
/// When the record was found bad.
pub const DEAD_AT: &str = "dead_at";
/// When and as what (`bucket/offset`) the record was taken after all.
pub const REPLAYED_AT: &str = "replayed_at";
pub const REPLAYED_TO: &str = "replayed_to";

/// [`SOURCE_BUCKET`] of a message that names no source: [`SOURCE_OFFSET`] is then its own offset in
/// the dead-letter topic, which must not be taken for one of the table's.
pub const NO_BUCKET: i32 = -1;

/// Name, type, required; ids count from 1.
const COLUMNS: [(&str, Primitive, bool); 15] = [
    (SOURCE_BUCKET, Primitive::Int, true),
    (SOURCE_OFFSET, Primitive::Long, true),
    (CODE, Primitive::String, true),
    (REASON, Primitive::String, true),
    (FIELD, Primitive::String, false),
    (ROW, Primitive::Int, false),
    (SOURCE_TIMESTAMP, Primitive::TimestampTz, true),
    (KEY, Primitive::Binary, false),
    (VALUE, Primitive::Binary, false),
    (ENCODING, Primitive::String, false),
    (OP, Primitive::String, false),
    (SCHEMA_VERSION, Primitive::String, false),
    (DEAD_AT, Primitive::TimestampTz, true),
    (REPLAYED_AT, Primitive::TimestampTz, false),
    (REPLAYED_TO, Primitive::String, false),
];

static SCHEMA: LazyLock<TableSchema> = LazyLock::new(|| TableSchema {
    schema_id: 0,
    fields: (1..)
        .zip(COLUMNS)
        .map(|(id, (name, primitive, required))| Field {
            id,
            name: name.to_owned(),
            required,
            ty: Type::Primitive(primitive),
            doc: None,
        })
        .collect(),
    identifier_field_ids: vec![1, 2],
});

/// The schema of a dead-letter table.
pub fn schema() -> &'static TableSchema {
    &SCHEMA
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_valid_and_its_key_is_the_source_position() {
        schema().validate().unwrap();
        let key: Vec<_> = schema().identifier_fields();
        let names: Vec<_> = key.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, [SOURCE_BUCKET, SOURCE_OFFSET]);
        let text = crate::delta::schema_string(schema());
        assert_eq!(
            crate::delta::from_schema_string(&text).unwrap().fields,
            schema().fields
        );
    }
}
