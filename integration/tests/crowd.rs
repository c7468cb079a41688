//! Hundreds of nodes appear at once and go at once, as after a power cut of a hall: the kernel follows, and who talks to
//! another node does not notice.

use anyhow::{Context, Result, ensure};
use integration::etcd::PREFIX;
use integration::gateway::Gateway;
use integration::golden::{self, Peer};
use integration::traffic::Datagrams;
use integration::{Cluster, Feature, Flanneld, lab};
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const CROWD: u16 = 300;
const INTERVAL: Duration = Duration::from_millis(10);
const MTU: u32 = 1450;
/// The real nodes choose their subnets apart from the crowd.
const CONFIG: &str = r#"{"Network":"10.0.0.0/8","SubnetMin":"10.200.0.0","SubnetMax":"10.200.255.0","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;

#[test]
fn on_etcd() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Etcd])?;
        let cluster = lab.cluster(2)?;
        let etcd = cluster.etcd(lab)?;
        etcd.set_config(CONFIG)?;
        cluster.start_all(&Flanneld::on_etcd(&etcd))?;
        let mut gateway = Gateway::connect(cluster.nodes[0].netns(), etcd.members[0].address())?;
        let lease = etcd.grant(600)?;
        let number = u64::from_str_radix(&lease, 16).context("a lease number that is not hexadecimal")?;
        let records: Vec<(String, String)> =
            crowd()?.iter().map(|peer| (format!("{PREFIX}/subnets/{}", key(peer)), record(peer))).collect();
        come_and_go(
            &cluster,
            || gateway.put_all(&records, &number.to_string()),
            // All records hang on one lease: they go in one revision.
            || etcd.ctl(&["lease", "revoke", &lease]).map(drop),
        )
    });
}

#[test]
fn on_directory() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(2)?;
        let leases = lab.directory("directory/leases")?;
        fs::write(leases.join("config"), CONFIG).context("could not write the network config")?;
        cluster.start_all(&Flanneld::on_directory(&leases))?;
        let subnets = leases.join("subnets");
        let crowd = crowd()?;
        come_and_go(
            &cluster,
            || {
                crowd.iter().try_for_each(|peer| {
                    // As it should be done: a reader never finds half a file.
                    let temporary = leases.join(key(peer));
                    fs::write(&temporary, record(peer)).context("could not write a record")?;
                    fs::rename(&temporary, subnets.join(key(peer))).context("could not rename a record")
                })
            },
            || {
                crowd.iter().try_for_each(|peer| {
                    fs::remove_file(subnets.join(key(peer))).context("could not remove a record")
                })
            },
        )
    });
}

/// Nodes that exist only as records.
fn crowd() -> Result<Vec<Peer>> {
    (0..CROWD)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            Ok(Peer {
                public: Ipv4Addr::new(172, 16, high, low).into(),
                subnet: format!("10.{}.{low}.0/24", 100 + u16::from(high)).parse()?,
                mac: Some(format!("0a:00:00:00:{high:02x}:{low:02x}")),
            })
        })
        .collect()
}

fn key(peer: &Peer) -> String {
    peer.subnet.to_string().replace('/', "-")
}

fn record(peer: &Peer) -> String {
    format!(
        r#"{{"PublicIP":"{}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{}"}}}}"#,
        peer.public,
        peer.mac.as_deref().unwrap_or_default()
    )
}

fn come_and_go(
    cluster: &Cluster,
    come: impl FnOnce() -> Result<()>,
    go: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let pods = cluster.nodes.iter().map(|node| node.add_pod("pod")).collect::<Result<Vec<_>>>()?;
    let (from, to) = (&pods[0].netns, &pods[1]);
    from.wait_ping(to.address(true)?)?;
    let flow = Datagrams::start(from, &to.netns, to.address(true)?, INTERVAL)?;
    let (node, other) = (&cluster.nodes[0], &cluster.nodes[1]);
    let (own, real) = (Peer::of(node, true)?, Peer::of(other, true)?);
    let alone = golden::vxlan(&own, std::slice::from_ref(&real), MTU);
    let mut peers = crowd()?;
    peers.push(real);
    let crowded = golden::vxlan(&own, &peers, MTU);
    ensure!(
        crowded.len() == alone.len() + 3 * usize::from(CROWD),
        "the crowd is not as large as it should be"
    );
    golden::expect(node.netns(), true, &alone)?;

    let started = Instant::now();
    come()?;
    golden::expect(node.netns(), true, &crowded)?;
    eprintln!("{CROWD} came, all entries after {:?}", started.elapsed());
    node.add_pod("later")?.netns.wait_ping(to.address(true)?)?;
    let started = Instant::now();
    go()?;
    golden::expect(node.netns(), true, &alone)?;
    eprintln!("{CROWD} went, no entry after {:?}", started.elapsed());
    flow.stop()?.expect_none_lost()
}
