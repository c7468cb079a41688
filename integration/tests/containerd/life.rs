//! Many pods at once, and what becomes of pods when something beside them ends.

use anyhow::{Context, Result, ensure};
use integration::{Daemon, lab, wait};
use k8s_cri::v1::PodSandboxState::{SandboxNotready, SandboxReady};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;

use super::cleanup::processes;
use super::runtime::{Containerd, Pod, install};
use super::scene::{Scene, config};

fn addresses(pods: &[Pod]) -> BTreeSet<IpAddr> {
    pods.iter().flat_map(|pod| pod.addresses.iter().copied()).collect()
}

/// Started and stopped all at once, while the daemon restarts.
#[test]
fn fifty_at_once() {
    lab(|lab| {
        const PODS: usize = 50;
        let mut scene = Scene::new(lab, 2, &config(r#"{"Type":"vxlan"}"#))?;
        let asking = scene.containerds[1].run("asking")?;
        let (containerd, daemon) = (&scene.containerds[0], &mut scene.daemons[0]);
        let pods = thread::scope(|scope| {
            let restarts = scope.spawn(|| (0..3).try_for_each(|_| daemon.restart()));
            let pods = containerd.run_all((0..PODS).map(|number| format!("p{number}")));
            restarts.join().map_err(|_| anyhow::anyhow!("a panic while the daemon was restarted"))??;
            pods
        })?;
        ensure!(pods.len() == PODS && addresses(&pods).len() == 2 * PODS, "not all are unique: {pods:?}");
        ensure!(
            scene.taken(0)?.into_iter().collect::<BTreeSet<_>>() == addresses(&pods),
            "{:?}",
            scene.taken(0)?
        );
        for v4 in [true, false] {
            scene.expect_all_answer(1, &asking, &pods, v4)?;
        }
        scene.containerds[0].stop_all(&pods)?;
        scene.expect_nothing(0, &pods)
    });
}

/// Pods live on without containerd; the next one knows them and gives their addresses back.
#[test]
fn containerd_is_killed() {
    lab(|lab| {
        let mut scene = Scene::new(lab, 2, &config(r#"{"Type":"vxlan"}"#))?;
        let (a, b) = (scene.containerds[0].run("a")?, scene.containerds[1].run("b")?);
        let more = scene.containerds[0].run_all(["c", "d"].map(str::to_owned))?;
        scene.containerds[0].kill()?;
        scene.daemons[0].restart()?;
        let all = [std::slice::from_ref(&a), &more].concat();
        scene.expect_all_answer(1, &b, &all, true)?;

        scene.containerds[0].start_again()?;
        ensure!(scene.containerds[0].names(SandboxReady)? == ["a", "c", "d"], "pods are lost");
        scene.expect_all_answer(1, &b, &all, false)?;
        scene.expect_all_answer(0, &a, std::slice::from_ref(&b), true)?;
        let new = scene.containerds[0].run("e")?;
        ensure!(
            addresses(&all).is_disjoint(&addresses(std::slice::from_ref(&new))),
            "{new:?} beside {all:?}"
        );

        scene.containerds[0].stop_all(&all)?;
        scene.containerds[0].stop(&new)?;
        scene.expect_nothing(0, &[all, vec![new]].concat())
    });
}

/// The power of a node with as many pods as its subnet has addresses is cut. When it is back, and before anybody has
/// cleaned up, as many new pods start at the first try; cleaning up the old ones then takes nothing from the new ones.
#[test]
fn node_reboots() {
    lab(|lab| {
        // Of 16 addresses: not the first, the last, and the gateway.
        const PODS: usize = 13;
        let config =
            r#"{"Network":"10.42.0.0/16","SubnetLen":28,"EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;
        let mut scene = Scene::new(lab, 2, config)?;
        let asking = scene.containerds[1].run("asking")?;
        let old = scene.containerds[0].run_all((0..PODS).map(|number| format!("old{number}")))?;
        let full = scene.containerds[0].run("one-too-many").err().context("an address too many")?;
        ensure!(format!("{full:#}").contains("no IP addresses available"), "{full:#}");
        let subnet = scene.cluster.nodes[0].subnet(true)?;

        cut_power(&mut scene)?;
        scene.cluster.reboot(0)?;
        // All that starts on a node starts at once.
        let mut daemon: Daemon = scene.cluster.nodes[0].start(&scene.flanneld)?;
        let machine = scene.cluster.nodes[0].boot()?;
        scene.containerds.insert(0, Containerd::start(lab, &machine)?);
        scene.machines.insert(0, machine);
        daemon.wait_ready()?;
        let new = scene.containerds[0].run_all((0..PODS).map(|number| format!("new{number}")))?;
        scene.daemons.insert(0, daemon);

        ensure!(scene.cluster.nodes[0].subnet(true)? == subnet, "another subnet than {subnet}");
        ensure!(addresses(&new) == addresses(&old), "new pods {new:?}, old ones {old:?}");
        scene.expect_all_answer(1, &asking, &new, true)?;
        ensure!(scene.containerds[0].names(SandboxNotready)?.len() >= PODS, "the old pods are forgotten");

        scene.containerds[0].stop_all(&old)?;
        scene.expect_all_answer(1, &asking, &new, true)?;
        ensure!(scene.taken(0)?.len() == PODS, "{:?}", scene.taken(0)?);
        scene.containerds[0].stop_all(&new)?;
        scene.expect_nothing(0, &new)
    });
}

/// Ends everything on the first node at the same moment.
fn cut_power(scene: &mut Scene) -> Result<()> {
    scene.machines.remove(0).power_off()?;
    scene.daemons.remove(0).kill()?;
    drop(scene.containerds.remove(0));
    Ok(())
}

/// A pod that comes before the daemon waits for it; where that takes long, it is told to try again, as the kubelet does.
#[test]
fn pods_start_before_the_daemon() {
    lab(|lab| {
        let mut scene = Scene::new(lab, 1, &config(r#"{"Type":"host-gw"}"#))?;
        let node = scene.cluster.add_node(lab, "n2", 2)?;
        let machine = node.boot()?;
        install(&machine)?;
        let containerd = Containerd::start(lab, &machine)?;
        let try_on = || match containerd.run("early") {
            Err(error) if format!("{error:#}").contains("subnet.env") => Err(error),
            outcome => Ok(outcome),
        };
        let pod = thread::scope(|scope| {
            let pod = scope.spawn(|| wait::until("the early pod runs", wait::LONG, try_on));
            wait::until("the plugin of the early pod runs", wait::LONG, || {
                ensure!(!processes(&["/opt/cni/bin/flannel"])?.is_empty(), "no such process");
                Ok(())
            })?;
            node.start(&scene.flanneld)?.wait_ready()?;
            pod.join().map_err(|_| anyhow::anyhow!("a panic while a pod was started"))??
        })?;
        ensure!(node.subnet(true)?.contains(&pod.address(true)?), "{pod:?}");
        let asking = scene.containerds[0].run("asking")?;
        scene.expect_all_answer(0, &asking, &[pod], true)
    });
}
