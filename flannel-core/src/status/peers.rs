//! The peers, and what each of them has in the kernel.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::objects::Kind;
use crate::backend::PeerError;
use crate::dataplane::{Dataplane, Op};
use crate::desired::Assembly;
use crate::error::chain;
use crate::family::Family;
use crate::lease::{Lease, Subnets};

/// All peers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peers {
    /// In the order of their subnets.
    pub peers: Vec<Peer>,
    /// Nothing changed while the kernel was read. Otherwise some states may be of a moment before.
    pub settled: bool,
}

/// Another node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// The key of its lease in the store.
    pub key: Subnets,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// The addresses that we send to.
    pub public_addresses: Vec<IpAddr>,
    /// Its backend as published; empty where the backend publishes none.
    pub backend: String,
    /// What its backend publishes for IPv4.
    pub backend_data: Option<Box<RawValue>>,
    /// The same for IPv6.
    pub backend_v6_data: Option<Box<RawValue>>,
    /// How it is.
    pub state: State,
    /// What keeps it from being reached; another backend is not a fault.
    pub problems: Vec<String>,
    /// The kernel objects that it needs.
    pub objects: Vec<PeerObject>,
    /// When its lease last changed; `null` if it has not since the daemon started.
    pub changed_at_unix_seconds: Option<u64>,
    /// The store has lost its lease, and it is kept for a while.
    pub kept: bool,
}

/// How a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The kernel has all that it needs.
    InPlace,
    /// Something is missing in the kernel or differs.
    Incomplete,
    /// Its lease is faulty, at least in one family.
    Faulty,
    /// It runs another backend.
    OtherBackend,
    /// It needs nothing.
    NothingNeeded,
}

/// A kernel object that a peer needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerObject {
    /// What it is.
    pub kind: Kind,
    /// It as a line, in the manner of iproute2.
    pub text: String,
    /// How it is.
    pub state: ObjectState,
}

/// How an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectState {
    /// As it should be.
    Present,
    /// Not there.
    Missing,
    /// There, but with another value.
    Differs,
}

/// The peers of `assembly` on a kernel that has `actual`. `changed` has the times of changes, `is_kept` tells
/// who is kept although the store has lost the lease.
#[must_use]
pub fn peers(
    assembly: &Assembly,
    actual: &Dataplane,
    changed: &BTreeMap<Subnets, u64>,
    is_kept: impl Fn(&Subnets) -> bool,
) -> Vec<Peer> {
    let leases = assembly.leases().values();
    leases
        .map(|lease| {
            let objects = objects(assembly, lease, actual);
            let errors = assembly.errors().get(&lease.subnets).map_or(&[][..], Vec::as_slice);
            Peer {
                key: lease.subnets,
                subnets: lease.subnets.iter().collect(),
                public_addresses: Family::ALL
                    .into_iter()
                    .filter_map(|family| lease.attrs.public_address(family))
                    .collect(),
                backend: lease.attrs.backend_type.clone(),
                backend_data: lease.attrs.backend_data.clone(),
                backend_v6_data: lease.attrs.backend_v6_data.clone(),
                state: state(errors, &objects),
                problems: errors.iter().map(|error| chain(error)).collect(),
                objects,
                changed_at_unix_seconds: changed.get(&lease.subnets).copied(),
                kept: is_kept(&lease.subnets),
            }
        })
        .collect()
}

fn state(errors: &[PeerError], objects: &[PeerObject]) -> State {
    if errors.iter().any(|error| !error.is_expected()) {
        State::Faulty
    } else if !errors.is_empty() {
        State::OtherBackend
    } else if objects.is_empty() {
        State::NothingNeeded
    } else if objects.iter().all(|object| object.state == ObjectState::Present) {
        State::InPlace
    } else {
        State::Incomplete
    }
}

/// What the peer needs, as far as it has it: an object that another peer has in its stead is not wanted.
fn objects(assembly: &Assembly, lease: &Lease, actual: &Dataplane) -> Vec<PeerObject> {
    let all = assembly.dataplane();
    let wanted = assembly.desired().peer(lease).dataplane;
    let mut objects = Vec::new();
    let mut add = |kind, op: Op, state| objects.push(PeerObject { kind, text: line(&op), state });
    for (key, entry) in wanted.fdb.iter().filter(|(key, _)| all.fdb.contains_key(key)) {
        let state = compare(entry, actual.fdb.get(key));
        if let Some(destination) = entry.destinations.first() {
            add(Kind::Fdb, Op::SetFdb(key.clone(), *destination), state);
        }
    }
    for (key, neighbour) in wanted.neighbours.iter().filter(|(key, _)| all.neighbours.contains_key(key)) {
        let state = compare(neighbour, actual.neighbours.get(key));
        if let Some(mac) = neighbour.mac {
            add(Kind::Neighbour, Op::SetNeighbour(key.clone(), mac), state);
        }
    }
    for (id, nexthop) in wanted.nexthops.iter().filter(|(id, _)| all.nexthops.contains_key(id)) {
        let state = compare(nexthop, actual.nexthops.get(id));
        add(Kind::Nexthop, Op::ReplaceNexthop(*id, nexthop.clone()), state);
    }
    for (key, route) in wanted.routes.iter().filter(|(key, _)| all.routes.contains_key(key)) {
        let state = compare(route, actual.routes.get(key));
        add(Kind::Route, Op::SetRoute(*key, route.clone()), state);
    }
    objects
}

fn compare<T: PartialEq>(wanted: &T, found: Option<&T>) -> ObjectState {
    match found {
        Some(found) if found == wanted => ObjectState::Present,
        Some(_) => ObjectState::Differs,
        None => ObjectState::Missing,
    }
}

/// The line of an operation without its verb: `route 10.42.2.0/24 via …`.
fn line(op: &Op) -> String {
    op.to_string().replacen(" replace ", " ", 1)
}
