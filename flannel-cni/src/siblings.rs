//! The other interfaces of a container. Objects that Go's plugins name after the container alone may be theirs.

use flannel_core::family::Family;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::environment::Environment;
use crate::error::{CniError, note};
use crate::kernel::Kernel;
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
    let Some(netns) = Netns::open_if_present(&environment.netns)? else { return Ok(found) };
    let mut pod = netns.enter(Kernel::open)??;
    for link in pod.links()?.iter().filter(|link| link.name.as_str() != environment.attachment.ifname) {
        let records = pod.addresses(link.index, &Family::ALL)?;
        found.extend(records.iter().map(|record| record.facts.net.addr()));
    }
    Ok(found)
}
