//! Pods of a real containerd and runc on real nodes, through the interface that the kubelet uses. Each node is
//! installed by the lines of the README's section on containerd, those for its series. Another containerd than the one that
//! is installed is tried by putting its directory first in `PATH`.

mod cleanup;
mod doctor;
mod life;
mod runtime;
mod scene;

use anyhow::{Context, Result, ensure};
use integration::image::PORT;
use integration::{Feature, Lab, lab, program, wait};
use runtime::Answer;
use scene::{Scene, config};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

fn answer(pod: &str, seen: IpAddr) -> Answer {
    Answer { pod: pod.to_owned(), seen }
}

/// Pods of two nodes see each other under their own addresses, also while and after the daemons restart; nothing is left
/// when they are stopped.
fn across_nodes(backend: &str) {
    lab(|lab| {
        let mut scene = Scene::new(lab, 2, &config(backend))?;
        let [a, b] = [scene.containerds[0].run("a")?, scene.containerds[1].run("b")?];
        let both_ways = |scene: &Scene| -> Result<()> {
            for v4 in [true, false] {
                let found = scene.containerds[0].wait_ask(&a, b.server(v4)?)?;
                ensure!(found == answer("b", a.address(v4)?), "{found:?}");
                let found = scene.containerds[1].wait_ask(&b, a.server(v4)?)?;
                ensure!(found == answer("a", b.address(v4)?), "{found:?}");
            }
            Ok(())
        };
        both_ways(&scene)?;
        scene.daemons[0].stop()?;
        scene.daemons[1].kill()?;
        both_ways(&scene)?;
        for daemon in &mut scene.daemons {
            daemon.start()?;
            daemon.wait_ready()?;
        }
        both_ways(&scene)?;
        scene.containerds[0].stop(&a)?;
        scene.containerds[1].stop(&b)?;
        scene.expect_nothing(0, &[a])?;
        scene.expect_nothing(1, &[b])
    });
}

#[test]
fn across_nodes_on_vxlan() {
    across_nodes(r#"{"Type":"vxlan"}"#);
}

#[test]
fn across_nodes_on_host_gw() {
    across_nodes(r#"{"Type":"host-gw"}"#);
}

/// Who is outside the cluster sees the address of the node, whoever of daemon and plugin has to see to that.
fn to_the_outside(argument: &str) {
    lab(|lab| {
        let scene = Scene::with(lab, 1, &config(r#"{"Type":"vxlan"}"#), argument)?;
        lab.outside()?.spawn(Command::new(program("pod")).stdin(Stdio::null()))?;
        let pod = scene.containerds[0].run("a")?;
        for v4 in [true, false] {
            let server = SocketAddr::new(scene.cluster.lan.gateway(v4)?, PORT);
            let found = scene.containerds[0].wait_ask(&pod, server)?;
            ensure!(found.seen == scene.node_address(0, v4)?, "v4 {v4}: {found:?}, the pod is {pod:?}");
        }
        scene.containerds[0].stop(&pod)?;
        scene.expect_nothing(0, &[pod])
    });
}

#[test]
fn external_traffic_with_masquerade_by_the_daemon() {
    to_the_outside("--ip-masq=true");
}

#[test]
fn external_traffic_with_masquerade_by_the_plugin() {
    to_the_outside("--ip-masq=false");
}

/// A port of the node leads to the pod, from wherever it is asked, and no longer than the pod is there.
fn host_ports(backend: &str) {
    lab(|lab| {
        const PUBLISHED: u16 = 30080;
        let mut scene = Scene::new(lab, 2, &config(r#"{"Type":"vxlan"}"#))?;
        choose(lab, &mut scene, backend)?;
        let web = scene.containerds[0].run_with_ports("web", &[PUBLISHED])?;
        let other = scene.containerds[1].run("other")?;
        for v4 in [true, false] {
            let server = SocketAddr::new(scene.node_address(0, v4)?, PUBLISHED);
            // From another node, from a pod there, from the pod itself, from its own node, from the world outside.
            let found = scene.ask_from_node(1, server)?;
            ensure!(found == answer("web", scene.node_address(1, v4)?), "from n2: {found:?}");
            let found = scene.containerds[1].wait_ask(&other, server)?;
            ensure!(found.pod == "web", "from a pod of n2: {found:?}");
            let found = scene.containerds[0].wait_ask(&web, server)?;
            ensure!(found.pod == "web", "from itself: {found:?}");
            let found = scene.ask_from_node(0, server)?;
            ensure!(found.pod == "web", "from n1: {found:?}");
            let found = Scene::ask_from(&lab.outside()?, server)?;
            ensure!(found == answer("web", scene.cluster.lan.gateway(v4)?), "from outside: {found:?}");
        }
        let local = SocketAddr::new("127.0.0.1".parse().context("a constant address")?, PUBLISHED);
        let found = scene.ask_from_node(0, local)?;
        ensure!(found.pod == "web", "from n1 by 127.0.0.1: {found:?}");

        scene.containerds[0].stop(&web)?;
        scene.expect_nothing(0, &[web])?;
        let server = SocketAddr::new(scene.node_address(0, true)?, PUBLISHED);
        let refused = Scene::ask_from(&lab.outside()?, server).err().context("the port is still there")?;
        ensure!(format!("{refused:#}").contains("refused"), "{refused:#}");
        Ok(())
    });
}

#[test]
fn host_ports_with_iptables() {
    host_ports("iptables");
}

#[test]
fn host_ports_with_nftables() {
    host_ports("nftables");
}

/// Lets the first node make its host ports with one of the firewalls.
fn choose(lab: &Lab, scene: &mut Scene, backend: &str) -> Result<()> {
    if backend == "iptables" {
        lab.require(&[Feature::Iptables])?;
    }
    scene.change_list(0, r#""portmap","#, &format!(r#""portmap","backend":"{backend}","#))
}

/// A client that goes on asking by UDP gets its answers from the pod that has the port now, not from one that is gone
/// or from nobody, as the kernel's memory of the flow would have it.
fn udp_host_port_passes_on(backend: &str) {
    lab(|lab| {
        let mut scene = Scene::new(lab, 1, &config(r#"{"Type":"host-gw"}"#))?;
        choose(lab, &mut scene, backend)?;
        let outside = lab.outside()?;
        for v4 in [true, false] {
            let server = format!("udp:{}", SocketAddr::new(scene.node_address(0, v4)?, 30053));
            let ask = || Scene::ask_from(&outside, &server);
            for name in ["first", "second"] {
                let nobody = ask();
                ensure!(nobody.is_err(), "before {name}: {nobody:?}");
                let pod = scene.containerds[0].run_with_ports(name, &[30053])?;
                let found = wait::until(format!("{name} answers"), wait::LONG, ask)?;
                ensure!(found == answer(name, scene.cluster.lan.gateway(v4)?), "{name}: {found:?}");
                scene.containerds[0].stop(&pod)?;
            }
        }
        Ok(())
    });
}

#[test]
fn udp_host_port_moves_to_the_new_pod_with_iptables() {
    udp_host_port_passes_on("iptables");
}

#[test]
fn udp_host_port_moves_to_the_new_pod_with_nftables() {
    udp_host_port_passes_on("nftables");
}

/// With the plugin `bandwidth` at the end of the list, the annotations that Kubernetes has for it set limits.
#[test]
fn bandwidth_annotations() {
    lab(|lab| {
        lab.require(&[Feature::Tbf, Feature::Ifb])?;
        let mut scene = Scene::new(lab, 1, &config(r#"{"Type":"host-gw"}"#))?;
        let netns = scene.machines[0].netns().clone();
        let links = || netns.ip("-o link show type ifb");
        let before = links()?;
        scene.change_list(0, "}]}", r#"},{"type":"bandwidth","capabilities":{"bandwidth":true}}]}"#)?;

        let limits = [("kubernetes.io/ingress-bandwidth", "10M"), ("kubernetes.io/egress-bandwidth", "20M")];
        let pod = scene.containerds[0].run_annotated("limited", &limits)?;
        let queues = netns.run("tc qdisc show")?;
        for (direction, rate) in [("to the pod", "rate 10Mbit"), ("from the pod", "rate 20Mbit")] {
            let found = queues.lines().any(|line| line.contains("tbf") && line.contains(rate));
            ensure!(found, "no limit {direction}, {rate}, in\n{queues}");
        }
        let found = Scene::ask_from(&netns, pod.server(true)?)?;
        ensure!(found.pod == "limited", "{found:?}");
        scene.containerds[0].stop(&pod)?;
        let after = links()?;
        ensure!(before == after, "before: {before}after: {after}");
        scene.expect_nothing(0, &[pod])
    });
}
