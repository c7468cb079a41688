//! `flannelctl doctor`: faults of store, leases and daemons, and a host that has no daemon yet.

use anyhow::{Context, Result, ensure};
use integration::golden::Stack;
use integration::{
    Cluster, Daemon, Doctor, Etcd, EtcdOptions, Feature, Flanneld, Lab, LeaseDirectory, lab, relay,
};
use nix::sys::signal::Signal;
use std::fs;
use std::time::Duration;

const VXLAN: &str = r#"{"Type":"vxlan"}"#;
const SUBNETS: &str = "/coreos.com/network/subnets";

fn config(stack: Stack, backend: &str) -> String {
    stack.config(backend).replacen('{', "{\"EnableNFTables\":true,", 1)
}

fn on_etcd(lab: &Lab, nodes: usize) -> Result<(Cluster, Etcd, Vec<Daemon>, Doctor)> {
    lab.require(&[Feature::Vxlan, Feature::Etcd, Feature::Nft, Feature::Iptables])?;
    let cluster = lab.cluster(nodes)?;
    let etcd = cluster.etcd(lab)?;
    // What the tests add by hand is behind the subnets of the nodes.
    let limited = config(Stack::V4, VXLAN).replacen('{', "{\"SubnetMax\":\"10.42.239.0\",", 1);
    etcd.set_config(&limited)?;
    let flanneld = Flanneld::on_etcd(&etcd);
    let daemons = cluster.start_all(&flanneld)?;
    Doctor::install_cni_config(&cluster.nodes[0])?;
    let doctor = Doctor::of(&cluster.nodes[0], &flanneld);
    doctor.expect(&[])?;
    Ok((cluster, etcd, daemons, doctor))
}

#[test]
fn faults_of_leases() {
    lab(|lab| {
        let (cluster, etcd, daemons, doctor) = on_etcd(lab, 2)?;
        daemons[0].signal(Signal::SIGSTOP)?;
        doctor.expect(&["daemon-stuck"])?;
        let key = |net: ipnet::IpNet| format!("{SUBNETS}/{}-{}", net.addr(), net.prefix_len());
        let (own, peer) = (key(cluster.nodes[0].subnet(true)?), key(cluster.nodes[1].subnet(true)?));
        let (own_record, peer_record) =
            (etcd.get(&own)?.context("no record")?, etcd.get(&peer)?.context("no record")?);

        // Another node with our address has written our record.
        let mac = |record: &str| -> Result<String> {
            let record: serde_json::Value = serde_json::from_str(record)?;
            Ok(record["BackendData"]["VtepMAC"].as_str().context("no MAC")?.to_owned())
        };
        let (own_mac, peer_mac) = (mac(&own_record)?, mac(&peer_record)?);
        etcd.put_with_lease(&own, &own_record.replace(&own_mac, "0a:00:00:00:00:42"), 86_400)?;
        doctor.expect(&["daemon-stuck", "duplicate-public-address"])?;
        // A second lease with our address.
        etcd.put_with_lease(&own, &own_record, 86_400)?;
        let second = format!("{SUBNETS}/10.42.240.0-24");
        etcd.put_with_lease(&second, &own_record.replace(&own_mac, "0a:00:00:00:00:42"), 86_400)?;
        doctor.expect(&["daemon-stuck", "duplicate-public-address"])?;
        // A clone of the other node: its MAC at another address. The first of the two has the entries.
        etcd.put_with_lease(&second, &peer_record.replace("192.168.50.2", "192.168.50.3"), 86_400)?;
        doctor.expect(&["daemon-stuck", "duplicate-vtep-mac"])?;
        ensure!(own_mac != peer_mac, "one MAC for two nodes");
        // One that has no address to send to.
        etcd.put_with_lease(&second, r#"{"PublicIP":"0.0.0.0","BackendType":"vxlan"}"#, 86_400)?;
        doctor.expect(&["daemon-stuck", "peer-unusable"])?;
        // An older and larger one that holds the peer's subnet is the one that counts.
        etcd.put_with_lease(&second, "not json", 86_400)?;
        doctor.expect(&["daemon-stuck", "record-malformed"])?;
        etcd.delete(&second)?;
        let inside = peer.replace("-24", "-26");
        let other =
            peer_record.replace("192.168.50.2", "192.168.50.4").replace(&peer_mac, "0a:00:00:00:00:44");
        etcd.put_with_lease(&inside, &other, 86_400)?;
        doctor.expect(&["daemon-stuck", "lease-overlap"])?;
        etcd.delete(&inside)?;
        // Ours is near its end, then gone.
        etcd.put_with_lease(&own, &own_record, 600)?;
        doctor.expect(&["daemon-stuck", "lease-expiring"])?;
        etcd.delete(&own)?;
        doctor.expect(&["daemon-stuck", "lease-missing"])?;
        // The daemon takes it again.
        daemons[0].signal(Signal::SIGCONT)?;
        doctor.expect(&[])?;
        Ok(())
    });
}

#[test]
fn faults_of_etcd() {
    lab(|lab| {
        lab.require(&[Feature::Faketime])?;
        let (cluster, etcd, mut daemons, doctor) = on_etcd(lab, 1)?;
        // A clock that is ahead, as far as flannelctl can see.
        ahead(&doctor)?;
        doctor.clone().under(&["faketime", "-90 seconds"]).expect(&["clock-skew"])?;
        // Slow on its way, for a daemon that goes that way.
        let server = etcd.members[0].address();
        let slow =
            relay::slow(&lab.outside()?, cluster.lan.gateway(true)?, server, Duration::from_millis(200))?;
        let slowly = Flanneld::bare().argument(format!("--etcd-endpoints=http://{slow}"));
        daemons[0].stop()?;
        daemons[0].set_flanneld(slowly.clone());
        daemons[0].start()?;
        daemons[0].wait_ready()?;
        doctor.expect(&["store-slow"])?;
        // Down: the daemon goes on, and so does the doctor, by what the node remembers.
        etcd.kill()?;
        doctor.expect(&["store-unreachable"])?;
        daemons[0].kill()?;
        cluster.nodes[0].netns().ip("link del flannel.1")?;
        Doctor::of(&cluster.nodes[0], &slowly).expect(&[
            "store-unreachable",
            "daemon-down",
            "vtep-missing",
        ])?;
        Ok(())
    });
}

fn ahead(doctor: &Doctor) -> Result<()> {
    let found = doctor.clone().under(&["faketime", "+90 seconds"]).expect(&["clock-skew"])?;
    let problem = found[0].value["problem"].as_str().unwrap_or_default();
    ensure!(problem.contains("s ahead of that of etcd"), "{problem}");
    Ok(())
}

/// With certificates of the server and of the client.
#[test]
fn clock_of_etcd_over_tls() {
    lab(|lab| {
        lab.require(&[Feature::Etcd, Feature::Faketime, Feature::Openssl, Feature::Vxlan, Feature::Nft])?;
        let cluster = lab.cluster(1)?;
        let options = EtcdOptions { tls: true, client_certificates: true, ..EtcdOptions::default() };
        let etcd = Etcd::start(lab, &cluster.lan, &options)?;
        etcd.set_config(&config(Stack::V4, VXLAN))?;
        Doctor::install_cni_config(&cluster.nodes[0])?;
        let doctor = Doctor::of(&cluster.nodes[0], &Flanneld::on_etcd(&etcd));
        doctor.expect(&[])?;
        ensure!(!doctor.run(&["-o", "json"])?.1.contains("clock-skew"), "the clock is not checked");
        ahead(&doctor)
    });
}

#[test]
fn faults_of_the_config() {
    lab(|lab| {
        let cluster = lab.cluster(1)?;
        let leases = LeaseDirectory::empty(lab)?;
        Doctor::install_cni_config(&cluster.nodes[0])?;
        let doctor = Doctor::of(&cluster.nodes[0], &Flanneld::on_directory(leases.path()));
        doctor.expect(&["config-missing"])?;
        leases.set_config(r#"{"Network":"10.42.0.0/33"}"#)?;
        doctor.expect(&["config-invalid"])?;
        leases.set_config(
            r#"{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan","VNI":16777215}}"#,
        )?;
        doctor.expect(&["config-unfit"])?;
        // The network of the nodes themselves.
        leases
            .set_config(r#"{"Network":"192.168.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#)?;
        doctor.expect(&["network-overlap"])?;
        leases.set_config(&config(Stack::V4, VXLAN))?;
        // A host that has no daemon yet, and could have one.
        doctor.expect(&[])?;
        doctor.clone().flags("--iface=eth7").expect(&["interface-missing"])?;
        fs::remove_dir_all(leases.path())?;
        doctor.expect(&["store-unreachable"])?;
        ensure!(!leases.path().exists(), "the doctor has made the directory");
        Ok(())
    });
}

/// A backend that this kernel cannot run.
#[test]
fn missing_kernel_features() {
    lab(|lab| {
        let scratch = lab.host("scratch")?;
        let cluster = lab.cluster(1)?;
        let leases = LeaseDirectory::empty(lab)?;
        Doctor::install_cni_config(&cluster.nodes[0])?;
        let doctor = Doctor::of(&cluster.nodes[0], &Flanneld::on_directory(leases.path()));
        for (feature, backend) in [(Feature::Ipip, "ipip"), (Feature::Wireguard, "wireguard")] {
            leases.set_config(&config(Stack::V4, &format!("{{\"Type\":\"{backend}\"}}")))?;
            let found = doctor.findings()?;
            let missing =
                found.iter().any(|finding| finding.id == "kernel-feature" && finding.subject == backend);
            ensure!(missing != feature.probe(&scratch).is_ok(), "{backend}: {found:?}");
        }
        Ok(())
    });
}

#[test]
fn faults_of_daemons() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Nft, Feature::Iptables])?;
        let cluster = lab.cluster(1)?;
        let node = &cluster.nodes[0];
        let leases = LeaseDirectory::new(lab, &config(Stack::V4, VXLAN))?;
        let flanneld = Flanneld::on_directory(leases.path());
        let mut daemon = node.start(&flanneld)?;
        daemon.wait_ready()?;
        Doctor::install_cni_config(node)?;
        let doctor = Doctor::of(node, &flanneld);
        doctor.expect(&[])?;
        // State that cannot be written.
        let state = "/var/lib/flannel";
        node.netns().run(&format!("mount -o remount,bind,ro {state}"))?;
        doctor.expect(&["state-unwritable"])?;
        node.netns().run(&format!("mount -o remount,bind,rw {state}"))?;
        doctor.expect(&[])?;
        daemon.signal(Signal::SIGSTOP)?;
        doctor.expect(&["daemon-stuck"])?;
        daemon.signal(Signal::SIGCONT)?;
        doctor.expect(&[])?;
        daemon.kill()?;
        doctor.expect(&["daemon-down"])?;
        daemon.start()?;
        daemon.wait_ready()?;
        doctor.expect(&[])?;
        // A second one with another address: both think that flannel.1 is theirs.
        node.netns().ip("addr add 192.168.50.77/24 dev eth0")?;
        let second = node.start_beside(1, &flanneld.clone().argument("--public-ip=192.168.50.77"))?;
        // It gets no further: the first one puts its own device back at once.
        second.wait_log(&["lease acquired"])?;
        let found = doctor.findings()?;
        ensure!(found.iter().any(|finding| finding.id == "daemon-duplicate"), "{found:?}");
        Ok(())
    });
}

/// A daemon that waits for a config says that it is not ready.
#[test]
fn daemon_that_is_not_ready() {
    lab(|lab| {
        let cluster = lab.cluster(1)?;
        let leases = LeaseDirectory::empty(lab)?;
        let flanneld = Flanneld::on_directory(leases.path());
        let daemon = cluster.nodes[0].start(&flanneld)?;
        daemon.wait_log(&["waiting for a network config"])?;
        Doctor::install_cni_config(&cluster.nodes[0])?;
        Doctor::of(&cluster.nodes[0], &flanneld).expect(&["config-missing", "daemon-not-ready"])?;
        Ok(())
    });
}
