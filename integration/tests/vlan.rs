//! VLANs of pods, done by the plugin itself: who reaches whom, and what the ports are members of.

use anyhow::{Context, Result, ensure};
use integration::cni::{Conflist, Pod};
use integration::{Cluster, Feature, Lab, Stack, lab};
use serde_json::{Value, json};

const HOST_GW: &str = r#"{"Type":"host-gw"}"#;

/// The list of Go flannel's manifest with more keys of bridge.
fn list(keys: &Value) -> Conflist {
    let mut delegate = json!({"isDefaultGateway": true});
    for (key, value) in keys.as_object().into_iter().flatten() {
        delegate[key] = value.clone();
    }
    Conflist::new("cbr0", "1.0.0", vec![json!({"type": "flannel", "delegate": delegate})])
}

fn node(lab: &Lab) -> Result<Cluster> {
    lab.require(&[Feature::BridgeVlan])?;
    lab.cluster(1)
}

/// The line of a pod's port in `bridge vlan`, with the lines that belong to it.
fn port(cluster: &Cluster, pod: &Pod) -> Result<String> {
    let name = pod.result["interfaces"][1]["name"].as_str().context("a result without a port")?.to_owned();
    let mut lines = Vec::new();
    for line in cluster.nodes[0].netns().run("bridge vlan show")?.lines() {
        let starts = !line.starts_with([' ', '\t']);
        if starts && line.starts_with(&name) || !starts && !lines.is_empty() {
            lines.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
        } else if !lines.is_empty() {
            break;
        }
    }
    Ok(lines.join("; "))
}

#[test]
fn vlans_isolate_pods() {
    lab(|lab| {
        let cluster = node(lab)?;
        let (_leases, _daemons) = cluster.start_on_directory(lab, &Stack::Dual.config(HOST_GW))?;
        let of_vlan =
            |name: &str, vlan: u16| cluster.nodes[0].add_pod_with(name, &list(&json!({"vlan": vlan})));
        let (a, b, other) = (of_vlan("a", 100)?, of_vlan("b", 100)?, of_vlan("other", 200)?);
        for v4 in [true, false] {
            a.netns.wait_ping(b.address(v4)?)?;
            let gateway = a.result["ips"][usize::from(!v4)]["gateway"].as_str().context("no gateway")?;
            a.netns.wait_ping(gateway.parse()?)?;
            let address = other.address(v4)?;
            let reached = a.netns.run(&format!("ping -c 2 -i 0.2 -W 1 {address}"));
            ensure!(reached.is_err(), "a pod of another VLAN was reached: {reached:?}");
        }
        ensure!(port(&cluster, &a)?.ends_with("100 PVID Egress Untagged"), "{}", port(&cluster, &a)?);
        ensure!(!port(&cluster, &a)?.contains(" 1 "), "{}", port(&cluster, &a)?);
        // The gateway is on an interface of the VLAN.
        ensure!(a.result["interfaces"][3]["name"] == "cni0.100", "{}", a.result);
        let addresses = cluster.nodes[0].netns().ip("-o addr show dev cni0.100 scope global")?;
        ensure!(addresses.lines().count() == 2, "{addresses}");
        for pod in [&a, &b, &other] {
            pod.check()?;
        }
        cluster.nodes[0].netns().run(&format!(
            "bridge vlan del dev {} vid 100",
            a.result["interfaces"][1]["name"].as_str().context("a result without a port")?
        ))?;
        ensure!(a.check().is_err(), "a port was taken out of its VLAN");
        for pod in [a, b, other] {
            pod.delete()?;
        }
        Ok(())
    });
}

#[test]
fn trunks_and_the_default_vlan() {
    lab(|lab| {
        let cluster = node(lab)?;
        let (_leases, _daemons) = cluster.start_on_directory(lab, &Stack::V4.config(HOST_GW))?;
        // A bridge that is there heeds no VLANs; the first pod with one changes that.
        let plain = cluster.nodes[0].add_pod("plain")?;
        let trunk = json!([{"minID": 10, "maxID": 12}, {"id": 20}]);
        for (name, keys, expected) in [
            ("trunk", json!({"vlanTrunk": trunk}), "1 PVID Egress Untagged; 10; 11; 12; 20"),
            ("both", json!({"vlan": 5, "vlanTrunk": trunk}), "5 PVID Egress Untagged; 10; 11; 12; 20"),
            (
                "kept",
                json!({"vlan": 5, "preserveDefaultVlan": true}),
                "1 Egress Untagged; 5 PVID Egress Untagged",
            ),
            ("all", json!({"vlanTrunk": [{"minID": 2, "maxID": 4094}]}), "4094"),
        ] {
            let pod = cluster.nodes[0].add_pod_with(name, &list(&keys))?;
            let found = port(&cluster, &pod)?;
            ensure!(found.ends_with(expected), "{name}: {found}");
            pod.check()?;
            pod.delete()?;
        }
        let details = cluster.nodes[0].netns().ip("-d link show dev cni0")?;
        ensure!(details.contains("vlan_filtering 1"), "{details}");
        // The pod without a VLAN goes on.
        let gateway = plain.result["ips"][0]["gateway"].as_str().context("no gateway")?;
        plain.netns.wait_ping(gateway.parse()?)
    });
}
