//! `flannelctl doctor` on container runtimes whose files alone are there, and on CRI-O, by a model of its socket. For a real
//! containerd see `containerd::doctor`.

mod crio;

use anyhow::{Context, Result, ensure};
use crio::CriO;
use integration::ctl::Answer;
use integration::{Daemon, Doctor, Feature, Flanneld, Lab, LeaseDirectory, Node, lab, program};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

const CONFIG: &str = r#"{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"host-gw"}}"#;

/// A healthy node without pods.
struct Patient {
    node: Node,
    doctor: Doctor,
    _daemon: Daemon,
}

impl Patient {
    fn new(lab: &Lab) -> Result<Self> {
        lab.require(&[Feature::Nft])?;
        let cluster = lab.cluster(1)?;
        let leases = LeaseDirectory::new(lab, CONFIG)?;
        let flanneld = Flanneld::on_directory(leases.path()).argument("--ip-masq");
        let daemon = cluster.start_all(&flanneld)?.swap_remove(0);
        let node = cluster.nodes[0].clone();
        Doctor::install_cni_config(&node)?;
        let doctor = Doctor::of(&node, &flanneld);
        doctor.expect(&[])?;
        Ok(Self { node, doctor, _daemon: daemon })
    }

    fn containerd(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.doctor.runtime_config("containerd")?, text)?)
    }

    /// The fix of the only finding, which has this id.
    fn fix(&self, id: &str) -> Result<String> {
        let found = self.doctor.expect(&[id])?;
        Ok(found[0].value["fix"].as_str().unwrap_or_default().to_owned())
    }

    /// The reasons why a check was not possible.
    fn not_checked(&self, id: &str) -> Result<String> {
        let (_, stdout, _) = self.doctor.run(&["-o", "json"])?;
        let report: serde_json::Value = serde_json::from_str(&stdout).context("no report")?;
        let skipped = report["skipped"].as_array().context("nothing is skipped")?.iter();
        Ok(skipped
            .filter(|skipped| skipped["id"] == id)
            .map(|skipped| skipped["reason"].to_string())
            .collect())
    }
}

/// The directory of the programs under test.
fn built() -> Result<PathBuf> {
    Ok(program("flannel").parent().context("the program has no directory")?.to_owned())
}

#[test]
fn faults_in_files() {
    lab(|lab| {
        let patient = Patient::new(lab)?;
        let other = lab.directory("other")?;
        fs::write(other.join("05-other.conf"), r#"{"name":"b","type":"bridge"}"#)?;
        let (v2, v3) =
            (r#"plugins."io.containerd.grpc.v1.cri""#, r#"plugins."io.containerd.cri.v1.runtime""#);
        for (id, version, table, setting) in [
            // From a widespread guide.
            (
                "runtime-config-ignored",
                2,
                format!("{v2}.containerd.runtimes.runc.options.cni"),
                "bin_dir = '/opt/cni/bin'".to_owned(),
            ),
            ("runtime-plugin-missing", 2, format!("{v2}.cni"), "bin_dir = '/nowhere/bin'".to_owned()),
            // containerd 2.1 and later.
            (
                "runtime-plugin-missing",
                3,
                format!("{v3}.cni"),
                "bin_dirs = ['/nowhere/a', '/nowhere/b']".to_owned(),
            ),
            ("runtime-network-other", 2, format!("{v2}.cni"), format!("conf_dir = '{}'", other.display())),
        ] {
            patient.containerd(&format!("version = {version}\n[{table}]\n{setting}\n"))?;
            let fix = patient.fix(id)?;
            ensure!(
                id != "runtime-config-ignored" || fix.contains(&format!("move bin_dir to [{v2}.cni]")),
                "{fix}"
            );
        }
        let several = format!("bin_dirs = ['/nowhere', '{}']", built()?.display());
        patient.containerd(&format!("version = 3\n[{v3}.cni]\n{several}\n"))?;
        patient.doctor.expect(&[])?;

        patient.containerd("version = 2\n\n[plugins\n")?;
        let fix = patient.fix("runtime-config-invalid")?;
        ensure!(fix.contains("correct line 3 of ") && fix.contains("restart containerd"), "{fix}");

        patient.containerd("version = 2\n")?;
        let crio = patient.doctor.runtime_config("crio")?;
        fs::write(&crio, "[crio.network]\ncni_default_network = 'b'")?;
        let fix = patient.fix("runtime-network-other")?;
        ensure!(fix.contains("set cni_default_network = \"cbr0\" in [crio.network]"), "{fix}");
        // The name selects the config of flannel, although another one sorts first.
        fs::write(&crio, "[crio.network]\ncni_default_network = 'cbr0'")?;
        let first = patient.node.file("/etc/cni/net.d/05-other.conf")?;
        fs::copy(other.join("05-other.conf"), &first)?;
        patient.doctor.expect(&[])?;
        fs::remove_file(&crio)?;
        let found = patient.doctor.expect(&["cni-config-shadowed"])?;
        ensure!(found[0].subject == "05-other.conf", "{found:?}");
        Ok(())
    });
}

/// Without a response, the files are read, and the report says why.
#[test]
fn a_silent_runtime_is_not_waited_for() {
    lab(|lab| {
        let patient = Patient::new(lab)?;
        patient.containerd("version = 2")?;
        let reason = patient.not_checked("runtime-network-not-loaded")?;
        ensure!(reason.contains("containerd on ") && reason.contains("No such file"), "{reason}");
        ensure!(reason.contains("its configuration files were read instead"), "{reason}");
        let _silent = UnixListener::bind(patient.doctor.runtime_socket("containerd"))?;
        let reason = patient.not_checked("runtime-not-restarted")?;
        ensure!(reason.contains("no response in 3 seconds"), "{reason}");
        Ok(())
    });
}

/// Each mistake with the flags is an error that names the file, the reason and what to do.
#[test]
fn mistakes_with_configuration_files() {
    lab(|lab| {
        let patient = Patient::new(lab)?;
        let directory = lab.directory("config")?;
        let secret = directory.join("secret.toml");
        fs::write(&secret, "")?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o000))?;
        for flag in ["containerd-config", "crio-config"] {
            for (path, reason) in [
                (directory.join("missing.toml"), "No such file"),
                (directory.clone(), "it is a directory"),
                (secret.clone(), "Permission denied"),
            ] {
                // A user that may not read everything.
                let mut command = Command::new("setpriv");
                command.args(["--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]);
                command.arg(program("flannelctl")).arg("doctor").arg(format!("--{flag}={}", path.display()));
                let answer = patient.node.netns().enter(|| Answer::of(&mut command))?;
                answer.expect(2, &[&path.display().to_string(), reason, "Specify the file"])?;
            }
        }
        // Recent packages of CRI-O contain files in this directory only.
        fs::create_dir(directory.join("crio.conf.d"))?;
        fs::write(directory.join("crio.conf.d/10-crio.conf"), "[crio.network]\nnetwork_dir = '/nowhere'")?;
        let crio = format!("--crio-config={}", directory.join("crio.conf").display());
        let containerd =
            format!("--containerd-config={}", patient.doctor.runtime_config("containerd")?.display());
        let arguments = ["doctor", "--check=runtime-network-other", &crio, &containerd];
        patient.node.flannelctl(&[], &arguments)?.expect(3, &["CRI-O finds no network in /nowhere"])?;
        Ok(())
    });
}

#[test]
fn faults_of_a_running_crio() {
    lab(|lab| {
        let patient = Patient::new(lab)?;
        let (doctor, node) = (&patient.doctor, &patient.node);
        let file = doctor.runtime_config("crio")?;
        let configs = node.file("/etc/cni/net.d")?;
        let text = |network: &str| {
            Ok::<_, anyhow::Error>(format!(
                "[crio.network]\ncni_default_network = '{network}'\nnetwork_dir = '/etc/cni/net.d'\nplugin_dirs = ['{}']\n",
                built()?.display()
            ))
        };
        fs::write(&file, text("")?)?;
        let _crio = CriO::start(&doctor.runtime_socket("crio"), &fs::read_to_string(&file)?, node)?;
        doctor.expect(&[])?;

        // A plugin in the chain that is not installed: CRI-O drops the network without naming the reason.
        let conflist = configs.join("10-flannel.conflist");
        let good = fs::read_to_string(&conflist)?;
        fs::write(&conflist, good.replace("\"plugins\":[", "\"plugins\":[{\"type\":\"nonsense\"},"))?;
        let found = doctor.expect(&["cni-plugin-missing", "runtime-network-not-loaded"])?;
        let words = "NetworkPluginNotReady: Network plugin returns error: no CNI configuration file in /etc/cni/net.d/. \
                     Has your network provider started?";
        ensure!(found.iter().any(|found| found.value["evidence"].to_string().contains(words)), "{found:?}");
        fs::write(&conflist, &good)?;
        doctor.expect(&[])?;

        // Changed, and not restarted.
        fs::write(&file, text("other")?)?;
        let found = doctor.expect(&["runtime-not-restarted"])?;
        let evidence = found[0].value["evidence"].to_string();
        ensure!(evidence.contains("network in the files: other; in effect: the first one"), "{evidence}");
        ensure!(found[0].value["fix"] == "systemctl restart crio.service", "{found:?}");
        // A newer file may differ from what is in effect, unless it states all of it.
        let later = SystemTime::now() + Duration::from_secs(60);
        fs::write(&file, text("")?)?;
        File::open(&file)?.set_modified(later)?;
        doctor.expect(&[])?;
        fs::write(&file, "[crio.network]\n")?;
        File::open(&file)?.set_modified(later)?;
        let found = doctor.expect(&["runtime-not-restarted"])?;
        let evidence = found[0].value["evidence"].to_string();
        ensure!(evidence.contains("after the start of CRI-O"), "{evidence}");
        Ok(())
    });
}
