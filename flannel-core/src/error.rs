//! Texts of errors.

use std::error::Error;
use std::fmt::Write as _;

/// An error with all its sources, as one line: each `Display` says its own part only.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}
