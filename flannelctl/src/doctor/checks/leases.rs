//! The records of the cluster: what is wrong with them, whoever reads them.

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

pub(super) fn check(facts: &Facts, report: &mut Report) {
    let Some(view) = facts.view() else { return };
    for (key, reason) in view.table.rejected() {
        report.find(
            &RECORD_MALFORMED,
            key,
            "the record cannot be read, so its node is not reached",
            vec![reason.clone()],
            format!("restart flanneld on its node, or flannelctl lease release '{key}'"),
        );
    }
    for (younger, older) in &view.losers {
        report.find(
            &LEASE_OVERLAP,
            younger.to_string(),
            format!("shares addresses with the older lease {older}, which counts"),
            vec![format!("leases {older} and {younger}")],
            release(younger),
        );
    }
    for family in Family::ALL.into_iter().filter(|family| view.node.config().has(*family)) {
        duplicates(view, family, report);
    }
    unusable(view, report);
}

fn release(subnets: &Subnets) -> String {
    format!("flannelctl lease release '{subnets}'")
}

/// The VTEP MAC that a lease publishes.
pub(super) fn mac(attrs: &LeaseAttrs, family: Family) -> Option<Mac> {
    Vtep::of(attrs, family).map(|vtep| vtep.mac)
}

fn duplicates(view: &View, family: Family, report: &mut Report) {
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
        // One node that has moved: its former lease ends by itself.
        if holders[0].1.is_some() && holders.iter().all(|(_, mac)| *mac == holders[0].1) {
            continue;
        }
        let names: Vec<String> = holders.iter().map(|(subnets, _)| subnets.to_string()).collect();
        let other = holders.iter().map(|(subnets, _)| *subnets).find(|subnets| Some(*subnets) != own);
        let release = other.map(|other| release(&other)).unwrap_or_default();
        report.find(
            &DUPLICATE_PUBLIC_ADDRESS,
            address.to_string(),
            format!("{} leases publish {address}", holders.len()),
            vec![format!("leases {}", names.join(" and "))],
            format!("{release} if that is left over; otherwise give one of the nodes its own --public-ip"),
        );
    }
    for (mac, holders) in by_mac {
        if holders.iter().any(|(_, address)| *address != holders[0].1) {
            let names = holders.iter().map(|(subnets, address)| format!("{subnets} at {address}")).collect();
            report.find(
                &DUPLICATE_VTEP_MAC,
                mac.to_string(),
                format!("{} nodes publish the VTEP MAC {mac}: only one of them is reached", holders.len()),
                names,
                "on the clone: rm /var/lib/flannel/vtep-*.json; ip link del flannel.1; systemctl restart flanneld",
            );
        }
    }
}

fn unusable(view: &View, report: &mut Report) {
    let Some(comparison) = view.comparison() else { return };
    for (subnets, errors) in comparison.assembly.errors() {
        for error in errors {
            // Found above, with all who take part.
            if matches!(error, PeerError::DuplicateMac { .. } | PeerError::OwnAddress(_)) {
                continue;
            }
            let address = view.table.leases().get(subnets).and_then(|entry| {
                Family::ALL.into_iter().find_map(|family| entry.lease.attrs.public_address(family))
            });
            let who = address.map_or_else(|| "its node".to_owned(), |address| address.to_string());
            report.find(
                &PEER_UNUSABLE,
                subnets.to_string(),
                format!("{who} cannot be reached by what its lease says"),
                vec![flannel_core::error::chain(error)],
                format!("correct flanneld on {who}, or {}", release(subnets)),
            );
        }
    }
}
