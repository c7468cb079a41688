//! Real nodes: the kubelet, containerd and kube-proxy.

use anyhow::{Context, Result, ensure};
use integration::image::{NAME, PORT, PROGRAM};
use integration::kubernetes::{Client, SERVICE, Worker};
use integration::{Cluster, lab, program, wait};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Pods of the host network run on nodes that are not ready yet, as a network provider needs: a DaemonSet starts them by itself.
/// They reach the API server by the address of its service, and `kubectl` reaches them.
#[test]
fn daemon_set_runs_before_nodes_are_ready() {
    lab(|lab| {
        let settings = settings_of_the_machine()?;
        let cluster = lab.cluster(2)?;
        let control_plane = cluster.control_plane(lab)?;
        control_plane.start_controllers()?;
        control_plane.start_scheduler()?;
        let workers =
            (0..2).map(|index| control_plane.worker(lab, &cluster, index)).collect::<Result<Vec<_>>>()?;
        let admin = &control_plane.admin;
        admin.create("/apis/apps/v1/namespaces/default/daemonsets", &daemon_set())?;
        let pods = wait_running(admin, workers.len())?;
        for worker in &workers {
            worker.wait_ready(admin, false)?;
            ensure!(pods.iter().any(|pod| pod["spec"]["nodeName"] == worker.name.as_str()), "{pods:?}");
            ask_the_host(&cluster, worker)?;
        }
        let name = pods[0]["metadata"]["name"].as_str().context("a pod without name")?;
        let said = admin.kubectl(&format!("exec {name} -- {PROGRAM} ask 192.168.50.2:{PORT}"))?;
        ensure!(said.contains(" 192.168.50."), "{said}");
        let said = wait::until("kube-proxy has the service of the API server", wait::LONG, || {
            workers[0].machine.netns().run(&format!("curl --silent --insecure https://{SERVICE}/version"))
        })?;
        ensure!(said.contains("gitVersion"), "{said}");
        admin.delete("/apis/apps/v1/namespaces/default/daemonsets/probe")?;
        wait::until("the pods are removed", wait::LONG, || {
            let left = admin.get("/api/v1/namespaces/default/pods")?;
            ensure!(left["items"].as_array().is_some_and(Vec::is_empty), "{left}");
            Ok(())
        })?;
        let after = settings_of_the_machine()?;
        ensure!(settings == after, "before: {settings:?}, after: {after:?}");
        Ok(())
    });
}

/// Settings that a kubelet changes if it can.
fn settings_of_the_machine() -> Result<Vec<String>> {
    let names = ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"];
    names
        .iter()
        .map(|name| fs::read_to_string(Path::new("/proc/sys").join(name)).context("a setting is missing"))
        .collect()
}

fn daemon_set() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "probe"},
        "spec": {
            "selector": {"matchLabels": {"app": "probe"}},
            "template": {
                "metadata": {"labels": {"app": "probe"}},
                "spec": {
                    "hostNetwork": true,
                    "tolerations": [{"operator": "Exists"}],
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "probe", "image": NAME}],
                },
            },
        },
    })
}

/// Waits until this many pods are running. Returns them.
fn wait_running(admin: &Client, count: usize) -> Result<Vec<Value>> {
    wait::until(format!("{count} pods run"), wait::LONG * 2, || {
        let list = admin.get("/api/v1/namespaces/default/pods")?;
        let pods = list["items"].as_array().context("a list without items")?;
        let running = pods.iter().filter(|pod| pod["status"]["phase"] == "Running").count();
        let states: Vec<_> = pods.iter().map(|pod| &pod["status"]).collect();
        ensure!(running == count && pods.len() == count, "{running} of {count}: {states:?}");
        Ok(pods.clone())
    })
}

/// Asks the pod of the host network of a node.
fn ask_the_host(cluster: &Cluster, worker: &Worker) -> Result<()> {
    let index = cluster.nodes.iter().position(|node| node.name() == worker.name).context("no such node")?;
    let address = cluster.nics[index].addresses[0].addr();
    let line = format!("{} ask {address}:{PORT}", program("pod").display());
    wait::until(format!("the pod of {} answers", worker.name), wait::LONG, || {
        worker.machine.netns().run(&line)
    })
    .map(drop)
}
