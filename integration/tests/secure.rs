//! etcd as it is run where others can reach it: TLS, client certificates, users. What is wrong is named, with
//! what to do about it, and no secret is.

use anyhow::{Result, ensure};
use integration::etcd::PREFIX;
use integration::kernel_state::routes;
use integration::{Daemon, Etcd, EtcdOptions, Feature, Flanneld, Lab, lab, wait};
use std::path::Path;
use std::time::Duration;

const CONFIG: &str = r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#;
const PASSWORD: &str = "s3cret";
/// The record of a node that is not there.
const PEER: &str = r#"{"PublicIP":"192.168.50.200","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0a:00:00:00:00:c8"}}"#;

fn says(daemon: &Daemon, since: usize, text: &str) -> Result<()> {
    wait::until(format!("the log says {text:?}"), wait::LONG, || {
        let log = daemon.log()?;
        let news = log.get(since..).unwrap_or_default();
        ensure!(news.contains(text), "it says:\n{news}");
        ensure!(!news.contains(PASSWORD), "it tells a password:\n{news}");
        Ok(())
    })
}

/// Starts daemons on both nodes, and lets their pods talk.
fn works(cluster: &integration::Cluster, flanneld: &Flanneld) -> Result<Vec<Daemon>> {
    let daemons = cluster.start_all(flanneld)?;
    let (a, b) = (cluster.nodes[0].add_pod("pod")?, cluster.nodes[1].add_pod("pod")?);
    a.netns.wait_ping(b.address(true)?)?;
    Ok(daemons)
}

/// A daemon that cannot get at the store says why and goes on trying.
fn refused(node: &integration::Node, flanneld: &Flanneld, reasons: &[&str]) -> Result<()> {
    let mut daemon = node.start(flanneld)?;
    let since = 0;
    for reason in reasons {
        says(&daemon, since, reason)?;
    }
    ensure!(daemon.running()?, "it ended");
    ensure!(daemon.get("/readyz")?.status == 503, "it says that it is ready");
    daemon.stop()?;
    let log = daemon.log()?;
    let lines = log.lines().filter(|line| line.contains("store rejected the request")).count();
    ensure!(lines <= 3, "it says so {lines} times:\n{log}");
    Ok(())
}

fn start(lab: &Lab, options: &EtcdOptions) -> Result<(integration::Cluster, Etcd)> {
    lab.require(&[Feature::Vxlan, Feature::Etcd, Feature::Openssl])?;
    let cluster = lab.cluster(2)?;
    let etcd = Etcd::start(lab, &cluster.lan, options)?;
    etcd.set_config(CONFIG)?;
    Ok((cluster, etcd))
}

fn file(flag: &str, path: &Path) -> String {
    format!("--etcd-{flag}={}", path.display())
}

#[test]
fn tls_with_a_ca() {
    lab(|lab| {
        let (mut cluster, etcd) = start(lab, &EtcdOptions { tls: true, ..EtcdOptions::default() })?;
        works(&cluster, &Flanneld::on_etcd(&etcd))?;
        let url = format!("https://{}", etcd.members[0].address());
        // A certificate of somebody else as CA.
        let (stranger, _) = etcd.client_certificate("stranger")?;
        let wrong =
            Flanneld::bare().argument(format!("--etcd-endpoints={url}")).argument(file("cafile", &stranger));
        let n3 = cluster.add_node(lab, "n3", 3)?;
        refused(&n3, &wrong, &["is not signed by a CA in", "stranger.crt", "--etcd-cafile", &url])?;
        let n4 = cluster.add_node(lab, "n4", 4)?;
        let none = Flanneld::bare().argument(format!("--etcd-endpoints={url}"));
        refused(&n4, &none, &["set the CA of that server with --etcd-cafile"])?;
        let n5 = cluster.add_node(lab, "n5", 5)?;
        let missing = Flanneld::on_etcd(&etcd).argument("--etcd-cafile=/nowhere/ca.crt");
        refused(&n5, &missing, &["/nowhere/ca.crt", "--etcd-cafile", "check that it exists"])
    });
}

#[test]
fn tls_with_client_certificates() {
    lab(|lab| {
        let options = EtcdOptions { tls: true, client_certificates: true, ..EtcdOptions::default() };
        let (mut cluster, etcd) = start(lab, &options)?;
        let daemons = works(&cluster, &Flanneld::on_etcd(&etcd))?;
        // All certificates are exchanged under daemons that run, as they are before they expire.
        etcd.exchange_certificates()?;
        etcd.put(&format!("{PREFIX}/subnets/10.42.200.0-24"), PEER)?;
        for (node, daemon) in cluster.nodes.iter().zip(&daemons) {
            wait::until(format!("{} knows the new peer", node.name()), wait::LONG, || {
                let found = routes(node.netns(), true, "10.42.200.0/24")?;
                ensure!(found.len() == 1, "{}", daemon.log()?);
                Ok(())
            })?;
        }
        let ca = etcd.flags().into_iter().find(|flag| flag.starts_with("--etcd-cafile"));
        let url = format!("https://{}", etcd.members[0].address());
        let anonymous =
            Flanneld::bare().argument(format!("--etcd-endpoints={url}")).argument(ca.unwrap_or_default());
        let n3 = cluster.add_node(lab, "n3", 3)?;
        refused(&n3, &anonymous, &["requires a client certificate (set --etcd-certfile and --etcd-keyfile)"])
    });
}

#[test]
fn users_and_passwords() {
    lab(|lab| {
        let (mut cluster, etcd) = start(lab, &EtcdOptions { token_secs: 2, ..EtcdOptions::default() })?;
        etcd.enable_users("rootpw", PASSWORD)?;
        etcd.ctl(&["user", "add", &format!("nobody:{PASSWORD}")])?;
        let login = |user: &str, password: &str| {
            Flanneld::on_etcd(&etcd)
                .argument(format!("--etcd-username={user}"))
                .environment("FLANNELD_ETCD_PASSWORD", password)
        };
        let daemons = works(&cluster, &login("flannel", PASSWORD))?;
        let subnets = [cluster.nodes[0].subnet(true)?, cluster.nodes[1].subnet(true)?];

        let wrong = ["refuses user", "flannel", "or its password", "--etcd-password"];
        refused(&cluster.add_node(lab, "n3", 3)?, &login("flannel", "wrong"), &wrong)?;
        let denied = ["does not permit user", "nobody", "grant-permission ROLE readwrite"];
        refused(&cluster.add_node(lab, "n4", 4)?, &login("nobody", PASSWORD), &denied)?;
        let n5 = cluster.add_node(lab, "n5", 5)?;
        refused(
            &n5,
            &Flanneld::on_etcd(&etcd),
            &["requires a user; set --etcd-username and --etcd-password"],
        )?;

        // Nobody has anything to ask for longer than tokens live; then there is something to see and to do.
        wait::holds_for("the daemons are ready", Duration::from_secs(4), || {
            for daemon in &daemons {
                ensure!(daemon.get("/readyz")?.status == 200, "{}", daemon.log()?);
            }
            Ok(())
        })?;
        let lost = subnets[0].to_string().replace('/', "-");
        etcd.delete(&format!("{PREFIX}/subnets/{lost}"))?;
        wait::until("the first node takes its lease again", wait::LONG, || {
            let leases = etcd.leases()?;
            ensure!(leases.iter().any(|(key, _)| *key == lost), "{leases:?}");
            Ok(())
        })?;
        etcd.put(&format!("{PREFIX}/subnets/10.42.200.0-24"), PEER)?;
        for node in &cluster.nodes[..2] {
            wait::until(format!("{} knows the new peer", node.name()), wait::LONG, || {
                let found = routes(node.netns(), true, "10.42.200.0/24")?;
                ensure!(found.len() == 1, "{:?}", routes(node.netns(), true, ""));
                Ok(())
            })?;
        }
        for (node, subnet) in cluster.nodes.iter().zip(subnets) {
            ensure!(node.subnet(true)? == subnet, "{} has moved", node.name());
        }
        for daemon in &daemons {
            ensure!(!daemon.log()?.contains(PASSWORD), "a password is in the log");
            ensure!(!daemon.log()?.contains("store rejected the request"), "{}", daemon.log()?);
        }
        Ok(())
    });
}
