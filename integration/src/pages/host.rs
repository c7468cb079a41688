//! The host that the documentation assumes: systemd, the packages in its directory, and etcd at 10.0.0.10.

use anyhow::{Result, ensure};

use crate::artefacts;
use crate::ctl::Answer;
use crate::feature::Feature;
use crate::system::System;
use crate::topology::{Lab, Nic, Segment};
use crate::wait;

/// ```text
///   host eth0 10.0.0.10 (systemd, etcd) ── lan 10.0.0.0/24
/// ```
pub struct Host {
    system: System,
    /// The network for other nodes.
    pub lan: Segment,
    /// Its interface in that network.
    pub nic: Nic,
}

/// The directory with the files of `cargo xtask dist`, in which commands run.
const DIRECTORY: &str = "/srv/dist";

impl Host {
    /// Boots the host and starts etcd.
    pub fn boot(lab: &Lab) -> Result<Self> {
        lab.require(&[Feature::Systemd, Feature::Dpkg, Feature::Etcd, Feature::Vxlan, Feature::Nft])?;
        let lan = lab.segment("lan", &["10.0.0.254/24".parse()?])?;
        let netns = lab.host("host")?;
        let nic = lan.attach(&netns, "eth0", &["10.0.0.10/24".parse()?])?;
        lan.default_routes(&nic)?;
        netns.set_sysctl("net/ipv4/ip_forward", "1")?;
        let system = System::boot(lab, &netns, &artefacts::directory()?)?;
        let host = Self { system, lan, nic };
        host.system.run(&format!("cp -r /run/shared/first {DIRECTORY}"))?;
        host.expect(
            "systemd-run --unit etcd-documented etcd --data-dir /var/lib/etcd-documented \
             --listen-client-urls http://10.0.0.10:2379 --advertise-client-urls http://10.0.0.10:2379",
        )?;
        wait::until("etcd is healthy", wait::LONG, || {
            host.expect("etcdctl --endpoints http://10.0.0.10:2379 endpoint health").map(drop)
        })?;
        Ok(host)
    }

    /// Returns its system.
    #[must_use]
    pub const fn system(&self) -> &System {
        &self.system
    }

    /// Runs a script.
    pub fn run(&self, script: &str) -> Result<Answer> {
        Answer::of(&mut self.system.command(&format!("set -e; cd {DIRECTORY}\n{script}")))
    }

    /// Runs a script and returns its stdout. Fails if the script fails.
    pub fn expect(&self, script: &str) -> Result<String> {
        let answer = self.run(script)?;
        ensure!(answer.code == 0, "`{script}`: {answer:?}");
        Ok(answer.stdout)
    }

    /// Starts a script that does not end by itself. Its output goes to a log file.
    pub fn start(&self, name: &str, script: &str) -> Result<Started> {
        let started = Started { unit: format!("page-{name}"), log: format!("/srv/{name}.log") };
        self.expect(&format!("cat >/srv/{name}.sh <<'END'\n{script}\nEND"))?;
        self.expect(&format!(
            "systemd-run --unit {} --working-directory {DIRECTORY} \
             --property StandardOutput=append:{1} --property StandardError=append:{1} sh -e /srv/{name}.sh",
            started.unit, started.log
        ))?;
        Ok(started)
    }

    /// Stops the script.
    pub fn stop(&self, started: &Started) -> Result<()> {
        self.expect(&format!("systemctl stop {}.service", started.unit)).map(drop)
    }
}

/// A script started by [`Host::start`].
#[derive(Debug)]
pub struct Started {
    unit: String,
    /// The log file on the host.
    pub log: String,
}
