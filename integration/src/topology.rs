//! The underlay: segments (bridges in the namespace `fabric`, which also routes between them), and what is
//! plugged into them.

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use std::cell::{Cell, OnceCell};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::cni::Pod;
use crate::netns::Netns;
use crate::node::{Daemon, Flanneld, Node};
use crate::{DIRECTORY, wait};

/// Everything of one test: its namespaces and files.
pub struct Lab {
    fabric: OnceCell<Rc<Fabric>>,
}

/// The namespace of the segments.
struct Fabric {
    netns: Netns,
    ports: Cell<u32>,
}

/// First interface number of ports. The kernel announces a new carrier at once only if a veth and its
/// peer have different numbers, and with up to a second's delay otherwise (`linkwatch_urgent_event` in
/// net/core/link_watch.c); links in a fresh namespace get small numbers.
const FIRST_PORT: u32 = 10_000;

impl Lab {
    /// A lab with nothing in it.
    pub fn new() -> Result<Self> {
        ensure!(
            std::env::var_os("FLANNEL_SANDBOX").is_some(),
            "not in a sandbox: this would change the network of the machine"
        );
        Ok(Self { fabric: OnceCell::new() })
    }

    /// A directory of the harness, made if it is missing.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = Path::new(DIRECTORY).join(name);
        fs::create_dir_all(&path).with_context(|| format!("could not create {}", path.display()))?;
        Ok(path)
    }

    /// A directory store with this network config.
    pub fn lease_directory(&self, config: &str) -> Result<PathBuf> {
        let leases = self.directory("directory/leases")?;
        let file = leases.join("config");
        fs::write(&file, config).with_context(|| format!("could not write {}", file.display()))?;
        Ok(leases)
    }

    fn fabric(&self) -> Result<Rc<Fabric>> {
        if let Some(fabric) = self.fabric.get() {
            return Ok(Rc::clone(fabric));
        }
        let netns = Netns::create("fabric")?;
        netns.forward()?;
        // Frames that are only bridged have no business with anybody's packet filter here.
        for setting in ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"] {
            if Path::new("/proc/sys").join(setting).exists() {
                netns.set_sysctl(setting, "0")?;
            }
        }
        let fabric = Rc::new(Fabric { netns, ports: Cell::new(FIRST_PORT) });
        Ok(Rc::clone(self.fabric.get_or_init(|| fabric)))
    }

    /// The namespace that holds the segments and routes between them: the world outside the cluster.
    pub fn outside(&self) -> Result<Netns> {
        Ok(self.fabric()?.netns.clone())
    }

    /// A segment: hosts on it reach each other directly. The gateway addresses are the fabric's own.
    pub fn segment(&self, name: &str, gateways: &[IpNet]) -> Result<Segment> {
        let fabric = self.fabric()?;
        let mut lines = format!("link add {name} type bridge\nlink set {name} up\n");
        for gateway in gateways {
            lines += &address_line(name, *gateway);
        }
        fabric.netns.ip_batch(&lines)?;
        Ok(Segment { name: name.to_owned(), gateways: gateways.to_owned(), fabric })
    }

    /// A namespace without interfaces that is no node.
    pub fn host(&self, name: &str) -> Result<Netns> {
        Netns::create(name)
    }

    /// A node without interfaces.
    pub fn node(&self, name: &str) -> Result<Node> {
        Node::create(name)
    }

    /// Nodes `n1`, `n2`, … on one segment `lan`, each with `eth0` 192.168.50.i/24 and fd50::i/64 and default
    /// routes.
    pub fn cluster(&self, nodes: usize) -> Result<Cluster> {
        let lan = self.segment("lan", &["192.168.50.254/24".parse()?, "fd50::254/64".parse()?])?;
        let mut cluster = Cluster { lan, nodes: Vec::new(), nics: Vec::new() };
        for number in 1..=nodes {
            cluster.add_node(self, &format!("n{number}"), number)?;
        }
        Ok(cluster)
    }

    /// Lets all traffic through again that [`Nic`] or [`Segment`] were told to drop.
    pub fn heal(&self) -> Result<()> {
        self.fabric()?
            .netns
            .feed(&["nft", "-f", "-"], "table bridge cut\ndelete table bridge cut\n")
            .map(drop)
    }
}

/// Nodes on one segment.
pub struct Cluster {
    /// The segment.
    pub lan: Segment,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The `eth0` of each node, in the same order.
    pub nics: Vec<Nic>,
}

impl Cluster {
    /// Adds a node whose addresses end in `number`.
    pub fn add_node(&mut self, lab: &Lab, name: &str, number: usize) -> Result<Node> {
        let node = lab.node(name)?;
        let addresses = [format!("192.168.50.{number}/24").parse()?, format!("fd50::{number:x}/64").parse()?];
        let nic = self.lan.attach(node.netns(), "eth0", &addresses)?;
        self.lan.default_routes(&nic)?;
        self.nodes.push(node.clone());
        self.nics.push(nic);
        Ok(node)
    }

    /// Cuts the power of a node and turns it on again: a new network namespace on the same cable, with nothing
    /// of what was below `/run`, and all that was on disk. Handles on the node as it was are of no use any
    /// more; its [`Machine`](crate::Machine) and daemons are to be ended first.
    pub fn reboot(&mut self, index: usize) -> Result<()> {
        let (node, nic) = (&self.nodes[index], &self.nics[index]);
        nic.fabric.netns.ip(&format!("link del {}", nic.port))?;
        let node = node.rebooted()?;
        let nic = self.lan.attach(node.netns(), &nic.link, &nic.addresses)?;
        self.lan.default_routes(&nic)?;
        (self.nodes[index], self.nics[index]) = (node, nic);
        Ok(())
    }

    /// A pod of the same name on every node.
    pub fn pods(&self, name: &str) -> Result<Vec<Pod>> {
        self.nodes.iter().map(|node| node.add_pod(name)).collect()
    }

    /// Starts a daemon on every node, and waits until all are ready.
    pub fn start_all(&self, flanneld: &Flanneld) -> Result<Vec<Daemon>> {
        let mut daemons = self.nodes.iter().map(|node| node.start(flanneld)).collect::<Result<Vec<_>>>()?;
        for daemon in &mut daemons {
            daemon.wait_ready()?;
        }
        Ok(daemons)
    }
}

/// One underlay network.
pub struct Segment {
    name: String,
    gateways: Vec<IpNet>,
    fabric: Rc<Fabric>,
}

impl Segment {
    /// Plugs a new interface of a host into the segment.
    pub fn attach(&self, host: &Netns, link: &str, addresses: &[IpNet]) -> Result<Nic> {
        let index = self.fabric.ports.get();
        self.fabric.ports.set(index + 1);
        let port = format!("p{index}");
        let fabric = &self.fabric.netns;
        fabric.ip_batch(&format!(
            "link add {port} index {index} type veth peer name {link} netns {}\n\
             link set {port} alias {}.{link}\nlink set {port} master {} up\n",
            host.name(),
            host.name(),
            self.name,
        ))?;
        let mut lines = format!("link set {link} up\n");
        for address in addresses {
            lines += &address_line(link, *address);
        }
        host.ip_batch(&lines)?;
        let nic = Nic {
            host: host.clone(),
            link: link.to_owned(),
            addresses: addresses.to_owned(),
            port,
            fabric: Rc::clone(&self.fabric),
        };
        nic.wait_forwarding()?;
        Ok(nic)
    }

    /// Adds default routes through those gateways that share a network with an address of the interface.
    pub fn default_routes(&self, nic: &Nic) -> Result<()> {
        let is_near =
            |gateway: &&IpNet| nic.addresses.iter().any(|address| gateway.contains(&address.addr()));
        let line = |gateway: &IpNet| format!("route add default via {} dev {}\n", gateway.addr(), nic.link);
        nic.host.ip_batch(&self.gateways.iter().filter(is_near).map(line).collect::<String>())
    }

    /// The gateway address of a family, for tests of masquerade: packets arrive there as the world sees them.
    pub fn gateway(&self, v4: bool) -> Result<IpAddr> {
        self.gateways
            .iter()
            .map(IpNet::addr)
            .find(|address| address.is_ipv4() == v4)
            .with_context(|| format!("{} has no gateway of that family", self.name))
    }
}

/// An interface of a host, plugged into a segment.
pub struct Nic {
    host: Netns,
    /// Its name on the host.
    pub link: String,
    /// The addresses that it got when it was plugged in.
    pub addresses: Vec<IpNet>,
    port: String,
    fabric: Rc<Fabric>,
}

impl Nic {
    fn wait_forwarding(&self) -> Result<()> {
        wait::until(format!("{} of {} forwards", self.link, self.host.name()), wait::LONG, || {
            let state = self.fabric.netns.run(&format!("bridge -d link show dev {}", self.port))?;
            ensure!(state.contains("state forwarding"), "{}", state.trim());
            Ok(())
        })
    }

    /// Pulls the cable: both ends lose carrier.
    pub fn unplug(&self) -> Result<()> {
        self.fabric.netns.ip(&format!("link set {} down", self.port)).map(drop)
    }

    /// Puts the cable back.
    pub fn plug(&self) -> Result<()> {
        self.fabric.netns.ip(&format!("link set {} up", self.port))?;
        self.wait_forwarding()
    }

    /// Changes the MTU at both ends.
    pub fn set_mtu(&self, bytes: u32) -> Result<()> {
        self.fabric.netns.ip(&format!("link set {} mtu {bytes}", self.port))?;
        self.host.ip(&format!("link set {} mtu {bytes}", self.link)).map(drop)
    }

    /// Changes the MTU of the switch alone: larger packets vanish on their way to the host.
    pub fn set_switch_mtu(&self, bytes: u32) -> Result<()> {
        self.fabric.netns.ip(&format!("link set {} mtu {bytes}", self.port)).map(drop)
    }

    /// Drops all that the host sends here, silently. What it receives still arrives: a half-open network.
    pub fn drop_sent(&self) -> Result<()> {
        self.cut("prerouting", &format!("iifname {}", self.port))
    }

    /// Drops all that the host should receive here, silently.
    pub fn drop_received(&self) -> Result<()> {
        self.cut("postrouting", &format!("oifname {}", self.port))
    }

    /// Drops both directions: a black hole, as a firewall or a dead switch makes it, without any error.
    pub fn cut_off(&self) -> Result<()> {
        self.drop_sent()?;
        self.drop_received()
    }

    /// Drops what this interface sends to another one of the same segment.
    pub fn drop_towards(&self, other: &Self) -> Result<()> {
        self.cut("forward", &format!("iifname {} oifname {}", self.port, other.port))
    }

    fn cut(&self, hook: &str, matching: &str) -> Result<()> {
        let rules = format!(
            "table bridge cut {{\n chain {hook} {{\n  type filter hook {hook} priority 0;\n  {matching} drop\n }}\n}}\n"
        );
        self.fabric.netns.feed(&["nft", "-f", "-"], &rules).map(drop)
    }
}

/// The line of an `ip` batch that adds an address, usable at once (no duplicate address detection).
fn address_line(link: &str, address: IpNet) -> String {
    let flags = if address.addr().is_ipv6() { " nodad" } else { "" };
    format!("addr add {address} dev {link}{flags}\n")
}
