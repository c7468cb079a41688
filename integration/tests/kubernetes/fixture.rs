//! A control plane and nodes whose daemons have the rights of the manifest only.
//!
//! ```text
//!   n1 ──┬── lan 192.168.50.0/24 ── control plane (192.168.50.230)
//!   n2 ──┘
//! ```

use anyhow::{Context, Result, ensure};
use integration::kubernetes::{Client, ControlPlaneOptions, annotations, condition, node, node_with_cidrs};
use integration::traffic::Datagrams;
use integration::{Cluster, ControlPlane, Daemon, Feature, Flanneld, Lab, Pod, wait};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const CONFIG: &str =
    r#"{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;
pub(super) const NODES: &str = "/api/v1/nodes";
pub(super) const PREFIX: &str = "flannel.alpha.coreos.com/";
pub(super) const UNAVAILABLE: &str = "NetworkUnavailable";

/// A control plane with the service account of the manifest, and hosts of nodes.
pub(super) struct Fixture {
    pub(super) cluster: Cluster,
    pub(super) control_plane: ControlPlane,
    pub(super) account: Client,
    pub(super) volume: Volume,
}

/// A volume of a ConfigMap as the kubelet makes it: a file that is a link into a directory, which is replaced by moving a link.
pub(super) struct Volume(PathBuf);

impl Volume {
    fn create(directory: PathBuf, config: &str) -> Result<Self> {
        symlink("..data/net-conf.json", directory.join("net-conf.json"))?;
        let volume = Self(directory);
        volume.set(config, "first")?;
        Ok(volume)
    }

    pub(super) fn set(&self, config: &str, version: &str) -> Result<()> {
        let Self(directory) = self;
        let content = directory.join(format!("..{version}"));
        fs::create_dir(&content)?;
        fs::write(content.join("net-conf.json"), config)?;
        symlink(format!("..{version}"), directory.join("..data_tmp"))?;
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).context("could not move a link")
    }

    pub(super) fn file(&self) -> PathBuf {
        self.0.join("net-conf.json")
    }
}

impl Fixture {
    pub(super) fn start(lab: &Lab, nodes: usize) -> Result<Self> {
        Self::start_with(lab, nodes, &ControlPlaneOptions::default())
    }

    pub(super) fn start_with(lab: &Lab, nodes: usize, options: &ControlPlaneOptions) -> Result<Self> {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(nodes)?;
        let control_plane = ControlPlane::start(lab, &cluster.lan, options)?;
        let account = control_plane.install_account()?;
        let volume = Volume::create(lab.directory("net-conf")?, CONFIG)?;
        Ok(Self { cluster, control_plane, account, volume })
    }

    pub(super) fn admin(&self) -> &Client {
        &self.control_plane.admin
    }

    /// Registers the node with this number, with podCIDRs of both families.
    pub(super) fn register(&self, number: u8) -> Result<Value> {
        let cidrs = [format!("10.42.{number}.0/24"), format!("fd42:0:0:{number}::/64")];
        self.register_with(number, &[&cidrs[0], &cidrs[1]])
    }

    pub(super) fn register_with(&self, number: u8, cidrs: &[&str]) -> Result<Value> {
        let address = format!("192.168.50.{number}");
        let object = if cidrs.is_empty() {
            node(&format!("n{number}"), &[&address])
        } else {
            node_with_cidrs(&format!("n{number}"), &[&address], cidrs)
        };
        self.admin().create(NODES, &object)
    }

    pub(super) fn flanneld(&self, number: u8) -> Flanneld {
        self.flanneld_as(number, self.account.kubeconfig())
    }

    pub(super) fn flanneld_as(&self, number: u8, kubeconfig: &Path) -> Flanneld {
        Flanneld::bare()
            .argument("--kube-subnet-mgr")
            .argument(format!("--kubeconfig-file={}", kubeconfig.display()))
            .argument(format!("--net-config-path={}", self.volume.file().display()))
            .environment("NODE_NAME", &format!("n{number}"))
    }

    /// Starts the daemon of the node with this number.
    pub(super) fn run(&self, number: u8) -> Result<Daemon> {
        self.cluster.nodes[usize::from(number) - 1].start(&self.flanneld(number))
    }

    /// Two registered nodes with daemons that are ready.
    pub(super) fn two(&self) -> Result<[Daemon; 2]> {
        self.register(1)?;
        self.register(2)?;
        let mut daemons = [self.run(1)?, self.run(2)?];
        for daemon in &mut daemons {
            daemon.wait_ready()?;
        }
        Ok(daemons)
    }

    pub(super) fn node(&self, number: u8) -> Result<Value> {
        self.admin().get(&format!("{NODES}/n{number}"))
    }

    pub(super) fn annotate(&self, number: u8, key: &str, value: Option<&str>) -> Result<()> {
        let change = json!({"metadata": {"annotations": {format!("{PREFIX}{key}"): value}}});
        self.admin().patch(&format!("{NODES}/n{number}"), &change).map(drop)
    }

    pub(super) fn annotation(&self, number: u8, key: &str) -> Result<Option<String>> {
        Ok(annotations(&self.node(number)?).get(&format!("{PREFIX}{key}")).cloned())
    }

    /// Waits until the node with this number has a route to a subnet, or has none any more.
    pub(super) fn wait_route(&self, number: u8, subnet: &str, is_there: bool) -> Result<()> {
        let netns = self.cluster.nodes[usize::from(number) - 1].netns();
        wait::until(format!("n{number}: route to {subnet}: {is_there}"), wait::LONG, || {
            let found = netns.ip("-4 route show")?;
            let has = found
                .lines()
                .any(|line| line.starts_with(&format!("{subnet} ")) && line.contains("flannel.1"));
            ensure!(has == is_there, "{found}");
            Ok(())
        })
    }

    pub(super) fn wait_condition(&self, number: u8, status: &str, reason: &str) -> Result<()> {
        wait::until(format!("n{number}: {UNAVAILABLE} is {status}"), wait::LONG, || {
            let node = self.node(number)?;
            let found = condition(&node, UNAVAILABLE).context("no condition")?;
            ensure!(found["status"] == status && found["reason"] == reason, "{found}");
            Ok(())
        })
    }

    /// Sets the condition of a node that its daemon sets to `False`.
    pub(super) fn set_unavailable(&self, number: u8) -> Result<()> {
        let condition = json!({"type": UNAVAILABLE, "status": "True", "reason": "Test"});
        let change = json!({"status": {"conditions": [condition]}});
        let content = Some(("application/strategic-merge-patch+json", &change));
        self.admin()
            .send("PATCH", &format!("{NODES}/n{number}/status"), content)?
            .succeeded("PATCH")
            .map(drop)
    }

    /// Adds the peer with this number; both nodes with daemons get a route to it.
    pub(super) fn add_peer(&self, number: u8) -> Result<()> {
        self.admin().create(NODES, &peer(number))?;
        (1..=2).try_for_each(|node| self.wait_route(node, &format!("10.42.{number}.0/24"), true))
    }
}

/// A node without a daemon, as the daemon of another host would publish it: podCIDR 10.42.NUMBER.0/24, 192.168.50.NUMBER, and a VTEP.
pub(super) fn peer(number: u8) -> Value {
    let mut peer = node_with_cidrs(
        &format!("n{number}"),
        &[&format!("192.168.50.{number}")],
        &[&format!("10.42.{number}.0/24")],
    );
    peer["metadata"]["annotations"] = json!({
        format!("{PREFIX}backend-data"): format!(r#"{{"VNI":1,"VtepMAC":"0a:00:00:00:00:{number:02x}"}}"#),
        format!("{PREFIX}backend-type"): "vxlan",
        format!("{PREFIX}kube-subnet-manager"): "true",
        format!("{PREFIX}public-ip"): format!("192.168.50.{number}"),
    });
    peer
}

/// Nodes 1 and 2 with daemons, and 100 packets a second between a pod of each.
pub(super) struct Traffic {
    pub(super) pods: Vec<Pod>,
    flow: Datagrams,
}

impl Traffic {
    pub(super) fn start(cluster: &Cluster) -> Result<Self> {
        let pods = cluster.nodes[..2].iter().map(|node| node.add_pod("pod")).collect::<Result<Vec<_>>>()?;
        let address = pods[1].address(true)?;
        pods[0].netns.wait_ping(address)?;
        let flow = Datagrams::start(&pods[0].netns, &pods[1].netns, address, Duration::from_millis(10))?;
        Ok(Self { pods, flow })
    }

    /// Ends it: nothing may have been lost.
    pub(super) fn expect_none_lost(self) -> Result<()> {
        self.flow.wait_answered(3)?;
        self.flow.stop()?.expect_none_lost()
    }
}

/// How far a log is, for [`logs`].
pub(super) fn mark(daemon: &Daemon) -> Result<usize> {
    Ok(daemon.log()?.len())
}

/// Waits until the daemon has logged a line with these parts since the mark.
pub(super) fn logs(daemon: &Daemon, since: usize, parts: &[&str]) -> Result<()> {
    wait::until(format!("a line of the log has {parts:?}"), wait::LONG, || {
        let log = daemon.log()?;
        let news = log.get(since..).unwrap_or_default();
        ensure!(news.lines().any(|line| parts.iter().all(|part| line.contains(part))), "{news}");
        Ok(())
    })
}

/// Waits until the state of the daemon has these texts, which `flannelctl status` shows, or until it has none of them.
pub(super) fn wait_status(daemon: &Daemon, parts: &[&str], is_there: bool) -> Result<()> {
    wait::until(format!("the status has {parts:?}: {is_there}"), wait::LONG, || {
        let status = daemon.status("/status")?.body;
        ensure!(parts.iter().all(|part| status.contains(part) == is_there), "{status}");
        Ok(())
    })
}
