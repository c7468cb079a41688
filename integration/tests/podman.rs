//! Containers of podman with its CNI backend, on two nodes, with the list of plugins that the README installs.

use anyhow::{Context, Result, ensure};
use integration::image::{self, NAME, PORT, PROGRAM};
use integration::{Feature, Flanneld, Lab, LeaseDirectory, Machine, lab, readme, wait};
use std::net::IpAddr;

/// No container has a group of its own (see `machine.sh`): crun can do that.
const CONTAINERS: &str = r#"
[containers]
cgroups = "disabled"
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
[network]
network_backend = "cni"
network_config_dir = "/etc/cni/net.d"
cni_plugin_dirs = ["/opt/cni/bin"]
default_network = "cbr0"
"#;
const STORAGE: &str = r#"
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"#;
const POLICY: &str = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;

const NETWORK: &str = r#"{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;

fn install(lab: &Lab, machine: &Machine) -> Result<()> {
    readme::install_plugins(machine)?;
    for (file, text) in [("containers.conf", CONTAINERS), ("storage.conf", STORAGE), ("policy.json", POLICY)]
    {
        machine.write(&format!("/etc/containers/{file}"), text)?;
    }
    podman(machine, &format!("load --quiet --input {}", image::archive(lab, NAME, &[])?.display())).map(drop)
}

fn podman(machine: &Machine, arguments: &str) -> Result<String> {
    Ok(machine.netns().run(&format!("podman {arguments}"))?.trim().to_owned())
}

/// Runs a container that answers at its port 8080; its address.
fn run(machine: &Machine, name: &str, options: &str) -> Result<IpAddr> {
    podman(machine, &format!("run --detach --name {name} --hostname {name} {options} {NAME}"))?;
    let format = "{{.NetworkSettings.Networks.cbr0.IPAddress}}";
    let address = podman(machine, &format!("inspect --format {format} {name}"))?;
    address.parse().with_context(|| format!("not an address of {name}: {address:?}"))
}

/// Asks from a container who is at another address: its host name, and the address that it sees.
fn ask(machine: &Machine, from: &str, address: IpAddr, port: u16) -> Result<String> {
    wait::until(format!("{from} reaches {address} port {port}"), wait::LONG, || {
        podman(machine, &format!("exec {from} {PROGRAM} ask {address}:{port}"))
    })
}

/// Across nodes with their own addresses, by a port of the node, and nothing is left when they are removed.
#[test]
fn containers_reach_each_other() {
    lab(|lab| {
        lab.require(&[Feature::Podman, Feature::Crun, Feature::Vxlan, Feature::Nft])?;
        let cluster = lab.cluster(2)?;
        let leases = LeaseDirectory::new(lab, NETWORK)?;
        cluster.start_all(&Flanneld::on_directory(leases.path()).argument("--ip-masq"))?;
        let machines = cluster.nodes.iter().map(integration::Node::boot).collect::<Result<Vec<_>>>()?;
        for machine in &machines {
            install(lab, machine)?;
        }
        let [n1, n2] = machines.as_slice() else { anyhow::bail!("not two nodes") };
        let backend = podman(n1, "info --format {{.Host.NetworkBackend}}")?;
        ensure!(backend == "cni", "podman's network backend is {backend}");
        let a = run(n1, "a", "--publish 30080:8080")?;
        let b = run(n2, "b", "")?;
        for (node, address) in cluster.nodes.iter().zip([a, b]) {
            ensure!(node.subnet(true)?.contains(&address), "{address} is not of {}", node.name());
        }
        let found = [ask(n1, "a", b, PORT)?, ask(n2, "b", a, PORT)?];
        ensure!(found == [format!("b {a}"), format!("a {b}")], "{found:?}");
        let found = ask(n2, "b", "192.168.50.1".parse()?, 30080)?;
        ensure!(found.starts_with("a "), "by the port of the node: {found}");
        let found = ask(n1, "a", "192.168.50.1".parse()?, 30080)?;
        ensure!(found.starts_with("a "), "from itself by the port of the node: {found}");

        for (machine, name) in [(n1, "a"), (n2, "b")] {
            podman(machine, &format!("rm --force --time 0 {name}"))?;
            let left = machine.netns().run("find /var/lib/cni/networks/cbr0 -name [0-9]*")?;
            ensure!(left.is_empty(), "addresses are taken still: {left}");
            let links = machine.netns().ip("-o link show master cni0")?;
            ensure!(links.is_empty(), "links are left: {links}");
        }
        Ok(())
    });
}
