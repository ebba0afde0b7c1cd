//! Bytes to Arrow columns and back, by the table's schema.
//!
//! Owns every format that records come in ([`json`], [`arrow_ipc`], [`packed`]) and the one answer
//! to a bad record: a [`Rejection`] with row, field and reason. Owns no schema (that is
//! `tidelake-schema`), no Kafka and no HTTP. All input is untrusted: nothing here panics on bytes or
//! allocates by a length that only the input claims; what a batch becomes is held against one
//! [`Allowance`].
//!
//! | module | bytes | columns |
//! | --- | --- | --- |
//! | [`json`] | records, NDJSON, arrays | to and from |
//! | [`arrow_ipc`] | Arrow streams with columns of any fitting type | to |
//! | [`packed`] | one message of many rows | to and from |
//! | [`key`] | the text of a primary key | to and from |
//!
//! Columns are always those of [`tidelake_schema::arrow::to_arrow`].

mod allowance;
pub mod arrow_ipc;
mod decimal;
mod error;
pub mod json;
pub mod key;
pub mod packed;
mod reject;
pub mod temporal;

pub use allowance::{Allowance, MESSAGE_DECODED_BYTES_MAX};
pub use error::CodecError;
pub use reject::{EXCERPT_CHARS_MAX, Reason, Rejection};
