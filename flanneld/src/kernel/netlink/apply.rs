//! Ops as batches of netlink messages.
//!
//! The kernel carries out the messages of one send in order and answers each. An op that creates or deletes
//! a link stands alone, because the number of a link is known only afterwards. Numbers are looked up
//! when an op needs them and forgotten with the call.

use flannel_core::dataplane::{Link, LinkChange, LinkKind, Op, Route, RouteKey, RouteTarget, Vxlan};
use flannel_core::link::{IfIndex, LinkName};
use flannel_core::message::link::LinkRecord;
use flannel_core::message::{Reply, Request, address, fdb, frames, link, neighbour, route};
use flannel_core::plan;
use nix::errno::Errno;
use std::collections::BTreeMap;
use tracing::debug;

use super::super::conn::Connection;
use super::super::error::{KernelError, Refused, is_settled};

/// Few enough that the answers fit into the default receive buffer of a host that allows no larger one (212,992
/// bytes, and an answer takes about one KiB of them), and that the thread is kept for some milliseconds only.
const BATCH_MESSAGES: usize = 64;

/// Results so far, and why the connection can no longer be used, if so.
type Outcome = (Vec<Option<Result<(), KernelError>>>, Option<KernelError>);

/// Runs the ops. Without a broken connection every op has a result.
pub(super) async fn run(connection: &mut Connection, ops: &[Op]) -> Outcome {
    let mut results = Vec::new();
    results.resize_with(ops.len(), || None);
    let mut application =
        Application { connection, ops, results, indices: BTreeMap::new(), batch: Batch::default() };
    let broken = application.run().await.err();
    (application.results, broken)
}

/// Results of ops after the connection broke.
pub(super) fn give_up(
    ops: &[Op],
    results: Vec<Option<Result<(), KernelError>>>,
    error: KernelError,
) -> Vec<Result<(), KernelError>> {
    let mut cause = Some(error);
    let results = results.into_iter().chain(std::iter::repeat_with(|| None));
    ops.iter()
        .zip(results)
        .map(|(op, result)| {
            result.unwrap_or_else(|| {
                Err(cause.take().unwrap_or_else(|| KernelError::Unanswered { op: op.to_string() }))
            })
        })
        .collect()
}

struct Application<'a> {
    connection: &'a mut Connection,
    ops: &'a [Op],
    results: Vec<Option<Result<(), KernelError>>>,
    /// Numbers of links that were looked up; `None` if there is no such link.
    indices: BTreeMap<LinkName, Option<IfIndex>>,
    batch: Batch,
}

/// Messages to be sent together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Place of the op by sequence number.
    places: BTreeMap<u32, usize>,
}

/// What an op comes to before anything is sent.
enum Prepared {
    /// All of them have to succeed.
    Send(Vec<Request>),
    /// Nothing to do, or impossible.
    Settled(Result<(), KernelError>),
}

impl Application<'_> {
    /// Errors here are those of the connection; those of ops are in the results.
    async fn run(&mut self) -> Result<(), KernelError> {
        let ops = self.ops;
        for (place, op) in ops.iter().enumerate() {
            match op {
                Op::CreateLink(name, link) => {
                    self.flush().await?;
                    self.indices.remove(name);
                    let result = self.create_link(op, name, link).await?;
                    if matches!(result, Err(KernelError::OtherLink { .. })) {
                        // What follows is not for a device of somebody else.
                        self.indices.insert(name.clone(), None);
                    }
                    self.results[place] = Some(result);
                }
                Op::DeleteLink(name) => {
                    self.flush().await?;
                    self.enqueue(place, op).await?;
                    self.flush().await?;
                    self.indices.remove(name);
                }
                _ => self.enqueue(place, op).await?,
            }
            if self.batch.places.len() >= BATCH_MESSAGES {
                self.flush().await?;
            }
        }
        self.flush().await
    }

    async fn enqueue(&mut self, place: usize, op: &Op) -> Result<(), KernelError> {
        match self.prepare(op).await? {
            Prepared::Send(requests) => {
                for request in requests {
                    let sequence = self.connection.next_sequence();
                    request.write(sequence, &mut self.batch.bytes);
                    self.batch.places.insert(sequence, place);
                }
            }
            Prepared::Settled(result) => self.results[place] = Some(result),
        }
        Ok(())
    }

    /// Sends the batch and takes in all answers.
    async fn flush(&mut self) -> Result<(), KernelError> {
        let Batch { bytes, mut places } = std::mem::take(&mut self.batch);
        if places.is_empty() {
            return Ok(());
        }
        self.connection.send(&bytes).await?;
        let mut refused = Vec::new();
        while !places.is_empty() {
            let datagram = self.connection.answer().await?;
            for (sequence, answer) in answers(datagram)? {
                let Some(place) = places.remove(&sequence) else { continue };
                match answer {
                    None => {
                        self.results[place].get_or_insert(Ok(()));
                    }
                    Some(cause) => refused.push((place, cause)),
                }
            }
        }
        for (place, cause) in refused {
            let result = self.refused(&self.ops[place], cause).await?;
            self.results[place] = Some(result);
        }
        Ok(())
    }

    /// What becomes of an op that the kernel refused.
    async fn refused(&mut self, op: &Op, cause: Refused) -> Result<Result<(), KernelError>, KernelError> {
        if is_settled(op, cause.errno) {
            return Ok(Ok(()));
        }
        match (op, cause.errno) {
            (Op::SetRoute(key, wanted), Errno::EEXIST) => self.bring_forward(op, key, wanted).await,
            // The link has another number since it was looked up, or is gone.
            (_, Errno::ENODEV) if op.link().is_some_and(|name| self.indices.remove(name).is_some()) => {
                self.single(op).await
            }
            _ => Ok(Err(KernelError::Refused { op: op.to_string(), cause })),
        }
    }

    /// Runs one op by itself.
    async fn single(&mut self, op: &Op) -> Result<Result<(), KernelError>, KernelError> {
        let requests = match self.prepare(op).await? {
            Prepared::Send(requests) => requests,
            Prepared::Settled(result) => return Ok(result),
        };
        for request in requests {
            if let Some(cause) = self.transact(&request).await?
                && !is_settled(op, cause.errno)
            {
                return Ok(Err(KernelError::Refused { op: op.to_string(), cause }));
            }
        }
        Ok(Ok(()))
    }

    /// The very route stands behind another one with its key, where it has no effect and keeps the kernel from
    /// replacing the first one.
    async fn bring_forward(
        &mut self,
        op: &Op,
        key: &RouteKey,
        wanted: &Route,
    ) -> Result<Result<(), KernelError>, KernelError> {
        let hidden = Op::DeleteRoute(*key, wanted.clone());
        match self.single(&hidden).await? {
            Ok(()) => self.single(op).await,
            Err(error) => Ok(Err(error)),
        }
    }

    /// Creates a link, or takes over the one that is there if it is of the same make, and settles its parameters.
    async fn create_link(
        &mut self,
        op: &Op,
        name: &LinkName,
        wanted: &Link,
    ) -> Result<Result<(), KernelError>, KernelError> {
        let underlay = match &wanted.kind {
            LinkKind::Vxlan(Vxlan { lower: Some(lower), .. }) => match self.index(lower).await? {
                Some(index) => Some(index),
                None => return Ok(Err(KernelError::NoLink { op: op.to_string(), link: lower.clone() })),
            },
            _ => None,
        };
        let request = match link::create(name, wanted, underlay) {
            Ok(request) => request,
            Err(cause) => return Ok(Err(KernelError::Inexpressible { op: op.to_string(), cause })),
        };
        let refusal = self.transact(&request).await?;
        if let Some(cause) = refusal.as_ref().filter(|cause| cause.errno != Errno::EEXIST) {
            return Ok(Err(KernelError::Refused { op: op.to_string(), cause: cause.clone() }));
        }
        let Some(found) = self.look_up(name).await? else {
            // Without a link of that name, EEXIST is about one that has the same VNI and port.
            return Ok(Err(match refusal {
                Some(cause) => KernelError::Refused { op: op.to_string(), cause },
                None => KernelError::NoLink { op: op.to_string(), link: name.clone() },
            }));
        };
        if let Some(difference) = difference(wanted, underlay, &found) {
            return Ok(Err(KernelError::OtherLink { op: op.to_string(), difference }));
        }
        if found.link.mtu < wanted.mtu && refusal.is_none() {
            debug!(link = %name, mtu = found.link.mtu, wanted = wanted.mtu, "the kernel limited the mtu to that of the underlay");
        }
        ignore_router_advertisements(name);
        let change = remaining(wanted, &found, refusal.is_some());
        for request in link::change(found.index, &change) {
            if let Some(cause) = self.transact(&request).await? {
                return Ok(Err(KernelError::Refused { op: op.to_string(), cause }));
            }
        }
        Ok(Ok(()))
    }

    async fn prepare(&mut self, op: &Op) -> Result<Prepared, KernelError> {
        let index = match op.link() {
            None => None,
            Some(name) => match self.index(name).await? {
                Some(index) => Some(index),
                None if deletes(op) => return Ok(Prepared::Settled(Ok(()))),
                None => {
                    let error = KernelError::NoLink { op: op.to_string(), link: name.clone() };
                    return Ok(Prepared::Settled(Err(error)));
                }
            },
        };
        let requests = match (op, index) {
            (Op::SetRoute(key, wanted), index) => {
                route::NewRoute::planned(key, wanted, index).map(|new| vec![route::replace(&new)])
            }
            (Op::DeleteRoute(key, Route { target: RouteTarget::Other(_), protocol }), _) => {
                Ok(vec![route::delete_first(key, *protocol)])
            }
            (Op::DeleteRoute(key, gone), index) => {
                route::NewRoute::planned(key, gone, index).map(|gone| vec![route::delete(&gone)])
            }
            (Op::SetLink(_, change), Some(index)) => Ok(link::change(index, change)),
            (Op::DeleteLink(_), Some(index)) => Ok(vec![link::delete(index)]),
            (Op::AddAddress(key), Some(index)) => {
                Ok(vec![address::add(&address::NewAddress::new(index, key.net))])
            }
            (Op::DeleteAddress(key), Some(index)) => Ok(vec![address::delete(index, key.net)]),
            (Op::SetNeighbour(key, mac), Some(index)) => Ok(vec![neighbour::set(index, key.address, *mac)]),
            (Op::DeleteNeighbour(key), Some(index)) => Ok(vec![neighbour::delete(index, key.address)]),
            (Op::SetFdb(key, to), Some(index)) => Ok(vec![fdb::set(index, key.mac, *to)]),
            (Op::DeleteFdb(key, to), Some(index)) => Ok(vec![fdb::delete(index, key.mac, *to)]),
            // `create_link` does this one, and the others name a link.
            (Op::CreateLink(..), _) | (_, None) => Ok(Vec::new()),
        };
        Ok(match requests {
            Ok(requests) if requests.is_empty() => Prepared::Settled(Ok(())),
            Ok(requests) => Prepared::Send(requests),
            Err(cause) => Prepared::Settled(Err(KernelError::Inexpressible { op: op.to_string(), cause })),
        })
    }

    /// The number of a link.
    async fn index(&mut self, name: &LinkName) -> Result<Option<IfIndex>, KernelError> {
        if let Some(index) = self.indices.get(name) {
            return Ok(*index);
        }
        let index = self.look_up(name).await?.map(|link| link.index);
        self.indices.insert(name.clone(), index);
        Ok(index)
    }

    /// Reads a link by name.
    async fn look_up(&mut self, name: &LinkName) -> Result<Option<LinkRecord>, KernelError> {
        const WHAT: &str = "a link";
        let unreadable = |cause| KernelError::Unreadable { what: WHAT, cause };
        let sequence = self.connection.next_sequence();
        self.connection.send(&link::get(name).to_bytes(sequence)).await?;
        loop {
            let datagram = self.connection.answer().await?;
            for frame in frames(datagram) {
                let frame = frame.map_err(unreadable)?;
                if frame.sequence != sequence {
                    continue;
                }
                match frame.reply().map_err(unreadable)? {
                    Reply::Object(payload) => return link::decode(payload).map_err(unreadable),
                    Reply::Refused(refusal) if refusal.errno == Errno::ENODEV as i32 => return Ok(None),
                    Reply::Refused(refusal) => {
                        return Err(KernelError::List { what: WHAT, cause: refusal.into() });
                    }
                    _ => {}
                }
            }
        }
    }

    /// Sends one message and waits for its answer: `None` is success.
    async fn transact(&mut self, request: &Request) -> Result<Option<Refused>, KernelError> {
        let sequence = self.connection.next_sequence();
        self.connection.send(&request.to_bytes(sequence)).await?;
        loop {
            let datagram = self.connection.answer().await?;
            let answer = answers(datagram)?.into_iter().find(|(answered, _)| *answered == sequence);
            if let Some((_, answer)) = answer {
                return Ok(answer);
            }
        }
    }
}

/// The sequence numbers that a datagram answers, each with the refusal if it is one.
fn answers(datagram: &[u8]) -> Result<Vec<(u32, Option<Refused>)>, KernelError> {
    let unreadable = |cause| KernelError::Unreadable { what: "a change", cause };
    let mut answers = Vec::new();
    for frame in frames(datagram) {
        let frame = frame.map_err(unreadable)?;
        match frame.reply().map_err(unreadable)? {
            Reply::Ack(remark) => {
                if let Some(remark) = remark {
                    debug!(remark, "the kernel remarks on a change");
                }
                answers.push((frame.sequence, None));
            }
            Reply::Refused(refusal) => answers.push((frame.sequence, Some(refusal.into()))),
            _ => {}
        }
    }
    Ok(answers)
}

/// Ops about objects that go with their link.
const fn deletes(op: &Op) -> bool {
    match op {
        Op::DeleteLink(_)
        | Op::DeleteAddress(_)
        | Op::DeleteNeighbour(_)
        | Op::DeleteFdb(..)
        | Op::DeleteRoute(..) => true,
        Op::CreateLink(..)
        | Op::SetLink(..)
        | Op::AddAddress(_)
        | Op::SetNeighbour(..)
        | Op::SetFdb(..)
        | Op::SetRoute(..) => false,
    }
}

/// In what a link differs that cannot be changed.
fn difference(wanted: &Link, underlay: Option<IfIndex>, found: &LinkRecord) -> Option<&'static str> {
    let mut wanted = wanted.clone();
    if let (LinkKind::Vxlan(wanted), LinkKind::Vxlan(is)) = (&mut wanted.kind, &found.link.kind) {
        if wanted.lower.is_some() && found.underlay != underlay {
            return Some("underlay interface");
        }
        if wanted.port == 0 {
            wanted.port = is.port;
        }
    }
    plan::mismatch(&wanted, &found.link)
}

/// What is left to set after creation: alias and `up`, which creation does not take (rtnl_create_link in the
/// kernel), and everything that can be changed if the link was there before.
fn remaining(wanted: &Link, found: &LinkRecord, existed: bool) -> LinkChange {
    let is = &found.link;
    let mut change = LinkChange {
        alias: wanted.alias.clone().filter(|_| wanted.alias != is.alias),
        up: (wanted.up != is.up).then_some(wanted.up),
        ..LinkChange::default()
    };
    if existed {
        change.mtu = (wanted.mtu > 0 && wanted.mtu != is.mtu).then_some(wanted.mtu);
        change.mac = wanted.mac.filter(|_| wanted.mac != is.mac);
        if let (LinkKind::Vxlan(wanted), LinkKind::Vxlan(is)) = (&wanted.kind, &is.kind) {
            change.learning = (wanted.learning != is.learning).then_some(wanted.learning);
        }
    }
    change
}

/// A router advertisement that reached a tunnel device would give it routes and addresses of another network.
/// In a container without privileges /proc/sys is read-only, and there is no such file without IPv6.
fn ignore_router_advertisements(name: &LinkName) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
    if let Err(error) = std::fs::write(&path, "0") {
        debug!(link = %name, %error, "could not turn off router advertisements");
    }
}
