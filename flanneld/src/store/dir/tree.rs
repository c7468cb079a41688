//! The files of a lease directory, under its lock.

use flannel_core::lease::Revision;
use flannel_core::store::{Change, ConfigRecord, CreateGuard, Held, Listing, Record};
use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::NamedTempFile;
use tracing::debug;

use super::error::DirError;
use super::expiry::{DEFAULT_LIFETIME, Expiry};
use super::index::{Entry, Index, Lease, Seen, Stamp, Touched, hash};
use crate::store::Life;
use crate::store::error::StoreError;

/// Where the files are.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
    config: PathBuf,
    pub(super) subnets: PathBuf,
    pub(super) leases: PathBuf,
    lock: PathBuf,
    index: PathBuf,
}

/// How long to wait for the lock. Holders keep it for some milliseconds, mostly for flushing to the disk; a machine
/// with a hundred daemons that start at once needs a second or two.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(2);
/// Much more than a record has. A larger file is not read to its end.
const FILE_LIMIT: u64 = 1 << 20;
/// Files younger than this are read again the next time.
const SETTLING_NANOS: i64 = 100_000_000;

impl Tree {
    pub(super) fn new(root: PathBuf) -> Self {
        let below = |name: &str| root.join(name);
        Self {
            config: below("config"),
            subnets: below("subnets"),
            leases: below("leases"),
            lock: below(".lock"),
            index: below(".index"),
            root,
        }
    }

    /// Makes the directories that are missing.
    pub(super) fn prepare(&self) -> Result<(), StoreError> {
        for directory in [&self.root, &self.subnets, &self.leases] {
            fs::create_dir_all(directory)
                .map_err(|error| DirError::file("create directory", directory, error))?;
        }
        Ok(())
    }

    /// Takes the lock and brings the index up to date with the files. Blocks.
    pub(super) fn lock(&self) -> Result<Locked<'_>, StoreError> {
        self.prepare()?;
        let file = self.take_lock()?;
        let now_micros = i64::try_from(since_1970().as_micros()).unwrap_or(i64::MAX);
        let (index, stale) = match fs::read(&self.index) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(index) => (index, false),
                Err(error) => {
                    debug!(%error, path = %self.index.display(), "index is damaged, starting a new one");
                    (Index::new(now_micros), true)
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Index::new(now_micros), true),
            Err(error) => return Err(DirError::file("read", &self.index, error)),
        };
        let mut locked = Locked { tree: self, index, stale, _lock: file };
        locked.compare()?;
        locked.save()?;
        Ok(locked)
    }

    fn take_lock(&self) -> Result<File, StoreError> {
        let failed = |error| DirError::file("lock", &self.lock, error);
        let deadline = Instant::now() + LOCK_LIMIT;
        loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(&self.lock);
            let file = file.map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {
                    // Whoever removes the file takes the meaning out of the lock on it.
                    let ours = file.metadata().map_err(failed)?;
                    if fs::metadata(&self.lock)
                        .is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino()))
                    {
                        return Ok(file);
                    }
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            if Instant::now() >= deadline {
                return Err(DirError::Locked { path: self.lock.clone(), limit: LOCK_LIMIT }.into());
            }
            sleep(LOCK_PAUSE);
        }
    }
}

/// The directory while nobody else of us touches it.
pub(super) struct Locked<'a> {
    tree: &'a Tree,
    pub(super) index: Index,
    /// The index differs from its file.
    stale: bool,
    _lock: File,
}

impl Locked<'_> {
    pub(super) fn list(&self) -> Result<Listing, StoreError> {
        let records = self.index.records.iter();
        let records = records.filter_map(|(key, entry)| self.record(key, entry));
        Ok(Listing {
            revision: Revision::new(self.index.revision),
            config: self.config()?,
            records: records.collect(),
        })
    }

    /// What has changed after a revision; `None` if that is not known any more.
    pub(super) fn changes(&self, after: Revision) -> Result<Option<Vec<Change>>, StoreError> {
        let Some(touched) = self.index.since(after.number()) else { return Ok(None) };
        let mut changes = Vec::new();
        for touched in touched {
            match touched {
                Touched::Put(key) => {
                    changes.extend(self.record(&key, &self.index.records[&key]).map(Change::Put))
                }
                Touched::Deleted(key) => changes.push(Change::Delete { key }),
                Touched::Config => changes.push(Change::Config(self.config()?)),
            }
        }
        Ok(Some(changes))
    }

    pub(super) fn create(
        &mut self,
        key: &str,
        value: &str,
        guard: CreateGuard,
        lifetime: Option<Duration>,
    ) -> Result<Held, StoreError> {
        let same_config =
            self.index.config.as_ref().is_some_and(|entry| entry.modified == guard.config.number());
        let newest = self.index.records.values().map(|entry| entry.modified).max().unwrap_or(0);
        let same_records = guard.records.is_none_or(|records| newest <= records.number());
        if self.index.records.contains_key(key) || !same_config || !same_records {
            return Err(StoreError::Raced);
        }
        // The expiry file goes first: a crash in between must not leave a record that lives for ever.
        let lease = self.tree.leases.join(key);
        match lifetime {
            Some(lifetime) => {
                self.write_expiry(key, lifetime)?;
                sync_directory(&self.tree.leases)?;
            }
            None => remove(&lease)?,
        }
        let file = self.temporary(value.as_bytes(), true)?;
        let path = self.tree.subnets.join(key);
        match file.persist_noclobber(&path) {
            Ok(_) => sync_directory(&self.tree.subnets)?,
            // Laid out by somebody who does not take the lock.
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::Raced);
            }
            Err(error) => return Err(DirError::file("create", &path, error.error)),
        }
        self.wrote(key, lifetime)
    }

    pub(super) fn update(&mut self, key: &str, value: &str, held: &Held) -> Result<Held, StoreError> {
        self.entry_at(key, held.revision)?;
        self.write(&self.tree.subnets.join(key), value.as_bytes())?;
        self.wrote(key, held.remaining)
    }

    pub(super) fn renew(&mut self, key: &str, held: &Held) -> Result<Held, StoreError> {
        if held.grant.is_none() {
            return Ok(Held { remaining: None, ..*held });
        }
        let entry = self.index.records.get(key).filter(|entry| entry.grant() == held.grant);
        let lease = entry.and_then(|entry| entry.lease.as_ref()).ok_or(StoreError::Raced)?;
        let lifetime = Duration::from_millis(lease.lifetime_millis);
        self.write_expiry(key, lifetime)?;
        let lease = self.lease(key)?;
        if let Some(entry) = self.index.records.get_mut(key) {
            entry.lease = lease;
        }
        self.stale = true;
        self.save()?;
        Ok(Held { remaining: Some(lifetime), ..*held })
    }

    pub(super) fn delete(&mut self, key: &str, revision: Revision) -> Result<(), StoreError> {
        self.entry_at(key, revision)?;
        self.remove(key)?;
        self.save()
    }

    /// How long a record lives; `None` if for ever.
    pub(super) fn life(&self, key: &str) -> Option<Life> {
        let lease = self.index.records.get(key)?.lease.as_ref()?;
        let now_millis = i64::try_from(since_1970().as_millis()).unwrap_or(i64::MAX);
        let left = u64::try_from(lease.expires?.saturating_sub(now_millis)).unwrap_or(0);
        Some(Life {
            left: Duration::from_millis(left),
            granted: Duration::from_millis(lease.lifetime_millis),
        })
    }

    /// Lets a record live for `lifetime` from now on, or for ever.
    pub(super) fn set_lifetime(
        &mut self,
        key: &str,
        revision: Revision,
        lifetime: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        self.entry_at(key, revision)?;
        match lifetime {
            Some(lifetime) => self.write_expiry(key, lifetime)?,
            None => remove(&self.tree.leases.join(key))?,
        }
        sync_directory(&self.tree.leases)?;
        self.wrote(key, lifetime).map(|held| held.revision)
    }

    pub(super) fn put_config(
        &mut self,
        text: &str,
        current: Option<Revision>,
    ) -> Result<Revision, StoreError> {
        if self.index.config.as_ref().map(|entry| Revision::new(entry.modified)) != current {
            return Err(StoreError::Raced);
        }
        self.write(&self.tree.config, text.as_bytes())?;
        let file = see(&self.tree.config, None)?;
        self.stale = true;
        let revision = self.index.put_config(file);
        self.save()?;
        Ok(Revision::new(revision))
    }

    fn entry_at(&self, key: &str, revision: Revision) -> Result<&Entry, StoreError> {
        let entry = self.index.records.get(key);
        entry.filter(|entry| entry.modified == revision.number()).ok_or(StoreError::Raced)
    }

    /// Notes a record that was just written.
    fn wrote(&mut self, key: &str, remaining: Option<Duration>) -> Result<Held, StoreError> {
        let file = see_record(&self.tree.subnets.join(key), None).ok_or(StoreError::Raced)?;
        let lease = self.lease(key)?;
        self.stale = true;
        let revision = self.index.put(key, file, lease);
        self.save()?;
        let grant = self.index.records[key].grant();
        Ok(Held { revision: Revision::new(revision), grant, remaining: grant.and(remaining) })
    }

    /// Removes a record and its expiry file, in this order: see `create`.
    fn remove(&mut self, key: &str) -> Result<(), StoreError> {
        remove(&self.tree.subnets.join(key))?;
        remove(&self.tree.leases.join(key))?;
        sync_directory(&self.tree.subnets)?;
        self.stale = true;
        self.index.remove(key);
        Ok(())
    }

    /// Gives every difference between files and index a revision, and removes what has expired.
    fn compare(&mut self) -> Result<(), StoreError> {
        let known = self.index.config.as_ref().map(|entry| entry.file);
        let config = see(&self.tree.config, known.as_ref())?;
        if config.map(|file| file.hash) != known.map(|file| file.hash) {
            self.index.put_config(config);
            self.stale = true;
        } else if let (Some(file), Some(entry)) = (config, &mut self.index.config) {
            self.stale |= entry.file.stamp != file.stamp;
            entry.file = file;
        }
        let names = names(&self.tree.subnets)?;
        let gone: Vec<String> =
            self.index.records.keys().filter(|key| !names.contains(*key)).cloned().collect();
        for key in gone {
            // Its expiry file must not end a record that is laid out here later.
            self.remove(&key)?;
        }
        let now_millis = i64::try_from(since_1970().as_millis()).unwrap_or(i64::MAX);
        for key in names {
            self.compare_record(&key, now_millis)?;
        }
        Ok(())
    }

    fn compare_record(&mut self, key: &str, now_millis: i64) -> Result<(), StoreError> {
        let known = self.index.records.get(key);
        let Some(file) = see_record(&self.tree.subnets.join(key), known.map(|entry| &entry.file)) else {
            // No file any more, or something that never was one, such as a directory.
            self.stale |= known.is_some();
            self.index.remove(key);
            return Ok(());
        };
        let lease = self.lease(key)?;
        let expired = lease.as_ref().and_then(|lease| lease.expires).is_some_and(|at| at <= now_millis);
        if expired {
            return self.remove(key);
        }
        let same = |entry: &Entry| entry.file.hash == file.hash && entry.lease.is_some() == lease.is_some();
        if !known.is_some_and(same) {
            self.index.put(key, file, lease);
            self.stale = true;
        } else if let Some(entry) = self.index.records.get_mut(key) {
            let stamp = |lease: &Option<Lease>| lease.as_ref().map(|lease| lease.file.stamp);
            self.stale |= entry.file.stamp != file.stamp || stamp(&entry.lease) != stamp(&lease);
            (entry.file, entry.lease) = (file, lease);
        }
        Ok(())
    }

    /// Looks at an expiry file.
    fn lease(&self, key: &str) -> Result<Option<Lease>, StoreError> {
        let path = self.tree.leases.join(key);
        let known = self.index.records.get(key).and_then(|entry| entry.lease.as_ref());
        let Some(file) = see(&path, known.map(|lease| &lease.file))? else { return Ok(None) };
        if let Some(known) = known.filter(|known| known.file.hash == file.hash) {
            return Ok(Some(Lease { file, ..known.clone() }));
        }
        let text = read(&path)?.unwrap_or_default();
        let expiry = Expiry::parse(&String::from_utf8_lossy(&text));
        if expiry.is_none() {
            debug!(path = %path.display(), "expiry file holds no time, its record does not expire");
        }
        let lifetime = expiry.map_or(DEFAULT_LIFETIME, |expiry| expiry.lifetime);
        let lifetime_millis = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        Ok(Some(Lease { file, expires: expiry.map(|expiry| expiry.at_millis), lifetime_millis }))
    }

    /// A record as it is now; `None` if it was deleted meanwhile.
    fn record(&self, key: &str, entry: &Entry) -> Option<Record> {
        let revision = Revision::new(entry.modified);
        let value = match read(&self.tree.subnets.join(key)) {
            Ok(value) => value?,
            Err(_) => Vec::new(),
        };
        Some(Record { key: key.to_owned(), value, revision, grant: entry.grant() })
    }

    fn config(&self) -> Result<Option<ConfigRecord>, StoreError> {
        let Some(entry) = &self.index.config else { return Ok(None) };
        Ok(read(&self.tree.config)?.map(|text| ConfigRecord {
            text: String::from_utf8_lossy(&text).into_owned(),
            revision: Revision::new(entry.modified),
        }))
    }

    fn write_expiry(&self, key: &str, lifetime: Duration) -> Result<(), StoreError> {
        let now_millis = i64::try_from(since_1970().as_millis()).unwrap_or(i64::MAX);
        let text = Expiry::after(now_millis, lifetime).text();
        self.replace(&self.tree.leases.join(key), self.temporary(text.as_bytes(), true)?)
    }

    fn save(&mut self) -> Result<(), StoreError> {
        if self.stale {
            let text = serde_json::to_vec(&self.index)
                .map_err(|error| DirError::file("write", &self.tree.index, io::Error::other(error)))?;
            // Not flushed to the disk: one that is lost or old is made anew from the files.
            self.replace(&self.tree.index, self.temporary(&text, false)?)?;
            self.stale = false;
        }
        Ok(())
    }

    /// Replaces a file at once and for good.
    fn write(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        self.replace(path, self.temporary(content, true)?)?;
        path.parent().map_or(Ok(()), sync_directory)
    }

    fn replace(&self, path: &Path, file: NamedTempFile) -> Result<(), StoreError> {
        file.persist(path).map(drop).map_err(|error| DirError::file("write", path, error.error))
    }

    /// A file beside the others that is not one of them yet. Everybody may read it: nothing here is secret.
    fn temporary(&self, content: &[u8], durable: bool) -> Result<NamedTempFile, StoreError> {
        let root = &self.tree.root;
        let failed = |error| DirError::file("write a file in", root, error);
        let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(root).map_err(failed)?;
        file.write_all(content).map_err(failed)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
        if durable {
            file.as_file().sync_all().map_err(failed)?;
        }
        Ok(file)
    }
}

/// Looks at a file; reads it only if it may have changed since. `None` if there is no such file.
fn see(path: &Path, known: Option<&Seen>) -> Result<Option<Seen>, StoreError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DirError::file("read", path, error)),
    };
    let stamp = stamp(&metadata);
    if let Some(known) = known.filter(|known| known.settled && known.stamp == stamp) {
        return Ok(Some(*known));
    }
    let now = i64::try_from(since_1970().as_nanos()).unwrap_or(i64::MAX);
    let settled = now.saturating_sub(stamp.changed_nanos.max(stamp.modified_nanos)) > SETTLING_NANOS;
    Ok(read(path)?.map(|content| Seen { stamp, hash: hash(&content), settled }))
}

/// Looks at a record. One that cannot be read counts as empty: it is there, it is malformed, and it hurts no other.
fn see_record(path: &Path, known: Option<&Seen>) -> Option<Seen> {
    see(path, known).unwrap_or_else(|error| {
        debug!(%error, "record cannot be read, taking it as empty");
        let stamp = Stamp { device: 0, inode: 0, size: 0, modified_nanos: 0, changed_nanos: 0 };
        Some(Seen { stamp, hash: hash(&[]), settled: false })
    })
}

fn stamp(metadata: &Metadata) -> Stamp {
    let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        modified_nanos: nanos(metadata.mtime(), metadata.mtime_nsec()),
        changed_nanos: nanos(metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let mut content = Vec::new();
    let result = File::open(path).and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut content));
    match result {
        Ok(_) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DirError::file("read", path, error)),
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DirError::file("delete", path, error)),
        _ => Ok(()),
    }
}

/// Makes the names in a directory durable.
fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| DirError::file("write", path, error))
}

/// The keys that have a file. What editors and copying tools leave beside them is not meant as a record.
fn names(directory: &Path) -> Result<BTreeSet<String>, StoreError> {
    let failed = |error| DirError::file("read", directory, error);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with(['.', '#']) && !name.ends_with('~') {
            names.insert(name);
        }
    }
    Ok(names)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
