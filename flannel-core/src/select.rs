//! Choice of the external interface: the one that carries traffic between nodes.
//!
//! Without a request it is the owner of the public address, or the interface of the default route. With
//! requests, the first that matches counts: names in order, expressions in order, the address to reach.
//!
//! The choice is made anew in every round. It follows from the facts alone, and what pods and the daemon itself add
//! to the host changes nothing: devices that flannel makes are not found by expressions and routes.
//!
//! Compatibility: names and addresses of `--iface` and `--public-ip` may name such a device, as in Go flannel, which
//! takes them in expressions and routes too.

use regex::Regex;
use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::backend;
use crate::external::{ExternalInterface, Method};
use crate::facts::{HostFacts, LinkFacts, RouteFacts, is_link_local};
use crate::family::{DualStack, Family};
use crate::link::LinkName;

use error::joined;
pub use error::{Attempt, LookupError, SelectError};

mod error;

/// What the administrator asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Criteria {
    /// `--iface`: names or addresses. An empty one means the default route.
    pub names: Vec<String>,
    /// `--iface-regex`: expressions on addresses and names. An empty one means the default route.
    pub regexes: Vec<String>,
    /// `--iface-can-reach`: an address whose route tells the interface.
    pub can_reach: Option<IpAddr>,
    /// `--public-ip`: the address that other nodes send to.
    pub public_ip: Option<Ipv4Addr>,
    /// `--public-ipv6`: the same for IPv6.
    pub public_ipv6: Option<Ipv6Addr>,
}

/// The choice, and the requests before it that matched nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The interface.
    pub external: ExternalInterface,
    /// For the log.
    pub failed: Vec<Attempt>,
}

impl Criteria {
    /// The methods in the order in which they are tried.
    fn methods(&self, families: &[Family]) -> Vec<Method> {
        let names = self.names.iter().cloned().map(Method::Name);
        let regexes = self.regexes.iter().cloned().map(Method::Regex);
        let methods: Vec<Method> = names.chain(regexes).chain(self.can_reach.map(Method::CanReach)).collect();
        if !methods.is_empty() {
            return methods;
        }
        let public = families.iter().find_map(|family| self.public(*family));
        vec![public.map_or(Method::DefaultRoute, Method::PublicAddress)]
    }

    fn public(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.public_ip.map(IpAddr::V4),
            Family::V6 => self.public_ipv6.map(IpAddr::V6),
        }
    }
}

/// Chooses the external interface of a cluster that uses `families`.
///
/// # Errors
/// If no method finds an interface with an address in each family of the cluster.
pub fn select(criteria: &Criteria, families: &[Family], facts: &HostFacts) -> Result<Selection, SelectError> {
    let host = Host { criteria, families, facts };
    let mut failed = Vec::new();
    for method in criteria.methods(families) {
        match host.find(&method).and_then(|found| host.complete(found, &method)) {
            Ok(external) => return Ok(Selection { external, failed }),
            Err(error) => failed.push(Attempt { method, error }),
        }
    }
    Err(SelectError { attempts: failed, there: host.there() })
}

/// An interface, and its addresses as far as the method determines them.
struct Found<'a> {
    link: &'a LinkFacts,
    address: DualStack<IpAddr>,
}

impl<'a> Found<'a> {
    fn new(link: &'a LinkFacts) -> Self {
        Self { link, address: DualStack::default() }
    }

    fn with(mut self, address: IpAddr) -> Self {
        *self.address.slot(Family::of(address)) = Some(address);
        self
    }
}

struct Host<'a> {
    criteria: &'a Criteria,
    families: &'a [Family],
    facts: &'a HostFacts,
}

impl<'a> Host<'a> {
    fn find(&self, method: &Method) -> Result<Found<'a>, LookupError> {
        match method {
            Method::PublicAddress(address) => self.by_address(*address, true),
            Method::Name(text) | Method::Regex(text) if text.is_empty() => self.by_default_route(),
            Method::Name(name) => match name.parse::<IpAddr>() {
                Ok(address) => self.by_address(address.to_canonical(), false),
                Err(_) => self.by_name(name),
            },
            Method::Regex(pattern) => self.by_regex(pattern),
            Method::CanReach(address) => self.by_route(address.to_canonical()),
            Method::DefaultRoute => self.by_default_route(),
        }
    }

    /// Fills in what the method left open.
    fn complete(&self, found: Found<'a>, method: &Method) -> Result<ExternalInterface, LookupError> {
        let Found { link, address: fixed } = found;
        let (mut address, mut public) = (DualStack::default(), DualStack::default());
        for family in Family::ALL {
            if self.families.contains(&family) {
                let chosen = fixed.get(family).copied().or_else(|| link.usable(family).first().copied());
                let missing = || {
                    let link = &link.name;
                    LookupError::Other(format!(
                        "{link} has no {family} address that other nodes could send to, but the network uses {family}"
                    ))
                };
                *address.slot(family) = Some(chosen.ok_or_else(missing)?);
            }
            *public.slot(family) = self.criteria.public(family).or(address.get(family).copied());
        }
        if link.mtu == 0 {
            let link = &link.name;
            return Err(LookupError::Other(format!(
                "{link} has the MTU 0: give it another one (ip link set {link} mtu 1500)"
            )));
        }
        Ok(ExternalInterface {
            name: link.name.clone(),
            index: link.index,
            mtu: link.mtu,
            address,
            public,
            method: method.clone(),
        })
    }

    /// The interface of this name, or of a name as `ip link` prints it: `eno2@if7:` is `eno2`, whose other end or
    /// parent is interface 7. A name that contains `@` itself goes before.
    fn by_name(&self, name: &str) -> Result<Found<'a>, LookupError> {
        let link = |name: &str| self.facts.links.iter().find(|link| link.name.as_str() == name);
        let printed = name.strip_suffix(':').unwrap_or(name);
        let without_peer = || printed.rsplit_once('@').and_then(|(name, _)| link(name));
        let found = link(name).or_else(|| link(printed)).or_else(without_peer);
        found.map(Found::new).ok_or_else(|| LookupError::no_link(name))
    }

    fn owner(&self, address: IpAddr) -> Result<&'a LinkFacts, LookupError> {
        self.facts.owner(address).ok_or(LookupError::NoOwner(address))
    }

    /// The interface that has `address`. Where both families are on, the public IPv6 address has a say: it must be
    /// on the interface of an IPv4 address, and goes before another IPv6 address. One that is translated elsewhere is
    /// fine if the interface is named otherwise.
    fn by_address(&self, address: IpAddr, is_public: bool) -> Result<Found<'a>, LookupError> {
        let family = Family::of(address);
        if !self.families.contains(&family) {
            return Err(LookupError::Other(format!(
                "it is an {family} address, but the network uses {}",
                joined(self.families, " and ")
            )));
        }
        let public_v6 = self.criteria.public(Family::V6).filter(|_| self.families.len() > 1);
        let second = public_v6.and_then(|public_v6| Some((public_v6, self.facts.owner(public_v6)?)));
        match (family, public_v6, second) {
            (Family::V6, _, Some((public_v6, link))) => Ok(Found::new(link).with(public_v6)),
            (Family::V4, _, Some((public_v6, second))) => {
                let first = self.owner(address)?;
                if first.index != second.index {
                    return Err(LookupError::Other(format!(
                        "{address} is on {} and {public_v6} on {}, but both must be on one interface",
                        first.name, second.name
                    )));
                }
                Ok(Found::new(first).with(address).with(public_v6))
            }
            (Family::V4, Some(public_v6), None) if is_public => {
                self.owner(address).and(Err(LookupError::NoOwner(public_v6)))
            }
            _ => Ok(Found::new(self.owner(address)?).with(address)),
        }
    }

    /// The first interface with a matching address of each family; otherwise the first with a matching name; otherwise
    /// the first with a matching address of one family that has a global address of the other. Compatibility: the last
    /// is an error in Go flannel, so it never changes a choice that Go flannel makes.
    fn by_regex(&self, pattern: &str) -> Result<Found<'a>, LookupError> {
        let regex = Regex::new(pattern)
            .map_err(|error| LookupError::Other(format!("not a regular expression: {}", reason(&error))))?;
        let links = self.foreign_links();
        let (mut partial, mut incomplete) = (None, None);
        for link in &links {
            let found = self.matching(link, &regex);
            let missing = self.families.iter().copied().find(|family| found.address.get(*family).is_none());
            let Some(missing) = missing else { return Ok(found) };
            let Some((_, address)) = found.address.iter().next() else { continue };
            if link.usable(missing).first().is_some_and(|other| !is_link_local(*other)) {
                partial.get_or_insert(found);
            } else {
                let link = &link.name;
                incomplete.get_or_insert_with(|| format!(
                    "{address} on {link} matches, but {link} has no global {missing} address, and the network uses both families"
                ));
            }
        }
        let by_name = links.into_iter().find(|link| regex.is_match(link.name.as_str()));
        let none = || incomplete.unwrap_or_else(|| "no address or name of an interface matches".to_owned());
        by_name.map(Found::new).or(partial).ok_or_else(|| LookupError::Other(none()))
    }

    /// The interface, with its first matching address of each family of the cluster.
    fn matching(&self, link: &'a LinkFacts, regex: &Regex) -> Found<'a> {
        let matching = |family| {
            link.usable(family).into_iter().find(|address: &IpAddr| regex.is_match(&address.to_string()))
        };
        self.families.iter().filter_map(|family| matching(*family)).fold(Found::new(link), Found::with)
    }

    /// The interface that packets to `target` leave through. The kernel names `lo` for an address of this host; here it
    /// is the interface that has it.
    fn by_route(&self, target: IpAddr) -> Result<Found<'a>, LookupError> {
        if let Some(link) = self.facts.owner(target).filter(|link| !is_ours(&link.name)) {
            return Ok(Found::new(link).with(target));
        }
        let routes = self.facts.routes.iter().filter(|route| route.destination.contains(&target));
        let (route, link) = routes
            .filter_map(|route| Some((route, self.outgoing(route)?)))
            .min_by_key(|(route, _)| (Reverse(route.destination.prefix_len()), route.metric))
            .ok_or_else(|| LookupError::Other(format!("there is no route to {target}")))?;
        Ok(match source(route, link) {
            Some(source) => Found::new(link).with(source),
            None => Found::new(link),
        })
    }

    /// The interface of a route. Routes of our own must not lead to another choice after a restart.
    fn outgoing(&self, route: &RouteFacts) -> Option<&'a LinkFacts> {
        self.facts.link(route.link?).filter(|link| !is_ours(&link.name))
    }

    /// Interfaces that flannel did not make, in the kernel's order.
    fn foreign_links(&self) -> Vec<&'a LinkFacts> {
        let mut links: Vec<&LinkFacts> =
            self.facts.links.iter().filter(|link| !is_ours(&link.name)).collect();
        links.sort_by_key(|link| link.index);
        links
    }

    /// Interfaces that could be named, with the address of each family that would be taken.
    fn there(&self) -> Vec<(LinkName, Vec<IpAddr>)> {
        let best =
            |link: &LinkFacts, family| link.usable(family).first().copied().filter(|a| !is_link_local(*a));
        let links = self.foreign_links().into_iter().map(|link| {
            let addresses: Vec<IpAddr> =
                self.families.iter().filter_map(|family| best(link, *family)).collect();
            (link.name.clone(), addresses)
        });
        links.filter(|(_, addresses)| !addresses.is_empty()).collect()
    }

    fn by_default_route(&self) -> Result<Found<'a>, LookupError> {
        let mut found: Option<&'a LinkFacts> = None;
        for family in self.families.iter().copied() {
            let missing = || LookupError::Other(format!("there is no {family} default route"));
            let link = self.default_link(family).ok_or_else(missing)?;
            if let Some(v4) = found.filter(|other| other.index != link.index) {
                return Err(LookupError::Other(format!(
                    "the IPv4 default route leads through {} and that of IPv6 through {}, but both must lead through one",
                    v4.name, link.name
                )));
            }
            found = Some(link);
        }
        let none = || LookupError::Other("the network uses no family".to_owned());
        found.map(Found::new).ok_or_else(none)
    }

    /// The first of the default routes with the lowest metric that has an interface.
    fn default_link(&self, family: Family) -> Option<&'a LinkFacts> {
        self.facts
            .routes
            .iter()
            .filter(|route| {
                route.destination.prefix_len() == 0 && Family::of_net(route.destination) == family
            })
            .filter_map(|route| Some((route.metric, self.outgoing(route)?)))
            .min_by_key(|(metric, _)| *metric)
            .map(|(_, link)| link)
    }
}

/// The source address that the kernel gives to packets along an IPv4 route. Where the route names none: the first
/// address whose network holds the next hop, otherwise the first (`inet_select_addr` in net/ipv4/devinet.c). One that
/// it names may be on another interface, such as `lo` of a host that speaks BGP. Compatibility: for IPv6 the order of
/// preference decides, as in Go flannel.
fn source(route: &RouteFacts, link: &LinkFacts) -> Option<IpAddr> {
    if Family::of_net(route.destination) == Family::V6 {
        return None;
    }
    let addresses = || link.addresses.iter().filter(|found| Family::of_net(found.net) == Family::V4);
    let beside =
        || addresses().find(|found| route.gateway.is_some_and(|next_hop| found.net.contains(&next_hop)));
    route.source.or_else(|| beside().or_else(|| addresses().next()).map(|found| found.net.addr()))
}

/// What is wrong with an expression: the last line of a picture that points to the place.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().next_back().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).trim_end_matches('.').to_owned()
}

/// Whether flannel makes a device of this name, in any backend or as the bridge of the pods. Its addresses are of the
/// cluster's network, which many expressions match.
fn is_ours(name: &LinkName) -> bool {
    name.as_str() == crate::cni::BRIDGE || backend::is_device(name, None)
}

#[cfg(test)]
mod tests;
