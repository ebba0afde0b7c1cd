//! Limits on everything that comes from outside. Each ends in `_MAX` and says what it bounds.

/// Bytes of a tenant or table name (Kafka topic names and file names stay well inside theirs).
pub const NAME_BYTES_MAX: usize = 63;
/// Buckets of a table: partitions of its topic.
pub const BUCKETS_MAX: u32 = 1024;
/// Bytes of one Kafka message, as the topics we create allow it.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of one JSON record.
pub const RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a primary key's text.
pub const KEY_TEXT_BYTES_MAX: usize = 16 * 1024;
/// Nesting depth of a JSON record.
pub const JSON_DEPTH_MAX: usize = 64;
/// Columns of a table, nested fields included.
pub const FIELDS_MAX: usize = 2000;
/// Nesting depth of a schema.
pub const SCHEMA_DEPTH_MAX: usize = 32;
/// Bytes of a request body that is not a stream of records (schemas, SQL, DDL).
pub const CONTROL_BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of a token's text.
pub const TOKEN_BYTES_MAX: usize = 32 * 1024;
