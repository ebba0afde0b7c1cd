//! What can go wrong in a store, said so that an operator knows what to do.

use std::error::Error;
use std::io;

use tidelake_core::ErrorKind;

/// A store's refusal. `at` is the URL of the object (or folder) in question.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("{at} does not exist")]
    NotFound { at: String },
    #[error("{at} exists already")]
    AlreadyExists { at: String },
    #[error("the bucket of {at} does not exist: create it or correct the storage URL")]
    NoBucket {
        at: String,
        source: object_store::Error,
    },
    #[error(
        "the object store does not accept our credentials for {at}: check AWS_ACCESS_KEY_ID, \
         AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL"
    )]
    Credentials {
        at: String,
        source: object_store::Error,
    },
    #[error("no permission for {at}: allow this process to list, read, write and delete there")]
    Denied {
        at: String,
        source: object_store::Error,
    },
    #[error("{at} is on a read-only file system: mount it writable or choose another storage URL")]
    ReadOnly {
        at: String,
        source: object_store::Error,
    },
    #[error("no space left to write {at}: free some or enlarge the disk or quota, then it goes on")]
    Full {
        at: String,
        source: object_store::Error,
    },
    #[error("the store of {at} can't do this: {operation}")]
    Unsupported { at: String, operation: String },
    #[error("storage URL {url:?} is not usable: {reason}")]
    InvalidUrl { url: String, reason: String },
    #[error("{name:?} is not a valid object name: {reason}")]
    InvalidName { name: String, reason: String },
    #[error("the store of {at} does not answer as it should for now")]
    Unavailable {
        at: String,
        source: object_store::Error,
    },
    #[error(
        "whether {at} was written is not known: the store did not answer, nor could it be read \
         back; repeat the same write or re-read before deciding"
    )]
    OutcomeUnknown { at: String },
    #[error("{at} is still being written by somebody else: it counts once it no longer grows")]
    Unfinished { at: String },
    #[error("{at} is damaged: {reason}")]
    Corrupt { at: String, reason: String },
}

impl StorageError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } => ErrorKind::Conflict,
            Self::NoBucket { .. } | Self::InvalidUrl { .. } | Self::InvalidName { .. } => {
                ErrorKind::Invalid
            }
            Self::Credentials { .. } | Self::Denied { .. } | Self::ReadOnly { .. } => {
                ErrorKind::Denied
            }
            Self::Unsupported { .. } => ErrorKind::Invalid,
            // A full disk heals without us: the write may be repeated.
            Self::Full { .. }
            | Self::Unavailable { .. }
            | Self::OutcomeUnknown { .. }
            | Self::Unfinished { .. } => ErrorKind::Unavailable,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
        }
    }

    /// Names an error of the object store crate.
    pub fn from_store(at: String, source: object_store::Error) -> Self {
        match Class::of(&source) {
            Class::NotFound => Self::NotFound { at },
            Class::Exists => Self::AlreadyExists { at },
            Class::NoBucket => Self::NoBucket { at, source },
            Class::Credentials => Self::Credentials { at, source },
            Class::Denied => Self::Denied { at, source },
            Class::ReadOnly => Self::ReadOnly { at, source },
            Class::Full => Self::Full { at, source },
            Class::Unsupported => Self::Unsupported {
                at,
                operation: source.to_string(),
            },
            Class::BadName => Self::InvalidName {
                name: at,
                reason: source.to_string(),
            },
            Class::TooShort => Self::Corrupt {
                at,
                reason: "it is shorter than what is named of it".into(),
            },
            Class::Transient | Class::Other => Self::Unavailable { at, source },
        }
    }
}

/// What an error of the object store crate amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    NotFound,
    Exists,
    NoBucket,
    Credentials,
    Denied,
    ReadOnly,
    Full,
    Unsupported,
    BadName,
    /// The same request may well succeed later; a write may or may not have happened.
    /// A range was asked for that lies behind the object's end.
    TooShort,
    Transient,
    /// Nothing we know: a write may or may not have happened.
    Other,
}

impl Class {
    pub(crate) fn of(error: &object_store::Error) -> Self {
        use object_store::Error as E;
        match error {
            E::NotFound { source, .. } => of_answer(source.as_ref()).unwrap_or(Self::NotFound),
            E::AlreadyExists { .. } | E::Precondition { .. } => Self::Exists,
            E::InvalidPath { .. } => Self::BadName,
            E::NotImplemented { .. } | E::NotSupported { .. } => Self::Unsupported,
            E::Unauthenticated { .. } => Self::Credentials,
            E::PermissionDenied { source, .. } => {
                of_answer(source.as_ref()).unwrap_or(Self::Denied)
            }
            E::Generic { source, .. } => Self::of_generic(source.as_ref()),
            _ => Self::Other,
        }
    }

    fn of_generic(source: &(dyn Error + Send + Sync + 'static)) -> Self {
        if let Some(kind) = io_kind(source) {
            return match kind {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
                io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
                io::ErrorKind::PermissionDenied => Self::Denied,
                io::ErrorKind::InvalidFilename => Self::BadName,
                io::ErrorKind::Interrupted
                | io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => Self::Transient,
                _ => Self::Other,
            };
        }
        if let Some(class) = of_answer(source) {
            return class;
        }
        // Without keys of its own the S3 client asks the machine's metadata service for some.
        if mentions(source, "http://169.254.169.254/") {
            return Self::Credentials;
        }
        let short = [
            "status code: 416",
            "Requested range was invalid",
            "Wanted range starting at",
        ];
        if short.iter().any(|sign| mentions(source, sign)) {
            return Self::TooShort;
        }
        let away = [
            "error sending request",
            "status code: 5",
            "status code: 429",
            "timed out",
        ];
        if away.iter().any(|sign| mentions(source, sign)) {
            Self::Transient
        } else {
            Self::Other
        }
    }
}

/// What the error code in an S3 server's answer says.
fn of_answer(source: &(dyn Error + Send + Sync + 'static)) -> Option<Class> {
    let codes = [
        ("NoSuchBucket", Class::NoBucket),
        ("InvalidBucketName", Class::NoBucket),
        ("InvalidAccessKeyId", Class::Credentials),
        ("SignatureDoesNotMatch", Class::Credentials),
        ("InvalidToken", Class::Credentials),
        ("ExpiredToken", Class::Credentials),
        ("AccessDenied", Class::Denied),
        ("InvalidRange", Class::TooShort),
    ];
    let said = |code: &str| mentions(source, &format!("<Code>{code}</Code>"));
    codes
        .into_iter()
        .find(|(code, _)| said(code))
        .map(|(_, class)| class)
}

fn chain<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> + 'a {
    std::iter::successors(Some(error), |&error| error.source())
}

fn mentions(error: &(dyn Error + Send + Sync + 'static), text: &str) -> bool {
    chain(error).any(|link| link.to_string().contains(text))
}

fn io_kind(error: &(dyn Error + Send + Sync + 'static)) -> Option<io::ErrorKind> {
    chain(error)
        .find_map(|link| link.downcast_ref::<io::Error>())
        .map(io::Error::kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(code: i32) -> StorageError {
        let source = io::Error::from_raw_os_error(code);
        let source = object_store::Error::Generic {
            store: "file",
            source: source.into(),
        };
        StorageError::from_store("file:///x".into(), source)
    }

    #[test]
    fn the_machine_s_refusals_are_told_apart() {
        assert!(matches!(io(28), StorageError::Full { .. }));
        assert!(matches!(io(30), StorageError::ReadOnly { .. }));
        assert!(matches!(io(13), StorageError::Denied { .. }));
        assert!(matches!(io(5), StorageError::Unavailable { .. }));
        assert_eq!(io(28).kind(), ErrorKind::Unavailable);
        assert_eq!(io(30).kind(), ErrorKind::Denied);
    }

    #[test]
    fn a_missing_bucket_is_not_a_missing_object() {
        let missing = |body: &str| {
            let source: Box<dyn Error + Send + Sync> = body.into();
            let error = object_store::Error::NotFound {
                path: "x".into(),
                source,
            };
            StorageError::from_store("s3://b/x".into(), error)
        };
        assert!(matches!(
            missing("<Code>NoSuchKey</Code>"),
            StorageError::NotFound { .. }
        ));
        let bucket = missing("<Code>NoSuchBucket</Code>");
        assert!(matches!(bucket, StorageError::NoBucket { .. }));
        assert_eq!(
            bucket.to_string(),
            "the bucket of s3://b/x does not exist: create it or correct the storage URL"
        );
    }
}
