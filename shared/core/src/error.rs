//! What an error asks of its caller. Crates raise precise enums and map each onto one of these.

/// The caller's next step, not the cause; the cause is in the error itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The input is wrong and will be wrong next time: answer the user.
    Invalid,
    /// The named thing does not exist (or may not be seen).
    NotFound,
    /// Someone else did something that excludes this: re-read, decide again.
    Conflict,
    /// This worker was overtaken by another owner: drop state, start from the log again.
    Fenced,
    /// The other side is away or slow: retry later, nothing is known to be wrong.
    Unavailable,
    /// A limit was passed: make it smaller or wait.
    TooLarge,
    /// Not allowed for this caller.
    Denied,
    /// Stored bytes contradict themselves: stop, do not overwrite.
    Corrupt,
    /// The component is shutting down.
    Closed,
    /// A broken assumption of our own.
    Bug,
}

impl ErrorKind {
    /// True where the same call may succeed later without any change by the caller.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable)
    }
}
