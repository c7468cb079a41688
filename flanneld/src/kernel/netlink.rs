//! The kernel, through netlink.

use flannel_core::advertisement::{self, Advertised};
use flannel_core::dataplane::Op;
use flannel_core::exchange::{Changes, Fetch, FetchError};
use flannel_core::family::Family;
use flannel_core::link::LinkName;
use flannel_core::message::nexthop::NexthopRecord;
use flannel_core::message::route::{Question, RouteRecord};
use flannel_core::message::snapshot::Snapshot;
use flannel_core::message::{Get, address, fdb, link, neighbour, nexthop, route};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use tracing::debug;

use super::conn::Connection;
use super::{Effector, KernelError, Observation, Refused, single};

mod apply;

/// Receive buffer for the answers to one batch, or for one part of a dump.
const CAPACITY: usize = 1 << 20;

/// The kernel of the network namespace in which this was opened.
pub struct NetlinkKernel {
    /// `None` after a call that failed or was cancelled: a late answer must not be taken for one to the next call.
    connection: Option<Connection>,
    port: OwnPort,
}

/// The port of the socket that makes our changes. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct OwnPort(Arc<AtomicU32>);

impl OwnPort {
    fn set(&self, connection: &Connection) {
        self.0.store(connection.port, Relaxed);
    }

    /// `None` before there is a socket: the kernel itself has port 0.
    pub(super) fn get(&self) -> Option<u32> {
        Some(self.0.load(Relaxed)).filter(|port| *port != 0)
    }
}

impl NetlinkKernel {
    /// Connects to the kernel.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn open() -> Result<Self, KernelError> {
        let mut kernel = Self { connection: None, port: OwnPort::default() };
        kernel.connection = Some(kernel.connection()?);
        Ok(kernel)
    }

    /// Returns the port that notifications about changes of this carry.
    #[must_use]
    pub fn port(&self) -> OwnPort {
        self.port.clone()
    }

    /// Returns true if the kernel supports links of this kind (`vxlan`, `bridge`). The kernel loads a module for it if
    /// it needs one and may. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub async fn supports_link_kind(&self, kind: &str) -> Result<bool, KernelError> {
        let results = single::run(&mut Changes::new(&[link::probe(kind)])).await?;
        match results.into_iter().find_map(Result::err).map(Refused::from) {
            Some(Refused { errno: Errno::EOPNOTSUPP, .. }) => Ok(false),
            Some(cause @ Refused { errno: Errno::EPERM, .. }) => {
                Err(KernelError::Refused { op: format!("link add type {kind}"), cause })
            }
            _ => Ok(true),
        }
    }

    /// Returns the routing table entry that decides about a packet, or why the kernel has none for it.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub async fn route(&self, question: &Question) -> Result<Result<RouteRecord, Refused>, KernelError> {
        let get = route::decide(question);
        let unreadable = |cause| KernelError::Unreadable { what: get.subject().to_owned(), cause };
        let none = Refused { errno: Errno::ENETUNREACH, text: String::new() };
        match single::run(&mut Fetch::new(&get)).await? {
            Ok(fetched) => Ok(fetched.all().map_err(unreadable)?.pop().ok_or(none)),
            Err(FetchError::Refused(refusal)) => Ok(Err(refusal.into())),
            Err(FetchError::Interrupted) => {
                Err(KernelError::Unsteady { what: get.subject().to_owned(), attempts: 1 })
            }
        }
    }

    /// Returns the routes of all tables that are from router advertisements.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub async fn advertised(&mut self) -> Result<Vec<Advertised>, KernelError> {
        let mut connection = self.connection()?;
        let routes = list(&mut connection, &route::dump(Family::V6, route::ALL_TABLES)).await?;
        self.connection = Some(connection);
        Ok(advertisement::routes(&routes))
    }

    fn connection(&mut self) -> Result<Connection, KernelError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let connection = Connection::open(&[], CAPACITY)?;
        self.port.set(&connection);
        Ok(connection)
    }
}

impl Effector for NetlinkKernel {
    type Scope = BTreeSet<LinkName>;
    type State = Observation;
    type Op = Op;
    type Error = KernelError;

    async fn observe(&mut self, tunnels: &BTreeSet<LinkName>) -> Result<Observation, KernelError> {
        let mut connection = self.connection()?;
        let mut snapshot = read(&mut connection, tunnels).await?;
        let nexthops = list_nexthops(&mut connection).await?;
        let has_nexthops = nexthops.is_some();
        snapshot.nexthops = nexthops.unwrap_or_default();
        snapshot.resolve();
        self.connection = Some(connection);
        Ok(Observation { facts: snapshot.facts(tunnels), dataplane: snapshot.dataplane(), has_nexthops })
    }

    async fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        match self.connection() {
            Ok(connection) => {
                let (results, connection) = apply::run(connection, ops).await;
                self.connection = connection;
                results
            }
            Err(error) => apply::give_up(ops, Vec::new(), error),
        }
    }
}

/// Lists the objects that can be decoded: a malformed object of another program must not hide all others.
async fn list<T>(connection: &mut Connection, get: &Get<T>) -> Result<Vec<T>, KernelError> {
    let fetched = connection.fetch_decodable(get).await?;
    let fetched = fetched
        .map_err(|refusal| KernelError::List { what: get.subject().to_owned(), cause: refusal.into() })?;
    if let Some(error) = fetched.undecoded {
        debug!(what = get.subject(), %error, "skipped kernel objects that cannot be decoded");
    }
    Ok(fetched.objects)
}

/// Lists the nexthop objects; `None` if the kernel does not support them.
async fn list_nexthops(connection: &mut Connection) -> Result<Option<Vec<NexthopRecord>>, KernelError> {
    match list(connection, &nexthop::dump()).await {
        Ok(nexthops) => Ok(Some(nexthops)),
        Err(KernelError::List { cause: Refused { errno: Errno::EOPNOTSUPP, .. }, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn read(connection: &mut Connection, tunnels: &BTreeSet<LinkName>) -> Result<Snapshot, KernelError> {
    let mut snapshot = Snapshot { links: list(connection, &link::dump()).await?, ..Snapshot::default() };
    for family in Family::ALL {
        // A kernel without IPv6 answers a request for it with the objects of all families.
        let mut addresses = list(connection, &address::dump(family, None)).await?;
        addresses.retain(|record| Family::of_net(record.facts.net) == family);
        snapshot.addresses.append(&mut addresses);
        let mut routes = list(connection, &route::dump(family, route::MAIN_TABLE)).await?;
        routes.retain(|record| record.is_main() && Family::of_net(record.destination) == family);
        snapshot.routes.append(&mut routes);
    }
    for tunnel in snapshot.links.iter().filter(|link| tunnels.contains(&link.name)) {
        let index = tunnel.index;
        for family in Family::ALL {
            let mut neighbours = list(connection, &neighbour::dump(family, index)).await?;
            neighbours.retain(|record| record.index == index && Family::of(record.address) == family);
            snapshot.neighbours.append(&mut neighbours);
        }
        if tunnel.link.kind.has_fdb() {
            let mut entries = list(connection, &fdb::dump(index)).await?;
            entries.retain(|record| record.index == index);
            snapshot.fdb.append(&mut entries);
        }
    }
    Ok(snapshot)
}

#[cfg(test)]
mod tests;
