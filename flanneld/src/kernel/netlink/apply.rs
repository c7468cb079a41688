//! Ops as batches of netlink messages.
//!
//! The kernel processes the messages of one datagram in order and answers each. An op that creates or deletes a link
//! is sent alone, because the index of a link is known only afterwards. Indices are looked up when an op needs them and
//! are not kept beyond the call.

use flannel_core::dataplane::{Link, LinkChange, NexthopId, Op, Route, RouteTarget};
use flannel_core::exchange::Changes;
use flannel_core::link::{IfIndex, LinkName};
use flannel_core::message::link::LinkRecord;
use flannel_core::message::{Request, address, fdb, link, neighbour, nexthop, route};
use flannel_core::status::{Action, classify};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use tracing::debug;

use crate::kernel::conn::Connection;
use crate::kernel::error::{KernelError, Refused, is_settled};

/// Few enough that the answers fit into the default receive buffer (212,992 bytes, of which an answer takes about one
/// KiB) if the host allows no larger one, and that the thread is blocked for some milliseconds only.
const BATCH_MESSAGES: usize = 64;

/// The results of ops that have one.
type Results = Vec<Option<Result<(), KernelError>>>;

/// Applies the ops. Returns one result for each, and the connection if it is still usable.
pub(super) async fn run(
    connection: Connection,
    ops: &[Op],
) -> (Vec<Result<(), KernelError>>, Option<Connection>) {
    let mut results = Vec::new();
    results.resize_with(ops.len(), || None);
    let (indices, refused, batch) = Default::default();
    let mut application = Application { connection, ops, results, indices, refused, batch };
    match application.run().await {
        Ok(()) => {
            let results = application.results.into_iter().map(|result| result.unwrap_or(Ok(())));
            (results.collect(), Some(application.connection))
        }
        Err(error) => (give_up(ops, application.results, error), None),
    }
}

/// Results of ops after the connection broke.
pub(super) fn give_up(ops: &[Op], results: Results, error: KernelError) -> Vec<Result<(), KernelError>> {
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
    connection: Connection,
    ops: &'a [Op],
    results: Results,
    /// Indices of links that were looked up; `None` if there is no such link.
    indices: BTreeMap<LinkName, Option<IfIndex>>,
    /// Nexthop objects that could not be added: what has their numbers is unmanaged, and no route of ours may refer to it.
    refused: BTreeSet<NexthopId>,
    batch: Batch,
}

/// Requests to be sent together.
#[derive(Default)]
struct Batch {
    requests: Vec<Request>,
    /// The place of the op of each request.
    places: Vec<usize>,
    /// Some of them add nexthop objects.
    adds_nexthops: bool,
}

impl Application<'_> {
    /// Applies all ops. Errors here are those of the connection; those of ops are in the results.
    async fn run(&mut self) -> Result<(), KernelError> {
        let ops = self.ops;
        for (place, op) in ops.iter().enumerate() {
            let refers = matches!(op, Op::SetRoute(_, route) if route.target.object().is_some());
            let alone = matches!(op, Op::CreateLink(..) | Op::DeleteLink(_));
            if alone || self.batch.places.len() >= BATCH_MESSAGES || refers && self.batch.adds_nexthops {
                self.flush().await?;
            }
            self.batch.adds_nexthops |= matches!(op, Op::AddNexthop(..));
            match op {
                Op::CreateLink(name, link) => {
                    self.indices.remove(name);
                    let result = self.create_link(op, name, link).await;
                    if matches!(result, Err(KernelError::OtherLink { .. })) {
                        // The ops that follow are not for a device of somebody else.
                        self.indices.insert(name.clone(), None);
                    }
                    self.finish(place, result)?;
                }
                _ => match self.requests(op).await {
                    Ok(requests) if requests.is_empty() => self.finish(place, Ok(()))?,
                    Ok(requests) => {
                        self.batch.places.extend(requests.iter().map(|_| place));
                        self.batch.requests.extend(requests);
                    }
                    Err(error) => self.finish(place, Err(error))?,
                },
            }
            if let Op::DeleteLink(name) = op {
                self.flush().await?;
                self.indices.remove(name);
            }
        }
        self.flush().await
    }

    /// Records the result of an op; returns an error if the connection is broken.
    fn finish(&mut self, place: usize, result: Result<(), KernelError>) -> Result<(), KernelError> {
        match result {
            Err(error) if error.breaks_connection() => Err(error),
            result => {
                self.results[place] = Some(result);
                Ok(())
            }
        }
    }

    /// Sends the batch and takes all answers. Other tasks run in between: the kernel answers at once, so without a pause thousands
    /// of operations would keep connections to the store from being served.
    async fn flush(&mut self) -> Result<(), KernelError> {
        let Batch { requests, places, .. } = std::mem::take(&mut self.batch);
        if requests.is_empty() {
            return Ok(());
        }
        let results = self.change(&requests).await?;
        tokio::task::yield_now().await;
        for (place, result) in places.into_iter().zip(results) {
            let result = match result {
                // An op with several requests has failed if one of them has.
                Ok(()) if self.results[place].is_some() => continue,
                Ok(()) => Ok(()),
                Err(cause) => self.refused(&self.ops[place], cause).await,
            };
            self.finish(place, result)?;
        }
        Ok(())
    }

    /// Sends changes in one call; returns the result of each.
    async fn change(&mut self, requests: &[Request]) -> Result<Vec<Result<(), Refused>>, KernelError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let results = self.connection.run(&mut Changes::new(requests)).await?;
        let results = results.into_iter().map(|result| match result {
            Ok(warning) => {
                if let Some(warning) = warning {
                    debug!(warning, "warning from the kernel about a change");
                }
                Ok(())
            }
            Err(refusal) => Err(refusal.into()),
        });
        Ok(results.collect())
    }

    /// Handles the refusal of an op.
    async fn refused(&mut self, op: &Op, cause: Refused) -> Result<(), KernelError> {
        if is_settled(op, cause.errno) {
            return Ok(());
        }
        match (op, cause.errno) {
            // The same route is behind another one with its key, where it has no effect and keeps the kernel from
            // replacing the first one.
            (Op::SetRoute(key, wanted), Errno::EEXIST) => {
                self.single(&Op::DeleteRoute(*key, wanted.clone())).await?;
                self.single(op).await
            }
            // The link has another index since it was looked up, or is gone.
            (_, Errno::ENODEV) if op.link().is_some_and(|name| self.indices.remove(name).is_some()) => {
                self.single(op).await
            }
            _ => {
                if let Op::AddNexthop(id, _) = op {
                    self.refused.insert(*id);
                }
                Err(KernelError::Refused { op: op.to_string(), cause })
            }
        }
    }

    /// Applies one op by itself.
    async fn single(&mut self, op: &Op) -> Result<(), KernelError> {
        let requests = self.requests(op).await?;
        let results = self.change(&requests).await?;
        let error = results.into_iter().filter_map(Result::err).find(|cause| !is_settled(op, cause.errno));
        error.map_or(Ok(()), |cause| Err(KernelError::Refused { op: op.to_string(), cause }))
    }

    /// Creates a link, or adopts an existing one of the same kind, and sets its remaining parameters.
    async fn create_link(&mut self, op: &Op, name: &LinkName, wanted: &Link) -> Result<(), KernelError> {
        let underlay = match wanted.kind.lower() {
            Some(lower) => match self.index(lower).await? {
                Some(index) => Some(index),
                None => return Err(KernelError::NoLink { op: op.to_string(), link: lower.clone() }),
            },
            None => None,
        };
        let request = link::create(name, wanted, underlay)
            .map_err(|cause| KernelError::Inexpressible { op: op.to_string(), cause })?;
        let refusal = self.change(&[request]).await?.into_iter().find_map(Result::err);
        if let Some(cause) = refusal.as_ref().filter(|cause| cause.errno != Errno::EEXIST) {
            return Err(KernelError::Refused { op: op.to_string(), cause: cause.clone() });
        }
        let existed = refusal.is_some();
        let Some(found) = self.look_up(name).await? else {
            let Some(mut cause) = refusal else {
                return Err(KernelError::NoLink { op: op.to_string(), link: name.clone() });
            };
            // Without a link of that name, EEXIST is about one that has the same parameters.
            let links = super::list(&mut self.connection, &link::dump()).await?;
            if let Some(other) = links.iter().find(|other| wanted.kind.excludes(&other.link.kind)) {
                cause.text = format!("the interface {} has the same tunnel parameters", other.name);
            }
            return Err(KernelError::Refused { op: op.to_string(), cause });
        };
        if let Some(difference) = difference(wanted, underlay, &found) {
            return Err(KernelError::OtherLink { op: op.to_string(), difference });
        }
        if found.link.mtu < wanted.mtu && !existed {
            debug!(link = %name, mtu = found.link.mtu, wanted = wanted.mtu, "the kernel limited the mtu to that of the underlay");
        }
        ignore_router_advertisements(name);
        let change = link::change(found.index, &remaining(wanted, &found, existed));
        match self.change(&change).await?.into_iter().find_map(Result::err) {
            Some(cause) => Err(KernelError::Refused { op: op.to_string(), cause }),
            None => Ok(()),
        }
    }

    /// Returns the requests of an op, all of which have to succeed; none if there is nothing to do.
    async fn requests(&mut self, op: &Op) -> Result<Vec<Request>, KernelError> {
        if let Op::SetRoute(_, route) = op
            && route.target.object().is_some_and(|id| self.refused.contains(&id))
        {
            let text = "its nexthop object could not be added".to_owned();
            return Err(KernelError::Refused {
                op: op.to_string(),
                cause: Refused { errno: Errno::EEXIST, text },
            });
        }
        let index = match op.link() {
            None => None,
            Some(name) => match self.index(name).await? {
                Some(index) => Some(index),
                None if classify(op).0 == Action::Delete => return Ok(Vec::new()),
                None => return Err(KernelError::NoLink { op: op.to_string(), link: name.clone() }),
            },
        };
        let requests = match (op, index) {
            (Op::AddNexthop(id, wanted), Some(index)) => {
                nexthop::add(*id, wanted, index).map(|new| vec![new])
            }
            (Op::ReplaceNexthop(id, wanted), Some(index)) => {
                nexthop::replace(*id, wanted, index).map(|new| vec![new])
            }
            (Op::DeleteNexthop(id), _) => Ok(vec![nexthop::delete(*id)]),
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
                let new = address::NewAddress::new(index, key.net).with_broadcast();
                Ok(vec![address::add(&new)])
            }
            (Op::DeleteAddress(key), Some(index)) => Ok(vec![address::delete(index, key.net)]),
            (Op::SetNeighbour(key, mac), Some(index)) => Ok(vec![neighbour::set(index, key.address, *mac)]),
            (Op::DeleteNeighbour(key), Some(index)) => Ok(vec![neighbour::delete(index, key.address)]),
            (Op::SetFdb(key, to), Some(index)) => Ok(vec![fdb::set(index, key.mac, *to)]),
            (Op::DeleteFdb(key, to), Some(index)) => Ok(vec![fdb::delete(index, key.mac, *to)]),
            // `create_link` does this one, and the others name a link.
            (Op::CreateLink(..), _) | (_, None) => Ok(Vec::new()),
        };
        requests.map_err(|cause| KernelError::Inexpressible { op: op.to_string(), cause })
    }

    /// Returns the index of a link.
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
        let get = link::get(name);
        match self.connection.fetch(&get).await? {
            Ok(mut links) => Ok(links.pop()),
            Err(refusal) if refusal.means_absent() => Ok(None),
            Err(refusal) => Err(KernelError::List { what: get.subject().to_owned(), cause: refusal.into() }),
        }
    }
}

/// Returns the parameter in which an existing link differs and that cannot be changed.
fn difference(wanted: &Link, underlay: Option<IfIndex>, found: &LinkRecord) -> Option<&'static str> {
    let lower = wanted.kind.lower().is_some() && found.underlay != underlay;
    wanted.kind.mismatch(&found.link.kind).or(lower.then_some("underlay interface"))
}

/// Returns the remaining change after creation: alias and `up`, which creation does not accept (rtnl_create_link in the
/// kernel), and everything that can be changed if the link existed before.
fn remaining(wanted: &Link, found: &LinkRecord, existed: bool) -> LinkChange {
    let change = wanted.change(&found.link).unwrap_or_default();
    if existed {
        return change;
    }
    LinkChange { alias: change.alias, up: change.up, ..LinkChange::default() }
}

/// Disables router advertisements, which would give a tunnel device routes and addresses of another network. In an
/// unprivileged container /proc/sys is read-only, and without IPv6 there is no such file.
fn ignore_router_advertisements(name: &LinkName) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
    if let Err(error) = std::fs::write(&path, "0") {
        debug!(link = %name, %error, "could not disable router advertisements");
    }
}
