//! Why no interface was found: everything that was tried, and what to do.

use std::fmt;
use std::net::IpAddr;

use crate::external::Method;
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
    /// No interface has this address.
    #[error("no interface has the address {0}")]
    NoOwner(IpAddr),
    /// Another reason.
    #[error("{0}")]
    Other(String),
}

impl LookupError {
    /// No interface has this name.
    pub(super) fn no_link(name: &str) -> Self {
        let hint = if name.contains(',') { LIST_HINT } else { "" };
        Self::Other(format!("there is no such interface{hint}"))
    }
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

pub(super) fn joined(values: &[impl ToString], separator: &str) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}
