//! How a command ends: an outcome, or a failure with its kind and remedy. Both determine the exit code.

use flannel_core::config::ParseConfigError;
use flanneld::cli::CliError;
use flanneld::store::{StoreError, StoreOptionsError};
use serde::Serialize;
use serde_json::{Value, json};

/// How a command ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing is wrong.
    Fine,
    /// Problems or differences were found: exit code 3.
    Findings,
    /// The daemon is unreachable, and the command showed what it knows without it. Contains the exit code.
    Unreachable(u8),
}

/// The kinds of failures. The names are part of the output of `-o json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Invalid command line.
    Usage,
    /// The named object does not exist.
    NotFound,
    /// Invalid input, or invalid data in the store.
    Invalid,
    /// Refused because it might do harm.
    Refused,
    /// Another client was faster, or the object is taken.
    Conflict,
    /// Store or daemon unreachable.
    Unreachable,
    /// No response in time.
    TimedOut,
    /// Any other error.
    Error,
}

/// An error with its remedy. Commands return it as their error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    fix: Option<String>,
    /// The message contains the remedy, too.
    #[serde(skip)]
    complete: bool,
}

/// Returns a failure as the error of a command.
pub(crate) fn fail<T>(kind: Kind, message: impl Into<String>, fix: impl Into<String>) -> anyhow::Result<T> {
    Err(Failure::new(kind, message, fix).into())
}

impl Failure {
    /// A failure: what is wrong, and how to fix it.
    pub(crate) fn new(kind: Kind, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { kind, message: message.into(), fix: Some(fix.into()), complete: false }
    }

    /// Classifies an error.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let message = format!("{error:#}");
        let causes = || error.chain();
        if let Some(failure) = causes().find_map(|cause| cause.downcast_ref::<Self>()) {
            return Self { message, ..failure.clone() };
        }
        if let Some(store) = causes().find_map(|cause| cause.downcast_ref::<StoreError>()) {
            let kind = match store {
                StoreError::Raced => Kind::Conflict,
                StoreError::TimedOut(_) => Kind::TimedOut,
                StoreError::Unavailable(_) => Kind::Unreachable,
                StoreError::Unusable(_) => Kind::Error,
            };
            let fix = Some(store.advice().to_owned());
            return Self { kind, message, fix, complete: kind != Kind::Conflict };
        }
        let kind = if causes().any(|cause| cause.is::<StoreOptionsError>() || cause.is::<CliError>()) {
            Kind::Usage
        } else if causes().any(|cause| cause.is::<ParseConfigError>()) {
            Kind::Invalid
        } else {
            Kind::Error
        };
        Self { kind, message, fix: None, complete: true }
    }

    /// The exit code of the process.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::Unreachable | Kind::TimedOut => 4,
            _ => 1,
        }
    }

    /// The form for programs.
    pub(crate) fn to_json(&self) -> Value {
        json!({"error": self})
    }

    /// The form for people: the message, and the remedy on a line of its own.
    pub(crate) fn to_text(&self) -> String {
        match &self.fix {
            Some(fix) if !self.complete => format!("flannelctl: {}\n  {fix}", self.message),
            _ => format!("flannelctl: {}", self.message),
        }
    }
}
