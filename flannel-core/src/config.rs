//! The network config: the JSON that an administrator writes once for the whole cluster.
//!
//! Parsing checks everything, fills in every default and derives what is left out, so that a [`NetworkConfig`] is always
//! one that can be worked with.

use ipnet::IpNet;
use serde_json::value::RawValue;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::backend::Backend;
use crate::family::{DualStack, Family};
use crate::json::{self, FieldError, Fields, Kind, ParseJsonError};
use crate::store::Ownership;

pub use range::SubnetRange;

mod change;
mod range;

#[cfg(test)]
mod tests;

/// What the cluster's nodes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Per family that is on, the range that subnets are taken from. Private, so that each is of its family.
    ranges: DualStack<SubnetRange>,
    /// Who chooses subnets.
    ownership: Ownership,
    /// nftables instead of iptables.
    pub enable_nftables: bool,
    /// How packets get to other nodes.
    pub backend: Backend,
}

/// Why a network config cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseConfigError {
    /// Not a JSON object.
    #[error("the network config cannot be read")]
    Json(#[from] ParseJsonError),
    /// A value of a wrong type or form.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// Values that do not fit together, or a missing one.
    #[error("{0}")]
    Rule(String),
}

impl NetworkConfig {
    /// Reads the JSON text of a config.
    pub fn parse(text: &str) -> Result<Self, ParseConfigError> {
        Self::parse_for(text, Ownership::Claimed)
    }

    /// Reads the JSON text of a config for a store of this kind. Where the store assigns subnets, settings about their choice
    /// may be anything of the right type.
    ///
    /// Compatibility: with Kubernetes, Go does not check them.
    pub fn parse_for(text: &str, ownership: Ownership) -> Result<Self, ParseConfigError> {
        let fields = Fields::parse(text)?;
        let v4 = Settings::read(&fields, Family::V4)?;
        let v6 = Settings::read(&fields, Family::V6)?;
        let derive = |settings: Settings| settings.derive(ownership).map_err(ParseConfigError::Rule);
        let ranges = DualStack {
            v4: fields.bool("EnableIPv4")?.unwrap_or(true).then(|| derive(v4)).transpose()?,
            v6: fields.bool("EnableIPv6")?.unwrap_or(false).then(|| derive(v6)).transpose()?,
        };
        let backend = match fields.last("Backend") {
            None => Backend::default(),
            Some(value) => {
                let options = match Kind::of(value) {
                    Kind::Null => Fields::default(),
                    _ => Fields::from_value("Backend", value)?,
                };
                Backend::read(&options, ranges.v6.is_some())?.ok_or_else(|| {
                    ParseConfigError::Rule(format!(
                        "Backend.Type is missing: must be one of {}",
                        Backend::names()
                    ))
                })?
            }
        };
        let enable_nftables = fields.bool("EnableNFTables")?.unwrap_or(false);
        Ok(Self { ranges, ownership, enable_nftables, backend })
    }

    /// The range of subnets of `family`, if the family is on.
    #[must_use]
    pub const fn range(&self, family: Family) -> Option<&SubnetRange> {
        self.ranges.get(family)
    }

    /// The ranges of the families that are on, IPv4 first.
    pub fn ranges(&self) -> impl Iterator<Item = &SubnetRange> {
        self.ranges.iter().map(|(_, range)| range)
    }

    /// The networks of the families that are on.
    #[must_use]
    pub fn networks(&self) -> DualStack<IpNet> {
        DualStack { v4: self.network(Family::V4), v6: self.network(Family::V6) }
    }

    /// The whole network of `family`, if the family is on.
    #[must_use]
    pub fn network(&self, family: Family) -> Option<IpNet> {
        self.range(family).map(SubnetRange::network)
    }

    /// Whether the family is on.
    #[must_use]
    pub const fn has(&self, family: Family) -> bool {
        self.range(family).is_some()
    }

    /// Whether a node may hold `subnets`: one subnet of each family that is on, none of the others, each one of
    /// those that allocation could choose, or any of the network where the store assigns them.
    #[must_use]
    pub fn allows(&self, subnets: &crate::lease::Subnets) -> bool {
        Family::ALL.into_iter().all(|family| match (self.range(family), subnets.get(family)) {
            (Some(range), Some(subnet)) => match self.ownership {
                Ownership::Claimed => range.allows(subnet),
                Ownership::Assigned => range.network().contains(&subnet),
            },
            (None, None) => true,
            _ => false,
        })
    }
}

/// The names, limits and defaults that differ between the families.
struct Keys {
    network: &'static str,
    subnet_len: &'static str,
    min: &'static str,
    max: &'static str,
    example: &'static str,
    example_address: &'static str,
    /// The length of subnets where the network is large enough for four of them.
    usual: u8,
}

const fn keys(family: Family) -> Keys {
    match family {
        Family::V4 => Keys {
            network: "Network",
            subnet_len: "SubnetLen",
            min: "SubnetMin",
            max: "SubnetMax",
            example: "10.244.0.0/16",
            example_address: "10.244.1.0",
            usual: 24,
        },
        Family::V6 => Keys {
            network: "IPv6Network",
            subnet_len: "IPv6SubnetLen",
            min: "IPv6SubnetMin",
            max: "IPv6SubnetMax",
            example: "fd00:244::/48",
            example_address: "fd00:244:0:1::",
            usual: 64,
        },
    }
}

/// The settings of one family as written.
struct Settings {
    family: Family,
    keys: Keys,
    network: Option<IpNet>,
    subnet_len: u64,
    min: Option<IpAddr>,
    max: Option<IpAddr>,
}

impl Settings {
    fn read(fields: &Fields<'_>, family: Family) -> Result<Self, ParseConfigError> {
        let keys = keys(family);
        let network = fields.read_all(keys.network, |value| network(value, family, &keys).map(Some))?;
        let address = |key| {
            fields.read_all(key, |value| {
                // Go allows `null` for pointers only.
                if family == Family::V6 && Kind::of(value) == Kind::Null {
                    return Ok(None);
                }
                address(value, family, &keys).map(|address| Some(address).filter(|ip| !ip.is_unspecified()))
            })
        };
        Ok(Self {
            family,
            // An all-zero network is Go's empty value.
            network: network.filter(|net| !(net.addr().is_unspecified() && net.prefix_len() == 0)),
            subnet_len: fields.unsigned(keys.subnet_len)?.unwrap_or(0),
            min: address(keys.min)?,
            max: address(keys.max)?,
            keys,
        })
    }

    /// Checks what is given and derives the rest.
    fn derive(self, ownership: Ownership) -> Result<SubnetRange, String> {
        let (key, family, usual) = (self.keys.network, self.family, self.keys.usual);
        let network = self.network.ok_or_else(|| {
            let example = self.keys.example;
            format!(
                "{key} is missing, but {family} is on: set {key} to a network such as {example}, or Enable{family} to false"
            )
        })?;
        match (self.range(network), ownership) {
            (Err(_), Ownership::Assigned) => {
                Ok(SubnetRange::whole(network, network.prefix_len().max(usual).min(family.bits())))
            }
            (range, _) => range,
        }
    }

    /// Returns the range in which nodes choose subnets.
    fn range(self, network: IpNet) -> Result<SubnetRange, String> {
        let Self { family, keys, subnet_len, min, max, .. } = self;
        // The smallest subnet has four addresses.
        let (key, longest) = (keys.network, family.bits() - 2);
        let shortest = network.prefix_len() + 2;
        if shortest > longest {
            let max = longest - 2;
            return Err(format!(
                "{key} is {network}, which is too small for four subnets: its prefix length must be at most {max}"
            ));
        }
        let subnet_len = match u8::try_from(subnet_len) {
            Ok(0) => shortest.max(keys.usual),
            Ok(len) if (shortest..=longest).contains(&len) => len,
            _ => {
                let key = keys.subnet_len;
                return Err(format!(
                    "{key} is {subnet_len}: must be from {shortest} (four subnets in {network}) to {longest}"
                ));
            }
        };
        let whole = SubnetRange::whole(network, subnet_len);
        for (key, end) in [(keys.min, min), (keys.max, max)] {
            let Some(address) = end else { continue };
            let start = whole.start_of_subnet(address);
            if !network.contains(&address) {
                let (first, last) = (network.network(), network.broadcast());
                return Err(format!(
                    "{key} is {address}, which is outside {network}: must be from {first} to {last}"
                ));
            }
            if start != address {
                return Err(format!(
                    "{key} is {address}, which does not start a subnet of length {subnet_len}: the one around it starts at {start}"
                ));
            }
        }
        Ok(whole.between(min, max))
    }
}

/// A network of `family` with host bits cleared.
fn network(value: &RawValue, family: Family, keys: &Keys) -> Result<IpNet, String> {
    let rule = || format!("must be an {family} network with its prefix length, such as \"{}\"", keys.example);
    let net = json::string(value).and_then(|text| crate::family::parse_net(&text)).ok_or_else(rule)?;
    match (family, net) {
        (Family::V4, IpNet::V6(_)) => {
            Err("is an IPv6 network: put it under IPv6Network and set EnableIPv6 to true".to_owned())
        }
        // Compatibility: Go takes it as a mapped network and works with nonsense.
        (Family::V6, IpNet::V4(_)) => Err("is an IPv4 network: put it under Network".to_owned()),
        (Family::V6, IpNet::V6(net)) if net.prefix_len() >= 96 && embeds_v4(net.addr()) => Err(
            "embeds IPv4 addresses (RFC 4291 section 2.5.5), which Go nodes write in a form that they cannot read: take another network".to_owned(),
        ),
        _ => Ok(net.trunc()),
    }
}

/// Whether an address is IPv4-compatible or IPv4-mapped.
fn embeds_v4(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [0, 0, 0, 0, 0, 0 | 0xffff, ..])
}

/// An address of `family`.
fn address(value: &RawValue, family: Family, keys: &Keys) -> Result<IpAddr, String> {
    json::string(value)
        .and_then(|text| match family {
            Family::V4 => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            Family::V6 => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        })
        .ok_or_else(|| {
            format!("must be an {family} address without prefix length, such as \"{}\"", keys.example_address)
        })
}
