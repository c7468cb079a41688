//! Settings below `/proc/sys/net` in the namespace of this thread.

use rustix::fs::{CWD, Mode, OFlags, openat};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::PathError;
use crate::fault;

const NET: &str = "/proc/sys/net";

/// All settings.
pub(crate) fn net() -> Directory {
    Directory { path: NET.into(), file: None }
}

/// A directory of settings. The kernel searches the directories of all namespaces for that of a namespace, so several settings
/// should share one lookup.
pub(crate) struct Directory {
    path: PathBuf,
    /// None if the directory is opened for each setting.
    file: Option<File>,
}

impl Directory {
    /// Opens a directory in the namespace of this thread, if the kernel has it.
    pub(crate) fn open(name: &str) -> Self {
        let path = Path::new(NET).join(name);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = openat(CWD, &path, flags, Mode::empty()).ok().map(File::from);
        Self { path, file }
    }

    /// Writes a setting unless it already has the value.
    pub(crate) fn set(&self, name: &str, value: &str) -> Result<(), PathError> {
        if self.get(name).is_some_and(|current| current == value) {
            return Ok(());
        }
        self.write(name, value).map_err(|error| PathError::new("open", &self.path.join(name), error))
    }

    /// Writes an optional setting, which not every kernel has.
    pub(crate) fn try_set(&self, name: &str, value: &str) {
        // Optional.
        let _ = self.write(name, value);
    }

    /// Returns the value of a setting, if the kernel has it.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        let mut value = String::new();
        self.file(name, OFlags::RDONLY).and_then(|mut file| file.read_to_string(&mut value)).ok()?;
        Some(value.trim().to_owned())
    }

    fn write(&self, name: &str, value: &str) -> io::Result<()> {
        fault::step()?;
        self.file(name, OFlags::WRONLY)?.write_all(value.as_bytes())
    }

    fn file(&self, name: &str, access: OFlags) -> io::Result<File> {
        let flags = access | OFlags::CLOEXEC;
        let file = match &self.file {
            Some(directory) => openat(directory, name, flags, Mode::empty()),
            None => openat(CWD, self.path.join(name), flags, Mode::empty()),
        };
        Ok(file?.into())
    }
}
