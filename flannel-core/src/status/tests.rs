use super::*;
use crate::backend::Endpoint;
use crate::config::NetworkConfig;
use crate::dataplane::{Dataplane, RouteKey};
use crate::desired::{Assembly, Desired, NextHops, Node};
use crate::external::{ExternalInterface, Method};
use crate::facts::HostFacts;
use crate::family::DualStack;
use crate::lease::{Lease, LeaseAttrs, Revision};
use crate::link::IfIndex;
use crate::plan::{Prune, plan};
use insta::assert_snapshot;
use std::collections::BTreeMap;
use std::sync::Arc;

const FIRST: &str = r#"{"PublicIP":"192.168.50.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0a:00:00:00:00:02"}}"#;
const BAD: &str =
    r#"{"PublicIP":"192.168.50.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1}}"#;
const OTHER: &str = r#"{"PublicIP":"192.168.50.4","PublicIPv6":null,"BackendType":"host-gw"}"#;

fn lease(key: &str, record: &str) -> Arc<Lease> {
    Arc::new(Lease {
        subnets: Subnets::parse_key(key).unwrap(),
        attrs: LeaseAttrs::parse(record.as_bytes()).unwrap(),
        revision: Revision::new(7),
    })
}

/// A node with a healthy peer, a faulty one, and one of another backend.
fn assembly() -> Assembly {
    let config = NetworkConfig::parse(r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap();
    let address = DualStack { v4: Some("192.168.50.1".parse().unwrap()), v6: None };
    let external = ExternalInterface {
        name: "eth0".parse().unwrap(),
        index: IfIndex(2),
        mtu: 1500,
        address,
        public: address,
        method: Method::DefaultRoute,
    };
    let endpoint = Endpoint { mac: "0a:00:00:00:00:01".parse().unwrap(), port: None };
    let node = Node {
        subnets: Subnets::parse_key("10.42.1.0-24").unwrap(),
        external,
        endpoints: DualStack { v4: Some(endpoint), v6: None },
        blackhole: false,
        stranded: BTreeMap::new(),
        next_hops: NextHops::default(),
    };
    let desired = Desired::new(&config, &node, &HostFacts::default()).unwrap();
    let leases = [lease("10.42.2.0-24", FIRST), lease("10.42.3.0-24", BAD), lease("10.42.4.0-24", OTHER)];
    Assembly::new(desired, leases)
}

/// The kernel without the route to the first peer, and with another MAC.
fn broken(assembly: &Assembly) -> Dataplane {
    let mut actual = assembly.dataplane().clone();
    actual.routes.remove(&RouteKey { destination: "10.42.2.0/24".parse().unwrap(), metric: 0 });
    for neighbour in actual.neighbours.values_mut() {
        neighbour.mac = Some("0a:00:00:00:00:99".parse().unwrap());
    }
    actual
}

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

#[test]
fn a_peer_is_in_place_when_the_kernel_has_its_objects() {
    let assembly = assembly();
    let first = Subnets::parse_key("10.42.2.0-24").unwrap();
    let changed = BTreeMap::from([(first, 1_700_000_000)]);
    let peers = peers(&assembly, assembly.dataplane(), &changed, |key| *key == first);
    assert_snapshot!("peers", pretty(&peers));
}

#[test]
fn missing_and_different_objects_are_named() {
    let assembly = assembly();
    let peers = peers(&assembly, &broken(&assembly), &BTreeMap::new(), |_| false);
    let lines: Vec<String> = peers[0]
        .objects
        .iter()
        .map(|object| format!("{} {:?}", object.text, object.state))
        .chain([crate::json::name(&peers[0].state)])
        .collect();
    assert_snapshot!(lines.join("\n"), @r"
    fdb 0a:00:00:00:00:02 dst 192.168.50.2 dev flannel.1 Present
    neigh 10.42.2.0 lladdr 0a:00:00:00:00:02 dev flannel.1 Differs
    route 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink Missing
    incomplete
    ");
}

#[test]
fn objects_and_pending_operations_as_json() {
    let assembly = assembly();
    assert_snapshot!("objects", pretty(&Objects::from(assembly.dataplane())));
    let ops = plan(assembly.dataplane(), &broken(&assembly), Prune::Surplus);
    let diff = Diff { ops: ops.iter().map(PendingOp::from).collect(), removes_surplus: true, settled: true };
    assert_snapshot!("diff", pretty(&diff));
}

/// Everything that is written can be read: flannelctl is built from the same types, but others are not.
#[test]
fn answers_are_read_as_they_were_written() {
    let assembly = assembly();
    let objects = Objects::from(assembly.dataplane());
    let text = serde_json::to_string(&objects).unwrap();
    assert_eq!(serde_json::from_str::<Objects>(&text).unwrap(), objects);
    let peers =
        Peers { peers: peers(&assembly, &Dataplane::default(), &BTreeMap::new(), |_| false), settled: true };
    let text = serde_json::to_string(&peers).unwrap();
    let again: Peers = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
    assert!(again.peers.iter().all(|peer| peer.state != State::InPlace));
    let allocation = Allocation {
        family: "ipv6".to_owned(),
        network: "fd00::/16".parse().unwrap(),
        capacity: 1 << 100,
        used: 3,
    };
    let text = serde_json::to_string(&allocation).unwrap();
    assert_eq!(serde_json::from_str::<Allocation>(&text).unwrap(), allocation);
}
