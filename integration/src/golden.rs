//! What the kernel of a node must hold, as text, from the tables of the specification; and the same text
//! read back from a kernel.

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use std::net::IpAddr;

use crate::kernel_state;
use crate::netns::Netns;
use crate::node::Node;
use crate::wait;

/// What the others know of a node, for one family.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address that they send to.
    pub public: IpAddr,
    /// Its subnet.
    pub subnet: IpNet,
    /// The hardware address of its tunnel device, where it has one.
    pub mac: Option<String>,
}

impl Peer {
    /// Looks at a node of a [`crate::Cluster`]: `eth0`, `subnet.env`, and its VXLAN device if it has one.
    pub fn of(node: &Node, v4: bool) -> Result<Self> {
        let addresses = kernel_state::addresses(node.netns(), "eth0")?;
        let public = addresses
            .iter()
            .filter_map(|address| address.parse::<IpNet>().ok())
            .map(|address| address.addr())
            .find(|address| address.is_ipv4() == v4)
            .with_context(|| format!("eth0 of {} has no address of that family", node.name()))?;
        let mac = kernel_state::mac(node.netns(), vxlan_device(v4)).ok();
        Ok(Self { public, subnet: node.subnet(v4)?, mac })
    }

    /// All nodes but one.
    pub fn others(nodes: &[Node], than: &Node, v4: bool) -> Result<Vec<Self>> {
        nodes.iter().filter(|node| node.name() != than.name()).map(|node| Self::of(node, v4)).collect()
    }
}

/// The name of the VXLAN device of a family, with the usual VNI.
#[must_use]
pub const fn vxlan_device(v4: bool) -> &'static str {
    if v4 { "flannel.1" } else { "flannel-v6.1" }
}

/// The protocol number by which our routes are known, as `ip` shows it.
const PROTOCOL: u8 = flannel_core::dataplane::PROTOCOL;

/// The state that VXLAN needs: device, address, and per peer a route, a neighbour and a forwarding entry.
#[must_use]
pub fn vxlan(own: &Peer, peers: &[Peer], mtu_bytes: u32) -> Vec<String> {
    let v4 = own.public.is_ipv4();
    let device = vxlan_device(v4);
    let host = if v4 { 32 } else { 128 };
    let mut lines = vec![
        format!(
            "link {device} mac {} mtu {mtu_bytes} up vxlan id 1 local {} dev eth0 dstport 8472 nolearning",
            own.mac.as_deref().unwrap_or("?"),
            own.public
        ),
        format!("addr {}/{host}", own.subnet.addr()),
    ];
    for peer in peers {
        let zero = peer.subnet.addr();
        let mac = peer.mac.as_deref().unwrap_or("?");
        lines.push(route(v4, peer.subnet, zero, device, " onlink"));
        lines.push(format!("neigh {zero} lladdr {mac} PERMANENT"));
        lines.push(format!("fdb {mac} dst {} self permanent", peer.public));
    }
    lines.sort();
    lines
}

/// The state that host-gw needs: a route per peer.
#[must_use]
pub fn host_gw(own: &Peer, peers: &[Peer]) -> Vec<String> {
    let v4 = own.public.is_ipv4();
    let mut lines: Vec<String> =
        peers.iter().map(|peer| route(v4, peer.subnet, peer.public, "eth0", "")).collect();
    lines.sort();
    lines
}

fn route(v4: bool, subnet: IpNet, via: IpAddr, device: &str, flags: &str) -> String {
    let rest = if v4 { format!("{flags} ") } else { format!(" metric 1024{flags} pref medium") };
    format!("route {subnet} via {via} dev {device} proto {PROTOCOL}{}", rest.trim_end())
}

/// Reads what [`vxlan`] and [`host_gw`] describe: all routes but those of the underlay and the pods' bridge,
/// and all that belongs to the VXLAN device.
pub fn actual(netns: &Netns, v4: bool) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for line in kernel_state::routes(netns, v4, "")? {
        let foreign = ["default ", "192.168.", "fd50::/64", "fe80::", "ff00::"];
        if !foreign.iter().any(|start| line.starts_with(start)) && !line.contains(" dev cni0") {
            lines.push(format!("route {line}"));
        }
    }
    let device = vxlan_device(v4);
    if let Ok(link) = kernel_state::device(netns, device) {
        lines.push(link_line(&link));
        lines.extend(kernel_state::addresses(netns, device)?.iter().map(|line| format!("addr {line}")));
        lines.extend(kernel_state::neighbours(netns, v4, device)?.iter().map(|line| format!("neigh {line}")));
        lines.extend(kernel_state::fdb(netns, device)?.iter().map(|line| format!("fdb {line}")));
    }
    lines.sort();
    Ok(lines)
}

/// A VXLAN device in one line; parameters that we never set show only if somebody did.
fn link_line(link: &serde_json::Value) -> String {
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let data = &link["linkinfo"]["info_data"];
    let local = if data["local"].is_null() { &data["local6"] } else { &data["local"] };
    let flag =
        |name: &str| link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == name));
    let mut line = format!(
        "link {} mac {} mtu {} {} {} id {} local {} dev {} dstport {} {}",
        text(&link["ifname"]),
        text(&link["address"]),
        link["mtu"],
        if flag("UP") { "up" } else { "down" },
        text(&link["linkinfo"]["info_kind"]),
        data["id"],
        text(local),
        text(&data["link"]),
        data["port"],
        if data["learning"] == true { "learning" } else { "nolearning" },
    );
    for (name, value) in [("group", &data["group"]), ("l2miss", &data["l2miss"]), ("gbp", &data["gbp"])] {
        if !value.is_null() && value != false {
            line += &format!(" {name} {}", text(value));
        }
    }
    line
}

/// Waits until a node holds exactly these lines.
pub fn expect(netns: &Netns, v4: bool, expected: &[String]) -> Result<()> {
    wait::until(format!("the kernel of {} is as it must be", netns.name()), wait::LONG, || {
        let found = actual(netns, v4)?;
        ensure!(found == expected, "{}", difference(expected, &found));
        Ok(())
    })
}

/// Lines that are missing and lines that should not be there.
fn difference(expected: &[String], found: &[String]) -> String {
    let missing =
        expected.iter().filter(|line| !found.contains(line)).map(|line| format!("\n  missing: {line}"));
    let extra =
        found.iter().filter(|line| !expected.contains(line)).map(|line| format!("\n  extra:   {line}"));
    missing.chain(extra).collect()
}
