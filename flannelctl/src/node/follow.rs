//! Follows the records of the store.

use flannel_core::lease::Subnets;
use flannel_core::store::{Change, ConfigRecord, Record};
use flanneld::store::watch::{self, Update, channel};
use flanneld::store::{Store, StoreError};
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What happened in the store.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "an event lives until it is shown")]
pub(crate) enum Event {
    /// The store was listed for the first time; its records follow.
    Listed,
    /// A record was added, changed or deleted, or existed in the first listing.
    Record {
        /// The record before.
        before: Option<Record>,
        /// The record now.
        after: Option<Record>,
        /// It existed in the first listing.
        listed: bool,
    },
    /// The network config was written, or deleted.
    Config(Option<ConfigRecord>),
    /// The store became unreachable.
    Unreachable(StoreError),
    /// The store is reachable again.
    Reachable,
}

/// Sends the events of a store until nobody receives them.
pub(crate) async fn follow(store: Store, events: mpsc::Sender<Event>) {
    let (sender, mut updates) = channel();
    let seed = u64::from(std::process::id());
    let following = watch::follow(store, sender, Default::default(), seed, CancellationToken::new());
    let sending = async {
        let mut known = None;
        while let Some(update) = updates.recv().await {
            for event in events_of(&mut known, update) {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = following => {}
        () = sending => {}
    }
}

type Records = BTreeMap<String, Record>;

/// The events of an update. `known` is `None` until the first listing.
fn events_of(known: &mut Option<Records>, update: Update) -> Vec<Event> {
    match update {
        Update::Down(error) => vec![Event::Unreachable(error)],
        Update::Up => vec![Event::Reachable],
        Update::Listing { mut listing, .. } => {
            listing.records.sort_by_cached_key(|record| Subnets::parse_key(&record.key).ok());
            let listed = known.is_none();
            let mut before = known.take().unwrap_or_default();
            let mut now = Records::new();
            let mut events: Vec<Event> = listed.then_some(Event::Listed).into_iter().collect();
            for record in listing.records {
                events.extend(event(before.remove(&record.key), Some(record.clone()), listed));
                now.insert(record.key.clone(), record);
            }
            *known = Some(now);
            let deleted = before.into_values().filter_map(|record| event(Some(record), None, false));
            deleted.chain(events).collect()
        }
        Update::Changes { changes, .. } => {
            let known = known.get_or_insert_default();
            let events = changes.into_iter().filter_map(|change| match change {
                Change::Put(record) => {
                    event(known.insert(record.key.clone(), record.clone()), Some(record), false)
                }
                Change::Delete { key } => event(known.remove(&key), None, false),
                Change::Config(config) => Some(Event::Config(config)),
                Change::Own(_) => None,
            });
            events.collect()
        }
    }
}

/// `None` if nothing changed: a Go daemon renews its lease by writing the same value.
fn event(before: Option<Record>, after: Option<Record>, listed: bool) -> Option<Event> {
    let content = |record: &Option<Record>| {
        record.as_ref().map(|record| (record.value.clone(), record.grant.is_none()))
    };
    (content(&before) != content(&after)).then_some(Event::Record { before, after, listed })
}

#[cfg(test)]
mod tests;
