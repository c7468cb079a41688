//! Files that may be absent.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::error::PathError;
use crate::fault;

/// Returns the content of a file, if it exists.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, PathError> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(|error| PathError::new("open", path, error)),
    }
}

/// Removes a file, if it exists.
pub(crate) fn remove(path: &Path) -> Result<(), PathError> {
    match fault::step().and_then(|()| fs::remove_file(path)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(PathError::new("remove", path, error)),
        _ => Ok(()),
    }
}

/// Writes a file under a temporary name and renames it, so that no reader sees a partial file. Leaves nothing if it fails.
pub(crate) fn create(
    temporary: &Path,
    write: impl FnOnce() -> io::Result<()>,
    rename: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let created = fault::step().and_then(|()| write()).and_then(|()| fault::step()).and_then(|()| rename());
    created.inspect_err(|_| {
        // The first error is returned.
        let _ = fs::remove_file(temporary);
    })
}
