//! A host with its IPv6 routes from router advertisements keeps them when it forwards for pods.
//!
//! ```text
//!   outside: router ── lan ── n1 ── pods
//! ```

use anyhow::{Context, Result, anyhow, ensure};
use integration::router::{Advertisement, Router};
use integration::traffic::Datagrams;
use integration::{
    Daemon, Doctor, Feature, Flanneld, Lab, LeaseDirectory, Netns, Node, Pod, Stack, lab, pages, wait,
};
use std::fs;
use std::net::Ipv6Addr;
use std::thread;
use std::time::Duration;

/// An address that only the default route leads to.
const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0);
/// The lifetime of the default route; an advertisement is sent five times a second.
const LIFETIME_SECS: u16 = 3;

const ACCEPT_RA: &str = "net/ipv6/conf/eth0/accept_ra";
const FORWARDING: &str = "net/ipv6/conf/all/forwarding";

struct Site {
    node: Node,
    outside: Netns,
    flanneld: Flanneld,
    router: Router,
    _leases: LeaseDirectory,
}

impl Site {
    /// A node that does not forward yet and has its routes from a router.
    fn build(lab: &Lab, router_secs: u16) -> Result<Self> {
        lab.require(&[Feature::Nft])?;
        let lan = lab.segment("lan", &["192.168.50.254/24".parse()?])?;
        let (outside, node) = (lab.host("router")?, lab.node("n1")?);
        // Hosts drop the routes of a router that says that it is none.
        outside.set_sysctl(FORWARDING, "1")?;
        lan.attach(&outside, "eth0", &["fd77::254/64".parse()?])?;
        outside.ip(&format!("addr add {OUTSIDE}/128 dev lo"))?;
        let netns = node.netns();
        for (setting, value) in [
            (FORWARDING, "0"),
            ("net/ipv6/conf/default/accept_ra", "1"),
            ("net/ipv6/conf/default/accept_dad", "0"),
        ] {
            netns.set_sysctl(setting, value)?;
        }
        let nic = lan.attach(netns, "eth0", &["192.168.50.1/24".parse()?])?;
        lan.default_routes(&nic)?;
        let advertisement = Advertisement { prefix: PREFIX, prefix_secs: 3600, router_secs };
        let router = Router::start(&outside, "eth0", advertisement)?;
        let leases = LeaseDirectory::new(lab, &Stack::Dual.config(r#"{"Type":"host-gw"}"#))?;
        let flanneld = Flanneld::on_directory(leases.path());
        let site = Self { node, outside, flanneld, router, _leases: leases };
        site.wait_routes()?;
        Ok(site)
    }

    fn netns(&self) -> &Netns {
        self.node.netns()
    }

    fn wait_routes(&self) -> Result<()> {
        wait::until("the router is the default route", wait::LONG, || {
            let routes = self.default_routes()?;
            let addresses = self.netns().ip("-6 addr show dev eth0")?;
            ensure!(!routes.is_empty() && addresses.contains("fd77:"), "{routes}{addresses}");
            ensure!(!addresses.contains("tentative"), "{addresses}");
            self.netns().wait_ping(OUTSIDE.into())
        })
    }

    fn default_routes(&self) -> Result<String> {
        self.netns().ip("-6 route show default proto ra")
    }

    fn start(&self) -> Result<Daemon> {
        let mut daemon = self.node.start(&self.flanneld)?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    fn expect_settings(&self, accept_ra: &str, forwarding: &str) -> Result<()> {
        let found = (self.netns().sysctl(ACCEPT_RA)?, self.netns().sysctl(FORWARDING)?);
        ensure!(found == (accept_ra.to_owned(), forwarding.to_owned()), "{found:?}");
        Ok(())
    }

    /// The routes are there for longer than without further advertisements.
    fn expect_renewed(&self) -> Result<()> {
        let span = Duration::from_secs(LIFETIME_SECS.into()) + Duration::from_millis(500);
        wait::holds_for("the default route", span, || {
            ensure!(!self.default_routes()?.is_empty(), "no route");
            Ok(())
        })
    }
}

#[test]
fn pods_do_not_cost_the_host_its_routes() {
    lab(|lab| {
        let site = Site::build(lab, LIFETIME_SECS)?;
        let node = &site.node;
        let ctl = |arguments: &[&str]| node.flannelctl(&[], &[&["node", "cleanup"], arguments].concat());
        let mut daemon = site.start()?;
        let flow = Datagrams::start(site.netns(), &site.outside, OUTSIDE.into(), Duration::from_millis(10))?;
        site.expect_settings("1", "0")?;
        // The first pods start at the same time.
        let pods = thread::scope(|scope| -> Result<Vec<Pod>> {
            let names = ["first", "second", "third"];
            let adds = names.map(|name| scope.spawn(move || node.add_pod(name)));
            adds.into_iter().map(|add| add.join().map_err(|_| anyhow!("ADD panicked"))?).collect()
        })?;
        site.expect_renewed()?;
        site.expect_settings("2", "1")?;
        // The plugin and the kernel complete a new bridge by themselves.
        let log = daemon.log()?;
        ensure!(!log.contains("gateway of pods restored"), "{log}");
        let logs: String = pods.iter().map(|pod| pod.log.as_str()).collect();
        ensure!(logs.matches("accept_ra of eth0 changed from 1 to 2").count() == 1, "{logs}");
        let later = node.add_pod("later")?;
        ensure!(!later.log.contains("accept_ra"), "{}", later.log);
        later.delete()?;

        pods.into_iter().try_for_each(Pod::delete)?;
        daemon.stop()?;
        let names = [&format!("{FORWARDING}=0")[..], &format!("{ACCEPT_RA}=1")];
        ctl(&[])?.expect(0, &["not restored", names[0], names[1], "--cni"])?;
        ctl(&["--cni", "--dry-run"])?.expect(0, &["would be restored", names[0], names[1]])?;
        site.expect_settings("2", "1")?;
        ctl(&["--cni"])?.expect(0, &["restored", names[0], names[1]])?;
        site.expect_settings("1", "0")?;
        ctl(&["--cni"])?.expect(0, &["nothing to remove"])?;
        site.expect_renewed()?;
        flow.stop()?.expect_none_lost()
    });
}

/// What another program has set since is not undone.
#[test]
fn cleanup_keeps_settings_that_others_changed() {
    lab(|lab| {
        let site = Site::build(lab, 1800)?;
        let mut daemon = site.start()?;
        site.node.add_pod("pod")?.delete()?;
        daemon.stop()?;
        site.netns().set_sysctl(ACCEPT_RA, "0")?;
        let done = site.node.flannelctl(&[], &["node", "cleanup", "--cni"])?.expect(0, &["removed"])?;
        ensure!(!done.stdout.contains("restored"), "{done:?}");
        site.expect_settings("0", "1")
    });
}

#[test]
fn pod_fails_rather_than_the_host() {
    lab(|lab| {
        let site = Site::build(lab, 1800)?;
        let _daemon = site.start()?;
        let file = site.node.file("/run/flannel/setting")?;
        fs::write(&file, "1\n").with_context(|| format!("could not write {}", file.display()))?;
        let path = format!("/proc/sys/{ACCEPT_RA}");
        site.netns().run(&format!("mount --bind {} {path}", file.display()))?;
        site.netns().run(&format!("mount -o remount,bind,ro {path}"))?;
        let error = site.node.add_pod("pod").map(drop).err().context("the pod was added")?;
        let text = format!("{error:#}");
        for part in [
            "IPv6 forwarding stays disabled",
            &path,
            "read-only file system",
            "accept_ra of their interfaces",
        ] {
            ensure!(text.contains(part), "no {part:?} in {text}");
        }
        ensure!(site.netns().sysctl(FORWARDING)? == "0", "the host forwards");
        ensure!(!site.default_routes()?.is_empty(), "no route");
        site.netns().run(&format!("umount {path}"))?;
        site.node.add_pod("next")?;
        site.expect_settings("2", "1")
    });
}

/// Whoever enabled forwarding.
#[test]
fn doctor_finds_routes_that_are_not_renewed() {
    lab(|lab| {
        let site = Site::build(lab, 1800)?;
        let _daemon = site.start()?;
        Doctor::install_cni_config(&site.node)?;
        let doctor = Doctor::of(&site.node, &site.flanneld);
        let expect = |ids: &[&str], problem: &str| -> Result<String> {
            let all = doctor.expect(ids)?;
            let found = all.into_iter().find(|found| found.id == ids[0]).context("no finding")?.value;
            let text = |key: &str| found[key].as_str().map(str::to_owned).with_context(|| format!("{found}"));
            ensure!(text("problem")?.contains(problem), "{found:#}");
            text("fix")
        };
        let both = expect(&["ipv6-forwarding"], "does not forward")?;
        ensure!(both == format!("sysctl -w {ACCEPT_RA}=2 net.ipv6.conf.all.forwarding=1"), "{both}");

        site.netns().set_sysctl(FORWARDING, "1")?;
        ensure!(site.default_routes()?.is_empty(), "the kernel keeps default routes");
        let ignored = "eth0 forwards and ignores router advertisements: the";
        // Without the default route, a daemon that starts now does not find its interface.
        let ids = ["accept-ra", "interface-missing"];
        let fix = expect(&ids, &format!("{ignored} route to fd77::/64 expires in 59m"))?;
        ensure!(fix == format!("sysctl -w {ACCEPT_RA}=2"), "{fix}");
        site.netns().run(&fix)?;
        site.wait_routes()?;
        doctor.expect(&[])?;

        site.netns().set_sysctl(ACCEPT_RA, "1")?;
        expect(&["accept-ra"], &format!("{ignored} default route expires in 29m"))?;

        // Both settings at once, in the right order, as the document says.
        site.netns().set_sysctl(FORWARDING, "0")?;
        pages::walk("advertisement::doctor_finds_routes_that_are_not_renewed", |walk| {
            let block = walk.next("sysctl -w net/ipv6")?;
            ensure!(block.text().trim() == both, "{} instead of {both}", block.text());
            site.netns().run(block.text())
        })?;
        doctor.expect(&[])?;
        ensure!(!site.default_routes()?.is_empty(), "no route");
        site.router.stop();
        Ok(())
    });
}
