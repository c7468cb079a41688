//! Settings below `/proc/sys/net`, of the namespace of this thread.

use std::fs;
use std::path::PathBuf;

use crate::error::PathError;
use crate::fault;

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(name)
}

/// Writes a setting unless it has that value.
pub(crate) fn set(name: &str, value: &str) -> Result<(), PathError> {
    let path = path(name);
    if fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    fault::step().and_then(|()| fs::write(&path, value)).map_err(|error| PathError::new("open", &path, error))
}

/// Writes a setting that not every kernel has, and that nothing depends on.
pub(crate) fn try_set(name: &str, value: &str) {
    // A kernel without it works without it.
    let _ = fault::step().and_then(|()| fs::write(path(name), value));
}

/// The value of a setting, if the kernel has it.
pub(crate) fn get(name: &str) -> Option<String> {
    fs::read_to_string(path(name)).ok().map(|value| value.trim().to_owned())
}
