//! `lease watch`: all leases, and then what changes, until somebody stops it.

use flannel_core::lease::Subnets;
use flannel_core::store::{Change, Record};
use flanneld::store::watch::{Update, channel, follow};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use super::show::columns;
use crate::node::cluster::{Entry, own_subnets};
use crate::output::{Cell, Page, Table};
use crate::session::Session;

/// Runs until it is stopped, or until nobody reads any more.
pub(super) async fn run(session: &Session, address: Option<IpAddr>) -> anyhow::Result<()> {
    let store = session.store()?;
    let (sender, mut updates) = channel();
    let seed = u64::from(std::process::id());
    let following = follow(store, sender, Arc::default(), seed, CancellationToken::new());
    let mut view =
        View { session, address, own: own_subnets(session), known: BTreeMap::new(), titled: false };
    let showing = async {
        while let Some(update) = updates.recv().await {
            view.show(update)?;
        }
        Ok(())
    };
    tokio::select! {
        () = following => Ok(()),
        result = showing => result,
    }
}

struct View<'a> {
    session: &'a Session,
    address: Option<IpAddr>,
    own: Subnets,
    known: BTreeMap<String, Entry>,
    titled: bool,
}

impl View<'_> {
    fn show(&mut self, update: Update) -> anyhow::Result<()> {
        match update {
            Update::Listing(listing) => self.list(listing.records),
            Update::Changes { changes, .. } => {
                for change in changes {
                    match change {
                        Change::Put(record) => self.put(record)?,
                        Change::Delete { key } => self.delete(&key)?,
                        Change::Config(Some(_)) => {
                            self.session.output.message("the network config was written")
                        }
                        Change::Config(None) => self.session.output.message("the network config was deleted"),
                    }
                }
                Ok(())
            }
            // Before anything was seen it is an answer; later it may pass.
            Update::Down(error) if !self.titled => Err(error.into()),
            Update::Down(error) => {
                self.session.output.message(&format!("the store cannot be followed: {error}"));
                Ok(())
            }
            Update::Up => {
                self.session.output.message("the store is there again");
                Ok(())
            }
        }
    }

    fn list(&mut self, mut records: Vec<Record>) -> anyhow::Result<()> {
        // As lease list has them.
        records.sort_by_cached_key(|record| Subnets::parse_key(&record.key).ok());
        let first = !self.titled;
        let gone: Vec<String> = self
            .known
            .keys()
            .filter(|key| !records.iter().any(|record| record.key == **key))
            .cloned()
            .collect();
        if first {
            self.print_titles()?;
        }
        for key in gone {
            self.delete(&key)?;
        }
        for record in records {
            if first {
                if let Some(entry) = Entry::new(record, &self.own) {
                    self.print("listed", &entry)?;
                    self.known.insert(entry.record.key.clone(), entry);
                }
            } else {
                self.put(record)?;
            }
        }
        Ok(())
    }

    fn put(&mut self, record: Record) -> anyhow::Result<()> {
        let key = record.key.clone();
        let Some(entry) = Entry::new(record, &self.own) else {
            self.session.output.message(&format!("record {key} cannot be used"));
            return self.delete(&key);
        };
        let event = match self.known.get(&key) {
            None => "added",
            // A renewal by a Go daemon rewrites the record.
            Some(before)
                if before.attrs == entry.attrs && before.is_reservation() == entry.is_reservation() =>
            {
                ""
            }
            Some(_) => "changed",
        };
        if !event.is_empty() {
            self.print(event, &entry)?;
        }
        self.known.insert(key, entry);
        Ok(())
    }

    fn delete(&mut self, key: &str) -> anyhow::Result<()> {
        match self.known.remove(key) {
            Some(entry) => self.print("deleted", &entry),
            None => Ok(()),
        }
    }

    fn table() -> Table {
        Table::new(&["EVENT", "SUBNET", "PUBLIC-IP", "BACKEND", "VTEP-MAC"], &["KIND"])
            .at_least(&[7, 14, 12, 7, 17, 11])
    }

    fn print_titles(&mut self) -> anyhow::Result<()> {
        self.titled = true;
        self.session.output.titles(&Self::table())
    }

    fn print(&self, event: &'static str, entry: &Entry) -> anyhow::Result<()> {
        let wanted = |address| entry.subnets.iter().any(|subnet| subnet.contains(&address));
        if !self.address.is_none_or(wanted) {
            return Ok(());
        }
        let mut table = Self::table().without_titles();
        let kind = if entry.is_reservation() { "reservation" } else { "lease" };
        let mut row = vec![Cell::from(event)];
        row.extend(columns(entry));
        row.push(Cell::from(kind));
        table.push(row);
        let value = json!({"event": event, "lease": entry.to_json()});
        self.session.output.event(&Page::table(value, table).named(vec![entry.record.key.clone()]))
    }
}
