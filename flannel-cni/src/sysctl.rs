//! Settings below `/proc/sys/net`, of the namespace of this thread.

use rustix::fs::{CWD, Mode, OFlags, openat};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::PathError;
use crate::fault;

const NET: &str = "/proc/sys/net";

/// Writes a setting unless it has that value.
pub(crate) fn set(name: &str, value: &str) -> Result<(), PathError> {
    Directory::net().set(name, value)
}

/// Writes a setting that not every kernel has, and that nothing depends on.
pub(crate) fn try_set(name: &str, value: &str) {
    Directory::net().try_set(name, value);
}

/// A directory of settings. The kernel looks for the directories of a namespace among those of all namespaces, one by one: whoever
/// needs several settings lets it do that once.
pub(crate) struct Directory {
    path: PathBuf,
    /// Nothing where the directory is opened anew for each setting.
    file: Option<File>,
}

impl Directory {
    fn net() -> Self {
        Self { path: NET.into(), file: None }
    }

    /// Opens a directory of the namespace of this thread, where its settings stay, if the kernel has it.
    pub(crate) fn open(name: &str) -> Self {
        let path = Path::new(NET).join(name);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = openat(CWD, &path, flags, Mode::empty()).ok().map(File::from);
        Self { path, file }
    }

    /// Writes a setting unless it has that value.
    pub(crate) fn set(&self, name: &str, value: &str) -> Result<(), PathError> {
        if self.get(name).is_some_and(|current| current == value) {
            return Ok(());
        }
        self.write(name, value).map_err(|error| PathError::new("open", &self.path.join(name), error))
    }

    /// Writes a setting that not every kernel has, and that nothing depends on.
    pub(crate) fn try_set(&self, name: &str, value: &str) {
        // A kernel without it works without it.
        let _ = self.write(name, value);
    }

    /// The value of a setting, if the kernel has it.
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
