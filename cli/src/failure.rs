//! What went wrong, for a person and for a script.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use tidelake_core::ErrorKind;
use tidelake_service::ServiceError;
use tidelake_service::settings::SettingsError;

use crate::output::{Breaks, shown};

/// The exit codes that scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Conflict = 4,
    Denied = 5,
}

/// A command that did not do what it should.
#[derive(Debug)]
pub(crate) struct Failure {
    pub exit: Exit,
    pub message: String,
    pub hint: Option<String>,
    /// The reader of our output went away: no failure of ours, and nobody to tell.
    output_closed: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
            output_closed: false,
        }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `what` says what was being done.
    pub(crate) fn of(what: &str, kind: ErrorKind, error: &dyn Error) -> Self {
        let exit = match kind {
            ErrorKind::NotFound => Exit::NotFound,
            ErrorKind::Conflict => Exit::Conflict,
            ErrorKind::Denied => Exit::Denied,
            _ => Exit::Failed,
        };
        Self::new(exit, format!("{what}: {}", chain(error)))
    }

    /// Says it on standard error.
    pub(crate) fn report(self) -> ExitCode {
        if self.output_closed {
            return ExitCode::SUCCESS;
        }
        let mut out = io::stderr().lock();
        let _closed = out.write_all(self.told().as_bytes());
        ExitCode::from(self.exit as u8)
    }

    /// As a person is told it. Messages quote what services and files hold.
    pub(crate) fn told(&self) -> String {
        let mut text = format!("error: {}\n", shown(&self.message, Breaks::Stay));
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint:  {}\n", shown(hint, Breaks::Stay)));
        }
        text
    }

    /// Nobody reads our output any more.
    pub(crate) fn is_output_closed(&self) -> bool {
        self.output_closed
    }
}

/// An error with its causes, those that the message already contains left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        next = cause.source();
    }
    text
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let output_closed = error.kind() == io::ErrorKind::BrokenPipe;
        Self {
            output_closed,
            ..Self::failed(error.to_string())
        }
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self::failed(error.chain())
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::usage(chain(&error))
    }
}
