//! The Debian package on a host with systemd, and what all such hosts have in common.

use anyhow::{Context, Result, ensure};
use integration::{Feature, Lab, System, lab, wait};
use std::path::Path;

use integration::artefacts::{Revision, directory, name};

/// ```text
///   host ── lan 192.168.50.0/24
/// ```
pub(crate) fn boot(lab: &Lab) -> Result<System> {
    lab.require(&[Feature::Systemd])?;
    let lan = lab.segment("lan", &["192.168.50.254/24".parse()?])?;
    let host = lab.host("host")?;
    lan.default_routes(&lan.attach(&host, "eth0", &["192.168.50.1/24".parse()?])?)?;
    host.set_sysctl("net/ipv4/ip_forward", "1")?;
    System::boot(lab, &host, &directory()?)
}

/// What the administrator does after the installation: the network config, the daemon's settings, the start.
pub(crate) fn bring_up(system: &System, network: &str) -> Result<()> {
    system.run(&format!("cat >/etc/network.json <<'END'\n{network}\nEND"))?;
    system.run("flannelctl --lease-dir /var/lib/flannel/leases config set /etc/network.json")?;
    system.run("echo FLANNELD_LEASE_DIR=/var/lib/flannel/leases >>/etc/default/flanneld")?;
    // It returns when the daemon says that it is ready, so from then on all must be there.
    system
        .run("systemctl enable --now flanneld.service")
        .with_context(|| system.run("journalctl --no-pager -u flanneld.service").unwrap_or_default())?;
    expect(system, "systemctl is-active flanneld.service", "active")?;
    subnet(system).map(drop)
}

pub(crate) fn subnet(system: &System) -> Result<String> {
    let line = system.run("grep FLANNEL_SUBNET= /run/flannel/subnet.env")?;
    Ok(line.trim().to_owned())
}

pub(crate) fn expect(system: &System, line: &str, expected: &str) -> Result<()> {
    let said = system.say(line)?;
    ensure!(said == expected, "`{line}` says {said:?}, not {expected:?}");
    Ok(())
}

pub(crate) fn process(system: &System) -> Result<u32> {
    let text = system.run("systemctl show --value -p MainPID flanneld.service")?;
    text.trim().parse().with_context(|| format!("not a process number: {text:?}"))
}

/// The daemon may do what its unit lets it, and nothing else.
pub(crate) fn expect_confined(system: &System) -> Result<()> {
    let status = system.run(&format!("cat /proc/{}/status", process(system)?))?;
    // CAP_NET_ADMIN and CAP_NET_RAW are numbers 12 and 13.
    for line in ["CapEff:\t0000000000003000", "CapBnd:\t0000000000003000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        ensure!(status.lines().any(|found| found == line), "not {line:?}:\n{status}");
    }
    Ok(())
}

pub(crate) fn expect_enabled(system: &System, enabled: &str, active: &str) -> Result<()> {
    expect(system, "systemctl is-enabled flanneld.service", enabled)?;
    expect(system, "systemctl is-active flanneld.service", active)
}

/// An upgrade restarts a daemon that runs, which keeps its subnet; the administrator's settings stay.
pub(crate) fn expect_upgraded(system: &System, before: u32, upgrade: &str) -> Result<u32> {
    let had = subnet(system)?;
    let settings = system.run("cat /etc/default/flanneld")?;
    system.run(upgrade)?;
    expect_enabled(system, "enabled", "active")?;
    let after = process(system)?;
    ensure!(before != after, "the daemon still runs the old program");
    ensure!(subnet(system)? == had, "the node has another subnet");
    ensure!(system.run("cat /etc/default/flanneld")? == settings, "the settings changed");
    Ok(after)
}

pub(crate) const VXLAN: &str =
    r#"{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;

/// Files of the Debian package: mode, owner, path.
const DEBIAN_FILES: [&str; 6] = [
    "640 root:root /etc/default/flanneld",
    "755 root:root /usr/sbin/flanneld",
    "755 root:root /usr/bin/flannelctl",
    "755 root:root /usr/lib/cni/flannel",
    "644 root:root /usr/lib/systemd/system/flanneld.service",
    "644 root:root /usr/share/doc/flannel/copyright",
];

#[test]
fn debian_package_lifecycle() {
    lab(|lab| {
        lab.require(&[Feature::Dpkg, Feature::Vxlan, Feature::Nft, Feature::IptablesLegacy])?;
        let system = boot(lab)?;
        let deb = |revision| Ok::<_, anyhow::Error>(format!("/run/shared/{}", name(revision, ".deb")?));
        let (first, second) = (deb(Revision::First)?, deb(Revision::Second)?);
        let before = system.changes()?;

        system.run(&format!("dpkg -i {first}"))?;
        expect_enabled(&system, "disabled", "inactive")?;
        for line in DEBIAN_FILES {
            let path = line.rsplit(' ').next().unwrap_or_default();
            expect(&system, &format!("stat -c '%a %U:%G %n' {path}"), line)?;
        }
        system.run("dpkg --verify flannel")?;
        let installed = system.run("dpkg -L flannel")?;
        expect_documented(&system)?;

        system.netns().run("iptables-legacy -t nat -N FLANNEL-POSTRTG")?;
        bring_up(&system, VXLAN)?;
        system.netns().ip("link show flannel.1")?;
        expect_confined(&system)?;
        // What it does beside netlink: a setting of the kernel, and the rules of another mode, which take a program.
        let accepted = system.netns().sysctl("net/ipv6/conf/flannel.1/accept_ra")?;
        ensure!(accepted == "0", "the tunnel device takes router advertisements: accept_ra is {accepted}");
        wait::until("rules of an earlier run are gone", wait::LONG, || {
            let rules = system.netns().run("iptables-legacy -t nat -S")?;
            ensure!(!rules.contains("FLANNEL"), "{rules}");
            Ok(())
        })?;
        expect_pods(&system)?;

        system.run("systemctl stop flanneld.service")?;
        subnet(&system).context("a stop takes the subnet file away")?;
        system.run("systemctl start flanneld.service")?;

        let process_number = process(&system)?;
        let process_number = expect_upgraded(&system, process_number, &format!("dpkg -i {second}"))?;
        expect(&system, "dpkg-query -W -f '${Version}' flannel | sed 's/.*-//'", "2")?;

        // Where packages must not start or restart anything.
        system.run(
            "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d",
        )?;
        system.run(&format!("dpkg -i {first}"))?;
        ensure!(process(&system)? == process_number, "the daemon was restarted against the policy");
        system.run("rm /usr/sbin/policy-rc.d")?;

        system.run("dpkg -r flannel")?;
        expect(&system, "systemctl is-active flanneld.service", "inactive")?;
        ensure!(!system.exists("/usr/sbin/flanneld")?, "the program is still there");
        for kept in ["/etc/default/flanneld", "/var/lib/flannel/leases/config", "/run/flannel/subnet.env"] {
            ensure!(system.exists(kept)?, "{kept} went with the package");
        }
        system.netns().ip("link show flannel.1").context("pods lost their network")?;

        system.run("dpkg -P flannel")?;
        for path in installed.lines().filter(|path| path.contains("flannel")) {
            ensure!(!system.exists(path)?, "{path} is left");
        }
        ensure!(!system.exists("/run/flannel")?, "/run/flannel is left");
        expect_nothing_left(&system, &before)
    });
}

/// Fails if anything is new but what the system itself keeps of every package and service.
fn expect_nothing_left(
    system: &System,
    before: &std::collections::BTreeSet<std::path::PathBuf>,
) -> Result<()> {
    // Addresses of pods are the runtime's: pods may live longer than the package.
    const KEPT: [&str; 6] =
        ["var/lib/dpkg", "var/log", "var/cache", "var/lib/systemd", "var/lib/cni", "etc/network.json"];
    let left: Vec<_> = system
        .changes()?
        .into_iter()
        .filter(|path| !before.contains(path) && !KEPT.iter().any(|kept| path.starts_with(kept)))
        // A directory of the machine counts as changed as soon as something in it was.
        .filter(|path| !Path::new("/").join(path).is_dir())
        // The policy file of the machine, which the host has not.
        .filter(|path| path != Path::new("usr/sbin/policy-rc.d"))
        .collect();
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

/// Manual pages that `man` shows, and completions that the shell takes.
fn expect_documented(system: &System) -> Result<()> {
    for page in ["flanneld", "flannelctl"] {
        let text = system.run(&format!("zcat -f /usr/share/man/man8/{page}.8*"))?;
        ensure!(text.contains(".TH"), "{page}.8 is no manual page:\n{text}");
    }
    let text = system.run("cat /usr/share/man/man8/flanneld.8")?;
    ensure!(text.contains("etcd\\-endpoints"), "flanneld.8 lacks a flag:\n{text}");
    system.run("bash -n /usr/share/bash-completion/completions/flannelctl").map(drop)
}

/// The plugin answers under all its names, and gives a pod an address of the node's subnet.
fn expect_pods(system: &System) -> Result<()> {
    for name in system.run("ls /usr/lib/flannel/cni")?.split_whitespace() {
        let about = system.run(&format!("/usr/lib/flannel/cni/{name} 2>&1 </dev/null"))?;
        ensure!(about.starts_with(&format!("CNI plugin {name} ")), "{name} says {about:?}");
    }
    system.run("ip netns add pod")?;
    let added = system.run(
        r#"CNI_COMMAND=ADD CNI_CONTAINERID=pod CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 CNI_PATH=/usr/lib/flannel/cni \
           /opt/cni/bin/flannel <<'END'
{"cniVersion":"1.0.0","name":"cbr0","type":"flannel","delegate":{"hairpinMode":true,"isDefaultGateway":true}}
END"#,
    )?;
    let subnet = subnet(system)?;
    let node = subnet.trim_start_matches("FLANNEL_SUBNET=").trim_end_matches("1/24");
    ensure!(added.contains(&format!("\"{node}")), "{added} is not of {subnet}");
    system.run("ip netns exec pod ping -c 1 -W 10 192.168.50.1").map(drop)
}

/// The most that `systemd-analyze security` may find, in tenths: 0 is a service that can do nothing, 100 one that can do all.
const EXPOSURE: u32 = 35;

#[test]
fn unit_is_valid_and_confined() {
    lab(|lab| {
        lab.require(&[Feature::Dpkg])?;
        let system = boot(lab)?;
        system.run(&format!("dpkg -i /run/shared/{}", name(Revision::First, ".deb")?))?;
        let complaints = system.run("systemd-analyze verify --man=no flanneld.service 2>&1")?;
        ensure!(!complaints.contains("flanneld"), "{complaints}");
        system.run(&format!("systemd-analyze security --threshold={EXPOSURE} flanneld.service"))?;
        for order in ["containerd.service", "kubelet.service"] {
            let before = system.run("systemctl show --value -p Before flanneld.service")?;
            ensure!(before.contains(order), "not before {order}: {before}");
        }
        Ok(())
    });
}

#[test]
fn failed_or_hanging_daemon_is_restarted() {
    lab(|lab| {
        lab.require(&[Feature::Dpkg, Feature::Nft])?;
        let system = boot(lab)?;
        system.run(&format!("dpkg -i /run/shared/{}", name(Revision::First, ".deb")?))?;
        bring_up(
            &system,
            r#"{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"host-gw"}}"#,
        )?;
        let again = |signal: &str| -> Result<()> {
            let first = process(&system)?;
            system.run(&format!("systemctl kill --signal {signal} flanneld.service"))?;
            wait::until("the daemon is back", wait::LONG, || {
                let (state, now) = (system.say("systemctl is-active flanneld.service")?, process(&system)?);
                ensure!(state == "active" && now != first, "{state}, process {now}");
                Ok(())
            })
        };
        again("KILL")?;
        // With shorter limits than the unit has, which would take a minute.
        ensure!(system.run("systemctl show -p WatchdogUSec flanneld.service")?.trim() == "WatchdogUSec=1min");
        system.run(
            "mkdir /etc/systemd/system/flanneld.service.d &&
             printf '[Service]\nWatchdogSec=1\nTimeoutAbortSec=1\nRestartSec=100ms\n' >/etc/systemd/system/flanneld.service.d/limits.conf &&
             systemctl daemon-reload && systemctl restart flanneld.service",
        )?;
        let served = process(&system)?;
        std::thread::sleep(std::time::Duration::from_secs(2));
        ensure!(process(&system)? == served, "a daemon that says that it lives was restarted");
        again("STOP")?;
        subnet(&system).context("a crash takes the subnet file away").map(drop)
    });
}
