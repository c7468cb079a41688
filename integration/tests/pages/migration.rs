//! docs/migration.md: a node migrates from Go flannel to this one and back, under traffic between pods.
//!
//! The test creates the kernel state and records of a Go daemon. With `FLANNEL_GO_FLANNELD=PROGRAM` in the environment a real one
//! runs on the node before and after, and on the other node all the time.

use anyhow::{Context, Result, ensure};
use integration::golden::{Peer, go};
use integration::pages::{Block, Host, block, walk};
use integration::traffic::Datagrams;
use integration::{Feature, Flanneld, Lab, Netns, Node, lab, wait};
use std::ffi::OsString;
use std::net::IpAddr;
use std::time::Duration;

const ETCD: &str = "http://10.0.0.10:2379";
const INTERVAL: Duration = Duration::from_millis(10);
const BEGINNINGS: [&str; 5] =
    ["dpkg --install", "echo FLANNELD_", "systemctl stop", "flannelctl status", "systemctl disable"];

#[test]
fn from_go_and_back() {
    lab(|lab| {
        walk("pages::migration::from_go_and_back", |page| {
            let steps = BEGINNINGS.map(|beginning| page.next(beginning));
            migrate(lab, "vxlan", false, steps.into_iter().collect::<Result<Vec<_>>>()?)
        })
    });
}

#[test]
fn from_go_and_back_with_host_gw_and_nftables() {
    lab(|lab| {
        let steps = BEGINNINGS.map(|beginning| block("docs/migration.md", beginning));
        migrate(lab, "host-gw", true, steps.into_iter().collect::<Result<Vec<_>>>()?)
    });
}

fn migrate(lab: &Lab, backend: &'static str, nftables: bool, steps: Vec<Block>) -> Result<()> {
    let [install, settings, switch, verify, roll_back] =
        steps.try_into().ok().context("unexpected number of steps")?;
    let site = Site::build(lab, backend, nftables)?;
    let host = &site.host;
    let flows = [
        Datagrams::start(&site.pod, &site.other, site.address_of_other, INTERVAL)?,
        Datagrams::start(&site.other, &site.pod, POD.parse()?, INTERVAL)?,
    ];
    let traffic_flows = || flows.iter().try_for_each(|flow| flow.wait_answered(20));
    traffic_flows()?;

    host.expect("mkdir -p /opt/cni/bin; echo 'exit 1' >/opt/cni/bin/flannel")?;
    host.expect(install.text())?;
    host.run("/opt/cni/bin/flannel </dev/null")?.expect(0, &["CNI plugin flannel "])?;
    host.expect(settings.text())?;
    host.expect("systemctl is-active flanneld")?;
    traffic_flows()?;
    host.expect(switch.text())?;
    host.expect("grep -q FLANNEL_SUBNET=10.42.1.1/24 /run/flannel/subnet.env")?;
    let [status, peers, doctor] = verify.commands()?;
    host.run(&status)?.expect(0, &["10.42.1.0/24", backend])?;
    wait::until("the other node is in sync", wait::LONG, || {
        host.run(&peers)?.expect(0, &["10.42.2.0/24", "in-place"]).map(drop)
    })?;
    host.expect("install -D -m 644 /usr/share/doc/flannel/examples/10-flannel.conflist /etc/cni/net.d/10-flannel.conflist")?;
    host.run(&doctor)?.expect(0, &[])?;
    traffic_flows()?;

    // Both kinds reach a node that joins.
    let joined = site.node(lab, "n3", "10.0.0.12/24")?;
    site.run(&joined, &Flanneld::bare())?;
    let address = joined.add_pod("pod")?.address(true)?;
    for pod in [&site.pod, &site.other] {
        pod.wait_ping(address)?;
    }

    host.expect(roll_back.text())?;
    host.expect("systemctl is-active flanneld-go")?;
    let state = host.run("systemctl is-active flanneld")?;
    ensure!(state.stdout.trim() == "inactive", "{state:?}");
    site.wait_go()?;
    site.pod.wait_ping(address)?;
    traffic_flows()?;
    flows.into_iter().try_for_each(|flow| flow.stop()?.expect_none_lost())
}

/// The address of the host's pod.
const POD: &str = "10.42.1.7";

/// ```text
///   pod ── host 10.0.0.10 (Go, then this one, then Go; etcd) ── lan 10.0.0.0/24 ── n2 10.0.0.11 ── pod
/// ```
struct Site {
    host: Host,
    pod: Netns,
    other: Netns,
    address_of_other: IpAddr,
    go: Option<OsString>,
}

impl Site {
    fn build(lab: &Lab, backend: &str, nftables: bool) -> Result<Self> {
        lab.require(&[Feature::Iptables, Feature::BridgeNetfilter])?;
        let host = Host::boot(lab)?;
        let go = std::env::var_os("FLANNEL_GO_FLANNELD").filter(|path| !path.is_empty());
        let config = format!(
            r#"{{"Network":"10.42.0.0/16","EnableNFTables":{nftables},"Backend":{{"Type":"{backend}"}}}}"#
        );
        host.expect(&format!("etcdctl --endpoints {ETCD} put /coreos.com/network/config '{config}'"))?;
        let mtu_bytes = if backend == "vxlan" { 1450 } else { 1500 };
        let pod = pod_of(&host, lab, mtu_bytes)?;
        let mut site = Self { host, other: pod.clone(), pod, address_of_other: POD.parse()?, go };
        site.write_records(backend)?;
        let program = match &site.go {
            Some(program) => Flanneld::bare().program(program),
            None => Flanneld::bare(),
        };
        site.start_go(backend, nftables)?;
        let other = site.node(lab, "n2", "10.0.0.11/24")?;
        if site.go.is_none() && backend == "vxlan" {
            go::vxlan(other.netns(), &known(2)?, &known(1)?)?;
        }
        site.run(&other, &program)?;
        let pod = other.add_pod("pod")?;
        site.address_of_other = pod.address(true)?;
        site.other = pod.netns;
        site.pod.wait_ping(site.address_of_other)?;
        Ok(site)
    }

    fn node(&self, lab: &Lab, name: &str, address: &str) -> Result<Node> {
        let node = lab.node(name)?;
        let nic = self.host.lan.attach(node.netns(), "eth0", &[address.parse()?])?;
        self.host.lan.default_routes(&nic)?;
        Ok(node)
    }

    fn run(&self, node: &Node, flanneld: &Flanneld) -> Result<()> {
        node.start(&flanneld.clone().argument(format!("--etcd-endpoints={ETCD}")))?.wait_ready()?;
        wait::until("the node has its subnet", wait::LONG, || node.subnet(true).map(drop))
    }

    /// Writes the records of the nodes.
    fn write_records(&self, backend: &str) -> Result<()> {
        for number in [1, 2] {
            let data = match backend {
                "vxlan" => format!(r#","BackendData":{{"VNI":1,"VtepMAC":"{}"}}"#, mac(number)),
                _ => String::new(),
            };
            let record = format!(
                r#"{{"PublicIP":"10.0.0.{}","PublicIPv6":null,"BackendType":"{backend}"{data}}}"#,
                number + 9
            );
            self.host.expect(&format!(
                "lease=$(etcdctl --endpoints {ETCD} lease grant 86400 | cut -d ' ' -f 2)\n\
                 etcdctl --endpoints {ETCD} put --lease=$lease /coreos.com/network/subnets/10.42.{number}.0-24 '{record}'"
            ))?;
        }
        Ok(())
    }

    /// Starts the Go daemon by its unit, or creates the state that it leaves.
    fn start_go(&self, backend: &str, nftables: bool) -> Result<()> {
        let start = match &self.go {
            Some(program) => format!("{} --etcd-endpoints={ETCD} --ip-masq", program.display()),
            None => "sleep infinity".to_owned(),
        };
        self.host.expect(&format!(
            "printf '[Unit]\\nDescription=flannel\\n[Service]\\nExecStart={start}\\n' >/etc/systemd/system/flanneld.service\n\
             systemctl daemon-reload; systemctl start flanneld"
        ))?;
        if self.go.is_none() {
            let netns = self.host.system().netns();
            let (own, peer) = (known(1)?, known(2)?);
            if backend == "vxlan" {
                go::vxlan(netns, &own, &peer)?;
            } else {
                go::host_gw_peer(netns, &peer)?;
            }
            if nftables {
                go::nftables(netns)?;
            } else {
                go::iptables(netns)?;
            }
            self.host.expect(
                "mkdir -p /run/flannel; printf 'FLANNEL_NETWORK=10.42.0.0/16\\nFLANNEL_SUBNET=10.42.1.1/24\\nFLANNEL_MTU=1450\\nFLANNEL_IPMASQ=true\\n' >/run/flannel/subnet.env",
            )?;
        }
        self.wait_go()
    }

    /// Waits until the Go daemon has written its subnet file.
    fn wait_go(&self) -> Result<()> {
        wait::until("the node has its subnet", wait::LONG, || {
            self.host.expect("grep FLANNEL_SUBNET=10.42.1.1/24 /run/flannel/subnet.env").map(drop)
        })
    }
}

fn mac(number: u8) -> String {
    format!("1a:2b:3c:4d:5e:0{number}")
}

fn known(number: u8) -> Result<Peer> {
    Ok(Peer {
        public: format!("10.0.0.{}", number + 9).parse()?,
        subnet: format!("10.42.{number}.0/24").parse()?,
        mac: Some(mac(number)),
    })
}

/// Adds a pod to the host, like the Go plugins.
fn pod_of(host: &Host, lab: &Lab, mtu_bytes: u32) -> Result<Netns> {
    let pod = lab.host("pod")?;
    host.system().netns().ip_batch(&format!(
        "link add cni0 mtu {mtu_bytes} type bridge\naddr add 10.42.1.1/24 dev cni0\nlink set cni0 up\n\
         link add veth-pod mtu {mtu_bytes} type veth peer name eth0 mtu {mtu_bytes} netns {}\nlink set veth-pod master cni0 up\n",
        pod.name()
    ))?;
    pod.ip_batch(&format!(
        "link set eth0 up\naddr add {POD}/24 dev eth0\nroute add default via 10.42.1.1\n"
    ))?;
    Ok(pod)
}
