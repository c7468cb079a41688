//! Files that are replaced as a whole: a reader, a crash or a power loss sees the old content or
//! the new one, never a part.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The permission bits of a replaced file, whatever the umask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Always these.
    Fixed(u32),
    /// Those of the file that is there, and these if there is none.
    KeptOr(u32),
}

/// A file could not be written. What was there before is still there.
#[derive(Debug, thiserror::Error)]
#[error("could not write {}: {attempt} failed; {}", path.display(), advice(source))]
pub struct ReplaceFileError {
    path: PathBuf,
    attempt: &'static str,
    source: io::Error,
}

/// Writes `content` to `path` by way of a temporary file beside it, which is on disk before it gets
/// the name. A symbolic link at `path` is replaced, not followed.
pub fn replace(path: &Path, content: &[u8], mode: Mode) -> Result<(), ReplaceFileError> {
    let failed = |attempt| move |source| ReplaceFileError { path: path.to_owned(), attempt, source };
    let name = path.file_name().ok_or(ErrorKind::IsADirectory.into()).map_err(failed("naming a file"))?;
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mode = match (mode, kept_mode(path)) {
        (Mode::KeptOr(_), Some(kept)) => kept,
        (Mode::Fixed(mode) | Mode::KeptOr(mode), _) => mode,
    };
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(".tmp");
    // A fixed name, so that a crash leaves at most one; made anew, so that a link planted there is
    // not followed.
    let temporary = parent.join(temporary_name);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(failed("removing an old temporary file")(error));
        }
        _ => {}
    }
    let renamed = write_new(&temporary, content, mode)
        .map_err(failed("writing a temporary file beside it"))
        .and_then(|()| fs::rename(&temporary, path).map_err(failed("putting the new file in place")));
    if renamed.is_err() {
        // The first error is the one that counts.
        let _ = fs::remove_file(&temporary);
    }
    renamed?;
    sync_directory(parent).map_err(failed("writing the directory to disk"))
}

/// Makes a directory and what is missing above it.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Removes a file, if it is there.
pub fn remove(path: &Path) -> Result<(), ReplaceFileError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(ReplaceFileError { path: path.to_owned(), attempt: "removing it", source })
        }
        _ => Ok(()),
    }
}

fn kept_mode(path: &Path) -> Option<u32> {
    let metadata = fs::symlink_metadata(path).ok()?;
    metadata.is_file().then(|| metadata.permissions().mode() & 0o7777)
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // Not every file system can.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

/// Returns the advice for a failed file operation.
#[must_use]
pub fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "run flanneld as root, or name a place that it may write to",
        ErrorKind::ReadOnlyFilesystem => "mount its file system for writing, or name another place",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space on its file system",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "something in the path is a file: move it away, or name another place"
        }
        ErrorKind::IsADirectory => "the path is that of a directory: name a file",
        ErrorKind::NotFound => "make its directory",
        _ => "see whether its file system is in order",
    }
}
