//! Texts of errors.

use std::error::Error;
use std::io;
use tokio::time::error::Elapsed;

pub(crate) use flannel_core::error::chain;

/// Finds the first error of a type in a chain.
pub(crate) fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        next = inner(error);
    }
    None
}

/// Returns the next error of a chain. `io::Error::source` skips the error that it wraps.
pub(crate) fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

/// Whether a time limit has passed. The text of such an error does not tell what took too long.
pub(crate) fn is_elapsed(error: &(dyn Error + 'static)) -> bool {
    find::<Elapsed>(error).is_some()
}
