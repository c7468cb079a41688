//! host-local: allocates addresses of the node's ranges, with the files of Go's plugin.
//!
//! Improvements: one lock for all sets; an ADD that fails changes neither addresses nor cursors; addresses whose containers no
//! longer exist are released before a range counts as full; DEL works even if other keys are invalid; GC.

use flannel_core::host_local::{Attachment, Holder};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use crate::environment::Environment;
use crate::error::{CniError, Context, PathError, note};
use crate::plugin::Plugin;
use crate::request::{Request, valid_attachments};
use crate::result::{CniResult, Dns, Ip};
use crate::version::Version;

mod config;
mod owner;
mod range;
mod store;

pub(crate) use config::Config;
use owner::Owner;
use range::{Range, RangeSet};
use store::{Reservation, Store};

/// The host-local plugin.
pub(crate) const PLUGIN: Plugin = Plugin {
    name: "host-local",
    oldest: Version::V0_1_0,
    add: |request| add(&Config::parse(request)?, &request.environment)?.to_value(request.version),
    del,
    check,
    gc,
    // Succeeds if an ADD could run with the config.
    status: |request| Config::parse(request).map(drop),
};

/// Allocates an address of each set.
pub(crate) fn add(config: &Config, environment: &Environment) -> Result<CniResult, CniError> {
    let dns = config.resolv_conf.as_deref().map(resolv_conf).transpose()?.unwrap_or_default();
    let store = Store::open(&config.directory)?;
    let allocation = Allocation {
        store: &store,
        config,
        attachment: &environment.attachment,
        owner: owner::of_netns(&environment.netns),
        reservations: store.reservations()?,
        allocated: Vec::new(),
    };
    let ips = allocation.run()?;
    Ok(CniResult { ips, routes: config.routes.clone(), dns, ..CniResult::default() })
}

/// Releases the addresses of an interface. Files in the old form, of its container alone, only count if it has no others.
pub(crate) fn del(request: &Request) -> Result<(), CniError> {
    let Some(store) = Store::open_existing(&config::directory(request))? else { return Ok(()) };
    let attachment = &request.environment.attachment;
    let reservations = store.reservations()?;
    let of = |holder: &Holder| -> Vec<_> {
        reservations.iter().filter(|reservation| reservation.holder == *holder).collect()
    };
    let mut released = of(&Holder::Attachment(attachment.clone()));
    if released.is_empty() {
        released = of(&Holder::Container(attachment.container_id.clone()));
    }
    for reservation in released {
        store.release(&reservation.file_name)?;
    }
    Ok(store.clean()?)
}

/// Fails unless the interface has an address.
pub(crate) fn check(request: &Request) -> Result<(), CniError> {
    let config = Config::parse(request)?;
    let attachment = &request.environment.attachment;
    if reservations(&config.directory)?.iter().any(|reservation| reservation.holder.is(attachment)) {
        return Ok(());
    }
    let id = &attachment.container_id;
    Err(CniError::internal(format!("host-local: Failed to find address added by container {id}")))
}

/// Releases the addresses of all interfaces that are not in the runtime's list.
pub(crate) fn gc(request: &Request) -> Result<(), CniError> {
    let Some(valid) = valid_attachments(&request.config)? else { return Ok(()) };
    let Some(store) = Store::open_existing(&config::directory(request))? else { return Ok(()) };
    for reservation in store.reservations()? {
        let stale = match &reservation.holder {
            Holder::Attachment(holder) => !valid.contains(holder),
            Holder::Container(id) => !id.is_empty() && !valid.iter().any(|one| one.container_id == *id),
            // No other process is writing it, because this one has the lock.
            Holder::Nobody => true,
        };
        if stale {
            store.release(&reservation.file_name)?;
        }
    }
    Ok(store.clean()?)
}

/// Whether an address of a subnet is allocated; true if that cannot be determined.
pub(crate) fn is_in_use(directory: &Path, subnet: IpNet) -> bool {
    reservations(directory).map_or(true, |all| all.iter().any(|one| subnet.contains(&one.ip)))
}

/// Returns all addresses in use.
fn reservations(directory: &Path) -> Result<Vec<Reservation>, PathError> {
    Store::open_existing(directory)?.map_or_else(|| Ok(Vec::new()), |store| store.reservations())
}

/// An ADD in progress, with the lock.
struct Allocation<'a> {
    store: &'a Store,
    config: &'a Config,
    attachment: &'a Attachment,
    owner: Option<Owner>,
    reservations: Vec<Reservation>,
    /// The addresses that this ADD has allocated, by set.
    allocated: Vec<(IpAddr, &'a Range)>,
}

impl<'a> Allocation<'a> {
    fn run(mut self) -> Result<Vec<Ip>, CniError> {
        let result = self.allocate_all();
        if result.is_err() {
            for (ip, _) in &self.allocated {
                // The first error is returned; DEL finds what is left.
                let _ = self.store.release(&ip.to_string());
            }
        }
        result?;
        let ip = |(ip, range): &(IpAddr, &Range)| Ip {
            interface: None,
            address: IpNet::new_assert(*ip, range.subnet.prefix_len()),
            gateway: Some(range.gateway),
        };
        Ok(self.allocated.iter().map(ip).collect())
    }

    fn allocate_all(&mut self) -> Result<(), CniError> {
        let config = self.config;
        let mut moved = Vec::new();
        let mut requested = config.requested.clone();
        for (at, set) in config.sets.iter().enumerate() {
            let position = requested.iter().position(|ip| set.range_of(*ip).is_some());
            let allocated = match position.map(|position| requested.remove(position)) {
                Some(ip) => self.allocate_requested(set, ip),
                None => self.allocate_next(at, set),
            };
            self.allocated.push(allocated.context(|| format!("failed to allocate for range {at}"))?);
        }
        if !requested.is_empty() {
            let texts: Vec<_> = requested.iter().map(ToString::to_string).collect();
            let msg = format!("failed to allocate all requested IPs: {}", texts.join(" "));
            return Err(CniError::internal(msg));
        }
        // Last, so that an ADD that fails has not moved them.
        for (at, (ip, _)) in self.allocated.iter().enumerate() {
            let before = self.store.last(at);
            if let Err(error) = self.store.set_last(at, *ip) {
                self.restore_cursors(&moved);
                return Err(error.into());
            }
            moved.extend(before.map(|before| (at, before)));
        }
        Ok(())
    }

    fn restore_cursors(&self, cursors: &[(usize, IpAddr)]) {
        for (at, ip) in cursors {
            // The first error is returned; the order of addresses is not guaranteed.
            let _ = self.store.set_last(*at, *ip);
        }
    }

    fn allocate_requested(&mut self, set: &'a RangeSet, ip: IpAddr) -> Result<(IpAddr, &'a Range), CniError> {
        let unavailable =
            || CniError::internal(format!("requested IP address {ip} is not available in range set {set}"));
        let range = set.range_of(ip).ok_or_else(unavailable)?;
        if range.gateway == ip {
            return Err(CniError::internal(format!("requested ip {ip} is subnet's gateway")));
        }
        if self.reserve(ip)? || (self.release_abandoned(set)? && self.reserve(ip)?) {
            return Ok((ip, range));
        }
        Err(unavailable())
    }

    fn allocate_next(&mut self, at: usize, set: &'a RangeSet) -> Result<(IpAddr, &'a Range), CniError> {
        let duplicate = self.reservations.iter().find(|reservation| {
            reservation.holder.is(self.attachment) && set.range_of(reservation.ip).is_some()
        });
        if let Some(duplicate) = duplicate {
            let (ip, id) = (duplicate.ip, &self.attachment.container_id);
            return Err(CniError::internal(format!(
                "{ip} has been allocated to {id}, duplicate allocation is not allowed"
            )));
        }
        loop {
            let used: BTreeSet<IpAddr> = self.reservations.iter().map(|reservation| reservation.ip).collect();
            for (ip, range) in set.candidates(self.store.last(at)) {
                if !used.contains(&ip) && self.reserve(ip)? {
                    return Ok((ip, range));
                }
            }
            if !self.release_abandoned(set)? {
                return Err(CniError::internal(format!("no IP addresses available in range set: {set}")));
            }
        }
    }

    fn reserve(&self, ip: IpAddr) -> Result<bool, PathError> {
        let (attachment, owner) = (self.attachment, self.owner.as_ref());
        match self.allocated.first() {
            Some((first, _)) => self.store.reserve_beside(*first, ip, attachment, owner),
            None => self.store.reserve(ip, attachment, owner),
        }
    }

    /// Releases the addresses of a set whose containers no longer exist; returns whether there were any.
    fn release_abandoned(&mut self, set: &RangeSet) -> Result<bool, PathError> {
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.reservations).into_iter().partition(|one| {
                set.range_of(one.ip).is_some()
                    && owner::is_abandoned(&self.store.path_of(one), &one.holder, &self.config.network)
            });
        self.reservations = kept;
        for reservation in &gone {
            note!("released {}: its container no longer exists", reservation.ip);
            self.store.release(&reservation.file_name)?;
        }
        Ok(!gone.is_empty())
    }
}

/// Reads name resolution from a file in the form of `/etc/resolv.conf`.
fn resolv_conf(path: &Path) -> Result<Dns, PathError> {
    let text = fs::read(path).map_err(|error| PathError::new("open", path, error))?;
    let mut dns = Dns::default();
    for line in String::from_utf8_lossy(&text).lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(keyword), Some(first)) = (words.next(), words.next()) else { continue };
        match keyword.as_str() {
            "nameserver" => dns.nameservers.get_or_insert_default().push(first),
            "domain" => dns.domain = first,
            "search" => dns.search.get_or_insert_default().extend([first].into_iter().chain(words)),
            "options" => dns.options.get_or_insert_default().extend([first].into_iter().chain(words)),
            _ => {}
        }
    }
    Ok(dns)
}

#[cfg(test)]
mod tests;
