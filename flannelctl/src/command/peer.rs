//! `flannelctl peer`: the other nodes.

use clap::Subcommand;
use flannel_core::json;
use flannel_core::status::{ObjectState, Peer, Peers, State};
use serde_json::json;

use crate::failure::{Failure, Outcome};
use crate::node::cluster::Cluster;
use crate::node::socket;
use crate::output::text::ago;
use crate::output::{Cell, Page, Style, Table};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum PeerCommand {
    /// List the other nodes, and whether the kernel has the objects to reach each
    List,
}

fn table() -> Table {
    Table::new(&["SUBNET", "PUBLIC-IP", "BACKEND", "STATE", "PROBLEM"], &["CHANGED", "OBJECTS"])
}

pub(crate) async fn run(session: &Session, command: &PeerCommand) -> anyhow::Result<Outcome> {
    let PeerCommand::List = command;
    let peers = match socket::ask::<Peers>(&session.node.status_socket, "/peers").await {
        Ok(peers) => peers,
        Err(error) => return without_daemon(session, &error).await,
    };
    let mut table = table();
    for peer in &peers.peers {
        table.push(row(peer));
    }
    let names = peers.peers.iter().map(|peer| peer.key);
    session.output.page(&Page::table(serde_json::to_value(&peers)?, table).named(names))?;
    if !peers.settled {
        session.output.message("leases changed meanwhile: some states may be outdated");
    }
    Ok(Outcome::Fine)
}

fn row(peer: &Peer) -> Vec<Cell> {
    let style = match peer.state {
        State::InPlace | State::NothingNeeded => Style::Good,
        State::OtherBackend => Style::Plain,
        State::Incomplete | State::Faulty => Style::Bad,
    };
    let mut problems = peer.problems.clone();
    problems.extend(peer.objects.iter().filter_map(|object| match object.state {
        ObjectState::Present => None,
        ObjectState::Missing => Some(format!("missing: {}", object.text)),
        ObjectState::Differs => Some(format!("out of sync: {}", object.text)),
    }));
    if peer.kept {
        problems.push("the lease no longer exists; kept until the grace period ends".to_owned());
    }
    vec![
        Cell::lines(&peer.subnets),
        Cell::lines(&peer.public_addresses),
        Cell::from(peer.backend.clone()),
        Cell::from(json::name(&peer.state)).styled(style),
        Cell::lines(problems),
        Cell::lines(peer.changed_at_unix_seconds.map(ago)),
        Cell::lines(peer.objects.iter().map(|object| &object.text)),
    ]
}

/// Lists the leases of the store. Their state in the kernel is unknown without the daemon.
async fn without_daemon(session: &Session, error: &anyhow::Error) -> anyhow::Result<Outcome> {
    let failure = Failure::of(error);
    let store = session.store()?;
    // If the store is unreachable, too, the missing daemon is still the first thing to fix.
    let Ok(cluster) = Cluster::read(session, &store).await else { return Err(failure.into()) };
    let mut table = table();
    let (mut values, mut names) = (Vec::new(), Vec::new());
    for entry in cluster.entries.iter().filter(|entry| !entry.is_own && !entry.attrs.is_unclaimed()) {
        table.push(vec![
            Cell::lines(entry.subnets.iter()),
            Cell::lines(entry.addresses()),
            Cell::from(entry.attrs.backend_type.clone()),
            Cell::from("unknown").styled(Style::Warning),
            Cell::default(),
            Cell::default(),
            Cell::default(),
        ]);
        values.push(json!({"key": entry.record.key, "state": "unknown", "lease": entry.to_json()}));
        names.push(entry.record.key.clone());
    }
    let value = json!({"error": failure.to_json()["error"], "peers": values});
    session.output.page(&Page::table(value, table).named(names))?;
    session.output.message(&failure.to_text());
    session.output.message("these are the leases of the store; their state in the kernel is unknown");
    Ok(Outcome::Unreachable(failure.exit_code()))
}
