//! Something of another program is in the way of the tunnel device: log, status and doctor name it with the command that
//! removes it, and the daemon continues by itself when it is gone. `subnet.env` is written only when the device exists.

use anyhow::{Context, Result, bail, ensure};
use integration::golden::Stack;
use integration::{Cluster, Daemon, Doctor, Feature, Flanneld, Lab, LeaseDirectory, Node, lab, wait};
use nix::sys::signal::Signal;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

const CONFIG: &str = r#"{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;

/// Promised is "at once"; the rest is for looking, and for a machine that is busy with other tests. A retry would be
/// due after up to 10 seconds.
const LIMIT: Duration = Duration::from_secs(4);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// By name of the interface: how it is made, and what is said about it.
const INTERFACES: [(&str, &str); 3] = [
    (
        "link add other_vx type vxlan id 1 dstport 8472 dev eth0\n",
        "the interface other_vx has VNI 1 and UDP port 8472, which flannel.1 needs",
    ),
    (
        "link add other_vx type vxlan external dstport 8472\nlink set other_vx up\n",
        "the interface other_vx receives on UDP port 8472, which flannel.1 needs",
    ),
    (
        "link add other_vx type vxlan id 9 dstport 8472 local 192.168.50.1 gbp\nlink set other_vx up\n",
        "the interface other_vx receives on UDP port 8472, which flannel.1 needs",
    ),
];

/// One node, without a daemon yet.
struct Site {
    cluster: Cluster,
    flanneld: Flanneld,
    doctor: Doctor,
    _leases: LeaseDirectory,
}

impl Site {
    fn build(lab: &Lab) -> Result<Self> {
        lab.require(&[Feature::Vxlan, Feature::Nft, Feature::CniPlugins])?;
        let cluster = lab.cluster(1)?;
        let leases = LeaseDirectory::new(lab, CONFIG)?;
        let flanneld = Flanneld::on_directory(leases.path()).argument("--ip-masq");
        Doctor::install_cni_config(&cluster.nodes[0])?;
        let doctor = Doctor::of(&cluster.nodes[0], &flanneld);
        Ok(Self { cluster, flanneld, doctor, _leases: leases })
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// Waits until log, status and doctor name what is in the way; returns the command of the doctor.
    fn expect_named(&self, daemon: &Daemon, text: &str, ids: &[&str]) -> Result<String> {
        daemon.wait_log(&["condition reported", "obstacle", text])?;
        wait::until("the status names it", wait::LONG, || {
            let status = daemon.status("/status")?.body;
            ensure!(status.contains(text), "{status}");
            Ok(())
        })?;
        let found = self.doctor.expect(ids)?;
        let finding = found.iter().find(|finding| finding.id == "vtep-blocked").context("not blocked")?;
        ensure!(finding.value["problem"] == text, "{:#}", finding.value);
        finding.value["fix"].as_str().map(str::to_owned).context("no fix")
    }

    /// Waits until the device is up; returns how long that took.
    fn wait_device(&self) -> Result<Duration> {
        let started = Instant::now();
        wait::until("the tunnel device is up", wait::LONG, || {
            let shown = self.node().netns().ip("link show dev flannel.1")?;
            ensure!(shown.contains("UP"), "{shown}");
            Ok(started.elapsed())
        })
    }
}

#[test]
fn interfaces_in_the_way_are_named() {
    lab(|lab| {
        let site = Site::build(lab)?;
        let netns = site.node().netns();
        let env = site.node().file("/run/flannel/subnet.env")?;
        netns.ip_batch(INTERFACES[0].0)?;
        let mut daemon = site.node().start(&site.flanneld)?;
        let ids = ["vtep-blocked", "subnet-env-missing", "daemon-not-ready"];
        let fix = site.expect_named(&daemon, INTERFACES[0].1, &ids)?;
        ensure!(fix == "ip link del other_vx", "{fix}");
        ensure!(!env.exists(), "subnet.env without a tunnel device");
        ensure!(daemon.get("/readyz")?.status == 503, "ready without a tunnel device");
        netns.run(&fix)?;
        let took = site.wait_device()?;
        ensure!(took < LIMIT, "continued after {took:?}");
        daemon.wait_ready()?;
        site.doctor.expect(&[])?;

        // A device that is lost later: pods keep what they have.
        let written = fs::read_to_string(&env)?;
        for (made, text) in INTERFACES {
            daemon.signal(Signal::SIGSTOP)?;
            netns.ip("link del flannel.1")?;
            netns.ip_batch(made)?;
            daemon.signal(Signal::SIGCONT)?;
            let fix = site.expect_named(&daemon, text, &["vtep-blocked"])?;
            ensure!(fs::read_to_string(&env)? == written, "subnet.env changed");
            // The port is free as soon as the interface is down.
            let by_down = text.contains("receives");
            netns.run(if by_down { "ip link set other_vx down" } else { &fix })?;
            let took = site.wait_device()?;
            ensure!(took < LIMIT, "continued after {took:?}");
            site.doctor.expect(&[])?;
            if by_down {
                netns.run(&fix)?;
            }
        }
        Ok(())
    });
}

#[test]
fn processes_in_the_way_are_named() {
    lab(|lab| {
        let site = Site::build(lab)?;
        let netns = site.node().netns();
        let socket =
            netns.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 8472)).context("could not bind"))?;
        let mut daemon = site.node().start(&site.flanneld)?;
        let pid = std::process::id();
        let name = fs::read_to_string("/proc/self/comm")?;
        let problem =
            format!("process {pid} ({}) receives on UDP port 8472, which flannel.1 needs", name.trim_end());
        let ids = ["vtep-blocked", "subnet-env-missing", "daemon-not-ready"];
        let fix = site.expect_named(&daemon, &problem, &ids)?;
        ensure!(fix == format!("kill {pid}"), "{fix}");
        drop(socket);
        // The kernel notifies nobody of this: the daemon retries every 10 seconds.
        let started = Instant::now();
        daemon.wait_ready()?;
        let took = started.elapsed();
        ensure!(took < LONGEST_RETRY + LIMIT, "continued after {took:?}");
        site.doctor.expect(&[]).map(drop)
    });
}

/// The kernel does not delete a NIC. The loopback interface, which has no kind either, stands for one. A `subnet.env` of an
/// earlier start is kept.
#[test]
fn nic_with_the_name_is_named() {
    lab(|lab| {
        let site = Site::build(lab)?;
        let netns = site.node().netns();
        let mut daemon = site.node().start(&site.flanneld)?;
        daemon.wait_ready()?;
        daemon.stop()?;
        let written = site.node().subnet_env_text()?;
        netns.ip("link del flannel.1")?;
        netns.ip_batch("link set lo down\nlink set lo name flannel.1\nlink set flannel.1 up\n")?;
        daemon.start()?;
        let text = "another interface has the name flannel.1 and cannot be deleted";
        let fix = site.expect_named(&daemon, text, &["vtep-blocked", "daemon-not-ready"])?;
        ensure!(fix == "ip link set flannel.1 name NEW", "{fix}");
        ensure!(site.node().subnet_env_text()? == written, "subnet.env changed");
        netns.ip_batch("link set flannel.1 down\nlink set flannel.1 name lo\nlink set lo up\n")?;
        let took = site.wait_device()?;
        ensure!(took < LIMIT, "continued after {took:?}");
        daemon.wait_ready()?;
        site.doctor.expect(&[]).map(drop)
    });
}

/// IPv6 refuses a route whose gateway the kernel finds elsewhere.
#[test]
fn route_to_the_gateway_is_named() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Nft])?;
        let cluster = lab.cluster(2)?;
        let config = Stack::Dual.config(r#"{"Type":"vxlan"}"#).replacen('{', r#"{"EnableNFTables":true,"#, 1);
        let leases = LeaseDirectory::new(lab, &config)?;
        let flanneld = Flanneld::on_directory(leases.path()).argument("--ip-masq");
        let [n1, n2] = cluster.nodes.as_slice() else { bail!("not two nodes") };
        n2.start(&flanneld)?.wait_ready()?;
        let subnet = n2.subnet(false)?;
        let route = format!("{subnet} via fd50::2 dev eth0 metric 10");
        n1.netns().ip(&format!("-6 route add {route}"))?;
        let daemon = n1.start(&flanneld)?;
        let text = format!("the unmanaged route {route} leads to the gateway of the route to {subnet}");
        daemon.wait_log(&["condition reported", "obstacle", &text])?;
        n1.flannelctl(&[], &["status", "-o", "json"])?.expect(3, &[&text])?;
        Doctor::install_cni_config(n1)?;
        let doctor = Doctor::of(n1, &flanneld);
        let fix = doctor.expect(&["route-shadowed"])?[0].value["fix"].clone();
        ensure!(fix == format!("ip route del {route}"), "{fix}");
        // One that leads to the gateway and to more.
        n1.netns().ip("-6 route add fd42::/48 via fd50::2 dev eth0")?;
        n1.netns().ip(&format!("-6 route del {route}"))?;
        let found = doctor.expect(&["network-overlap", "route-missing"])?;
        let missing = found.iter().find(|finding| finding.id == "route-missing").context("no finding")?;
        let fix = missing.value["fix"].as_str().context("no fix")?;
        ensure!(fix.starts_with("ip -6 route del fd42::/48 via fd50::2 dev eth0"), "{fix}");
        n1.netns().run(fix)?;
        let started = Instant::now();
        wait::until("the route is set", wait::LONG, || {
            let shown = n1.netns().ip(&format!("-6 route show {subnet}"))?;
            ensure!(shown.contains("dev flannel-v6.1"), "{shown}");
            Ok(())
        })?;
        ensure!(started.elapsed() < LIMIT, "continued after {:?}", started.elapsed());
        doctor.expect(&[]).map(drop)
    });
}
