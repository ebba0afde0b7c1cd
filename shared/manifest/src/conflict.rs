//! Why a transaction lost its race. Who loses against what is decided in `rules`.

use tidelake_core::{Bucket, ErrorKind, TopicId, Watermark};

use crate::action::VectorDescriptor;

/// Why a transaction can't be committed any more. A value, not an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    #[error(
        "bucket {bucket} was flushed by another owner: watermark is {found}, expected {expected}"
    )]
    WatermarkMoved {
        topic_id: TopicId,
        bucket: Bucket,
        expected: Watermark,
        found: Watermark,
    },
    #[error("application {app_id:?} moved on to {found} in another commit")]
    TxnMoved { app_id: String, found: i64 },
    #[error("the schema of the table changed")]
    SchemaChanged,
    #[error("the properties of the table changed")]
    PropertiesChanged,
    #[error("the protocol of the table changed")]
    ProtocolChanged,
    #[error("the table was dropped")]
    Dropped,
    #[error("the table was dropped, and another one was created in its place")]
    TableReplaced,
    #[error("{path:?} is no longer part of the table")]
    FileRemoved { path: String },
    #[error("{path:?} got another deletion vector")]
    VectorChanged {
        path: String,
        found: Option<VectorDescriptor>,
    },
    #[error("{path:?} brought rows that were not looked into")]
    RowsAdded { path: String },
    #[error("{path:?} is part of the table already")]
    FileExists { path: String },
}

impl Conflict {
    /// What the loser should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::WatermarkMoved { .. } => ErrorKind::Fenced,
            Self::Dropped | Self::TableReplaced => ErrorKind::NotFound,
            _ => ErrorKind::Conflict,
        }
    }
}
