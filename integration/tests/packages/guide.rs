//! The commands of docs/install.md, run as they are written there.

use anyhow::{Context, Result, ensure};
use integration::readme::blocks;
use integration::{Feature, Lab, System, lab, wait};

use crate::artefacts::GUIDE;
use crate::host::{boot, expect, subnet};

/// A host, and on it the guide's etcd; the packages are in the current directory of [`run`].
fn host(lab: &Lab) -> Result<System> {
    lab.require(&[Feature::Dpkg, Feature::Etcd, Feature::Vxlan, Feature::Nft])?;
    let system = boot(lab)?;
    system.netns().ip("addr add 10.0.0.10/32 dev lo")?;
    system.run(
        "systemd-run --unit etcd-of-guide etcd --data-dir /var/lib/etcd-of-guide \
         --listen-client-urls http://10.0.0.10:2379 --advertise-client-urls http://10.0.0.10:2379",
    )?;
    system.run("cp -r /run/shared/first /srv/dist")?;
    wait::until("etcd is up", wait::LONG, || {
        system.run("etcdctl --endpoints http://10.0.0.10:2379 endpoint health").map(drop)
    })?;
    Ok(system)
}

fn run(system: &System, block: &str) -> Result<String> {
    system.run(&format!("set -e; cd /srv/dist\n{block}"))
}

/// The blocks under a heading, by how they begin. Each of these, and no other, has to be there.
fn expect_blocks<const N: usize>(heading: &str, beginnings: [&str; N]) -> Result<[String; N]> {
    let found = blocks(GUIDE, heading);
    let as_expected =
        found.len() == N && found.iter().zip(beginnings).all(|(block, begin)| block.starts_with(begin));
    ensure!(as_expected, "the blocks under {heading:?} do not begin with {beginnings:?}: {found:#?}");
    found.try_into().ok().context("not so many blocks")
}

#[test]
fn packages_work_as_the_guide_tells() {
    lab(|lab| {
        lab.require(&[Feature::Containerd])?;
        let [deb, _rpm, forward, network, start, plugins, containerd, remove] = expect_blocks(
            "## Packages",
            [
                "dpkg ",
                "rpm ",
                "echo net.",
                "flannelctl ",
                "echo FLANNELD_",
                "install ",
                "version = 2",
                "systemctl disable",
            ],
        )?;
        let system = host(lab)?;
        run(&system, &deb)?;
        system.netns().set_sysctl("net/ipv4/ip_forward", "0")?;
        for block in [forward, network, start, plugins] {
            run(&system, &block)?;
        }
        ensure!(system.netns().sysctl("net/ipv4/ip_forward")? == "1", "the host does not forward");
        subnet(&system)?;
        system.run("test -s /etc/cni/net.d/10-flannel.conflist")?;
        system.run(&format!("cat >/srv/config.toml <<'END'\n{containerd}END"))?;
        let config = system.run("containerd --config /srv/config.toml config dump")?;
        ensure!(config.contains(r#"bin_dir = "/usr/lib/flannel/cni""#), "{config}");

        let [unit] = expect_blocks("## The unit", ["mkdir "])?;
        run(&system, &unit)?;
        let writable = system.run("systemctl show --value -p ReadWritePaths flanneld.service")?;
        ensure!(writable.trim() == "/run /srv/leases", "{writable}");

        run(&system, &remove)?;
        ensure!(system.netns().ip("link show flannel.1").is_err(), "flannel.1 is left");
        Ok(())
    });
}

#[test]
fn static_programs_work_as_the_guide_tells() {
    lab(|lab| {
        let system = host(lab)?;
        let [install] = expect_blocks("## Static programs", ["tar "])?;
        run(&system, &install)?;
        let packages = blocks(GUIDE, "## Packages");
        let step = |begin: &str| {
            let block = packages.iter().find(|block| block.starts_with(begin));
            block.with_context(|| format!("no block begins with {begin:?}"))
        };
        // The examples are elsewhere, as the guide says.
        let network = step("flannelctl ")?.replace("/usr/share/doc/flannel/", "flannel-*-linux-amd64/doc/");
        run(&system, &network)?;
        run(&system, step("echo FLANNELD_")?)?;
        expect(&system, "systemctl is-active flanneld.service", "active")?;
        subnet(&system)?;
        for name in system.run("ls /opt/cni/bin")?.split_whitespace() {
            let about = system.run(&format!("/opt/cni/bin/{name} 2>&1 </dev/null"))?;
            ensure!(about.starts_with(&format!("CNI plugin {name} ")), "{name} says {about:?}");
        }
        Ok(())
    });
}
