//! What a Go flanneld leaves in the kernel of a node, made by hand after the tables of its behaviour.

use anyhow::Result;

use super::{Peer, vxlan_device};
use crate::netns::Netns;

const FLANNEL_MTU: u32 = 1450;

/// The device and the entries of one peer.
pub fn vxlan(netns: &Netns, own: &Peer, peer: &Peer) -> Result<()> {
    let v4 = own.public.is_ipv4();
    let device = vxlan_device(v4);
    let (mtu_bytes, host) = if v4 { (FLANNEL_MTU, 32) } else { (FLANNEL_MTU - 20, 128) };
    let mac = own.mac.as_deref().unwrap_or_default();
    netns.ip_batch(&format!(
        "link add {device} mtu {mtu_bytes} txqueuelen 0 address {mac} type vxlan id 1 dev eth0 local {} dstport 8472 nolearning\n\
         addr add {}/{host} dev {device}\n\
         link set {device} up\n",
        own.public,
        own.subnet.addr(),
    ))?;
    vxlan_peer(netns, peer)
}

/// The entries of a peer.
pub fn vxlan_peer(netns: &Netns, peer: &Peer) -> Result<()> {
    let device = vxlan_device(peer.public.is_ipv4());
    let (zero, mac) = (peer.subnet.addr(), peer.mac.as_deref().unwrap_or_default());
    netns.ip_batch(&format!(
        "neigh replace {zero} lladdr {mac} dev {device} nud permanent\n\
         route add {} via {zero} dev {device} onlink proto boot\n",
        peer.subnet
    ))?;
    netns.run(&format!("bridge fdb replace {mac} dev {device} dst {} self permanent", peer.public)).map(drop)
}

/// The route of a peer.
pub fn host_gw_peer(netns: &Netns, peer: &Peer) -> Result<()> {
    netns.ip(&format!("route add {} via {} dev eth0 proto boot", peer.subnet, peer.public)).map(drop)
}

/// The firewall rules of a daemon with `--ip-masq`, behind some of others.
pub fn iptables(netns: &Netns) -> Result<()> {
    iptables_v4(netns, "10.42.1.0/24")?;
    iptables_of(
        netns,
        ["ip6tables-restore", "fd00:42::/48", "fd00:42:0:1::/64", "ff00::/8", "2001:db8::1/128"],
    )
}

/// Those of a network without IPv6, on a node with this subnet.
pub fn iptables_v4(netns: &Netns, own: &str) -> Result<()> {
    iptables_of(netns, ["iptables-restore", "10.42.0.0/16", own, "224.0.0.0/4", "192.0.2.1/32"])
}

fn iptables_of(netns: &Netns, [tool, cluster, own, multicast, other]: [&str; 5]) -> Result<()> {
    let (masq, forward) =
        ("-m comment --comment \"flanneld masq\"", "-m comment --comment \"flanneld forward\"");
    let rules = format!(
        "*nat\n\
         :FLANNEL-POSTRTG - [0:0]\n\
         -A POSTROUTING -s {other} -j RETURN\n\
         -A POSTROUTING {masq} -j FLANNEL-POSTRTG\n\
         -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {own} -d {cluster} {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {cluster} -d {own} {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG ! -s {cluster} -d {own} {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {cluster} ! -d {multicast} {masq} -j MASQUERADE --random-fully\n\
         -A FLANNEL-POSTRTG ! -s {cluster} -d {cluster} {masq} -j MASQUERADE --random-fully\n\
         COMMIT\n\
         *filter\n\
         :FLANNEL-FWD - [0:0]\n\
         -A FORWARD {forward} -j FLANNEL-FWD\n\
         -A FLANNEL-FWD -s {cluster} {forward} -j ACCEPT\n\
         -A FLANNEL-FWD -d {cluster} {forward} -j ACCEPT\n\
         COMMIT\n"
    );
    netns.feed(&[tool, "--noflush"], &rules).map(drop)
}

/// The tables of a daemon with `--ip-masq` in nftables mode, of a network without IPv6, as 0.28.10 leaves them. The fourth
/// rule keeps the last one from being reached.
pub fn nftables(netns: &Netns) -> Result<()> {
    let tables = r#"
table ip flannel-ipv4 {
    comment "rules for flannel-ipv4"
    chain postrtg {
        comment "chain to manage traffic masquerading by flannel"
        type nat hook postrouting priority srcnat; policy accept;
        meta mark 0x00004000 return
        ip saddr 10.42.1.0/24 ip daddr 10.42.0.0/16 return
        ip saddr 10.42.0.0/16 ip daddr 10.42.1.0/24 return
        ip saddr != 10.42.1.0/24 ip daddr 10.42.0.0/16 return
        ip saddr 10.42.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
        ip saddr != 10.42.0.0/16 ip daddr 10.42.0.0/16 masquerade fully-random
    }
    chain forward {
        comment "chain to accept flannel traffic"
        type filter hook forward priority filter; policy accept;
        ip saddr 10.42.0.0/16 accept
        ip daddr 10.42.0.0/16 accept
    }
}
table ip6 flannel-ipv6 {
    comment "rules for flannel-ipv6"
}
"#;
    netns.feed(&["nft", "-f", "-"], tables).map(drop)
}
