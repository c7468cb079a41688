//! What the store shows of our record, and what that means for the claim.

use std::time::Duration;

use super::{Claim, Phase, Problem};
use crate::lease::{LeaseAttrs, Revision, Subnets};
use crate::store::Grant;

/// What a watch or listing tells of our record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRecord {
    /// Our key.
    pub subnets: Subnets,
    /// Everything up to here is included.
    pub seen: Revision,
    /// The record under our key, if there is one.
    pub record: Option<(LeaseAttrs, Revision, Option<Grant>)>,
    /// How many listings there have been. A new one shows also what a store has lost with its revisions; as a number it is
    /// not missed by who sees only the latest view.
    pub listings: u64,
    /// Leases of other nodes that share addresses with ours, with their revisions.
    pub overlaps: Vec<(Subnets, Revision)>,
}

impl OwnRecord {
    /// Whether a claim that knows `before` has to be told this. The revision moves with every change of the cluster; alone it
    /// is no news, unless our record is missing: the claim may have written one since, which is gone again.
    #[must_use]
    pub fn is_news(&self, before: Option<&Self>) -> bool {
        let parts = |view: &Self| (view.subnets, view.listings, view.record.clone(), view.overlaps.clone());
        self.record.is_none() || before.is_none_or(|before| parts(before) != parts(self))
    }
}

impl Claim {
    /// Takes what a watch or listing tells of our record.
    pub fn seen(&mut self, view: &OwnRecord, now: Duration) {
        let listed = self.listings.replace(view.listings).is_some_and(|before| before != view.listings);
        let (Phase::Held(_), Some(own)) = (&self.state.phase, &mut self.state.own) else { return };
        if !own.confirmed || view.subnets != own.subnets {
            return;
        }
        if view.seen.is_before(own.revision) {
            // Late, or of a store that has lost its content: only a reading of our own can tell.
            if listed {
                self.state.phase = Phase::Read(now);
            }
            return;
        }
        let Some((attrs, revision, grant)) = &view.record else {
            return self.state.read_later(now);
        };
        let known = *attrs == own.attrs
            || self.state.wanted.as_ref() == Some(attrs)
            || self.state.doubtful.contains(attrs);
        if known {
            // Our own write, one whose answer was lost, or a renewal in Go's way.
            if own.revision != *revision {
                self.state.doubtful.clear();
            }
            own.attrs = attrs.clone();
            own.revision = *revision;
            self.damaged = false;
            if own.grant != *grant {
                own.grant = *grant;
                own.expires = None;
                self.state.phase = Phase::Held(now);
            }
            if matches!(self.state.problem, Some(Problem::DuplicateAddress { .. })) {
                self.state.problem = None;
            }
        } else if attrs.is_same_node(&own.attrs) {
            self.state.problem =
                Some(Problem::DuplicateAddress { subnets: own.subnets, found: Box::new(attrs.clone()) });
        } else {
            self.state.phase = Phase::Read(now);
        }
        self.yield_to_older(&view.overlaps);
    }

    /// Gives up a lease that we created although an older one overlaps it: a daemon that does not guard its writes came
    /// between our listing and our creation. The younger lease goes.
    fn yield_to_older(&mut self, overlaps: &[(Subnets, Revision)]) {
        let (Phase::Held(_), Some(own)) = (&self.state.phase, &self.state.own) else { return };
        if overlaps.iter().any(|(_, revision)| own.is_younger_than(*revision)) {
            self.state.phase = Phase::Delete(own.subnets, own.revision);
        }
    }
}
