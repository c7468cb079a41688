//! The API server crashes, hangs, is slow and loses what it had, and daemons restart meanwhile. Pods of two nodes lose no packet, status
//! and log name the fault, and changes arrive afterwards.

use anyhow::{Context, Result, ensure};
use integration::kubernetes::address;
use integration::relay::{Pace, Relay};
use integration::{Daemon, Feature, Flanneld, Lab, lab, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::fixture::{Fixture, NODES, Traffic, logs, mark, peer, wait_status};

const AWAY: &str = "store unreachable, retrying";
const BACK: &str = "store reachable again";
/// A request through the slow relay takes at least this long.
const DELAY: Duration = Duration::from_millis(400);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn api_server_crashes_and_forgets() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 2)?;
        let mut daemons = fixture.two()?;
        both_are_up(&fixture)?;
        let traffic = Traffic::start(&fixture.cluster)?;
        for daemon in &mut daemons {
            daemon.restart()?;
            daemon.kill()?;
            daemon.start()?;
            daemon.wait_ready()?;
        }
        network_is_cut(lab, &fixture)?;
        restarts_without_history(&fixture, &daemons)?;
        is_away(&fixture, &mut daemons, &traffic)?;
        is_restored_from_a_backup(&fixture, &daemons)?;
        traffic.expect_none_lost()
    });
}

fn both_are_up(fixture: &Fixture) -> Result<()> {
    fixture.wait_route(1, "10.42.2.0/24", true)?;
    fixture.wait_route(2, "10.42.1.0/24", true)?;
    (1..=2).try_for_each(|number| fixture.wait_condition(number, "False", "FlannelIsUp"))
}

/// No packet passes between a node and the API server, without any error. Nothing is lost on the way.
fn network_is_cut(lab: &Lab, fixture: &Fixture) -> Result<()> {
    let (node, server) = (&fixture.cluster.nics[0], &fixture.control_plane.nic);
    node.drop_towards(server)?;
    server.drop_towards(node)?;
    fixture.admin().create(NODES, &peer(10))?;
    fixture.wait_route(2, "10.42.10.0/24", true)?;
    fixture.wait_route(1, "10.42.10.0/24", false)?;
    lab.heal()?;
    fixture.wait_route(1, "10.42.10.0/24", true)
}

/// A watch of an API server begins with its start: the revisions before no longer exist, and it answers 410.
fn restarts_without_history(fixture: &Fixture, daemons: &[Daemon; 2]) -> Result<()> {
    let since = [mark(&daemons[0])?, mark(&daemons[1])?];
    // Not an event of a node, so that the daemons watch from an earlier revision.
    let object = json!({"metadata": {"name": "news"}});
    fixture.admin().create("/api/v1/namespaces/default/configmaps", &object)?;
    fixture.control_plane.save("backup")?;
    for (daemon, since) in daemons.iter().zip(since) {
        logs(daemon, since, &["revision no longer in the store, listing again"])?;
    }
    fixture.add_peer(11)
}

/// The API server is killed, and daemons start without it.
fn is_away(fixture: &Fixture, daemons: &mut [Daemon; 2], traffic: &Traffic) -> Result<()> {
    let since = [mark(&daemons[0])?, mark(&daemons[1])?];
    fixture.control_plane.api_server.kill()?;
    logs(&daemons[0], since[0], &[AWAY, "192.168.50.230"])?;
    wait_status(&daemons[0], &["the Kubernetes API at https://192.168.50.230:6443 is unreachable"], true)?;
    // From the state directory.
    daemons[1].kill()?;
    daemons[1].start()?;
    daemons[1].wait_ready()?;
    logs(&daemons[1], since[1], &["store unreachable, using the lease of the last run"])?;
    fixture.cluster.nodes[1].add_pod("later")?.netns.wait_ping(traffic.pods[0].address(true)?)?;
    // The kernel is repaired from what is known.
    fixture.cluster.nodes[0].netns().ip("route del 10.42.11.0/24")?;
    fixture.wait_route(1, "10.42.11.0/24", true)?;
    // Without one, a node waits.
    let state = fixture.cluster.nodes[0].file("/var/lib/flannel")?;
    daemons[0].stop()?;
    fs::remove_dir_all(&state).and_then(|()| fs::create_dir(&state))?;
    daemons[0].start()?;
    wait_status(&daemons[0], &["the store does not answer"], true)?;
    ensure!(daemons[0].get("/readyz")?.status == 503);

    let since = [mark(&daemons[0])?, mark(&daemons[1])?];
    fixture.control_plane.api_server.start()?;
    fixture.control_plane.wait_ready()?;
    for (daemon, since) in daemons.iter_mut().zip(since) {
        daemon.wait_ready()?;
        logs(daemon, since, &[BACK])?;
    }
    fixture.add_peer(12)
}

/// Revisions go back: to a time when there was no peer.
fn is_restored_from_a_backup(fixture: &Fixture, daemons: &[Daemon; 2]) -> Result<()> {
    let revision = || -> Result<u64> {
        let list = fixture.admin().get("/api/v1/nodes?limit=1")?;
        list["metadata"]["resourceVersion"].as_str().context("no version")?.parse().context("no number")
    };
    let since = [mark(&daemons[0])?, mark(&daemons[1])?];
    let before = revision()?;
    fixture.control_plane.restore("backup")?;
    for (daemon, since) in daemons.iter().zip(since) {
        logs(daemon, since, &["revision no longer in the store, listing again"])?;
        // Their nodes may come back.
        wait_status(daemon, &["\"kept\":2"], true)?;
    }
    fixture.add_peer(13)?;
    ensure!(revision()? < before, "the revisions did not go back");
    fixture.wait_route(1, "10.42.12.0/24", true)
}

/// A relay before the API server delays its answers and closes its connections.
#[test]
fn api_server_is_slow_and_closes_watches() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 2)?;
        let server = address(true)?;
        let relay = Relay::start(&fixture.control_plane.netns, server, (server, 6443).into())?;
        let url = format!("--kube-api-url=https://{}", relay.address());
        fixture.register(1)?;
        fixture.register(2)?;
        let mut first = fixture.run(1)?;
        let mut second = fixture.cluster.nodes[1].start(&fixture.flanneld(2).argument(url))?;
        first.wait_ready()?;
        second.wait_ready()?;
        both_are_up(&fixture)?;
        let traffic = Traffic::start(&fixture.cluster)?;

        let (since, before) = (mark(&second)?, store(&second)?);
        relay.cut();
        fixture.add_peer(11)?;
        let after = store(&second)?;
        ensure!(after["watchRestarts"].as_u64() > before["watchRestarts"].as_u64(), "{before} {after}");
        let log = second.log()?;
        ensure!(!log[since..].contains(AWAY), "one broken connection is no fault: {}", &log[since..]);

        relay.set(Pace::After(DELAY));
        fixture.add_peer(12)?;
        fixture.set_unavailable(2)?;
        fixture.wait_condition(2, "False", "FlannelIsUp")?;
        wait::until("the status has the latency of the API server", wait::LONG, || {
            let status = store(&second)?;
            let latency = status["lastRequest"]["latencyMilliseconds"].as_f64().context("no latency")?;
            ensure!(latency >= 400.0, "{status}");
            Ok(())
        })?;
        second.kill()?;
        second.start()?;
        second.wait_ready()?;
        fixture.add_peer(13)?;
        // Longer than a request may take.
        relay.set(Pace::After(Duration::from_secs(12)));
        fixture.set_unavailable(2)?;
        wait_status(&second, &["did not answer in 10 s: reading a node"], true)?;
        relay.set(Pace::Prompt);
        fixture.wait_condition(2, "False", "FlannelIsUp")?;
        traffic.expect_none_lost()
    });
}

/// What the status says of the store.
fn store(daemon: &Daemon) -> Result<Value> {
    let status: Value = serde_json::from_str(&daemon.status("/status")?.body).context("not JSON")?;
    Ok(status["store"].clone())
}

/// The API server hangs for a minute: connections stay open, and nothing is answered. The clock of a node jumps, too.
#[test]
fn api_server_hangs_for_a_minute() {
    lab(|lab| {
        lab.require(&[Feature::Faketime])?;
        let fixture = Fixture::start(lab, 2)?;
        fixture.register(1)?;
        fixture.register(2)?;
        let clock = lab.directory("clock")?.join("offset");
        fs::write(&clock, "+0")?;
        let mut first = fixture.cluster.nodes[0].start(&with_clock(fixture.flanneld(1), &clock)?)?;
        let mut second = fixture.run(2)?;
        first.wait_ready()?;
        second.wait_ready()?;
        both_are_up(&fixture)?;
        let traffic = Traffic::start(&fixture.cluster)?;

        for (number, offset) in (11..).zip(["+12h", "-3d", "+0"]) {
            fs::write(&clock, offset)?;
            fixture.add_peer(number)?;
            fixture.set_unavailable(1)?;
            fixture.wait_condition(1, "False", "FlannelIsUp")?;
        }
        ensure!(first.log()?.contains("ready"), "the log has lines");
        let (hung, since) = (Instant::now(), mark(&second)?);
        fixture.control_plane.api_server.signal(Signal::SIGSTOP)?;
        second.kill()?;
        second.start()?;
        logs(&second, since, &["store unreachable, using the lease of the last run"])?;
        second.wait_ready()?;
        wait_status(&second, &["https://192.168.50.230:6443 is unreachable", "no connection in 5 s"], true)?;
        fixture.cluster.nodes[0].add_pod("later")?.netns.wait_ping(traffic.pods[1].address(true)?)?;
        fs::write(&clock, "+12h")?;
        wait::holds_for("both nodes stay ready", MINUTE.saturating_sub(hung.elapsed()), || {
            for daemon in [&first, &second] {
                let answer = daemon.get("/readyz")?;
                ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
            }
            Ok(())
        })?;
        fixture.control_plane.api_server.signal(Signal::SIGCONT)?;
        logs(&second, since, &[BACK])?;
        fixture.add_peer(21)?;
        wait_status(&second, &["no connection"], false)?;
        traffic.expect_none_lost()
    });
}

/// The daemon under a clock that is ahead by the content of a file.
fn with_clock(flanneld: Flanneld, offset: &Path) -> Result<Flanneld> {
    let shown =
        std::process::Command::new("faketime").args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"]).output()?;
    let library = String::from_utf8(shown.stdout)?;
    ensure!(shown.status.success() && library.contains("libfaketime"), "{library:?}");
    Ok(flanneld
        .environment("LD_PRELOAD", library.trim())
        .environment("FAKETIME_TIMESTAMP_FILE", &offset.display().to_string())
        .environment("FAKETIME_NO_CACHE", "1")
        .environment("DONT_FAKE_MONOTONIC", "1")
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1"))
}
