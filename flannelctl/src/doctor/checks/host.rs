//! The host: kernel features, settings, writable directories, checksum offload.

use flannel_core::advertisement::{ACCEPT, ALWAYS, Advertised};
use flannel_core::family::Family;
use flannel_core::link::LinkName;
use flannel_core::ruleset::bridge::{BridgeNetfilter, sysctl};

use super::AS_ROOT;
use crate::doctor::catalog::{
    ACCEPT_RA, BR_NETFILTER, CHECKSUM_OFFLOAD, IPV4_FORWARDING, IPV6_DISABLED, IPV6_FORWARDING,
    KERNEL_FEATURE, RP_FILTER, STATE_UNWRITABLE, Severity,
};
use crate::doctor::facts::{AdvertisedFacts, Facts, KindFacts};
use crate::doctor::report::Report;
use crate::node::view::View;
use crate::output::text::{duration, join};

pub(super) fn check(facts: &Facts, report: &mut Report) {
    features(facts, report);
    if let Some(view) = facts.view() {
        for family in view.node.families() {
            forwarding(facts, family, report);
        }
        return_path(facts, view, report);
        ipv6(facts, view, report);
    }
    advertised(facts, report);
    bridge_netfilter(facts, report);
    unwritable(facts, report);
    offload(facts, report);
}

fn features(facts: &Facts, report: &mut Report) {
    for KindFacts { name: kind, is_replaceable, is_supported } in &facts.kinds {
        match is_supported {
            Ok(true) => {}
            Ok(false) => {
                let problem = format!("the kernel does not support links of kind {kind}");
                let fix =
                    format!("modprobe {kind}, boot a kernel that supports it, or choose another backend");
                let found = report.find(&KERNEL_FEATURE, kind, problem).fix(fix);
                found.seen(format!("ip link add type {kind}: operation not supported"));
                if *is_replaceable {
                    found.severity(Severity::Warning);
                }
            }
            Err(reason) => report.skip(&KERNEL_FEATURE, format!("{kind}: {reason}")),
        }
    }
    if let Some(firewall) = &facts.firewall
        && let Err(reason) = &firewall.in_force
    {
        let mode = firewall.mode;
        if !facts.is_root {
            return report.skip(&KERNEL_FEATURE, format!("{mode}: {reason}"));
        }
        report
            .find(&KERNEL_FEATURE, mode, format!("could not read or set the rules of {mode}"))
            .seen(reason)
            .fix("apt-get install iptables, or set EnableNFTables to true in the network config");
    }
}

fn forwarding(facts: &Facts, family: Family, report: &mut Report) {
    let (check, path) = match family {
        Family::V4 => (&IPV4_FORWARDING, "net/ipv4/ip_forward"),
        Family::V6 => (&IPV6_FORWARDING, "net/ipv6/conf/all/forwarding"),
    };
    let name = path.replace('/', ".");
    match facts.sysctls.get(path).map(String::as_str) {
        Some("0") => {
            let problem = format!("this node does not forward {family} packets of pods");
            let found = report.find(check, &name, problem);
            found.seen(format!("{name} = 0"));
            let affected = || facts.advertised.iter().flatten().filter(|facts| facts.is_affected);
            if family == Family::V6 && affected().next().is_some() {
                let settings = join(affected().map(|facts| accept(&facts.link)), " ");
                found.fix(format!("sysctl -w {settings} {name}=1"));
            }
        }
        Some(_) => {}
        None => {
            let problem = format!("the network config uses {family}, which the kernel does not support");
            let fix =
                format!("boot a kernel with {family}, or set Enable{family} to false in the network config");
            report.find(&KERNEL_FEATURE, family, problem).seen(format!("no /proc/sys/{path}")).fix(fix);
        }
    }
}

/// The setting of an interface that keeps its routes from router advertisements, for `sysctl -w`.
fn accept(link: &LinkName) -> String {
    format!("net/ipv6/conf/{link}/{ACCEPT}={ALWAYS}")
}

/// Routes from router advertisements that are not renewed, because their interface forwards.
fn advertised(facts: &Facts, report: &mut Report) {
    let all = match &facts.advertised {
        Ok(all) => all,
        Err(reason) => return report.skip(&ACCEPT_RA, reason),
    };
    for AdvertisedFacts { link, routes, .. } in all.iter().filter(|facts| facts.is_affected && facts.forwards)
    {
        let time = |route: &Advertised| {
            route.expires.map_or_else(String::new, |left| format!(" in {}", duration(left)))
        };
        let is_default = |route: &&Advertised| route.destination.prefix_len() == 0;
        let loses = match routes.iter().find(is_default) {
            Some(default) => format!("the default route expires{}", time(default)),
            // Forwarding was enabled without this setting: the kernel has removed the default route of a router.
            None => {
                join(
                    routes
                        .iter()
                        .map(|route| format!("the route to {} expires{}", route.destination, time(route))),
                    ", ",
                ) + "; the kernel removed default routes from them when forwarding was enabled"
            }
        };
        let problem = format!("{link} forwards and ignores router advertisements: {loses}");
        let seen = |route: &Advertised| format!("{}{}", route.destination, time(route));
        report
            .find(&ACCEPT_RA, link, problem)
            .seen(format!("forwarding of {link} is not 0, {ACCEPT} is 1"))
            .seen(format!("routes that expire: {}", join(routes.iter().map(seen), ", ")))
            .fix(format!("sysctl -w {}", accept(link)));
    }
}

/// A setting of an interface; 0 if it does not exist.
fn setting<'a>(facts: &'a Facts, family: &str, conf: &str, name: &str) -> &'a str {
    facts.sysctls.get(&format!("net/{family}/conf/{conf}/{name}")).map_or("0", String::as_str)
}

fn return_path(facts: &Facts, view: &View, report: &mut Report) {
    let backend = &view.node.config().backend;
    if !view.node.config().has(Family::V4) {
        return;
    }
    let external = view.node.external().name.clone();
    let underlay = backend.uses_underlay_routes().then_some(external);
    for link in backend.device(Family::V4).into_iter().chain(underlay) {
        let all = setting(facts, "ipv4", "all", "rp_filter");
        let own = setting(facts, "ipv4", link.as_str(), "rp_filter");
        // The kernel uses the larger value (ip-sysctl.rst).
        if all.max(own) == "1" {
            let problem =
                format!("packets on {link} with a return path through another interface are dropped");
            report
                .find(&RP_FILTER, &link, problem)
                .seen(format!("rp_filter of all is {all}, of {link} {own}; 1 is strict"))
                .fix(format!("sysctl -w net/ipv4/conf/all/rp_filter=2 net/ipv4/conf/{link}/rp_filter=2"));
        }
    }
}

fn ipv6(facts: &Facts, view: &View, report: &mut Report) {
    if !view.node.config().has(Family::V6) {
        return;
    }
    let device = view.node.config().backend.device(Family::V6);
    for link in device.into_iter().chain([view.node.external().name.clone()]) {
        if setting(facts, "ipv6", link.as_str(), "disable_ipv6") == "1" {
            report
                .find(&IPV6_DISABLED, &link, format!("IPv6 is disabled on {link}"))
                .seen(format!("disable_ipv6 of {link} is 1"))
                .fix(format!("sysctl -w net/ipv6/conf/{link}/disable_ipv6=0"));
        }
    }
}

fn bridge_netfilter(facts: &Facts, report: &mut Report) {
    for bridge in &facts.bridge_netfilter {
        let path = sysctl(bridge.family);
        let name = path.replace('/', ".");
        let (problem, fix) = match bridge.found {
            BridgeNetfilter::Absent => {
                ("does not exist: the module is not loaded", "modprobe br_netfilter".to_owned())
            }
            _ => ("is 0: traffic between pods bypasses the firewall", format!("sysctl -w {name}=1")),
        };
        let found = report.find(&BR_NETFILTER, &name, format!("{name} {problem}"));
        found.seen(format!("/proc/sys/{path}")).fix(fix);
        if bridge.fatal {
            found.severity(Severity::Error);
        }
    }
}

fn unwritable(facts: &Facts, report: &mut Report) {
    if !facts.is_root {
        return report.skip(&STATE_UNWRITABLE, AS_ROOT);
    }
    for (path, reason) in &facts.unwritable {
        let path = path.display();
        report
            .find(&STATE_UNWRITABLE, &path, format!("flanneld cannot write to {path}"))
            .seen(reason)
            .fix(format!("mount -o remount,rw {path}, or make {path} a directory of root"));
    }
}

/// Minimum share of invalid checksums, one in so many; noise on a wire causes far fewer.
const CHECKSUM_SHARE: u64 = 100;
/// Minimum number of invalid checksums.
const CHECKSUM_LEAST: u64 = 10;

fn offload(facts: &Facts, report: &mut Report) {
    match &facts.offload {
        Ok(off) => {
            for (device, feature) in off {
                let problem =
                    format!("{device} computes checksums in software, which costs a fifth of the throughput");
                report
                    .find(&CHECKSUM_OFFLOAD, device, problem)
                    .seen(format!("ethtool -k {device}: {feature}: off"))
                    .fix(format!("ethtool -K {device} {feature} on"));
            }
        }
        Err(reason) => report.skip(&CHECKSUM_OFFLOAD, reason),
    }
    if let Some((wrong, good)) = facts.checksum_errors
        && wrong >= CHECKSUM_LEAST
        && wrong.saturating_mul(CHECKSUM_SHARE) >= good
    {
        let problem =
            "many UDP packets arrive with invalid checksums, which a network card or hypervisor computed";
        report
            .find(&CHECKSUM_OFFLOAD, "udp", problem)
            .seen(format!("{wrong} invalid, {good} valid (/proc/net/snmp)"))
            .fix("on the nodes that send them: ethtool -K flannel.1 tx-checksum-ip-generic off");
    }
}
