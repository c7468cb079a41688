//! The error object of the CNI protocol.

pub(crate) use flannel_core::error::chain;
use flannel_core::json::{Object, TypeError, Value};
use nix::errno::Errno;
use std::error::Error;
use std::io::{self, Write};

/// Logs to stderr, which runtimes forward to their log, what does not change the outcome. Unlike `eprintln!` it never panics: a
/// runtime may have stopped reading, and an operation must complete nevertheless.
macro_rules! note {
    ($($text:tt)*) => {
        $crate::error::write_line(&format!($($text)*))
    };
}
pub(crate) use note;

/// Writes one line to stderr, in one call, because stderr is not buffered.
pub(crate) fn write_line(text: &str) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// The codes of the CNI specification and the two of Go's library (8 and 999).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Unknown = 0,
    IncompatibleVersion = 1,
    InvalidEnvironment = 4,
    IoFailure = 5,
    DecodingFailure = 6,
    InvalidNetworkConfig = 7,
    InvalidNetns = 8,
    TryAgainLater = 11,
    PluginNotAvailable = 50,
    Internal = 999,
}

/// The error object on stdout when an operation fails. That of a delegate is forwarded unchanged.
///
/// It is not a [`std::error::Error`], so that `?` converts every such error, with code 999.
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

    /// An error without a code in the specification.
    pub(crate) fn internal(msg: impl Into<String>) -> Self {
        Self::new(Code::Internal, msg)
    }

    pub(crate) fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// Reads the error object of a delegate.
    pub(crate) fn from_json(object: &Object) -> Self {
        let code = object.field("code").and_then(Value::as_integer).unwrap_or_default();
        Self { code, msg: object.text("msg").to_owned(), details: object.text("details").to_owned() }
    }

    /// Returns the JSON text as Go's library prints it.
    pub(crate) fn to_json(&self) -> String {
        let mut object: Object =
            [("code", Value::from(self.code)), ("msg", Value::from(self.msg.as_str()))].into_iter().collect();
        if !self.details.is_empty() {
            object.insert("details", self.details.as_str());
        }
        Value::Object(object).to_pretty()
    }

    /// Replaces "not found": containerd treats a DEL whose error contains these words as done and forgets the pod.
    pub(crate) fn reworded_for_del(mut self) -> Self {
        for text in [&mut self.msg, &mut self.details] {
            *text = text.replace("not found", "missing");
        }
        self
    }
}

impl<E: Error + 'static> From<E> for CniError {
    /// The whole chain as one text, like Go's wrapped errors. Go does not state the fix for a key of a wrong type.
    fn from(error: E) -> Self {
        let causes = std::iter::successors(Some(&error as &(dyn Error + 'static)), |&error| error.source());
        let wrong_type = causes.filter_map(|error| error.downcast_ref::<TypeError>()).next();
        Self { details: wrong_type.map_or_else(String::new, correction), ..Self::internal(chain(&error)) }
    }
}

/// States what a key of a wrong type must be.
fn correction(error: &TypeError) -> String {
    let rule = match error.wanted {
        "bool" => "true or false, without quotes",
        "string" => "a text in quotes",
        wanted if wanted.starts_with("uint") => "a whole number that is not negative, without quotes",
        "int" => "a whole number, without quotes",
        wanted if wanted.starts_with("[]") || wanted == "slice" || wanted.ends_with("Set") => {
            "a list: [ ... ]"
        }
        _ => "an object: { ... }",
    };
    format!("{} must be {rule}", error.field.trim_start_matches('.'))
}

/// Puts what failed, and on which object, before the text of an error.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, CniError>;
}

impl<T, E: Into<CniError>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, CniError> {
        self.map_err(|error| {
            let error = error.into();
            CniError { msg: format!("{}: {}", what(), error.msg), ..error }
        })
    }
}

/// A failed system call on a path, printed as `open <path>: no such file or directory`, which tools match on.
#[derive(Debug, thiserror::Error)]
#[error("{call} {path}: {}", errno_text(.error))]
pub(crate) struct PathError {
    pub(crate) call: &'static str,
    pub(crate) path: String,
    // Not a source: the text already contains it.
    pub(crate) error: io::Error,
}

impl PathError {
    pub(crate) fn new(call: &'static str, path: &std::path::Path, error: io::Error) -> Self {
        Self { call, path: path.display().to_string(), error }
    }

    /// Whether nothing exists at the path.
    pub(crate) fn means_absent(&self) -> bool {
        matches!(self.error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    }
}

/// Returns the text of an errno in lower case, without Rust's "(os error N)".
pub(crate) fn errno_text(error: &io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.to_string(), |errno| Errno::from_raw(errno).desc().to_lowercase())
}

#[cfg(test)]
mod tests;
