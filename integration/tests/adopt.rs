//! An upgrade in place: our daemon starts on a node where a Go flanneld has run, and nobody notices. The same node
//! then keeps its subnet and its hardware address through the loss of the device, a reboot, or the loss of its files.
//!
//! What Go leaves is made by hand, after the tables of its behaviour: devices without an alias, random hardware
//! addresses, protocol `boot`, entries of peers that went while it was down, iptables rules.

use anyhow::{Context, Result, ensure};
use integration::etcd::PREFIX;
use integration::golden::{self, Peer, go, vxlan_device};
use integration::traffic::{Connection, Datagrams};
use integration::{Cluster, Daemon, Etcd, Feature, Flanneld, Lab, Netns, Node, Pod, kernel_state, lab, wait};
use serde_json::Value;
use std::fs;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(10);
const DAY_SECS: u32 = 86_400;
const FLANNEL_MTU: u32 = 1450;

#[test]
fn vxlan() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Etcd, Feature::Iptables, Feature::BridgeNetfilter])?;
        let mut site = Site::build(lab, "vxlan", FLANNEL_MTU)?;
        let node = site.cluster.nodes[0].clone();
        for v4 in [true, false] {
            go::vxlan(node.netns(), &known(1, v4)?, &known(2, v4)?)?;
            go::vxlan(site.cluster.nodes[1].netns(), &known(2, v4)?, &known(1, v4)?)?;
            stale_vxlan(node.netns(), v4)?;
        }
        go::iptables(node.netns())?;
        let rules = rules(node.netns())?;
        let devices = [device(&node, true)?, device(&node, false)?];

        let mut daemon = site.take_over()?;
        ensure!(
            devices == [device(&node, true)?, device(&node, false)?],
            "a device was made anew or changed"
        );
        ensure!(rules == self::rules(node.netns())?, "right firewall rules were written again");

        node.netns().ip_batch("link del flannel.1\nlink del flannel-v6.1\n")?;
        site.expect_vxlan(false)?;

        daemon.kill()?;
        reboot(&node)?;
        daemon.start()?;
        daemon.wait_ready()?;
        site.expect_vxlan(false)?;
        site.expect_reached("after")?;

        let devices = [device(&node, true)?, device(&node, false)?];
        daemon.kill()?;
        forget(&node)?;
        daemon.start()?;
        daemon.wait_ready()?;
        site.expect_vxlan(false)?;
        ensure!(
            devices == [device(&node, true)?, device(&node, false)?],
            "a device was made anew or changed"
        );

        // Neither device nor memory: the record could be that of another node with our address, so the hardware
        // address is a new one, which peers can tell from the old one. The subnet is the same.
        daemon.kill()?;
        reboot(&node)?;
        forget(&node)?;
        daemon.start()?;
        daemon.wait_ready()?;
        let subnet_env = node.subnet_env_text()?;
        ensure!(subnet_env == site.subnet_env, "{} became {subnet_env}", site.subnet_env);
        wait::until("the record names the device", wait::LONG, || {
            let record = entry_value(&site.etcd)?;
            for v4 in [true, false] {
                let mac = kernel_state::mac(node.netns(), vxlan_device(v4))?;
                ensure!(record.contains(&mac), "{record} does not name {mac}");
            }
            Ok(())
        })
    });
}

#[test]
fn host_gw() {
    lab(|lab| {
        lab.require(&[Feature::Etcd, Feature::Iptables, Feature::BridgeNetfilter])?;
        let mut site = Site::build(lab, "host-gw", 1500)?;
        for (node, peer) in [(0, 2), (1, 1)] {
            for v4 in [true, false] {
                go::host_gw_peer(site.cluster.nodes[node].netns(), &known(peer, v4)?)?;
            }
        }
        let node = site.cluster.nodes[0].clone();
        go::iptables(node.netns())?;
        let rules = rules(node.netns())?;
        site.take_over()?;
        ensure!(rules == self::rules(node.netns())?, "right firewall rules were written again");
        Ok(())
    });
}

/// After a reboot while the store is away, the hardware address can only come from the state directory; peers still
/// send to it.
#[test]
fn mac_survives_a_reboot_without_a_store() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Etcd])?;
        let cluster = lab.cluster(2)?;
        let etcd = cluster.etcd(lab)?;
        etcd.set_config(r#"{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#)?;
        let mut daemons = cluster.start_all(&Flanneld::on_etcd(&etcd))?;
        let [node, other] = [&cluster.nodes[0], &cluster.nodes[1]];
        let pod = other.add_pod("pod")?;
        let own = Peer::of(node, true)?;
        let expected = golden::vxlan(&own, &[Peer::of(other, true)?], FLANNEL_MTU);
        golden::expect(node.netns(), true, &expected)?;

        daemons[0].stop()?;
        etcd.kill()?;
        reboot(node)?;
        daemons[0].start()?;
        daemons[0].wait_ready()?;
        golden::expect(node.netns(), true, &expected)?;
        node.add_pod("after")?.netns.wait_ping(pod.address(true)?)?;

        let before = etcd.restart().and_then(|()| etcd.leases())?;
        daemons[0].restart()?;
        golden::expect(node.netns(), true, &expected)?;
        let after = etcd.leases()?;
        ensure!(before == after, "{before:?} became {after:?}");
        Ok(())
    });
}

/// ```text
///   pod ── n1 ── lan ── n2 ── pod
///          │             └ as Go left it, without a daemon
///          └ as Go left it, then taken over
/// ```
struct Site {
    cluster: Cluster,
    etcd: Etcd,
    backend: &'static str,
    pods: Vec<Pod>,
    /// What n1 had written before.
    subnet_env: String,
}

/// What everybody knows of a node.
fn known(number: u8, v4: bool) -> Result<Peer> {
    let (public, subnet) = if v4 {
        (format!("192.168.50.{number}"), format!("10.42.{number}.0/24"))
    } else {
        (format!("fd50::{number}"), format!("fd00:42:0:{number}::/64"))
    };
    let mac = if v4 { format!("1a:2b:3c:4d:5e:0{number}") } else { format!("6a:2b:3c:4d:5e:0{number}") };
    Ok(Peer { public: public.parse()?, subnet: subnet.parse()?, mac: Some(mac) })
}

fn key(number: u8) -> String {
    format!("{PREFIX}/subnets/10.42.{number}.0-24&fd00:42:0:{number}::-64")
}

impl Site {
    /// Two nodes with records and subnet files of Go's, and pods on them.
    fn build(lab: &Lab, backend: &'static str, mtu_bytes: u32) -> Result<Self> {
        let cluster = lab.cluster(2)?;
        let etcd = cluster.etcd(lab)?;
        etcd.set_config(&format!(
            r#"{{"Network":"10.42.0.0/16","IPv6Network":"fd00:42::/48","EnableIPv6":true,"Backend":{{"Type":"{backend}"}}}}"#
        ))?;
        let mut pods = Vec::new();
        for number in [1, 2] {
            etcd.put_with_lease(&key(number), &record(number, backend), DAY_SECS)?;
            let node = &cluster.nodes[usize::from(number) - 1];
            fs::write(node.file("/run/flannel/subnet.env")?, subnet_env(number, mtu_bytes))
                .context("could not write a subnet file")?;
            pods.push(node.add_pod("pod")?);
        }
        let subnet_env = cluster.nodes[0].subnet_env_text()?;
        Ok(Self { cluster, etcd, backend, pods, subnet_env })
    }

    /// Starts our daemon on n1 while pods talk, and compares what must stay.
    fn take_over(&mut self) -> Result<Daemon> {
        let node = &self.cluster.nodes[0];
        let before = entry(&self.etcd)?;
        let (from, to) = (&self.pods[0], &self.pods[1]);
        let mut flows = Vec::new();
        for v4 in [true, false] {
            from.netns.wait_ping(to.address(v4)?)?;
            flows.push(Datagrams::start(&from.netns, &to.netns, to.address(v4)?, INTERVAL)?);
        }
        let connection = Connection::start(&from.netns, &to.netns, to.address(true)?)?;
        let flanneld = Flanneld::on_etcd(&self.etcd).argument("--ip-masq");
        let mut daemon = node.start(&flanneld)?;
        daemon.wait_ready()?;
        if self.backend == "vxlan" {
            self.expect_vxlan(true)?;
        } else {
            for v4 in [true, false] {
                golden::expect(node.netns(), v4, &golden::host_gw(&[known(2, v4)?]))?;
            }
        }
        flows.iter().try_for_each(|flow| flow.wait_answered(20))?;
        eprintln!("TCP: {:?}", connection.stop()?);
        for flow in flows {
            flow.stop()?.expect_none_lost()?;
        }
        let after = entry(&self.etcd)?;
        ensure!(before == after, "the record was written again: {before} became {after}");
        let subnet_env = node.subnet_env_text()?;
        ensure!(subnet_env == self.subnet_env, "{} became {subnet_env}", self.subnet_env);
        Ok(daemon)
    }

    /// Waits until n1 has the device that everybody knows, the entries of n2, and nothing else.
    fn expect_vxlan(&self, adopted: bool) -> Result<()> {
        for v4 in [true, false] {
            let mtu_bytes = if v4 { FLANNEL_MTU } else { FLANNEL_MTU - 20 };
            let mut expected = golden::vxlan(&known(1, v4)?, &[known(2, v4)?], mtu_bytes);
            // A right neighbour entry stays as it is, without our mark: what is on our device is ours anyway.
            for line in expected.iter_mut().filter(|line| adopted && line.starts_with("neigh ")) {
                line.truncate(line.find(" proto ").unwrap_or(line.len()));
            }
            golden::expect(self.cluster.nodes[0].netns(), v4, &expected)?;
        }
        Ok(())
    }

    /// A new pod of n1 talks to the old one of n2, which knows nothing of what happened.
    fn expect_reached(&self, pod: &str) -> Result<()> {
        let subnet_env = self.cluster.nodes[0].subnet_env_text()?;
        ensure!(subnet_env == self.subnet_env, "{} became {subnet_env}", self.subnet_env);
        let pod = self.cluster.nodes[0].add_pod(pod)?;
        for v4 in [true, false] {
            pod.netns.wait_ping(self.pods[1].address(v4)?)?;
        }
        Ok(())
    }
}

fn record(number: u8, backend: &str) -> String {
    let data = if backend == "vxlan" {
        format!(
            r#","BackendData":{{"VNI":1,"VtepMAC":"1a:2b:3c:4d:5e:0{number}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"6a:2b:3c:4d:5e:0{number}"}}"#
        )
    } else {
        String::new()
    };
    format!(
        r#"{{"PublicIP":"192.168.50.{number}","PublicIPv6":"fd50::{number}","BackendType":"{backend}"{data}}}"#
    )
}

fn subnet_env(number: u8, mtu_bytes: u32) -> String {
    format!(
        "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.{number}.1/24\n\
         FLANNEL_IPV6_NETWORK=fd00:42::/48\nFLANNEL_IPV6_SUBNET=fd00:42:0:{number}::1/64\n\
         FLANNEL_MTU={mtu_bytes}\nFLANNEL_IPMASQ=true\n"
    )
}

/// A peer that went while Go's daemon was down, and the former hardware address of n2, which Go leaks.
fn stale_vxlan(netns: &Netns, v4: bool) -> Result<()> {
    go::vxlan_peer(netns, &known(7, v4)?)?;
    let (device, public) = (vxlan_device(v4), known(2, v4)?.public);
    netns
        .run(&format!("bridge fdb replace 2a:2b:2c:2d:2e:2f dev {device} dst {public} self permanent"))
        .map(drop)
}

/// All rules with their handles: a rule that is written again gets another one.
fn rules(netns: &Netns) -> Result<String> {
    netns.run("nft -a -s list ruleset")
}

/// Number and hardware address of a tunnel device.
fn device(node: &Node, v4: bool) -> Result<(Value, String)> {
    let link = kernel_state::device(node.netns(), vxlan_device(v4))?;
    Ok((link["ifindex"].clone(), link["address"].to_string()))
}

/// The record of n1 with all that etcd knows about it: value, revisions, lease.
fn entry(etcd: &Etcd) -> Result<String> {
    let answer = etcd.ctl(&["get", "--write-out=json", "--", &key(1)])?;
    let answer: Value = serde_json::from_str(&answer).context("etcdctl did not answer JSON")?;
    ensure!(answer["kvs"][0]["lease"].is_number(), "no record with a lease: {answer}");
    Ok(answer["kvs"][0].to_string())
}

fn entry_value(etcd: &Etcd) -> Result<String> {
    etcd.get(&key(1))?.context("the record is gone")
}

/// Somebody removes the state directory.
fn forget(node: &Node) -> Result<()> {
    node.netns().run("find /var/lib/flannel -mindepth 1 -delete").map(drop)
}

/// What a reboot does to a node: the kernel forgets everything, and `/run` is empty. The host's own network is there
/// again when the daemon starts.
fn reboot(node: &Node) -> Result<()> {
    let netns = node.netns();
    netns.run("find /run/flannel -mindepth 1 -delete")?;
    for device in [vxlan_device(true), vxlan_device(false), "cni0"] {
        if kernel_state::device(netns, device).is_ok() {
            netns.ip(&format!("link del {device}"))?;
        }
    }
    netns.run("nft flush ruleset")?;
    wait::until("nothing of ours is left", wait::LONG, || {
        for v4 in [true, false] {
            let left = golden::actual(netns, v4)?;
            ensure!(left.is_empty(), "{left:?}");
        }
        Ok(())
    })
}
