//! The loop on a fake kernel: what it does when leases change, operations fail and others meddle.

use super::*;
use crate::agent;
use crate::claim::Own;
use crate::cli::NodeOptions;
use crate::effector::Effector as _;
use crate::firewall;
use crate::pulse::Pulse;
use crate::status::{History, Report};
use crate::store::Change;
use crate::store::watch::channel as store_channel;
use crate::testing::contract;
use crate::testing::kernel::FakeKernel;
use flannel_core::claim::{OwnRecord, Wanted};
use flannel_core::cluster::{GRACE, PEER_GRACE};
use flannel_core::dataplane::{Dataplane, RouteTarget};
use flannel_core::desired::NexthopThreshold;
use flannel_core::lease::{LeaseAttrs, Revision};
use flannel_core::select::Criteria;
use flannel_core::store::{Grant, Listing, OwnNode, Prescribed};
use flannel_core::subnet_env::SubnetEnv;
use nix::errno::Errno;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

mod agents;
mod nexthops;
mod obstacles;
mod prescribed;

const CONFIG: &str = r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// A running loop and the other ends of its channels.
pub(super) struct Lab {
    pub(super) kernel: FakeKernel,
    store: mpsc::Sender<Update>,
    claim: watch::Sender<ClaimState>,
    attrs: watch::Receiver<Option<Wanted>>,
    record: watch::Receiver<Option<OwnRecord>>,
    pub(super) report: watch::Receiver<Report>,
    firewall: watch::Receiver<Option<firewall::Desired>>,
    env: watch::Receiver<Option<SubnetEnv>>,
    memory: watch::Receiver<Memory>,
    history: watch::Receiver<History>,
    views: mpsc::Sender<ViewRequest>,
    pulse: Arc<Pulse>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    revision: i64,
}

impl Lab {
    fn start(kernel: &FakeKernel, config: &str, remembered: &[Record]) -> Self {
        Self::start_with(kernel, config, remembered, agent::built_in())
    }

    pub(super) fn start_with(
        kernel: &FakeKernel,
        config: &str,
        remembered: &[Record],
        agents: agent::Factory,
    ) -> Self {
        let facts = {
            let mut kernel = kernel.clone();
            futures_lite(kernel.observe(&BTreeSet::new())).unwrap().facts
        };
        let options = NodeOptions {
            interface: Criteria { names: vec!["eth0".to_owned()], ..Criteria::default() },
            ip_masq: true,
            fully_random: true,
            forward_rules: true,
            blackhole_route: false,
            nexthops: NexthopThreshold(Some(8)),
            ownership: flannel_core::store::Ownership::Claimed,
        };
        let node = Node::new(options, Prescribed::default(), config, &facts).unwrap();
        let outputs = Outputs::default();
        let remembered = Remembered { records: remembered.to_vec(), macs: BTreeMap::new() };
        let agent = Supervisor::new(agents, 7);
        let (store, updates) = store_channel();
        let claim = watch::Sender::new(ClaimState::default());
        let (views, asked) = mpsc::channel(1);
        let pulse = Arc::<Pulse>::default();
        let inputs = Inputs {
            seen: Vec::new(),
            store: updates,
            claim: claim.subscribe(),
            hints: kernel.inbox(),
            views: asked,
            pulse: Arc::clone(&pulse),
        };
        let stop = CancellationToken::new();
        let (attrs, record) = (outputs.attrs.subscribe(), outputs.record.subscribe());
        let (report, firewall) = (outputs.report.subscribe(), outputs.firewall.subscribe());
        let (env, memory) = (outputs.subnet_env.subscribe(), outputs.memory.subscribe());
        let history = outputs.history.subscribe();
        let reconciler = Reconciler::new((kernel.clone(), agent), node, remembered, outputs, || {
            [0x1a, 0x2b, 0x3c, 0x4d, 0x5e, 0x6f]
        });
        #[expect(clippy::disallowed_methods, reason = "a test has no JoinSet of the daemon")]
        let task = tokio::spawn(reconciler.run(inputs, stop.clone()));
        Self {
            kernel: kernel.clone(),
            store,
            claim,
            attrs,
            record,
            report,
            firewall,
            env,
            memory,
            history,
            views,
            pulse,
            stop,
            task,
            revision: 10,
        }
    }

    /// A loop that owns 10.42.1.0/24 and has two peers.
    pub(super) async fn settled() -> Self {
        let mut lab = Self::start(&FakeKernel::new(contract::host()), CONFIG, &[]);
        lab.list(&[own(), peer(2), peer(3)]).await;
        lab.hold("10.42.1.0-24");
        lab.until("both peers are reachable", |plane| routes(plane) == ["10.42.2.0/24", "10.42.3.0/24"])
            .await;
        lab.quiet().await;
        lab.kernel.take_log();
        lab
    }

    async fn list(&mut self, records: &[Record]) {
        self.revision += 1;
        let config = ConfigRecord { text: CONFIG.to_owned(), revision: Revision::new(1) };
        let listing = Listing {
            revision: Revision::new(self.revision),
            config: Some(config),
            records: records.to_vec(),
            ..Listing::default()
        };
        self.store.send(Update::Listing { listing, is_other_store: false }).await.unwrap();
    }

    pub(super) async fn change(&mut self, changes: Vec<Change>) {
        self.revision += 1;
        self.store.send(Update::Changes { revision: Revision::new(self.revision), changes }).await.unwrap();
    }

    fn hold(&self, key: &str) {
        let own = Own {
            subnets: Subnets::parse_key(key).unwrap(),
            attrs: LeaseAttrs::default(),
            expires: None,
            confirmed: true,
            reservation: false,
        };
        self.claim.send_replace(ClaimState { own: Some(own), ..ClaimState::default() });
    }

    /// Waits until the kernel is as condition.
    pub(super) async fn until(&self, what: &str, condition: impl Fn(&Dataplane) -> bool) {
        let reached = async {
            while !condition(&self.kernel.dataplane()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(Duration::from_secs(30), reached).await.is_err() {
            panic!("not reached: {what}; the kernel has {:#?}", self.kernel.dataplane());
        }
    }

    /// Lets everything that is under way end: time passes only when nothing can run.
    pub(super) async fn quiet(&self) {
        tokio::time::sleep(Duration::from_secs(2)).await;
    }

    /// Waits until peers whose leases were deleted by now are removed.
    pub(super) async fn until_grace_ends(&self) {
        tokio::time::sleep(PEER_GRACE + Duration::from_secs(1)).await;
    }

    async fn view(&self) -> View {
        let (sender, receiver) = oneshot::channel();
        self.views.send(sender).await.unwrap();
        receiver.await.unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(Duration::from_secs(1), self.task).await.expect("the loop stops at once").unwrap();
    }
}

/// Runs a future of the fake kernel that never waits.
fn futures_lite<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the fake kernel waits"),
    }
}

fn record(key: &str, public_ip: &str, mac: &str) -> Record {
    let value = format!(
        r#"{{"PublicIP":"{public_ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    );
    Record {
        key: key.to_owned(),
        value: value.into_bytes(),
        revision: Revision::new(5),
        grant: Some(Grant(1)),
        fault: None,
        node: None,
    }
}

fn own() -> Record {
    record("10.42.1.0-24", "192.168.50.1", "1a:2b:3c:4d:5e:6f")
}

pub(super) fn peer(number: u8) -> Record {
    record(
        &format!("10.42.{number}.0-24"),
        &format!("192.168.50.{number}"),
        &format!("aa:aa:aa:aa:aa:{number:02x}"),
    )
}

fn delete(key: &str) -> Change {
    Change::Delete { key: key.to_owned() }
}

/// Destinations that go through the tunnel.
fn routes(plane: &Dataplane) -> Vec<String> {
    plane
        .routes
        .iter()
        .filter(|(_, route)| matches!(&route.target, RouteTarget::Via { .. }))
        .map(|(key, _)| key.destination.to_string())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_start_publishes_attributes_and_sets_routes_with_the_lease() {
    let kernel = FakeKernel::new(contract::host());
    let mut lab = Lab::start(&kernel, CONFIG, &[]);
    lab.list(&[peer(2)]).await;
    let attrs = lab.attrs.wait_for(Option::is_some).await.unwrap().clone().unwrap().attrs;
    assert_eq!(
        attrs.to_json(),
        String::from_utf8(own().value).unwrap(),
        "the address of the new device is published before it is there"
    );
    lab.quiet().await;
    assert!(kernel.take_log().is_empty(), "nothing is done without a lease");
    lab.hold("10.42.1.0-24");
    lab.until("the peer is reachable", |plane| routes(plane) == ["10.42.2.0/24"]).await;
    lab.report.wait_for(|report| report.converged && report.peers.total == 1).await.unwrap();
    assert!(lab.firewall.borrow().is_some());
    let env = lab.env.borrow().unwrap().to_string();
    assert!(env.contains("FLANNEL_SUBNET=10.42.1.1/24\n") && env.contains("FLANNEL_MTU=1450\n"), "{env}");
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_change_applies_only_its_own_operations() {
    let mut lab = Lab::settled().await;
    lab.kernel.fail_observations(1000);
    lab.change(vec![Change::Put(peer(4))]).await;
    lab.until("the new peer is reachable", |plane| routes(plane).contains(&"10.42.4.0/24".to_owned())).await;
    let log = lab.kernel.take_log();
    assert_eq!(log.len(), 3, "neighbour, FDB entry and route: {log:#?}");
    // Its address moves: only the FDB entry changes.
    lab.change(vec![Change::Put(record("10.42.4.0-24", "192.168.50.44", "aa:aa:aa:aa:aa:04"))]).await;
    lab.quiet().await;
    let log = lab.kernel.take_log();
    assert!(log.iter().all(|op| op.starts_with("fdb ")), "{log:#?}");
    let entry = lab.kernel.dataplane().fdb[&contract::fdb("flannel.1", "aa:aa:aa:aa:aa:04")].clone();
    assert_eq!(entry.destinations, [contract::ip("192.168.50.44")]);
    lab.change(vec![delete("10.42.4.0-24")]).await;
    lab.until_grace_ends().await;
    assert_eq!(routes(&lab.kernel.dataplane()), ["10.42.2.0/24", "10.42.3.0/24"]);
    assert_eq!(lab.kernel.take_log().len(), 3);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn leases_that_share_addresses_for_a_moment_leave_the_older_one_complete() {
    let mut lab = Lab::settled().await;
    let right = lab.kernel.dataplane();
    let inside = record("10.42.2.0-26", "192.168.50.7", "aa:aa:aa:aa:aa:07");
    lab.change(vec![Change::Put(inside), delete("10.42.2.0-26")]).await;
    lab.until_grace_ends().await;
    assert_eq!(lab.kernel.dataplane(), right);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn changes_of_other_programs_are_repaired() {
    let lab = Lab::settled().await;
    let right = lab.kernel.dataplane();
    lab.kernel.meddle(|plane| {
        plane.routes.remove(&contract::key("10.42.2.0/24"));
        plane.fdb.clear();
        plane.routes.insert(contract::key("10.42.99.0/24"), contract::via("10.42.99.0", "flannel.1", true));
    });
    lab.until("all is as before", |plane| *plane == right).await;
    // The device goes, and all that is on it.
    lab.kernel.meddle(|plane| {
        plane.links.remove(&contract::name("flannel.1"));
        plane.addresses.retain(|key, _| key.link != contract::name("flannel.1"));
        plane.neighbours.clear();
        plane.fdb.clear();
        plane.routes.retain(|_, route| route.target.link() != Some(&contract::name("flannel.1")));
    });
    lab.until("all is as before", |plane| *plane == right).await;
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_malformed_record_is_reported_at_once() {
    let mut lab = Lab::settled().await;
    lab.kernel.fail_observations(1000);
    let broken = Record { value: b"{".to_vec(), ..peer(3) };
    lab.change(vec![Change::Put(record("rubbish", "192.168.50.9", "")), Change::Put(broken)]).await;
    lab.until("only the readable peer is reachable", |plane| routes(plane) == ["10.42.2.0/24"]).await;
    let named = |report: &Report, id| report.conditions.contains_key(id);
    let before = Instant::now();
    lab.report.wait_for(|report| named(report, "rubbish") && named(report, "10.42.3.0-24")).await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(1), "no full round may be needed");
    lab.change(vec![delete("rubbish"), Change::Put(peer(3))]).await;
    lab.report.wait_for(|report| !named(report, "rubbish") && !named(report, "10.42.3.0-24")).await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(1), "no full round may be needed");
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_operation_is_retried_and_does_not_stop_others() {
    let mut lab = Lab::settled().await;
    lab.kernel.fail_op(0, Errno::ENOBUFS);
    lab.change(vec![Change::Put(peer(4)), Change::Put(peer(5))]).await;
    let all = ["10.42.2.0/24", "10.42.3.0/24", "10.42.4.0/24", "10.42.5.0/24"];
    lab.until("both new peers are reachable", |plane| routes(plane) == all && plane.neighbours.len() == 4)
        .await;
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_always_fails_does_not_delay_other_peers() {
    let kernel = FakeKernel::new(contract::host());
    let mut lab = Lab::start(&kernel, CONFIG, &[]);
    // Ops 0 and 1 make the device and its address, 2 is the first of a peer.
    for round in 0..50 {
        kernel.fail_op(2 + round * 2, Errno::EPERM);
    }
    lab.list(&[own(), peer(2), peer(3)]).await;
    lab.hold("10.42.1.0-24");
    lab.report.wait_for(|report| report.converged).await.unwrap();
    assert!(kernel.dataplane().links.contains_key(&contract::name("flannel.1")));
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_config_is_not_stored_for_the_next_start() {
    let mut lab = Lab::settled().await;
    let memory = lab.memory.borrow().config.clone().unwrap();
    assert_eq!(memory.text, CONFIG);
    let refused = ConfigRecord { text: "{".to_owned(), revision: Revision::new(99) };
    lab.change(vec![Change::Config(Some(refused)), Change::Put(peer(4))]).await;
    lab.report.wait_for(|report| report.conditions.contains_key("config")).await.unwrap();
    lab.quiet().await;
    assert_eq!(lab.memory.borrow().config.clone().unwrap().text, CONFIG);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_kernel_is_reported_until_it_is_readable() {
    let mut lab = Lab::settled().await;
    lab.kernel.fail_observations(3);
    lab.kernel.meddle(|plane| plane.fdb.clear());
    lab.report.wait_for(|report| report.conditions.contains_key("kernel")).await.unwrap();
    lab.until("the entries are back", |plane| plane.fdb.len() == 2).await;
    lab.report.wait_for(|report| report.conditions.is_empty() && report.converged).await.unwrap();
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn peers_of_a_wiped_store_are_kept_for_the_grace_period() {
    let mut lab = Lab::settled().await;
    let before = lab.record.borrow_and_update().clone().unwrap();
    lab.list(&[]).await;
    lab.quiet().await;
    assert_eq!(routes(&lab.kernel.dataplane()), ["10.42.2.0/24", "10.42.3.0/24"]);
    let told = lab.record.borrow_and_update().clone().unwrap();
    let listings = before.listings + 1;
    assert_eq!((told.record, told.listings), (None, listings), "the claim learns that its record is gone");
    lab.change(vec![Change::Put(own()), Change::Put(peer(2))]).await;
    tokio::time::sleep(GRACE).await;
    lab.until("the peer that did not come back is gone", |plane| routes(plane) == ["10.42.2.0/24"]).await;
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_a_lease_is_kept_for_a_short_grace_period() {
    let mut lab = Lab::settled().await;
    // Deleted and acquired again: nothing happens in the kernel.
    lab.change(vec![delete("10.42.2.0-24")]).await;
    tokio::time::sleep(PEER_GRACE / 2).await;
    assert_eq!(lab.view().await.kept.len(), 1);
    lab.change(vec![Change::Put(peer(2))]).await;
    tokio::time::sleep(PEER_GRACE * 2).await;
    assert_eq!(lab.kernel.take_log(), [""; 0]);
    // It does not return, and others change meanwhile.
    lab.change(vec![delete("10.42.2.0-24")]).await;
    lab.change(vec![Change::Put(peer(4))]).await;
    tokio::time::sleep(PEER_GRACE - Duration::from_secs(1)).await;
    assert_eq!(routes(&lab.kernel.dataplane()), ["10.42.2.0/24", "10.42.3.0/24", "10.42.4.0/24"]);
    assert_eq!(lab.report.borrow().peers.kept, 1);
    lab.quiet().await;
    assert_eq!(routes(&lab.kernel.dataplane()), ["10.42.3.0/24", "10.42.4.0/24"]);
    let report = lab.report.borrow().clone();
    assert_eq!((report.peers.kept, report.peers.total, report.allocation[0].used), (0, 2, 3));
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_malformed_record_does_not_affect_other_peers() {
    let mut lab = Lab::settled().await;
    let mut bad = peer(4);
    bad.value =
        br#"{"PublicIP":"192.168.50.4","BackendType":"vxlan","BackendData":{"VtepMAC":"x"}}"#.to_vec();
    lab.change(vec![Change::Put(bad), Change::Put(peer(5))]).await;
    lab.report.wait_for(|report| report.conditions.contains_key("10.42.4.0-24")).await.unwrap();
    assert!(routes(&lab.kernel.dataplane()).contains(&"10.42.5.0/24".to_owned()));
    lab.change(vec![Change::Put(peer(4))]).await;
    lab.report.wait_for(|report| report.conditions.is_empty()).await.unwrap();
    assert!(routes(&lab.kernel.dataplane()).contains(&"10.42.4.0/24".to_owned()));
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_had_a_config_is_not_wiped() {
    let kernel = FakeKernel::new(contract::host());
    let mut lab = Lab::start(&kernel, CONFIG, &[]);
    let empty =
        Listing { revision: Revision::new(1), config: None, records: Vec::new(), ..Listing::default() };
    lab.store.send(Update::Listing { listing: empty, is_other_store: false }).await.unwrap();
    let config = ConfigRecord { text: CONFIG.to_owned(), revision: Revision::new(2) };
    lab.change(vec![Change::Config(Some(config)), Change::Put(own()), Change::Put(peer(2))]).await;
    lab.hold("10.42.1.0-24");
    lab.until("the peer is reachable", |plane| routes(plane) == ["10.42.2.0/24"]).await;
    lab.change(vec![delete("10.42.2.0-24")]).await;
    lab.until("the peer that left is gone", |plane| routes(plane) == [""; 0]).await;
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_config_is_applied_if_pods_can_keep_running() {
    let mut lab = Lab::settled().await;
    let config = |text: &str, revision| {
        Change::Config(Some(ConfigRecord { text: text.to_owned(), revision: Revision::new(revision) }))
    };
    let smaller = r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","MTU":1400}}"#;
    lab.change(vec![config(smaller, 20)]).await;
    lab.until("the device has the new MTU", |plane| plane.links[&contract::name("flannel.1")].mtu == 1350)
        .await;
    lab.env.wait_for(|env| env.is_some_and(|env| env.mtu == 1350)).await.unwrap();
    for refused in [
        r#"{"Network":"10.43.0.0/16","Backend":{"Type":"vxlan"}}"#,
        r#"{"Network":"10.42.0.0/16","Backend":{"Type":"host-gw"}}"#,
        r#"{"Network":"10.42.0.0/16","Backend":{"Type":"wireguard"}}"#,
        r#"{"Network":"10.42.0.0/16","SubnetLen":26,"Backend":{"Type":"vxlan"}}"#,
        r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","VNI":7}}"#,
        "{",
    ] {
        let revision = lab.revision + 100;
        lab.change(vec![config(refused, revision)]).await;
        lab.report.wait_for(|report| report.conditions.contains_key("config")).await.unwrap();
        assert_eq!(routes(&lab.kernel.dataplane()), ["10.42.2.0/24", "10.42.3.0/24"], "{refused}");
        lab.change(vec![config(smaller, revision + 1)]).await;
        lab.report.wait_for(|report| report.conditions.is_empty()).await.unwrap();
    }
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_subnet_replaces_all_objects_of_the_old_one() {
    let mut lab = Lab::settled().await;
    let mut moved = own();
    moved.key = "10.42.7.0-24".to_owned();
    let taken = record("10.42.1.0-24", "192.168.50.9", "aa:aa:aa:aa:aa:09");
    lab.change(vec![Change::Put(taken), Change::Put(moved)]).await;
    lab.hold("10.42.7.0-24");
    lab.until("the old subnet is a peer's", |plane| {
        routes(plane) == ["10.42.1.0/24", "10.42.2.0/24", "10.42.3.0/24"]
            && plane.addresses.contains_key(&contract::address("flannel.1", "10.42.7.0/32"))
            && !plane.addresses.contains_key(&contract::address("flannel.1", "10.42.1.0/32"))
    })
    .await;
    lab.env
        .wait_for(|env| env.is_some_and(|env| env.to_string().contains("FLANNEL_SUBNET=10.42.7.1/24")))
        .await
        .unwrap();
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_without_a_store_uses_the_state_directory() {
    let kernel = FakeKernel::new(contract::host());
    let remembered: Vec<Record> = [own(), peer(2), peer(3)].into();
    let mut lab = Lab::start(&kernel, CONFIG, &remembered);
    lab.hold("10.42.1.0-24");
    lab.until("remembered peers are reachable", |plane| routes(plane) == ["10.42.2.0/24", "10.42.3.0/24"])
        .await;
    lab.report.wait_for(|report| report.converged && report.peers_known).await.unwrap();
    // A peer that joined in the last moment of the last run is in the kernel but not remembered: it stays.
    let joined = contract::via("10.42.9.0", "flannel.1", true);
    kernel.meddle(|plane| drop(plane.routes.insert(contract::key("10.42.9.0/24"), joined)));
    lab.quiet().await;
    assert!(routes(&kernel.dataplane()).contains(&"10.42.9.0/24".to_owned()));
    // The store is back, and one peer has left meanwhile.
    lab.list(&[own(), peer(2)]).await;
    lab.until("the peer that left is gone", |plane| routes(plane) == ["10.42.2.0/24"]).await;
    lab.end().await;
}

/// The next start repairs the state, whenever the crash occurred.
#[tokio::test(start_paused = true)]
async fn the_next_start_repairs_a_crash_after_any_operation() {
    let whole = Lab::settled().await;
    let right = whole.kernel.dataplane();
    whole.end().await;
    for done in 0..9 {
        let kernel = FakeKernel::new(contract::host());
        for nth in done..40 {
            kernel.fail_op(nth, Errno::ENOBUFS);
        }
        let mut lab = Lab::start(&kernel, CONFIG, &[]);
        lab.list(&[own(), peer(2), peer(3)]).await;
        lab.hold("10.42.1.0-24");
        while kernel.take_log().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        lab.end().await;

        let after = FakeKernel::new(kernel.dataplane());
        let mut lab = Lab::start(&after, CONFIG, &[]);
        lab.list(&[own(), peer(2), peer(3)]).await;
        lab.hold("10.42.1.0-24");
        lab.until("all is right", |plane| *plane == right).await;
        lab.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_interrupts_a_round() {
    let lab = Lab::settled().await;
    lab.kernel.hang(true);
    lab.kernel.meddle(|plane| plane.fdb.clear());
    lab.quiet().await;
    lab.end().await;
}

/// Whoever asks shares what the loop has, and a change of leases meanwhile does not reach what was given away.
#[tokio::test(start_paused = true)]
async fn a_view_is_consistent() {
    let mut lab = Lab::settled().await;
    let before = lab.view().await;
    let desired = before.assembly.as_ref().unwrap().dataplane().clone();
    assert!(before.changed.is_empty(), "leases of the first listing have not changed");
    lab.change(vec![Change::Put(peer(4))]).await;
    lab.quiet().await;
    let after = lab.view().await;
    assert_eq!(*before.assembly.unwrap().dataplane(), desired);
    assert_ne!(*after.assembly.unwrap().dataplane(), desired);
    assert!(after.version > before.version);
    assert_eq!(after.changed.len(), 1);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn rounds_are_counted_by_result() {
    let mut lab = Lab::settled().await;
    let history = lab.history.borrow().clone();
    assert!(history.last_success_at_unix_seconds.is_some() && history.failing.is_empty());
    assert_eq!(history.repairs.values().sum::<u64>(), 0);
    assert_eq!(lab.report.borrow().allocation[0].used, 3);
    lab.change(vec![Change::Put(peer(4))]).await;
    lab.quiet().await;
    let changed = lab.history.borrow().clone();
    let round = changed.last_lease_change.clone().unwrap();
    assert_eq!((round.reason.as_str(), round.set, round.deleted, round.failed), ("lease-change", 3, 0, 0));
    assert_eq!(changed.by_reason[&Reason::LeaseChange], 1);
    assert_eq!(lab.report.borrow().allocation[0].used, 4);
    lab.change(vec![delete("10.42.4.0-24"), delete("10.42.3.0-24")]).await;
    lab.until_grace_ends().await;
    assert_eq!(lab.history.borrow().last_lease_change.as_ref().unwrap().deleted, 6);
    assert_eq!(lab.report.borrow().allocation[0].used, 2);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_hangs_does_not_respond_to_the_watchdog() {
    let lab = Lab::settled().await;
    let limit = Duration::from_secs(100);
    lab.pulse.request.notify_one();
    timeout(limit, lab.pulse.response.notified()).await.expect("a response of the idle loop");
    lab.kernel.hang(true);
    lab.kernel.meddle(|plane| plane.routes.clear());
    tokio::time::sleep(Duration::from_secs(1)).await;
    lab.pulse.request.notify_one();
    assert!(timeout(limit, lab.pulse.response.notified()).await.is_err(), "the round hangs");
}

/// Changed leases are kept for the next start a little later, many at once, and at the latest when the loop ends.
#[tokio::test(start_paused = true)]
async fn changed_leases_are_remembered_soon() {
    let mut lab = Lab::settled().await;
    let count = |lab: &Lab| lab.memory.borrow().leases.as_ref().map_or(0, |leases| leases.len());
    assert_eq!(count(&lab), 3);
    for number in 4..7 {
        lab.change(vec![Change::Put(peer(number))]).await;
    }
    lab.until("all peers are reachable", |plane| routes(plane).len() == 5).await;
    assert_eq!(count(&lab), 3);
    lab.quiet().await;
    assert_eq!(count(&lab), 6);
    lab.change(vec![Change::Put(peer(7))]).await;
    lab.until("the last one is reachable", |plane| routes(plane).len() == 6).await;
    lab.stop.cancel();
    (&mut lab.task).await.unwrap();
    assert_eq!(count(&lab), 7);
}
