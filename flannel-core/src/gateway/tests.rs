use super::*;
use crate::facts::{AddressFacts, LinkFacts};
use crate::link::{IfIndex, Mac};

const SAVED: &str = r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.42.1.0/24"}],[{"subnet":"fd00:42:0:1::/64"}]],"routes":[{"dst":"10.42.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#;

fn gateways(text: &str, pods: &[&str]) -> Vec<String> {
    let own = Subnets::parse_key("10.42.1.0-24&fd00:42:0:1::-64").unwrap();
    let pods: Vec<IpAddr> = pods.iter().map(|pod| pod.parse().unwrap()).collect();
    let found = of_configs([text.as_bytes()], &own, &pods);
    found.iter().flat_map(|(bridge, nets)| nets.iter().map(move |net| format!("{bridge} {net}"))).collect()
}

#[test]
fn gateways_of_attached_pods_are_read_from_saved_configs() {
    assert_eq!(gateways(SAVED, &["10.42.1.7"]), ["cni0 10.42.1.1/24"]);
    let both = ["10.42.1.7", "fd00:42:0:1::7"];
    assert_eq!(gateways(SAVED, &both), ["cni0 10.42.1.1/24", "cni0 fd00:42:0:1::1/64"]);
    let named = SAVED
        .replace("\"mtu\"", "\"bridge\":\"br7\",\"mtu\"")
        .replace("1.0/24\"", "1.0/24\",\"gateway\":\"10.42.1.254\"");
    assert_eq!(gateways(&named, &both[..1]), ["br7 10.42.1.254/24"]);
    let old = r#"{"type":"bridge","isGateway":true,"ipam":{"type":"host-local","subnet":"10.42.1.0/24"}}"#;
    assert_eq!(gateways(old, &both), ["cni0 10.42.1.1/24"]);
}

#[test]
fn only_gateways_of_bridges_with_pods_of_this_node_count() {
    let pod = &["10.42.1.7", "10.42.2.7"];
    assert_eq!(gateways(SAVED, &[]), [""; 0], "no pod");
    assert_eq!(gateways(SAVED, &["10.42.1.1"]), [""; 0], "the gateway is no pod");
    for (what, text) in [
        ("not JSON", SAVED.replace('{', "")),
        ("no gateway", SAVED.replace("ateway\":true", "ateway\":false")),
        ("another plugin", SAVED.replace("\"type\":\"bridge\"", "\"type\":\"ptp\"")),
        ("other IPAM", SAVED.replace("host-local", "dhcp")),
        ("in a VLAN", SAVED.replace("\"mtu\"", "\"vlan\":7,\"mtu\"")),
        ("a subnet of another node", SAVED.replace("10.42.1.0", "10.42.2.0")),
        ("the whole network", SAVED.replace("10.42.1.0/24", "10.42.0.0/16")),
    ] {
        assert_eq!(gateways(&text, pod), [""; 0], "{what}");
    }
}

#[test]
fn a_bridge_gets_what_it_lacks() {
    let gateways = Gateways::from([(
        "cni0".parse().unwrap(),
        BTreeSet::from(["10.42.1.1/24".parse().unwrap(), "fd00:42:0:1::1/64".parse().unwrap()]),
    )]);
    let check = |up, addresses: &[&str]| {
        let address = |text: &&str| AddressFacts {
            net: text.parse().unwrap(),
            deprecated: false,
            permanent: true,
            temporary: false,
        };
        let link = LinkFacts {
            index: IfIndex(7),
            name: "cni0".parse().unwrap(),
            mtu: 1450,
            up,
            mac: Some(Mac([2, 0, 0, 0, 0, 7])),
            master: None,
            addresses: addresses.iter().map(address).collect(),
        };
        let facts = HostFacts { links: vec![link], routes: Vec::new() };
        restore(&gateways, &facts).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let complete = ["10.42.1.1/24", "fd00:42:0:1::1/64", "fe80::7:7/64", "192.168.7.1/24"];
    assert_eq!(check(true, &complete), [""; 0]);
    assert_eq!(
        check(true, &complete[..2]),
        ["link set cni0 address 02:00:00:00:00:07", "addr add fe80::ff:fe00:7/64 dev cni0"]
    );
    assert_eq!(
        check(false, &["10.42.1.1/16"]),
        [
            "link set cni0 address 02:00:00:00:00:07 up",
            "addr add 10.42.1.1/24 dev cni0",
            "addr add fd00:42:0:1::1/64 dev cni0",
            "addr add fe80::ff:fe00:7/64 dev cni0"
        ]
    );
    assert_eq!(restore(&gateways, &HostFacts::default()), [], "no bridge");
}
