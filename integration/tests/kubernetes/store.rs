//! `flanneld --kube-subnet-mgr` on a real API server, with the rights of the manifest only.
//!
//! ```text
//!   n1 ──┬── lan 192.168.50.0/24 ── control plane (192.168.50.230)
//!   n2 ──┘
//! ```

use anyhow::{Context, Result, ensure};
use integration::cni::all_reach_all;
use integration::kernel_state::mac;
use integration::kubernetes::{
    Client, ControlPlaneOptions, Identity, annotations, condition, node, node_with_cidrs,
};
use integration::{Cluster, ControlPlane, Daemon, Feature, Flanneld, Lab, lab, wait};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const CONFIG: &str = r#"{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;
const NODES: &str = "/api/v1/nodes";
const PREFIX: &str = "flannel.alpha.coreos.com/";
const UNAVAILABLE: &str = "NetworkUnavailable";

/// A control plane with the service account of the manifest, and hosts of nodes.
struct Fixture {
    cluster: Cluster,
    control_plane: ControlPlane,
    account: Client,
    volume: Volume,
}

/// A volume of a ConfigMap as the kubelet makes it: a file that is a link into a directory, which is replaced by moving a link.
struct Volume(PathBuf);

impl Volume {
    fn create(directory: PathBuf, config: &str) -> Result<Self> {
        symlink("..data/net-conf.json", directory.join("net-conf.json"))?;
        let volume = Self(directory);
        volume.set(config, "first")?;
        Ok(volume)
    }

    fn set(&self, config: &str, version: &str) -> Result<()> {
        let Self(directory) = self;
        let content = directory.join(format!("..{version}"));
        fs::create_dir(&content)?;
        fs::write(content.join("net-conf.json"), config)?;
        symlink(format!("..{version}"), directory.join("..data_tmp"))?;
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).context("could not move a link")
    }

    fn file(&self) -> PathBuf {
        self.0.join("net-conf.json")
    }
}

impl Fixture {
    fn start(lab: &Lab, nodes: usize) -> Result<Self> {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(nodes)?;
        let control_plane = ControlPlane::start(lab, &cluster.lan, &ControlPlaneOptions::default())?;
        let account = control_plane.install_account()?;
        let volume = Volume::create(lab.directory("net-conf")?, CONFIG)?;
        Ok(Self { cluster, control_plane, account, volume })
    }

    fn admin(&self) -> &Client {
        &self.control_plane.admin
    }

    /// Registers the node with this number, with podCIDRs of both families.
    fn register(&self, number: u8) -> Result<Value> {
        let cidrs = [format!("10.42.{number}.0/24"), format!("fd42:0:0:{number}::/64")];
        self.register_with(number, &[&cidrs[0], &cidrs[1]])
    }

    fn register_with(&self, number: u8, cidrs: &[&str]) -> Result<Value> {
        let address = format!("192.168.50.{number}");
        let object = if cidrs.is_empty() {
            node(&format!("n{number}"), &[&address])
        } else {
            node_with_cidrs(&format!("n{number}"), &[&address], cidrs)
        };
        self.admin().create(NODES, &object)
    }

    fn flanneld(&self, number: u8) -> Flanneld {
        self.flanneld_as(number, self.account.kubeconfig())
    }

    fn flanneld_as(&self, number: u8, kubeconfig: &Path) -> Flanneld {
        Flanneld::bare()
            .argument("--kube-subnet-mgr")
            .argument(format!("--kubeconfig-file={}", kubeconfig.display()))
            .argument(format!("--net-config-path={}", self.volume.file().display()))
            .environment("NODE_NAME", &format!("n{number}"))
    }

    /// Starts the daemon of the node with this number.
    fn run(&self, number: u8) -> Result<Daemon> {
        self.cluster.nodes[usize::from(number) - 1].start(&self.flanneld(number))
    }

    /// Two registered nodes with daemons that are ready.
    fn two(&self) -> Result<[Daemon; 2]> {
        self.register(1)?;
        self.register(2)?;
        let mut daemons = [self.run(1)?, self.run(2)?];
        for daemon in &mut daemons {
            daemon.wait_ready()?;
        }
        Ok(daemons)
    }

    fn node(&self, number: u8) -> Result<Value> {
        self.admin().get(&format!("{NODES}/n{number}"))
    }

    fn annotate(&self, number: u8, key: &str, value: Option<&str>) -> Result<()> {
        let change = json!({"metadata": {"annotations": {format!("{PREFIX}{key}"): value}}});
        self.admin().patch(&format!("{NODES}/n{number}"), &change).map(drop)
    }

    fn annotation(&self, number: u8, key: &str) -> Result<Option<String>> {
        Ok(annotations(&self.node(number)?).get(&format!("{PREFIX}{key}")).cloned())
    }

    /// Waits until the node with this number has a route to a subnet, or has none any more.
    fn wait_route(&self, number: u8, subnet: &str, is_there: bool) -> Result<()> {
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

    fn wait_condition(&self, number: u8, status: &str, reason: &str) -> Result<()> {
        wait::until(format!("n{number}: {UNAVAILABLE} is {status}"), wait::LONG, || {
            let node = self.node(number)?;
            let found = condition(&node, UNAVAILABLE).context("no condition")?;
            ensure!(found["status"] == status && found["reason"] == reason, "{found}");
            Ok(())
        })
    }
}

/// Nodes become peers with the annotations of Go flannel, pods talk, a restart writes nothing, and peers whose annotations are
/// removed or damaged are handled by themselves.
#[test]
fn nodes_become_peers() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 2)?;
        let mut daemons = fixture.two()?;
        fixture.wait_route(1, "10.42.2.0/24", true)?;
        fixture.wait_route(2, "10.42.1.0/24", true)?;
        let node = fixture.node(1)?;
        let found = annotations(&node);
        let mac = mac(fixture.cluster.nodes[0].netns(), "flannel.1")?;
        let expected = [
            ("backend-data", format!(r#"{{"VNI":1,"VtepMAC":"{}"}}"#, mac.trim())),
            ("backend-type", "vxlan".to_owned()),
            ("kube-subnet-manager", "true".to_owned()),
            ("public-ip", "192.168.50.1".to_owned()),
        ];
        let expected = expected.map(|(key, value)| (format!("{PREFIX}{key}"), value)).into_iter().collect();
        ensure!(found == expected, "{found:?}");
        fixture.wait_condition(1, "False", "FlannelIsUp")?;
        let found = condition(&fixture.node(1)?, UNAVAILABLE).cloned().context("no condition")?;
        ensure!(found["message"] == "Flannel is running on this node", "{found}");
        all_reach_all(&fixture.cluster.pods("a")?, true, 1500 - 50)?;

        let before = fixture.node(1)?["metadata"]["resourceVersion"].clone();
        daemons[0].restart()?;
        daemons[0].kill()?;
        daemons[0].start()?;
        daemons[0].wait_ready()?;
        fixture.wait_route(1, "10.42.2.0/24", true)?;
        let after = fixture.node(1)?["metadata"]["resourceVersion"].clone();
        ensure!(before == after, "a restart changed the node: {before} {after}");

        fixture.annotate(2, "backend-data", Some("{"))?;
        // Its own daemon publishes them again; the damaged ones are reported by name.
        daemons[0].wait_log(&["node n2", "backend-data", "must be JSON"])?;
        fixture.wait_route(1, "10.42.2.0/24", true)?;
        daemons[1].stop()?;
        fixture.annotate(2, "kube-subnet-manager", None)?;
        fixture.wait_route(1, "10.42.2.0/24", false)?;
        daemons[1].start()?;
        fixture.wait_route(1, "10.42.2.0/24", true)
    });
}

/// A node without a podCIDR waits for it, one with an unsuitable podCIDR reports it, and both go on when the node is created again;
/// the network config is taken from the volume as from the store.
#[test]
fn the_cluster_assigns_subnets_and_config() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 1)?;
        let mut daemon = fixture.run(1)?;
        daemon.wait_log(&["waiting for a subnet", "node n1, which is not in the cluster"])?;
        fixture.register_with(1, &[])?;
        daemon.wait_log(&[
            "waiting for a subnet",
            "spec.podCIDRs of node n1 has no IPv4 subnet",
            "--allocate-node-cidrs",
        ])?;
        ensure!(daemon.get("/readyz")?.status == 503);
        ensure!(annotations(&fixture.node(1)?).is_empty(), "nothing is published before there is a subnet");
        ensure!(condition(&fixture.node(1)?, UNAVAILABLE).is_none(), "it is not up");

        let again = |cidrs: &[&str]| {
            fixture.admin().delete(&format!("{NODES}/n1"))?;
            fixture.register_with(1, cidrs).map(drop)
        };
        again(&["10.99.1.0/24"])?;
        daemon.wait_log(&[
            "assigns 10.99.1.0/24",
            "outside of the IPv4 network 10.42.0.0/16",
            "--cluster-cidr",
        ])?;
        ensure!(annotations(&fixture.node(1)?).is_empty(), "nothing is published outside of the network");
        again(&["10.42.7.0/24"])?;
        daemon.wait_ready()?;
        let env = fixture.cluster.nodes[0].subnet(true)?;
        ensure!(env.to_string() == "10.42.7.0/24", "{env}");
        fixture.wait_condition(1, "False", "FlannelIsUp")?;

        // Someone sets it to something else.
        let other =
            json!({"status": {"conditions": [{"type": UNAVAILABLE, "status": "True", "reason": "Test"}]}});
        let path = format!("{NODES}/n1/status");
        let kind = "application/strategic-merge-patch+json";
        fixture.admin().send("PATCH", &path, Some((kind, &other)))?.succeeded("PATCH")?;
        fixture.wait_condition(1, "False", "FlannelIsUp")?;

        // The node is created again while pods could run.
        again(&["10.42.8.0/24"])?;
        wait::until("n1 has its new subnet", wait::LONG, || {
            let env = fixture.cluster.nodes[0].subnet(true)?;
            ensure!(env.to_string() == "10.42.8.0/24", "{env}");
            Ok(())
        })?;
        daemon.wait_log(&["lease lost", "10.42.7.0-24", "must be replaced"])?;

        fixture.volume.set(&CONFIG.replace("vxlan", "host-gw"), "second")?;
        daemon.wait_log(&["restart flanneld to take it"])?;
        fixture.volume.set(&CONFIG.replace("}}", r#","MTU":1400}}"#), "third")?;
        daemon.wait_log(&["network config taken from the store"])?;
        wait::until("subnet.env has the new MTU", wait::LONG, || {
            let text = fixture.cluster.nodes[0].subnet_env_text()?;
            ensure!(text.contains("FLANNEL_MTU=1350"), "{text}");
            Ok(())
        })
    });
}

/// The addresses that an administrator prescribes by annotations, and the VTEP MAC address of a node that keeps no state.
#[test]
fn annotations_of_the_administrator() {
    lab(|lab| {
        let mut fixture = Fixture::start(lab, 2)?;
        fixture.register(1)?;
        fixture.register(2)?;
        let nic = fixture.cluster.nodes[0].netns();
        nic.ip("addr add 192.168.50.101/24 dev eth0")?;
        fixture.annotate(1, "node-public-ip", Some("192.168.50.101"))?;
        fixture.annotate(1, "public-ipv6", Some("fd50::99"))?;
        fixture.annotate(1, "backend-v6-data", Some("null"))?;
        let mut first = fixture.run(1)?;
        first.wait_ready()?;
        wait::until("n1 has published", wait::LONG, || {
            let found = fixture.annotation(1, "public-ip")?;
            ensure!(found.as_deref() == Some("192.168.50.101"), "{found:?}");
            Ok(())
        })?;
        let stale = (fixture.annotation(1, "public-ipv6")?, fixture.annotation(1, "backend-v6-data")?);
        ensure!(stale == (None, None), "{stale:?}");

        // Taken at once, and given back at once.
        fixture.annotate(1, "public-ip-overwrite", Some("192.168.50.200"))?;
        for expected in ["192.168.50.200", "192.168.50.101"] {
            wait::until(format!("n1 publishes {expected}"), wait::LONG, || {
                let found = fixture.annotation(1, "public-ip")?;
                ensure!(found.as_deref() == Some(expected), "{found:?}");
                Ok(())
            })?;
            fixture.annotate(1, "public-ip-overwrite", None)?;
        }
        let log = first.log()?;
        ensure!(!log.contains("conflicting daemon"), "{log}");

        let data = fixture.annotation(1, "backend-data")?.context("no data")?;
        first.stop()?;
        fixture.cluster.reboot(0)?;
        let state = fixture.cluster.nodes[0].file("/var/lib/flannel")?;
        fs::remove_dir_all(&state).and_then(|()| fs::create_dir(&state))?;
        fixture.cluster.nodes[0].netns().ip("addr add 192.168.50.101/24 dev eth0")?;
        let mut first = fixture.run(1)?;
        first.wait_ready()?;
        let mac = mac(fixture.cluster.nodes[0].netns(), "flannel.1")?;
        ensure!(data.contains(mac.trim()), "{data} {mac}");
        Ok(())
    });
}

/// Two daemons with one node name: both report it, and neither rewrites the annotations again and again.
#[test]
fn one_name_for_two_nodes() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 2)?;
        fixture.register(1)?;
        let mut first = fixture.run(1)?;
        first.wait_ready()?;
        let twin = fixture.cluster.nodes[1].start(&fixture.flanneld(1))?;
        first.wait_log(&["conflicting daemon", "192.168.50.2", "10.42.1.0-24", "name of its own"])?;
        twin.wait_log(&["lease acquired"])?;
        let settled = fixture.annotation(1, "public-ip")?;
        wait::holds_for("nobody rewrites the annotations", std::time::Duration::from_secs(3), || {
            let now = fixture.annotation(1, "public-ip")?;
            ensure!(now == settled, "{now:?} {settled:?}");
            Ok(())
        })
    });
}

/// The API server is stopped, and comes back as it was a while ago; daemons are restarted meanwhile.
#[test]
fn the_api_server_is_away() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 2)?;
        let mut daemons = fixture.two()?;
        fixture.wait_route(1, "10.42.2.0/24", true)?;
        fixture.wait_condition(1, "False", "FlannelIsUp")?;
        fixture.wait_condition(2, "False", "FlannelIsUp")?;
        let pods = fixture.cluster.pods("a")?;
        all_reach_all(&pods, true, 1500 - 50)?;
        fixture.control_plane.save("backup")?;

        // The revision of the backup is older than this. It changes no peer.
        fixture.annotate(2, "public-ip-overwrite", Some("192.168.50.2"))?;
        fixture.control_plane.api_server.kill()?;
        daemons[0].wait_log(&["store unreachable, retrying", "192.168.50.230"])?;
        // From the state directory.
        daemons[1].kill()?;
        daemons[1].start()?;
        daemons[1].wait_ready()?;
        daemons[1].wait_log(&["store unreachable, using the lease of the last run"])?;
        all_reach_all(&pods, true, 1500 - 50)?;
        // Without one, a node waits.
        let state = fixture.cluster.nodes[0].file("/var/lib/flannel")?;
        daemons[0].stop()?;
        fs::remove_dir_all(&state).and_then(|()| fs::create_dir(&state))?;
        daemons[0].start()?;
        wait::until("n1 waits for the store", wait::LONG, || {
            let answer = daemons[0].status("/status")?;
            ensure!(answer.body.contains("the store does not answer"), "{}", answer.body);
            Ok(())
        })?;
        all_reach_all(&pods, true, 1500 - 50)?;

        fixture.control_plane.api_server.start()?;
        fixture.control_plane.restore("backup")?;
        for daemon in &mut daemons {
            daemon.wait_ready()?;
        }
        daemons[1].wait_log(&["store reachable again"])?;
        fixture.wait_route(1, "10.42.2.0/24", true)?;
        fixture.wait_route(2, "10.42.1.0/24", true)?;
        // Changes arrive again.
        fixture.admin().delete(&format!("{NODES}/n2"))?;
        daemons[1].stop()?;
        fixture.wait_route(1, "10.42.2.0/24", false)
    });
}

/// A token that is not accepted, and rights that are taken away: the error names the right and the rule.
#[test]
fn identity_and_rights() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 1)?;
        fixture.register(1)?;
        let nobody = fixture.control_plane.client("nobody", Identity::Token("nonsense".to_owned()))?;
        let kubeconfig = nobody.kubeconfig().to_owned();
        let mut daemon = fixture.cluster.nodes[0].start(&fixture.flanneld_as(1, &kubeconfig))?;
        daemon.wait_log(&["rejects the identity of flanneld", "401", "[get, list, watch]"])?;
        // It is replaced in place, as a token that rotates is.
        fs::copy(fixture.account.kubeconfig(), &kubeconfig)?;
        daemon.wait_ready()?;
        fixture.wait_condition(1, "False", "FlannelIsUp")?;

        let admin = fixture.admin();
        let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/flannel";
        let rules = admin.get(role)?["rules"].clone();
        admin.patch(role, &json!({"rules": []}))?;
        daemon.stop()?;
        daemon.start()?;
        daemon.wait_log(&["denies permission", "resources: [nodes], verbs: [get, list, watch]"])?;
        let reads = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}]);
        admin.patch(role, &json!({"rules": reads}))?;
        daemon.wait_ready()?;
        fixture.annotate(1, "public-ip", None)?;
        daemon.wait_log(&["denies permission", "resources: [nodes/status], verbs: [patch]"])?;
        admin.patch(role, &json!({"rules": rules}))?;
        wait::until("n1 publishes again", wait::LONG, || {
            let found = fixture.annotation(1, "public-ip")?;
            ensure!(found.as_deref() == Some("192.168.50.1"), "{found:?}");
            Ok(())
        })
    });
}
