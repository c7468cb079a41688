//! `lease list` and `lease get`.

use std::net::IpAddr;

use crate::node::cluster::{Cluster, Entry, Target};
use crate::output::text::life_text;
use crate::output::{Cell, Form, Page, Style, Table};
use crate::session::Session;

/// Prints who holds which subnet. Records that no daemon can use are named on stderr.
pub(super) async fn list(session: &Session, address: Option<IpAddr>, expiry: bool) -> anyhow::Result<()> {
    let store = session.store()?;
    let mut cluster = Cluster::read(session, &store).await?;
    if let Some(address) = address {
        cluster.entries.retain(|entry| entry.subnets.iter().any(|subnet| subnet.contains(&address)));
    }
    let named = session.output.form() == Form::Name;
    let asked = !named && cluster.ask_lives(&store, expiry).await?;
    let mut table = Table::new(
        &["SUBNET", "PUBLIC-IP", "BACKEND", "VTEP-MAC", "EXPIRES"],
        &["STATE", "VNI", "REVISION", "KEY"],
    );
    for entry in &cluster.entries {
        let state = Cell::from(entry.state());
        let vni = entry.vteps().iter().filter_map(|data| data.vni).map(|vni| vni.get()).next();
        let mut row = columns(entry).to_vec();
        row.extend([
            if asked { expires(entry) } else { Cell::default() },
            if entry.is_overdue() { state.styled(Style::Warning) } else { state },
            Cell::lines(vni),
            Cell::from(entry.record.revision.0.to_string()),
            Cell::from(entry.record.key.as_str()),
        ]);
        table.push(row);
    }
    let names = cluster.entries.iter().map(|entry| entry.record.key.clone()).collect();
    let value = cluster.entries.iter().map(Entry::to_json).collect();
    session.output.page(&Page::table(value, table).named(names))?;
    if cluster.entries.is_empty() {
        session.output.message(&match address {
            Some(address) => format!("no lease has {address}"),
            None => format!("{} has no leases", store.identity().location),
        });
    }
    if !named && !asked {
        session.output.message(&format!(
            "the time left is not shown: etcd tells it of one lease at a time, and these are {}\n  \
             lease list --expiry asks for it, and --address or lease get for that of one",
            cluster.entries.len()
        ));
    }
    for (record, reason) in &cluster.rejected {
        session.output.message(&format!(
            "record {key} cannot be used: {reason}\n  flannelctl lease release {key} deletes it",
            key = record.key
        ));
    }
    Ok(())
}

/// The columns that every table of leases begins with. The lease of this node has a star.
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
            Cell::from(format!("{}, overdue", life_text(life.left))).styled(Style::Warning)
        }
        Some(life) => Cell::from(life_text(life.left)),
        None => Cell::from("now"),
    }
}

/// Prints one lease, line by line.
pub(super) async fn get(session: &Session, target: &Target) -> anyhow::Result<()> {
    let store = session.store()?;
    let mut cluster = Cluster::read(session, &store).await?;
    let place = {
        let found = cluster.find(target)?;
        cluster.entries.iter().position(|entry| entry.record.key == found.record.key)
    };
    let Some(place) = place else { return Ok(()) };
    let mut entry = cluster.entries.swap_remove(place);
    entry.life = store.life(&entry.record).await?;
    session.output.page(&page(&entry))
}

/// A lease with all that is known of it.
pub(super) fn page(entry: &Entry) -> Page {
    let join = |values: Vec<String>| if values.is_empty() { "-".to_owned() } else { values.join(", ") };
    let backend = match entry.attrs.backend_type.as_str() {
        "" => "-",
        backend => backend,
    };
    let expires = match entry.life {
        _ if entry.is_reservation() => "never".to_owned(),
        Some(life) => format!(
            "in {}; renewed {} ago for {}",
            life_text(life.left),
            life_text(life.granted.saturating_sub(life.left)),
            life_text(life.granted)
        ),
        None => "now".to_owned(),
    };
    let mut lines = vec![
        ("Subnet", join(entry.subnets.iter().map(|subnet| subnet.to_string()).collect())),
        ("Public address", join(entry.addresses().map(|address| address.to_string()).collect())),
        ("Backend", backend.to_owned()),
    ];
    let vteps = entry.vteps();
    if !vteps.is_empty() {
        lines.push(("VTEP MAC", join(vteps.iter().map(|data| data.mac.to_string()).collect())));
        lines.push((
            "VNI",
            join(vteps.iter().filter_map(|data| data.vni).map(|vni| vni.get().to_string()).collect()),
        ));
    }
    lines.extend([
        ("State", entry.state().to_owned()),
        ("Expires", expires),
        ("This node", if entry.is_own { "yes" } else { "no" }.to_owned()),
        ("Key", entry.record.key.clone()),
        ("Revision", entry.record.revision.0.to_string()),
    ]);
    let lines: Vec<String> =
        lines.iter().map(|(name, value)| format!("{:<16}{value}", format!("{name}:"))).collect();
    Page::lines(entry.to_json(), lines.join("\n")).named(vec![entry.record.key.clone()])
}
