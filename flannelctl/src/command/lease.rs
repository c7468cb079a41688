//! `flannelctl lease`.

use clap::Subcommand;
use flannel_core::family::Family;
use flannel_core::lease::table::LeaseTable;
use flannel_core::lease::vxlan::VxlanData;
use flanneld::store::LeaseStore as _;
use serde_json::{Value, json};

use super::Session;
use crate::Outcome;
use crate::output::{Cell, Page, Style, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Who holds which subnet
    List,
}

pub(crate) async fn run(session: &Session, command: LeaseCommand) -> anyhow::Result<Outcome> {
    match command {
        LeaseCommand::List => list(session).await?,
    }
    Ok(Outcome::Fine)
}

/// Prints who holds which subnet. Records that no daemon can use are named on stderr.
async fn list(session: &Session) -> anyhow::Result<()> {
    let listing = session.store()?.list().await?;
    let mut table = LeaseTable::default();
    table.replace(&listing.records);
    let names = table.leases().keys().map(ToString::to_string).collect();
    session.output.page(&Page::table(objects(&table), rows(&table)).named(names))?;
    for (key, reason) in table.rejected() {
        session.output.message(&format!("record {key} cannot be used: {reason}"));
    }
    Ok(())
}

fn rows(table: &LeaseTable) -> Table {
    let mut rows = Table::new(&["SUBNET", "PUBLIC-IP", "BACKEND", "VTEP-MAC", "KIND"], &[]);
    for (subnets, entry) in table.leases() {
        let attrs = &entry.lease.attrs;
        let macs = Family::ALL.into_iter().filter_map(|family| {
            let data = VxlanData::parse(attrs.backend_data(family)?).ok()?;
            Some(data.vtep_mac)
        });
        rows.push(vec![
            Cell::lines(subnets.iter()),
            Cell::lines(Family::ALL.into_iter().filter_map(|family| attrs.public_address(family))),
            Cell::from(attrs.backend_type.as_str()),
            Cell::lines(macs),
            match entry.grant {
                Some(_) => Cell::from("lease"),
                None => Cell::from("reservation").styled(Style::Strong),
            },
        ]);
    }
    rows
}

fn objects(table: &LeaseTable) -> Value {
    let object =
        |(subnets, entry): (&flannel_core::lease::Subnets, &flannel_core::lease::table::TableEntry)| {
            json!({
                "key": subnets.to_string(),
                "subnets": subnets.iter().map(|subnet| subnet.to_string()).collect::<Vec<_>>(),
                "record": serde_json::from_str::<Value>(&entry.lease.attrs.to_json()).unwrap_or_default(),
                "revision": entry.lease.revision.0,
                "reservation": entry.grant.is_none(),
            })
        };
    table.leases().iter().map(object).collect()
}
