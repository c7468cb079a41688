//! `flannelctl doctor` reports each fault by its own id, and nothing on a healthy node.
//!
//! A running daemon repairs its kernel state in less than a second. Therefore it is stopped (SIGSTOP) while a fault
//! exists, which the doctor reports, too (`daemon-stuck`), and repairs the fault when it continues.

use anyhow::{Context, Result, ensure};
use integration::golden::{Peer, Stack};
use integration::{Cluster, Daemon, Doctor, Feature, Flanneld, Lab, LeaseDirectory, Node, Pod, lab};
use nix::sys::signal::Signal;
use std::fs;
use std::process::Command;

/// A network config.
fn config(stack: Stack, backend: &str, nftables: bool) -> String {
    stack.config(backend).replacen('{', &format!("{{\"EnableNFTables\":{nftables},"), 1)
}

const VXLAN: &str = r#"{"Type":"vxlan"}"#;
const HOST_GW: &str = r#"{"Type":"host-gw"}"#;
const FEATURES: [Feature; 4] = [Feature::Vxlan, Feature::CniPlugins, Feature::Nft, Feature::Iptables];

/// Two nodes with a pod each, healthy; `n1` is the patient.
struct Ward {
    cluster: Cluster,
    daemons: Vec<Daemon>,
    doctor: Doctor,
    pod: Pod,
}

impl Ward {
    fn new(cluster: Cluster, flanneld: &Flanneld) -> Result<Self> {
        let daemons = cluster.start_all(flanneld)?;
        for node in &cluster.nodes {
            Doctor::install_cni_config(node)?;
        }
        let pod = cluster.pods("a")?.swap_remove(0);
        let doctor = Doctor::of(&cluster.nodes[0], flanneld);
        let ward = Self { cluster, daemons, doctor, pod };
        ward.doctor.expect(&[])?;
        Ok(ward)
    }

    fn on_directory(lab: &Lab, config: &str) -> Result<(Self, LeaseDirectory)> {
        lab.require(&FEATURES)?;
        let leases = LeaseDirectory::new(lab, config)?;
        let flanneld = Flanneld::on_directory(leases.path()).argument("--ip-masq");
        Ok((Self::new(lab.cluster(2)?, &flanneld)?, leases))
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// Stops the daemon.
    fn freeze(&self) -> Result<()> {
        self.daemons[0].signal(Signal::SIGSTOP)?;
        self.doctor.expect(&["daemon-stuck"]).map(drop)
    }

    /// Lets the daemon go on and waits until all is well.
    fn thaw(&self) -> Result<()> {
        self.daemons[0].signal(Signal::SIGCONT)?;
        self.doctor.expect(&[]).map(drop)
    }

    /// Makes a fault that the daemon repairs, and expects the doctor to report it.
    fn kernel_fault(&self, commands: &[&str], ids: &[&str]) -> Result<()> {
        self.freeze()?;
        self.run(commands)?;
        let all: Vec<&str> = ids.iter().copied().chain(["daemon-stuck"]).collect();
        self.doctor.expect(&all).with_context(|| format!("after {commands:?}"))?;
        self.thaw().with_context(|| format!("repair of {commands:?}"))
    }

    /// Makes a fault that no daemon repairs, expects the doctor to report it, and fixes it.
    fn host_fault(&self, broken: &[&str], ids: &[&str], fix: &[&str]) -> Result<()> {
        self.run(broken)?;
        self.doctor.expect(ids).with_context(|| format!("after {broken:?}"))?;
        self.run(fix)?;
        self.doctor.expect(&[]).with_context(|| format!("after {fix:?}"))?;
        Ok(())
    }

    fn run(&self, commands: &[&str]) -> Result<()> {
        commands.iter().try_for_each(|command| self.node().netns().run(command).map(drop))
    }
}

fn healthy_on_directory(stack: Stack, backend: &str, nftables: bool) {
    lab(|lab| {
        let (ward, _leases) = Ward::on_directory(lab, &config(stack, backend, nftables))?;
        let (code, stdout, _) = ward.doctor.run(&[])?;
        ensure!(code == 0 && stdout.contains("no problems found in "), "{code} {stdout}");
        // No container runtime is running.
        let unchecked = stdout.lines().filter_map(|line| line.strip_prefix("not checked: "));
        ensure!(unchecked.clone().count() == 4, "{stdout}");
        ensure!(unchecked.clone().all(|line| line.starts_with("runtime-")), "{stdout}");
        Ok(())
    });
}

#[test]
fn healthy_vxlan_nftables_dual_stack() {
    healthy_on_directory(Stack::Dual, VXLAN, true);
}

#[test]
fn healthy_vxlan_iptables_ipv4() {
    healthy_on_directory(Stack::V4, VXLAN, false);
}

#[test]
fn healthy_host_gw_nftables_ipv4() {
    healthy_on_directory(Stack::V4, HOST_GW, true);
}

#[test]
fn healthy_host_gw_iptables_dual_stack() {
    healthy_on_directory(Stack::Dual, HOST_GW, false);
}

#[test]
fn healthy_on_etcd() {
    lab(|lab| {
        lab.require(&FEATURES)?;
        lab.require(&[Feature::Etcd])?;
        let cluster = lab.cluster(2)?;
        let etcd = cluster.etcd(lab)?;
        etcd.set_config(&config(Stack::Dual, VXLAN, true))?;
        Ward::new(cluster, &Flanneld::on_etcd(&etcd).argument("--ip-masq"))?;
        Ok(())
    });
}

#[test]
fn faults_of_the_tunnel() {
    lab(|lab| {
        let (ward, _leases) = Ward::on_directory(lab, &config(Stack::V4, VXLAN, true))?;
        let peer = Peer::of(&ward.cluster.nodes[1], true)?;
        let (zero, mac) = (peer.subnet.addr(), peer.mac.clone().context("a peer without MAC")?);
        let own = ward.node().subnet(true)?;
        ward.kernel_fault(&["ip link del flannel.1"], &["vtep-missing"])?;
        ward.kernel_fault(
            &["ip link del flannel.1", "ip link add flannel.1 type vxlan id 7 dev eth0 dstport 4789"],
            &["vtep-wrong"],
        )?;
        ward.freeze()?;
        ward.run(&["ip link del flannel.1", "ip link add vx type vxlan id 1 dstport 8472 dev eth0"])?;
        ward.doctor.expect(&["daemon-stuck", "vtep-blocked"])?;
        ward.run(&["ip link del vx"])?;
        ward.thaw()?;
        // A new MAC makes the kernel forget neighbours.
        let other_mac = "ip link set flannel.1 address 0a:00:00:00:00:99";
        ward.kernel_fault(&[other_mac], &["vtep-mac", "neighbour-wrong"])?;
        ward.kernel_fault(&["ip link set flannel.1 mtu 1400"], &["vtep-mtu"])?;
        ward.kernel_fault(&["ip link set flannel.1 down"], &["vtep-down", "neighbour-wrong"])?;
        ward.kernel_fault(&["ip link set flannel.1 type vxlan learning"], &["vtep-learning"])?;
        let add = "ip addr add 10.42.99.9/32 dev flannel.1";
        ward.kernel_fault(&[add], &["vtep-address"])?;
        ward.kernel_fault(&[&format!("bridge fdb del {mac} dev flannel.1")], &["fdb-missing"])?;
        let stale = format!("bridge fdb replace {mac} dev flannel.1 dst 192.168.50.77 self permanent");
        ward.kernel_fault(&[&stale], &["fdb-stale"])?;
        let left = "bridge fdb append 0a:00:00:00:00:77 dev flannel.1 dst 192.168.50.77 self permanent";
        ward.kernel_fault(&[left], &["fdb-stale"])?;
        ward.kernel_fault(&[&format!("ip neigh del {zero} dev flannel.1")], &["neighbour-wrong"])?;
        let left = "ip neigh replace 10.42.77.0 lladdr 0a:00:00:00:00:77 dev flannel.1 nud permanent";
        ward.kernel_fault(&[left], &["neighbour-stale"])?;
        ensure!(own != peer.subnet, "one subnet for two nodes");
        Ok(())
    });
}

#[test]
fn faults_of_routes_and_rules() {
    lab(|lab| {
        let (ward, _leases) = Ward::on_directory(lab, &config(Stack::Dual, VXLAN, true))?;
        let (v4, v6) = (ward.cluster.nodes[1].subnet(true)?, ward.cluster.nodes[1].subnet(false)?);
        ward.kernel_fault(&[&format!("ip route del {v4}")], &["route-missing"])?;
        ward.kernel_fault(&[&format!("ip -6 route del {v6}")], &["route-missing"])?;
        let wrong = format!("ip route replace {v4} via 192.168.50.254 dev eth0 proto 241");
        ward.kernel_fault(&[&wrong], &["route-wrong"])?;
        let foreign = format!("ip route replace {v4} via 192.168.50.254 dev eth0");
        ward.kernel_fault(&[&foreign], &["route-shadowed"])?;
        let stale = "ip route add 10.42.77.0/24 via 10.42.77.0 dev flannel.1 onlink proto 241";
        ward.kernel_fault(&[stale], &["route-stale"])?;
        let left = "ip link add flannel.9 type vxlan id 9 dev eth0 dstport 9999";
        let marked = ["ip", "link", "set", "flannel.9", "alias", "flannel 10.42.0.0/16"];
        ward.freeze()?;
        ward.run(&[left])?;
        ward.node().netns().checked(Command::new(marked[0]).args(&marked[1..]))?;
        ward.doctor.expect(&["daemon-stuck", "vtep-leftover"])?;
        // The daemon removes it with its next round of its own accord, which is up to a minute away.
        ward.run(&["ip link del flannel.9"])?;
        ward.thaw()?;
        // Its addresses, routes and neighbours go as well.
        ward.freeze()?;
        ward.run(&["sysctl -qw net/ipv6/conf/flannel-v6.1/disable_ipv6=1"])?;
        let ids: Vec<String> = ward.doctor.findings()?.into_iter().map(|finding| finding.id).collect();
        ensure!(ids.iter().any(|id| id == "ipv6-disabled"), "{ids:?}");
        ward.run(&["sysctl -qw net/ipv6/conf/flannel-v6.1/disable_ipv6=0"])?;
        ward.thaw()?;
        // No daemon touches these.
        let part = format!("{}/30", v4.addr());
        ward.host_fault(
            &[&format!("ip route add {part} via 192.168.50.254 dev eth0")],
            &["route-shadowed"],
            &[&format!("ip route del {part}")],
        )?;
        ward.host_fault(
            &[&format!("ip -6 route add {v6} via fd50::fe dev eth0 metric 10")],
            &["route-shadowed"],
            &[&format!("ip -6 route del {v6} via fd50::fe dev eth0 metric 10")],
        )?;
        ward.kernel_fault(&["nft delete table ip flannel-ipv4"], &["firewall-rules"])?;
        ward.kernel_fault(&["nft flush table ip6 flannel-ipv6"], &["firewall-rules"])?;
        // The first rule goes last.
        let chain = ward.node().netns().run("nft -a list chain ip flannel-ipv4 postrtg")?;
        let first = chain.lines().find(|line| line.contains("# handle") && !line.contains("chain "));
        let first = first.with_context(|| format!("no rule in {chain}"))?;
        let (rule, handle) = first.trim().split_once(" # handle ").context("a rule without handle")?;
        ward.kernel_fault(
            &[
                &format!("nft add rule ip flannel-ipv4 postrtg {rule}"),
                &format!("nft delete rule ip flannel-ipv4 postrtg handle {handle}"),
            ],
            &["firewall-rules"],
        )?;
        Ok(())
    });
}

#[test]
fn faults_of_iptables_rules() {
    lab(|lab| {
        let (ward, _leases) = Ward::on_directory(lab, &config(Stack::V4, VXLAN, false))?;
        ward.kernel_fault(&["iptables -t nat -F FLANNEL-POSTRTG"], &["firewall-rules"])?;
        ward.kernel_fault(&["iptables -D FLANNEL-FWD 1"], &["firewall-rules"])?;
        let left = ["nft add table ip flannel-ipv4", "nft add chain ip flannel-ipv4 forward"];
        ward.kernel_fault(&left, &["firewall-leftover"])?;
        // Our chain accepts what the policy would drop.
        ward.host_fault(&["iptables -P FORWARD DROP"], &[], &["iptables -P FORWARD ACCEPT"])?;
        ward.host_fault(
            &["iptables -I FORWARD 1 -o cni0 -j DROP"],
            &["forward-drop"],
            &["iptables -D FORWARD 1"],
        )?;
        ward.host_fault(
            &["iptables -I INPUT 1 -p udp --dport 8472 -j REJECT"],
            &["port-closed"],
            &["iptables -D INPUT 1"],
        )?;
        Ok(())
    });
}

#[test]
fn faults_of_the_host() {
    lab(|lab| {
        lab.require(&[Feature::BridgeNetfilter])?;
        let (ward, _leases) = Ward::on_directory(lab, &config(Stack::Dual, VXLAN, true))?;
        let setting = |name: &str, bad: &str, good: &str, ids: &[&str]| -> Result<()> {
            let (bad, good) = (format!("sysctl -qw {name}={bad}"), format!("sysctl -qw {name}={good}"));
            ward.host_fault(&[&bad], ids, &[&good])
        };
        setting("net.ipv4.ip_forward", "0", "1", &["ipv4-forwarding"])?;
        setting("net.ipv6.conf.all.forwarding", "0", "1", &["ipv6-forwarding"])?;
        setting("net.bridge.bridge-nf-call-iptables", "0", "1", &["br-netfilter"])?;
        setting("net.ipv4.conf.all.rp_filter", "1", "0", &["rp-filter"])?;
        // A policy of iptables; accepting in a table of ours does not help against it.
        ward.host_fault(&["iptables -P FORWARD DROP"], &["forward-drop"], &["iptables -P FORWARD ACCEPT"])?;
        ward.host_fault(
            &[
                "nft add table inet guard",
                "nft add chain inet guard in { type filter hook input priority 0 ; }",
                "nft add rule inet guard in udp dport 8472 drop",
            ],
            &["port-closed"],
            &["nft delete table inet guard"],
        )?;
        ward.host_fault(
            &["ip addr add 10.42.200.1/24 dev eth0"],
            &["network-overlap"],
            &["ip addr del 10.42.200.1/24 dev eth0"],
        )?;
        ward.host_fault(
            &["ip route add 10.42.200.0/24 via 192.168.50.254"],
            &["network-overlap"],
            &["ip route del 10.42.200.0/24"],
        )?;
        if ward.node().netns().run("ethtool --version").is_ok() {
            ward.host_fault(
                &["ethtool -K flannel.1 tx-checksum-ip-generic off"],
                &["checksum-offload"],
                &["ethtool -K flannel.1 tx-checksum-ip-generic on"],
            )?;
        }
        Ok(())
    });
}

/// A switch in between carries less than the interfaces of the nodes say.
#[test]
fn mtu_of_the_path() {
    lab(|lab| {
        let (ward, _leases) = Ward::on_directory(lab, &config(Stack::V4, VXLAN, true))?;
        ward.cluster.nics[1].set_switch_mtu(1400)?;
        let found = ward.doctor.expect(&["mtu-path"])?;
        ensure!(found[0].subject == "192.168.50.2", "{found:?}");
        let seen = found[0].value["evidence"][0].as_str().unwrap_or_default();
        // A switch leaves room for a VLAN tag.
        ensure!(seen.contains("1404"), "{seen}");
        ward.cluster.nics[1].set_switch_mtu(1500)?;
        ward.doctor.expect(&[])?;
        Ok(())
    });
}

#[test]
fn faults_of_the_bridge() {
    lab(|lab| {
        let (ward, _leases) = Ward::on_directory(lab, &config(Stack::V4, VXLAN, true))?;
        ward.kernel_fault(&["ip addr flush dev cni0 scope global"], &["bridge-gateway"])?;
        ward.kernel_fault(&["ip link set cni0 down"], &["bridge-gateway"])?;

        // Without any port, the bridge has another MTU.
        let other = ward.node().add_pod("b")?;
        // What libcni keeps of an attachment.
        let results = ward.node().file("/var/lib/cni/results")?;
        fs::create_dir_all(&results)?;
        let pod = &ward.pod;
        let kept = serde_json::json!({
            "kind": "cniCacheV1", "containerId": pod.name, "networkName": "cbr0", "ifName": "eth0",
            "netns": pod.netns.path(), "result": pod.result,
        });
        fs::write(results.join(format!("cbr0-{}-eth0", pod.name)), kept.to_string())?;
        let port = pod.result["interfaces"][1]["name"].as_str().context("no port")?;
        let attach = format!("ip link set {port} master cni0 up");
        ward.run(&[&format!("ip link set {port} nomaster")])?;
        let found = ward.doctor.expect(&["bridge-detached"])?;
        let finding = found[0].value.to_string();
        ensure!(finding.contains(&pod.name) && found[0].value["fix"] == attach, "{finding}");
        ward.run(&[&attach])?;
        ward.doctor.expect(&[])?;

        ward.run(&["ip link del cni0"])?;
        let found = ward.doctor.expect(&["bridge-missing"])?;
        ensure!(found[0].value.to_string().contains(&pod.name), "{found:?}");
        // The next pod creates the bridge.
        ward.node().add_pod("next")?;
        ward.doctor.expect(&["bridge-detached"])?;
        ward.run(&[&attach])?;
        ward.doctor.expect(&[])?;
        let gateway = ward.node().subnet(true)?.hosts().next().context("an empty subnet")?;
        pod.netns.wait_ping(gateway)?;
        other.delete()
    });
}

#[test]
fn faults_of_files_and_pods() {
    lab(|lab| {
        let (ward, leases) = Ward::on_directory(lab, &config(Stack::V4, VXLAN, true))?;
        let configs = ward.node().file("/etc/cni/net.d")?;
        let conflist = configs.join("10-flannel.conflist");
        let text = fs::read_to_string(&conflist)?;
        let with = |id: &str, name: &str, content: Option<&str>| -> Result<()> {
            let path = configs.join(name);
            match content {
                Some(content) => fs::write(&path, content)?,
                None => fs::remove_file(&path)?,
            }
            ward.doctor.expect(&[id]).with_context(|| format!("{name} with {content:?}"))?;
            if path == conflist {
                fs::write(&path, &text)?
            } else {
                fs::remove_file(&path)?
            }
            Ok(())
        };
        with("cni-config-missing", "10-flannel.conflist", None)?;
        with("cni-config-shadowed", "05-bridge.conf", Some(r#"{"name":"b","type":"bridge"}"#))?;
        with("cni-config-invalid", "99-broken.conf", Some("{"))?;
        let chained = text.replacen("\"plugins\":[", "\"plugins\":[{\"type\":\"nonsense\"},", 1);
        with("cni-plugin-missing", "10-flannel.conflist", Some(&chained))?;
        ward.doctor.expect(&[])?;

        let bridge = ["ip addr add 10.42.250.1/24 dev cni0"];
        ward.host_fault(&bridge, &["bridge-address"], &["ip addr del 10.42.250.1/24 dev cni0"])?;
        ward.host_fault(&["ip link set cni0 mtu 1500"], &["bridge-mtu"], &["ip link set cni0 mtu 1450"])?;

        // The daemon puts the file back when it starts, and when its lease changes.
        let file = ward.node().file("/run/flannel/subnet.env")?;
        let env = fs::read_to_string(&file)?;
        fs::remove_file(&file)?;
        ward.doctor.expect(&["subnet-env-missing"])?;
        fs::write(&file, env.replace("FLANNEL_SUBNET=10.42.", "FLANNEL_SUBNET=10.43."))?;
        ward.doctor.expect(&["subnet-env-mismatch"])?;
        fs::write(&file, &env)?;
        ward.doctor.expect(&[])?;

        // A pod whose namespace goes without a DEL.
        let addresses = ward.node().file("/var/lib/cni/networks/cbr0")?;
        let subnet = ward.node().subnet(true)?;
        ward.pod.netns.clone().delete()?;
        ward.doctor.expect(&["address-leaked"])?;
        ward.pod.detach()?;
        ward.doctor.expect(&[])?;
        for host in subnet.hosts() {
            fs::write(addresses.join(host.to_string()), "somebody\r\neth0")?;
        }
        ward.doctor.expect(&["addresses-exhausted"])?;
        for host in subnet.hosts() {
            fs::remove_file(addresses.join(host.to_string()))?;
        }
        ward.doctor.expect(&[])?;

        // Several kinds of bad records.
        let subnets = leases.path().join("subnets");
        fs::write(subnets.join("10.42.240.0-24"), "{")?;
        ward.doctor.expect(&["record-malformed"])?;
        fs::remove_file(subnets.join("10.42.240.0-24"))?;
        ward.doctor.expect(&[])?;
        Ok(())
    });
}
