//! The revisions of a lease directory: what was seen in it when.
//!
//! Files have no revisions, so an index is kept beside them, in `.index`. Whoever holds the lock compares the files with it
//! and gives every difference the next revision, also one that an editor or a configuration tool made.
//! So all processes agree on revisions, and a watch can resume.
//!
//! An index that is lost or broken starts anew with the present time in microseconds, which is larger than any revision
//! before it: nobody writes every microsecond.

use flannel_core::store::Grant;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Content of `.index`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    /// The last revision given.
    pub(super) revision: i64,
    /// Deletions up to here are not known any more.
    pub(super) compacted: i64,
    pub(super) config: Option<Entry>,
    /// When the config was deleted last.
    config_deleted: Option<i64>,
    pub(super) records: BTreeMap<String, Entry>,
    /// The last deletions, in order.
    deleted: VecDeque<(i64, String)>,
}

/// A file that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Revision at which it appeared; names its grant.
    created: i64,
    /// Revision of its last change.
    pub(super) modified: i64,
    pub(super) file: Seen,
    pub(super) lease: Option<Lease>,
}

/// An expiry file that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub(super) file: Seen,
    /// In milliseconds since 1970; `None` if the file cannot be understood, and then it does not expire.
    pub(super) expires: Option<i64>,
    /// What a renewal adds.
    pub(super) lifetime_millis: u64,
}

/// The state of a file when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) stamp: Stamp,
    /// Of the content.
    pub(super) hash: u64,
    /// It was old enough when it was read that a later change must change the stamp too: the clock of file
    /// systems stands still for some milliseconds.
    pub(super) settled: bool,
}

/// What tells a changed file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified_nanos: i64,
    pub(super) changed_nanos: i64,
}

impl Entry {
    pub(super) fn grant(&self) -> Option<Grant> {
        self.lease.as_ref().map(|_| Grant(self.created))
    }
}

/// What a change concerns; its content is in the files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Touched {
    Put(String),
    Deleted(String),
    Config,
}

/// How many deletions are remembered.
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

    /// Notes that a record was written. A record that was written again keeps its grant.
    pub(super) fn put(&mut self, key: &str, file: Seen, lease: Option<Lease>) -> i64 {
        self.revision += 1;
        let created = self.records.get(key).map_or(self.revision, |entry| entry.created);
        let entry = Entry { created, modified: self.revision, file, lease };
        self.records.insert(key.to_owned(), entry);
        self.revision
    }

    /// Notes that a record is gone.
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

    /// Notes that the config was written, or deleted.
    pub(super) fn put_config(&mut self, file: Option<Seen>) -> i64 {
        self.revision += 1;
        let revision = self.revision;
        self.config = file.map(|file| Entry { created: revision, modified: revision, file, lease: None });
        if self.config.is_none() {
            self.config_deleted = Some(revision);
        }
        revision
    }

    /// All that was touched after a revision, in order; `None` if that is not known any more, or lies ahead.
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

    /// When the next record expires.
    pub(super) fn next_expiry(&self) -> Option<i64> {
        self.records.values().filter_map(|entry| entry.lease.as_ref()?.expires).min()
    }
}

/// FNV-1a: the same in every build, and nobody gains from a collision.
pub(super) fn hash(content: &[u8]) -> u64 {
    content.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
