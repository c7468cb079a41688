//! What the kernel of a node must hold, as text, from the tables of the specification; and the same text
//! read back from a kernel.

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use std::net::IpAddr;

pub mod go;

use crate::kernel_state;
use crate::netns::Netns;
use crate::node::Node;
use crate::wait;

/// Which families a network has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

impl Stack {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Dual];

    /// The families, `true` for IPv4.
    #[must_use]
    pub const fn families(self) -> &'static [bool] {
        match self {
            Self::V4 => &[true],
            Self::V6 => &[false],
            Self::Dual => &[true, false],
        }
    }

    /// A network config; `backend` is the JSON of its `Backend`.
    #[must_use]
    pub fn config(self, backend: &str) -> String {
        let networks = match self {
            Self::V4 => r#""Network":"10.42.0.0/16""#,
            Self::V6 => r#""EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd42::/48""#,
            Self::Dual => r#""EnableIPv6":true,"Network":"10.42.0.0/16","IPv6Network":"fd42::/48""#,
        };
        format!(r#"{{{networks},"Backend":{backend}}}"#)
    }
}

/// A node as its record shows it.
#[derive(Clone, Debug)]
pub struct Known {
    /// IPv4.
    pub v4: Option<Peer>,
    /// IPv6.
    pub v6: Option<Peer>,
}

impl Known {
    /// Looks at a node of a [`crate::Cluster`].
    pub fn of(node: &Node, stack: Stack) -> Result<Self> {
        let peer = |v4| stack.families().contains(&v4).then(|| Peer::of(node, v4)).transpose();
        Ok(Self { v4: peer(true)?, v6: peer(false)? })
    }

    /// The key of its record (spec: subnet key grammar).
    #[must_use]
    pub fn key(&self) -> String {
        let part = |peer: &Peer| peer.subnet.to_string().replace('/', "-");
        let v4 = self.v4.as_ref().map_or_else(|| "0.0.0.0-0".to_owned(), part);
        self.v6.as_ref().map_or_else(|| v4.clone(), |peer| format!("{v4}&{}", part(peer)))
    }

    /// The value of its record (spec: golden lease values).
    #[must_use]
    pub fn record(&self, backend: &str) -> String {
        let v4 = self.v4.as_ref().map_or_else(|| "0.0.0.0".to_owned(), |peer| peer.public.to_string());
        let v6 = self.v6.as_ref().map_or_else(|| "null".to_owned(), |peer| format!("\"{}\"", peer.public));
        let data = |name: &str, peer: &Option<Peer>| {
            let mac = peer.as_ref().and_then(|peer| peer.mac.as_deref());
            mac.map(|mac| format!(r#","{name}":{{"VNI":1,"VtepMAC":"{mac}"}}"#)).unwrap_or_default()
        };
        let (data, data_v6) = (data("BackendData", &self.v4), data("BackendV6Data", &self.v6));
        format!(r#"{{"PublicIP":"{v4}","PublicIPv6":{v6},"BackendType":"{backend}"{data}{data_v6}}}"#)
    }

    /// The text of `subnet.env`.
    #[must_use]
    pub fn subnet_env(&self, mtu_bytes: u32) -> String {
        let mut text = String::new();
        for (prefix, network, peer) in [("", "10.42.0.0/16", &self.v4), ("IPV6_", "fd42::/48", &self.v6)] {
            if let Some(Peer { subnet, .. }) = peer {
                let first = subnet.hosts().find(|host| *host != subnet.addr()).unwrap_or(subnet.addr());
                text += &format!("FLANNEL_{prefix}NETWORK={network}\n");
                text += &format!("FLANNEL_{prefix}SUBNET={first}/{}\n", subnet.prefix_len());
            }
        }
        text + &format!("FLANNEL_MTU={mtu_bytes}\nFLANNEL_IPMASQ=false\n")
    }
}

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
        lines.push(format!("neigh {zero} lladdr {mac} PERMANENT proto {PROTOCOL}"));
        lines.push(format!("fdb {mac} dst {} self permanent", peer.public));
    }
    lines.sort();
    lines
}

/// The state that host-gw needs: a route per peer.
#[must_use]
pub fn host_gw(peers: &[Peer]) -> Vec<String> {
    let line = |peer: &Peer| route(peer.public.is_ipv4(), peer.subnet, peer.public, "eth0", "");
    let mut lines: Vec<String> = peers.iter().map(line).collect();
    lines.sort();
    lines
}

fn route(v4: bool, subnet: IpNet, via: IpAddr, device: &str, flags: &str) -> String {
    let rest = if v4 { format!("{flags} ") } else { format!(" metric 1024{flags} pref medium") };
    format!("route {subnet} via {via} dev {device} proto {PROTOCOL}{}", rest.trim_end())
}

/// Reads what [`vxlan`] and [`host_gw`] describe: all routes but the default ones and those that the kernel
/// makes for addresses, and all that belongs to the VXLAN device.
pub fn actual(netns: &Netns, v4: bool) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for line in kernel_state::routes(netns, v4, "")? {
        if !line.starts_with("default ") && !line.contains(" proto kernel ") {
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
