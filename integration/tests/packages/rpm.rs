//! The RPM on a host with systemd: by rpm itself, and by dnf as people use it.

use anyhow::{Context, Result, ensure};
use integration::artefacts::{Revision, name};
use integration::pages::walk;
use integration::{Feature, Lab, System, lab};

use super::host::{VXLAN, boot, bring_up, expect, expect_confined, expect_enabled, expect_upgraded, process};

/// The other firewall mode, which starts programs.
const HOST_GW: &str = r#"{"Network":"10.42.0.0/16","Backend":{"Type":"host-gw"}}"#;

/// A package for what our packages want of a host, which its database does not know since it is Debian's.
const SYSTEM: &str = "Name: system
Version: 1
Release: 1
Summary: What every host has
License: None
BuildArch: noarch
Provides: /bin/sh
%description
What every host has.
%files
";

/// A host with that package in `/srv/repository`.
fn host(lab: &Lab) -> Result<System> {
    lab.require(&[Feature::Rpm])?;
    let system = boot(lab)?;
    system.run(&format!(
        "mkdir /srv/repository && cat >/srv/system.spec <<'END'\n{SYSTEM}END
         rpmbuild -bb --define '_topdir /srv/build' --define '_rpmdir /srv/repository' /srv/system.spec"
    ))?;
    Ok(system)
}

fn path(revision: Revision) -> Result<String> {
    Ok(format!("/run/shared/{}", name(revision, ".rpm")?))
}

#[test]
fn rpm_package_lifecycle() {
    lab(|lab| {
        lab.require(&[Feature::IptablesLegacy])?;
        let system = host(lab)?;
        // The old iptables needs more than the new one: raw sockets, and a lock below /run.
        for program in ["iptables", "ip6tables"] {
            system.run(&format!("update-alternatives --set {program} /usr/sbin/{program}-legacy"))?;
        }
        let (first, second) = (path(Revision::First)?, path(Revision::Second)?);
        let checked = system.run(&format!("rpm --checksig --verbose {first}"))?;
        ensure!(checked.contains("Payload SHA256 digest: OK") && !checked.contains("BAD"), "{checked}");

        // Debian's rpm warns that dpkg knows nothing of it.
        let rpm = "rpm --force-debian";
        system.run(&format!("{rpm} -i /srv/repository/noarch/system-*.rpm"))?;
        system.run(&format!("{rpm} -i {first}"))?;
        expect_life(&system, HOST_GW, &format!("{rpm} -U {second}"), &format!("{rpm} -e flannel"))?;
        let rules = system.netns().run("iptables-legacy -t nat -S")?;
        ensure!(rules.contains("FLANNEL-POSTRTG"), "the rules went with the package:\n{rules}");
        Ok(())
    });
}

/// As the guide tells; the upgrade is that of a host with a repository.
#[test]
fn dnf_installs_upgrades_and_removes() {
    lab(|lab| {
        lab.require(&[Feature::Dnf, Feature::Createrepo, Feature::Vxlan, Feature::Nft])?;
        let system = host(lab)?;
        system.run(&format!("mkdir /srv/dist && cp {} /srv/dist", path(Revision::First)?))?;
        system.run(&format!(
            "cp {} /srv/repository && createrepo_c /srv/repository",
            path(Revision::Second)?
        ))?;
        // What an administrator answers, and what a distribution brings.
        system.run("echo assumeyes=True >>/etc/dnf/dnf.conf && echo 1 >/etc/dnf/vars/releasever")?;
        system.run(
            "mkdir -p /etc/yum.repos.d && cat >/etc/yum.repos.d/local.repo <<'END'
[local]
name=local
baseurl=file:///srv/repository
gpgcheck=0
END",
        )?;
        walk("packages::rpm::dnf_installs_upgrades_and_removes", |guide| {
            system.run(&format!("cd /srv/dist; {}", guide.next("dnf ")?.text()))
        })?;
        expect_life(&system, VXLAN, "dnf upgrade", "dnf remove flannel")?;
        system.netns().ip("link show flannel.1").map(drop).context("pods lost their network")
    });
}

/// Also for another processor than this machine's. Nothing but the date that it was given is in it.
#[test]
fn packages_are_reproducible() {
    lab(|lab| {
        lab.require(&[Feature::Rpm])?;
        let directory = lab.directory("same")?;
        let said = lab.host("make")?.feed(
            &["sh", "-e"],
            &format!(
                "cd {}
                 mkdir -p etc/default usr/lib/flannel
                 echo setting >etc/default/flanneld
                 ln -s /usr/libexec/cni/flannel usr/lib/flannel/bridge
                 tar -cf files.tar etc usr
                 for name in one other; do
                     {} --version 1 --release 1 --architecture aarch64 --date 1700000000 --level 1 \\
                         <files.tar >$name.rpm
                 done
                 cmp one.rpm other.rpm
                 rpm -qp --queryformat '%{{arch}} %{{buildtime}}[ %{{filemtimes}}]' one.rpm",
                directory.display(),
                integration::program("rpm").display()
            ),
        )?;
        ensure!(said == "aarch64 1700000000 1700000000 1700000000 1700000000", "{said}");
        Ok(())
    });
}

/// From right after the installation of the first revision to after the removal of the second.
fn expect_life(system: &System, network: &str, upgrade: &str, remove: &str) -> Result<()> {
    expect(system, "rpm -q --queryformat '%{release}' flannel", "1")?;
    expect_enabled(system, "disabled", "inactive")?;
    system.run("rpm --verify flannel").context("what is installed is not what was packed")?;
    expect(system, "stat -c '%a %U:%G' /etc/default/flanneld", "640 root:root")?;
    let flags = system.run("rpm -q --queryformat '[%{fileflags:fflags} %{filenames}\\n]' flannel")?;
    for line in ["cn /etc/default/flanneld", "d /usr/share/doc/flannel/copyright", " /usr/sbin/flanneld"] {
        ensure!(flags.lines().any(|found| found == line), "not {line:?}:\n{flags}");
    }

    bring_up(system, network)?;
    expect_confined(system)?;
    expect_upgraded(system, process(system)?, upgrade)?;
    expect(system, "rpm -q --queryformat '%{release}' flannel", "2")?;

    system.run(remove)?;
    expect(system, "systemctl is-active flanneld.service", "inactive")?;
    for gone in ["/usr/sbin/flanneld", "/usr/lib/flannel", "/usr/share/doc/flannel", "/opt/cni/bin/flannel"] {
        ensure!(!system.exists(gone)?, "{gone} is left");
    }
    ensure!(!system.exists("/etc/systemd/system/multi-user.target.wants/flanneld.service")?);
    for kept in ["/etc/default/flanneld.rpmsave", "/var/lib/flannel/leases/config"] {
        ensure!(system.exists(kept)?, "{kept} went with the package");
    }
    Ok(())
}
