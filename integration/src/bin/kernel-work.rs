//! The kernel's part of an ADD or DEL of a pod, and nothing else: what `cargo xtask bench cni` holds the plugin
//! against. It makes the same links, addresses, routes and settings as flannel with a bridge and host-local, with as
//! few calls as it can, and knows everything beforehand: no config, no subnet, no files, no result.
//!
//! - `kernel-work add NETNS VETH ADDRESS,GATEWAY,NETWORK...`: the last once for each family, with the networks that get
//!   a route
//! - `kernel-work del NETNS`
//! - `kernel-work`: starts and exits
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use flannel_core::dataplane::PROTOCOL_BOOT;
use flannel_core::link::{IfIndex, LinkName};
use flannel_core::message::address::{self, NewAddress};
use flannel_core::message::link::{self, LinkSettings, NewVeth};
use flannel_core::message::route::{self, NewRoute};
use integration::rtnetlink::Rtnetlink;
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsRawFd;

const BRIDGE: &str = "cni0";
const IFNAME: &str = "eth0";
const MTU: u32 = 1450;

/// One family of a pod.
struct Place {
    address: IpNet,
    gateway: IpAddr,
    networks: Vec<IpNet>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["add", netns, veth, addresses @ ..] => add(netns, veth, addresses),
        ["del", netns] => del(netns),
        [] => Ok(()),
        _ => bail!("not a command: {}", arguments.join(" ")),
    }
}

fn add(netns: &str, veth: &str, places: &[&str]) -> Result<()> {
    let places: Vec<Place> = places.iter().map(|text| place(text)).collect::<Result<_>>()?;
    let netns = File::open(netns).context("no namespace")?;
    let (veth, ifname): (LinkName, LinkName) = (veth.parse()?, IFNAME.parse()?);

    let mut host = Rtnetlink::open()?;
    let pair = NewVeth {
        name: veth.clone(),
        mac: None,
        master: Some(host.index(&BRIDGE.parse()?)?),
        up: true,
        mtu: Some(MTU),
        queue_length: Some(0),
        peer: ifname.clone(),
        peer_mac: None,
        peer_netns: Some(netns.as_raw_fd()),
    };
    host.change(&[link::create_veth(&pair)])?;
    let hairpin = LinkSettings { hairpin: Some(true), ..LinkSettings::default() };
    let index = host.index(&veth)?;
    host.change(&[link::set(index, &hairpin)])?;
    setting(&format!("ipv6/conf/{veth}/accept_ra"), "0")?;

    setns(&netns, CloneFlags::CLONE_NEWNET).context("could not enter a namespace")?;
    setting(&format!("ipv6/conf/{ifname}/accept_dad"), "0")?;
    setting(&format!("ipv4/conf/{ifname}/arp_notify"), "1")?;
    setting(&format!("ipv6/conf/{ifname}/ndisc_notify"), "1")?;
    let mut pod = Rtnetlink::open()?;
    let index = pod.index(&ifname)?;
    let up = LinkSettings { up: Some(true), ..LinkSettings::default() };
    let mut requests: Vec<_> =
        places.iter().map(|place| address::add(&with_broadcast(index, place.address))).collect();
    requests.push(link::set(index, &up));
    for place in &places {
        for network in &place.networks {
            let mut new = NewRoute::new(*network, PROTOCOL_BOOT);
            new.index = Some(index);
            new.gateway = Some(place.gateway);
            requests.push(route::add_beside(&new));
        }
    }
    pod.change(&requests)
}

fn del(netns: &str) -> Result<()> {
    let netns = File::open(netns).context("no namespace")?;
    setns(&netns, CloneFlags::CLONE_NEWNET).context("could not enter a namespace")?;
    let mut pod = Rtnetlink::open()?;
    let index = pod.index(&IFNAME.parse()?)?;
    pod.change(&[link::delete(index)])
}

fn place(text: &str) -> Result<Place> {
    let mut parts = text.split(',');
    let mut part = || parts.next().context("ADDRESS,GATEWAY,NETWORK... is needed");
    let (address, gateway) = (part()?.parse()?, part()?.parse()?);
    let networks = parts.map(str::parse).collect::<Result<_, _>>()?;
    Ok(Place { address, gateway, networks })
}

fn with_broadcast(index: IfIndex, net: IpNet) -> NewAddress {
    let mut new = NewAddress::new(index, net);
    if let IpNet::V4(net) = net {
        new.broadcast = Some(net.broadcast());
    }
    new
}

fn setting(name: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/net/{name}"), value).with_context(|| format!("could not set {name}"))
}
