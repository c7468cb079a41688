//! Commands of docs/operations.md, docs/doctor.md and docs/metrics.md, on a node of a small cluster.

use anyhow::{Result, ensure};
use integration::ctl::Answer;
use integration::pages::{Host, block, walk};
use integration::{Feature, Flanneld, Lab, Node, lab, wait};
use std::fs;

/// ```text
///   host 10.0.0.10 (as installed, etcd) ── lan 10.0.0.0/24 ── n2 10.0.0.11
///     10.5.34.0/24                                             10.5.3.0/24
/// ```
struct Site {
    host: Host,
    n2: Node,
}

const ETCD: &str = "http://10.0.0.10:2379";

impl Site {
    fn build(lab: &Lab) -> Result<Self> {
        lab.require(&[Feature::Curl])?;
        let host = Host::boot(lab)?;
        for beginning in ["dpkg ", "flannelctl ", "echo FLANNELD_", "install -D -m 644"] {
            let step = block("docs/install.md", beginning)?;
            if beginning == "echo FLANNELD_" {
                // Its previous subnet.
                host.expect(
                    "mkdir -p /run/flannel; echo FLANNEL_SUBNET=10.5.34.1/24 >/run/flannel/subnet.env",
                )?;
                host.expect("echo FLANNELD_HEALTHZ_PORT=8081 >>/etc/default/flanneld")?;
            }
            host.expect(step.text())?;
        }
        let n2 = lab.node("n2")?;
        host.lan.default_routes(&host.lan.attach(n2.netns(), "eth0", &["10.0.0.11/24".parse()?])?)?;
        fs::write(n2.file("/run/flannel/subnet.env")?, "FLANNEL_SUBNET=10.5.3.1/24\n")?;
        n2.start(&Flanneld::bare().argument(format!("--etcd-endpoints={ETCD}")))?.wait_ready()?;
        wait::until("the nodes are peers", wait::LONG, || {
            host.run("flannelctl peer list")?.expect(0, &["10.5.3.0/24", "in-place"]).map(drop)
        })?;
        Ok(Self { host, n2 })
    }

    /// Waits until n2 has a route to this subnet, or has none.
    fn wait_route(&self, subnet: &str, present: bool) -> Result<()> {
        wait::until(format!("n2 has a route to {subnet}: {present}"), wait::LONG, || {
            let route = self.n2.netns().ip(&format!("route show {subnet}"))?;
            ensure!(route.is_empty() != present, "{route:?}");
            Ok(())
        })
    }
}

#[test]
fn operations() {
    lab(|lab| {
        let site = Site::build(lab)?;
        let host = &site.host;
        walk("pages::node::operations", |page| {
            let [healthz, readyz] = page.next("curl http")?.commands()?;
            host.run(&healthz)?.expect(0, &["flanneld is running"])?;
            host.run(&readyz)?.expect(0, &["flanneld is ready"])?;
            let settings = page.next("set -a")?;
            let settings = settings.text();
            let commands: [String; 7] = page.next("flannelctl status ")?.commands()?;
            run_health_commands(host, settings, &commands)?;
            host.run(page.next("curl -s --unix-socket")?.text())?
                .expect(0, &[r#""subnets":["10.5.34.0/24"]"#])?;

            let [dry_run, change] = page.next("flannelctl config")?.commands()?;
            // A change that needs a restart.
            host.expect("echo '{\"Network\":\"10.5.0.0/16\",\"EnableNFTables\":true,\"Backend\":{\"Type\":\"vxlan\",\"Port\":8473}}' >network.json")?;
            let run = |command: &str| -> Result<Answer> { host.run(&format!("{settings}{command}")) };
            run(&dry_run)?.expect(0, &["2 nodes", "restart"])?;
            let config = run("flannelctl config get")?;
            ensure!(!config.stdout.contains("8473"), "a dry run wrote: {config:?}");
            run(&change)?.expect(0, &["written to"])?;
            wait::until("the change is rejected", wait::LONG, || {
                host.run("flannelctl status")?.expect(3, &["config"]).map(drop)
            })?;
            let device = || host.system().netns().ip("-d link show flannel.1");
            ensure!(device()?.contains("dstport 8472"), "applied without a restart");
            host.expect(page.next("systemctl restart")?.text())?;
            ensure!(device()?.contains("dstport 8473"), "not applied by a restart");

            let [stop, dry_run, clean] = page.next("systemctl disable")?.commands()?;
            host.expect(&stop)?;
            run(&dry_run)?.expect(0, &["flannel.1", "subnet.env"])?;
            device()?;
            run(&clean)?.expect(0, &["flannel.1", "subnet.env"])?;
            ensure!(device().is_err(), "cleanup is incomplete");
            ensure!(!host.system().exists("/run/flannel/subnet.env")?, "cleanup is incomplete");
            site.wait_route("10.5.34.0/24", true)?;
            run("flannelctl lease release 10.5.34.0/24 --yes")?.expect(1, &["--force"])?;
            run(page.next("flannelctl lease release")?.text())?.expect(0, &["10.5.34.0/24"])?;
            site.wait_route("10.5.34.0/24", false)
        })
    });
}

/// Runs the commands of the section on health on a node without problems.
fn run_health_commands(host: &Host, settings: &str, commands: &[String; 7]) -> Result<()> {
    let [status, wait, peers, diff, doctor, route, events] = commands;
    host.run(status)?.expect(0, &["10.5.34.0/24", "10.0.0.10"])?;
    host.run(wait)?.expect(0, &["10.5.34.0/24"])?;
    host.run(peers)?.expect(0, &["10.5.3.0/24", "10.0.0.11", "in-place"])?;
    host.run(diff)?.expect(0, &["the kernel is in sync"])?;
    host.run(doctor)?.expect(0, &[])?;
    host.run(route)?.expect(0, &["10.5.3.0/24 of node 10.0.0.11", "flannel.1"])?;
    let watching = host.start("events", &format!("{settings}{events}"))?;
    let wait_event = |what: &str| {
        wait::until(format!("an event contains {what}"), wait::LONG, || {
            let text = host.expect(&format!("cat {}", watching.log))?;
            ensure!(text.contains(what), "{text}");
            Ok(())
        })
    };
    wait_event("ready")?;
    host.system().netns().ip("route del 10.5.3.0/24")?;
    wait_event("1 set")?;
    host.stop(&watching)
}

#[test]
fn doctor_and_metrics() {
    lab(|lab| {
        lab.require(&[Feature::Promtool])?;
        let host = Site::build(lab)?.host;
        walk("pages::node::doctor_and_metrics", |page| {
            let [all, json, one, list] = page.next("flannelctl doctor")?.commands()?;
            host.run(&all)?.expect(0, &["no problems found"])?;
            let answer = host.run(&json)?.expect(0, &[])?.json()?;
            ensure!(answer["findings"] == serde_json::json!([]), "{answer}");
            host.run(&one)?.expect(0, &[])?;
            host.run(&list)?.expect(0, &["mtu-path", "duplicate-vtep-mac"])?;
            // The same check with a finding.
            host.nic.set_switch_mtu(1400)?;
            host.run(&one)?.expect(3, &["mtu-path"])?;

            let [port, socket] = page.next("curl -s http")?.commands()?;
            for command in [&port, &socket] {
                host.run(command)?.expect(0, &["flannel_build_info{version=", "flannel_ready 1"])?;
            }
            let config = page.next("rule_files")?;
            host.expect(&format!("cat >prometheus.yml <<'END'\n{}END", config.text()))?;
            let alerts = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/alerts.yaml"))?;
            host.expect(&format!("cat >alerts.yaml <<'END'\n{alerts}END"))?;
            host.run("promtool check config prometheus.yml")?
                .expect(0, &["1 rule files found", "rules found"])
                .map(drop)
        })
    });
}
