//! The store: health, network config, and the lease of this node.

use flannel_core::family::Family;
use flannel_core::lease::{LeaseAttrs, Subnets};
use std::time::Duration;

use super::leases::mac;
use crate::doctor::catalog::{
    CLOCK_SKEW, CONFIG_MISSING, CONFIG_UNFIT, DUPLICATE_PUBLIC_ADDRESS, LEASE_EXPIRING, LEASE_MISSING,
    STORE_SLOW, STORE_UNREACHABLE,
};
use crate::doctor::facts::Facts;
use crate::doctor::report::Report;
use crate::node::view::{Own, View};
use crate::output::text::duration;

/// Within one data centre, a response takes a few milliseconds.
const SLOW: Duration = Duration::from_millis(250);
/// Synchronized clocks differ by far less; an HTTP date has whole seconds.
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
            let problem = "the store is unreachable; the other findings are based on the state directory";
            report.find(&STORE_UNREACHABLE, &store.location, problem).seen(reason);
        }
        Ok(listing) if listing.config.is_none() => {
            let problem = "the store has no network config: flanneld waits for it";
            let place = &store.config_place;
            report.find(&CONFIG_MISSING, place, problem).seen(format!("nothing at {place}"));
        }
        Ok(_) => {}
    }
    if let Some(latency) = store.latency.filter(|latency| *latency > SLOW) {
        report
            .find(&STORE_SLOW, &store.location, format!("a response takes {} ms", latency.as_millis()))
            .seen(format!("median of three listings; more than {} ms is slow", SLOW.as_millis()))
            .fix("check the disk of etcd: etcdctl endpoint status -w table; etcdctl check perf");
    }
    match &store.clock_ahead {
        Some(Ok(ahead)) if ahead.abs() > SKEW_SECS => {
            let side = if *ahead > 0 { "behind" } else { "ahead of" };
            let problem = format!("the clock of this host is {} s {side} that of etcd", ahead.abs());
            report
                .find(&CLOCK_SKEW, "clock", problem)
                .seen("the date of an HTTP response of etcd")
                .fix("timedatectl set-ntp true, on this host and on the hosts of etcd");
        }
        Some(Err(reason)) => report.skip(&CLOCK_SKEW, reason),
        _ => {}
    }
}

fn own(facts: &Facts, view: &View, report: &mut Report) {
    if let Some(Err(error)) = &view.kernel {
        report
            .find(&CONFIG_UNFIT, &facts.store.config_place, "config, lease and host are incompatible")
            .seen(flannel_core::error::chain(error))
            .fix("flannelctl config set FILE, or change the host");
    }
    let missing = facts.store.listing.is_ok() && facts.ran_before();
    let location = &facts.store.location;
    match &view.own {
        Some(Own { published: Some(attrs), subnets }) => rewritten(view, subnets, attrs, report),
        Some(Own { subnets, .. }) if missing => {
            let problem = format!("this node used {subnets}, which has no lease in the store");
            report.find(&LEASE_MISSING, subnets, problem).seen(format!("no record {subnets} at {location}"));
        }
        None if missing => {
            let public = &view.node.external().public;
            report
                .find(&LEASE_MISSING, public, format!("the store has no lease of this node ({public})"))
                .seen(format!("no record with that address at {location}"));
        }
        _ => {}
    }
    let margin = facts.options.renew_margin;
    if let Some(left) = facts.store.time_left.filter(|left| *left < margin * 9 / 10) {
        let subnets = facts.own().map(|own| own.subnets.to_string()).unwrap_or_default();
        let problem = format!("the lease expires in {} and is not renewed", duration(left));
        report
            .find(&LEASE_EXPIRING, subnets, problem)
            .seen(format!("flanneld renews it {} before it expires", duration(margin)));
    }
}

/// Reports a record with the MAC of another device: another node with the same address wrote it.
fn rewritten(view: &View, subnets: &Subnets, published: &LeaseAttrs, report: &mut Report) {
    let Some(attrs) = &view.attrs else { return };
    for family in Family::ALL {
        let (Some(own), Some(other)) = (mac(attrs, family), mac(published, family)) else { continue };
        if own != other {
            let address = published.public_address(family).map(|address| address.to_string());
            let address = address.unwrap_or_default();
            let problem = format!("another node publishes {address} in the record {subnets} of this node");
            report
                .find(&DUPLICATE_PUBLIC_ADDRESS, &address, problem)
                .seen(format!("VTEP MAC in the record {other}, of this node {own}"))
                .fix(
                    "set another --public-ip on the other node, then systemctl restart flanneld on this one",
                );
        }
    }
}
