//! The revisions of a lease directory, and the content of its files.
//!
//! Files have no revisions, so they are kept in `.index`. The holder of the lock compares the files with it and assigns the next
//! revision to every difference, including those made by an editor or a configuration tool. All processes thus agree on
//! revisions, and a watch can resume.
//!
//! A new index, in place of a lost or damaged one, starts at the time in microseconds, which exceeds every earlier revision.

use flannel_core::store::Grant;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

use super::expiry::Expiry;

/// Content of `.index`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    /// The last assigned revision.
    pub(super) revision: i64,
    /// Deletions up to this revision are no longer in `deleted`.
    pub(super) compacted: i64,
    pub(super) config: Option<Entry>,
    /// The revision of the last deletion of the config.
    config_deleted: Option<i64>,
    pub(super) records: BTreeMap<String, Entry>,
    /// The last deletions, in order.
    deleted: VecDeque<(i64, String)>,
}

/// The config or a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The revision of its creation, which identifies its grant.
    created: i64,
    /// The revision of its last change.
    pub(super) modified: i64,
    pub(super) file: Seen,
    /// Its expiry file; a record without one is a reservation.
    pub(super) lease: Option<Seen>,
}

/// A file as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// `None` if the file was too young: the clock of file systems has steps of some milliseconds, so that the next change might
    /// not change the stamp.
    pub(super) stamp: Option<Stamp>,
    pub(super) text: String,
}

/// What reveals a change of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) changed_nanos: i64,
}

impl Entry {
    pub(super) fn grant(&self) -> Option<Grant> {
        self.lease.as_ref().map(|_| Grant(self.created))
    }

    /// Returns when the record expires; `None` if never, also if the expiry file is malformed.
    pub(super) fn expiry(&self) -> Option<Expiry> {
        Expiry::parse(&self.lease.as_ref()?.text)
    }
}

/// The subject of a change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Touched {
    Put(String),
    Deleted(String),
    Config,
}

/// The number of deletions that are kept.
const DELETIONS: usize = 1024;

impl Index {
    pub(super) fn new(now_micros: i64) -> Self {
        Self {
            revision: now_micros,
            compacted: now_micros,
            config: None,
            config_deleted: None,
            records: BTreeMap::new(),
            deleted: VecDeque::new(),
        }
    }

    /// Records a write of a record, which keeps its grant.
    pub(super) fn put(&mut self, key: &str, file: Seen, lease: Option<Seen>) -> i64 {
        self.revision += 1;
        let created = self.records.get(key).map_or(self.revision, |entry| entry.created);
        let entry = Entry { created, modified: self.revision, file, lease };
        self.records.insert(key.to_owned(), entry);
        self.revision
    }

    /// Records a deletion.
    pub(super) fn remove(&mut self, key: &str) {
        if self.records.remove(key).is_some() {
            self.revision += 1;
            self.deleted.push_back((self.revision, key.to_owned()));
        }
        if self.deleted.len() > DELETIONS
            && let Some((revision, _)) = self.deleted.pop_front()
        {
            self.compacted = revision;
        }
    }

    /// Records a write of the config, or its deletion.
    pub(super) fn put_config(&mut self, file: Option<Seen>) -> i64 {
        self.revision += 1;
        let revision = self.revision;
        self.config = file.map(|file| Entry { created: revision, modified: revision, file, lease: None });
        if self.config.is_none() {
            self.config_deleted = Some(revision);
        }
        revision
    }

    /// Returns the changes after a revision, in order; `None` if the revision is compacted or in the future.
    pub(super) fn since(&self, after: i64) -> Option<Vec<Touched>> {
        if after < self.compacted || after > self.revision {
            return None;
        }
        let puts = self.records.iter().map(|(key, entry)| (entry.modified, Touched::Put(key.clone())));
        let deletions = self.deleted.iter().map(|(at, key)| (*at, Touched::Deleted(key.clone())));
        let config = match &self.config {
            Some(entry) => Some(entry.modified),
            None => self.config_deleted,
        };
        let config = config.map(|at| (at, Touched::Config));
        let mut touched: Vec<_> = puts.chain(deletions).chain(config).filter(|(at, _)| *at > after).collect();
        touched.sort_unstable();
        Some(touched.into_iter().map(|(_, touched)| touched).collect())
    }

    /// Returns when the next record expires, in milliseconds since 1970.
    pub(super) fn next_expiry(&self) -> Option<i64> {
        self.records.values().filter_map(|entry| Some(entry.expiry()?.at_millis)).min()
    }
}

#[cfg(test)]
mod tests;
