//! `lease watch`: lists leases, then shows changes until it is stopped.

use flannel_core::lease::Subnets;
use flannel_core::store::Record;
use serde_json::json;
use std::net::IpAddr;
use tokio::sync::mpsc;

use super::show::columns;
use crate::node::cluster::{Entry, own_subnets};
use crate::node::follow::{Event, follow};
use crate::output::{Cell, Output, Page, Table};
use crate::session::Session;

/// Runs until it is stopped, or until stdout is closed.
pub(super) async fn run(session: &Session, address: Option<IpAddr>) -> anyhow::Result<()> {
    let (sender, mut events) = mpsc::channel(64);
    let following = follow(session.store()?, sender);
    let mut view = View { output: session.output, address, own: own_subnets(session), titled: false };
    let showing = async {
        while let Some(event) = events.recv().await {
            view.show(event)?;
        }
        Ok(())
    };
    tokio::select! {
        () = following => Ok(()),
        result = showing => result,
    }
}

struct View {
    output: Output,
    address: Option<IpAddr>,
    own: Subnets,
    titled: bool,
}

impl View {
    fn show(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Listed => {
                self.titled = true;
                return self.output.titles(&table());
            }
            Event::Record { before, after, listed } => return self.record(before, after, listed),
            Event::Config(Some(_)) => self.output.message("the network config was written"),
            Event::Config(None) => self.output.message("the network config was deleted"),
            // At the start it is the result; later the store may become reachable again.
            Event::Unreachable(error) if !self.titled => return Err(error.into()),
            Event::Unreachable(error) => {
                self.output.message(&format!("store unreachable, retrying: {error}"))
            }
            Event::Reachable => self.output.message("store reachable again"),
        }
        Ok(())
    }

    fn record(&self, before: Option<Record>, after: Option<Record>, listed: bool) -> anyhow::Result<()> {
        let key = after.as_ref().map(|record| record.key.clone());
        let entry = |record: Record| Entry::new(record, &self.own);
        let (event, entry) = match (before.and_then(entry), after.and_then(entry)) {
            (None, Some(entry)) if listed => ("listed", entry),
            (None, Some(entry)) => ("added", entry),
            (Some(_), Some(entry)) => ("changed", entry),
            (before, None) => {
                if let Some(key) = key.filter(|_| !listed) {
                    self.output.message(&format!("record {key} is malformed"));
                }
                let Some(entry) = before else { return Ok(()) };
                ("deleted", entry)
            }
        };
        if self.address.is_some_and(|address| !entry.contains(address)) {
            return Ok(());
        }
        let mut table = table().without_titles();
        let kind = if entry.is_reservation() { "reservation" } else { "lease" };
        let [subnets, addresses, backend, macs] = columns(&entry);
        table.push(vec![
            event.into(),
            subnets,
            addresses,
            backend,
            macs,
            kind.into(),
            Cell::lines(&entry.record.node),
        ]);
        let value = json!({"event": event, "lease": entry.to_json()});
        self.output.event(&Page::table(value, table).named([&entry.record.key]))
    }
}

fn table() -> Table {
    Table::new(&["EVENT", "SUBNET", "PUBLIC-IP", "BACKEND", "VTEP-MAC"], &["KIND", "NODE"])
        .at_least(&[7, 14, 12, 7, 17, 11])
}
