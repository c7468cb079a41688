//! Detects a store that was wiped, or restored from a backup, since it was listed.
//!
//! A revision is not sufficient: the new store may have passed the old number meanwhile. The cluster id is not, either: etcd
//! derives it from the addresses of its members. But a lease id is unique to the server process that granted it. So the last
//! few records with a lease are kept, and a watch that resumes at a revision first checks that one of them existed there,
//! unchanged.

use std::collections::VecDeque;

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Landmark {
    /// The full key.
    pub(super) key: Vec<u8>,
    pub(super) revision: i64,
    pub(super) lease: i64,
}

/// The last records, the latest first.
#[derive(Debug, Default)]
pub(super) struct Landmarks(VecDeque<Landmark>);

/// One is sufficient for a check; the others replace it when it is deleted.
const KEPT: usize = 16;

impl Landmarks {
    /// Replaces all with a listing.
    pub(super) fn replace(&mut self, records: impl Iterator<Item = Landmark>) {
        let mut latest: Vec<Landmark> = Vec::new();
        for landmark in records.filter(|landmark| landmark.lease != 0) {
            let place = latest.partition_point(|other| other.revision > landmark.revision);
            if place < KEPT {
                latest.truncate(KEPT - 1);
                latest.insert(place, landmark);
            }
        }
        self.0 = latest.into();
    }

    /// Records a change.
    pub(super) fn put(&mut self, landmark: Landmark) {
        self.delete(&landmark.key);
        if landmark.lease != 0 {
            self.0.push_front(landmark);
            self.0.truncate(KEPT);
        }
    }

    /// Records a deletion.
    pub(super) fn delete(&mut self, key: &[u8]) {
        self.0.retain(|landmark| landmark.key != key);
    }

    /// Returns the latest one that existed at a revision.
    pub(super) fn at(&self, revision: i64) -> Option<Landmark> {
        self.0.iter().find(|landmark| landmark.revision <= revision).cloned()
    }
}

#[cfg(test)]
mod tests;
