//! The table schema and its translations.
//!
//! Owns what a table's columns are ([`TableSchema`]), what makes a schema valid, and one file for
//! each form that it takes elsewhere: Iceberg schema JSON (the canonical one, by
//! [`TableSchema::from_iceberg_json`] and serde), Arrow ([`arrow`]) and Delta ([`delta`]). Each
//! file's head has its table of types. [`evolution`] says which changes of a table's columns by other
//! engines are followed. Knows nothing of rows' bytes (that is `tidelake-codec`), of files or of the
//! log.
//!
//! ```
//! use tidelake_schema::TableSchema;
//! let schema = TableSchema::from_iceberg_json(
//!     r#"{"type":"struct","identifier-field-ids":[1],"fields":[
//!         {"id":1,"name":"id","required":true,"type":"long"},
//!         {"id":2,"name":"at","required":false,"type":"timestamptz"}]}"#,
//! )?;
//! let arrow = tidelake_schema::arrow::to_arrow(&schema);
//! assert_eq!(arrow.field(0).metadata()["PARQUET:field_id"], "1");
//! let delta = tidelake_schema::delta::schema_string(&schema);
//! assert_eq!(tidelake_schema::delta::from_schema_string(&delta)?, schema);
//! # Ok::<(), tidelake_schema::SchemaError>(())
//! ```

pub mod arrow;
pub mod dead_letters;
pub mod delta;
mod error;
pub mod evolution;
mod iceberg;
mod ids;
mod json;
mod types;
mod validate;

#[cfg(test)]
mod tests;

pub use error::{Problem, SchemaError};
pub use types::{
    COLUMN_NAME_BYTES_MAX, DECIMAL_PRECISION_MAX, Field, HIDDEN_PREFIX, ListType, MapType,
    Primitive, TableSchema, Type,
};
