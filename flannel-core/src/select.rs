//! Choice of the external interface: the one that carries traffic between nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::family::DualStack;
use crate::link::{IfIndex, LinkName};

/// What the administrator asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceOptions {
    /// `--iface`: names or addresses, tried in order. An empty one means the default route.
    pub names: Vec<String>,
    /// `--iface-regex`: expressions on addresses and names, tried next. An empty one means the default route.
    pub regexes: Vec<String>,
    /// `--iface-can-reach`: an address whose route tells the interface, tried last.
    pub can_reach: Option<IpAddr>,
    /// `--public-ip`: the address that other nodes send to.
    pub public_ip: Option<Ipv4Addr>,
    /// `--public-ipv6`: the same for IPv6.
    pub public_ipv6: Option<Ipv6Addr>,
}

/// The interface that carries traffic between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalInterface {
    /// Its name.
    pub name: LinkName,
    /// Its number when it was chosen.
    pub index: IfIndex,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its own address, in each family of the network.
    pub address: DualStack<IpAddr>,
    /// The address that other nodes send to: as asked for, otherwise the own one.
    pub public: DualStack<IpAddr>,
    /// What led to it, and what was tried before, for the log.
    pub why: String,
}
