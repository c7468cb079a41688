//! The archive for those who install by hand: static programs, checksums, bill of materials.

use anyhow::{Context, Result, ensure};
use integration::{Cluster, Etcd, EtcdOptions, Feature, Lab, Netns, lab};
use serde_json::Value;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::thread;

use integration::artefacts::{Revision, file};

/// Unpacks the archive with this ending.
pub(crate) fn unpack(lab: &Lab, revision: Revision, ending: &str) -> Result<PathBuf> {
    let archive = file(revision, ending)?;
    let directory = lab.directory("unpacked")?;
    lab.host("unpack")?.run(&format!(
        "tar -C {} --strip-components 1 -xf {}",
        directory.display(),
        archive.display()
    ))?;
    Ok(directory)
}

#[test]
fn checksums_match() {
    lab(|lab| expect_checksums(&lab.host("check")?, Revision::First));
}

pub(crate) fn expect_checksums(tools: &Netns, revision: Revision) -> Result<()> {
    let directory = revision.directory()?;
    let checked =
        tools.feed(&["sh", "-e"], &format!("cd {}\nsha256sum -c SHA256SUMS", directory.display()))?;
    let files = fs::read_dir(&directory).context("could not list the packages")?.count();
    ensure!(checked.lines().count() == files - 1, "not every file has a checksum:\n{checked}");
    Ok(())
}

#[test]
fn bill_of_materials_lists_the_linked_crates() {
    lab(|_| {
        let text =
            fs::read(file(Revision::First, ".cdx.json")?).context("could not read the bill of materials")?;
        let bill: Value = serde_json::from_slice(&text).context("not JSON")?;
        ensure!(
            bill["bomFormat"] == "CycloneDX" && bill["metadata"]["component"]["name"] == "flannel",
            "{bill:#}"
        );
        let components = bill["components"].as_array().context("no components")?;
        let find = |name: &str| components.iter().find(|component| component["name"] == name);
        let tokio = find("tokio").context("tokio is linked and not named")?;
        let hash = tokio["hashes"][0]["content"].as_str().context("tokio has no checksum")?;
        let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock"))
            .context("no Cargo.lock")?;
        ensure!(lock.contains(hash), "{hash} is not in Cargo.lock");
        for linked in ["flannel-core", "ring", "netlink-sys", "rust-std", "glibc"] {
            ensure!(find(linked).is_some(), "{linked} is linked and not named");
        }
        for other in ["proptest", "insta", "syn", "k8s-cri", "protox"] {
            ensure!(find(other).is_none(), "{other} is named and not linked");
        }
        // Whatever is depended on is described.
        let references: Vec<&Value> = components.iter().map(|component| &component["bom-ref"]).collect();
        for dependency in bill["dependencies"].as_array().into_iter().flatten() {
            for on in dependency["dependsOn"].as_array().into_iter().flatten() {
                ensure!(references.contains(&on), "{on} is not described");
            }
        }
        Ok(())
    });
}

/// ```text
///   n1 (static programs) ── lan ── etcd
/// ```
fn cluster_with_etcd(lab: &Lab, options: &EtcdOptions) -> Result<(Cluster, Etcd, IpAddr)> {
    lab.require(&[Feature::Etcd])?;
    let cluster = lab.cluster(1)?;
    let etcd = Etcd::start(lab, &cluster.lan, options)?;
    etcd.put("/coreos.com/network/config", r#"{"Network":"10.42.0.0/16","Backend":{"Type":"host-gw"}}"#)?;
    let address = etcd.members[0].address().ip();
    Ok((cluster, etcd, address))
}

#[test]
fn static_programs_use_tls() {
    lab(|lab| {
        lab.require(&[Feature::Openssl])?;
        let options = EtcdOptions { tls: true, client_certificates: true, ..EtcdOptions::default() };
        let (cluster, etcd, _) = cluster_with_etcd(lab, &options)?;
        let line = format!(
            "{}/flannelctl {} config get",
            unpack(lab, Revision::First, ".tar.gz")?.display(),
            etcd.flags().join(" ")
        );
        let config = cluster.nodes[0].netns().run(&line)?;
        ensure!(config.contains("10.42.0.0/16"), "{config}");
        Ok(())
    });
}

/// In `/etc/hosts`, and in the DNS; on a host whose `nsswitch.conf` names a service that a static program must
/// not load, and which would end the search.
#[test]
fn static_programs_resolve_names() {
    lab(|lab| {
        let (cluster, etcd, address) = cluster_with_etcd(lab, &EtcdOptions::default())?;
        let node = cluster.nodes[0].netns();
        let (directory, port) = (unpack(lab, Revision::First, ".tar.gz")?, etcd.members[0].address().port());
        fs::write("/etc/nsswitch.conf", "hosts: nowhere [UNAVAIL=return] files dns\n")
            .context("nsswitch.conf")?;
        fs::write("/etc/hosts", format!("{address} etcd.hosts.test\n")).context("hosts")?;
        fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\n").context("resolv.conf")?;
        serve_names(node, address)?;
        for name in ["etcd.hosts.test", "etcd.dns.test"] {
            let line = format!(
                "{}/flannelctl --etcd-endpoints http://{name}:{port} config get",
                directory.display()
            );
            let config = node.run(&line)?;
            ensure!(config.contains("10.42.0.0/16"), "{name}: {config}");
        }
        let mut daemon = integration::Flanneld::bare().program(directory.join("flanneld"));
        daemon = daemon.argument(format!("--etcd-endpoints=http://etcd.dns.test:{port}"));
        cluster.nodes[0].start(&daemon)?.wait_ready()
    });
}

/// A name server on the node that has one address for every name.
fn serve_names(node: &Netns, address: IpAddr) -> Result<()> {
    let IpAddr::V4(address) = address else { anyhow::bail!("{address} is not IPv4") };
    let socket = node.enter(|| UdpSocket::bind("127.0.0.1:53").context("could not serve names"))?;
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            let Some(answer) = answer(&query[..length], address.octets()) else { continue };
            // A client that has gone asks again if it wants to know.
            let _ = socket.send_to(&answer, client);
        }
    });
    Ok(())
}

/// The answer to a query with one question (RFC 1035): the address if it asks for one, else no record.
fn answer(query: &[u8], address: [u8; 4]) -> Option<Vec<u8>> {
    const A: [u8; 2] = [0, 1];
    let name_length = query.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
    let question = query.get(12..12 + name_length + 4)?;
    let asks_for_address = question.get(name_length..name_length + 2)? == A;
    let mut answer = query.get(..2)?.to_vec();
    // A response, recursion available; one question, one record or none.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(asks_for_address), 0, 0, 0, 0]);
    answer.extend(question);
    if asks_for_address {
        // The name of the question, type and class, a minute to live, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address);
    }
    Some(answer)
}
