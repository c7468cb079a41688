//! What the container runtime finds: `subnet.env`, configs, plugins, the bridge, addresses.

use flannel_core::family::Family;
use ipnet::IpNet;
use std::net::IpAddr;

use crate::doctor::catalog::{
    ADDRESS_LEAKED, ADDRESSES_EXHAUSTED, BRIDGE_ADDRESS, BRIDGE_MTU, CNI_CONFIG_INVALID, CNI_CONFIG_MISSING,
    CNI_CONFIG_SHADOWED, CNI_PLUGIN_MISSING, SUBNET_ENV_MISMATCH, SUBNET_ENV_MISSING,
};
use crate::doctor::facts::Facts;
use crate::doctor::report::Report;
use crate::node::cni::CniFile;
use crate::node::view::Own;

use super::AS_ROOT;

pub(super) fn check(facts: &Facts, report: &mut Report) {
    subnet_env(facts, report);
    configs(facts, report);
    if let Some(own) = facts.own() {
        bridge(facts, own, report);
        if facts.is_root {
            leaks(facts, report);
            room(facts, own, report);
        } else {
            report.skip(&ADDRESS_LEAKED, AS_ROOT);
            report.skip(&ADDRESSES_EXHAUSTED, AS_ROOT);
        }
    }
}

fn subnet_env(facts: &Facts, report: &mut Report) {
    let file = facts.options.subnet_file.display().to_string();
    let Some((view, own)) = facts.view().and_then(|view| Some((view, view.own.as_ref()?))) else { return };
    let Ok(wanted) = view.node.subnet_env(&own.subnets) else { return };
    let wanted = wanted.to_string();
    match &facts.subnet_env {
        None if facts.ran_before() => {
            let problem = "the CNI plugin waits for it: no pod can be started";
            report.find(
                &SUBNET_ENV_MISSING,
                &file,
                problem,
                vec![format!("no file {file}")],
                facts.restart(),
            );
        }
        Some(found) if *found != wanted => {
            let only_in = |text: &str, other: &str| {
                let lines = text.lines().filter(|line| !other.lines().any(|theirs| theirs == *line));
                lines.collect::<Vec<_>>().join(" ")
            };
            let seen = vec![
                format!("there: {}", only_in(found, &wanted)),
                format!("wanted: {}", only_in(&wanted, found)),
            ];
            let problem = format!("it does not say what the lease {} and the config say", own.subnets);
            report.find(&SUBNET_ENV_MISMATCH, &file, problem, seen, facts.restart());
        }
        _ => {}
    }
}

fn configs(facts: &Facts, report: &mut Report) {
    let cni = &facts.cni;
    let directory = cni.directory.display();
    for file in &cni.files {
        if let Err(reason) = &file.plugins {
            report.find(
                &CNI_CONFIG_INVALID,
                &file.name,
                format!("{directory}/{} is not a CNI config", file.name),
                vec![reason.clone()],
                format!("correct it, or rm {directory}/{}", file.name),
            );
        }
    }
    // Addresses alone are given out: pods have another network, if any.
    if facts.view().is_some_and(|view| !view.node.config().backend.connects_pods()) {
        return;
    }
    let readable: Vec<&CniFile> = cni.files.iter().filter(|file| file.plugins.is_ok()).collect();
    let Some(at) = readable.iter().position(|file| file.flannel().is_some()) else {
        let names: Vec<&str> = cni.files.iter().map(|file| file.name.as_str()).collect();
        let seen = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        report.find(
            &CNI_CONFIG_MISSING,
            directory.to_string(),
            "no CNI config uses flannel: the runtime gives pods no network by it",
            vec![format!("{directory} has {seen}")],
            format!("write {directory}/10-flannel.conflist, as README.md has it"),
        );
        return;
    };
    if at > 0 {
        let (first, ours) = (&readable[0].name, &readable[at].name);
        report.find(
            &CNI_CONFIG_SHADOWED,
            first,
            format!("it sorts before {ours}, and the runtime takes the first"),
            vec![format!("{directory}: {first}, then {ours}")],
            format!("mv {directory}/{first} {directory}/{first}.off"),
        );
    }
    plugins(facts, readable[at], report);
}

fn plugins(facts: &Facts, config: &CniFile, report: &mut Report) {
    let cni = &facts.cni;
    let chained = config.plugins.as_deref().unwrap_or_default();
    for name in chained.iter().filter_map(|plugin| plugin["type"].as_str()) {
        if cni.plugins.iter().any(|there| there == name) {
            continue;
        }
        let places: Vec<String> =
            cni.plugin_directories.iter().map(|directory| directory.display().to_string()).collect();
        let first = places.first().cloned().unwrap_or_default();
        report.find(
            &CNI_PLUGIN_MISSING,
            name,
            format!("{} names the plugin {name}, which is not installed", config.name),
            vec![format!("no {name} in {}", places.join(" or "))],
            match name {
                "flannel" => format!("install -m 755 flannel {first}/flannel"),
                _ => format!(
                    "apt-get install containernetworking-plugins; ln -s /usr/lib/cni/{name} {first}/{name}"
                ),
            },
        );
    }
}

fn bridge(facts: &Facts, own: &Own, report: &mut Report) {
    let name = facts.cni.bridge();
    let links = &facts.observation.facts.links;
    let Some(link) = links.iter().find(|link| link.name.as_str() == name) else { return };
    for family in Family::ALL {
        let Some(subnet) = own.subnets.get(family).map(|subnet| subnet.trunc()) else { continue };
        let addresses = link.addresses.iter().map(|address| address.net);
        let of_family = addresses.filter(|net| Family::of_net(*net) == family && !is_link_local(net.addr()));
        for address in of_family.filter(|address| address.trunc() != subnet) {
            report.find(
                &BRIDGE_ADDRESS,
                name,
                format!("{name} has {address}, and the subnet of this node is {subnet}"),
                vec![format!("ip addr show dev {name}: {address}")],
                format!(
                    "replace the pods that are on it, then ip link del {name}: the next pod makes it anew"
                ),
            );
        }
    }
    let mtu = facts.view().and_then(|view| Some(view.node.subnet_env(&own.subnets).ok()?.mtu));
    if let Some(mtu) = mtu.filter(|mtu| link.mtu > *mtu) {
        report.find(
            &BRIDGE_MTU,
            name,
            format!("{name} carries packets of {} bytes, and {mtu} fit to other nodes", link.mtu),
            vec![format!("MTU of {name} {}, wanted {mtu}", link.mtu)],
            format!("ip link set {name} mtu {mtu}; pods that are there keep theirs until they are replaced"),
        );
    }
}

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Some tell what is wrong; hundreds would hide it.
const SHOWN: usize = 3;

fn leaks(facts: &Facts, report: &mut Report) {
    let leaked: Vec<_> = facts
        .cni
        .reservations
        .iter()
        .filter_map(|reservation| Some((reservation, reservation.abandoned.as_deref()?)))
        .collect();
    let Some((first, _)) = leaked.first() else { return };
    let mut seen: Vec<String> =
        leaked.iter().take(SHOWN).map(|(leak, reason)| format!("{}: {reason}", leak.address)).collect();
    if leaked.len() > SHOWN {
        seen.push(format!("and {} more", leaked.len() - SHOWN));
    }
    report.find(
        &ADDRESS_LEAKED,
        &first.network,
        format!("{} addresses are kept for pods that are gone", leaked.len()),
        seen,
        "flannelctl ipam release --leaked",
    );
}

fn room(facts: &Facts, own: &Own, report: &mut Report) {
    for family in Family::ALL {
        let Some(subnet) = own.subnets.get(family).map(|subnet: IpNet| subnet.trunc()) else { continue };
        // Network, bridge and broadcast address are nobody's.
        let bits = u32::from(family.bits() - subnet.prefix_len());
        let room = 1_u128.checked_shl(bits).unwrap_or(u128::MAX).saturating_sub(3);
        let used = facts.cni.reservations.iter().filter(|held| subnet.contains(&held.address)).count();
        if used as u128 >= room {
            report.find(
                &ADDRESSES_EXHAUSTED,
                subnet.to_string(),
                "no address is free: no pod can be started on this node",
                vec![format!("{used} of {room} addresses are in use")],
                "move pods to other nodes, or give nodes larger subnets (SubnetLen in the network config)",
            );
        }
    }
}
