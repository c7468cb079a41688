//! How a command ends: its outcome, or an error as the person or the program outside gets it (kind, message, mend).

use flannel_core::config::ParseConfigError;
use flanneld::cli::CliError;
use flanneld::store::{StoreError, StoreOptionsError};
use serde_json::{Value, json};
use std::fmt;

/// What a command found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well.
    Fine,
    /// Something is not as it must be: exit code 3.
    Findings,
    /// The daemon does not answer; what can be told without it was told. With the exit code.
    Unreachable(u8),
}

/// The kinds of failures. The names are part of the output of `-o json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The command line asks for something that does not exist.
    Usage,
    /// What was named is not there.
    NotFound,
    /// What was given, or what the store holds, cannot be used.
    Invalid,
    /// It could be done, but would do harm.
    Refused,
    /// Somebody else was faster, or what is wanted is taken.
    Conflict,
    /// The store or the daemon cannot be reached.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// Anything else.
    Error,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::NotFound => "not-found",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Conflict => "conflict",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed-out",
            Self::Error => "error",
        }
    }
}

/// A failure that knows what to do about it. Commands return it as an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    mend: Option<String>,
    /// The message says the mend as well.
    complete: bool,
}

impl Failure {
    /// A failure of a kind: what is wrong, and what to do about it.
    pub(crate) fn new(kind: Kind, message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { kind, message: message.into(), mend: Some(mend.into()), complete: false }
    }

    /// What any error says.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let message = format!("{error:#}");
        let causes = || error.chain();
        if let Some(failure) = causes().find_map(|cause| cause.downcast_ref::<Self>()) {
            return Self { message, ..failure.clone() };
        }
        if let Some(store) = causes().find_map(|cause| cause.downcast_ref::<StoreError>()) {
            let (kind, mend) = of_store(store);
            return Self { kind, message, mend: Some(mend.to_owned()), complete: kind != Kind::Conflict };
        }
        let usage = causes().any(|cause| cause.is::<StoreOptionsError>() || cause.is::<CliError>());
        if usage {
            return Self { kind: Kind::Usage, message, mend: None, complete: true };
        }
        let invalid = causes().any(|cause| cause.downcast_ref::<ParseConfigError>().is_some());
        let kind = if invalid { Kind::Invalid } else { Kind::Error };
        Self { kind, message, mend: None, complete: true }
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
        json!({"error": {"kind": self.kind.name(), "message": self.message, "mend": self.mend}})
    }

    /// The form for people: what is wrong, and the mend on a line of its own.
    pub(crate) fn to_text(&self) -> String {
        match &self.mend {
            Some(mend) if !self.complete => format!("flannelctl: {}\n  {mend}", self.message),
            _ => format!("flannelctl: {}", self.message),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The text of a store error says the mend in detail; this is it in short.
fn of_store(error: &StoreError) -> (Kind, &'static str) {
    match error {
        StoreError::Raced => (Kind::Conflict, "look again at what is there now, and repeat the command"),
        StoreError::TimedOut { .. } | StoreError::Locked { .. } => {
            (Kind::TimedOut, "check the store's health and load, and repeat the command")
        }
        StoreError::Certificate { .. } | StoreError::Tls { .. } if !error.is_transient() => {
            (Kind::Error, "check the certificates: --etcd-cafile, --etcd-certfile, --etcd-keyfile")
        }
        StoreError::AuthenticationFailed { .. } | StoreError::UserNeeded { .. } => {
            (Kind::Error, "check --etcd-username and --etcd-password")
        }
        StoreError::PermissionDenied { .. } => (Kind::Error, "grant the user a role that may use the keys"),
        StoreError::File { .. } => (Kind::Error, "check --lease-dir and the permissions below it"),
        _ if error.is_transient() => {
            (Kind::Unreachable, "check --etcd-endpoints, and that etcd runs there and is healthy")
        }
        _ => (Kind::Error, "check --etcd-endpoints and the log of etcd"),
    }
}
