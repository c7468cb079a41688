//! What is made for another processor, run by an emulator of single programs.
//!
//! The emulator passes system calls on to the kernel of this machine, netlink of links and routes among them, but not
//! that of netfilter. So the daemon runs in the firewall mode that starts programs, which are this machine's.

use anyhow::{Context, Result, ensure};
use integration::{Conflist, Feature, Flanneld, Lab, Netns, is_long, lab};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::programs::{expect_checksums, unpack};
use integration::artefacts::{Revision, file};
use integration::image::Layout;

const EMULATOR: &str = "qemu-aarch64-static";

/// A static program of the other processor, made into one that starts by its name.
fn emulated(lab: &Lab, tools: &Netns, program: &Path) -> Result<PathBuf> {
    let path = program.display();
    let about = tools.run(&format!("readelf --wide --file-header --program-headers {path}"))?;
    ensure!(about.contains("AArch64"), "{path} is for another processor:\n{about}");
    ensure!(!about.contains("INTERP"), "{path} is not static:\n{about}");
    let wrapper = lab.directory("emulated")?.join(program.file_name().context("a program without a name")?);
    fs::write(&wrapper, format!("#!/bin/sh\nexec {EMULATOR} {path} \"$@\"\n"))
        .and_then(|()| fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("could not write {}", wrapper.display()))?;
    Ok(wrapper)
}

/// Every test has the plugin, the long form everything.
#[test]
fn programs_for_another_architecture_run() {
    lab(|lab| {
        lab.require(&[Feature::CrossBuild, Feature::Emulator, Feature::Iptables])?;
        let tools = lab.host("tools")?;
        let mut flanneld = Flanneld::on_directory(
            &lab.lease_directory(r#"{"Network":"10.42.0.0/16","Backend":{"Type":"host-gw"}}"#)?,
        );
        let plugin = if is_long() {
            let programs = unpack(lab, Revision::Other, "-arm64.tar.gz")?;
            expect_packages(lab, &tools, &programs)?;
            flanneld = flanneld.program(emulated(lab, &tools, &programs.join("flanneld"))?);
            let flannelctl = emulated(lab, &tools, &programs.join("flannelctl"))?;
            let said = tools.run(&format!("{} version -o json", flannelctl.display()))?;
            ensure!(said.contains(r#""architecture": "aarch64""#), "{said}");
            emulated(lab, &tools, &programs.join("flannel"))?
        } else {
            emulated(lab, &tools, &file(Revision::Other, "flannel")?)?
        };
        let version = format!("env CNI_COMMAND=VERSION {}", plugin.display());
        let words: Vec<&str> = version.split_whitespace().collect();
        let said = tools.feed(&words, r#"{"cniVersion":"1.0.0"}"#)?;
        let said: Value = serde_json::from_str(&said).with_context(|| format!("not JSON: {said}"))?;
        ensure!(
            said["supportedVersions"].as_array().is_some_and(|v| v.iter().any(|v| v == "1.0.0")),
            "{said}"
        );

        let cluster = lab.cluster(1)?;
        let node = &cluster.nodes[0];
        let mut daemon = node.start(&flanneld)?;
        daemon.wait_ready()?;
        let plugins = plugin.parent().context("a plugin without a directory")?;
        let list = Conflist::flannel().plugins_in(plugins);
        let pods = [node.add_pod_with("one", &list)?, node.add_pod_with("two", &list)?];
        pods[0].netns.wait_ping(pods[1].address(true)?)?;
        pods[0].netns.wait_ping("192.168.50.254".parse()?)?;
        let held = || node.netns().run("ls /var/lib/cni/networks/cbr0");
        for pod in pods {
            let address = pod.address(true)?.to_string();
            ensure!(held()?.contains(&address), "{address} is not taken: {}", held()?);
            pod.delete()?;
            ensure!(!held()?.contains(&address), "{address} is still taken");
        }
        daemon.stop().map(drop)
    });
}

/// Packages in which the other processor is named, and in which its programs are.
fn expect_packages(lab: &Lab, tools: &Netns, programs: &Path) -> Result<()> {
    expect_checksums(tools, Revision::Other)?;
    let names = ["flanneld", "flannelctl", "flannel"];
    let expect_programs = |what: &str, files: [PathBuf; 3]| -> Result<()> {
        for (name, packed) in names.iter().zip(files) {
            let [packed, program] = [packed, programs.join(name)]
                .map(|path| fs::read(&path).with_context(|| format!("could not read {}", path.display())));
            ensure!(packed? == program?, "{name} of {what} is another one");
        }
        Ok(())
    };
    let installed = ["usr/sbin/flanneld", "usr/bin/flannelctl", "usr/lib/cni/flannel"];

    let deb = file(Revision::Other, "_arm64.deb")?;
    let architecture = tools.run(&format!("dpkg-deb --field {} Architecture", deb.display()))?;
    ensure!(architecture.trim() == "arm64", "{} is for {architecture}", deb.display());
    let unpacked = lab.directory("deb")?;
    tools.run(&format!("dpkg-deb --extract {} {}", deb.display(), unpacked.display()))?;
    expect_programs("the deb", installed.map(|path| unpacked.join(path)))?;

    let rpm = file(Revision::Other, ".aarch64.rpm")?;
    tools.run(&format!("rpm --checksig {}", rpm.display()))?;
    let about = tools.run(&format!(
        "rpm -qp --queryformat %{{arch}}\\n[%{{filedigests}}\\t%{{filenames}}\\n] {}",
        rpm.display()
    ))?;
    ensure!(about.starts_with("aarch64\n"), "{} is for another processor: {about}", rpm.display());
    for (name, path) in names.iter().zip(installed) {
        let sum = tools.run(&format!("sha256sum {}", programs.join(name).display()))?;
        let sum = sum.split_whitespace().next().context("no checksum")?;
        let line = format!("{sum}\t/{}", path.replace("lib/cni", "libexec/cni"));
        ensure!(about.lines().any(|found| found == line), "no {line:?} in {about}");
    }

    let image = Layout::unpack(lab, &file(Revision::Other, "-image.tar")?)?;
    let unpacked = image.root(lab, "root", "arm64")?;
    for (name, path) in
        [("flannelctl", "opt/bin/flanneld"), ("flannelctl", "opt/bin/flannelctl"), ("flannel", "flannel")]
    {
        let (program, packed) = (programs.join(name), unpacked.join(path));
        tools.run(&format!("cmp {} {}", program.display(), packed.display()))?;
    }
    // The other variant asks the kernel for its version, by the netlink that the emulator does not pass on.
    let root = unpacked.display();
    ensure!(unpacked.join("usr/sbin/xtables-nft-multi").exists(), "iptables-nft is missing");
    let version = tools.run(&format!("{EMULATOR} -L {root} {root}/usr/sbin/iptables-legacy --version"))?;
    ensure!(version.starts_with("iptables v1."), "{version}");

    let bill = fs::read(file(Revision::Other, "-arm64.cdx.json")?).context("no bill of materials")?;
    let bill: Value = serde_json::from_slice(&bill).context("not JSON")?;
    let target = &bill["metadata"]["component"]["properties"][0]["value"];
    ensure!(target == "aarch64-unknown-linux-gnu", "the bill of materials is for {target}");
    Ok(())
}
