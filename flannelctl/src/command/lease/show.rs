//! `lease list` and `lease get`.

use flannel_core::store::Ownership;
use std::net::IpAddr;

use crate::node::cluster::{Cluster, Entry, Target};
use crate::output::text::{duration, join};
use crate::output::{Cell, Form, Page, Style, Table};
use crate::session::Session;

/// Lists the leases. Malformed records are reported on stderr.
pub(super) async fn list(session: &Session, address: Option<IpAddr>, expiry: bool) -> anyhow::Result<()> {
    let store = session.store()?;
    let mut cluster = Cluster::read(session, &store).await?;
    if let Some(address) = address {
        cluster.entries.retain(|entry| entry.contains(address));
    }
    let named = session.output.form == Form::Name;
    let requested = !named && cluster.request_lives(&store, expiry).await?;
    // Where leases belong to nodes that the store knows, they do not expire by themselves.
    let has_nodes = store.ownership() == Ownership::Assigned;
    let last = if has_nodes { "NODE" } else { "EXPIRES" };
    let mut table = Table::new(
        &["SUBNET", "PUBLIC-IP", "BACKEND", "VTEP-MAC", last],
        &["STATE", "VNI", "REVISION", "KEY"],
    );
    for entry in &cluster.entries {
        let state = Cell::from(entry.state());
        let vni = entry.vteps().iter().filter_map(|data| data.vni).map(|vni| vni.get()).next();
        let state = if entry.is_overdue() { state.styled(Style::Warning) } else { state };
        let last = match &entry.record.node {
            Some(name) => Cell::from(name.as_str()),
            None if requested => expires(entry),
            None => Cell::default(),
        };
        let (revision, key) = (Cell::lines([entry.record.revision]), Cell::lines([&entry.record.key]));
        let row = columns(entry).into_iter().chain([last, state, Cell::lines(vni), revision, key]);
        table.push(row.collect());
    }
    let names = cluster.entries.iter().map(|entry| &entry.record.key);
    let value = cluster.entries.iter().map(Entry::to_json).collect();
    session.output.page(&Page::table(value, table).named(names))?;
    if cluster.entries.is_empty() {
        session.output.message(&match address {
            Some(address) => format!("no lease contains {address}"),
            None => format!("{} has no leases", store.identity().location),
        });
    }
    if !named && !requested {
        session.output.message(&format!(
            "expiry is not shown: etcd needs one request for each of {} leases\n  \
             Run `flannelctl lease list --expiry` to request all, or with --address for one lease.",
            cluster.entries.len()
        ));
    }
    for (record, reason) in &cluster.rejected {
        let key = &record.key;
        let fix = match &record.node {
            Some(_) => {
                "Correct the annotation by `kubectl annotate`, or restart flanneld on the node.".to_owned()
            }
            None => format!("Run `flannelctl lease release {key}` to delete it."),
        };
        session.output.message(&format!("record {key} is malformed: {reason}\n  {fix}"));
    }
    Ok(())
}

/// The first columns of every table of leases. A star marks the lease of this node.
pub(super) fn columns(entry: &Entry) -> [Cell; 4] {
    let mut subnets: Vec<String> = entry.subnets.iter().map(|subnet| subnet.to_string()).collect();
    if entry.is_own
        && let Some(first) = subnets.first_mut()
    {
        first.push_str(" *");
    }
    let subnets = Cell::lines(subnets);
    [
        if entry.is_own { subnets.styled(Style::Strong) } else { subnets },
        Cell::lines(entry.addresses()),
        Cell::from(entry.attrs.backend_type.as_str()),
        Cell::lines(entry.vteps().iter().map(|data| data.mac)),
    ]
}

fn expires(entry: &Entry) -> Cell {
    match entry.life {
        _ if entry.is_reservation() => Cell::from("never"),
        Some(life) if entry.is_overdue() => {
            Cell::from(format!("{}, overdue", duration(life.left))).styled(Style::Warning)
        }
        Some(life) => Cell::from(duration(life.left)),
        None => Cell::from("now"),
    }
}

/// Shows one lease.
pub(super) async fn get(session: &Session, target: &Target) -> anyhow::Result<()> {
    let store = session.store()?;
    let mut entry = Cluster::read(session, &store).await?.find(target)?.clone();
    entry.life = store.life(&entry.record).await?;
    session.output.page(&page(&entry))
}

/// A lease, line by line.
pub(super) fn page(entry: &Entry) -> Page {
    let shown = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let expires = match entry.life {
        _ if entry.record.node.is_some() => "with its node".to_owned(),
        _ if entry.is_reservation() => "never".to_owned(),
        Some(life) => {
            let (left, granted) = (duration(life.left), duration(life.granted));
            let renewed = duration(life.granted.saturating_sub(life.left));
            format!("in {left}; renewed {renewed} ago for {granted}")
        }
        None => "now".to_owned(),
    };
    let vteps = entry.vteps();
    let macs = join(vteps.iter().map(|data| data.mac), ", ");
    let vnis = join(vteps.iter().filter_map(|data| data.vni).map(|vni| vni.get()), ", ");
    let mut lines = vec![
        ("Node", entry.record.node.clone().unwrap_or_default()),
        ("Subnet", shown(join(entry.subnets.iter(), ", "))),
        ("Public address", shown(join(entry.addresses(), ", "))),
        ("Backend", shown(entry.attrs.backend_type.clone())),
        ("VTEP MAC", macs),
        ("VNI", vnis),
        ("State", entry.state().to_owned()),
        ("Expires", expires),
        ("This node", if entry.is_own { "yes" } else { "no" }.to_owned()),
        ("Key", entry.record.key.clone()),
        ("Revision", entry.record.revision.to_string()),
    ];
    lines.retain(|(_, value)| !value.is_empty());
    let lines: Vec<String> =
        lines.iter().map(|(name, value)| format!("{:<16}{value}", format!("{name}:"))).collect();
    Page::lines(entry.to_json(), lines.join("\n")).named([&entry.record.key])
}
