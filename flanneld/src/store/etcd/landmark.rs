//! How a store that was wiped or restored from a backup is told from the one that was listed.
//!
//! A revision alone does not tell: the new store may have passed the old number before we are back. Nor
//! does the cluster id, which etcd derives from the addresses of its members. But a lease id is unique to
//! the server process that granted it. So the last few records that hang on a lease are remembered, and
//! a watch that resumes at a revision first checks that one of them stood there, unchanged.

use std::collections::VecDeque;

/// A record as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Landmark {
    /// The full key.
    pub(super) key: Vec<u8>,
    pub(super) revision: i64,
    pub(super) lease: i64,
}

/// The last records seen, the latest first.
#[derive(Debug, Default)]
pub(super) struct Landmarks(VecDeque<Landmark>);

/// One is enough for a check; the others take its place when it is deleted.
const KEPT: usize = 16;

impl Landmarks {
    /// Starts anew from a listing.
    pub(super) fn replace(&mut self, records: impl Iterator<Item = Landmark>) {
        let mut all: Vec<Landmark> = records.filter(|landmark| landmark.lease != 0).collect();
        all.sort_unstable_by_key(|landmark| -landmark.revision);
        all.truncate(KEPT);
        self.0 = all.into();
    }

    /// Notes a change.
    pub(super) fn put(&mut self, landmark: Landmark) {
        self.delete(&landmark.key);
        if landmark.lease != 0 {
            self.0.push_front(landmark);
            self.0.truncate(KEPT);
        }
    }

    /// Notes a deletion.
    pub(super) fn delete(&mut self, key: &[u8]) {
        self.0.retain(|landmark| landmark.key != key);
    }

    /// The latest one that stood at a revision.
    pub(super) fn at(&self, revision: i64) -> Option<Landmark> {
        self.0.iter().find(|landmark| landmark.revision <= revision).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn landmark(key: &str, revision: i64, lease: i64) -> Landmark {
        Landmark { key: key.into(), revision, lease }
    }

    #[test]
    fn the_latest_standing_record_is_chosen() {
        let mut landmarks = Landmarks::default();
        landmarks.replace([landmark("a", 3, 1), landmark("b", 7, 2), landmark("c", 9, 0)].into_iter());
        assert_eq!(landmarks.at(9), Some(landmark("b", 7, 2)), "a reservation is no landmark");
        landmarks.put(landmark("a", 10, 1));
        assert_eq!(landmarks.at(10), Some(landmark("a", 10, 1)));
        assert_eq!(landmarks.at(9), Some(landmark("b", 7, 2)));
        landmarks.delete(b"b");
        assert_eq!(landmarks.at(9), None);
        landmarks.put(landmark("a", 11, 0));
        assert_eq!(landmarks.at(99), None, "a record that became a reservation is none any more");
    }

    #[test]
    fn few_are_kept() {
        let mut landmarks = Landmarks::default();
        landmarks.replace((1..100).map(|n| landmark(&n.to_string(), n, n)));
        assert_eq!(landmarks.0.len(), KEPT);
        assert_eq!(landmarks.at(99), Some(landmark("99", 99, 99)));
    }
}
