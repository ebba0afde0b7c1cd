//! Ids, newtypes, seams and error kinds that every other crate speaks in.
//!
//! Owns the words of the design: [`TenantId`], [`TableName`], [`Bucket`], [`Offset`], [`Sequence`],
//! [`Watermark`], [`TableVersion`], [`Token`]; the seams to time and randomness ([`clock`], [`ids`]);
//! which bucket a key belongs to ([`partition`]); the [`headers`] of a message; the [`limits`]; and [`ErrorKind`], the small answer to "what must the caller do now".
//! Knows nothing of Arrow, Kafka, Delta or async.
//!
//! ```
//! use tidelake_core::{Bucket, Offset, TableName, Token};
//! let table = TableName::new("orders").unwrap();
//! let token = Token::new([(Bucket(0), Offset(42).into())]);
//! assert_eq!(Token::parse(&token.to_string()).unwrap(), token);
//! assert_eq!(table.as_str(), "orders");
//! ```

pub mod clock;
mod error;
pub mod headers;
pub mod ids;
pub mod limits;
mod offset;
pub mod partition;
pub mod threads;

pub use error::ErrorKind;
pub use ids::{
    Bucket, DEAD_LETTERS_SUFFIX, NameError, SnapshotName, TableId, TableName, TableVersion,
    TenantId, TopicId,
};
pub use offset::{Offset, Sequence, Token, TokenError, Watermark};
