//! `subnet.env`, the input of the CNI plugin. `flannel_core` builds and parses its text.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::files::{self, FileError};

/// Writes the file unless it has this content; returns whether it was written. An existing file keeps its permission bits.
pub(crate) fn write(path: &Path, content: &str) -> Result<bool, FileError> {
    // A link is replaced even if its target has the content, as the Go daemon does.
    let existing = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file);
    if existing.is_some() && fs::read(path).is_ok_and(|bytes| bytes == content.as_bytes()) {
        return Ok(false);
    }
    if let Some(parent) = path.parent().filter(|parent| *parent != Path::new("")) {
        files::make_directory(parent, 0o755)?;
    }
    let mode = existing.map_or(0o644, |metadata| metadata.permissions().mode() & 0o7777);
    files::replace(path, content.as_bytes(), mode)?;
    Ok(true)
}

/// Returns the text of the file, if it exists. Bytes that are not UTF-8 are replaced.
pub fn read(path: &Path) -> Result<Option<String>, FileError> {
    Ok(files::read(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests;
