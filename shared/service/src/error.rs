//! The one error type that a service's `start` and its running task end with.

use std::error::Error;
use std::fmt;

use tidelake_core::ErrorKind;

type Source = Box<dyn Error + Send + Sync + 'static>;

/// Why a service did not start, or stopped by itself. `Display` does not contain the source: print
/// the chain with [`ServiceError::chain`].
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct ServiceError {
    kind: ErrorKind,
    what: String,
    #[source]
    source: Option<Source>,
}

impl ServiceError {
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            source: None,
        }
    }

    /// `what` says what was being done, `source` why it did not work.
    pub fn caused_by(kind: ErrorKind, what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self {
            kind,
            what: what.into(),
            source: Some(source.into()),
        }
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message with all its causes, in one line.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

impl From<std::io::Error> for ServiceError {
    fn from(error: std::io::Error) -> Self {
        Self::caused_by(ErrorKind::Unavailable, "input or output failed", error)
    }
}

/// An error and its causes, `: ` between them. A cause that the message already ends with is not
/// repeated.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        next = cause.source();
    }
    text
}

/// Displays an error with its causes.
#[derive(Debug)]
pub(crate) struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_every_cause_once() {
        let cause = std::io::Error::other("disk is full");
        let error = ServiceError::caused_by(ErrorKind::Unavailable, "could not write", cause);
        assert_eq!(error.to_string(), "could not write");
        assert_eq!(error.chain(), "could not write: disk is full");
        let outer = ServiceError::caused_by(ErrorKind::Bug, "a: disk is full", error);
        assert_eq!(
            outer.chain(),
            "a: disk is full: could not write: disk is full"
        );
    }
}
