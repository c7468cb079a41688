//! Two daemons of different clusters on one host use the same VNI, and so configure one device in different ways, or the same
//! firewall tables.

use anyhow::{Context, Result, ensure};
use integration::doctor::Finding;
use integration::{Daemon, Doctor, Feature, Flanneld, Lab, lab, wait};
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

/// Two networks without devices: their rules are in tables of the same names.
#[test]
fn daemons_with_one_firewall_back_off() {
    lab(|lab| {
        lab.require(&[Feature::Nft])?;
        let cluster = lab.cluster(1)?;
        let node = &cluster.nodes[0];
        let alloc = r#"{"Type":"alloc"}"#;
        let flags = flanneld(lab, "first", "10.42.0.0/16", alloc)?;
        let mut first = node.start(&flags)?;
        first.wait_ready()?;
        let mut second = node.start_beside(1, &flanneld(lab, "second", "10.43.0.0/16", alloc)?)?;
        let doctor = Doctor::of(node, &flags);
        let finding = || -> Result<Option<Finding>> {
            Ok(doctor.findings()?.into_iter().find(|finding| finding.id == "firewall-contested"))
        };

        let named = |daemon: &Daemon, other: &Daemon| -> Result<bool> {
            let (log, pid) = (daemon.log()?, other.pid()?);
            let mut lines = log.lines().filter(|line| line.contains("about=\"firewall\""));
            Ok(lines.any(|line| {
                line.contains("flannel's nftables rules") && line.contains(&format!("(process {pid})"))
            }))
        };
        wait::until("one reports the other", wait::LONG, || {
            ensure!(named(&first, &second)? || named(&second, &first)?, "no report");
            Ok(())
        })?;
        wait::until("the doctor reports both", wait::LONG, || {
            let found = finding()?.context("no finding")?;
            let (text, pids) = (found.value.to_string(), [first.pid()?, second.pid()?]);
            let named = pids.iter().all(|pid| text.contains(&format!("process {pid}: its rules are ")));
            ensure!(named && text.contains("tables flannel-ipv4 and flannel-ipv6"), "{text}");
            ensure!(found.value["fix"].as_str().is_some_and(|fix| fix.starts_with("kill ")), "{text}");
            Ok(())
        })?;
        let repairs = || -> Result<u64> { Ok(repairs(&first)? + repairs(&second)?) };
        wait::until("they slow down", wait::LONG, || {
            let before = repairs()?;
            thread::sleep(Duration::from_secs(8));
            let repairs = repairs()? - before;
            ensure!(repairs <= 2, "{repairs} repairs in 8 s");
            Ok(())
        })?;

        second.kill()?;
        wait::until("the rules are those of the first", Duration::from_secs(5), || {
            let table = node.netns().run("nft list table ip flannel-ipv4")?;
            ensure!(table.contains("10.42.0.0/16") && !table.contains("10.43."), "{table}");
            let firewall = &status(&first)?["firewall"];
            ensure!(firewall["correct"] == true && firewall["error"].is_null(), "{firewall}");
            Ok(())
        })?;
        ensure!(finding()?.is_none(), "{:?}", finding()?);
        first.stop().map(drop)
    });
}

/// Times that a daemon restored its firewall rules.
fn repairs(daemon: &Daemon) -> Result<u64> {
    status(daemon)?["firewall"]["repairs"].as_u64().context("no count of repairs")
}

fn flanneld(lab: &Lab, name: &str, network: &str, backend: &str) -> Result<Flanneld> {
    let leases = lab.directory(&format!("directory/{name}"))?;
    let config = format!(r#"{{"Network":"{network}","EnableNFTables":true,"Backend":{backend}}}"#);
    fs::write(leases.join("config"), config).context("could not write the network config")?;
    Ok(Flanneld::on_directory(&leases))
}

fn conflict(lab: &Lab, other_backend: &str) -> Result<()> {
    lab.require(&[Feature::Vxlan, Feature::Nft])?;
    let cluster = lab.cluster(1)?;
    let node = &cluster.nodes[0];
    let mut first = node.start(&flanneld(lab, "first", "10.42.0.0/16", r#"{"Type":"vxlan"}"#)?)?;
    first.wait_ready()?;
    ensure!(rival(&first)?.is_none(), "a daemon alone has a rival");
    let mut second = node.start_beside(1, &flanneld(lab, "second", "10.43.0.0/16", other_backend)?)?;

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
    let status = status(daemon)?;
    let conditions = status["conditions"].as_array().context("no conditions")?;
    let found = conditions.iter().find(|condition| condition["about"] == "rival");
    Ok(found.map(ToString::to_string))
}

fn status(daemon: &Daemon) -> Result<Value> {
    serde_json::from_str(&daemon.status("/status")?.body).context("the status is no JSON")
}

/// Rounds that changed something.
fn changes(daemon: &Daemon) -> Result<usize> {
    Ok(daemon.log()?.matches(" applied=").count())
}
