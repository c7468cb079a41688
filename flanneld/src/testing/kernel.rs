//! A kernel in memory: the model of flannel-core behind the seam, with faults on order. The contract suite of
//! `crate::kernel` holds it against the real one.

use flannel_core::dataplane::{
    Dataplane, Link, Nexthop, Op, PROTOCOL_KERNEL, Route, RouteKey, RouteTarget, model,
};
use flannel_core::facts::{AddressFacts, HostFacts, LinkFacts, RouteFacts};
use flannel_core::hint::Hint;
use flannel_core::link::{IfIndex, LinkName};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::kernel::{Effector, Inbox, KernelError, Observation, Refused};

/// A fake kernel. Clones are the same kernel, so that a test can look and meddle while a daemon runs on it.
#[derive(Clone)]
pub(crate) struct FakeKernel {
    state: Arc<Mutex<State>>,
    inbox: Inbox,
}

struct State {
    dataplane: Dataplane,
    indices: BTreeMap<LinkName, IfIndex>,
    last_index: u32,
    log: Vec<String>,
    /// Errors by the number of the op, counted from the last call of [`FakeKernel::fail_op`].
    failures: BTreeMap<usize, Errno>,
    ops_run: usize,
    failing_observations: usize,
    hangs: bool,
    lacks_nexthops: bool,
}

impl FakeKernel {
    /// A kernel with these objects.
    pub(crate) fn new(host: Dataplane) -> Self {
        let mut state = State {
            dataplane: host,
            indices: BTreeMap::new(),
            last_index: 0,
            log: Vec::new(),
            failures: BTreeMap::new(),
            ops_run: 0,
            failing_observations: 0,
            hangs: false,
            lacks_nexthops: false,
        };
        state.number_links();
        Self { state: Arc::new(Mutex::new(state)), inbox: Inbox::default() }
    }

    /// Where its notifications arrive.
    pub(crate) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// What is there now.
    pub(crate) fn dataplane(&self) -> Dataplane {
        self.lock().dataplane.clone()
    }

    /// Somebody else changes the kernel, which is notified.
    pub(crate) fn meddle(&self, change: impl FnOnce(&mut Dataplane)) {
        let mut state = self.lock();
        change(&mut state.dataplane);
        state.number_links();
        drop(state);
        self.inbox.push([Hint::Overrun]);
    }

    /// The ops that were run since the last call, refused ones too, as text.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().log)
    }

    /// Refuses the `nth` op from now; the next one is 0.
    pub(crate) fn fail_op(&self, nth: usize, errno: Errno) {
        let mut state = self.lock();
        let number = state.ops_run + nth;
        state.failures.insert(number, errno);
    }

    /// Fails the next `count` observations.
    pub(crate) fn fail_observations(&self, count: usize) {
        self.lock().failing_observations = count;
    }

    /// Behaves like a kernel before Linux 5.3.
    pub(crate) fn lack_nexthops(&self) {
        self.lock().lacks_nexthops = true;
    }

    /// Answers nothing any more, or again.
    pub(crate) fn hang(&self, hangs: bool) {
        self.lock().hangs = hangs;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn answer(&self) {
        let hangs = self.lock().hangs;
        if hangs {
            std::future::pending::<()>().await;
        }
    }
}

impl Effector for FakeKernel {
    type Scope = BTreeSet<LinkName>;
    type State = Observation;
    type Op = Op;
    type Error = KernelError;

    async fn observe(&mut self, tunnels: &BTreeSet<LinkName>) -> Result<Observation, KernelError> {
        self.answer().await;
        let mut state = self.lock();
        if state.failing_observations > 0 {
            state.failing_observations -= 1;
            return Err(KernelError::Unsteady { what: "routes".to_owned(), attempts: 1 });
        }
        let facts = state.facts();
        let mut dataplane = state.dataplane.clone();
        dataplane.neighbours.retain(|key, _| tunnels.contains(&key.link));
        dataplane.fdb.retain(|key, _| tunnels.contains(&key.link));
        Ok(Observation { facts, dataplane, has_nexthops: !state.lacks_nexthops })
    }

    async fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        self.answer().await;
        let mut state = self.lock();
        let mut refused = BTreeSet::new();
        let results = ops.iter().map(|op| {
            if let Op::SetRoute(_, route) = op
                && route.target.object().is_some_and(|id| refused.contains(&id))
            {
                return Err(self::refused(op, Errno::EEXIST));
            }
            let result = state.run(op);
            if let (Op::AddNexthop(id, _), Err(_)) = (op, &result) {
                refused.insert(*id);
            }
            result
        });
        results.collect()
    }
}

impl State {
    fn run(&mut self, op: &Op) -> Result<(), KernelError> {
        self.log.push(op.to_string());
        let number = self.ops_run;
        self.ops_run += 1;
        let result = match self.failures.remove(&number) {
            Some(errno) => Err(refused(op, errno)),
            None => self.run_on_model(op),
        };
        self.number_links();
        result
    }

    fn run_on_model(&mut self, op: &Op) -> Result<(), KernelError> {
        use model::Refusal;
        let refusal = match model::apply(&mut self.dataplane, op) {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        match (op, refusal) {
            (Op::CreateLink(name, wanted), Refusal::Exists) => self.take_over(op, name, wanted),
            (_, Refusal::NoDevice) => Err(KernelError::NoLink { op: op.to_string(), link: needed(op) }),
            (_, Refusal::Exists) => Err(refused(op, Errno::EEXIST)),
            (_, Refusal::Invalid) => Err(refused(op, Errno::EINVAL)),
            (_, Refusal::Down) => Err(refused(op, Errno::ENETDOWN)),
            (_, Refusal::Unreachable) => Err(refused(op, Errno::ENETUNREACH)),
        }
    }

    fn take_over(&mut self, op: &Op, name: &LinkName, wanted: &Link) -> Result<(), KernelError> {
        let Some(found) = self.dataplane.links.get(name) else {
            return Err(refused(op, Errno::EEXIST));
        };
        if let Some(difference) = wanted.kind.mismatch(&found.kind) {
            return Err(KernelError::OtherLink { op: op.to_string(), difference });
        }
        match wanted.change(found) {
            Some(change) => self.run_on_model(&Op::SetLink(name.clone(), change.into())),
            None => Ok(()),
        }
    }

    /// Gives new links a number and takes it from those that are gone: a number never comes again.
    fn number_links(&mut self) {
        let links = &self.dataplane.links;
        self.indices.retain(|name, _| links.contains_key(name));
        for name in links.keys() {
            self.indices.entry(name.clone()).or_insert_with(|| {
                self.last_index += 1;
                IfIndex(self.last_index)
            });
        }
    }

    fn facts(&self) -> HostFacts {
        let mut links: Vec<LinkFacts> = self
            .dataplane
            .links
            .iter()
            .map(|(name, link)| LinkFacts {
                index: self.indices[name],
                name: name.clone(),
                mtu: link.mtu,
                up: link.up,
                mac: link.mac,
                master: None,
                addresses: self.addresses(name),
            })
            .collect();
        links.sort_by_key(|link| link.index);
        let routes = self.dataplane.routes.iter();
        let routes = routes.flat_map(|(key, route)| route.each().map(move |route| (key, route)));
        HostFacts { links, routes: routes.filter_map(|(key, route)| self.route(key, route)).collect() }
    }

    fn addresses(&self, link: &LinkName) -> Vec<AddressFacts> {
        let keys = self.dataplane.addresses.keys().filter(|key| key.link == *link);
        let facts = |net| AddressFacts { net, deprecated: false, permanent: true, temporary: false };
        keys.map(|key| facts(key.net)).collect()
    }

    fn route(&self, key: &RouteKey, route: &Route) -> Option<RouteFacts> {
        let gateway = match &route.target {
            RouteTarget::Via { gateway, .. } => Some(*gateway),
            RouteTarget::Link(_) => None,
            RouteTarget::Blackhole | RouteTarget::Other(_) | RouteTarget::Several(_) => return None,
        };
        let link = route.target.link().and_then(|name| self.indices.get(name)).copied();
        let source = self
            .dataplane
            .addresses
            .keys()
            .find(|address| {
                route.protocol == PROTOCOL_KERNEL && address.net.trunc() == key.destination.trunc()
            })
            .map(|address| address.net.addr());
        Some(RouteFacts { destination: key.destination, gateway, link, source, metric: key.metric })
    }
}

fn refused(op: &Op, errno: Errno) -> KernelError {
    KernelError::Refused { op: op.to_string(), cause: Refused { errno, text: String::new() } }
}

/// The link that an op needs.
fn needed(op: &Op) -> LinkName {
    match op {
        Op::CreateLink(name, link) => link.kind.lower().unwrap_or(name).clone(),
        Op::SetLink(name, _) | Op::DeleteLink(name) => name.clone(),
        Op::AddAddress(key) | Op::DeleteAddress(key) => key.link.clone(),
        Op::SetNeighbour(key, _) | Op::DeleteNeighbour(key) => key.link.clone(),
        Op::SetFdb(key, _) | Op::DeleteFdb(key, _) => key.link.clone(),
        Op::DeleteNexthop(_) => unreachable!("it needs no link"),
        Op::AddNexthop(_, Nexthop { target, .. })
        | Op::ReplaceNexthop(_, Nexthop { target, .. })
        | Op::SetRoute(_, Route { target, .. })
        | Op::DeleteRoute(_, Route { target, .. }) => {
            target.link().cloned().expect("only a route with a link can lack it")
        }
    }
}

mod tests;
