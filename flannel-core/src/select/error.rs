//! Why no interface was found: everything that was tried, and what to do.

use std::fmt;
use std::net::IpAddr;

use super::{Stack, Way};
use crate::family::Family;
use crate::link::LinkName;

/// A way that led nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The way.
    pub way: Way,
    /// Why it led nowhere.
    pub error: LookupError,
}

/// No way led to an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SelectError {
    /// All that was tried, in order.
    pub attempts: Vec<Attempt>,
}

/// Why a way led to no interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No interface has this name.
    #[error("there is no such interface (there are {})", list(.there))]
    NoLink {
        /// As wished.
        name: String,
        /// What there is.
        there: Vec<LinkName>,
    },
    /// No interface has this address.
    #[error("no interface has the address {0}")]
    NoOwner(IpAddr),
    /// The address is of a family that the cluster does not use.
    #[error("{address} is no address of the cluster, which uses {stack}")]
    WrongFamily {
        /// As wished.
        address: IpAddr,
        /// What is used.
        stack: Stack,
    },
    /// Two addresses belong to two interfaces.
    #[error("{} is on {} and {} on {}, but both must be on one interface", first.0, first.1, second.0, second.1)]
    OwnersDiffer {
        /// One address and its interface.
        first: (IpAddr, LinkName),
        /// The other.
        second: (IpAddr, LinkName),
    },
    /// The expression cannot be read.
    #[error("not a regular expression: {0}")]
    Regex(String),
    /// No address and no name matches the expression.
    #[error("no address or name of an interface matches")]
    NoMatch,
    /// No route leads to the address.
    #[error("there is no route to {0}")]
    NoRoute(IpAddr),
    /// There is no default route.
    #[error("there is no {0} default route")]
    NoDefaultRoute(Family),
    /// The default routes lead through two interfaces.
    #[error(
        "the IPv4 default route leads through {v4} and that of IPv6 through {v6}, but both must lead through one"
    )]
    DefaultRoutesDiffer {
        /// Interface of the IPv4 one.
        v4: LinkName,
        /// Interface of the IPv6 one.
        v6: LinkName,
    },
    /// The interface has no address of a family that the cluster uses.
    #[error("{link} has no {family} address that other nodes could send to")]
    NoUsableAddress {
        /// The interface.
        link: LinkName,
        /// The family.
        family: Family,
    },
    /// The interface has the MTU 0.
    #[error("{0} has the MTU 0")]
    NoMtu(LinkName),
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no interface for traffic between nodes was found: ")?;
        for (place, Attempt { way, error }) in self.attempts.iter().enumerate() {
            let separator = if place > 0 { "; " } else { "" };
            write!(f, "{separator}{way}: {error}")?;
        }
        let only_public = matches!(
            self.attempts.as_slice(),
            [Attempt { way: Way::PublicAddress(_), error: LookupError::NoOwner(_) }]
        );
        f.write_str(if only_public {
            ". If the public address is translated to one of this host, name the interface too: --iface=NAME"
        } else {
            ". Name an interface or an address of this host: --iface=NAME"
        })
    }
}

fn list(names: &[LinkName]) -> String {
    names.iter().map(LinkName::as_str).collect::<Vec<_>>().join(", ")
}

/// A text as it can be typed, in quotes only where something could hide in it.
pub(super) fn quoted(text: &str) -> String {
    let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    if plain { text.to_owned() } else { format!("{text:?}") }
}
