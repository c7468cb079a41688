//! etcd behind a relay that delays every response, or stops in the middle of one.

use anyhow::{Context, Result, ensure};
use integration::etcd::PREFIX;
use integration::kernel_state::routes;
use integration::relay::{Pace, Relay};
use integration::{Daemon, Etcd, EtcdOptions, Feature, Flanneld, Lab, Node, lab, wait};
use serde_json::Value;
use std::time::{Duration, Instant};

const CONFIG: &str = r#"{"Network":"10.42.0.0/16","SubnetMax":"10.42.199.0","EnableNFTables":true,"Backend":{"Type":"host-gw"}}"#;
/// Renewed a minute before its end, so after half of it.
const LEASE: &str = "--lease-time=75s --subnet-lease-renew-margin=1";
/// How long etcd is slow. Meanwhile the lease has to be renewed.
const SLOW: Duration = Duration::from_secs(35);
/// Seconds, and time for a busy machine.
const SECONDS: Duration = Duration::from_secs(15);

#[test]
fn etcd_that_responds_after_half_a_minute() {
    lab(|lab| slow(lab, Pace::After(Duration::from_secs(30))));
}

#[test]
fn etcd_that_stops_in_the_middle_of_a_response() {
    lab(|lab| slow(lab, Pace::Half));
}

fn slow(lab: &Lab, pace: Pace) -> Result<()> {
    lab.require(&[Feature::Nft, Feature::Etcd])?;
    let cluster = lab.cluster(1)?;
    let etcd = Etcd::start(lab, &cluster.lan, &EtcdOptions::default())?;
    etcd.set_config(CONFIG)?;
    let server = etcd.members[0].address();
    let relay = Relay::start(&lab.outside()?, cluster.lan.gateway(true)?, server)?;
    let node = &cluster.nodes[0];
    let flanneld =
        Flanneld::bare().argument(format!("--etcd-endpoints=http://{}", relay.address())).arguments(LEASE);
    let mut daemon = node.start(&flanneld)?;
    daemon.wait_ready()?;
    put_peer(&etcd, 200)?;
    wait_peer(node, 200, wait::LONG)?;
    let subnet = node.subnet(true)?;

    let (requests, since) = (etcd.requests()?, daemon.log()?.len());
    relay.set(pace);
    put_peer(&etcd, 201)?;
    wait::until("it is logged with the reason", SLOW, || {
        let log = daemon.log()?;
        let news = log.get(since..).unwrap_or_default();
        ensure!(news.contains("store unreachable, retrying"), "{news}");
        ensure!(news.contains("lease has a problem"), "{news}");
        Ok(())
    })?;
    wait::holds_for("the daemon responds", SLOW, || {
        let started = Instant::now();
        let answer = daemon.get("/readyz")?;
        ensure!(answer.status == 200, "/readyz returns {} {}", answer.status, answer.body);
        status(&daemon)?;
        ensure!(started.elapsed() < Duration::from_secs(2), "after {:?}", started.elapsed());
        ensure!(relay.clients() <= 4, "{} connections", relay.clients());
        Ok(())
    })?;
    node.netns().ip("route del 10.42.200.0/24")?;
    wait_peer(node, 200, Duration::from_secs(5))?;
    let requests = etcd.requests()? - requests;
    ensure!(requests < 60, "{requests} requests in {SLOW:?}");

    relay.set(Pace::Prompt);
    wait_peer(node, 201, SECONDS)?;
    wait::until("no problem is reported any more, and the lease is renewed", SECONDS, || {
        let status = status(&daemon)?;
        ensure!(status["store"]["up"] == true, "{status}");
        ensure!(status["conditions"].as_array().is_some_and(Vec::is_empty), "{}", status["conditions"]);
        ensure!(status["lease"]["remainingSeconds"].as_u64() > Some(30), "{}", status["lease"]);
        Ok(())
    })?;
    ensure!(node.subnet(true)? == subnet, "the node has another subnet");
    daemon.stop().map(drop)
}

fn status(daemon: &Daemon) -> Result<Value> {
    serde_json::from_str(&daemon.status("/status")?.body).context("the status is no JSON")
}

fn put_peer(etcd: &Etcd, third: u8) -> Result<()> {
    let peer = format!(r#"{{"PublicIP":"192.168.50.{third}","PublicIPv6":null,"BackendType":"host-gw"}}"#);
    etcd.put_with_lease(&format!("{PREFIX}/subnets/10.42.{third}.0-24"), &peer, 3600)
}

fn wait_peer(node: &Node, third: u8, limit: Duration) -> Result<()> {
    wait::until(format!("a route to 10.42.{third}.0/24"), limit, || {
        let found = routes(node.netns(), true, "10.42.")?;
        ensure!(found.iter().any(|route| route.starts_with(&format!("10.42.{third}."))), "{found:?}");
        Ok(())
    })
}
