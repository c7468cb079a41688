use super::*;
use crate::backend::{Via, is_device};
use crate::config::NetworkConfig;
use crate::dataplane::model::{self, Refusal};
use crate::dataplane::{Address, AddressKey, Op, PROTOCOL_BOOT, PROTOCOL_KERNEL, RouteTarget};
use crate::desired::{Assembly, Desired, NextHops, Node};
use crate::external::{ExternalInterface, Method};
use crate::facts::{AddressFacts, HostFacts, LinkFacts, RouteFacts};
use crate::family::DualStack;
use crate::lease::{Lease, Revision, Subnets};
use crate::link::IfIndex;
use crate::owned::{Scope, owned};
use crate::plan::{Prune, plan};
use insta::assert_snapshot;
use proptest::prelude::*;
use std::collections::BTreeMap;

const DIRECT: &str = r#"{"Type": "ipip", "DirectRouting": true}"#;
const TUNNEL: &str = r#"{"Type": "ipip"}"#;
const NETWORK: &str = "10.42.0.0/16";

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn config(families: &str, backend: &str) -> NetworkConfig {
    let (v4, v6) = (families.contains('4'), families.contains('6'));
    NetworkConfig::parse(&format!(
        r#"{{"Network": "{NETWORK}", "IPv6Network": "fd00:10:244::/48",
            "EnableIPv4": {v4}, "EnableIPv6": {v6}, "Backend": {backend}}}"#
    ))
    .unwrap()
}

fn external() -> ExternalInterface {
    let address = DualStack { v4: Some(ip("192.168.50.1")), v6: Some(ip("fd50::1")) };
    ExternalInterface {
        name: name("eth0"),
        index: IfIndex(2),
        mtu: 1500,
        address,
        public: address,
        method: Method::DefaultRoute,
    }
}

fn subnets(node: u8) -> Subnets {
    Subnets {
        v4: Some(format!("10.42.{node}.0/24").parse().unwrap()),
        v6: Some(format!("fd00:10:244:{node}::/64").parse().unwrap()),
    }
}

fn facts() -> HostFacts {
    let address =
        AddressFacts { net: net("192.168.50.1/24"), deprecated: false, permanent: true, temporary: false };
    let route = |destination, gateway: Option<&str>| RouteFacts {
        destination: net(destination),
        gateway: gateway.map(ip),
        link: Some(IfIndex(2)),
        source: None,
        metric: 0,
    };
    HostFacts {
        links: vec![LinkFacts {
            index: IfIndex(2),
            name: name("eth0"),
            mtu: 1500,
            up: true,
            mac: None,
            master: None,
            addresses: vec![address],
        }],
        routes: vec![route("0.0.0.0/0", Some("192.168.50.254")), route("192.168.50.0/24", None)],
    }
}

fn desired_on(external: ExternalInterface, families: &str, backend: &str) -> Desired {
    let node = Node {
        subnets: subnets(1),
        external,
        endpoints: DualStack::default(),
        blackhole: false,
        stranded: BTreeMap::new(),
        next_hops: NextHops::default(),
    };
    Desired::new(&config(families, backend), &node, &facts()).unwrap()
}

fn desired(families: &str, backend: &str) -> Desired {
    desired_on(external(), families, backend)
}

fn lease(node: u8, address: &str) -> Lease {
    Lease {
        subnets: subnets(node),
        attrs: LeaseAttrs {
            public_ip: Some(address.parse().unwrap()),
            backend_type: "ipip".to_owned(),
            ..LeaseAttrs::default()
        },
        revision: Revision::new(1),
    }
}

fn peers() -> [Lease; 3] {
    [lease(2, "192.168.50.2"), lease(3, "192.168.50.3"), lease(4, "203.0.113.4")]
}

fn ipip(local: Option<&str>, remote: Option<&str>) -> LinkKind {
    LinkKind::Ipip(Ipip { local: local.map(ip), remote: remote.map(ip) })
}

fn link(kind: LinkKind) -> Link {
    Link { kind, mtu: 1480, mac: None, up: true, alias: None }
}

/// A host with `tunl0`, which the kernel makes when it loads the module.
fn host() -> Dataplane {
    let mut host = Dataplane::default();
    host.links.insert(name("eth0"), Link { mtu: 1500, ..link(LinkKind::Other(String::new())) });
    host.links.insert(name("tunl0"), Link { up: false, ..link(ipip(None, None)) });
    host.addresses.insert(AddressKey { link: name("eth0"), net: net("192.168.50.1/24") }, Address);
    let connected = Route { target: RouteTarget::Link(name("eth0")), protocol: PROTOCOL_KERNEL };
    host.routes.insert(RouteKey::owned(net("192.168.50.0/24")), connected);
    host
}

fn round(kernel: &mut Dataplane, desired: &Dataplane) -> Vec<Op> {
    let ours = owned(kernel.clone(), &Scope { desired, networks: &[net(NETWORK)] });
    let ops = plan(desired, &ours, Prune::Surplus);
    for op in &ops {
        assert_eq!(model::apply(kernel, op), Ok(()), "{op}");
    }
    ops
}

fn render(ops: &[Op]) -> String {
    ops.iter().map(|op| format!("{op}\n")).collect()
}

#[test]
fn golden_state() {
    let (full, errors) = desired("4", TUNNEL).full(&peers());
    assert_eq!(errors, []);
    assert_snapshot!(render(&round(&mut host(), &full)), @r#"
    link add flannel.ipip mtu 1480 up alias "flannel 10.42.0.0/16" type ipip remote any local 192.168.50.1 nopmtudisc
    addr add 10.42.1.0/32 dev flannel.ipip
    route replace 10.42.2.0/24 via 192.168.50.2 dev flannel.ipip onlink
    route replace 10.42.3.0/24 via 192.168.50.3 dev flannel.ipip onlink
    route replace 10.42.4.0/24 via 203.0.113.4 dev flannel.ipip onlink
    "#);
}

#[test]
fn direct_routing_bypasses_the_tunnel_on_the_link() {
    let mut kernel = host();
    round(&mut kernel, &desired("4", TUNNEL).full(&peers()).0);
    let ops = round(&mut kernel, &desired("4", DIRECT).full(&peers()).0);
    assert_snapshot!(render(&ops), @r"
    route replace 10.42.2.0/24 via 192.168.50.2 dev eth0 onlink
    route replace 10.42.3.0/24 via 192.168.50.3 dev eth0 onlink
    ");
    assert!(desired("4", DIRECT).depends_on_routes());
    assert!(!desired("4", TUNNEL).depends_on_routes());
    assert_eq!(
        config("46", TUNNEL).obstacles(&config("46", DIRECT), Some(&subnets(1))),
        Vec::<String>::new()
    );
}

#[test]
fn the_local_address_is_that_of_the_interface() {
    let mut external = external();
    external.public.v4 = Some(ip("203.0.113.9"));
    let desired = desired_on(external, "4", TUNNEL);
    assert_eq!(desired.base().links[&name(DEVICE)].kind.local(), Some(ip("192.168.50.1")));
}

#[test]
fn mtus() {
    let mtu = |external| {
        let config = config("46", TUNNEL);
        config.backend.mtu(&config.networks(), external).map_err(|error| error.to_string())
    };
    assert_eq!(mtu(1500), Ok(1480));
    assert_eq!(mtu(88), Ok(68));
    assert_snapshot!(mtu(87).unwrap_err(), @"the MTU of the underlay is 87, but an IPv4 tunnel needs 88: raise it, or Backend.MTU where that is the smaller one");
}

#[test]
fn only_ipv4_is_published_and_carried() {
    let config = |families| config(families, TUNNEL);
    let publish = |config: &NetworkConfig| {
        let attrs = config.backend.attrs(&config.networks(), &external(), &DualStack::default());
        attrs.unwrap().to_json()
    };
    let golden = r#"{"PublicIP":"192.168.50.1","PublicIPv6":null,"BackendType":"ipip"}"#;
    assert_eq!((publish(&config("4")), publish(&config("46"))), (golden.to_owned(), golden.to_owned()));

    let (full, errors) = desired("46", TUNNEL).full(&peers());
    assert_eq!((full, errors), desired("4", TUNNEL).full(&peers()));
    let limitation = |config: &NetworkConfig| config.backend.limitation(&config.networks());
    assert_eq!(limitation(&config("4")), None);
    assert_snapshot!(limitation(&config("46")).unwrap(), @"the backend ipip does not carry IPv6, which the network config enables: pods of different nodes cannot reach each other over IPv6. Set EnableIPv6 to false, or Backend.Type to vxlan");

    let check = |config: &NetworkConfig| config.backend.check(&config.networks(), &external(), &facts());
    assert_eq!((check(&config("4")), check(&config("46"))), (Ok(()), Ok(())));
    assert_eq!(check(&config("6")), Err(limitation(&config("6")).unwrap()));
}

#[test]
fn a_device_of_go_flannel_is_adopted() {
    let mut kernel = host();
    kernel.links.insert(name(DEVICE), Link { mtu: 1400, ..link(ipip(Some("192.168.50.1"), None)) });
    kernel.addresses.insert(AddressKey { link: name(DEVICE), net: net("10.42.1.0/32") }, Address);
    // One peer that is still there, and one whose lease has ended.
    for (subnet, address) in [("10.42.2.0/24", "192.168.50.2"), ("10.42.9.0/24", "192.168.50.9")] {
        let route = Route::via(ip(address), &name(DEVICE), true);
        kernel.routes.insert(RouteKey::owned(net(subnet)), Route { protocol: PROTOCOL_BOOT, ..route });
    }
    let ops = round(&mut kernel, &desired("4", TUNNEL).full(&peers()[..1]).0);
    assert_snapshot!(render(&ops), @r#"
    link set flannel.ipip mtu 1480 alias "flannel 10.42.0.0/16"
    route replace 10.42.2.0/24 via 192.168.50.2 dev flannel.ipip onlink
    route del 10.42.9.0/24 via 192.168.50.9 dev flannel.ipip onlink
    "#);
}

#[test]
fn a_device_with_other_addresses_is_created_anew() {
    let wanted = ipip(Some("192.168.50.1"), None);
    assert_eq!(wanted.mismatch(&ipip(Some("192.168.50.1"), None)), None);
    assert_eq!(wanted.mismatch(&ipip(None, None)), Some("local address"));
    assert_eq!(wanted.mismatch(&ipip(Some("192.168.50.7"), None)), Some("local address"));
    assert_eq!(wanted.mismatch(&ipip(Some("192.168.50.1"), Some("192.168.50.2"))), Some("remote address"));
    assert_eq!(wanted.mismatch(&LinkKind::Other("dummy".to_owned())), Some("kind"));

    let (mut kernel, full) = (host(), desired("4", TUNNEL).full(&peers()[..1]).0);
    round(&mut kernel, &full);
    kernel.links.get_mut(&name(DEVICE)).unwrap().kind = ipip(Some("192.168.50.7"), None);
    assert_snapshot!(render(&round(&mut kernel, &full)), @r#"
    link del flannel.ipip
    link add flannel.ipip mtu 1480 up alias "flannel 10.42.0.0/16" type ipip remote any local 192.168.50.1 nopmtudisc
    addr add 10.42.1.0/32 dev flannel.ipip
    route replace 10.42.2.0/24 via 192.168.50.2 dev flannel.ipip onlink
    "#);
    assert_eq!(round(&mut kernel, &full), []);
}

#[test]
fn a_device_of_another_kind_is_left_alone() {
    let (mut kernel, full) = (host(), desired("4", TUNNEL).full(&peers()[..1]).0);
    let key = RouteKey::owned(net("10.42.7.0/24"));
    kernel.links.insert(name(DEVICE), link(LinkKind::Other("dummy".to_owned())));
    kernel.addresses.insert(AddressKey { link: name(DEVICE), net: net("10.42.8.1/24") }, Address);
    kernel
        .routes
        .insert(key, Route { protocol: PROTOCOL_BOOT, ..Route::via(ip("10.42.8.2"), &name(DEVICE), false) });
    let ours = owned(kernel.clone(), &Scope { desired: &full, networks: &[net(NETWORK)] });
    assert_eq!(ours, Dataplane::default());
    let ops = plan(&full, &ours, Prune::Surplus);
    assert_eq!(model::apply(&mut kernel, &ops[0]), Err(Refusal::Exists), "{}", ops[0]);
}

#[test]
fn a_device_with_the_same_addresses_is_in_the_way() {
    let wanted = ipip(Some("192.168.50.1"), None);
    assert!(wanted.excludes(&ipip(Some("192.168.50.1"), None)));
    assert!(!wanted.excludes(&ipip(None, None)), "tunl0");
    assert!(ipip(None, None).excludes(&ipip(None, None)), "tunl0, for a device without addresses");
    let mut kernel = host();
    kernel.links.insert(name("other"), link(wanted.clone()));
    let create = Op::CreateLink(name(DEVICE), link(wanted).into());
    assert_eq!(model::apply(&mut kernel, &create), Err(Refusal::Exists));
    kernel.links.remove(&name("other"));
    assert_eq!(model::apply(&mut kernel, &create), Ok(()));
}

#[test]
fn a_stale_device_is_removed_once_another_backend_is_used() {
    let mut kernel = host();
    round(&mut kernel, &desired("4", TUNNEL).full(&peers()[..1]).0);
    let ops = round(&mut kernel, &desired("4", r#"{"Type": "host-gw"}"#).full(&[]).0);
    assert_eq!(render(&ops), "link del flannel.ipip\n");
    assert_eq!(kernel, host());
}

#[test]
fn commands_get_their_answers() {
    let backend = config("46", DIRECT).backend;
    let setting = |setting: Setting| format!("{} = {}", setting.key, setting.value);
    assert_eq!(backend.settings().into_iter().map(setting).collect::<Vec<_>>(), ["DirectRouting = true"]);
    assert_eq!(backend.link_kind(), Some("ipip"));
    assert_eq!(backend.carrier(Family::V4, &external()), Some(name(DEVICE)));
    assert_eq!(backend.carrier(Family::V6, &external()), None);
    assert_eq!(backend.underlay_mtu(1500), 1500);
    let transport = backend.transport(Family::V4, &BTreeMap::new()).unwrap();
    assert_eq!(
        (transport.to_string(), transport.iptables_match()),
        ("protocol/4".to_owned(), "-p 4".to_owned())
    );
    assert_eq!(backend.transport(Family::V6, &BTreeMap::new()), None);
    let links = desired("4", TUNNEL).base().links.clone();
    let probe = backend.probe(&peers()[0].attrs, net("10.42.2.0/24"), 1500, &links).unwrap();
    assert_eq!((probe.address, probe.via, probe.mtu), (ip("10.42.2.0"), Via::Vtep, 1480));
    assert!(is_device(&name(DEVICE), Some("ipip")) && !is_device(&name(DEVICE), Some("dummy")));
    assert!(!is_device(&name("tunl0"), Some("ipip")));
}

#[derive(Clone, Debug)]
struct Step {
    node: u8,
    /// On the link, behind a router, or no lease.
    address: Option<(bool, u8)>,
}

fn any_step() -> impl Strategy<Value = Step> {
    let address = prop::option::weighted(0.7, (any::<bool>(), 2..6u8));
    (2..6u8, address).prop_map(|(node, address)| Step { node, address })
}

proptest! {
    #[test]
    fn any_changes_end_where_a_fresh_start_would(
        steps in prop::collection::vec(any_step(), 1..20),
        direct in any::<bool>(),
    ) {
        let desired = desired("4", if direct { DIRECT } else { TUNNEL });
        let mut kernel = host();
        let mut assembly = Assembly::new(desired.clone(), []);
        round(&mut kernel, assembly.dataplane());
        for Step { node, address } in steps {
            let difference = match address {
                Some((true, host)) => assembly.set(lease(node, &format!("192.168.50.{host}")).into()),
                Some((false, host)) => assembly.set(lease(node, &format!("203.0.113.{host}")).into()),
                None => assembly.remove(&subnets(node)),
            };
            for op in difference.plan() {
                prop_assert_eq!(model::apply(&mut kernel, &op), Ok(()), "{}", op);
            }
            let (full, errors) = desired.full(assembly.leases().values().map(|lease| &**lease));
            prop_assert_eq!(errors, []);
            let mut ours = owned(kernel.clone(), &Scope { desired: &full, networks: &[net(NETWORK)] });
            // The model gives every link a MAC, which a tunnel of IP packets does not have.
            ours.links.values_mut().for_each(|link| link.mac = None);
            prop_assert_eq!(&ours, &full);
            prop_assert_eq!(round(&mut kernel, &full), []);
        }
        kernel.retract(assembly.dataplane());
        prop_assert_eq!(kernel, host());
    }
}
