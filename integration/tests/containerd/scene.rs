//! Nodes with the daemon and containerd.

use anyhow::{Context, Result, ensure};
use integration::{Cluster, Daemon, Feature, Flanneld, Lab, LeaseDirectory, Machine, Netns, program, wait};
use std::fmt::Display;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::runtime::{Answer, Containerd, Pod, install};

pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) flanneld: Flanneld,
    /// One of each on every node, in the same order.
    pub(crate) machines: Vec<Machine>,
    pub(crate) containerds: Vec<Containerd>,
    pub(crate) daemons: Vec<Daemon>,
}

/// A network config of both families; `backend` is the JSON of its `Backend`.
pub(crate) fn config(backend: &str) -> String {
    format!(
        r#"{{"Network":"10.42.0.0/16","IPv6Network":"fd42::/48","EnableIPv6":true,"EnableNFTables":true,"Backend":{backend}}}"#
    )
}

impl Scene {
    /// Nodes that can run pods, with this network config; the daemon masquerades.
    pub(crate) fn new(lab: &Lab, nodes: usize, config: &str) -> Result<Self> {
        Self::with(lab, nodes, config, "--ip-masq=true")
    }

    /// The same, with an argument for the daemon.
    pub(crate) fn with(lab: &Lab, nodes: usize, config: &str, argument: &str) -> Result<Self> {
        lab.require(&[Feature::Containerd, Feature::Runc, Feature::Crun, Feature::Nft])?;
        if config.contains("vxlan") {
            lab.require(&[Feature::Vxlan])?;
        }
        let cluster = lab.cluster(nodes)?;
        let leases = LeaseDirectory::new(lab, config)?;
        let flanneld = Flanneld::on_directory(leases.path()).argument(argument);
        let daemons = cluster.start_all(&flanneld)?;
        let mut scene = Self { cluster, flanneld, machines: Vec::new(), containerds: Vec::new(), daemons };
        for node in &scene.cluster.nodes {
            let machine = node.boot()?;
            install(&machine)?;
            scene.containerds.push(Containerd::start(lab, &machine)?);
            scene.machines.push(machine);
        }
        Ok(scene)
    }

    /// Replaces a part of a node's list of plugins. containerd is started again, so that it certainly has read it.
    pub(crate) fn change_list(&mut self, index: usize, part: &str, by: &str) -> Result<()> {
        const LIST: &str = "/etc/cni/net.d/10-flannel.conflist";
        let machine = &self.machines[index];
        let text = machine.netns().read(Path::new(LIST))?;
        ensure!(text.matches(part).count() == 1, "{part:?} is not once in {text}");
        self.containerds[index].kill()?;
        machine.write(LIST, &text.replace(part, by))?;
        self.containerds[index].start_again()
    }

    /// The address of a node on the segment.
    pub(crate) fn node_address(&self, index: usize, v4: bool) -> Result<IpAddr> {
        let mut addresses = self.cluster.nics[index].addresses.iter().map(ipnet::IpNet::addr);
        addresses.find(|address| address.is_ipv4() == v4).context("a node without an address of that family")
    }

    /// Asks from a node, not from a pod on it.
    pub(crate) fn ask_from_node(&self, index: usize, server: impl Display) -> Result<Answer> {
        Self::ask_from(self.machines[index].netns(), server)
    }

    /// Asks from anywhere.
    pub(crate) fn ask_from(netns: &Netns, server: impl Display) -> Result<Answer> {
        Answer::parse(netns.run(&format!("{} ask {server}", program("pod").display()))?.trim())
    }

    /// The addresses that are taken on a node.
    pub(crate) fn taken(&self, index: usize) -> Result<Vec<IpAddr>> {
        let names = self.files(index, "networks/cbr0")?;
        // Beside them are the lock and the last address of each range.
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Fails unless a node has nothing of these pods any more, and of no other pod either.
    pub(crate) fn expect_nothing(&self, index: usize, pods: &[Pod]) -> Result<()> {
        let taken = self.taken(index)?;
        ensure!(taken.is_empty(), "addresses are taken still: {taken:?}");
        for directory in ["flannel", "results"] {
            let files = self.files(index, directory)?;
            ensure!(files.is_empty(), "files are left in /var/lib/cni/{directory}: {files:?}");
        }
        let netns = self.machines[index].netns();
        let namespaces = netns.run("ls /run/netns")?;
        ensure!(namespaces.is_empty(), "namespaces are left: {namespaces}");
        let links = netns.ip("-o link show master cni0")?;
        ensure!(links.is_empty(), "links are left: {links}");
        let rules = netns.run("nft list ruleset")?;
        for pod in pods {
            let mut marks = vec![pod.id[..12].to_owned()];
            marks.extend(pod.addresses.iter().map(IpAddr::to_string));
            let left = rules.lines().find(|line| {
                let mut words = line.split(|c: char| !(c.is_ascii_alphanumeric() || ".:-".contains(c)));
                words.any(|word| marks.iter().any(|mark| word.starts_with(mark.as_str())))
            });
            ensure!(left.is_none(), "a rule of {} is left: {left:?}", pod.name);
        }
        Ok(())
    }

    fn files(&self, index: usize, directory: &str) -> Result<Vec<String>> {
        let path = self.cluster.nodes[index].file("/var/lib/cni")?.join(directory);
        let entries = fs::read_dir(&path).with_context(|| format!("could not list {}", path.display()))?;
        entries
            .map(|entry| {
                let entry = entry.context("could not list a directory")?;
                Ok(entry.file_name().to_string_lossy().into_owned())
            })
            .collect()
    }

    /// Fails unless every pod answers at its own address, asked by a pod of another node, which they see as it is.
    pub(crate) fn expect_all_answer(&self, from: usize, asking: &Pod, pods: &[Pod], v4: bool) -> Result<()> {
        let servers = pods.iter().map(|pod| pod.server(v4)).collect::<Result<Vec<_>>>()?;
        let answers =
            wait::until("all pods answer", wait::LONG, || self.containerds[from].ask_all(asking, &servers))?;
        let seen = asking.address(v4)?;
        let expected: Vec<Answer> = pods.iter().map(|pod| Answer { pod: pod.name.clone(), seen }).collect();
        ensure!(answers == expected, "{answers:?}");
        Ok(())
    }
}
