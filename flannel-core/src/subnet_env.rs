//! The text of `subnet.env`, in which the daemon tells the CNI plugin and other programs of the host the node's subnet.
//!
//! Written in the one form that all readers take; read back with the tolerance of Go's daemon, to find the subnet that the
//! node had before. The CNI plugin has a strict reader of its own.

use ipnet::IpNet;
use std::fmt;

use crate::config::NetworkConfig;
use crate::family::{DualStack, Family, following, parse_net};
use crate::lease::Subnets;

#[cfg(test)]
mod tests;

/// The file, unless a flag or the config names another one.
pub const PATH: &str = "/run/flannel/subnet.env";

/// What `subnet.env` says. `Display` gives its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetEnv {
    /// Network and subnet of each family that is on. Private, so that each is of its family.
    families: DualStack<(IpNet, IpNet)>,
    /// MTU of pods in bytes.
    pub mtu: u32,
    /// The daemon masquerades.
    pub ip_masq: bool,
}

/// A family is on, but the lease has no subnet of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "lease {subnets} has no {family} subnet, but {family} is on in the network config: subnet.env is not written until the lease has one"
)]
pub struct MissingSubnetError {
    /// The lease.
    pub subnets: Subnets,
    /// The family that is on.
    pub family: Family,
}

impl SubnetEnv {
    /// What a node with this lease tells.
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

    /// Whether it tells of these subnets, and not of those of another lease.
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

/// What an earlier daemon of the node has left in `subnet.env`, host bits cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousEnv {
    /// The networks.
    pub networks: Subnets,
    /// The subnets of the node.
    pub subnets: Subnets,
}

impl PreviousEnv {
    /// Reads a file in the dialect of Go's daemon: `export`, `=` or `:`, quotes and comments are allowed. What cannot be
    /// read is as if it were not there, because nothing here is more than a wish.
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

/// The only network under a key; none where there are several.
fn single(text: &str, kind: &str, family: Family) -> Option<IpNet> {
    match nets(text, &format!("FLANNEL_{}{kind}", infix(family)), family)[..] {
        [net] => Some(net),
        _ => None,
    }
}

/// All readable networks of `family` in the list under a key, the last line with the key.
fn nets(text: &str, key: &str, family: Family) -> Vec<IpNet> {
    let value = text.lines().filter_map(assignment).rfind(|(name, _)| *name == key);
    let nets = value.map_or("", |(_, value)| value).split(',').filter_map(|net| parse_net(net.trim()));
    nets.filter(|net| Family::of_net(*net) == family).map(|net| net.trunc()).collect()
}

/// Name and value of a line.
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
