//! `flannelctl doctor` beside a running containerd: it reports what containerd reports, and nothing on a healthy node.

use anyhow::{Context, Result, ensure};
use integration::{Daemon, Doctor, Feature, Flanneld, Lab, LeaseDirectory, Machine, lab, wait};
use std::process::{Command, Stdio};

use super::runtime::{Containerd, install};
use super::scene::config;

const CONFIG: &str = "/etc/containerd/config.toml";
const LIST: &str = "/etc/cni/net.d/10-flannel.conflist";

/// A machine as the README installs it. The doctor runs on it with its default paths.
struct Patient {
    machine: Machine,
    containerd: Containerd,
    doctor: Doctor,
    _daemon: Daemon,
}

impl Patient {
    fn new(lab: &Lab) -> Result<Self> {
        lab.require(&[Feature::Containerd, Feature::Runc, Feature::Crun, Feature::Nft])?;
        let cluster = lab.cluster(1)?;
        let leases = LeaseDirectory::new(lab, &config(r#"{"Type":"host-gw"}"#))?;
        let flanneld = Flanneld::on_directory(leases.path()).argument("--ip-masq");
        let machine = cluster.nodes[0].boot()?;
        let node = machine.node(&cluster.nodes[0]);
        let mut daemon = node.start(&flanneld)?;
        daemon.wait_ready()?;
        install(&machine)?;
        let containerd = Containerd::start(lab, &machine)?;
        let doctor = Doctor::of(&node, &flanneld).with_default_paths();
        doctor.expect(&[]).context("on a healthy node")?;
        Ok(Self { machine, containerd, doctor, _daemon: daemon })
    }

    /// The only table of CNI settings in the configuration, from its header to its last line.
    fn section(&self) -> Result<(String, String)> {
        let text = self.machine.netns().read(CONFIG.as_ref())?;
        let start = text.lines().find(|line| line.ends_with("cni]")).context("no table of CNI settings")?;
        let from = text.find(start).context("no such line")?;
        let length = text[from + 1..].find("\n[").map_or(text.len() - from, |length| length + 2);
        Ok((text[..from].to_owned() + &text[from + length..], text[from..from + length].to_owned()))
    }

    /// The evidence of a finding.
    fn evidence(&self, ids: &[&str], id: &str) -> Result<String> {
        let found = self.doctor.expect(ids)?;
        let finding = found.iter().find(|finding| finding.id == id).context("no such finding")?;
        Ok(finding.value.to_string())
    }
}

/// Settings in the wrong table, plugins elsewhere, another directory: each is found, also before and after a restart.
#[test]
fn doctor_compares_settings_with_those_in_effect() {
    lab(|lab| {
        let mut patient = Patient::new(lab)?;
        let (rest, section) = patient.section()?;
        let header = section.lines().next().context("an empty table")?;

        // Changed, and not restarted: containerd still works.
        let elsewhere =
            section.replace("/opt/cni/bin", "/usr/lib/cni").replace("/etc/cni/net.d", "/etc/cni/other");
        patient.machine.write(CONFIG, &format!("{rest}{elsewhere}"))?;
        let evidence = patient.evidence(&["runtime-not-restarted"], "runtime-not-restarted")?;
        for part in [
            "CNI plugins in the files: /usr/lib/cni; in effect: /opt/cni/bin",
            "CNI configs in the files: /etc/cni/other; in effect: /etc/cni/net.d",
            "systemctl restart containerd",
        ] {
            ensure!(evidence.contains(part), "{part:?} is not in {evidence}");
        }

        // Plugins in /opt/cni/bin, while containerd looks in /usr/lib/cni.
        let elsewhere = section.replace("/opt/cni/bin", "/usr/lib/cni");
        patient.machine.write(CONFIG, &format!("{rest}{elsewhere}"))?;
        patient.containerd.restart()?;
        let evidence = patient.evidence(&["runtime-plugin-missing"], "runtime-plugin-missing")?;
        for part in [
            "containerd reports: CNI plugins in /usr/lib/cni",
            "ln -s /opt/cni/bin/flannel /usr/lib/cni/flannel",
        ] {
            ensure!(evidence.contains(part), "{part:?} is not in {evidence}");
        }

        // The file of a widespread guide.
        let guide = header.replace(".cni]", ".containerd.runtimes.runc.options.cni]");
        patient.machine.write(CONFIG, &format!("{rest}{}", section.replace(header, &guide)))?;
        patient.containerd.restart()?;
        let mut ids = vec!["runtime-config-ignored"];
        // Distributions have another default.
        if !patient.containerd.cni_state()?["PluginDirs"].to_string().contains("/opt/cni/bin") {
            ids.push("runtime-plugin-missing");
        }
        let evidence = patient.evidence(&ids, "runtime-config-ignored")?;
        let table = serde_json::to_string(header.trim())?;
        ensure!(evidence.contains(table.trim_matches('"')), "{table} is not in {evidence}");

        patient.machine.write(CONFIG, &format!("{rest}{section}"))?;
        patient.containerd.restart()?;
        patient.doctor.expect(&[])?;
        beside_docker(&patient)
    });
}

/// The containerd of Docker's packages runs no pods: nothing is reported about its settings.
fn beside_docker(patient: &Patient) -> Result<()> {
    patient.machine.write(
        "/etc/containerd/docker.toml",
        "version = 2\ndisabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.runtime']\n",
    )?;
    let mut command = Command::new("containerd");
    command
        .args(["--config=/etc/containerd/docker.toml", "--address=/run/containerd/docker.sock"])
        .args(["--root=/var/lib/containerd/docker", "--state=/run/containerd/docker"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    patient.machine.netns().spawn(&mut command)?;
    wait::until("the doctor sees no CRI plugin", wait::LONG, || {
        let flags = [
            "--containerd-config=/etc/containerd/docker.toml",
            "--containerd-socket=/run/containerd/docker.sock",
        ];
        let (code, stdout, _) = patient.doctor.run(&[&flags[..], &["-o", "json"]].concat())?;
        ensure!(code == 0 && stdout.contains("its CRI plugin is disabled"), "{code} {stdout}");
        Ok(())
    })
}

/// What containerd could not load, in its words; what it has not loaded again; and which file it uses instead.
#[test]
fn doctor_reports_what_containerd_has_not_loaded() {
    lab(|lab| {
        let mut patient = Patient::new(lab)?;
        let machine = &patient.machine;
        let good = machine.netns().read(LIST.as_ref())?;

        // Only containerd sees that a plugin has no type.
        machine.write(LIST, &good.replace("\"type\":\"portmap\",", ""))?;
        let evidence = patient.evidence(&["runtime-network-not-loaded"], "runtime-network-not-loaded")?;
        for part in ["containerd reports: NetworkPluginNotReady", LIST, "missing 'type'"] {
            ensure!(evidence.contains(part), "{part:?} is not in {evidence}");
        }
        machine.write(LIST, &good[..good.len() / 2])?;
        let all = ["cni-config-invalid", "cni-config-missing", "runtime-network-not-loaded"];
        let evidence = patient.evidence(&all, "runtime-network-not-loaded")?;
        ensure!(evidence.contains("failed to load CNI config list file"), "{evidence}");
        machine.write(LIST, &good)?;
        patient.doctor.expect(&[])?;

        // A second file that sorts first.
        machine
            .write("/etc/cni/net.d/05-other.conf", r#"{"cniVersion":"1.0.0","name":"b","type":"bridge"}"#)?;
        let found = patient.doctor.expect(&["cni-config-shadowed"])?;
        ensure!(found[0].subject == "05-other.conf", "{found:?}");
        machine.netns().run("rm /etc/cni/net.d/05-other.conf")?;
        patient.doctor.expect(&[])?;

        // containerd does not notice a file that is moved in from another directory.
        machine.write("/etc/cni/net.d/new/list", &good.replace("\"hairpinMode\":true,", ""))?;
        machine.netns().run(&format!("mv /etc/cni/net.d/new/list {LIST}"))?;
        let evidence = patient.evidence(&["runtime-network-not-loaded"], "runtime-network-not-loaded")?;
        ensure!(evidence.contains("has not loaded the latest version"), "{evidence}");
        ensure!(evidence.contains("systemctl restart containerd"), "{evidence}");
        patient.containerd.restart()?;
        patient.doctor.expect(&[]).map(drop)
    });
}
