//! Kernel state word for word as the tables of the specification show it, for a node with the peers of its
//! examples. Only the protocol number (241) and the alias are our own.

use anyhow::{Result, ensure};
use integration::golden::vxlan_device;
use integration::{Cluster, Feature, Lab, Netns, kernel_state, lab, wait};
use std::fs;

/// Three nodes that get the subnets of the examples, because their last run had them.
fn start(lab: &Lab, backend: &str) -> Result<Cluster> {
    let cluster = lab.cluster(3)?;
    for (number, node) in (1..).zip(&cluster.nodes) {
        let before = format!(
            "FLANNEL_SUBNET=10.42.{number}.1/24\nFLANNEL_IPV6_SUBNET=fd00:10:244:{number}::1/64\nFLANNEL_MTU=1\n"
        );
        fs::write(node.file("/run/flannel/subnet.env")?, before)?;
    }
    let networks = r#""EnableIPv6":true,"Network":"10.42.0.0/16","IPv6Network":"fd00:10:244::/48""#;
    cluster.start_on_directory(lab, &format!(r#"{{{networks},"Backend":{{"Type":"{backend}"}}}}"#))?;
    Ok(cluster)
}

#[test]
fn vxlan() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = start(lab, "vxlan")?;
        let n1 = cluster.nodes[0].netns();
        let mac = |node: usize, v4| kernel_state::mac(cluster.nodes[node].netns(), vxlan_device(v4));
        expect(
            n1,
            "ip route show dev flannel.1",
            "10.42.2.0/24 via 10.42.2.0 proto 241 onlink\n10.42.3.0/24 via 10.42.3.0 proto 241 onlink",
        )?;
        expect(
            n1,
            "ip -6 route show dev flannel-v6.1",
            "fd00:10:244:1:: proto kernel metric 256 pref medium\n\
             fd00:10:244:2::/64 via fd00:10:244:2:: proto 241 metric 1024 onlink pref medium\n\
             fd00:10:244:3::/64 via fd00:10:244:3:: proto 241 metric 1024 onlink pref medium\n\
             fe80::/64 proto kernel metric 256 pref medium",
        )?;
        for (v4, zero, public) in [
            (true, ["10.42.2.0", "10.42.3.0"], ["192.168.50.2", "192.168.50.3"]),
            (false, ["fd00:10:244:2::", "fd00:10:244:3::"], ["fd50::2", "fd50::3"]),
        ] {
            let device = vxlan_device(v4);
            let (m2, m3) = (mac(1, v4)?, mac(2, v4)?);
            let [z2, z3] = zero;
            expect(
                n1,
                &format!("ip neigh show dev {device}"),
                &format!("{z2} lladdr {m2} PERMANENT proto 241\n{z3} lladdr {m3} PERMANENT proto 241"),
            )?;
            let [p2, p3] = public;
            expect(
                n1,
                &format!("bridge fdb show dev {device}"),
                &format!("{m2} dst {p2} self permanent\n{m3} dst {p3} self permanent"),
            )?;
            let accept_ra = n1.sysctl(&format!("net/ipv6/conf/{device}/accept_ra"))?;
            ensure!(accept_ra == "0", "{device} accepts router advertisements: {accept_ra}");
        }
        expect(n1, "ip -o -4 addr show dev flannel.1", "inet 10.42.1.0/32 scope global flannel.1")?;
        // Usable at once: nobody else can have it, and Go keeps it all the same.
        expect(
            n1,
            "ip -o -6 addr show dev flannel-v6.1 scope global",
            "inet6 fd00:10:244:1::/128 scope global nodad",
        )?;
        expect(
            n1,
            "ip -d link show dev flannel.1",
            &device("flannel.1", 1450, &mac(0, true)?, "192.168.50.1"),
        )?;
        expect(
            n1,
            "ip -d link show dev flannel-v6.1",
            &device("flannel-v6.1", 1430, &mac(0, false)?, "fd50::1"),
        )
    });
}

/// A device as the kernel shows it after the specified request.
fn device(name: &str, mtu_bytes: u32, mac: &str, local: &str) -> String {
    format!(
        "{name}: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu {mtu_bytes} qdisc noqueue state UNKNOWN mode DEFAULT \
         group default\n\
         link/ether {mac} brd ff:ff:ff:ff:ff:ff\n\
         vxlan id 1 local {local} dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto ageing 300 udpcsum \
         noudp6zerocsumtx noudp6zerocsumrx addrgenmode eui64\n\
         alias flannel 10.42.0.0/16 fd00:10:244::/48"
    )
}

#[test]
fn host_gw() {
    lab(|lab| {
        let cluster = start(lab, "host-gw")?;
        let n1 = cluster.nodes[0].netns();
        expect(
            n1,
            "ip route show root 10.42.0.0/16",
            "10.42.2.0/24 via 192.168.50.2 dev eth0 proto 241\n10.42.3.0/24 via 192.168.50.3 dev eth0 proto 241",
        )?;
        expect(
            n1,
            "ip -6 route show root fd00:10:244::/48",
            "fd00:10:244:2::/64 via fd50::2 dev eth0 proto 241 metric 1024 pref medium\n\
             fd00:10:244:3::/64 via fd50::3 dev eth0 proto 241 metric 1024 pref medium",
        )?;
        let links = n1.ip("-o link show")?;
        ensure!(links.lines().count() == 2, "more than lo and eth0: {links}");
        Ok(())
    });
}

/// Waits until a command shows these lines, whatever their order.
fn expect(netns: &Netns, command: &str, expected: &str) -> Result<()> {
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    wait::until(format!("`{command}` on {}", netns.name()), wait::LONG, || {
        let shown = normal(&netns.run(command)?);
        ensure!(sorted(&shown) == sorted(expected), "expected:\n{expected}\nfound:\n{shown}");
        Ok(())
    })
}

/// White space single; no interface numbers, lifetimes and limits of the kernel, which differ between versions.
fn normal(text: &str) -> String {
    let text = text.replace('\\', "\n");
    let lines = text.lines().filter_map(|line| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if words.first()?.strip_suffix(':').is_some_and(|word| word.parse::<u32>().is_ok()) {
            words.remove(0);
        }
        // `ip -o` tells the device before the address.
        if matches!(words.get(1), Some(&"inet" | &"inet6")) {
            words.remove(0);
        }
        if let Some(limits) = words.iter().position(|word| ["promiscuity", "numtxqueues"].contains(word)) {
            words.truncate(limits);
        }
        (words[0] != "valid_lft").then(|| words.join(" "))
    });
    lines.collect::<Vec<_>>().join("\n")
}
