//! Whole files: read, replaced and removed, with errors that name the file and the fix.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufRead as _, BufReader, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A failed action on a file or directory.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {}; {}", path.display(), advice(source))]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// Returns a function that adds the action, a verb, and the path to an error.
    pub(crate) fn during(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self { action, path: path.to_owned(), source }
    }
}

/// Reads a file; `None` if it does not exist.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some).map_err(FileError::during("read", path)),
    }
}

/// Writes content piece by piece.
type Output<'a> = &'a mut dyn Write;

/// Returns whether a file has the content that `write` writes.
pub(crate) fn contains(path: &Path, write: impl FnOnce(Output<'_>) -> io::Result<()>) -> bool {
    let is_same = || {
        let mut comparison = Comparison(BufReader::new(File::open(path)?));
        write(&mut comparison)?;
        Ok::<_, io::Error>(comparison.0.fill_buf()?.is_empty())
    };
    is_same().unwrap_or(false)
}

/// Accepts what a file contains, from its begin on.
struct Comparison(BufReader<File>);

impl Write for Comparison {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let existing = self.0.fill_buf()?;
        let count = existing.len().min(bytes.len());
        if existing[..count] != bytes[..count] {
            return Err(ErrorKind::InvalidData.into());
        }
        self.0.consume(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a file whose permission bits are `mode`, whatever the umask. After a crash or a power loss it has the old or the new
/// content, never a part. A symbolic link at `path` is replaced, not followed.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    replace_by(path, |file| file.write_all(content), mode)
}

/// Does the same with the content that `write` writes.
pub(crate) fn replace_by(
    path: &Path,
    write: impl FnOnce(Output<'_>) -> io::Result<()>,
    mode: u32,
) -> Result<(), FileError> {
    let written = temporary(path, write, mode)
        .and_then(|file| file.persist(path).map_err(|error| error.error))
        .and_then(|_| sync(parent(path)));
    written.map_err(FileError::during("write", path))
}

/// Does the same for a new file. Returns whether it was created: it is not if there is a file with that name.
pub(crate) fn create(path: &Path, content: &[u8], mode: u32) -> Result<bool, FileError> {
    let persist = |file: NamedTempFile| match file.persist_noclobber(path) {
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(false),
        result => result.map_err(|error| error.error).and_then(|_| sync(parent(path))).map(|()| true),
    };
    temporary(path, |file| file.write_all(content), mode)
        .and_then(persist)
        .map_err(FileError::during("create", path))
}

/// Removes a file if it exists.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(FileError::during("delete", path)),
    }
}

/// Creates a directory and its parents.
pub(crate) fn make_directory(path: &Path, mode: u32) -> Result<(), FileError> {
    let result = DirBuilder::new().recursive(true).mode(mode).create(path);
    result.map_err(FileError::during("create the directory", path))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), FileError> {
    sync(path).map_err(FileError::during("write", path))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

/// Writes a file beside `path` to the disk. Its name is fixed, so that a crash leaves at most one, and an existing file is
/// removed first, so that no link is followed.
fn temporary(
    path: &Path,
    write: impl FnOnce(Output<'_>) -> io::Result<()>,
    mode: u32,
) -> io::Result<NamedTempFile> {
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(ErrorKind::IsADirectory)?);
    name.push(".tmp");
    let stale = parent(path).join(&name);
    fs::remove_file(stale).or_else(|error| match error.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let mut file = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempfile_in(parent(path))?;
    let mut buffered = BufWriter::new(&mut file);
    write(&mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn sync(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        // Some file systems do not support it.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "run flanneld as root, or choose another path",
        ErrorKind::ReadOnlyFilesystem => "mount its file system for writing, or choose another path",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space on its file system",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "a part of the path is a file: move it, or choose another path"
        }
        ErrorKind::IsADirectory => "the path is that of a directory: choose the path of a file",
        ErrorKind::NotFound => "create its directory, or choose another path",
        _ => "check its file system",
    }
}
