//! The other interfaces of a container. Objects that Go's plugins name after the container alone may belong to them.

use flannel_core::family::Family;
use flannel_core::link::IfIndex;
use flannel_core::message::link::LinkRecord;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::environment::Environment;
use crate::error::{CniError, note};
use crate::kernel::{Kernel, is_kind};
use crate::netns::Netns;

/// The other interfaces of the container of an operation, which are observed on first use.
pub(crate) struct Siblings<'a> {
    environment: &'a Environment,
    addresses: OnceCell<BTreeSet<IpAddr>>,
}

impl<'a> Siblings<'a> {
    pub(crate) const fn of(environment: &'a Environment) -> Self {
        Self { environment, addresses: OnceCell::new() }
    }

    /// Whether one of them has the address. Without a namespace there are none.
    pub(crate) fn have(&self, ip: IpAddr) -> bool {
        let addresses = self.addresses.get_or_init(|| {
            addresses(self.environment).unwrap_or_else(|error| {
                note!("could not list the other interfaces of the container: {}", error.msg);
                BTreeSet::new()
            })
        });
        addresses.contains(&ip)
    }
}

fn addresses(environment: &Environment) -> Result<BTreeSet<IpAddr>, CniError> {
    let mut found = BTreeSet::new();
    let Some(mut interfaces) = Interfaces::list(environment)? else { return Ok(found) };
    for link in interfaces.others {
        let records = interfaces.pod.addresses(link.index, &Family::ALL)?;
        found.extend(records.iter().map(|record| record.facts.net.addr()));
    }
    Ok(found)
}

/// Returns the host's ends of the veth pairs of the other interfaces.
pub(crate) fn host_ends(environment: &Environment) -> Result<Vec<IfIndex>, CniError> {
    let others = Interfaces::list(environment)?.map(|interfaces| interfaces.others).unwrap_or_default();
    Ok(others.iter().filter_map(host_end).collect())
}

/// Returns the host's end of the veth pair of the interface itself, if it exists.
pub(crate) fn own_host_end(environment: &Environment) -> Result<Option<IfIndex>, CniError> {
    let own = Interfaces::list(environment)?.and_then(|interfaces| interfaces.own);
    Ok(own.as_ref().and_then(host_end))
}

fn host_end(link: &LinkRecord) -> Option<IfIndex> {
    link.peer.filter(|_| is_kind(link, "veth"))
}

/// The interfaces in a namespace.
struct Interfaces {
    pod: Kernel,
    /// That of the operation.
    own: Option<LinkRecord>,
    others: Vec<LinkRecord>,
}

impl Interfaces {
    /// Lists them, if the container's namespace exists.
    fn list(environment: &Environment) -> Result<Option<Self>, CniError> {
        let Some(netns) = Netns::open_if_present(&environment.netns)? else { return Ok(None) };
        let mut pod = netns.enter(Kernel::open)??;
        let is_own = |link: &LinkRecord| link.name.as_str() == environment.attachment.ifname;
        let (own, others): (Vec<_>, Vec<_>) = pod.links()?.into_iter().partition(is_own);
        Ok(Some(Self { pod, own: own.into_iter().next(), others }))
    }
}
