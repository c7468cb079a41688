//! What the host must be able to do, before there is a daemon and ever after.

use flannel_core::family::Family;
use flannel_core::ruleset::bridge::{BridgeNetfilter, sysctl};

use crate::doctor::catalog::{
    BR_NETFILTER, CHECKSUM_OFFLOAD, IPV4_FORWARDING, IPV6_DISABLED, IPV6_FORWARDING, KERNEL_FEATURE,
    RP_FILTER, STATE_UNWRITABLE, Severity,
};
use crate::doctor::facts::Facts;
use crate::doctor::report::Report;
use crate::node::view::View;

use super::AS_ROOT;

pub(super) fn check(facts: &Facts, report: &mut Report) {
    features(facts, report);
    if let Some(view) = facts.view() {
        forwarding(facts, view, report);
        return_path(facts, view, report);
        ipv6(facts, view, report);
    }
    for finding in &facts.bridge_netfilter {
        let name = sysctl(finding.family).replace('/', ".");
        let (problem, mend) = match finding.found {
            BridgeNetfilter::Absent => {
                ("does not exist: the module is not loaded", "modprobe br_netfilter".to_owned())
            }
            _ => ("is 0: the firewall does not see traffic between pods", format!("sysctl -w {name}=1")),
        };
        let seen = vec![format!("/proc/sys/{}", sysctl(finding.family))];
        let found = report.find(&BR_NETFILTER, &name, format!("{name} {problem}"), seen, mend);
        if finding.fatal {
            found.severity = Severity::Error;
        }
    }
    if !facts.is_root {
        report.skip(&STATE_UNWRITABLE, AS_ROOT);
    }
    for (path, reason) in facts.unwritable.iter().filter(|_| facts.is_root) {
        report.find(
            &STATE_UNWRITABLE,
            path.display().to_string(),
            "flanneld cannot write here",
            vec![reason.clone()],
            format!("mount -o remount,rw {0}, or make {0} a directory of root", path.display()),
        );
    }
    offload(facts, report);
}

fn features(facts: &Facts, report: &mut Report) {
    for (kind, known) in &facts.kinds {
        match known {
            Ok(true) => {}
            Ok(false) => {
                let found = report.find(
                    &KERNEL_FEATURE,
                    *kind,
                    format!("the kernel has no links of kind {kind}"),
                    vec![format!("ip link add type {kind}: operation not supported")],
                    format!("modprobe {kind}, or boot a kernel that has it, or choose another backend"),
                );
                // That backend has another way.
                if *kind == "wireguard" {
                    found.severity = Severity::Warning;
                }
            }
            Err(reason) => report.skip(&KERNEL_FEATURE, format!("{kind}: {reason}")),
        }
    }
    if let Some(firewall) = &facts.firewall
        && let Err(reason) = &firewall.in_force
    {
        if !facts.is_root {
            return report.skip(&KERNEL_FEATURE, format!("{}: {reason}", firewall.mode));
        }
        report.find(
            &KERNEL_FEATURE,
            firewall.mode.to_string(),
            format!("the rules of {} cannot be read or set", firewall.mode),
            vec![reason.clone()],
            "apt-get install iptables, or set EnableNFTables to true in the network config",
        );
    }
}

fn forwarding(facts: &Facts, view: &View, report: &mut Report) {
    let settings = [
        (Family::V4, &IPV4_FORWARDING, "net/ipv4/ip_forward"),
        (Family::V6, &IPV6_FORWARDING, "net/ipv6/conf/all/forwarding"),
    ];
    for (family, check, path) in settings.into_iter().filter(|(family, ..)| view.node.config().has(*family)) {
        let name = path.replace('/', ".");
        match facts.sysctls.get(path).map(String::as_str) {
            Some("0") => {
                let problem = format!("this node does not forward {family} packets to and from pods");
                let seen = vec![format!("{name} = 0")];
                report.find(check, &name, problem, seen, format!("sysctl -w {name}=1"));
            }
            Some(_) => {}
            None => {
                let problem = format!("the kernel has no {family}, which the network config uses");
                let mend = format!(
                    "boot a kernel with {family}, or set Enable{family} to false in the network config"
                );
                let seen = vec![format!("no /proc/sys/{path}")];
                report.find(&KERNEL_FEATURE, family.to_string(), problem, seen, mend);
            }
        }
    }
}

/// A setting of an interface; 0 where it does not exist.
fn setting<'a>(facts: &'a Facts, family: &str, conf: &str, name: &str) -> &'a str {
    facts.sysctls.get(&format!("net/{family}/conf/{conf}/{name}")).map_or("0", String::as_str)
}

fn return_path(facts: &Facts, view: &View, report: &mut Report) {
    let config = view.node.config();
    if !config.has(Family::V4) {
        return;
    }
    let direct = config.backend.uses_underlay_routes();
    let external = &view.node.external().name;
    let tunnels = view.node.tunnels();
    let of_ipv4 = tunnels.iter().filter(|link| !link.as_str().contains("-v6"));
    for link in of_ipv4.chain(direct.then_some(external)) {
        let all = setting(facts, "ipv4", "all", "rp_filter");
        let own = setting(facts, "ipv4", link.as_str(), "rp_filter");
        // The larger of the two counts (ip-sysctl.rst).
        if all.max(own) == "1" {
            report.find(
                &RP_FILTER,
                link.as_str(),
                format!("packets on {link} whose answer would leave by another interface are dropped"),
                vec![format!("rp_filter of all is {all}, of {link} {own}; 1 is strict")],
                format!("sysctl -w net/ipv4/conf/all/rp_filter=2 net/ipv4/conf/{link}/rp_filter=2"),
            );
        }
    }
}

fn ipv6(facts: &Facts, view: &View, report: &mut Report) {
    if !view.node.config().has(Family::V6) {
        return;
    }
    let tunnels = view.node.tunnels();
    let carrying = tunnels.iter().filter(|link| link.as_str().contains("-v6"));
    for link in carrying.chain([&view.node.external().name]) {
        if setting(facts, "ipv6", link.as_str(), "disable_ipv6") == "1" {
            report.find(
                &IPV6_DISABLED,
                link.as_str(),
                format!("IPv6 is switched off on {link}"),
                vec![format!("disable_ipv6 of {link} is 1")],
                format!("sysctl -w net/ipv6/conf/{link}/disable_ipv6=0"),
            );
        }
    }
}

/// A share of wrong checksums, one in so many, that noise on a wire does not make.
const CHECKSUM_SHARE: u64 = 100;
/// Fewer are an accident.
const CHECKSUM_LEAST: u64 = 10;

fn offload(facts: &Facts, report: &mut Report) {
    match &facts.offload {
        Ok(off) => {
            for (device, feature) in off {
                report.find(
                    &CHECKSUM_OFFLOAD,
                    device,
                    format!("{device} computes checksums packet by packet, at a fifth of the throughput"),
                    vec![format!("ethtool -k {device}: {feature}: off")],
                    format!("ethtool -K {device} {feature} on"),
                );
            }
        }
        Err(reason) => report.skip(&CHECKSUM_OFFLOAD, reason.clone()),
    }
    if let Some((wrong, good)) = facts.checksum_errors
        && wrong >= CHECKSUM_LEAST
        && wrong.saturating_mul(CHECKSUM_SHARE) >= good
    {
        report.find(
            &CHECKSUM_OFFLOAD,
            "udp",
            "many UDP packets arrive with wrong checksums: a network card or hypervisor computes them wrongly",
            vec![format!("{wrong} wrong, {good} right (/proc/net/snmp)")],
            "on the nodes that send them: ethtool -K flannel.1 tx-checksum-ip-generic off",
        );
    }
}
