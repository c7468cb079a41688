//! The leases of the cluster.

use flannel_core::backend::{PeerError, Vtep};
use flannel_core::family::Family;
use flannel_core::lease::{LeaseAttrs, Subnets};
use flannel_core::link::Mac;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::doctor::catalog::{
    DUPLICATE_PUBLIC_ADDRESS, DUPLICATE_VTEP_MAC, LEASE_OVERLAP, PEER_UNUSABLE, RECORD_MALFORMED,
};
use crate::doctor::facts::Facts;
use crate::doctor::report::Report;
use crate::node::view::View;
use crate::output::text::join;

pub(super) fn check(facts: &Facts, report: &mut Report) {
    let Some(view) = facts.view() else { return };
    for (key, reason) in view.table.rejected() {
        let found =
            report.find(&RECORD_MALFORMED, key, "the record is malformed, so its node is unreachable");
        found.seen(reason);
        if facts.kubernetes.is_none() {
            found.fix(format!("restart flanneld on its node, or flannelctl lease release '{key}'"));
        } else {
            found.fix(
                "restart flanneld on its node, or correct the annotation: kubectl annotate --overwrite node",
            );
        }
    }
    for (newer, older) in &view.losers {
        report
            .find(&LEASE_OVERLAP, newer, format!("overlaps the older lease {older}, which takes precedence"))
            .seen(format!("leases {older} and {newer}"))
            .fix(facts.release(newer));
    }
    for family in view.node.families() {
        duplicates(facts, view, family, report);
    }
    unusable(facts, view, report);
}

/// The VTEP MAC that a lease publishes.
pub(super) fn mac(attrs: &LeaseAttrs, family: Family) -> Option<Mac> {
    Vtep::of(attrs, family).map(|vtep| vtep.mac)
}

fn duplicates(facts: &Facts, view: &View, family: Family, report: &mut Report) {
    let mut by_address: BTreeMap<IpAddr, Vec<(Subnets, Option<Mac>)>> = BTreeMap::new();
    let mut by_mac: BTreeMap<Mac, Vec<(Subnets, IpAddr)>> = BTreeMap::new();
    for (subnets, entry) in view.table.leases() {
        let Some(address) = entry.lease.attrs.public_address(family) else { continue };
        let mac = mac(&entry.lease.attrs, family);
        by_address.entry(address).or_default().push((*subnets, mac));
        if let Some(mac) = mac {
            by_mac.entry(mac).or_default().push((*subnets, address));
        }
    }
    let own = view.own.as_ref().map(|own| own.subnets);
    for (address, holders) in by_address.into_iter().filter(|(_, holders)| holders.len() > 1) {
        // One node that has moved: its former lease will expire.
        if holders[0].1.is_some() && holders.iter().all(|(_, mac)| *mac == holders[0].1) {
            continue;
        }
        let subnets = || holders.iter().map(|(subnets, _)| subnets);
        let release = subnets()
            .find(|subnets| Some(**subnets) != own)
            .map(|subnets| facts.release(subnets))
            .unwrap_or_default();
        let fix =
            format!("{release} if that node no longer exists, otherwise set --public-ip on one of the nodes");
        report
            .find(&DUPLICATE_PUBLIC_ADDRESS, address, format!("{} leases publish {address}", holders.len()))
            .seen(format!("leases {}", join(subnets(), " and ")))
            .fix(fix);
    }
    for (mac, holders) in by_mac {
        if holders.iter().any(|(_, address)| *address != holders[0].1) {
            let problem =
                format!("{} nodes publish the VTEP MAC {mac}: only one is reachable", holders.len());
            let found = report.find(&DUPLICATE_VTEP_MAC, mac, problem).fix(
                "on the clone: rm /var/lib/flannel/vtep-*.json; ip link del flannel.1; systemctl restart flanneld",
            );
            for (subnets, address) in &holders {
                found.seen(format!("{subnets} at {address}"));
            }
        }
    }
}

fn unusable(facts: &Facts, view: &View, report: &mut Report) {
    let Some(comparison) = view.comparison() else { return };
    for (subnets, errors) in comparison.assembly.errors() {
        for error in errors {
            // Reported above, with all nodes involved.
            if matches!(error, PeerError::DuplicateMac { .. } | PeerError::OwnAddress(_)) {
                continue;
            }
            let address = view.table.leases().get(subnets).and_then(|entry| {
                Family::ALL.into_iter().find_map(|family| entry.lease.attrs.public_address(family))
            });
            let who = address.map_or_else(|| "its node".to_owned(), |address| address.to_string());
            let of_lease = || {
                let fix =
                    format!("correct the configuration of flanneld on {who}, or {}", facts.release(subnets));
                (format!("the lease of {who} lacks the data to reach it"), fix)
            };
            let of_host = |fix| (format!("a route of this node keeps {who} from being on its link"), fix);
            let (problem, fix) = error.fix().map_or_else(of_lease, of_host);
            report.find(&PEER_UNUSABLE, subnets, problem).seen(flannel_core::error::chain(error)).fix(fix);
        }
    }
}
