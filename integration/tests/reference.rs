//! docs/backends.md, docs/configuration.md, docs/connectivity.md and docs/flannelctl.md: their commands and examples, run as they are
//! written there.

use anyhow::{Context, Result, ensure};
use integration::pages::{Terminal, Walk, block, walk};
use integration::{Daemon, Feature, Flanneld, Lab, LeaseDirectory, Netns, Node, lab};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A node with these addresses on `eth0`, and a gateway for each.
fn node(lab: &Lab, segment: &str, gateway: &str, address: &str) -> Result<Node> {
    let lan = lab.segment(segment, &[gateway.parse()?])?;
    let node = lab.node("n1")?;
    lan.default_routes(&lan.attach(node.netns(), "eth0", &[address.parse()?])?)?;
    Ok(node)
}

/// A daemon with the next block of a page as network config, and the record of the node that the page shows.
fn start(lab: &Lab, node: &Node, page: &mut Walk, record: &str) -> Result<Daemon> {
    let leases = LeaseDirectory::new(lab, page.next("{\"Network\"")?.text())?;
    fs::create_dir(leases.path().join("subnets"))?;
    fs::write(leases.path().join("subnets/10.5.77.0-24"), record)?;
    let mut daemon = node.start(&Flanneld::on_directory(leases.path()))?;
    daemon.wait_ready()?;
    Ok(daemon)
}

/// ```text
///   n1 192.0.2.139 ── near 192.0.2.128/25 ── router ── (192.0.2.12, which need not be there)
/// ```
#[test]
fn vxlan_is_seen_as_the_page_shows_it() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let node = node(lab, "near", "192.0.2.129/25", "192.0.2.139/25")?;
        walk("reference::vxlan_is_seen_as_the_page_shows_it", |page| {
            let record = r#"{"PublicIP":"192.0.2.12","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"5a:11:9e:02:77:41"}}"#;
            let _daemon = start(lab, &node, page, record)?;
            terminal(lab, &node)?.follow(&page.next("$ ip route show dev flannel.1")?)
        })
    });
}

/// ```text
///   n1 192.0.2.11 ── lan 192.0.2.0/24 (with 192.0.2.12, which need not be there)
/// ```
#[test]
fn host_gw_is_seen_as_the_page_shows_it() {
    lab(|lab| {
        let node = node(lab, "lan", "192.0.2.1/24", "192.0.2.11/24")?;
        walk("reference::host_gw_is_seen_as_the_page_shows_it", |page| {
            let record = r#"{"PublicIP":"192.0.2.12","PublicIPv6":null,"BackendType":"host-gw"}"#;
            let _daemon = start(lab, &node, page, record)?;
            terminal(lab, &node)?.follow(&page.next("$ ip route show root")?)
        })
    });
}

/// In an empty directory.
fn terminal(lab: &Lab, node: &Node) -> Result<Terminal> {
    Terminal::open(node.netns(), &lab.directory(&format!("terminal/{}", node.name()))?)
}

#[test]
fn configuration() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Nft])?;
        let node = node(lab, "lan", "192.0.2.1/24", "192.0.2.11/24")?;
        let leases = LeaseDirectory::empty(lab)?;
        let terminal = terminal(lab, &node)?.set("FLANNELD_LEASE_DIR", leases.path());
        walk("reference::configuration", |page| {
            fs::write(lab.directory("terminal/n1")?.join("network.json"), page.next("{\n")?.text())?;
            let [validate, set] = page.next("flannelctl config validate")?.commands()?;
            terminal
                .run(&validate)?
                .expect(0, &["10.5.0.0/16, 255 subnets of length 24", "vxlan", "nftables"])?;
            terminal.run(&set)?.expect(0, &["written to"])?;

            terminal.run("flannelctl lease reserve 192.0.2.11 --subnet 10.5.34.0/24")?.expect(0, &[])?;
            node.start(&Flanneld::on_directory(leases.path()))?.wait_ready()?;
            for line in page.next("DIR/config")?.text().lines() {
                let (file, holds) =
                    line.split_once(' ').with_context(|| format!("no file and text: {line}"))?;
                let text = fs::read_to_string(file.replace("DIR", &leases.path().display().to_string()))?;
                let start = if file == "DIR/config" { "{" } else { holds.trim().trim_end_matches("...}}") };
                ensure!(text.starts_with(start), "{file} holds {text}, not {start}");
            }
            let list = page.next("{\"name\":")?;
            ensure!(
                list.text() == block("README.md", "{\"name\":")?.text(),
                "not the list of README.md: {list}"
            );
            Ok(())
        })
    });
}

#[test]
fn connectivity() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Nft])?;
        let cluster = lab.cluster(3)?;
        let leases = LeaseDirectory::new(lab, block("docs/configuration.md", "{\n")?.text())?;
        cluster.start_all(&Flanneld::on_directory(leases.path()))?;
        let terminals: Vec<Terminal> = cluster
            .nodes
            .iter()
            .map(|node| {
                let shims = shims(lab, node.netns())?;
                let terminal =
                    Terminal::open(node.netns(), &lab.directory("terminal")?)?.search_first(&shims)?;
                Ok(terminal.set("FLANNELD_LEASE_DIR", leases.path()))
            })
            .collect::<Result<_>>()?;
        walk("reference::connectivity", |page| {
            let [here, wide, whole] = page.next("flannelctl connectivity test")?.commands()?;
            let others = ["192.168.50.2", "192.168.50.3", "0%"];
            terminals[0].run(&here)?.expect(0, &others)?;
            terminals[0].run(&wide)?.expect(0, &[&others[..], &["vtep", "1450"]].concat())?;
            terminals[0].run(&whole)?.expect(0, &["6 paths: 6 fine"])?;
            expect_page(lab)?;

            let [each, merge] = page.next("flannelctl connectivity test -o json")?.commands()?;
            for terminal in &terminals {
                terminal.run(&each)?.expect(0, &[])?;
            }
            terminals[0].run(&merge)?.expect(0, &["6 paths: 6 fine"])?;
            expect_page(lab)
        })
    });
}

/// Takes the page with the matrix away.
fn expect_page(lab: &Lab) -> Result<()> {
    let page = lab.directory("terminal")?.join("net.html");
    let html = fs::read_to_string(&page).context("no page")?;
    ensure!(html.contains("<svg"), "{html}");
    fs::remove_file(page).context("the page stays")
}

/// What nodes have that are more than namespaces: a name, and a way in from the others.
fn shims(lab: &Lab, netns: &Netns) -> Result<std::path::PathBuf> {
    let directory = lab.directory(&format!("shims/{}", netns.name()))?;
    let ssh = "node=n${1##*.}; shift; exec ip netns exec \"$node\" \"$@\"";
    for (name, script) in [("hostname", format!("echo {}", netns.name())), ("ssh", ssh.to_owned())] {
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(directory)
}

#[test]
fn examples_of_flannelctl_are_right() {
    lab(|lab| {
        let node = lab.node("n1")?;
        let home = lab.directory("terminal/n1")?;
        let terminal = terminal(lab, &node)?.set("FLANNELD_LEASE_DIR", "leases");
        lay_out(&home)?;
        walk("reference::examples_of_flannelctl_are_right", |page| {
            for beginning in [
                "$ flannelctl config validate",
                "$ flannelctl lease reserve",
                "$ flannelctl lease list",
                "$ flannelctl lease get",
                "$ flannelctl lease unreserve",
                "$ flannelctl lease move",
                "$ flannelctl lease release",
                "$ flannelctl subnet plan",
                "$ flannelctl ipam list",
            ] {
                terminal.follow(&page.next(beginning)?)?;
            }
            let [look, clean] = page.next("flannelctl node cleanup")?.commands()?;
            let left = node.file("/run/flannel/subnet.env")?;
            fs::write(&left, "FLANNEL_SUBNET=10.5.9.1/24\n")?;
            node.netns().ip("link add cni0 type bridge")?;
            terminal.run(&look)?.expect(0, &["/run/flannel/subnet.env"])?;
            ensure!(left.exists(), "a dry run removes");
            terminal.run(&clean)?.expect(0, &["/run/flannel/subnet.env", "cni0"])?;
            ensure!(!left.exists() && node.netns().ip("link show cni0").is_err(), "not clean");

            terminal.run(page.next("flannelctl support bundle")?.text())?.expect(0, &["report.tar.gz"])?;
            terminal.run("tar -tzf report.tar.gz")?.expect(0, &["store", "kernel"])?;
            terminal.follow(&page.next("$ flannelctl version")?)
        })
    });
}

/// What the examples begin with.
fn lay_out(home: &Path) -> Result<()> {
    let network = home.join("networks/cbr0");
    fs::create_dir_all(&network)?;
    fs::write(
        home.join("network.json"),
        "{\"Network\":\"10.5.0.0/18\",\"EnableNFTables\":true,\"Backend\":{\"Type\":\"vxlan\"}}\n",
    )?;
    let address = network.join("10.5.9.2");
    fs::write(&address, "0123456789abcdef0123\r\neth0")?;
    // Half a minute to spare before another age is shown.
    let age = Duration::from_secs(90);
    File::options()
        .write(true)
        .open(&address)?
        .set_modified(SystemTime::now() - age)
        .context("no time is set")
}
