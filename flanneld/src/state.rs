//! The state directory: what a start needs while the store is away, and what must be the same
//! after a reboot.
//!
//! Invariants: nothing in it is believed over the store or the kernel; a file that is missing, damaged or
//! from a newer version costs only what it remembered, never the start. Files are 0600: a network
//! config can hold keys. Calls block (they wait for the disk): run them off the event loop.

use crate::replace_file::{self, Mode, ReplaceFileError, make_directory};
use crate::store::is_scope;
use flannel_core::lease::Revision;
use flannel_core::link::{LinkName, Mac};
use flannel_core::store::{ConfigRecord, Record};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use tracing::warn;

/// An open state directory. Several daemons may share it if their stores differ.
#[derive(Debug)]
pub struct StateDir {
    /// What belongs to the host.
    host: PathBuf,
    /// What belongs to one store.
    store: PathBuf,
    /// What each file has, as far as we wrote or read it.
    known: BTreeMap<PathBuf, Content>,
    /// Nothing is made, moved or logged: another process owns the directory.
    looking: bool,
}

/// What a state directory had at a start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The network config.
    pub config: Option<ConfigRecord>,
    /// Our own record.
    pub lease: Option<RememberedLease>,
    /// Key and value of all records, in key order.
    pub records: Vec<(String, Vec<u8>)>,
    /// Hardware addresses of tunnel devices.
    pub vtep_macs: BTreeMap<LinkName, Mac>,
}

impl Remembered {
    /// The records in the form of the store. Their revisions are unknown.
    #[must_use]
    pub fn to_records(&self) -> Vec<Record> {
        let record = |(key, value): &(String, Vec<u8>)| Record {
            key: key.clone(),
            value: value.clone(),
            revision: Revision::default(),
            grant: None,
        };
        self.records.iter().map(record).collect()
    }
}

/// Our own record as it was in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RememberedLease {
    /// The key, without `<prefix>/subnets/`.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// Hardware address of the external interface: by it a clone of the disk shows.
    pub hardware: Option<Mac>,
}

/// The key of the lease that the daemon with this state held last. Changes nothing; whatever cannot be read counts as
/// not there.
#[must_use]
pub fn remembered_key(path: &Path, scope: &str) -> Option<String> {
    let bytes = fs::read(path.join(scope).join(LEASE)).ok()?;
    parse(&bytes).ok().map(|file: LeaseFile<'_>| file.key.into_owned())
}

/// The files that daemons have left in a state directory. Others are not named, whatever directory it is.
#[must_use]
pub fn files(path: &Path) -> Vec<PathBuf> {
    let is_ours = |name: &str| {
        let name = name.strip_suffix(CORRUPT).unwrap_or(name);
        matches!(name, CONFIG | LEASE | RECORDS) || link_of(name).is_some()
    };
    let listed = |directory: &Path| {
        let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
        let named =
            |entry: fs::DirEntry| entry.file_name().to_str().is_some_and(is_ours).then(|| entry.path());
        entries.filter_map(named).filter(|file| file.is_file()).collect::<Vec<_>>()
    };
    directories(path).iter().flat_map(|directory| listed(directory)).collect()
}

/// The directories of those files, the state directory last.
#[must_use]
pub fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let mut directories: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| is_scope(path) && path.is_dir()).collect();
    directories.push(path.to_owned());
    directories
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("could not open the state directory {}; {}", path.display(), replace_file::advice(source))]
pub struct OpenStateError {
    path: PathBuf,
    source: io::Error,
}

impl StateDir {
    /// Opens or makes the directory. `scope` names the store, as a file name.
    pub fn open(path: &Path, scope: &str) -> Result<Self, OpenStateError> {
        let store = path.join(scope);
        for directory in [path, &store] {
            let failed = |source| OpenStateError { path: directory.to_owned(), source };
            make_directory(directory, 0o700).map_err(failed)?;
            // Shows a directory that we may not enter, too.
            fs::read_dir(directory).map_err(failed)?;
        }
        Ok(Self { host: path.to_owned(), store, known: BTreeMap::new(), looking: false })
    }

    /// Reads the directory of another process without changing anything in it. What is missing or damaged is as if
    /// it had never been remembered.
    #[must_use]
    pub fn look(path: &Path, scope: &str) -> Remembered {
        let (host, store) = (path.to_owned(), path.join(scope));
        Self { host, store, known: BTreeMap::new(), looking: true }.load()
    }

    /// Reads everything. What cannot be read is logged, and set aside if it is damaged.
    pub fn load(&mut self) -> Remembered {
        let config = self
            .read(&self.store.join(CONFIG))
            .map(|ConfigFile { text, revision }| ConfigRecord { text: text.into_owned(), revision });
        let lease = self.read(&self.store.join(LEASE)).map(|file: LeaseFile<'_>| RememberedLease {
            key: file.key.into_owned(),
            value: file.value.into_owned().into_bytes(),
            hardware: file.hardware.and_then(|text| text.parse().ok()),
        });
        let records =
            self.read(&self.store.join(RECORDS)).map_or_else(Vec::new, |RecordsFile { records }| {
                records
                    .into_iter()
                    .map(|(key, value)| (key.into_owned(), value.into_owned().into_bytes()))
                    .collect()
            });
        Remembered { config, lease, records, vtep_macs: self.load_vtep_macs() }
    }

    fn load_vtep_macs(&mut self) -> BTreeMap<LinkName, Mac> {
        let mut macs = BTreeMap::new();
        let names: Vec<LinkName> = match fs::read_dir(&self.host) {
            Ok(entries) => entries.filter_map(|entry| link_of(entry.ok()?.file_name().to_str()?)).collect(),
            Err(_) if self.looking => return macs,
            Err(error) => {
                warn!(path = %self.host.display(), %error, "could not list the state directory");
                return macs;
            }
        };
        for name in names {
            if let Some(VtepFile { mac }) = self.read(&self.vtep_path(&name)) {
                macs.insert(name, mac);
            }
        }
        macs
    }

    /// Remembers the network config, or forgets it.
    pub fn save_config(&mut self, config: Option<&ConfigRecord>) -> Result<(), ReplaceFileError> {
        let content = config.map(|config| ConfigFile {
            text: Cow::Borrowed(config.text.as_str()),
            revision: config.revision,
        });
        self.write(self.store.join(CONFIG), content)
    }

    /// Remembers our own record, or forgets it.
    pub fn save_lease(&mut self, lease: Option<&RememberedLease>) -> Result<(), ReplaceFileError> {
        let content = lease.map(|lease| LeaseFile {
            key: Cow::Borrowed(lease.key.as_str()),
            value: String::from_utf8_lossy(&lease.value),
            hardware: lease.hardware.map(|mac| Cow::Owned(mac.to_string())),
        });
        self.write(self.store.join(LEASE), content)
    }

    /// Remembers all records, in the order given: keep it the same, or an unchanged set is written
    /// again. A value that is not UTF-8 is left out; nobody can use such a record.
    pub fn save_records<'a>(
        &mut self,
        records: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<(), ReplaceFileError> {
        let records = records
            .filter_map(|(key, value)| Some((Cow::Borrowed(key), Cow::Borrowed(str::from_utf8(value).ok()?))))
            .collect();
        self.write(self.store.join(RECORDS), Some(RecordsFile { records }))
    }

    /// Remembers the hardware address of a tunnel device.
    pub fn save_vtep_mac(&mut self, link: &LinkName, mac: Mac) -> Result<(), ReplaceFileError> {
        self.write(self.vtep_path(link), Some(VtepFile { mac }))
    }

    fn vtep_path(&self, link: &LinkName) -> PathBuf {
        self.host.join(format!("{VTEP_PREFIX}{link}{SUFFIX}"))
    }

    fn read<T: DeserializeOwned>(&mut self, path: &Path) -> Option<T> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound && !self.looking {
                    warn!(path = %path.display(), %error, "could not read what was remembered");
                }
                return None;
            }
        };
        match parse(&bytes) {
            Ok(content) => {
                self.known.insert(path.to_owned(), Content::of(&bytes));
                Some(content)
            }
            Err(reason) => {
                if !self.looking {
                    set_aside(path, &reason);
                }
                None
            }
        }
    }

    /// Writes only what differs from what we know to be there.
    fn write<T: Serialize>(&mut self, path: PathBuf, content: Option<T>) -> Result<(), ReplaceFileError> {
        let Some(content) = content else {
            self.known.remove(&path);
            return replace_file::remove(&path);
        };
        let bytes = serde_json::to_vec(&Versioned { version: VERSION, content })
            .expect("strings and numbers have a JSON form");
        let content = Content::of(&bytes);
        if self.known.get(&path) == Some(&content) && content.has_size_of(&path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            // Somebody may have emptied the directory meanwhile; if this fails, so does the next step.
            let _ = make_directory(parent, 0o700);
        }
        replace_file::replace(&path, &bytes, Mode::Fixed(0o600))?;
        self.known.insert(path, content);
        Ok(())
    }
}

const VERSION: u32 = 1;
const SUFFIX: &str = ".json";
const CORRUPT: &str = ".corrupt";
const CONFIG: &str = "config.json";
const LEASE: &str = "lease.json";
const RECORDS: &str = "records.json";
const VTEP_PREFIX: &str = "vtep-";

fn link_of(file_name: &str) -> Option<LinkName> {
    file_name.strip_prefix(VTEP_PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

/// Recognises a content without keeping it: records of a large cluster are a megabyte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    hash: u64,
    size: u64,
}

impl Content {
    fn of(bytes: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Self { hash: hasher.finish(), size: bytes.len() as u64 }
    }

    /// Somebody may have removed or cut the file meanwhile.
    fn has_size_of(self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == self.size)
    }
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

#[derive(Serialize, Deserialize)]
struct ConfigFile<'a> {
    revision: Revision,
    text: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct LeaseFile<'a> {
    key: Cow<'a, str>,
    value: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hardware: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct RecordsFile<'a> {
    records: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

#[derive(Serialize, Deserialize)]
struct VtepFile {
    mac: Mac,
}

/// Without the version on its own a newer file would be called damaged.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("it has format {version}, this build knows {VERSION}"));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

fn set_aside(path: &Path, reason: &str) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(CORRUPT);
    let moved = fs::rename(path, &aside);
    warn!(
        path = %path.display(),
        reason,
        set_aside = moved.is_ok(),
        "what was remembered cannot be used, going on without it"
    );
}

#[cfg(test)]
mod tests;
