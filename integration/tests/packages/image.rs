//! The image, run by containerd as a node agent: in the network of the host, with its state mounted.

use anyhow::{Context, Result, ensure};
use integration::artefacts::{Revision, file};
use integration::image::Layout;
use integration::pages::walk;
use integration::{Feature, Machine, is_long, lab, wait};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// runc takes it that it may not write to the control groups, see `machine.sh`; by them it would find all processes to kill.
const RUNC: &str = r#"#!/bin/sh
for argument; do
    shift
    [ "$argument" = --all ] || set -- "$@" "$argument"
done
exec runc --rootless true "$@"
"#;
/// For the same reason containers get no limits here.
const UNLIMITED: &str = "ctr run --cgroup '' --cpu-shares 0 --runc-binary /opt/bin/runc ";

/// The guide's etcd.
const ETCD: &str = "http://10.0.0.10:2379";

fn spawn(machine: &Machine, line: &str, log: &Path) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec {line} >{} 2>&1", log.display())]).stdin(Stdio::null());
    machine.netns().spawn(&mut command).map(drop)
}

/// By the commands of the guide.
#[test]
#[expect(clippy::too_many_lines, reason = "one scenario")]
fn image_runs_with_containerd() {
    lab(|lab| {
        lab.require(&[Feature::Containerd, Feature::Runc, Feature::Etcd, Feature::Vxlan, Feature::Nft])?;
        lab.require(&[Feature::ImageIptables])?;
        if is_long() {
            lab.require(&[Feature::CrossBuild])?;
        }
        let cluster = lab.cluster(1)?;
        let node = &cluster.nodes[0];
        let machine = node.boot()?;
        let netns = machine.netns();
        machine.write_program("/opt/bin/runc", RUNC)?;
        netns.ip("addr add 10.0.0.10/32 dev lo")?;
        let log = lab.directory("log")?;
        let etcd =
            format!("etcd --data-dir /opt/etcd --listen-client-urls {ETCD} --advertise-client-urls {ETCD}");
        spawn(&machine, &etcd, &log.join("etcd.log"))?;
        spawn(&machine, "containerd", &log.join("containerd.log"))?;
        wait::until("containerd is up", wait::LONG, || netns.run("ctr version").map(drop))?;
        let config = r#"{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;
        wait::until("etcd is up", wait::LONG, || {
            netns
                .run(&format!("etcdctl --endpoints {ETCD} put /coreos.com/network/config {config}"))
                .map(drop)
        })?;

        // That for several processors takes minutes to make.
        let revision = if is_long() { Revision::Other } else { Revision::First };
        let newer = if is_long() { Revision::Other } else { Revision::Second };
        let shell = |revision: Revision, script: &str| -> Result<()> {
            let script = format!("cd {}\n{script}", revision.directory()?.display());
            netns.feed(&["sh", "-e"], &script).map(drop)
        };
        let written = || {
            wait::until("the daemon in the container has written the subnet file", wait::LONG, || {
                node.subnet_env()
            })
            .with_context(|| netns.run("ctr tasks list").unwrap_or_default())
        };
        walk("packages::image::image_runs_with_containerd", |guide| {
            let mut next = |beginning| Ok::<_, anyhow::Error>(guide.next(beginning)?.text().to_owned());
            let import = next("ctr images import")?;
            let start = next("mkdir -p /run/flannel")?.replace("ctr run ", UNLIMITED);
            let (end, remove) = (next("ctr tasks delete")?, next("ctr images remove")?);

            shell(revision, &import)?;
            shell(revision, &start)?;
            let subnet = written()?;
            let images = netns.run("ctr images list")?;
            let platforms = if is_long() { "linux/amd64,linux/arm64" } else { "linux/amd64" };
            ensure!(
                images.split_whitespace().any(|word| word == platforms),
                "not for {platforms}:\n{images}"
            );
            let device = node.netns().ip("-o link show flannel.1")?;

            shell(newer, &end)?;
            ensure!(netns.run("ctr tasks list -q")?.trim().is_empty(), "it runs still");
            ensure!(node.netns().ip("-o link show flannel.1")? == device, "pods have lost their network");
            fs::remove_file(node.file("/run/flannel/subnet.env")?)?;
            shell(newer, &import)?;
            shell(newer, &start)?;
            let upgraded = written()?;
            ensure!(upgraded == subnet, "{upgraded:?} was {subnet:?}");
            ensure!(node.netns().ip("-o link show flannel.1")? == device, "the device was made anew");

            shell(newer, &end)?;
            shell(newer, &remove)?;
            let left = netns.run("ctr tasks list -q")?
                + &netns.run("ctr containers list -q")?
                + &netns.run("ctr images list -q")?;
            ensure!(left.trim().is_empty(), "left behind: {left}");
            Ok(())
        })
    });
}

/// Nothing but programs, and what an engine needs to start them.
#[test]
fn image_contains_only_programs() {
    lab(|lab| {
        let host = lab.host("unpack")?;
        let image = Layout::unpack(lab, &file(Revision::First, "-image-slim.tar")?)?;
        let layers = image.layers("amd64")?;
        ensure!(layers.len() == 1, "{layers:?}");
        let listing = host.run(&format!("tar -tf {}", layers[0].display()))?;
        let mut files: Vec<&str> = listing.lines().filter(|line| !line.ends_with('/')).collect();
        files.sort_unstable();
        let programs = [
            "flannel",
            "opt/bin/cp",
            "opt/bin/flannelctl",
            "opt/bin/flanneld",
            "opt/bin/install-conf",
            "opt/bin/mk-docker-opts.sh",
            "opt/cni/bin/flannel",
        ];
        ensure!(files == programs, "{files:?}");
        Ok(())
    });
}

/// Both variants run without anything of the host, and the bill of materials names the packages that they are from.
#[test]
fn image_contains_iptables() {
    lab(|lab| {
        lab.require(&[Feature::ImageIptables, Feature::Iptables])?;
        let host = lab.host("unpack")?;
        let root = Layout::unpack(lab, &file(Revision::First, "-image.tar")?)?.own_root(lab, "root")?;
        for (variant, expected) in [("nft", "(nf_tables)"), ("legacy", "(legacy)")] {
            for program in ["iptables", "ip6tables"] {
                let run = format!(
                    "env XTABLES_LOCKFILE=/lock chroot {} /usr/sbin/{program}-{variant}",
                    root.display()
                );
                let version = host.run(&format!("{run} --version"))?;
                ensure!(version.contains(expected), "{program}-{variant}: {version}");
                // Extensions are loaded.
                let saved = "*filter\n:X - [0:0]\n-A X -m comment --comment c -m mark --mark 0x1 -m statistic --mode nth --every 2 --packet 0 -j REJECT\nCOMMIT\n";
                let words = format!("{run}-restore --test");
                let words: Vec<&str> = words.split(' ').collect();
                host.feed(&words, saved)?;
            }
        }
        let bill = fs::read(file(Revision::First, ".cdx.json")?).context("no bill of materials")?;
        let bill: Value = serde_json::from_slice(&bill).context("the bill of materials is not JSON")?;
        let components = bill["components"].as_array().context("no components")?;
        let documents = host.run(&format!("ls {}/usr/share/doc", root.display()))?;
        ensure!(documents.contains("iptables\n") && documents.contains("libc6\n"), "{documents}");
        for package in documents.lines() {
            let found = components.iter().find(|component| {
                let purl = component["purl"].as_str().unwrap_or_default();
                purl.starts_with(&format!("pkg:deb/debian/{package}@"))
            });
            let found = found.with_context(|| format!("{package} is not in the bill of materials"))?;
            let license = found["licenses"][0]["expression"].as_str().unwrap_or_default();
            ensure!(license.contains("GPL"), "{found}");
            ensure!(found["hashes"][0]["content"].as_str().is_some_and(|sum| sum.len() == 64), "{found}");
        }
        Ok(())
    });
}
