//! Nodes with Windows in the cluster, as Go flannel publishes them: those that this node can use are peers, others are reported by name.

use anyhow::{Context, Result, ensure};
use integration::kubernetes::{Client, node_with_cidrs};
use integration::pages::walk;
use integration::{Feature, Flanneld, lab, wait};
use serde_json::{Value, json};
use std::fs;

/// A node with Windows, whose daemon has published these annotations.
fn windows(admin: &Client, number: u8, published: &[(&str, &str)]) -> Result<()> {
    let (address, subnet) = (format!("192.168.50.{number}"), format!("10.42.{number}.0/24"));
    let mut node = node_with_cidrs(&format!("win{number}"), &[&address], &[&subnet]);
    node["metadata"]["labels"]["kubernetes.io/os"] = "windows".into();
    let common = [("kube-subnet-manager", "true"), ("public-ip", &address)];
    let all = common.iter().chain(published);
    let all = all.map(|(key, value)| (format!("flannel.alpha.coreos.com/{key}"), json!(value)));
    node["metadata"]["annotations"] = Value::Object(all.collect());
    admin.create("/api/v1/nodes", &node).map(drop)
}

#[test]
fn nodes_are_used_or_named() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Nft])?;
        let cluster = lab.cluster(1)?;
        let control_plane = cluster.control_plane(lab)?;
        let account = control_plane.install_account()?;
        let admin = &control_plane.admin;
        admin.create("/api/v1/nodes", &node_with_cidrs("n1", &["192.168.50.1"], &["10.42.1.0/24"]))?;
        let vtep = ("backend-data", r#"{"VNI":4096,"VtepMAC":"00:15:5d:00:00:07"}"#);
        windows(admin, 7, &[("backend-type", "vxlan"), vtep])?;
        windows(admin, 8, &[("backend-type", "host-gw"), ("backend-data", "null")])?;
        windows(admin, 9, &[("backend-type", "vxlan"), ("backend-data", r#"{"VNI":4096}"#)])?;

        let backend = walk("kubernetes::windows::nodes_are_used_or_named", |guide| {
            Ok(guide.next("\"Backend\"")?.text().to_owned())
        })?;
        let config = lab.directory("net-conf")?.join("net-conf.json");
        let network = format!(r#"{{"Network": "10.42.0.0/16", "EnableNFTables": true, {backend}}}"#);
        fs::write(&config, network).context("could not write the network config")?;
        let flanneld = Flanneld::bare()
            .environment("NODE_NAME", "n1")
            .argument("--kube-subnet-mgr")
            .argument(format!("--kubeconfig-file={}", account.kubeconfig().display()))
            .argument(format!("--net-config-path={}", config.display()))
            .argument("--ip-masq");
        let mut daemon = cluster.nodes[0].start(&flanneld)?;
        daemon.wait_ready()?;
        daemon.wait_log(&["10.42.9.0-24", "node win9: ", "VtepMAC"])?;
        let peers = daemon.status("/peers")?.body;
        ensure!(peers.contains("10.42.8.0/24") && peers.contains("host-gw"), "{peers}");
        let netns = cluster.nodes[0].netns();
        wait::until("the first one is a peer", wait::LONG, || {
            let routes = netns.ip("-4 route show dev flannel.4096")?;
            ensure!(routes.contains("10.42.7.0/24") && !routes.contains("10.42.8.0/24"), "{routes}");
            ensure!(!routes.contains("10.42.9.0/24"), "{routes}");
            Ok(())
        })?;
        let device = netns.ip("-d link show flannel.4096")?;
        ensure!(device.contains("vxlan id 4096") && device.contains("dstport 4789"), "{device}");
        Ok(())
    });
}
