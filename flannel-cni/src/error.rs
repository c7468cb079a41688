//! The error object of the CNI protocol.

pub(crate) use flannel_core::error::chain;
use flannel_core::json::{Object, Value};
use nix::errno::Errno;
use std::error::Error;
use std::io::{self, Write};

/// Tells on stderr, which runtimes log, what does not change the outcome. Unlike `eprintln!` it never ends the process: a runtime
/// may have stopped reading, and what is being undone must be undone all the same.
macro_rules! note {
    ($($text:tt)*) => {
        $crate::error::write_line(&format!($($text)*))
    };
}
pub(crate) use note;

/// One line on stderr, in one call: it is not buffered.
pub(crate) fn write_line(text: &str) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Codes of the CNI specification, and the two that Go's library adds (8 and 999).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Unknown = 0,
    IncompatibleVersion = 1,
    UnsupportedField = 2,
    InvalidEnvironment = 4,
    IoFailure = 5,
    DecodingFailure = 6,
    InvalidNetworkConfig = 7,
    InvalidNetns = 8,
    TryAgainLater = 11,
    PluginNotAvailable = 50,
    Internal = 999,
}

/// What is printed on stdout when an operation fails. A delegate's object passes through unchanged.
///
/// Not a [`std::error::Error`] itself, so that every one of those becomes code 999 by `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CniError {
    pub(crate) code: u32,
    pub(crate) msg: String,
    pub(crate) details: String,
}

impl CniError {
    pub(crate) fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code: code as u32, msg: msg.into(), details: String::new() }
    }

    pub(crate) fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// What a delegate printed, if it is an error object.
    pub(crate) fn from_json(object: &Object) -> Self {
        let code = object.field("code").and_then(Value::as_integer).unwrap_or_default();
        Self { code, msg: object.text("msg").to_owned(), details: object.text("details").to_owned() }
    }

    /// The form on stdout: as Go's library prints it.
    pub(crate) fn to_json(&self) -> String {
        let mut object: Object =
            [("code", Value::from(self.code)), ("msg", Value::from(self.msg.as_str()))].into_iter().collect();
        if !self.details.is_empty() {
            object.insert("details", self.details.as_str());
        }
        Value::Object(object).to_pretty()
    }

    /// Rewords "not found": containerd takes a DEL whose error has these words for done and forgets the pod.
    pub(crate) fn reworded_for_del(mut self) -> Self {
        for text in [&mut self.msg, &mut self.details] {
            *text = text.replace("not found", "missing");
        }
        self
    }
}

impl<E: Error> From<E> for CniError {
    /// The whole chain as one text, as Go's wrapped errors read.
    fn from(error: E) -> Self {
        Self::new(Code::Internal, chain(&error))
    }
}

/// A failed system call on a path, in the form `open <path>: no such file or directory` that Go prints and tools match.
#[derive(Debug, thiserror::Error)]
#[error("{call} {path}: {}", errno_text(.error))]
pub(crate) struct PathError {
    pub(crate) call: &'static str,
    pub(crate) path: String,
    // Not a source: its text is already in ours.
    pub(crate) error: io::Error,
}

impl PathError {
    pub(crate) fn new(call: &'static str, path: &std::path::Path, error: io::Error) -> Self {
        Self { call, path: path.display().to_string(), error }
    }
}

/// The text of an errno without Rust's "(os error N)" and in lower case.
pub(crate) fn errno_text(error: &io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.to_string(), |errno| Errno::from_raw(errno).desc().to_lowercase())
}

#[cfg(test)]
mod tests;
