//! Restarts and crashes of the daemon: whoever talks does not notice, and neither kernel nor store change.

use anyhow::{Context, Result, ensure};
use integration::monitor::Monitor;
use integration::traffic::{Connection, Datagrams};
use integration::{Cluster, Daemon, Feature, Flanneld, Lab, lab, wait};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const RESTARTS: usize = 20;
const INTERVAL: Duration = Duration::from_millis(10);
/// Promised is a second; the rest is for a machine that is busy with other tests.
const END_LIMIT: Duration = Duration::from_secs(3);

fn config(backend: &str) -> String {
    format!(
        r#"{{"Network":"10.42.0.0/16","IPv6Network":"fd00:42::/48","EnableIPv6":true,"EnableNFTables":true,"Backend":{{"Type":"{backend}"}}}}"#
    )
}

#[test]
fn restart_is_hitless_with_vxlan_and_etcd() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Etcd])?;
        let cluster = lab.cluster(2)?;
        let etcd = cluster.etcd(lab)?;
        etcd.set_config(&config("vxlan"))?;
        let daemons = start(&cluster, &Flanneld::on_etcd(&etcd))?;
        let before = etcd.revision()?;
        restart_under_traffic(&cluster, daemons)?;
        let after = etcd.revision()?;
        ensure!(before == after, "restarts wrote to etcd: revision {before}, then {after}");
        Ok(())
    });
}

#[test]
fn restart_is_hitless_with_host_gw_and_directory() {
    lab(|lab| {
        let cluster = lab.cluster(2)?;
        let flanneld = on_directory(lab, "host-gw")?;
        let daemons = start(&cluster, &flanneld)?;
        restart_under_traffic(&cluster, daemons)
    });
}

/// Whatever it waits for, the daemon ends when it is told to.
#[test]
fn stops_while_etcd_does_not_respond() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Etcd])?;
        let cluster = lab.cluster(1)?;
        let etcd = cluster.etcd(lab)?;
        etcd.set_config(&config("vxlan"))?;
        let mut daemon = cluster.nodes[0].start(&Flanneld::on_etcd(&etcd))?;
        daemon.wait_ready()?;
        etcd.members[0].nic.cut_off()?;
        end(&mut daemon, Signal::SIGTERM)?;

        // It cannot reach the store, and goes on with what it knows only after a while.
        daemon.start()?;
        wait::until("the daemon has begun", wait::LONG, || daemon.get("/healthz").map(drop))?;
        end(&mut daemon, Signal::SIGINT)?;

        // It knows nothing, and waits for the store.
        cluster.nodes[0].netns().run("find /var/lib/flannel /run/flannel -mindepth 1 -delete")?;
        daemon.start()?;
        wait::until("the daemon has begun", wait::LONG, || daemon.get("/healthz").map(drop))?;
        end(&mut daemon, Signal::SIGTERM)
    });
}

fn end(daemon: &mut Daemon, signal: Signal) -> Result<()> {
    let asked = Instant::now();
    daemon.signal(signal)?;
    let status = daemon.wait_end()?;
    let took = asked.elapsed();
    eprintln!("{signal}: ended after {took:?}");
    ensure!(status.success(), "{signal} ended the daemon with {status}");
    ensure!(took <= END_LIMIT, "{signal} took {took:?}");
    Ok(())
}

fn on_directory(lab: &Lab, backend: &str) -> Result<Flanneld> {
    let leases = lab.directory("directory/leases")?;
    std::fs::write(leases.join("config"), config(backend)).context("could not write the network config")?;
    Ok(Flanneld::on_directory(&leases))
}

fn start(cluster: &Cluster, flanneld: &Flanneld) -> Result<Vec<Daemon>> {
    cluster.start_all(&flanneld.clone().argument("--ip-masq"))
}

/// Ends and starts the daemons of both ends again and again while a pod of one talks to a pod of the other.
fn restart_under_traffic(cluster: &Cluster, mut daemons: Vec<Daemon>) -> Result<()> {
    let pods = cluster.nodes.iter().map(|node| node.add_pod("pod")).collect::<Result<Vec<_>>>()?;
    let (from, to) = (&pods[0], &pods[1]);
    let mut flows = Vec::new();
    for v4 in [true, false] {
        from.netns.wait_ping(to.address(v4)?)?;
        flows.push(Datagrams::start(&from.netns, &to.netns, to.address(v4)?, INTERVAL)?);
    }
    let connection = Connection::start(&from.netns, &to.netns, to.address(true)?)?;
    let monitors =
        cluster.nodes.iter().map(|node| Monitor::start(node.netns())).collect::<Result<Vec<_>>>()?;
    for monitor in &monitors {
        monitor.so_far();
    }

    let (mut slowest_end, mut slowest_start) = (Duration::ZERO, Duration::ZERO);
    for number in 0..RESTARTS {
        for daemon in &mut daemons {
            if number % 2 == 0 {
                let asked = Instant::now();
                let status = daemon.stop()?;
                slowest_end = slowest_end.max(asked.elapsed());
                ensure!(status.success(), "restart {number}: SIGTERM ended the daemon with {status}");
            } else {
                daemon.kill()?;
            }
        }
        // Nobody is there for a moment: the data path stands by itself, and pods start.
        flows.iter().try_for_each(|flow| flow.wait_answered(2))?;
        if number < 2 {
            cluster.nodes[0].add_pod(&format!("later{number}"))?.netns.wait_ping(to.address(true)?)?;
        }
        let started = Instant::now();
        daemons.iter_mut().try_for_each(Daemon::start)?;
        daemons.iter_mut().try_for_each(Daemon::wait_ready)?;
        slowest_start = slowest_start.max(started.elapsed());
        flows.iter().try_for_each(|flow| flow.wait_answered(2))?;
    }
    eprintln!(
        "{RESTARTS} restarts of two daemons: slowest end {slowest_end:?}, slowest start {slowest_start:?}"
    );
    ensure!(slowest_end <= END_LIMIT, "SIGTERM took {slowest_end:?}");

    let report = connection.stop()?;
    eprintln!("TCP: {report:?}");
    ensure!(report.bytes > 0, "the connection carried nothing");
    for flow in flows {
        let report = flow.stop()?;
        eprintln!("{} datagrams, {} lost", report.sent, report.lost.len());
        report.expect_none_lost()?;
    }
    for (node, monitor) in cluster.nodes.iter().zip(monitors) {
        let touched: Vec<String> =
            monitor.so_far().into_iter().map(|news| news.text).filter(|text| is_ours(text)).collect();
        ensure!(touched.is_empty(), "restarts touched the kernel of {}: {touched:?}", node.name());
        monitor.stop()?;
    }
    Ok(())
}

/// News of what carries the traffic of pods between the nodes.
fn is_ours(news: &str) -> bool {
    let number = flannel_core::dataplane::PROTOCOL;
    news.contains("flannel") || news.contains(&format!("proto {number}"))
}
