//! Why the broker could not start, or could not stop cleanly.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tidelake_core::ErrorKind;

/// An error of the broker as a whole. Errors of single requests are answered in Kafka's own codes.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error(
        "folder {dir:?} is in use by another broker: stop the other process or choose another folder"
    )]
    InUse { dir: PathBuf },
    #[error("cannot listen on {address}: is the port taken?")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot use {path:?}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path:?} is damaged: {reason}; restore it, or move it away to start without it")]
    Corrupt { path: PathBuf, reason: String },
}

impl BrokerError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InUse { .. } => ErrorKind::Conflict,
            Self::Listen { .. } | Self::Io { .. } => ErrorKind::Unavailable,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
        }
    }
}
