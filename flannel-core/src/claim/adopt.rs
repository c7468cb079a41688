//! What a listing means for the claim: a record of ours is adopted, or a subnet is chosen.

use std::time::Duration;

use super::{Claim, Holding, Phase, Problem};
use crate::allocate;
use crate::config::NetworkConfig;
use crate::family::Family;
use crate::lease::table::{LeaseTable, TableEntry};
use crate::lease::{Lease, LeaseAttrs, Subnets};
use crate::store::{CreateGuard, Listing};

impl Claim {
    /// The store was listed.
    pub fn listed(&mut self, listing: &Listing, now: Duration) {
        let config = match &listing.config {
            None => Err(Problem::NoConfig),
            Some(record) => match NetworkConfig::parse(&record.text) {
                Ok(config) => Ok((config, record.revision)),
                Err(error) => Err(Problem::BadConfig(error)),
            },
        };
        let usable = config.as_ref().ok().map(|(config, _)| config);
        if let Some(phase) = self.adopt(listing, usable, now) {
            self.state.phase = phase;
            return;
        }
        let (config, revision) = match config {
            Ok(config) => config,
            Err(problem) => return self.wait_for(problem, now),
        };
        let wish = self.state.own.as_ref().map(|own| own.subnets).or(self.wish);
        // Keys of unreadable records count: they cannot be created.
        let taken: Vec<Subnets> =
            listing.records.iter().filter_map(|record| Subnets::parse_key(&record.key).ok()).collect();
        match allocate::choose(&config, &taken, wish.as_ref(), self.chance.next_u64()) {
            Ok(subnets) => {
                let dual = config.has(Family::V4) && config.has(Family::V6);
                let guard = CreateGuard { config: revision, records: dual.then_some(listing.revision) };
                self.state.phase = Phase::Create(subnets, guard);
            }
            Err(error) => self.wait_for(Problem::Full(error), now),
        }
    }

    /// Looks for a record that is ours: the next phase, or `None` if a subnet must be chosen.
    fn adopt(&mut self, listing: &Listing, config: Option<&NetworkConfig>, now: Duration) -> Option<Phase> {
        let wanted = self.state.wanted.clone()?;
        let mut table = LeaseTable::default();
        table.replace(&listing.records);
        let (before, doubtful) = (self.state.own.clone(), self.state.doubtful.clone());
        let is_mine = |lease: &Lease| is_ours(lease, &wanted, before.as_ref(), &doubtful);
        if let Some(own) = &before
            && is_lost(own, &table, is_mine)
        {
            self.lose(own.subnets);
        } else if let Some(wish) = self.wish.filter(|_| before.is_none())
            && table
                .leases()
                .values()
                .any(|entry| entry.lease.subnets.overlap(&wish) && !is_mine(&entry.lease))
        {
            // An earlier run may have passed it to the CNI plugin.
            self.state.lost = Some(wish);
        } else if let Some(own) = before.as_ref().filter(|own| own.confirmed)
            && let Some(phase) = self.rewrite_unreadable(own, listing, &table, now)
        {
            return Some(phase);
        }
        let is_allowed =
            |entry: &TableEntry| config.is_some_and(|config| config.allows(&entry.lease.subnets));
        let held = self.state.own.as_ref().map(|own| own.subnets);
        // The pods of a running node keep their addresses, whatever the config says now and whatever else is ours. Only the
        // administrator can move them, by deleting our record where there is a reservation.
        let keeps = self.state.own.as_ref().is_some_and(|own| own.confirmed);
        let mine = table.leases().values().filter(|entry| is_mine(&entry.lease));
        let found = mine
            .clone()
            .filter(|entry| {
                let same = Some(entry.lease.subnets) == held;
                keeps && same || is_allowed(entry) && (!keeps || entry.grant.is_none())
            })
            .max_by_key(|entry| {
                let subnets = Some(entry.lease.subnets);
                (subnets == held, entry.grant.is_none(), subnets == self.wish)
            });
        if let Some(entry) = found {
            return Some(self.take(entry, &wanted, &table, now));
        }
        // Of another range or length: Go's daemon replaces it too. Reservations are the administrator's.
        config?;
        mine.filter(|entry| entry.grant.is_some() && !is_allowed(entry))
            .map(|entry| Phase::Delete(entry.lease.subnets, entry.lease.revision))
            .next()
    }

    /// Rewrites the record of this node if it is unreadable. No other node uses it.
    fn rewrite_unreadable(
        &mut self,
        own: &Holding,
        listing: &Listing,
        table: &LeaseTable,
        now: Duration,
    ) -> Option<Phase> {
        let key = own.subnets.to_string();
        table.rejected().get(&key)?;
        let record = listing.records.iter().find(|record| record.key == key)?;
        let expires = own.expires.filter(|_| record.grant == own.grant);
        self.hold(Holding { revision: record.revision, grant: record.grant, expires, ..own.clone() });
        self.damaged = true;
        Some(Phase::Held(now))
    }

    /// Takes over a record that is ours.
    fn take(&mut self, entry: &TableEntry, wanted: &LeaseAttrs, table: &LeaseTable, now: Duration) -> Phase {
        let lease = &entry.lease;
        let before = self.state.own.clone().filter(|own| own.confirmed && own.subnets == lease.subnets);
        if let Some(own) = &before {
            let known =
                [&own.attrs, wanted].contains(&&lease.attrs) || self.state.doubtful.contains(&lease.attrs);
            // A lower revision is that of a store restored from a backup.
            if own.revision.is_before(lease.revision) && !known {
                self.state.problem = Some(Problem::DuplicateAddress {
                    subnets: lease.subnets,
                    found: Box::new(lease.attrs.clone()),
                });
                return Phase::Held(now);
            }
            let overlaps = table.overlapping(&own.subnets).map(|lease| lease.revision);
            if overlaps.into_iter().any(|revision| own.is_younger_than(revision)) {
                return Phase::Delete(lease.subnets, lease.revision);
            }
        }
        let same_grant = before.as_ref().filter(|own| own.grant == entry.grant);
        let same_store = before.as_ref().filter(|own| !lease.revision.is_before(own.revision));
        self.hold(Holding {
            subnets: lease.subnets,
            attrs: lease.attrs.clone(),
            revision: lease.revision,
            grant: entry.grant,
            expires: same_grant.and_then(|own| own.expires),
            created: same_store.and_then(|own| own.created),
            confirmed: true,
        });
        Phase::Held(now)
    }
}

/// Whether a lease is that of this node, which wants `wanted`, holds `own`, and may have written `doubtful`.
fn is_ours(lease: &Lease, wanted: &LeaseAttrs, own: Option<&Holding>, doubtful: &[LeaseAttrs]) -> bool {
    lease.attrs.is_same_node(wanted)
        || own.is_some_and(|own| match own.confirmed {
            true => lease.attrs.is_same_node(&own.attrs) || doubtful.contains(&lease.attrs),
            // A remembered lease is ours under another address only if the record is the very same.
            false => lease.subnets == own.subnets && lease.attrs == own.attrs,
        })
}

/// Whether what we hold belongs to others now, under the same key or another one.
fn is_lost(own: &Holding, table: &LeaseTable, is_mine: impl Fn(&Lease) -> bool) -> bool {
    match table.leases().get(&own.subnets) {
        Some(entry) => !is_mine(&entry.lease),
        None => table.overlapping(&own.subnets).any(|lease| !is_mine(lease)),
    }
}
