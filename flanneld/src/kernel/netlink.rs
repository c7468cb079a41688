//! The real kernel, through netlink.

use flannel_core::dataplane::{LinkKind, Op};
use flannel_core::family::Family;
use flannel_core::link::LinkName;
use flannel_core::message::neighbour::NeighbourRecord;
use flannel_core::message::route::{Question, RouteRecord};
use flannel_core::message::snapshot::Snapshot;
use flannel_core::message::{DecodeError, Reply, Request, address, fdb, frames, link, neighbour, route};
use nix::errno::Errno;
use std::collections::BTreeSet;

use super::conn::Connection;
use super::dump::dump;
use super::{Kernel, KernelError, Observation, Refused};

mod apply;

/// Room for the answers to one batch, and for one step of a listing.
const ROOM: usize = 1 << 20;

/// The kernel of the network namespace in which this was opened.
pub struct NetlinkKernel {
    /// Missing after a call that failed or was given up half way: what is left of it in the socket must
    /// not be read as an answer to the next one.
    connection: Option<Connection>,
}

impl NetlinkKernel {
    /// Connects to the kernel.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Self { connection: Some(Connection::open(&[], ROOM)?) })
    }

    /// Whether the kernel can make links of this kind (`vxlan`, `bridge`). A module is loaded for it where that is
    /// needed and allowed. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub async fn knows_link_kind(&mut self, kind: &str) -> Result<bool, KernelError> {
        let mut connection = self.connection()?;
        let nothing = |_: &[u8]| Ok(None::<()>);
        let answer = ask(&mut connection, "a kind of link", &link::probe(kind), nothing).await?;
        self.connection = Some(connection);
        match answer {
            Err(cause) if cause.errno == Errno::EOPNOTSUPP => Ok(false),
            Err(cause) if cause.errno == Errno::EPERM => {
                Err(KernelError::Refused { op: format!("link add type {kind}"), cause })
            }
            _ => Ok(true),
        }
    }

    /// The entry that decides about a packet, or why the kernel has none for it.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub async fn route(&mut self, question: &Question) -> Result<Result<RouteRecord, Refused>, KernelError> {
        let mut connection = self.connection()?;
        let answer = ask(&mut connection, "a route", &route::decide(question), route::decode).await?;
        self.connection = Some(connection);
        Ok(answer)
    }

    fn connection(&mut self) -> Result<Connection, KernelError> {
        self.connection.take().map_or_else(|| Connection::open(&[], ROOM), Ok)
    }
}

impl Kernel for NetlinkKernel {
    async fn observe(&mut self, tunnels: &BTreeSet<LinkName>) -> Result<Observation, KernelError> {
        let mut connection = self.connection()?;
        let snapshot = read(&mut connection, tunnels).await?;
        self.connection = Some(connection);
        Ok(Observation { facts: snapshot.facts(), dataplane: snapshot.dataplane() })
    }

    async fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        let broken = match self.connection() {
            Ok(mut connection) => {
                let (results, broken) = apply::run(&mut connection, ops).await;
                match broken {
                    None => {
                        self.connection = Some(connection);
                        return results.into_iter().map(|result| result.unwrap_or(Ok(()))).collect();
                    }
                    Some(error) => (results, error),
                }
            }
            Err(error) => (Vec::new(), error),
        };
        let (results, error) = broken;
        apply::give_up(ops, results, error)
    }
}

/// The answer to a request for one object.
async fn ask<T>(
    connection: &mut Connection,
    what: &'static str,
    request: &Request,
    decode: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
) -> Result<Result<T, Refused>, KernelError> {
    let sequence = connection.next_sequence();
    connection.send(&request.to_bytes(sequence)).await?;
    loop {
        for frame in frames(connection.answer().await?) {
            let unreadable = |cause| KernelError::Unreadable { what, cause };
            let frame = frame.map_err(unreadable)?;
            // What is left of an earlier request that was given up.
            if frame.sequence != sequence {
                continue;
            }
            match frame.reply().map_err(unreadable)? {
                Reply::Refused(refusal) => return Ok(Err(refusal.into())),
                Reply::Object(payload) => {
                    if let Some(object) = decode(payload).map_err(unreadable)? {
                        return Ok(Ok(object));
                    }
                }
                Reply::Ack(_) | Reply::Done | Reply::Noop | Reply::Overrun => {}
            }
        }
    }
}

async fn read(connection: &mut Connection, tunnels: &BTreeSet<LinkName>) -> Result<Snapshot, KernelError> {
    let mut snapshot = Snapshot {
        links: dump(connection, "links", &link::dump(), link::decode).await?,
        ..Snapshot::default()
    };
    for family in Family::ALL {
        // A kernel without IPv6 answers a question about it with what it has of all families.
        let addresses = |payload: &[u8]| {
            Ok(address::decode(payload)?.filter(|record| Family::of_net(record.facts.net) == family))
        };
        let request = address::dump(family);
        snapshot.addresses.extend(dump(connection, "addresses", &request, addresses).await?);
        let routes = |payload: &[u8]| {
            let in_family = |record: &RouteRecord| Family::of_net(record.destination) == family;
            Ok(route::decode(payload)?.filter(|record| record.is_main() && in_family(record)))
        };
        let request = route::dump(family, route::MAIN_TABLE);
        snapshot.routes.extend(dump(connection, "routes", &request, routes).await?);
    }
    for tunnel in snapshot.links.iter().filter(|link| tunnels.contains(&link.name)) {
        let index = tunnel.index;
        for family in Family::ALL {
            let neighbours = |payload: &[u8]| {
                let in_family = |record: &NeighbourRecord| Family::of(record.address) == family;
                Ok(neighbour::decode(payload)?.filter(|record| record.index == index && in_family(record)))
            };
            let request = neighbour::dump(family, index);
            snapshot.neighbours.extend(dump(connection, "neighbours", &request, neighbours).await?);
        }
        if let LinkKind::Vxlan(_) = tunnel.link.kind {
            let entries = |payload: &[u8]| Ok(fdb::decode(payload)?.filter(|record| record.index == index));
            let request = fdb::dump(index);
            snapshot.fdb.extend(dump(connection, "forwarding entries", &request, entries).await?);
        }
    }
    Ok(snapshot)
}

#[cfg(test)]
mod tests;
