//! The store: its health, the config, and our own lease in it.

use flannel_core::family::Family;
use flannel_core::lease::{LeaseAttrs, Subnets};
use std::time::Duration;

use crate::doctor::catalog::{
    CLOCK_SKEW, CONFIG_MISSING, CONFIG_UNFIT, DUPLICATE_PUBLIC_ADDRESS, LEASE_EXPIRING, LEASE_MISSING,
    STORE_SLOW, STORE_UNREACHABLE,
};
use crate::doctor::facts::Facts;
use crate::doctor::report::Report;
use crate::node::view::{Own, View};

use super::leases::mac;

/// An answer on the network of one data centre takes some milliseconds.
const SLOW: Duration = Duration::from_millis(250);
/// Synchronised clocks differ by far less; a date of HTTP has whole seconds.
const SKEW_SECS: i64 = 5;

pub(super) fn check(facts: &Facts, report: &mut Report) {
    health(facts, report);
    if let Some(view) = facts.view() {
        own(facts, view, report);
    }
}

fn health(facts: &Facts, report: &mut Report) {
    let store = &facts.store;
    match &store.listing {
        Err(reason) => {
            report.find(
                &STORE_UNREACHABLE,
                &store.location,
                "the store does not answer; what follows goes by what this node remembers",
                vec![reason.clone()],
                "start it, or correct --etcd-endpoints or --lease-dir",
            );
        }
        Ok(listing) if listing.config.is_none() => {
            report.find(
                &CONFIG_MISSING,
                &store.config_place,
                "the store has no network config: flanneld waits for it",
                vec![format!("nothing at {}", store.config_place)],
                "flannelctl config set FILE",
            );
        }
        Ok(_) => {}
    }
    if let Some(latency) = store.latency.filter(|latency| *latency > SLOW) {
        report.find(
            &STORE_SLOW,
            &store.location,
            format!("an answer takes {} ms", latency.as_millis()),
            vec![format!("median of three listings; above {} ms is slow", SLOW.as_millis())],
            "look at the disk of etcd: etcdctl endpoint status -w table; etcdctl check perf",
        );
    }
    match &store.clock_ahead {
        Some(Ok(ahead)) if ahead.abs() > SKEW_SECS => {
            let side = if *ahead > 0 { "behind" } else { "ahead of" };
            report.find(
                &CLOCK_SKEW,
                "clock",
                format!("the clock of this host is {} s {side} that of etcd", ahead.abs()),
                vec!["the date of an answer of etcd over HTTP".to_owned()],
                "timedatectl set-ntp true, here and on the hosts of etcd",
            );
        }
        Some(Err(reason)) => report.skip(&CLOCK_SKEW, reason.clone()),
        _ => {}
    }
}

fn own(facts: &Facts, view: &View, report: &mut Report) {
    if let Some(Err(error)) = &view.kernel {
        report.find(
            &CONFIG_UNFIT,
            &facts.store.config_place,
            "config, lease and host do not fit together",
            vec![flannel_core::error::chain(error)],
            "flannelctl config set FILE, or change on this host what it names",
        );
    }
    let store_answers = facts.store.listing.is_ok();
    match &view.own {
        Some(Own { published: Some(attrs), subnets }) => rewritten(view, subnets, attrs, report),
        Some(Own { subnets, .. }) if store_answers && facts.ran_before() => {
            report.find(
                &LEASE_MISSING,
                subnets.to_string(),
                format!("this node used {subnets}, and the store has no lease of it"),
                vec![format!("no record {subnets} at {}", facts.store.location)],
                facts.restart(),
            );
        }
        None if store_answers && facts.ran_before() => {
            let public = &view.node.external().public;
            report.find(
                &LEASE_MISSING,
                public.to_string(),
                format!("the store has no lease of this node ({public})"),
                vec![format!("no record with that address at {}", facts.store.location)],
                facts.restart(),
            );
        }
        _ => {}
    }
    let margin = facts.options.renew_margin;
    if let Some(left) = facts.store.time_left.filter(|left| *left < margin * 9 / 10) {
        report.find(
            &LEASE_EXPIRING,
            facts.own().map(|own| own.subnets.to_string()).unwrap_or_default(),
            format!("our lease ends in {} and is not renewed", readable(left)),
            vec![format!("flanneld renews it {} before its end", readable(margin))],
            facts.restart(),
        );
    }
}

fn readable(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// Our record has the MAC of another device, although ours is as it was: somebody with our address wrote it.
fn rewritten(view: &View, subnets: &Subnets, published: &LeaseAttrs, report: &mut Report) {
    let Some(wanted) = &view.attrs else { return };
    for family in Family::ALL {
        let (Some(ours), Some(theirs)) = (mac(wanted, family), mac(published, family)) else { continue };
        if ours != theirs {
            let address = published.public_address(family).map(|address| address.to_string());
            let address = address.unwrap_or_default();
            report.find(
                &DUPLICATE_PUBLIC_ADDRESS,
                &address,
                format!("another node publishes {address} in the record {subnets} of this node"),
                vec![format!("VTEP MAC in the record {theirs}, of this node {ours}")],
                "give the other node its own address with --public-ip, then systemctl restart flanneld here",
            );
        }
    }
}
