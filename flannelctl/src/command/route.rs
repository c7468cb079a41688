//! `flannelctl route get`: how a packet leaves this node, by what the kernel has and says.

use clap::Subcommand;
use flannel_core::family::Family;
use flannel_core::message::route::Question;
use flannel_core::path::{Answer, Hop, Path, trace};
use flannel_core::status::Peers;
use flannel_core::subnet_env::PreviousEnv;
use flanneld::kernel::{Kernel as _, NetlinkKernel, Observation};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use crate::failure::{Failure, Kind, Outcome};
use crate::node::cluster::{Cluster, Entry};
use crate::node::socket;
use crate::output::{Cell, Page, Style, Table};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Show how a packet to an address, such as that of a pod, leaves this node
    Get {
        /// Where the packet goes
        address: IpAddr,
        /// Where it comes from, such as a pod of this node; without it from this node itself
        #[arg(long, value_name = "IP")]
        from: Option<IpAddr>,
    },
}

/// The node that an address belongs to.
struct Owner {
    subnets: Vec<String>,
    public_addresses: Vec<IpAddr>,
    /// Who told it.
    source: &'static str,
}

/// Shows the way; findings if it leads nowhere, or to another node than the owner.
pub(crate) async fn run(session: &Session, command: &RouteCommand) -> anyhow::Result<Outcome> {
    let RouteCommand::Get { address, from } = command;
    let mut path = look(*address, *from).await?;
    let (owner, told) = match owner_by_daemon(session, *address) {
        Some(owner) => (Some(owner), true),
        None if path.local.is_some() => (None, false),
        None => match owner_by_store(session, *address).await {
            Ok(owner) => (owner, true),
            Err(error) => {
                session.output.message(&format!("whose address it is cannot be told: {error:#}"));
                (None, false)
            }
        },
    };
    if let Some(owner) = &owner {
        compare(&mut path, owner);
    }
    let value = json!({
        "owner": owner.as_ref().map(|owner| json!({
            "subnets": owner.subnets,
            "publicAddresses": owner.public_addresses,
            "source": owner.source,
        })),
        "path": path,
    });
    let env = fs::read_to_string(&session.node.subnet_file).unwrap_or_default();
    let networks = PreviousEnv::parse(&env).networks;
    let unowned = told && owner.is_none() && networks.iter().any(|network| network.contains(address));
    session.output.page(&Page::table(value, table(&path, owner.as_ref(), unowned)))?;
    Ok(if path.problems.is_empty() { Outcome::Fine } else { Outcome::Findings })
}

/// Reads the kernel twice: which devices are tunnels shows only the first time.
async fn look(address: IpAddr, from: Option<IpAddr>) -> anyhow::Result<Path> {
    if let Some(other) = from.filter(|from| Family::of(*from) != Family::of(address)) {
        let message = format!("{other} and {address} are not of one family");
        return Err(Failure::new(Kind::Usage, message, "give the address of the pod in that family").into());
    }
    let mut kernel = NetlinkKernel::open()?;
    let links = kernel.observe(&BTreeSet::new()).await?.dataplane.links;
    let tunnels = links.into_iter().filter(|(_, link)| link.kind.is_tunnel());
    let Observation { facts, dataplane } = kernel.observe(&tunnels.map(|(name, _)| name).collect()).await?;
    let mut question = Question { destination: address, source: from, input: None };
    if let Some(from) = from.filter(|from| facts.owner(*from).is_none()) {
        // From a pod, and so by the interface that leads to it.
        let back = Question { destination: from, source: None, input: None };
        let way = kernel.route(&back).await?.ok().and_then(|route| route.hops.first()?.index);
        question.input = Some(way.ok_or_else(|| {
            let message = format!("{from} is no address of this node or its pods: no route leads there");
            Failure::new(Kind::NotFound, message, "flannelctl ipam list shows the addresses of pods")
        })?);
    }
    let mut path = trace(address, &ask(&mut kernel, &question).await?, &facts, &dataplane);
    if let Some((source, destination)) = path.outer(&dataplane) {
        let around = Question { destination, source, input: None };
        path.leave(destination, &ask(&mut kernel, &around).await?, &facts, &dataplane);
    }
    Ok(path)
}

async fn ask(kernel: &mut NetlinkKernel, question: &Question) -> anyhow::Result<Answer> {
    Ok(kernel.route(question).await?.map_err(|refused| refused.to_string()))
}

/// The store knows it too, if the daemon takes longer.
const SOON: Duration = Duration::from_secs(3);

fn owner_by_daemon(session: &Session, address: IpAddr) -> Option<Owner> {
    let peers: Peers = socket::ask_within(&session.node.status_socket, "/peers", SOON).ok()?;
    let peer =
        peers.peers.into_iter().find(|peer| peer.subnets.iter().any(|subnet| subnet.contains(&address)))?;
    Some(Owner {
        subnets: peer.subnets.iter().map(|subnet| subnet.to_string()).collect(),
        public_addresses: peer.public_addresses,
        source: "flanneld",
    })
}

/// The store may be unknown here, or away: then nobody says who the owner is.
async fn owner_by_store(session: &Session, address: IpAddr) -> anyhow::Result<Option<Owner>> {
    let cluster = Cluster::read(session, &session.store()?).await?;
    let held = |entry: &&Entry| entry.subnets.iter().any(|subnet| subnet.contains(&address));
    Ok(cluster.entries.iter().find(held).map(|entry| Owner {
        subnets: entry.subnets.iter().map(|subnet| subnet.to_string()).collect(),
        public_addresses: entry.addresses().collect(),
        source: "store",
    }))
}

/// Names a way that leads to another node than the owner.
fn compare(path: &mut Path, owner: &Owner) {
    let reached: Vec<IpAddr> = match (&path.tunnel, &path.route) {
        (Some(tunnel), _) => tunnel.destinations.clone(),
        (None, Some(route)) => route.gateway.into_iter().collect(),
        (None, None) => Vec::new(),
    };
    if path.problems.is_empty()
        && let Some(wrong) = reached.iter().find(|address| !owner.public_addresses.contains(address))
    {
        path.problems.push(format!(
            "packets go to {wrong}, but the address belongs to the node {}",
            owner.public_addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        ));
    }
}

fn table(path: &Path, owner: Option<&Owner>, unowned: bool) -> Table {
    let mut table = Table::new(&["STEP", "RESULT"], &[]);
    let mut add = |step: &'static str, text: String| table.push(vec![step.into(), Cell::from(text)]);
    add("address", path.address.to_string());
    if let Some(owner) = owner {
        let addresses: Vec<String> = owner.public_addresses.iter().map(ToString::to_string).collect();
        add("owner", format!("{} of node {}", owner.subnets.join(" "), addresses.join(" ")));
    } else if unowned {
        add("owner", "nobody: it is in the network of pods, and no node holds a subnet with it".to_owned());
    }
    if let Some(link) = &path.local {
        add("route", format!("none needed: {link} of this host has the address"));
    }
    if let Some(route) = &path.route {
        add("route", hop(route));
    }
    if let Some(tunnel) = &path.tunnel {
        let mac = tunnel.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
        add("VTEP", format!("{mac}, by the neighbour entry of {} dev {}", tunnel.gateway, tunnel.link));
        let nodes: Vec<String> = tunnel.destinations.iter().map(ToString::to_string).collect();
        add(
            "FDB",
            if nodes.is_empty() { "none".to_owned() } else { format!("{mac} is at {}", nodes.join(" ")) },
        );
    }
    if let Some(underlay) = &path.underlay {
        add("underlay", hop(underlay));
    }
    for problem in &path.problems {
        table.push(vec!["problem".into(), Cell::from(problem.clone()).styled(Style::Bad)]);
    }
    table
}

fn hop(hop: &Hop) -> String {
    let mtu = hop.mtu_bytes.map_or_else(String::new, |mtu| format!(" (MTU {mtu})"));
    format!("{}{mtu}", hop.text)
}
