//! The files of a lease directory, under its lock.

use flannel_core::lease::Revision;
use flannel_core::store::{Change, ConfigRecord, CreateGuard, Held, Listing, Record};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::debug;

use super::expiry::{DEFAULT_LIFETIME, Expiry};
use super::index::{Entry, Index, Seen, Stamp, Touched};
use crate::files::{self, FileError};
use crate::store::Life;
use crate::store::error::{Detail, StoreError};

/// The paths of the files.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
    config: PathBuf,
    pub(super) subnets: PathBuf,
    pub(super) leases: PathBuf,
    lock: PathBuf,
    index: PathBuf,
}

/// The time limit for the lock. It is held for some milliseconds, mostly to flush to the disk; a hundred daemons that start at
/// once need a second or two.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(2);
/// Much larger than a record or config. A larger file is not read to its end.
const FILE_LIMIT: u64 = 1 << 20;
/// Files younger than this are read again the next time.
const SETTLING_NANOS: i64 = 100_000_000;
/// Files contain no secrets.
const MODE: u32 = 0o644;

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

    /// Creates the directories that are missing.
    pub(super) fn prepare(&self) -> Result<(), StoreError> {
        for directory in [&self.root, &self.subnets, &self.leases] {
            files::make_directory(directory, 0o777)?;
        }
        Ok(())
    }

    /// Takes the lock and brings the index up to date with the files. Blocks.
    pub(super) fn lock(&self) -> Result<Locked<'_>, StoreError> {
        self.prepare()?;
        let file = self.take_lock()?;
        let existing = files::read(&self.index)?.map(|text| serde_json::from_slice(&text));
        let (index, stale) = match existing {
            Some(Ok(index)) => (index, false),
            damaged => {
                if let Some(Err(error)) = damaged {
                    debug!(%error, path = %self.index.display(), "index is damaged, starting a new one");
                }
                (Index::new(i64::try_from(since_1970().as_micros()).unwrap_or(i64::MAX)), true)
            }
        };
        let mut locked = Locked { tree: self, index, stale, _lock: file };
        locked.compare()?;
        locked.save()?;
        Ok(locked)
    }

    fn take_lock(&self) -> Result<File, StoreError> {
        let failed = FileError::during("lock", &self.lock);
        let deadline = Instant::now() + LOCK_LIMIT;
        loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(&self.lock);
            let file = file.map_err(&failed)?;
            match file.try_lock() {
                Ok(()) => {
                    // The lock on a file that was removed meanwhile excludes nobody.
                    let own = file.metadata().map_err(&failed)?;
                    if fs::metadata(&self.lock)
                        .is_ok_and(|now| (now.dev(), now.ino()) == (own.dev(), own.ino()))
                    {
                        return Ok(file);
                    }
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(failed(error).into()),
            }
            if Instant::now() >= deadline {
                let (path, limit) = (self.lock.display(), LOCK_LIMIT.as_secs());
                let error = format!(
                    "{path} has been locked by another process for {limit} s; `fuser {path}` shows it"
                );
                return Err(StoreError::TimedOut(Detail::new(error, "")));
            }
            sleep(LOCK_PAUSE);
        }
    }
}

/// The directory while this process has the lock.
pub(super) struct Locked<'a> {
    tree: &'a Tree,
    pub(super) index: Index,
    /// The index differs from its file.
    stale: bool,
    _lock: File,
}

impl Locked<'_> {
    pub(super) fn list(&self) -> Listing {
        Listing {
            revision: Revision::new(self.index.revision),
            config: self.config(),
            records: self.index.records.iter().map(|(key, entry)| record(key, entry)).collect(),
            ..Listing::default()
        }
    }

    /// Returns the changes after a revision; `None` if they are no longer known.
    pub(super) fn changes(&self, after: Revision) -> Option<Vec<Change>> {
        let change = |touched| match touched {
            Touched::Put(key) => Change::Put(record(&key, &self.index.records[&key])),
            Touched::Deleted(key) => Change::Delete { key },
            Touched::Config => Change::Config(self.config()),
        };
        Some(self.index.since(after.number())?.into_iter().map(change).collect())
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
        // The expiry file first: a crash in between must not leave a record that never expires.
        self.write_expiry(key, lifetime)?;
        // Another program may create it without the lock.
        if !files::create(&self.tree.subnets.join(key), value.as_bytes(), MODE)? {
            return Err(StoreError::Raced);
        }
        self.wrote(key, lifetime)
    }

    pub(super) fn update(&mut self, key: &str, value: &str, held: &Held) -> Result<Held, StoreError> {
        self.entry_at(key, held.revision)?;
        files::replace(&self.tree.subnets.join(key), value.as_bytes(), MODE)?;
        self.wrote(key, held.remaining)
    }

    pub(super) fn renew(&mut self, key: &str, held: &Held) -> Result<Held, StoreError> {
        if held.grant.is_none() {
            return Ok(Held { remaining: None, ..*held });
        }
        let entry = self.index.records.get(key).filter(|entry| entry.grant() == held.grant);
        let lifetime = lifetime(entry.ok_or(StoreError::Raced)?);
        self.write_expiry(key, Some(lifetime))?;
        let lease = see(&self.tree.leases.join(key), None)?;
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

    /// Returns the remaining time of a record; `None` for a reservation.
    pub(super) fn life(&self, key: &str) -> Option<Life> {
        let expiry = self.index.records.get(key)?.expiry()?;
        let left = u64::try_from(expiry.at_millis.saturating_sub(now_millis())).unwrap_or(0);
        Some(Life { left: Duration::from_millis(left), granted: expiry.lifetime })
    }

    /// Lets a record expire after `lifetime`, or never.
    pub(super) fn set_lifetime(
        &mut self,
        key: &str,
        revision: Revision,
        lifetime: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        self.entry_at(key, revision)?;
        self.write_expiry(key, lifetime)?;
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
        files::replace(&self.tree.config, text.as_bytes(), MODE)?;
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

    /// Updates the index after a write.
    fn wrote(&mut self, key: &str, remaining: Option<Duration>) -> Result<Held, StoreError> {
        let file = see_record(&self.tree.subnets.join(key), None).ok_or(StoreError::Raced)?;
        let lease = see(&self.tree.leases.join(key), None)?;
        self.stale = true;
        let revision = self.index.put(key, file, lease);
        self.save()?;
        let grant = self.index.records[key].grant();
        Ok(Held { revision: Revision::new(revision), grant, remaining: grant.and(remaining) })
    }

    /// Removes a record and its expiry file, in this order: see `create`.
    fn remove(&mut self, key: &str) -> Result<(), StoreError> {
        files::remove(&self.tree.subnets.join(key))?;
        files::remove(&self.tree.leases.join(key))?;
        files::sync_directory(&self.tree.subnets)?;
        self.stale = true;
        self.index.remove(key);
        Ok(())
    }

    /// Assigns a revision to every difference between files and index, and removes expired records.
    fn compare(&mut self) -> Result<(), StoreError> {
        let config = see(&self.tree.config, self.index.config.as_ref().map(|entry| &entry.file))?;
        match (&mut self.index.config, config) {
            (None, None) => {}
            (Some(entry), Some(file)) if entry.file.text == file.text => {
                self.stale |= entry.file != file;
                entry.file = file;
            }
            (_, config) => {
                self.stale = true;
                self.index.put_config(config);
            }
        }
        let names = names(&self.tree.subnets)?;
        let removed: Vec<String> =
            self.index.records.keys().filter(|key| !names.contains(*key)).cloned().collect();
        for key in removed {
            // Its expiry file must not end a record that is created later.
            self.remove(&key)?;
        }
        let now_millis = now_millis();
        for key in names {
            self.compare_record(&key, now_millis)?;
        }
        Ok(())
    }

    fn compare_record(&mut self, key: &str, now_millis: i64) -> Result<(), StoreError> {
        let known = self.index.records.get(key);
        let Some(file) = see_record(&self.tree.subnets.join(key), known.map(|entry| &entry.file)) else {
            // The file was removed, or is a directory or the like.
            self.stale |= known.is_some();
            self.index.remove(key);
            return Ok(());
        };
        let lease = see(&self.tree.leases.join(key), known.and_then(|entry| entry.lease.as_ref()))?;
        match self.index.records.get_mut(key) {
            Some(entry) if entry.file.text == file.text && entry.lease.is_some() == lease.is_some() => {
                self.stale |= entry.file != file || entry.lease != lease;
                (entry.file, entry.lease) = (file, lease);
            }
            _ => {
                self.stale = true;
                self.index.put(key, file, lease);
            }
        }
        match self.index.records[key].expiry() {
            Some(expiry) if expiry.at_millis <= now_millis => self.remove(key),
            _ => Ok(()),
        }
    }

    fn config(&self) -> Option<ConfigRecord> {
        self.index.config.as_ref().map(|entry| ConfigRecord {
            revision: Revision::new(entry.modified),
            text: entry.file.text.clone(),
        })
    }

    /// Lets a record expire after `lifetime`, or never.
    fn write_expiry(&self, key: &str, lifetime: Option<Duration>) -> Result<(), StoreError> {
        let path = self.tree.leases.join(key);
        match lifetime {
            Some(lifetime) => {
                let text = Expiry::after(now_millis(), lifetime).text();
                files::replace(&path, text.as_bytes(), MODE)?;
            }
            None => {
                files::remove(&path)?;
                files::sync_directory(&self.tree.leases)?;
            }
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), StoreError> {
        if self.stale {
            // It is not flushed to the disk: a lost or old one is rebuilt from the files.
            let new = self.tree.root.join(".index.new");
            let text = serde_json::to_vec(&self.index).map_err(io::Error::other);
            let written = text.and_then(|text| fs::write(&new, text));
            let written = written.and_then(|()| fs::rename(&new, &self.tree.index));
            written.map_err(FileError::during("write", &self.tree.index))?;
            self.stale = false;
        }
        Ok(())
    }
}

fn record(key: &str, entry: &Entry) -> Record {
    Record {
        key: key.to_owned(),
        value: entry.file.text.clone().into_bytes(),
        revision: Revision::new(entry.modified),
        grant: entry.grant(),
        fault: None,
        node: None,
    }
}

/// Returns the time that a renewal adds.
fn lifetime(entry: &Entry) -> Duration {
    entry.expiry().map_or(DEFAULT_LIFETIME, |expiry| expiry.lifetime)
}

/// Returns a file, which is read only if it may have changed; `None` if it does not exist.
fn see(path: &Path, known: Option<&Seen>) -> Result<Option<Seen>, FileError> {
    let seen = || {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let stamp = Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            changed_nanos: metadata
                .ctime()
                .saturating_mul(1_000_000_000)
                .saturating_add(metadata.ctime_nsec()),
        };
        if let Some(known) = known.filter(|known| known.stamp == Some(stamp)) {
            return Ok(Some(known.clone()));
        }
        let now = i64::try_from(since_1970().as_nanos()).unwrap_or(i64::MAX);
        let is_settled = now.saturating_sub(stamp.changed_nanos) > SETTLING_NANOS;
        let mut content = Vec::new();
        File::open(path)?.take(FILE_LIMIT).read_to_end(&mut content)?;
        let text = String::from_utf8_lossy(&content).into_owned();
        Ok(Some(Seen { stamp: is_settled.then_some(stamp), text }))
    };
    seen().or_else(|error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(FileError::during("read", path)(error)),
    })
}

/// Returns a record. An unreadable one counts as empty, and so as malformed, and does not affect the others.
fn see_record(path: &Path, known: Option<&Seen>) -> Option<Seen> {
    see(path, known).unwrap_or_else(|error| {
        debug!(%error, "unreadable record counts as empty");
        Some(Seen::default())
    })
}

/// Returns the keys that have a file, without backups and temporary files of editors and copying tools.
fn names(directory: &Path) -> Result<BTreeSet<String>, FileError> {
    let failed = FileError::during("read", directory);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).map_err(&failed)? {
        let name = entry.map_err(&failed)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with(['.', '#']) && !name.ends_with('~') {
            names.insert(name);
        }
    }
    Ok(names)
}

fn now_millis() -> i64 {
    i64::try_from(since_1970().as_millis()).unwrap_or(i64::MAX)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
