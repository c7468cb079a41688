//! The addresses in use, one file each, as Go's host-local keeps them: `<dataDir>/<network>/<address>` holds
//! `<container>\r\n<interface>`. Processes hold `lock` while they change them.

use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};
use rustix::io::Errno;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flannel_core::host_local::{Attachment, Holder};

use super::owner::{self, Owner};
use crate::error::PathError;
use crate::{fault, files};

/// The temporary name of a file that is being written.
const TEMPORARY: &str = ".tmp";

/// The locked directory of a network.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    _lock: Flock<File>,
}

/// An address in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) ip: IpAddr,
    pub(crate) holder: Holder,
    pub(crate) file_name: String,
}

impl Store {
    /// Opens and locks the directory; creates it if it does not exist.
    pub(crate) fn open(directory: &Path) -> Result<Self, PathError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(|error| PathError::new("mkdir", directory, error))?;
        Self::lock(directory)
    }

    /// Opens and locks the directory, if it exists.
    pub(crate) fn open_existing(directory: &Path) -> Result<Option<Self>, PathError> {
        if directory.is_dir() { Self::lock(directory).map(Some) } else { Ok(None) }
    }

    fn lock(directory: &Path) -> Result<Self, PathError> {
        let path = directory.join("lock");
        let error = |error| PathError::new("open", &path, error);
        fault::step().map_err(error)?;
        let file = match File::open(&path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o750)
                .open(&path)
                .map_err(error)?,
            other => other.map_err(error)?,
        };
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| PathError::new("flock", &path, errno.into()))?;
        Ok(Self { directory: directory.to_owned(), _lock: lock })
    }

    /// Returns all addresses in use. A file that cannot be read keeps its address, for an unknown container.
    pub(crate) fn reservations(&self) -> Result<Vec<Reservation>, PathError> {
        let error = |error| PathError::new("open", &self.directory, error);
        let mut reservations = Vec::new();
        let directory = File::open(&self.directory).map_err(error)?;
        for file in fs::read_dir(&self.directory).map_err(error)? {
            let Ok(file_name) = file.map_err(error)?.file_name().into_string() else { continue };
            let Ok(ip) = file_name.parse::<IpAddr>() else { continue };
            let holder = match read_at(&directory, &file_name) {
                Ok(text) => Holder::parse(&String::from_utf8_lossy(&text)),
                Err(Errno::NOENT) => continue,
                Err(_) => Holder::Container(String::new()),
            };
            reservations.push(Reservation { ip, holder, file_name });
        }
        Ok(reservations)
    }

    /// Reserves an address; returns false if it is in use.
    ///
    /// Nothing is flushed: after a power loss the container no longer exists either.
    pub(crate) fn reserve(
        &self,
        ip: IpAddr,
        attachment: &Attachment,
        owner: Option<&Owner>,
    ) -> Result<bool, PathError> {
        let (temporary, path) = (self.directory.join(TEMPORARY), self.directory.join(ip.to_string()));
        self.clean()?;
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            // In one call: `write!` writes each part on its own.
            file.write_all(format!("{}\r\n{}", attachment.container_id, attachment.ifname).as_bytes())?;
            if let Some(owner) = owner {
                owner::mark(owner, &file);
            }
            Ok(())
        };
        match files::create(&temporary, write, || rename_new(&temporary, &path)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(PathError::new("open", &path, error)),
        }
    }

    /// Reserves another address for the owner of `first`, with a hard link if the file system supports it.
    pub(crate) fn reserve_beside(
        &self,
        first: IpAddr,
        ip: IpAddr,
        attachment: &Attachment,
        owner: Option<&Owner>,
    ) -> Result<bool, PathError> {
        let path = |ip: IpAddr| self.directory.join(ip.to_string());
        match fault::step().and_then(|()| fs::hard_link(path(first), path(ip))) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(_) => self.reserve(ip, attachment, owner),
        }
    }

    /// Removes the temporary file of an ADD that was killed.
    pub(crate) fn clean(&self) -> Result<(), PathError> {
        files::remove(&self.directory.join(TEMPORARY))
    }

    /// Releases an address.
    pub(crate) fn release(&self, file_name: &str) -> Result<(), PathError> {
        files::remove(&self.directory.join(file_name))
    }

    /// Returns the path of the file of an address.
    pub(crate) fn path_of(&self, reservation: &Reservation) -> PathBuf {
        self.directory.join(&reservation.file_name)
    }

    /// Returns the last allocated address of a set.
    pub(crate) fn last(&self, set: usize) -> Option<IpAddr> {
        fs::read_to_string(self.cursor_file(set)).ok()?.parse().ok()
    }

    pub(crate) fn set_last(&self, set: usize, ip: IpAddr) -> Result<(), PathError> {
        let path = self.cursor_file(set);
        let text = ip.to_string();
        fault::step().map_err(|error| PathError::new("open", &path, error))?;
        // Not truncated on opening: ext4 flushes a file that was truncated and rewritten, which takes milliseconds.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                let length = text.len() as u64;
                if file.metadata()?.len() > length { file.set_len(length) } else { Ok(()) }
            })
            .map_err(|error| PathError::new("open", &path, error))
    }

    fn cursor_file(&self, set: usize) -> PathBuf {
        self.directory.join(format!("last_reserved_ip.{set}"))
    }
}

/// Reads a small file with as few system calls as possible: every ADD and DEL reads those of all pods.
fn read_at(directory: &File, name: &str) -> rustix::io::Result<Vec<u8>> {
    // Opening must not block, whatever kind of file it is.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = openat(directory, name, flags, Mode::empty())?;
    let (mut text, mut length) = (vec![0; 512], 0);
    loop {
        match rustix::io::read(&file, &mut text[length..]) {
            Err(Errno::INTR) => continue,
            read => length += read?,
        }
        if length < text.len() {
            text.truncate(length);
            return Ok(text);
        }
        text.resize(2 * length, 0);
    }
}

/// Renames a file without replacing another one.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system does not support that; the lock prevents races.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests;
