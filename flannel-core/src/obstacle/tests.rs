use super::*;
use crate::dataplane::{PROTOCOL, PROTOCOL_BOOT, UdpTunnel, Vxlan};
use crate::link::Vni;

const ANY: Option<Family> = None;
const V4: Option<Family> = Some(Family::V4);
const V6: Option<Family> = Some(Family::V6);

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn link(kind: LinkKind) -> Link {
    Link { kind, mtu: 1450, mac: None, up: true, alias: None }
}

fn vxlan(vni: u32, local: Option<&str>, gbp: bool) -> Link {
    link(LinkKind::Vxlan(Vxlan {
        vni: Vni::new(vni).unwrap(),
        local: local.map(|local| local.parse().unwrap()),
        lower: None,
        port: 8472,
        learning: false,
        gbp,
        group: None,
        l2miss: false,
    }))
}

fn udp(kind: &str, number: u16, family: Option<Family>) -> Link {
    link(LinkKind::Udp(UdpTunnel { name: kind.to_owned(), port: UdpPort { number, family } }))
}

fn socket(number: u16, family: Option<Family>, process: Option<u32>) -> UdpSocket {
    UdpSocket { port: UdpPort { number, family }, process: process.map(|pid| (pid, "socat".to_owned())) }
}

fn down(link: Link) -> Link {
    Link { up: false, ..link }
}

/// What is in the way of `flannel.1` and `flannel-v6.1`, with the command.
fn check(links: &[(&str, Link)], sockets: &[UdpSocket]) -> Vec<String> {
    let mut desired = Dataplane::default();
    desired.links.insert(name("flannel.1"), vxlan(1, Some("192.168.50.1"), false));
    desired.links.insert(name("flannel-v6.1"), vxlan(1, Some("fd50::1"), false));
    let mut observed = Dataplane::default();
    observed.links.extend(links.iter().map(|(text, link)| (name(text), link.clone())));
    texts(&observed, &desired, sockets)
}

fn texts(observed: &Dataplane, desired: &Dataplane, sockets: &[UdpSocket]) -> Vec<String> {
    let networks = ["10.42.0.0/16".parse().unwrap()];
    let found = obstacles(observed, &Scope { desired, networks: &networks }, |port| {
        sockets.iter().filter(|socket| socket.port.number == port).cloned().collect()
    });
    found.iter().map(|obstacle| format!("{obstacle}: {}", obstacle.fix())).collect()
}

const SAME: &str = "the interface vx has VNI 1 and UDP port 8472, which flannel.1 needs: ip link del vx";
const PORT: &str = "the interface vx receives on UDP port 8472, which flannel.1 needs: ip link del vx";
const PORT6: &str = "the interface vx receives on UDP port 8472, which flannel-v6.1 needs: ip link del vx";

#[test]
fn a_device_with_the_same_parameters_is_named() {
    assert_eq!(check(&[("vx", vxlan(1, None, false))], &[]), [SAME]);
    assert_eq!(
        check(&[("vx", down(vxlan(1, None, false)))], &[]),
        [SAME],
        "the kernel compares devices that are down"
    );
    assert!(check(&[("vx", vxlan(2, None, false))], &[]).is_empty(), "another VNI shares the port");
    let marked = Link { alias: Some("flannel 10.42.0.0/16".to_owned()), ..vxlan(1, None, false) };
    assert!(check(&[("vx", marked)], &[]).is_empty(), "the plan removes a stale device of ours");
    assert!(check(&[], &[]).is_empty());
}

#[test]
fn a_device_on_the_port_is_named() {
    assert_eq!(check(&[("vx", vxlan(2, None, true))], &[]), [PORT]);
    assert_eq!(check(&[("vx", udp("vxlan", 8472, ANY))], &[]), [PORT6, PORT]);
    assert_eq!(check(&[("vx", udp("geneve", 8472, V4))], &[]), [PORT]);
    assert_eq!(check(&[("vx", udp("geneve", 8472, V6))], &[]), [PORT6]);
    assert!(check(&[("vx", udp("geneve", 6081, ANY))], &[]).is_empty());
    assert!(check(&[("vx", down(udp("vxlan", 8472, ANY)))], &[]).is_empty(), "down, it has no socket");
    // Ours was created, but could not be set up.
    let ours = ("flannel.1", down(vxlan(1, Some("192.168.50.1"), false)));
    assert_eq!(check(&[ours.clone(), ("vx", udp("geneve", 8472, V4))], &[]), [PORT]);
    let up = ("flannel.1", vxlan(1, Some("192.168.50.1"), false));
    assert!(check(&[up, ("vx", udp("geneve", 8472, V4))], &[]).is_empty(), "nothing is in its way");
}

#[test]
fn a_process_on_the_port_is_named() {
    let text = |link| format!("process 7 (socat) receives on UDP port 8472, which {link} needs: kill 7");
    assert_eq!(check(&[], &[socket(8472, V4, Some(7))]), [text("flannel.1")]);
    assert_eq!(check(&[], &[socket(8472, ANY, Some(7))]), [text("flannel-v6.1"), text("flannel.1")]);
    assert!(check(&[], &[socket(8473, ANY, Some(7))]).is_empty());
    let unknown = "another program receives on UDP port 8472, which flannel.1 needs: ss -ulnp sport = :8472";
    assert_eq!(check(&[], &[socket(8472, V4, None)]), [unknown]);
    let shared = ("vx", vxlan(2, None, false));
    assert!(check(&[shared], &[socket(8472, V4, None)]).is_empty(), "the kernel shares this socket");
    let v6 = ("flannel-v6.1", vxlan(1, Some("fd50::1"), false));
    assert!(check(&[v6], &[socket(8472, ANY, None)]).is_empty(), "that of our own IPv6 device");
}

#[test]
fn a_name_that_cannot_be_freed_is_named() {
    let nic = ("flannel.1", link(LinkKind::Other(String::new())));
    let text =
        "another interface has the name flannel.1 and cannot be deleted: ip link set flannel.1 name NEW";
    assert_eq!(check(&[nic], &[]), [text]);
    let bridge = ("flannel.1", link(LinkKind::Other("bridge".to_owned())));
    assert!(check(&[bridge], &[]).is_empty(), "the plan replaces it, as Go flannel does");
}

/// The kernel finds another interface for the gateway.
#[test]
fn a_route_to_the_gateway_is_named() {
    let key = |destination: &str, metric| RouteKey { destination: destination.parse().unwrap(), metric };
    let via =
        |gateway: &str, link: &str, onlink| RouteTarget::via(gateway.parse().unwrap(), &name(link), onlink);
    let ours = Route { target: via("fd00:42:0:2::", "flannel-v6.1", true), protocol: PROTOCOL };
    let device = vxlan(1, Some("fd50::1"), false);
    let mut desired = Dataplane::default();
    desired.links.insert(name("flannel-v6.1"), device.clone());
    desired.routes.insert(key("fd00:42:0:2::/64", 1024), ours.clone());
    let check = |destination: &str, metric, set: bool| {
        let mut observed = Dataplane::default();
        observed.links.insert(name("flannel-v6.1"), device.clone());
        let other = Route { target: via("fd50::9", "eth0", false), protocol: PROTOCOL_BOOT };
        observed.routes.insert(key(destination, metric), other);
        if set {
            observed.routes.insert(key("fd00:42:0:2::/64", 1024), ours.clone());
        }
        texts(&observed, &desired, &[])
    };
    let text = "the unmanaged route fd00:42:0:2::/64 via fd50::9 dev eth0 metric 10 leads to the gateway of the route to \
                fd00:42:0:2::/64: ip -6 route del fd00:42:0:2::/64 via fd50::9 dev eth0 metric 10";
    assert_eq!(check("fd00:42:0:2::/64", 10, false), [text]);
    assert_eq!(check("fd00:42::/48", 1024, false).len(), 1, "a larger one that is the best");
    assert!(check("fd00:42:0:2::/64", 10, true).is_empty(), "ours is set");
    assert!(check("fd00:42:0:3::/64", 1024, false).is_empty());
    assert!(check("::/0", 1024, false).is_empty(), "a default route");
    assert!(check("fd00:42:0:2::/64", 1024, false).is_empty(), "the plan replaces it");
}
