//! `subnet.env`, which the CNI plugin waits for. Its text is made and read by `flannel_core`.

use crate::replace_file::{self, Mode, ReplaceFileError, make_directory};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Whether a write was needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The file has a new content.
    Changed,
    /// It was right already and was not touched.
    Unchanged,
}

/// `subnet.env` could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SubnetFileError {
    /// Its directory is missing and cannot be made.
    #[error("could not make the directory {}; {}", path.display(), replace_file::advice(source))]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] ReplaceFileError),
    /// It cannot be read.
    #[error("could not read {}; {}", path.display(), replace_file::advice(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// Gives the file this content. Permission bits of an existing file stay, a new one gets 0644.
pub fn write(path: &Path, content: &str) -> Result<Written, SubnetFileError> {
    if is_right(path, content) {
        return Ok(Written::Unchanged);
    }
    if let Some(parent) = path.parent().filter(|parent| *parent != Path::new("")) {
        make_directory(parent, 0o755)
            .map_err(|source| SubnetFileError::Directory { path: parent.to_owned(), source })?;
    }
    replace_file::replace(path, content.as_bytes(), Mode::KeptOr(0o644))?;
    Ok(Written::Changed)
}

/// The text of the file, if it is there. Bytes that are not UTF-8 are replaced.
pub fn read(path: &Path) -> Result<Option<String>, SubnetFileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SubnetFileError::Read { path: path.to_owned(), source }),
    }
}

/// A link is not right even if the file behind it is: it is replaced, as the Go daemon does.
fn is_right(path: &Path, content: &str) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() == content.len() as u64)
        && fs::read(path).is_ok_and(|bytes| bytes == content.as_bytes())
}

#[cfg(test)]
mod tests;
