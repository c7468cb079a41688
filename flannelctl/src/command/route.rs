//! `flannelctl route get`: the path of a packet out of this node, according to the kernel.

use clap::Subcommand;
use flannel_core::family::Family;
use flannel_core::message::route::Question;
use flannel_core::path::{Answer, Hop, Path, trace};
use flannel_core::status::Peers;
use flannel_core::subnet_env::PreviousEnv;
use flanneld::kernel::{Effector as _, NetlinkKernel, Observation};
use ipnet::IpNet;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use crate::failure::{Failure, Kind, Outcome, fail};
use crate::node::cluster::Cluster;
use crate::node::socket;
use crate::output::text::join;
use crate::output::{Cell, Page, Style, Table};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Show the path of a packet to an address, for example that of a pod
    Get {
        /// Destination address
        address: IpAddr,
        /// Source address, for example that of a pod of this node [default: this node]
        #[arg(long, value_name = "IP")]
        from: Option<IpAddr>,
    },
}

/// The node that an address belongs to.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Owner {
    subnets: Vec<IpNet>,
    public_addresses: Vec<IpAddr>,
    /// Where this is known from.
    source: &'static str,
}

/// Shows the path; findings if it leads nowhere, or to a node other than the owner.
pub(crate) async fn run(session: &Session, command: &RouteCommand) -> anyhow::Result<Outcome> {
    let RouteCommand::Get { address, from } = command;
    let mut path = observe(*address, *from).await?;
    let (owner, known) = match owner_by_daemon(session, *address).await {
        Some(owner) => (Some(owner), true),
        None if path.local.is_some() => (None, false),
        None => match owner_by_store(session, *address).await {
            Ok(owner) => (owner, true),
            Err(error) => {
                session.output.message(&format!("the owner of the address is unknown: {error:#}"));
                (None, false)
            }
        },
    };
    if let Some(owner) = &owner {
        compare(&mut path, owner);
    }
    let value = json!({"owner": owner, "path": path});
    let env = fs::read_to_string(&session.node.subnet_file).unwrap_or_default();
    let networks = PreviousEnv::parse(&env).networks;
    let unowned = known && owner.is_none() && networks.iter().any(|network| network.contains(address));
    session.output.page(&Page::table(value, table(&path, owner.as_ref(), unowned)))?;
    Ok(if path.problems.is_empty() { Outcome::Fine } else { Outcome::Findings })
}

/// Reads the kernel twice: the first time shows which devices are tunnels.
async fn observe(address: IpAddr, from: Option<IpAddr>) -> anyhow::Result<Path> {
    if let Some(other) = from.filter(|from| Family::of(*from) != Family::of(address)) {
        let message = format!("{other} and {address} belong to different families");
        let fix = "Specify the address of the pod in the family of the destination.";
        return fail(Kind::Usage, message, fix);
    }
    let mut kernel = NetlinkKernel::open()?;
    let links = kernel.observe(&BTreeSet::new()).await?.dataplane.links;
    let tunnels = links.into_iter().filter(|(_, link)| link.kind.is_tunnel());
    let Observation { facts, dataplane, .. } =
        kernel.observe(&tunnels.map(|(name, _)| name).collect()).await?;
    let mut question = Question { destination: address, source: from, input: None };
    if let Some(from) = from.filter(|from| facts.owner(*from).is_none()) {
        // A packet from a pod arrives on the interface that leads to it.
        let back = Question { destination: from, source: None, input: None };
        let way = kernel.route(&back).await?.ok().and_then(|route| route.hops.first()?.index);
        question.input = Some(way.ok_or_else(|| {
            let message = format!("{from} is not an address of this node or its pods: no route to it");
            Failure::new(Kind::NotFound, message, "Run `flannelctl ipam list` to see the addresses of pods.")
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

async fn owner_by_daemon(session: &Session, address: IpAddr) -> Option<Owner> {
    let limit = socket::SHORT_LIMIT;
    let peers: Peers = socket::ask_within(&session.node.status_socket, "/peers", limit).await.ok()?;
    let peer =
        peers.peers.into_iter().find(|peer| peer.subnets.iter().any(|subnet| subnet.contains(&address)))?;
    Some(Owner { subnets: peer.subnets, public_addresses: peer.public_addresses, source: "flanneld" })
}

/// `None` if no lease contains the address.
async fn owner_by_store(session: &Session, address: IpAddr) -> anyhow::Result<Option<Owner>> {
    let cluster = Cluster::read(session, &session.store()?).await?;
    Ok(cluster.entries.iter().find(|entry| entry.contains(address)).map(|entry| Owner {
        subnets: entry.subnets.iter().collect(),
        public_addresses: entry.addresses().collect(),
        source: "store",
    }))
}

/// Reports a path that leads to a node other than the owner.
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
            join(&owner.public_addresses, " ")
        ));
    }
}

fn table(path: &Path, owner: Option<&Owner>, unowned: bool) -> Table {
    let mut table = Table::new(&["STEP", "RESULT"], &[]);
    let mut add = |step: &'static str, text: String| table.push(vec![step.into(), Cell::from(text)]);
    add("address", path.address.to_string());
    if let Some(owner) = owner {
        add("owner", format!("{} of node {}", join(&owner.subnets, " "), join(&owner.public_addresses, " ")));
    } else if unowned {
        add("owner", "none: no lease contains this address of the pod network".to_owned());
    }
    if let Some(link) = &path.local {
        add("route", format!("none required: {link} of this host has the address"));
    }
    if let Some(route) = &path.route {
        add("route", hop(route));
    }
    if let Some(tunnel) = &path.tunnel {
        if tunnel.destinations == [tunnel.gateway] {
            add("tunnel", format!("{} to {}", tunnel.link, tunnel.gateway));
        } else {
            let mac = tunnel.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
            add("VTEP", format!("{mac}, from the neighbour entry of {} dev {}", tunnel.gateway, tunnel.link));
            let nodes = match join(&tunnel.destinations, " ").as_str() {
                "" => "none".to_owned(),
                nodes => format!("{mac} is at {nodes}"),
            };
            add("FDB", nodes);
        }
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
