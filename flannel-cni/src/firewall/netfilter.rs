//! Requests to nf_tables and connection tracking over netlink. A connection belongs to the namespace in which it was
//! opened.

use flannel_core::exchange::{Changes, Rejected, Transaction};
use flannel_core::family::Family;
use flannel_core::message::conntrack::{self, Entry};
use flannel_core::message::nftables::{Command, Message, Query};
use flannel_core::message::{Get, Refusal};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::netlink::{Netlink, NetlinkError, refusal_text};

/// A connection to netfilter.
#[derive(Debug)]
pub(crate) struct Netfilter(Netlink);

/// A failed request to netfilter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetfilterError {
    #[error("could not talk to netfilter")]
    Netlink(#[from] NetlinkError),
    #[error("the kernel refused `{request}`: {}{}", refusal_text(.refusal), advice(.refusal))]
    Refused { request: String, refusal: Refusal },
}

fn advice(refusal: &Refusal) -> &'static str {
    match Errno::from_raw(refusal.errno) {
        Errno::EPERM => "; the plugin needs the capability CAP_NET_ADMIN",
        Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => {
            "; the kernel may lack a module: run `modprobe -a nf_tables nft_chain_nat nft_masq nft_nat nft_fib_inet \
             nft_ct`"
        }
        _ => "",
    }
}

impl NetfilterError {
    /// Returns true if the kernel has no nf_tables, so that there can be no rules in it.
    pub(crate) fn means_absent(&self) -> bool {
        let errno = match self {
            Self::Netlink(NetlinkError::Socket(error)) => error.raw_os_error().unwrap_or_default(),
            Self::Refused { refusal, .. } => refusal.errno,
            Self::Netlink(_) => return false,
        };
        // The kernel answers EINVAL for a subsystem that it does not have.
        matches!(
            Errno::from_raw(errno),
            Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP | Errno::EINVAL
        )
    }

    /// Returns true if an object of the request was created or deleted meanwhile.
    pub(crate) fn means_outdated(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. }
            if matches!(Errno::from_raw(refusal.errno), Errno::ENOENT | Errno::EBUSY | Errno::EEXIST))
    }
}

impl Netfilter {
    /// Opens a connection to the namespace of this thread.
    pub(crate) fn open() -> Result<Self, NetfilterError> {
        Ok(Self(Netlink::open(NETLINK_NETFILTER)?))
    }

    /// Returns the answer to a query: all of a dump, or at most one message. An object that does not exist is no error.
    pub(crate) fn query(&mut self, query: &Query) -> Result<Vec<Message>, NetfilterError> {
        self.fetch(&query.get())
    }

    fn fetch<T>(&mut self, get: &Get<T>) -> Result<Vec<T>, NetfilterError> {
        match self.0.fetch(get) {
            Err(NetlinkError::Refused(refusal)) if refusal.means_absent() => Ok(Vec::new()),
            Err(NetlinkError::Refused(refusal)) => {
                Err(NetfilterError::Refused { request: get.subject().to_owned(), refusal })
            }
            other => Ok(other?),
        }
    }

    /// Applies all commands or none.
    pub(crate) fn commit(&mut self, commands: &[Command]) -> Result<(), NetfilterError> {
        if commands.is_empty() {
            return Ok(());
        }
        let result = self.0.run(&mut Transaction::new(commands))?;
        result.map_err(|Rejected { request, refusal, .. }| NetfilterError::Refused { request, refusal })
    }

    /// Deletes the entries of connections over UDP to ports of this host, which would otherwise keep their old
    /// destination for as long as packets arrive. With an address, only connections to it.
    pub(crate) fn forget_udp(
        &mut self,
        family: Family,
        ports: &BTreeSet<(u16, Option<IpAddr>)>,
    ) -> Result<(), NetfilterError> {
        let one = match ports.iter().map(|(port, _)| *port).collect::<BTreeSet<_>>() {
            numbers if numbers.len() == 1 => numbers.first().copied(),
            _ => None,
        };
        let is_meant = |entry: &Entry| {
            let mut ports = ports.iter();
            ports.any(|(port, ip)| *port == entry.port && ip.is_none_or(|ip| ip == entry.destination))
        };
        for entry in self.fetch(&conntrack::dump(family, one))?.iter().filter(|entry| is_meant(entry)) {
            let requests = [conntrack::delete(entry)];
            for result in self.0.run(&mut Changes::new(&requests))? {
                match result {
                    Err(refusal) if !refusal.means_absent() => {
                        let request =
                            format!("forget the UDP connection to {}:{}", entry.destination, entry.port);
                        return Err(NetfilterError::Refused { request, refusal });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
