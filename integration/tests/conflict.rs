//! Two daemons of different clusters on one host use the same VNI, and so configure one device in different ways.

use anyhow::{Context, Result, ensure};
use integration::{Daemon, Feature, Flanneld, Lab, lab, wait};
use serde_json::Value;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// Both change the device in place.
#[test]
fn daemons_with_one_vni_back_off() {
    lab(|lab| conflict(lab, r#"{"Type":"vxlan"}"#));
}

/// Neither can use the device of the other, so each recreates it.
#[test]
fn daemons_with_one_vni_and_two_ports_back_off() {
    lab(|lab| conflict(lab, r#"{"Type":"vxlan","Port":8473}"#));
}

fn conflict(lab: &Lab, other_backend: &str) -> Result<()> {
    lab.require(&[Feature::Vxlan, Feature::Nft])?;
    let cluster = lab.cluster(1)?;
    let node = &cluster.nodes[0];
    let flanneld = |name: &str, network: &str, backend: &str| -> Result<Flanneld> {
        let leases = lab.directory(&format!("directory/{name}"))?;
        let config = format!(r#"{{"Network":"{network}","EnableNFTables":true,"Backend":{backend}}}"#);
        fs::write(leases.join("config"), config).context("could not write the network config")?;
        Ok(Flanneld::on_directory(&leases))
    };
    let mut first = node.start(&flanneld("first", "10.42.0.0/16", r#"{"Type":"vxlan"}"#)?)?;
    first.wait_ready()?;
    ensure!(rival(&first)?.is_none(), "a daemon alone has a rival");
    let mut second = node.start_beside(1, &flanneld("second", "10.43.0.0/16", other_backend)?)?;

    // Only a device that is another one every time has a rival behind it; where ours is always the one that is removed
    // there is nothing to contest.
    let named = |daemon: &Daemon, other: &Daemon| -> Result<bool> {
        let (log, pid) = (daemon.log()?, other.pid()?);
        let mut lines = log.lines().filter(|line| line.contains("about=\"rival\""));
        Ok(lines
            .any(|line| line.contains("flannel.1") && line.contains(&format!("same VNI (process {pid})"))))
    };
    wait::until("one names the other", wait::LONG, || {
        ensure!(named(&first, &second)? || named(&second, &first)?, "no complaint");
        Ok(())
    })?;
    // By now they pause for seconds. Unchecked they would change the device dozens of times.
    wait::until("they slow down", wait::LONG, || {
        let before = changes(&first)? + changes(&second)?;
        thread::sleep(Duration::from_secs(4));
        let changes = changes(&first)? + changes(&second)? - before;
        ensure!(changes <= 4, "{changes} rounds in 4 s");
        Ok(())
    })?;
    for daemon in [&first, &second] {
        let log = daemon.log()?;
        ensure!(log.matches("about=\"rival\"").count() <= 1, "{log}");
    }
    let is_degraded = rival(&first)?.is_some();
    ensure!(is_degraded == named(&first, &second)?, "log and status of the first differ");

    // Whoever is left has the device at once, and repairs it at once.
    second.kill()?;
    let ours = |limit: u64| {
        let started = Instant::now();
        wait::until("the device is that of the first", wait::LONG, || {
            let shown = node.netns().ip("-d addr show dev flannel.1")?;
            ensure!(
                shown.contains("dstport 8472") && shown.contains("alias flannel 10.42.0.0/16"),
                "{shown}"
            );
            ensure!(shown.contains("inet 10.42."), "{shown}");
            Ok(())
        })?;
        let took = started.elapsed();
        ensure!(took < Duration::from_secs(limit), "after {took:?}");
        Ok(())
    };
    ours(3)?;
    wait::until("nothing is said of a daemon that has ended", Duration::from_secs(3), || {
        ensure!(rival(&first)?.is_none(), "still");
        Ok(())
    })?;
    node.netns().ip("link del flannel.1")?;
    ours(1)?;
    first.stop().map(drop)
}

/// What the status says of a rival.
fn rival(daemon: &Daemon) -> Result<Option<String>> {
    let answer = daemon.status("/status")?;
    let status: Value = serde_json::from_str(&answer.body).context("the status is no JSON")?;
    let conditions = status["conditions"].as_array().context("no conditions")?;
    let found = conditions.iter().find(|condition| condition["about"] == "rival");
    Ok(found.map(ToString::to_string))
}

/// Rounds that changed something.
fn changes(daemon: &Daemon) -> Result<usize> {
    Ok(daemon.log()?.matches(" applied=").count())
}
