//! The image, run by containerd as a node agent: in the network of the host, with its state mounted.

use anyhow::{Context, Result, ensure};
use integration::{Feature, Machine, lab, wait};
use std::fs;
use std::process::{Child, Command, Stdio};

use crate::artefacts::{Revision, file};

/// runc takes it that it may not write to the control groups, see `machine.sh`.
const RUNC: &str = "#!/bin/sh\nexec runc --rootless true \"$@\"\n";

const MOUNTS: [&str; 3] = ["/run/flannel", "/var/lib/flannel", "/run/lab/directory/leases"];

fn spawn(machine: &Machine, line: &str) -> Result<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", line]).stdin(Stdio::null());
    machine.netns().spawn(&mut command)
}

#[test]
fn image_serves_a_node_by_containerd() {
    lab(|lab| {
        lab.require(&[Feature::Containerd, Feature::Runc, Feature::Vxlan, Feature::Nft])?;
        let cluster = lab.cluster(1)?;
        lab.lease_directory(
            r#"{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#,
        )?;
        let node = &cluster.nodes[0];
        let machine = node.boot()?;
        let netns = machine.netns();
        machine.write_program("/opt/bin/runc", RUNC)?;
        let log = lab.directory("log")?;
        spawn(&machine, &format!("exec containerd >{}/containerd.log 2>&1", log.display()))?;
        wait::until("containerd is up", wait::LONG, || netns.run("ctr version").map(drop))?;

        let image =
            netns.run(&format!("ctr images import {}", file(Revision::First, "-image.tar")?.display()))?;
        let name = netns.run("ctr images list -q")?.trim().to_owned();
        ensure!(name == format!("localhost/flannel:{}", env!("CARGO_PKG_VERSION")), "{name}: {image}");

        let mounts: Vec<String> = MOUNTS
            .iter()
            .map(|path| format!("--mount type=bind,src={path},dst={path},options=rbind:rw"))
            .collect();
        // The capabilities of the daemon alone, and what a manifest gives as arguments; the image adds the program.
        let line = format!(
            "exec ctr run --net-host --cgroup '' --cpu-shares 0 --runc-binary /opt/bin/runc --cap-add CAP_NET_ADMIN {} {name} flanneld \
             /opt/bin/flanneld --lease-dir /run/lab/directory/leases --ip-masq >{}/image.log 2>&1",
            mounts.join(" "),
            log.display()
        );
        let mut container = spawn(&machine, &line)?;
        let outcome =
            wait::until("the daemon in the container has written the subnet file", wait::LONG, || {
                ensure!(container.try_wait().context("could not wait")?.is_none(), "the container ended");
                node.subnet_env()
            });
        outcome.with_context(|| fs::read_to_string(log.join("image.log")).unwrap_or_default())?;
        node.netns().ip("link show flannel.1").map(drop)
    });
}

/// Nothing but programs, and what an engine needs to start them.
#[test]
fn image_holds_programs_only() {
    lab(|lab| {
        let host = lab.host("unpack")?;
        let directory = lab.directory("image")?;
        host.run(&format!(
            "tar -C {} -xf {}",
            directory.display(),
            file(Revision::First, "-image.tar")?.display()
        ))?;
        let blob = |reference: &serde_json::Value| -> Result<std::path::PathBuf> {
            let digest = reference["digest"].as_str().context("no digest")?.replace(':', "/");
            Ok(directory.join("blobs").join(digest))
        };
        let json = |path: std::path::PathBuf| -> Result<serde_json::Value> {
            let text = fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))
        };
        let index = json(blob(&json(directory.join("index.json"))?["manifests"][0])?)?;
        let manifest = json(blob(&index["manifests"][0])?)?;
        let config = json(blob(&manifest["config"])?)?;
        ensure!(config["config"]["Entrypoint"][0] == "/opt/bin/flanneld", "{config:#}");
        let listing = host.run(&format!("tar -tf {}", blob(&manifest["layers"][0])?.display()))?;
        let mut files: Vec<&str> = listing.lines().filter(|line| !line.ends_with('/')).collect();
        files.sort_unstable();
        ensure!(files == ["opt/bin/flannelctl", "opt/bin/flanneld", "opt/cni/bin/flannel"], "{files:?}");
        Ok(())
    });
}
