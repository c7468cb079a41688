//! docs/kubernetes.md, upgrade from Go flannel and back: only names of images change, and no packet between pods is lost.
//!
//! The Go daemon is that of `cargo xtask e2e --peer PROGRAM`. Without one, the test creates what it leaves: annotations, kernel state,
//! firewall rules and files, and an idle program takes its place.

use anyhow::{Context, Result, ensure};
use integration::artefacts::{Revision, file};
use integration::golden::{Peer, go};
use integration::image::{Layout, pack};
use integration::kernel_state::{device, fdb, mac, neighbours, routes};
use integration::kubernetes::{annotations, node_with_cidrs};
use integration::pages::walk;
use integration::report;
use integration::{Feature, Lab, Netns, lab, program};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::site::{Pod, Site};

const UPSTREAM: &str = include_str!("upstream.yml");
/// The images in it.
const DAEMON: &str = "ghcr.io/flannel-io/flannel:v0.28.9";
const PLUGIN: &str = "ghcr.io/flannel-io/flannel-cni-plugin:v1.9.1-flannel2";
const PREFIX: &str = "flannel.alpha.coreos.com/";

#[test]
fn from_go_and_back() {
    lab(|lab| {
        lab.require(&[Feature::CniPlugins])?;
        let go = std::env::var_os("FLANNEL_GO_FLANNELD").filter(|path| !path.is_empty());
        let is_recorded = go.is_none();
        let site = Site::boot(lab, false, Some(node_of))?;
        install_go(lab, &site, go)?;
        let pods = site.run_pods()?;
        site.expect_reach(&pods, true)?;
        let before = site.nodes()?;

        walk("kubernetes::upgrade::from_go_and_back", |guide| {
            let forward = guide.next("kubectl --namespace kube-flannel set image")?;
            let back = guide.next("kubectl --namespace kube-flannel rollout undo")?;
            let mut sent = Vec::new();
            for (step, image) in [(forward, "localhost/flannel:0.1.0"), (back, DAEMON)] {
                sent.push(site.lossless(&pods, || site.shell(step.text()).map(drop))?);
                site.expect_image(image)?;
                for worker in &site.workers {
                    // Of the package that installed it.
                    worker.machine.netns().run("cmp /usr/lib/cni/bridge /opt/cni/bin/bridge")?;
                }
                let after = site.nodes()?;
                ensure!(before == after, "{before:#?}\nbecame\n{after:#?}");
                site.expect_reach(&pods, true)?;
                site.expect_new_pod(&pods)?;
            }
            let kind = if is_recorded { "its recorded state" } else { "a Go daemon" };
            report(&format!(
                "{kind}: {} packets sent during the upgrade, {} on the way back, none lost\n",
                sent[0], sent[1]
            ))
        })
    });
}

/// The nodes exist before their kubelets, with known subnets.
fn node_of(name: &str) -> Value {
    let number = name.trim_start_matches('n');
    let cidrs = [subnet(number), format!("fd42:0:0:{number}::/64")];
    node_with_cidrs(name, &[&format!("192.168.50.{number}")], &[&cidrs[0], &cidrs[1]])
}

fn subnet(number: &str) -> String {
    format!("10.42.{number}.0/24")
}

/// What everybody knows of a node.
fn known(number: usize) -> Result<Peer> {
    Ok(Peer {
        public: format!("192.168.50.{number}").parse()?,
        subnet: subnet(&number.to_string()).parse()?,
        mac: Some(format!("1a:2b:3c:4d:5e:0{number}")),
    })
}

/// Nodes with Go flannel, and with the reference plugins as from a package.
fn install_go(lab: &Lab, site: &Site, go: Option<OsString>) -> Result<()> {
    let is_recorded = go.is_none();
    let program = go.map_or_else(|| program("pod"), PathBuf::from);
    let image = go_image(lab, &program)?;
    for (index, worker) in site.workers.iter().enumerate() {
        worker.import(&image)?;
        let netns = worker.machine.netns();
        netns.run("cp --recursive /usr/lib/cni/. /opt/cni/bin")?;
        // One image, under the names of both.
        netns.run(&format!("ctr -n k8s.io images tag {DAEMON} {PLUGIN}"))?;
        if is_recorded {
            record(site, index)?;
        }
    }
    // The idle program would not end by itself.
    let grace = if is_recorded {
        "hostNetwork: true\n      terminationGracePeriodSeconds: 1"
    } else {
        "hostNetwork: true"
    };
    site.admin().apply(&UPSTREAM.replace("hostNetwork: true", grace), &[])?;
    site.shell("kubectl --namespace kube-flannel rollout status daemonset/kube-flannel-ds --timeout 120s")?;
    if is_recorded {
        return Ok(());
    }
    site.wait_nodes()
}

/// An image with a daemon of others, our installers, plugin and iptables. The first default is the variant of the host.
fn go_image(lab: &Lab, program: &Path) -> Result<PathBuf> {
    let root = Layout::unpack(lab, &file(Revision::First, "-image.tar")?)?.own_root(lab, "go")?;
    // Another name of flannelctl, which must stay.
    let daemon = root.join("opt/bin/flanneld");
    fs::remove_file(&daemon)
        .and_then(|()| fs::copy(program, &daemon))
        .with_context(|| format!("could not copy {}", program.display()))?;
    for name in ["iptables", "ip6tables"] {
        for end in ["", "-save", "-restore"] {
            symlink(format!("{name}-nft{end}"), root.join(format!("usr/sbin/{name}{end}")))
                .context("could not link a program")?;
        }
    }
    let archive = lab.directory("image/go-work")?.join("go.tar");
    let config = json!({"Entrypoint": ["/opt/bin/flanneld"], "Env": ["PATH=/opt/bin:/usr/sbin"]});
    pack(&lab.directory("image/go-work")?, DAEMON, &root, &config, &archive)?;
    Ok(archive)
}

/// Creates what a Go daemon leaves on a node and in its annotations.
fn record(site: &Site, index: usize) -> Result<()> {
    let worker = &site.workers[index];
    let (own, peer) = (known(index + 1)?, known(2 - index)?);
    let netns = worker.machine.netns();
    go::vxlan(netns, &own, &peer)?;
    go::iptables_v4(netns, &own.subnet.to_string())?;
    let address = own.subnet.to_string().replace(".0/24", ".1/24");
    worker.machine.write(
        "/run/flannel/subnet.env",
        &format!(
            "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET={address}\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        ),
    )?;
    let data = format!(r#"{{"VNI":1,"VtepMAC":"{}"}}"#, own.mac.unwrap_or_default());
    let annotations = json!({
        format!("{PREFIX}backend-data"): data,
        format!("{PREFIX}backend-type"): "vxlan",
        format!("{PREFIX}kube-subnet-manager"): "true",
        format!("{PREFIX}public-ip"): own.public.to_string(),
    });
    let path = format!("/api/v1/nodes/{}", worker.name);
    site.admin().patch(&path, &json!({"metadata": {"annotations": annotations}})).map(drop)
}

/// What must not change: annotations, `subnet.env`, the device and the entries of the peer, but not the protocol of its route.
type Seen = Vec<(String, Vec<String>)>;

impl Site {
    fn nodes(&self) -> Result<Seen> {
        let mut seen = Seen::new();
        for worker in &self.workers {
            let node = self.admin().get(&format!("/api/v1/nodes/{}", worker.name))?;
            let own = annotations(&node).into_iter().filter(|(key, _)| key.starts_with(PREFIX));
            seen.push((worker.name.clone(), own.map(|(key, value)| format!("{key}={value}")).collect()));
            seen.push((worker.name.clone(), kernel(worker.machine.netns())?));
        }
        Ok(seen)
    }

    fn expect_image(&self, expected: &str) -> Result<()> {
        let words = "--namespace kube-flannel get pods --selector app=flannel --output";
        let images =
            self.admin().kubectl(&format!("{words} jsonpath={{.items[*].spec.containers[*].image}}"))?;
        let images: Vec<&str> = images.split_whitespace().collect();
        ensure!(images == [expected; 2], "{images:?} instead of {expected}");
        Ok(())
    }

    /// A pod that starts now reaches the others.
    fn expect_new_pod(&self, pods: &[Pod]) -> Result<()> {
        let new = self.run_pod("new", 0)?;
        let said =
            self.wait_ask(&new, &super::site::socket(pods[1].address(true)?, integration::image::PORT))?;
        ensure!(said == format!("p2 {}", new.address(true)?), "{said}");
        self.admin().kubectl("delete pod new --wait --timeout 60s").map(drop)
    }
}

fn kernel(netns: &Netns) -> Result<Vec<String>> {
    let link = device(netns, "flannel.1")?;
    let route = |line: &String| line.replace(" proto 241", "").replace(" proto boot", "");
    let mut lines = vec![
        format!("{} {} {}", link["ifindex"], link["mtu"], mac(netns, "flannel.1")?),
        netns.run("cat /run/flannel/subnet.env")?,
    ];
    lines.extend(routes(netns, true, "dev flannel.1")?.iter().map(route));
    lines.extend(neighbours(netns, true, "flannel.1")?);
    lines.extend(fdb(netns, "flannel.1")?);
    Ok(lines)
}
