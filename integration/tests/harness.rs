//! The harness itself: what tests build on must hold.

use anyhow::{Context, Result, ensure};
use integration::etcd::PREFIX;
use integration::gateway::Gateway;
use integration::monitor::Monitor;
use integration::traffic::{Connection, Datagrams};
use integration::{Conflist, Etcd, EtcdOptions, Feature, lab, wait};
use serde_json::json;
use std::net::IpAddr;
use std::time::Duration;

fn address(text: &str) -> IpAddr {
    text.parse().expect("a constant address")
}

/// ```text
///   n1 ── lan 192.168.50.0/24 ── fabric ── far 192.168.60.0/24 ── distant
///   n2 ──┘
/// ```
#[test]
fn underlay_is_connected() {
    lab(|lab| {
        let cluster = lab.cluster(2)?;
        let far = lab.segment("far", &["192.168.60.254/24".parse()?])?;
        let distant = lab.host("distant")?;
        far.default_routes(&far.attach(&distant, "eth0", &["192.168.60.1/24".parse()?])?)?;

        let n1 = cluster.nodes[0].netns();
        for to in ["192.168.50.2", "192.168.60.1", "fd50::2", "192.168.50.254"] {
            let ping = n1.ping(address(to), 3)?;
            ensure!((ping.sent, ping.received) == (3, 3), "{to}: {ping:?}");
        }
        n1.ping_full(address("192.168.50.2"), 1500)?;
        ensure!(n1.ping_full(address("192.168.50.2"), 1501).is_err(), "a packet larger than the MTU passed");
        Ok(())
    });
}

#[test]
fn cuts_are_silent_and_heal() {
    lab(|lab| {
        lab.require(&[Feature::Nft])?;
        let cluster = lab.cluster(2)?;
        let (n1, n2) = (cluster.nodes[0].netns(), cluster.nodes[1].netns());
        let to = address("192.168.50.2");
        n1.wait_ping(to)?;

        let flow = Datagrams::start(n1, n2, to, Duration::from_millis(2))?;
        wait::until("datagrams flow", wait::LONG, || {
            ensure!(flow.unanswered() < 5, "{} unanswered", flow.unanswered());
            Ok(())
        })?;
        cluster.nics[1].drop_sent()?;
        wait::until("datagrams are lost", wait::LONG, || {
            ensure!(flow.unanswered() > 20, "{} unanswered", flow.unanswered());
            Ok(())
        })?;
        lab.heal()?;
        n1.wait_ping(to)?;
        let report = flow.stop()?;
        ensure!(report.lost.len() > 20 && report.expect_none_lost().is_err(), "{report:?}");

        cluster.nics[0].unplug()?;
        ensure!(n1.ping(to, 1).map_or(true, |ping| ping.received == 0), "a ping passed an unplugged cable");
        cluster.nics[0].plug()?;
        n1.wait_ping(to)
    });
}

#[test]
fn connections_compare_every_byte() {
    lab(|lab| {
        let cluster = lab.cluster(2)?;
        let (n1, n2) = (cluster.nodes[0].netns(), cluster.nodes[1].netns());
        for to in ["192.168.50.2", "fd50::2"] {
            let connection = Connection::start(n1, n2, address(to))?;
            let flow = Datagrams::start(n1, n2, address(to), Duration::from_millis(1))?;
            n1.ping(address(to), 10)?;
            flow.stop()?.expect_none_lost()?;
            let report = connection.stop()?;
            ensure!(report.bytes > 0, "{report:?}");
        }
        Ok(())
    });
}

#[test]
fn nodes_have_their_own_files() {
    lab(|lab| {
        let (n1, n2) = (lab.node("n1")?, lab.node("n2")?);
        n1.netns().run("mkdir -p /var/lib/cni/networks")?;
        n1.netns().run("cp /etc/hostname /run/flannel/subnet.env")?;
        ensure!(n1.file("/var/lib/cni/networks")?.is_dir(), "a node's file is not where it is kept");
        ensure!(n1.file("/run/flannel/subnet.env")?.is_file(), "a node's file is not where it is kept");
        ensure!(
            n2.netns().run("ls /var/lib/cni /run/flannel").is_ok_and(|text| !text.contains("subnet.env"))
        );
        ensure!(!n2.file("/var/lib/cni/networks")?.exists(), "the nodes share files");
        Ok(())
    });
}

#[test]
fn pods_by_reference_plugins() {
    lab(|lab| {
        lab.require(&[Feature::CniPlugins])?;
        let node = lab.node("n1")?;
        let list = Conflist::new(
            "plain",
            "0.4.0",
            vec![json!({
                "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true,
                "ipam": {"type": "host-local", "subnet": "10.99.0.0/24"},
            })],
        );
        let (a, b) = (node.add_pod_with("a", &list)?, node.add_pod_with("b", &list)?);
        a.netns.wait_ping(b.address(true)?)?;
        a.check()?;
        let kept = node.file("/var/lib/cni/networks/plain")?.join(a.address(true)?.to_string());
        ensure!(kept.is_file(), "{} is missing", kept.display());
        a.delete()?;
        ensure!(!kept.exists(), "{} was not removed", kept.display());
        Ok(())
    });
}

#[test]
fn etcd_keeps_history_over_compaction() {
    lab(|lab| {
        lab.require(&[Feature::Etcd])?;
        let cluster = lab.cluster(1)?;
        let etcd = cluster.etcd(lab)?;
        let history = etcd.record()?;
        let key = format!("{PREFIX}/subnets/10.42.1.0-24");
        etcd.put(&key, "one")?;
        etcd.put_with_lease(&key, "two", 60)?;
        ensure!(etcd.leases()? == [("10.42.1.0-24".to_owned(), "two".to_owned())]);
        etcd.delete(&key)?;
        etcd.compact()?;
        ensure!(etcd.get(&key)?.is_none());
        etcd.kill()?;
        etcd.restart()?;
        let values: Vec<Option<String>> =
            history.events(&etcd)?.into_iter().map(|event| event.value).collect();
        ensure!(values == [Some("one".to_owned()), Some("two".to_owned()), None], "{values:?}");
        let before = etcd.revision()?;
        etcd.wipe()?;
        ensure!(etcd.revision()? < before, "wiping kept the revision");
        Ok(())
    });
}

#[test]
fn gateway_writes_many_keys() {
    lab(|lab| {
        lab.require(&[Feature::Etcd])?;
        let cluster = lab.cluster(1)?;
        let etcd = cluster.etcd(lab)?;
        let mut gateway = Gateway::connect(cluster.nodes[0].netns(), etcd.members[0].address())?;
        let lease = gateway.grant(60)?;
        let records: Vec<(String, String)> =
            (0..300).map(|number| (format!("{PREFIX}/subnets/{number:03}"), "{}".to_owned())).collect();
        gateway.put_all(&records, &lease)?;
        gateway.put(&records[0].0, "changed", &lease)?;
        gateway.delete(&records[1].0)?;
        let leases = etcd.leases()?;
        ensure!(leases.len() == 299, "{} leases", leases.len());
        ensure!(leases[0] == ("000".to_owned(), "changed".to_owned()), "{:?}", leases[0]);
        Ok(())
    });
}

#[test]
fn monitors_report_changes() {
    lab(|lab| {
        let cluster = lab.cluster(1)?;
        let node = cluster.nodes[0].netns();
        let routes = Monitor::start(node)?;
        node.ip("route add 10.42.2.0/24 via 192.168.50.2")?;
        node.ip("route del 10.42.2.0/24")?;
        let came = routes.find(|text| text.starts_with("10.42.2.0/24 via 192.168.50.2"))?;
        let went = routes.find(|text| text.starts_with("Deleted 10.42.2.0/24"))?;
        ensure!(came.at < went.at, "{came:?} {went:?}");
        routes.stop()
    });
}

/// A device that takes thousands of entries along is one burst: with the usual room nothing of it is lost, and where
/// something is lost it is told.
#[test]
fn monitors_report_lost_notifications() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(1)?;
        let node = cluster.nodes[0].netns();
        let entries = 3000_usize;
        for (room, all) in [(None, true), (Some(4096), false)] {
            node.ip("link add vx7 type vxlan id 7 dstport 4791 local 192.168.50.1")?;
            let lines: String = (0..entries)
                .map(|number| {
                    let (high, low) = (number / 256, number % 256);
                    format!(
                        "fdb add 0a:00:00:00:{high:02x}:{low:02x} dev vx7 dst 192.168.50.99 self permanent\n"
                    )
                })
                .collect();
            node.feed(&["bridge", "-batch", "-"], &lines)?;
            let monitor = match room {
                Some(room) => Monitor::with_room(node, room)?,
                None => Monitor::start(node)?,
            };
            node.ip("link del vx7")?;
            // The last news, after all those of the device.
            let mut deleted = 0;
            wait::until("the burst is over", wait::LONG, || {
                node.ip("route add blackhole 198.51.100.1/32")?;
                node.ip("route del blackhole 198.51.100.1/32")?;
                let news = monitor.so_far();
                let of_device = "Deleted 192.168.50.99 dev vx7 lladdr 0a:00:00:00";
                deleted += news.iter().filter(|news| news.text.starts_with(of_device)).count();
                ensure!(
                    news.iter().any(|news| news.text.starts_with("blackhole 198.51.100.1/32")),
                    "{news:?}"
                );
                Ok(())
            })?;
            let overruns = monitor.overruns();
            ensure!(
                (deleted == entries) == all && (overruns == 0) == all,
                "{deleted} news, {overruns} overruns"
            );
            monitor.stop()?;
        }
        Ok(())
    });
}

#[test]
fn etcd_with_three_members_survives_one() {
    lab(|lab| {
        lab.require(&[Feature::Etcd])?;
        let cluster = lab.cluster(1)?;
        let etcd = Etcd::start(lab, &cluster.lan, &EtcdOptions { members: 3, ..EtcdOptions::default() })?;
        etcd.put("/a", "1")?;
        etcd.members[2].kill()?;
        wait::until("two of three members take writes", wait::LONG, || etcd.put("/a", "2"))?;
        ensure!(etcd.get("/a")?.as_deref() == Some("2"));
        Ok(())
    });
}

#[test]
fn etcd_with_tls_and_users() {
    lab(|lab| {
        lab.require(&[Feature::Etcd, Feature::Openssl])?;
        let cluster = lab.cluster(1)?;
        let options = EtcdOptions { tls: true, client_certificates: true, ..EtcdOptions::default() };
        let etcd = Etcd::start(lab, &cluster.lan, &options)?;
        etcd.enable_users("secret", "secret")?;
        etcd.put("/a", "1")?;
        ensure!(etcd.get("/a")?.as_deref() == Some("1"));
        let (certificate, key) = etcd.client_certificate("nobody")?;
        let (certificate, key) =
            (format!("--cert={}", certificate.display()), format!("--key={}", key.display()));
        let refused: Result<String> = etcd.members[0].netns.run(&format!(
            "etcdctl --endpoints=https://{} --cacert=/run/lab/certificates/ca.crt {certificate} {key} get /a",
            etcd.members[0].address()
        ));
        let error = refused.err().context("a stranger read a key")?;
        ensure!(format!("{error:#}").contains("permission denied"), "{error:#}");
        Ok(())
    });
}
