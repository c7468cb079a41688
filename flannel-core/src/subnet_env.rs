//! The text of `subnet.env`, in which the daemon publishes the node's subnet for the CNI plugin and other programs of the host.
//!
//! It is written in the one form that all readers accept, and read with the tolerance of Go's daemon, to find the previous subnet of
//! the node. The CNI plugin has a strict reader of its own.

use ipnet::IpNet;
use std::fmt;

use crate::config::NetworkConfig;
use crate::family::{DualStack, Family, following, parse_net};
use crate::lease::Subnets;

#[cfg(test)]
mod tests;

/// Path of the file, unless a flag or the config contains another one.
pub const PATH: &str = "/run/flannel/subnet.env";

/// The content of `subnet.env`; `Display` writes its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetEnv {
    /// Network and subnet of each enabled family. Private, so that each is of its family.
    families: DualStack<(IpNet, IpNet)>,
    /// MTU of pods in bytes.
    pub mtu: u32,
    /// The daemon masquerades.
    pub ip_masq: bool,
}

/// An enabled family of which the lease has no subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "lease {subnets} has no {family} subnet, but {family} is on in the network config: subnet.env is not written until the lease has one"
)]
pub struct MissingSubnetError {
    /// The lease.
    pub subnets: Subnets,
    /// The enabled family.
    pub family: Family,
}

impl SubnetEnv {
    /// Returns the content for a node with this lease.
    pub fn new(
        config: &NetworkConfig,
        subnets: &Subnets,
        mtu: u32,
        ip_masq: bool,
    ) -> Result<Self, MissingSubnetError> {
        let mut families = DualStack::default();
        for range in config.ranges() {
            let family = range.family();
            let subnet = subnets.get(family).ok_or(MissingSubnetError { subnets: *subnets, family })?;
            *families.slot(family) = Some((range.network(), subnet));
        }
        Ok(Self { families, mtu, ip_masq })
    }

    /// Whether it is the content for this lease.
    #[must_use]
    pub fn is_for(&self, subnets: &Subnets) -> bool {
        self.families.iter().all(|(family, (_, subnet))| subnets.get(family) == Some(*subnet))
    }
}

impl fmt::Display for SubnetEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (family, (network, subnet)) in self.families.iter() {
            let infix = infix(family);
            writeln!(f, "FLANNEL_{infix}NETWORK={network}")?;
            // The address of the bridge, with the length of the subnet.
            let bridge = following(subnet.network());
            writeln!(f, "FLANNEL_{infix}SUBNET={bridge}/{}", subnet.prefix_len())?;
        }
        writeln!(f, "FLANNEL_MTU={}\nFLANNEL_IPMASQ={}", self.mtu, self.ip_masq)
    }
}

/// The content of the `subnet.env` of an earlier daemon of the node, host bits cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousEnv {
    /// The networks.
    pub networks: Subnets,
    /// The subnets of the node.
    pub subnets: Subnets,
}

impl PreviousEnv {
    /// Parses a file in the dialect of Go's daemon: `export`, `=` or `:`, quotes and comments are allowed. Invalid lines are ignored,
    /// because the content is only a preference.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let nets = |kind: &str| Subnets {
            v4: match single(text, kind, Family::V4) {
                Some(IpNet::V4(net)) => Some(net),
                _ => None,
            },
            v6: match single(text, kind, Family::V6) {
                Some(IpNet::V6(net)) => Some(net),
                _ => None,
            },
        };
        Self { networks: nets("NETWORK"), subnets: nets("SUBNET") }
    }
}

/// Returns the only network under a key; none if it has several.
fn single(text: &str, kind: &str, family: Family) -> Option<IpNet> {
    match nets(text, &format!("FLANNEL_{}{kind}", infix(family)), family)[..] {
        [net] => Some(net),
        _ => None,
    }
}

/// Returns the value of a key; if several lines have it, that of the last one.
#[must_use]
pub fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().filter_map(assignment).rfind(|(name, _)| *name == key).map(|(_, value)| value)
}

/// Returns the valid networks of `family` in the list under a key, in the last line with the key.
fn nets(text: &str, key: &str, family: Family) -> Vec<IpNet> {
    let nets = value(text, key).unwrap_or_default().split(',').filter_map(|net| parse_net(net.trim()));
    nets.filter(|net| Family::of_net(*net) == family).map(|net| net.trunc()).collect()
}

/// Returns name and value of a line.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once(['=', ':'])?;
    let value = value.trim();
    let quoted = |quote| value.strip_prefix(quote)?.split_once(quote).map(|(value, _)| value);
    let value = match quoted('"').or_else(|| quoted('\'')) {
        Some(value) => value,
        None => value.split('#').next().unwrap_or_default().trim_end(),
    };
    Some((name.trim(), value))
}

const fn infix(family: Family) -> &'static str {
    match family {
        Family::V4 => "",
        Family::V6 => "IPV6_",
    }
}
