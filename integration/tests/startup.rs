//! What a daemon says and does about bad flags and bad network configs, and `subnet.env` to the letter.

use anyhow::{Context, Result, ensure};
use integration::directory::{expect_log, wait_log};
use integration::etcd::PREFIX;
use integration::{Daemon, Feature, Flanneld, LeaseDirectory, Node, Stack, lab, wait};
use std::fs;
use std::time::Duration;

/// A daemon that does not start: exit code and what it says.
fn ends(node: &Node, flanneld: &Flanneld, code: i32, words: &[&str]) -> Result<()> {
    let mut daemon = node.start(flanneld)?;
    let status = daemon.wait_end()?;
    ensure!(status.code() == Some(code), "{flanneld:?}: {status}");
    expect_log(&daemon, words).with_context(|| format!("{flanneld:?}"))
}

#[test]
fn invalid_flags_suggest_the_closest_match() {
    lab(|lab| {
        let node = lab.node("n1")?;
        for (flags, words) in [
            ("--ip-mask", &["unknown flag --ip-mask", "did you mean --ip-masq?"][..]),
            ("-ifaces=eth0", &["unknown flag --ifaces", "did you mean --iface?"]),
            ("--etcd-endpoint=http://x", &["did you mean --etcd-endpoints?"]),
            ("--xyzzy", &["unknown flag --xyzzy", "flanneld --help lists all flags"]),
            ("--ip-masq=maybe", &["--ip-masq is \"maybe\", but must be"]),
            ("--iptables-resync=often", &["--iptables-resync is \"often\", but must be"]),
            ("--subnet-lease-renew-margin=1440", &["--subnet-lease-renew-margin", "1440"]),
            ("--iface-can-reach=somewhere", &["--iface-can-reach is \"somewhere\", but must be"]),
            ("--etcd-prefix", &["--etcd-prefix needs a value"]),
        ] {
            ends(&node, &Flanneld::bare().arguments(flags), 2, words)?;
        }
        let by_variable = Flanneld::bare().environment("FLANNELD_IPTABLES_RESYNC", "x");
        ends(&node, &by_variable, 2, &["FLANNELD_IPTABLES_RESYNC is \"x\", but must be"])
    });
}

#[test]
fn help_and_version_succeed() {
    lab(|lab| {
        let node = lab.node("n1")?;
        ends(&node, &Flanneld::bare().argument("--help"), 0, &["--etcd-endpoints"])?;
        ends(&node, &Flanneld::bare().argument("--version"), 0, &["v0."])
    });
}

#[test]
fn unavailable_backends_are_rejected_with_the_available_ones() {
    lab(|lab| {
        let cluster = lab.cluster(1)?;
        for backend in ["wireguard", "udp", "tencent-vpc"] {
            let config = Stack::V4.config(&format!(r#"{{"Type":"{backend}"}}"#));
            let leases = LeaseDirectory::new(lab, &config)?;
            let flanneld = Flanneld::on_directory(leases.path());
            let name = format!("the backend {backend} is not in this version");
            ends(&cluster.nodes[0], &flanneld, 1, &[&name, "vxlan, host-gw, ipip or alloc"])?;
        }
        Ok(())
    });
}

/// Bad configs, and what must be said of each.
const BAD_CONFIGS: [(&str, &[&str]); 9] = [
    ("", &["the JSON text is empty"]),
    (r#"{"Network":"10.42.0.0/16""#, &["not valid JSON", "line 1"]),
    (r#"{"Network":"10.42.0.0"}"#, &["Network is", "10.42.0.0", "must be"]),
    (r#"{"Backend":{"Type":"vxlan"}}"#, &["Network is missing", "set Network to"]),
    (r#"{"Network":"10.42.0.0/16","SubnetLen":33}"#, &["SubnetLen is 33", "must be"]),
    (
        r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlam"}}"#,
        &["Backend.Type is", "vxlam", "must be one of vxlan"],
    ),
    (
        r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","VNI":"1"}}"#,
        &["Backend.VNI is", "must be a whole number from 1 to 16777215"],
    ),
    (r#"{"EnableIPv4":false}"#, &["disables both families", "set EnableIPv4 or EnableIPv6 to true"]),
    (
        r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd42::/48","Backend":{"Type":"vxlan","VNI":10000}}"#,
        &["Backend.VNI is 10000", "flannel-v6.10000", "must be at most 9999"],
    ),
];

/// The daemon waits for a config, reports the problem of each invalid one, and continues with the first valid one.
fn recovers(daemon: &mut Daemon, place: &str, set_config: impl Fn(&str) -> Result<()>) -> Result<()> {
    wait_log(daemon, &["waiting for a network config", "the store has no network config", place])?;
    for (config, words) in BAD_CONFIGS {
        set_config(config)?;
        let words: Vec<&str> = ["waiting for a network config"].iter().chain(words).copied().collect();
        wait_log(daemon, &words)?;
        ensure!(daemon.get("/healthz")?.status == 200, "not alive while it waits");
        ensure!(daemon.get("/readyz")?.status == 503, "ready without a config");
    }
    set_config(&Stack::V4.config(r#"{"Type":"vxlan"}"#))?;
    daemon.wait_ready()
}

#[test]
fn waits_for_a_valid_config_in_a_directory() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(1)?;
        let leases = LeaseDirectory::empty(lab)?;
        let mut daemon = cluster.nodes[0].start(&Flanneld::on_directory(leases.path()))?;
        recovers(&mut daemon, "the file /run/lab/directory/leases/config", |config| leases.set_config(config))
    });
}

#[test]
fn waits_for_a_valid_config_in_etcd() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Etcd])?;
        let cluster = lab.cluster(1)?;
        let etcd = cluster.etcd(lab)?;
        let mut daemon = cluster.nodes[0].start(&Flanneld::on_etcd(&etcd))?;
        let place = format!("the etcd key {PREFIX}/config");
        recovers(&mut daemon, &place, |config| etcd.set_config(config))
    });
}

/// A config that turns bad while the daemon runs changes nothing and is named; so is one that pods would not survive.
#[test]
fn later_invalid_config_changes_nothing() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(1)?;
        let (node, good) = (&cluster.nodes[0], Stack::V4.config(r#"{"Type":"vxlan"}"#));
        let (leases, mut daemons) = cluster.start_on_directory(lab, &good)?;
        let (env, device) = (node.subnet_env_text()?, node.netns().ip("-d link show dev flannel.1")?);
        for (config, words) in [
            (
                r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","Port":70000}}"#,
                ["Backend.Port is 70000", "from 0 to 65535"],
            ),
            (
                r#"{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}"#,
                ["network 10.42.0.0/16 -> 10.99.0.0/16", "restart flanneld"],
            ),
            (
                r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","VNI":2}}"#,
                ["VNI, Port or GBP", "restart flanneld"],
            ),
        ] {
            leases.set_config(config)?;
            wait_log(&daemons[0], &words)?;
        }
        wait::holds_for("the node is as it was", Duration::from_millis(300), || {
            ensure!(node.subnet_env_text()? == env, "{}", node.subnet_env_text()?);
            ensure!(node.netns().ip("-d link show dev flannel.1")? == device);
            Ok(())
        })?;
        leases.set_config(&good)?;
        wait_log(&daemons[0], &["condition cleared", "config"])?;
        ensure!(daemons[0].running()?, "it ended");
        Ok(())
    });
}

/// The texts of the specification for its examples, with the second subnet where they have the first, which is never
/// given out.
#[test]
fn subnet_env_matches_the_specification() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(1)?;
        let node = &cluster.nodes[0];
        let file = node.file("/run/flannel/subnet.env")?;
        let v6 = r#""EnableIPv6":true,"IPv6Network":"2001:cafe:42::/56""#;
        for (number, (networks, before, flags, mtu_bytes, expected)) in (1..).zip([
            (
                r#""Network":"10.5.0.0/16""#.to_owned(),
                "FLANNEL_SUBNET=10.5.72.1/24\n",
                "",
                1500,
                "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n",
            ),
            (
                format!(r#""Network":"10.42.0.0/16",{v6}"#),
                "FLANNEL_SUBNET=10.42.1.1/24\nFLANNEL_IPV6_SUBNET=2001:cafe:42:1::1/64\n",
                "--ip-masq",
                1500,
                "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\nFLANNEL_IPV6_NETWORK=2001:cafe:42::/56\n\
                 FLANNEL_IPV6_SUBNET=2001:cafe:42:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
            ),
            (
                format!(r#""EnableIPv4":false,{v6}"#),
                "FLANNEL_IPV6_SUBNET=2001:cafe:42:1::1/64\n",
                "--ip-masq",
                1490,
                "FLANNEL_IPV6_NETWORK=2001:cafe:42::/56\nFLANNEL_IPV6_SUBNET=2001:cafe:42:1::1/64\nFLANNEL_MTU=1420\n\
                 FLANNEL_IPMASQ=true\n",
            ),
        ]) {
            cluster.nics[0].set_mtu(mtu_bytes)?;
            let leases =
                LeaseDirectory::new(lab, &format!(r#"{{{networks},"Backend":{{"Type":"vxlan"}}}}"#))?;
            fs::write(&file, before)?;
            // Each run is the first one of its host.
            let state = format!("--state-dir=/run/flannel/state{number}");
            let flanneld = Flanneld::on_directory(leases.path()).argument(state).arguments(flags);
            let mut daemon = node.start(&flanneld)?;
            daemon.wait_ready()?;
            let found = node.subnet_env_text()?;
            ensure!(found == expected, "found:\n{found}expected:\n{expected}");
            daemon.stop()?;
            ensure!(node.subnet_env_text()? == expected, "it did not stay after the end");
            fs::remove_dir_all(leases.path()).context("could not empty the store")?;
        }
        Ok(())
    });
}
