//! The network of the host: addresses, routes, packet filters, paths.

use flannel_core::dataplane::{PROTOCOL, RouteTarget};
use flannel_core::family::Family;
use flannel_core::link::LinkName;
use flanneld::node::NodeError;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::doctor::catalog::{
    CONFIG_INVALID, CONFIG_UNFIT, FORWARD_DROP, INTERFACE_MISSING, MTU_PATH, NETWORK_OVERLAP, PORT_CLOSED,
};
use crate::doctor::facts::{Facts, PathFacts};
use crate::doctor::packet_filter::{Filter, Hook, Packet};
use crate::doctor::report::Report;
use crate::node::view::View;

pub(super) fn check(facts: &Facts, report: &mut Report) {
    match &facts.view {
        Some(Ok(view)) => {
            let config = view.node.config();
            if let Some(limitation) = config.backend.limitation(&config.networks()) {
                let problem = "the backend does not support the network config";
                report.find(&CONFIG_UNFIT, &facts.store.config_place, problem).seen(limitation.to_string());
            }
            addresses(facts, view, report);
            routes(facts, view, report);
            filters(facts, view, report);
        }
        Some(Err(error)) => refused(facts, error, report),
        None => {}
    }
    paths(facts, report);
}

fn paths(facts: &Facts, report: &mut Report) {
    let paths = match &facts.paths {
        Ok(paths) => paths,
        Err(reason) => return report.skip(&MTU_PATH, reason),
    };
    for path in paths {
        let Some(largest) = path.largest.filter(|largest| *largest < path.needed) else { continue };
        let PathFacts { public, needed, .. } = path;
        report
            .find(&MTU_PATH, public, format!("packets of {needed} bytes do not reach {public}"))
            .seen(format!("the largest packet that passes has {largest} bytes"))
            .fix(format!(
                "flannelctl config edit: set MTU of the backend to {largest}, or raise that of the path"
            ));
    }
}

fn refused(facts: &Facts, error: &NodeError, report: &mut Report) {
    let place = facts.store.config_place.as_str();
    let found = match error {
        NodeError::Config(_) | NodeError::NoFamily => {
            report.find(&CONFIG_INVALID, place, "the network config is invalid")
        }
        NodeError::Interface(_) => report
            .find(&INTERFACE_MISSING, "interface", "no interface is suitable for traffic between nodes")
            .fix("specify an interface: flanneld --iface=NAME"),
        NodeError::Backend(_) | NodeError::Host(_) | NodeError::Subnet(_) => {
            report.find(&CONFIG_UNFIT, place, "the network config is unsupported on this host")
        }
    };
    found.seen(flannel_core::error::chain(error));
}

/// Whether an interface belongs to flannel or pods, so that its addresses may be in the pod network.
fn is_of_pods(facts: &Facts, view: &View, link: &LinkName) -> bool {
    let name = link.as_str();
    view.node.tunnels().contains(link) || name == facts.cni.bridge() || name.starts_with("veth")
}

fn networks(view: &View) -> Vec<IpNet> {
    view.node.config().networks().iter().map(|(_, network)| *network).collect()
}

fn addresses(facts: &Facts, view: &View, report: &mut Report) {
    let networks = networks(view);
    for link in facts.observation.facts.links.iter().filter(|link| !is_of_pods(facts, view, &link.name)) {
        for address in &link.addresses {
            let overlaps = |network: &&IpNet| {
                network.contains(&address.net.addr()) || address.net.trunc().contains(*network)
            };
            let Some(network) = networks.iter().find(overlaps) else { continue };
            let problem = format!("{} of {} overlaps the pod network {network}", address.net, link.name);
            report
                .find(&NETWORK_OVERLAP, address.net, problem)
                .seen(format!("ip addr show dev {}: {}", link.name, address.net))
                .fix("choose another Network with flannelctl config set FILE, then restart flanneld on every node");
        }
    }
}

/// Routes of the host into the pod network. Those into the subnet of a node are reported as `route-shadowed`.
fn routes(facts: &Facts, view: &View, report: &mut Report) {
    let networks = networks(view);
    let of_peers: Vec<IpNet> = view.peers().flat_map(|(subnets, _)| subnets.iter()).collect();
    let addresses: Vec<IpNet> = facts
        .observation
        .facts
        .links
        .iter()
        .flat_map(|link| link.addresses.iter().map(|address| address.net.trunc()))
        .collect();
    for (key, route) in &facts.observation.dataplane.routes {
        let destination = key.destination;
        let Some(network) = networks.iter().find(|network| network.contains(&destination)) else { continue };
        let judged_elsewhere =
            of_peers.iter().any(|subnet| subnet.contains(&destination)) || addresses.contains(&destination);
        for route in route.each().filter(|route| route.protocol != PROTOCOL && !judged_elsewhere) {
            let (RouteTarget::Via { link, .. } | RouteTarget::Link(link)) = &route.target else { continue };
            if is_of_pods(facts, view, link) {
                continue;
            }
            let problem = format!("the host has a route into the pod network {network}");
            report
                .find(&NETWORK_OVERLAP, destination, problem)
                .seen(format!("ip route: {destination} dev {link}"))
                .fix(format!("ip route del {destination} dev {link}, or choose another Network"));
        }
    }
}

const TCP: u8 = 6;

fn filters(facts: &Facts, view: &View, report: &mut Report) {
    for (family, filter) in &facts.filters {
        match filter {
            Ok(filter) => {
                port(facts, view, *family, filter, report);
                forward(facts, view, *family, filter, report);
            }
            Err(reason) => {
                report.skip(&PORT_CLOSED, reason);
                report.skip(&FORWARD_DROP, reason);
            }
        }
    }
}

const fn tool(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

fn port(facts: &Facts, view: &View, family: Family, filter: &Filter, report: &mut Report) {
    let links = &facts.observation.dataplane.links;
    let Some(transport) = view.node.config().backend.transport(family, links) else { return };
    let external = view.node.external();
    let Some(destination) = external.address.get(family).copied() else { return };
    let mut peers: Vec<IpAddr> = view
        .table
        .leases()
        .values()
        .filter_map(|entry| entry.lease.attrs.public_address(family))
        .filter(|address| external.public.get(family) != Some(address))
        .collect();
    if peers.is_empty() {
        // An address that no rule about single hosts matches.
        peers.push(match family {
            Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        });
    }
    let dropped = peers.into_iter().find_map(|source| {
        let input = external.name.to_string();
        let protocol = (transport.protocol, transport.port);
        let packet = Packet { hook: Hook::Input, protocol, input, output: None, source, destination };
        Some((source, filter.drops(&packet)?))
    });
    if let Some((peer, by)) = dropped {
        let (tool, matching) = (tool(family), transport.iptables_match());
        report
            .find(&PORT_CLOSED, transport, format!("{family} tunnel packets from {peer} are dropped"))
            .seen(by)
            .fix(format!("{tool} -I INPUT {matching} -j ACCEPT, or accept them where they are dropped"));
    }
}

/// Both directions between a pod of this node and one of another node.
fn forward(facts: &Facts, view: &View, family: Family, filter: &Filter, report: &mut Report) {
    let config = view.node.config();
    let own = view.own.as_ref().and_then(|own| own.subnets.get(family));
    let (Some(own), Some(network)) = (own, config.network(family)) else { return };
    let Some(outside) = config.backend.carrier(family, view.node.external()) else { return };
    let peer = view.table.leases().keys().filter_map(|subnets| subnets.get(family)).find(|net| *net != own);
    let pod = |net: IpNet| net.trunc().hosts().nth(1).unwrap_or(net.addr());
    let (local, remote) = (pod(own), pod(peer.unwrap_or(network)));
    let bridge = facts.cni.bridge();
    let directions = [
        ("from other nodes to pods here", outside.as_str(), bridge, remote, local),
        ("from pods here to other nodes", bridge, outside.as_str(), local, remote),
    ];
    // One finding, because both directions have the same cause.
    let dropped = directions.into_iter().find_map(|(direction, input, output, source, destination)| {
        let (input, output) = (input.to_owned(), Some(output.to_owned()));
        let packet =
            Packet { hook: Hook::Forward, protocol: (TCP, None), input, output, source, destination };
        Some((direction, filter.drops(&packet)?))
    });
    if let Some((direction, by)) = dropped {
        let tool = tool(family);
        report
            .find(&FORWARD_DROP, network, format!("{family} packets {direction} are dropped"))
            .seen(by)
            .fix(format!(
                "{tool} -I FORWARD -s {network} -j ACCEPT; {tool} -I FORWARD -d {network} -j ACCEPT; or accept them \
                 where they are dropped"
            ));
    }
}
