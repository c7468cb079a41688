//! The external interface: the one that carries traffic between nodes.

use std::fmt;
use std::net::IpAddr;

use crate::family::DualStack;
use crate::link::{IfIndex, LinkName};

/// The interface that carries traffic between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalInterface {
    /// Its name.
    pub name: LinkName,
    /// Its number when it was chosen.
    pub index: IfIndex,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its own address, in each family of the cluster.
    pub address: DualStack<IpAddr>,
    /// The address that other nodes send to: the requested one, otherwise its own.
    pub public: DualStack<IpAddr>,
    /// How it was found.
    pub method: Method,
}

/// How the interface is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// It owns `--public-ip` or `--public-ipv6`.
    PublicAddress(IpAddr),
    /// It is, or owns, what `--iface` names.
    Name(String),
    /// An address or the name matches `--iface-regex`.
    Regex(String),
    /// The route to `--iface-can-reach` leads through it.
    CanReach(IpAddr),
    /// The default route leads through it.
    DefaultRoute,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PublicAddress(address @ IpAddr::V4(_)) => write!(f, "--public-ip={address}"),
            Self::PublicAddress(address @ IpAddr::V6(_)) => write!(f, "--public-ipv6={address}"),
            Self::Name(name) => write!(f, "--iface={}", quoted(name)),
            Self::Regex(pattern) => write!(f, "--iface-regex={}", quoted(pattern)),
            Self::CanReach(address) => write!(f, "--iface-can-reach={address}"),
            Self::DefaultRoute => f.write_str("the default route"),
        }
    }
}

/// A text as it can be typed, in quotes only where something could hide in it.
pub(crate) fn quoted(text: &str) -> String {
    let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    if plain { text.to_owned() } else { format!("{text:?}") }
}
