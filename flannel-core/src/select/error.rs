//! Why no interface was found: everything that was tried, and what to do.

use std::fmt;
use std::net::IpAddr;

use super::Stack;
use crate::external::Method;
use crate::family::Family;
use crate::link::LinkName;

/// A method that found nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The method.
    pub method: Method,
    /// Why it found nothing.
    pub error: LookupError,
}

/// No method found an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SelectError {
    /// All that was tried, in order.
    pub attempts: Vec<Attempt>,
    /// Interfaces that could be named, and their addresses.
    pub there: Vec<(LinkName, Vec<IpAddr>)>,
}

/// Why a method found no interface. The texts hold nothing that changes while pods come and go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No interface has this name.
    #[error("there is no such interface{}", if .0.contains(',') { LIST_HINT } else { "" })]
    NoLink(String),
    /// No interface has this address.
    #[error("no interface has the address {0}")]
    NoOwner(IpAddr),
    /// The address is of a family that the cluster does not use.
    #[error("it is an {} address, but the network uses {stack}", Family::of(*.address))]
    WrongFamily {
        /// As requested.
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
    /// Addresses of one family match, but of no interface those of both.
    #[error(
        "{address} on {link} matches, but no {missing} address there, and the network uses both families: write an expression that matches one of each, or the name"
    )]
    HalfMatch {
        /// The first interface with a matching address.
        link: LinkName,
        /// What matches.
        address: IpAddr,
        /// The family without a match.
        missing: Family,
    },
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
    #[error("{link} has no {family} address that other nodes could send to, but the network uses {family}")]
    NoUsableAddress {
        /// The interface.
        link: LinkName,
        /// The family.
        family: Family,
    },
    /// The interface has the MTU 0.
    #[error("{0} has the MTU 0: give it another one (ip link set {0} mtu 1500)")]
    NoMtu(LinkName),
}

/// Compatibility: as in Go flannel, a comma in `--iface` or `FLANNELD_IFACE` separates nothing.
const LIST_HINT: &str = " (a comma does not separate names: give --iface once for each)";

/// So many interfaces are shown at most.
const SHOWN: usize = 8;

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.method, self.error)
    }
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = joined(&self.attempts, "; ");
        write!(
            f,
            "no interface for traffic between nodes was found: {attempts}. {}",
            advice(&self.attempts)
        )?;
        if self.there.is_empty() {
            return f.write_str(" (no interface of this host has a suitable address now)");
        }
        let there: Vec<String> = self
            .there
            .iter()
            .take(SHOWN)
            .map(|(link, addresses)| format!("{link} with {}", joined(addresses, " and ")))
            .collect();
        write!(f, " (there are {}", there.join(", "))?;
        match self.there.len().saturating_sub(SHOWN) {
            0 => f.write_str(")"),
            more => write!(f, ", and {more} more)"),
        }
    }
}

fn advice(attempts: &[Attempt]) -> &'static str {
    match attempts {
        [Attempt { method: Method::PublicAddress(_), error: LookupError::NoOwner(_) }] => {
            "If that address is translated to one of this host, name the interface too: --iface=NAME"
        }
        _ => "Name an interface or an address of this host: --iface=NAME",
    }
}

fn joined(values: &[impl ToString], separator: &str) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}
