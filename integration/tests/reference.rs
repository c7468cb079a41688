//! Commands and examples of docs/backends.md, docs/configuration.md, docs/connectivity.md and docs/flannelctl.md, run as
//! written.

use anyhow::{Context, Result, ensure};
use integration::pages::{Terminal, Walk, block, walk};
use integration::{Daemon, Feature, Flanneld, Lab, LeaseDirectory, Netns, Node, lab};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Creates a node with an address on `eth0` and a gateway.
fn node(lab: &Lab, segment: &str, gateway: &str, address: &str) -> Result<Node> {
    let lan = lab.segment(segment, &[gateway.parse()?])?;
    let node = lab.node("n1")?;
    lan.default_routes(&lan.attach(node.netns(), "eth0", &[address.parse()?])?)?;
    Ok(node)
}

/// Starts a daemon with the next block as network config, and writes the record of the peer that the document shows.
fn start(lab: &Lab, node: &Node, page: &mut Walk, record: &str) -> Result<Daemon> {
    let leases = LeaseDirectory::new(lab, page.next("{\"Network\"")?.text())?;
    fs::create_dir(leases.path().join("subnets"))?;
    fs::write(leases.path().join("subnets/10.5.77.0-24"), record)?;
    let mut daemon = node.start(&Flanneld::on_directory(leases.path()))?;
    daemon.wait_ready()?;
    Ok(daemon)
}

/// ```text
///   n1 192.0.2.139 ── near 192.0.2.128/25 ── router ── (192.0.2.12, not created)
/// ```
#[test]
fn vxlan_state_matches_the_document() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let node = node(lab, "near", "192.0.2.129/25", "192.0.2.139/25")?;
        walk("reference::vxlan_state_matches_the_document", |page| {
            let record = r#"{"PublicIP":"192.0.2.12","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"5a:11:9e:02:77:41"}}"#;
            let _daemon = start(lab, &node, page, record)?;
            terminal(lab, &node)?.verify(&page.next("$ ip route show dev flannel.1")?)
        })
    });
}

/// ```text
///   n1 192.0.2.11 ── lan 192.0.2.0/24 (with 192.0.2.12, not created)
/// ```
#[test]
fn host_gw_state_matches_the_document() {
    lab(|lab| {
        let node = node(lab, "lan", "192.0.2.1/24", "192.0.2.11/24")?;
        walk("reference::host_gw_state_matches_the_document", |page| {
            let record = r#"{"PublicIP":"192.0.2.12","PublicIPv6":null,"BackendType":"host-gw"}"#;
            let _daemon = start(lab, &node, page, record)?;
            terminal(lab, &node)?.verify(&page.next("$ ip route show root")?)
        })
    });
}

/// Opens a terminal in an empty directory.
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
                let (file, content) = line
                    .split_once(' ')
                    .with_context(|| format!("expected a file and its content: {line}"))?;
                let text = fs::read_to_string(file.replace("DIR", &leases.path().display().to_string()))?;
                let start = if file == "DIR/config" { "{" } else { content.trim().trim_end_matches("...}}") };
                ensure!(text.starts_with(start), "{file} contains {text}, expected {start}");
            }
            let list = page.next("{\"name\":")?;
            ensure!(
                list.text() == block("README.md", "{\"name\":")?.text(),
                "differs from the list in README.md: {list}"
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

/// Checks the page with the matrix and removes it.
fn expect_page(lab: &Lab) -> Result<()> {
    let page = lab.directory("terminal")?.join("net.html");
    let html = fs::read_to_string(&page).context("could not read the page")?;
    ensure!(html.contains("<svg"), "{html}");
    fs::remove_file(page).context("could not remove the page")
}

/// Provides what a real node has in addition: a host name, and ssh from the other nodes.
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
fn examples_of_flannelctl_are_up_to_date() {
    lab(|lab| {
        let node = lab.node("n1")?;
        let home = lab.directory("terminal/n1")?;
        let terminal = terminal(lab, &node)?.set("FLANNELD_LEASE_DIR", "leases");
        prepare(&home)?;
        walk("reference::examples_of_flannelctl_are_up_to_date", |page| {
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
                terminal.verify(&page.next(beginning)?)?;
            }
            let [dry_run, clean] = page.next("flannelctl node cleanup")?.commands()?;
            let stale = node.file("/run/flannel/subnet.env")?;
            fs::write(&stale, "FLANNEL_SUBNET=10.5.9.1/24\n")?;
            node.netns().ip("link add cni0 type bridge")?;
            terminal.run(&dry_run)?.expect(0, &["/run/flannel/subnet.env"])?;
            ensure!(stale.exists(), "a dry run removed a file");
            terminal.run(&clean)?.expect(0, &["/run/flannel/subnet.env", "cni0"])?;
            ensure!(!stale.exists() && node.netns().ip("link show cni0").is_err(), "cleanup is incomplete");

            terminal.run(page.next("flannelctl support bundle")?.text())?.expect(0, &["report.tar.gz"])?;
            terminal.run("tar -tzf report.tar.gz")?.expect(0, &["store", "kernel"])?;
            terminal.verify(&page.next("$ flannelctl version")?)
        })
    });
}

/// Creates the files that the examples need.
fn prepare(home: &Path) -> Result<()> {
    let network = home.join("networks/cbr0");
    fs::create_dir_all(&network)?;
    fs::write(
        home.join("network.json"),
        "{\"Network\":\"10.5.0.0/18\",\"EnableNFTables\":true,\"Backend\":{\"Type\":\"vxlan\"}}\n",
    )?;
    let address = network.join("10.5.9.2");
    fs::write(&address, "0123456789abcdef0123\r\neth0")?;
    // 30 s before the displayed age changes.
    let age = Duration::from_secs(90);
    File::options()
        .write(true)
        .open(&address)?
        .set_modified(SystemTime::now() - age)
        .context("could not set the time of the file")
}
