//! The environment of pods: `subnet.env`, CNI configs and plugins, the bridge, addresses.

use flannel_core::family::Family;
use flannel_core::gateway::{self, Gateways};
use flannel_core::host_local::Use;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::AS_ROOT;
use crate::doctor::catalog::{
    ADDRESS_LEAKED, ADDRESSES_EXHAUSTED, BRIDGE_ADDRESS, BRIDGE_DETACHED, BRIDGE_GATEWAY, BRIDGE_MISSING,
    BRIDGE_MTU, CNI_CONFIG_INVALID, CNI_CONFIG_MISSING, CNI_CONFIG_SHADOWED, CNI_PLUGIN_MISSING,
    SUBNET_ENV_MISMATCH, SUBNET_ENV_MISSING,
};
use crate::doctor::facts::{Facts, RuntimeFacts};
use crate::doctor::report::Report;
use crate::node::cni::CniFile;
use crate::node::host_local::{Allocation, Network, usable};
use crate::node::ports::Port;
use crate::node::view::Own;
use crate::output::text::join;

pub(super) fn check(facts: &Facts, report: &mut Report) {
    subnet_env(facts, report);
    configs(facts, report);
    let Some(own) = facts.own() else { return };
    bridge(facts, own, report);
    gateways(facts, report);
    detached(facts, report);
    if let Some(reason) = &facts.hidden.pods {
        for check in
            [&BRIDGE_MISSING, &BRIDGE_GATEWAY, &BRIDGE_DETACHED, &ADDRESS_LEAKED, &ADDRESSES_EXHAUSTED]
        {
            report.skip(check, reason);
        }
    } else if facts.is_root {
        leaks(&facts.cni.networks, own, report);
        exhaustion(&facts.cni.networks, own, report);
    } else {
        report.skip(&ADDRESS_LEAKED, AS_ROOT);
        report.skip(&ADDRESSES_EXHAUSTED, AS_ROOT);
    }
}

fn subnet_env(facts: &Facts, report: &mut Report) {
    let file = facts.options.subnet_file.display();
    let Some((view, own)) = facts.view().and_then(|view| Some((view, view.own.as_ref()?))) else { return };
    let Ok(expected) = view.node.subnet_env(&own.subnets) else { return };
    let expected = expected.to_string();
    match &facts.subnet_env {
        None if facts.ran_before() => {
            let found = report
                .find(&SUBNET_ENV_MISSING, &file, "the CNI plugin waits for this file: no pod can start")
                .seen(format!("no file {file}"));
            if let Some(obstacle) = facts.obstacles.first() {
                found.fix(obstacle.fix());
            }
        }
        Some(found) if *found != expected => {
            let only_in = |text: &str, other: &str| {
                join(text.lines().filter(|line| !other.lines().any(|same| same == *line)), " ")
            };
            let problem = format!("does not match the lease {} and the config", own.subnets);
            report
                .find(&SUBNET_ENV_MISMATCH, &file, problem)
                .seen(format!("found: {}", only_in(found, &expected)))
                .seen(format!("expected: {}", only_in(&expected, found)));
        }
        _ => {}
    }
}

fn configs(facts: &Facts, report: &mut Report) {
    let cni = &facts.cni;
    if let Some(reason) = &facts.hidden.cni_configs {
        for check in [&CNI_CONFIG_MISSING, &CNI_CONFIG_INVALID, &CNI_CONFIG_SHADOWED, &CNI_PLUGIN_MISSING] {
            report.skip(check, reason);
        }
        return;
    }
    let directory = cni.directory.display();
    for file in &cni.files {
        if let Err(reason) = &file.plugins {
            let path = format!("{directory}/{}", file.name);
            report
                .find(&CNI_CONFIG_INVALID, &file.name, format!("{path} is not a CNI config"))
                .seen(reason)
                .fix(format!("correct it, or rm {path}"));
        }
    }
    // Without a data path, pods have another network, if any.
    if facts.view().is_some_and(|view| !view.node.config().backend.connects_pods()) {
        return;
    }
    let readable: Vec<&CniFile> = cni.files.iter().filter(|file| file.plugins.is_ok()).collect();
    let Some(at) = readable.iter().position(|file| file.flannel().is_some()) else {
        let mut configured = cni.runtimes.iter().flat_map(|runtime| &runtime.files);
        if configured.any(|file| file.flannel().is_some()) {
            // In the directory of the runtime.
            return;
        }
        let names = join(cni.files.iter().map(|file| &file.name), ", ");
        let names = if names.is_empty() { "no files" } else { &names };
        report
            .find(&CNI_CONFIG_MISSING, &directory, "no CNI config uses flannel: pods get no network")
            .seen(format!("{directory} contains {names}"))
            .fix(format!("write {directory}/10-flannel.conflist, see README.md"));
        return;
    };
    let mut used = cni.runtimes.iter().filter(|runtime| runtime.is_checked).flat_map(RuntimeFacts::used);
    if at > 0 && !used.any(|file| file.flannel().is_some()) {
        let (first, flannel) = (&readable[0].name, &readable[at].name);
        let problem = format!("sorts before {flannel}, and the runtime uses the first config");
        report
            .find(&CNI_CONFIG_SHADOWED, first, problem)
            .seen(format!("{directory}: {first}, then {flannel}"))
            .fix(format!("mv {directory}/{first} {directory}/{first}.off"));
    }
    plugins(facts, readable[at], report);
}

fn plugins(facts: &Facts, config: &CniFile, report: &mut Report) {
    let cni = &facts.cni;
    if let Some(reason) = &facts.hidden.cni_plugins {
        return report.skip(&CNI_PLUGIN_MISSING, reason);
    }
    let chained = config.plugins.as_deref().unwrap_or_default();
    let names = chained.iter().filter_map(|plugin| plugin["type"].as_str());
    let of_runtimes = cni.runtimes.iter().flat_map(|runtime| &runtime.installed);
    let installed: BTreeSet<&String> = cni.plugins.iter().chain(of_runtimes).collect();
    for name in names.filter(|name| !installed.contains(&(*name).to_owned())) {
        let directories = join(cni.plugin_directories.iter().map(|path| path.display()), " or ");
        let first = cni.plugin_directories.first().cloned().unwrap_or_default();
        let target = first.join(name).display().to_string();
        let problem = format!("{} uses the plugin {name}, which is not installed", config.name);
        report.find(&CNI_PLUGIN_MISSING, name, problem).seen(format!("no {name} in {directories}")).fix(
            match name {
                "flannel" => format!("install -m 755 flannel {target}"),
                _ => {
                    format!("apt-get install containernetworking-plugins; ln -s /usr/lib/cni/{name} {target}")
                }
            },
        );
    }
}

fn bridge(facts: &Facts, own: &Own, report: &mut Report) {
    let name = facts.cni.bridge();
    let links = &facts.observation.facts.links;
    let Some(link) = links.iter().find(|link| link.name.as_str() == name) else { return };
    for subnet in own.subnets.iter().map(|subnet| subnet.trunc()) {
        let addresses = link.addresses.iter().map(|address| address.net);
        let of_family = addresses
            .filter(|net| Family::of_net(*net) == Family::of_net(subnet) && !is_link_local(net.addr()));
        for address in of_family.filter(|address| address.trunc() != subnet) {
            let problem = format!("{name} has {address}, but the subnet of this node is {subnet}");
            report
                .find(&BRIDGE_ADDRESS, name, problem)
                .seen(format!("ip addr show dev {name}: {address}"))
                .fix(format!("replace its pods, then ip link del {name}: the next pod creates it again"));
        }
    }
    let mtu = facts.view().and_then(|view| Some(view.node.subnet_env(&own.subnets).ok()?.mtu));
    if let Some(mtu) = mtu.filter(|mtu| link.mtu > *mtu) {
        let problem = format!("{name} has MTU {}, but the path to other nodes has {mtu}", link.mtu);
        report
            .find(&BRIDGE_MTU, name, problem)
            .seen(format!("MTU of {name} {}, expected {mtu}", link.mtu))
            .fix(format!(
                "ip link set {name} mtu {mtu}; existing pods keep their MTU until they are replaced"
            ));
    }
}

/// The bridges that running pods use.
fn gateways(facts: &Facts, report: &mut Report) {
    let host = &facts.observation.facts;
    for (bridge, nets) in &facts.cni.gateways {
        if !host.links.iter().any(|link| link.name == *bridge) {
            let allocations = facts.cni.networks.iter().flat_map(|network| &network.allocations);
            let alive: Vec<String> = allocations
                .filter(|one| one.usage == Use::Alive && nets.iter().any(|net| net.contains(&one.address)))
                .map(|one| format!("{} of {}", one.address, one.container().0))
                .collect();
            if !alive.is_empty() {
                let problem = format!("{bridge} does not exist: {} pods have no network", alive.len());
                report.find(&BRIDGE_MISSING, bridge, problem).seen(format!("pods: {}", shown(&alive)));
            }
            continue;
        }
        let gateways = Gateways::from([(bridge.clone(), nets.clone())]);
        let ops: Vec<String> = gateway::restore(&gateways, host).iter().map(ToString::to_string).collect();
        if !ops.is_empty() {
            let problem = format!("{bridge} lacks the gateway of its pods, or is down");
            report.find(&BRIDGE_GATEWAY, bridge, problem).seen(format!("needed: {}", join(&ops, "; ")));
        }
    }
}

/// Ports of pods without their bridge.
fn detached(facts: &Facts, report: &mut Report) {
    let links = &facts.observation.facts.links;
    let named = |name: &str| links.iter().find(|link| link.name.as_str() == name);
    let mut detached: BTreeMap<&str, Vec<&Port>> = BTreeMap::new();
    for port in &facts.cni.ports {
        let Some(bridge) = named(&port.bridge) else { continue };
        if named(&port.link).is_some_and(|link| link.master != Some(bridge.index)) {
            detached.entry(&port.bridge).or_default().push(port);
        }
    }
    for (bridge, ports) in detached {
        let pods: Vec<String> = ports.iter().map(|port| format!("{} ({})", port.pod, port.link)).collect();
        let problem = format!("{} pods are not attached to {bridge}", pods.len());
        let commands = ports.iter().map(|port| format!("ip link set {} master {bridge} up", port.link));
        report
            .find(&BRIDGE_DETACHED, bridge, problem)
            .seen(format!("pods: {}", shown(&pods)))
            .fix(join(commands, "; "));
    }
}

/// The first of some pods.
fn shown(pods: &[String]) -> String {
    let first = join(pods.iter().take(PODS_SHOWN), ", ");
    match pods.len().checked_sub(PODS_SHOWN) {
        None | Some(0) => first,
        Some(more) => format!("{first}, and {more} more"),
    }
}

/// Number of pods in the evidence.
const PODS_SHOWN: usize = 10;

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Number of leaked addresses in the evidence.
const SHOWN: usize = 3;

fn leaks(networks: &[Network], own: &Own, report: &mut Report) {
    let allocations =
        networks.iter().flat_map(|network| network.allocations.iter().map(move |one| (network, one)));
    let is_leaked = |(_, one): &(&Network, &Allocation)| {
        one.usage == Use::Abandoned && own.subnets.iter().any(|subnet| subnet.contains(&one.address))
    };
    let leaked: Vec<_> = allocations.filter(is_leaked).collect();
    let Some((network, _)) = leaked.first() else { return };
    let problem = format!("{} addresses are allocated to pods that no longer exist", leaked.len());
    let found = report.find(&ADDRESS_LEAKED, &network.name, problem);
    for (_, Allocation { address, owner, .. }) in leaked.iter().take(SHOWN) {
        found.seen(match owner {
            Some(owner) => format!("{address}: namespace {} no longer exists", owner.netns),
            None => format!("{address}: allocated before the last boot"),
        });
    }
    if leaked.len() > SHOWN {
        found.seen(format!("and {} more", leaked.len() - SHOWN));
    }
}

fn exhaustion(networks: &[Network], own: &Own, report: &mut Report) {
    for subnet in own.subnets.iter().map(|subnet| subnet.trunc()) {
        let usable = usable(Family::of_net(subnet), subnet.prefix_len());
        let allocations = networks.iter().flat_map(|network| &network.allocations);
        let used = allocations.filter(|one| subnet.contains(&one.address)).count();
        if used as u128 >= usable {
            report
                .find(&ADDRESSES_EXHAUSTED, subnet, "no address is free: no pod can start on this node")
                .seen(format!("{used} of {usable} addresses are allocated"))
                .fix("move pods to other nodes, or use larger subnets (SubnetLen in the network config)");
        }
    }
}
