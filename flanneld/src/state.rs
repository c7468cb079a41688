//! The state directory: the data for a start while the store is unreachable, and what a reboot must not change.
//!
//! Store and kernel take precedence over it. A file that is missing, damaged or from a newer version costs only its content, never
//! the start. Files are 0600, because a network config can contain keys. Calls block (they wait for the disk): run them off the
//! event loop.

use crate::error::chain;
use crate::files::{self, FileError};
use crate::store::is_scope;
use flannel_core::lease::Revision;
use flannel_core::link::{LinkName, Mac};
use flannel_core::store::{ConfigRecord, Prescribed, Record};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tracing::warn;

/// An open state directory. Several daemons may share it if their stores differ.
#[derive(Clone, Debug)]
pub struct StateDir {
    /// Files of the host.
    host: PathBuf,
    /// Files of one store.
    store: PathBuf,
    /// Another process owns the directory: nothing is created, moved or logged.
    read_only: bool,
}

/// The content of a state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The network config.
    pub config: Option<ConfigRecord>,
    /// The record of this node.
    pub lease: Option<RememberedLease>,
    /// All records, in key order, without revision and grant.
    pub records: Vec<Record>,
    /// Hardware addresses of tunnel devices.
    pub vtep_macs: BTreeMap<LinkName, Mac>,
    /// Public addresses that the store prescribes for this node.
    pub prescribed: Prescribed,
}

/// The record of this node, as in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedLease {
    /// The key, without `<prefix>/subnets/`.
    pub key: String,
    /// The value.
    pub value: String,
    /// Hardware address of the external interface: it reveals a clone of the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Mac>,
}

/// Returns the files of daemons in a state directory, and no others.
#[must_use]
pub fn files(path: &Path) -> Vec<PathBuf> {
    let is_owned = |name: &str| {
        let name = name.strip_suffix(CORRUPT).unwrap_or(name);
        matches!(name, CONFIG | LEASE | RECORDS | PRESCRIBED) || link_of(name).is_some()
    };
    let listed = |directory: &Path| {
        let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
        let owned =
            |entry: fs::DirEntry| entry.file_name().to_str().is_some_and(is_owned).then(|| entry.path());
        entries.filter_map(owned).filter(|file| file.is_file()).collect::<Vec<_>>()
    };
    directories(path).iter().flat_map(|directory| listed(directory)).collect()
}

/// Returns the directories of those files, the state directory last.
#[must_use]
pub fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let mut directories: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| is_scope(path) && path.is_dir()).collect();
    directories.push(path.to_owned());
    directories
}

impl StateDir {
    /// Opens or creates the directory. `scope` is the file name of the store.
    pub(crate) fn open(path: &Path, scope: &str) -> Result<Self, FileError> {
        let store = path.join(scope);
        for directory in [path, &store] {
            files::make_directory(directory, 0o700)?;
            fs::read_dir(directory).map_err(FileError::during("read", directory))?;
        }
        Ok(Self { host: path.to_owned(), store, read_only: false })
    }

    /// Reads the directory of another process without changing it. Missing and damaged files are left out.
    #[must_use]
    pub fn look(path: &Path, scope: &str) -> Remembered {
        Self { host: path.to_owned(), store: path.join(scope), read_only: true }.load()
    }

    /// Reads everything. Unreadable files are logged, and damaged ones moved aside.
    pub(crate) fn load(&self) -> Remembered {
        let RecordsFile { records }: RecordsFile = self.read(&self.store.join(RECORDS)).unwrap_or_default();
        let record = |(key, value): (String, String)| Record {
            key,
            value: value.into_bytes(),
            revision: Revision::default(),
            grant: None,
            fault: None,
            node: None,
        };
        Remembered {
            config: self.read(&self.store.join(CONFIG)),
            lease: self.read(&self.store.join(LEASE)),
            records: records.into_iter().map(record).collect(),
            vtep_macs: self.load_vtep_macs(),
            prescribed: self.read(&self.store.join(PRESCRIBED)).unwrap_or_default(),
        }
    }

    fn load_vtep_macs(&self) -> BTreeMap<LinkName, Mac> {
        let entries = fs::read_dir(&self.host).into_iter().flatten();
        let names = entries.filter_map(|entry| link_of(entry.ok()?.file_name().to_str()?));
        let mac = |name: LinkName| {
            let VtepFile { mac } = self.read(&self.vtep_path(&name))?;
            Some((name, mac))
        };
        names.filter_map(mac).collect()
    }

    /// Stores the network config, or removes it.
    pub(crate) fn save_config(&self, config: Option<&ConfigRecord>) -> Result<(), FileError> {
        write(&self.store.join(CONFIG), config)
    }

    /// Stores the prescribed public addresses; without any, no file is needed.
    pub(crate) fn save_prescribed(&self, prescribed: Prescribed) -> Result<(), FileError> {
        write(&self.store.join(PRESCRIBED), Some(&prescribed).filter(|it| **it != Prescribed::default()))
    }

    /// Stores the record of this node, or removes it.
    pub(crate) fn save_lease(&self, lease: Option<&RememberedLease>) -> Result<(), FileError> {
        write(&self.store.join(LEASE), lease)
    }

    /// Stores the keys and values of all records. Keep their order, so that an unchanged set is not written again.
    pub(crate) fn save_records(
        &self,
        records: impl Iterator<Item = (String, String)> + Clone,
    ) -> Result<(), FileError> {
        write(&self.store.join(RECORDS), Some(&RecordsFile { records: Sequence(records) }))
    }

    /// Stores the hardware address of a tunnel device.
    pub(crate) fn save_vtep_mac(&self, link: &LinkName, mac: Mac) -> Result<(), FileError> {
        write(&self.vtep_path(link), Some(&VtepFile { mac }))
    }

    fn vtep_path(&self, link: &LinkName) -> PathBuf {
        self.host.join(format!("{VTEP_PREFIX}{link}{SUFFIX}"))
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Option<T> {
        let bytes = match files::read(path) {
            Ok(bytes) => bytes?,
            Err(error) => {
                if !self.read_only {
                    warn!(error = %chain(&error), "state file is ignored");
                }
                return None;
            }
        };
        let content = parse(&bytes);
        if let (Err(reason), false) = (&content, self.read_only) {
            set_aside(path, reason);
        }
        content.ok()
    }
}

/// Writes only what differs. The content is never in memory as a whole.
fn write<T: Serialize>(path: &Path, content: Option<&T>) -> Result<(), FileError> {
    let Some(content) = content else { return files::remove(path) };
    let content = Versioned { version: VERSION, content };
    if files::contains(path, |file| Ok(serde_json::to_writer(file, &content)?)) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        // Someone may have emptied the directory meanwhile.
        files::make_directory(parent, 0o700)?;
    }
    files::replace_by(path, |file| Ok(serde_json::to_writer(file, &content)?), 0o600)
}

const VERSION: u32 = 1;
const SUFFIX: &str = ".json";
const CORRUPT: &str = ".corrupt";
const CONFIG: &str = "config.json";
const LEASE: &str = "lease.json";
const RECORDS: &str = "records.json";
const PRESCRIBED: &str = "prescribed.json";
const VTEP_PREFIX: &str = "vtep-";

fn link_of(file_name: &str) -> Option<LinkName> {
    file_name.strip_prefix(VTEP_PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

#[derive(Serialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

#[derive(Default, Serialize, Deserialize)]
struct RecordsFile<R = Vec<(String, String)>> {
    records: R,
}

/// A sequence whose items exist one at a time.
struct Sequence<I>(I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for Sequence<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}

#[derive(Serialize, Deserialize)]
struct VtepFile {
    mac: Mac,
}

/// Parses the version first, so that a newer file is not reported as damaged.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("it has format {version}, this version supports {VERSION}"));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

fn set_aside(path: &Path, reason: &str) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(CORRUPT);
    let moved = fs::rename(path, &aside).is_ok();
    warn!(path = %path.display(), reason, moved, "state file is damaged and ignored");
}

#[cfg(test)]
mod tests;
