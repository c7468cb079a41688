//! `flannelctl` on a cluster: with the identity of the daemon of its node, and with that of an administrator.

use anyhow::{Context, Result, ensure};
use integration::ctl::Answer;
use integration::kubernetes::{MANIFEST, NAMESPACE, SERVER, documents};
use integration::{Daemon, lab, pages, program, wait};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::fixture::{CONFIG, Fixture, NODES, PREFIX};
use super::site::Site;

const CONFIG_MAP: &str = "/api/v1/namespaces/kube-flannel/configmaps/kube-flannel-cfg";

/// All commands find the cluster by the running daemon; those that write need the rights of an administrator.
#[test]
fn commands_on_a_cluster() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 2)?;
        fixture.admin().apply(&documents(MANIFEST, &["ConfigMap"])?, &[])?;
        set_config(&fixture, CONFIG)?;
        let mut daemons = fixture.two()?;
        fixture.wait_route(1, "10.42.2.0/24", true)?;
        fixture.wait_route(2, "10.42.1.0/24", true)?;
        leases_show_nodes(&fixture)?;
        state_of_the_node(&fixture)?;
        impossible_changes(&fixture)?;
        let directory = lab.directory("configs")?;
        pages::walk("kubernetes::ctl::commands_on_a_cluster", |walk| config(&fixture, &directory, walk))?;
        other_prefix(&fixture, &mut daemons[0])
    });
}

/// Without flags, on the first node.
fn ctl(fixture: &Fixture, words: &str) -> Result<Answer> {
    let words: Vec<&str> = words.split_whitespace().collect();
    fixture.cluster.nodes[0].flannelctl(&[], &words)
}

/// With the kubeconfig of an administrator, on a host that is not a node.
fn admin(fixture: &Fixture, words: &str) -> Result<Answer> {
    let mut command = Command::new(program("flannelctl"));
    command.arg("--kubeconfig").arg(fixture.admin().kubeconfig());
    command.args(words.split_whitespace()).stdin(Stdio::null());
    fixture.control_plane.netns.enter(|| Answer::of(&mut command))
}

fn set_config(fixture: &Fixture, config: &str) -> Result<()> {
    fixture.admin().patch(CONFIG_MAP, &json!({"data": {"net-conf.json": config}})).map(drop)
}

fn leases_show_nodes(fixture: &Fixture) -> Result<()> {
    for answer in [ctl(fixture, "lease list")?, admin(fixture, "lease list")?] {
        answer.clone().expect(0, &["NODE", "10.42.1.0/24", "192.168.50.2"])?;
        for (subnet, name) in [("10.42.1.0/24", "n1"), ("10.42.2.0/24", "n2")] {
            let line = answer.stdout.lines().find(|line| line.starts_with(subnet)).context("no line")?;
            ensure!(line.ends_with(name), "{answer:?}");
        }
        ensure!(!answer.stdout.contains("EXPIRES") && !answer.stdout.contains("never"), "{answer:?}");
    }
    let own = ctl(fixture, "lease list")?;
    ensure!(own.stdout.contains("10.42.1.0/24 *"), "the lease of this node is marked: {own:?}");
    let all = ctl(fixture, "lease list -o json")?.json()?;
    ensure!(all[1]["node"] == "n2" && all[1]["reservation"] == false && all[0]["thisNode"] == true, "{all}");
    let of_node = admin(fixture, "lease get n2")?;
    of_node.expect(0, &["Node:           n2", "10.42.2.0/24", "Expires:        with its node"])?;
    admin(fixture, "lease get 192.168.50.1 -o json")?.expect(0, &["\"node\": \"n1\""])?;
    ctl(fixture, "lease list --address 10.42.2.7")?.expect(0, &["n2"])?;
    let plan = ctl(fixture, "subnet plan")?;
    plan.expect(0, &["--node-cidr-mask-size", "10.42.0.0/16"]).map(drop)
}

fn state_of_the_node(fixture: &Fixture) -> Result<()> {
    ctl(fixture, "status --wait")?;
    wait::until("n1 has no conditions", wait::LONG, || {
        ctl(fixture, "status")?.expect(0, &["kubernetes", "10.42.1.0/24"])
    })?;
    ctl(fixture, "peer list")?.expect(0, &["10.42.2.0/24", "in-place"])?;
    let path = ctl(fixture, "route get 10.42.2.9")?;
    path.expect(0, &["10.42.2.0/24 of node 192.168.50.2", "flannel.1"])?;
    ctl(fixture, "events")?.expect(0, &["round"])?;
    ctl(fixture, "diff")?.expect(0, &["in sync"])?;
    let test = ctl(fixture, "connectivity test -o json --count 2")?.expect(0, &[])?.json()?;
    ensure!(test["paths"][0]["received"] == 2, "{test}");
    Ok(())
}

/// Nothing is written, and the way with Kubernetes is named.
fn impossible_changes(fixture: &Fixture) -> Result<()> {
    let before = fixture.node(2)?["metadata"]["resourceVersion"].clone();
    for (words, parts) in [
        ("lease reserve 192.168.50.9", ["spec.podCIDRs", "kubectl create"]),
        ("lease reserve 192.168.50.9 --dry-run", ["--cluster-cidr", "--node-cidr-mask-size"]),
        ("lease unreserve n2", ["no reservations", "kubectl delete node"]),
        ("lease release n2 --force", ["as long as the node", "kubectl delete node"]),
        ("lease move n2 --yes", ["never changes", "kubectl drain"]),
    ] {
        ctl(fixture, words)?.expect(1, &parts)?;
        let answer = admin(fixture, &format!("{words} -o json"))?.expect(1, &[])?;
        ensure!(answer.json()?["error"]["kind"] == "refused", "{answer:?}");
    }
    let after = fixture.node(2)?["metadata"]["resourceVersion"].clone();
    ensure!(before == after, "a command wrote to a node");
    Ok(())
}

fn config(fixture: &Fixture, directory: &Path, walk: &mut pages::Walk) -> Result<()> {
    ctl(fixture, "config get")?.expect(0, &["10.42.0.0/16"])?;
    ctl(fixture, "config explain")?.expect(0, &["Backend.Type", "vxlan"])?;
    admin(fixture, "config explain")?.expect(0, &["Backend.Type", "vxlan"])?;

    let file = directory.join("new.json");
    fs::write(&file, CONFIG.replace("}}", r#","MTU":1400}}"#))?;
    let set = format!("config set {}", file.display());
    // The daemon may not read ConfigMaps, and need not.
    ctl(fixture, &set)?.expect(1, &["resources: [configmaps], verbs: [get, patch]", "--kubeconfig"])?;
    let dry = admin(fixture, &format!("{set} --dry-run"))?;
    dry.expect(0, &["applied at once, pods unaffected: 2 nodes", "not written (dry run)"])?;
    ensure!(!stored(fixture)?.contains("1400"), "a dry run wrote");
    let written = admin(fixture, &set)?;
    written.expect(0, &["2 nodes", "written to the ConfigMap kube-flannel/kube-flannel-cfg"])?;
    ensure!(stored(fixture)?.contains("1400"), "nothing was written");
    documented(fixture, directory, walk)?;
    let map = fixture.admin().get(CONFIG_MAP)?;
    ensure!(map["data"]["cni-conf.json"].as_str().is_some_and(|text| text.contains("cbr0")), "{map}");
    admin(fixture, "config get")?.expect(0, &["1400"])?;
    // The volume of the node has not followed, as no kubelet runs here.
    let node = ctl(fixture, "config get")?;
    ensure!(!node.stdout.contains("1400"), "{node:?}");

    fs::write(&file, CONFIG.replace("10.42.0.0/16", "10.99.0.0/16"))?;
    let moved = admin(fixture, &format!("{set} --dry-run"))?;
    moved.expect(
        0,
        &["podCIDR outside of the network, no pods until the node is created again: 2 nodes", "n1", "n2"],
    )?;
    fs::write(&file, r#"{"Network":"10.42.0.0/33"}"#)?;
    admin(fixture, &set)?.expect(1, &["invalid network config"])?;
    fs::write(&file, CONFIG)?;
    let other = admin(fixture, &format!("--kube-config-map {NAMESPACE}/none {set}"))?;
    other.expect(1, &["the ConfigMap kube-flannel/none does not exist", "manifest"])?;
    admin(fixture, &format!("--kube-config-map none {set}"))?.expect(2, &["NAMESPACE/NAME"])?;
    let both = admin(fixture, "--lease-dir leases lease list")?;
    both.expect(2, &["--kubeconfig-file and --lease-dir are incompatible"]).map(drop)
}

/// The commands of the documentation.
fn documented(fixture: &Fixture, directory: &Path, walk: &mut pages::Walk) -> Result<()> {
    fs::copy(fixture.admin().kubeconfig(), directory.join("admin.conf"))?;
    fs::copy(directory.join("new.json"), directory.join("network.json"))?;
    let programs = program("flannelctl");
    let programs = programs.parent().context("the program has no directory")?;
    for line in walk.next("flannelctl --kubeconfig")?.commands::<3>()? {
        let line = format!("cd {} && PATH={}:$PATH {line}", directory.display(), programs.display());
        let answer =
            fixture.control_plane.netns.enter(|| Answer::of(Command::new("sh").arg("-c").arg(&line)))?;
        answer.expect(0, &[if line.ends_with("list") { "NODE" } else { "10.42.0.0/16" }])?;
    }
    Ok(())
}

fn stored(fixture: &Fixture) -> Result<String> {
    let map = fixture.admin().get(CONFIG_MAP)?;
    Ok(map["data"]["net-conf.json"].as_str().context("no network config")?.to_owned())
}

/// The prefix of the running daemon is that of flannelctl, also where a kubeconfig is named.
fn other_prefix(fixture: &Fixture, daemon: &mut Daemon) -> Result<()> {
    let other = fixture.flanneld(1).argument("--kube-annotation-prefix=org.example.com");
    daemon.stop()?;
    daemon.set_flanneld(other);
    daemon.start()?;
    daemon.wait_ready()?;
    let kubeconfig = [format!("--kubeconfig={}", fixture.admin().kubeconfig().display())];
    for flags in [&[][..], &kubeconfig] {
        let all = fixture.cluster.nodes[0].flannelctl(flags, &["lease", "list", "-o", "json"])?.json()?;
        let nodes: Vec<&Value> = all.as_array().into_iter().flatten().map(|lease| &lease["node"]).collect();
        ensure!(nodes == ["n1"], "{all}");
    }
    let all = admin(fixture, "lease list -o name")?;
    all.expect(0, &["10.42.1.0-24", "10.42.2.0-24"])?;
    let url = admin(
        fixture,
        &format!("--kube-api-url {SERVER} --kube-annotation-prefix org.example.com lease list"),
    )?;
    ensure!(!url.stdout.contains("10.42.2.0/24") && url.stdout.contains("n1"), "{url:?}");
    let node = fixture.admin().get(&format!("{NODES}/n1"))?;
    ensure!(node["metadata"]["annotations"][format!("{PREFIX}kube-subnet-manager")] == "true", "{node}");
    Ok(())
}

/// What works in the pod of the daemon, without anything of the node but what the manifest mounts. `documented` are commands of the
/// documentation.
pub(super) fn expect_in_pod(site: &Site, documented: &str) -> Result<()> {
    let answers = site.shell(documented)?;
    for part in ["NODE", " *", "ready"] {
        ensure!(answers.contains(part), "no {part:?} in {answers}");
    }
    let exec = |words: &str| {
        site.shell(&format!(
            "kubectl --namespace {NAMESPACE} exec daemonset/kube-flannel-ds -- flannelctl {words}"
        ))
    };
    for (words, expected) in [("peer list", "in-place"), ("config get", "10.42.0.0/16"), ("events", "round")]
    {
        let answer = exec(words)?;
        ensure!(answer.contains(expected), "{words}: {answer}");
    }
    let report: Value = serde_json::from_str(&exec("doctor -o json || true")?).context("no report")?;
    let ids = |key: &str| -> Vec<String> {
        let all = report[key].as_array().into_iter().flatten();
        all.filter_map(|one| one["id"].as_str().map(str::to_owned)).collect()
    };
    ensure!(ids("findings").is_empty(), "{report:#}");
    for id in [
        "cni-config-missing",
        "cni-plugin-missing",
        "daemon-duplicate",
        "address-leaked",
        "runtime-network-other",
    ] {
        ensure!(ids("skipped").iter().any(|skipped| skipped == id), "{id} is possible: {report:#}");
    }
    let text = report["skipped"].to_string();
    for part in ["this pod does not mount /etc/cni/net.d of its node", "hostPID"] {
        ensure!(text.contains(part), "{text}");
    }
    Ok(())
}

/// On the node, as root and without flags: the identity, network config and prefix are those of the daemon in the pod.
pub(super) fn expect_on_node(site: &Site) -> Result<()> {
    let worker = &site.workers[0];
    let ctl = |words: &str| {
        let mut command = Command::new(program("flannelctl"));
        command.args(words.split(' ')).stdin(Stdio::null());
        worker.machine.netns().enter(|| Answer::of(&mut command))
    };
    let leases = ctl("lease list")?.expect(0, &["NODE"])?;
    let own = leases.stdout.lines().find(|line| line.contains(" * ")).context("no lease of this node")?;
    ensure!(own.ends_with(&worker.name), "{leases:?}");
    ctl("config get")?.expect(0, &["10.42.0.0/16"])?;
    let checks =
        "--check store-unreachable --check rbac-rule --check daemon-duplicate --check kube-proxy-masquerade";
    let report = ctl(&format!("doctor {checks} -o json"))?.expect(0, &[])?.json()?;
    ensure!(report == json!({"findings": [], "skipped": []}), "{report}");
    Ok(())
}
