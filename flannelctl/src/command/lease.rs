//! `flannelctl lease`.

use flannel_core::family::Family;
use flannel_core::lease::table::LeaseTable;
use flannel_core::lease::vxlan::VxlanData;
use flanneld::store::{AnyStore, LeaseStore as _};
use serde_json::json;

use crate::cli::Output;
use crate::output;

/// Prints who holds which subnet. Records that no daemon can use are named on stderr.
pub(crate) async fn list(store: &AnyStore, form: Output) -> anyhow::Result<()> {
    let listing = store.list().await?;
    let mut table = LeaseTable::default();
    table.replace(&listing.records);
    match form {
        Output::Table => output::text(&rows(&table))?,
        Output::Name => {
            let names: Vec<String> = table.leases().keys().map(ToString::to_string).collect();
            output::text(&names.join("\n"))?;
        }
        Output::Json => output::text(&objects(&table))?,
    }
    for (key, reason) in table.rejected() {
        output::message(&format!("record {key} cannot be used: {reason}"))?;
    }
    Ok(())
}

fn rows(table: &LeaseTable) -> String {
    let mut rows = vec![["SUBNET", "PUBLIC-IP", "BACKEND", "VTEP-MAC", "KIND"].map(str::to_owned)];
    for (subnets, entry) in table.leases() {
        let attrs = &entry.lease.attrs;
        let join = |values: Vec<String>| if values.is_empty() { "-".to_owned() } else { values.join(",") };
        let backend = if attrs.backend_type.is_empty() { "-".to_owned() } else { attrs.backend_type.clone() };
        let macs = Family::ALL.into_iter().filter_map(|family| {
            let data = VxlanData::parse(attrs.backend_data(family)?).ok()?;
            Some(data.vtep_mac.to_string())
        });
        rows.push([
            join(subnets.iter().map(|subnet| subnet.to_string()).collect()),
            join(
                Family::ALL
                    .into_iter()
                    .filter_map(|f| attrs.public_address(f))
                    .map(|a| a.to_string())
                    .collect(),
            ),
            backend,
            join(macs.collect()),
            if entry.grant.is_some() { "lease" } else { "reservation" }.to_owned(),
        ]);
    }
    output::columns(&rows)
}

fn objects(table: &LeaseTable) -> String {
    let objects: Vec<serde_json::Value> = table
        .leases()
        .iter()
        .map(|(subnets, entry)| {
            json!({
                "key": subnets.to_string(),
                "subnets": subnets.iter().map(|subnet| subnet.to_string()).collect::<Vec<_>>(),
                "record": serde_json::from_str::<serde_json::Value>(&entry.lease.attrs.to_json()).unwrap_or_default(),
                "revision": entry.lease.revision.0,
                "reservation": entry.grant.is_none(),
            })
        })
        .collect();
    serde_json::Value::Array(objects).to_string()
}
