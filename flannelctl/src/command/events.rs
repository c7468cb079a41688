//! `flannelctl events`: what happens to this node and to the leases of the cluster.

use clap::Args;
use flannel_core::lease::Subnets;
use flannel_core::status::{Condition, Status};
use flannel_core::store::{Change, Record};
use flanneld::store::watch::{Update, channel, follow};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Kind, Outcome};
use crate::flags::Watch;
use crate::node::socket;
use crate::output::text::{ago, round_text};
use crate::output::{Cell, Page, Style, Table};
use crate::session::Session;

#[derive(Args, Debug)]
pub(crate) struct EventsArguments {
    #[command(flatten)]
    watch: Watch,
}

/// How often the daemon is asked.
const PAUSE: Duration = Duration::from_millis(500);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    /// `lease`, `config`, `condition`, `ready`, `round`, `daemon`, `store`.
    kind: &'static str,
    about: String,
    /// What became of it.
    event: &'static str,
    detail: String,
}

/// Shows what the daemon remembers; with --watch, what happens from now on.
pub(crate) async fn run(session: &Session, arguments: &EventsArguments) -> anyhow::Result<Outcome> {
    if arguments.watch.watch { watch(session).await } else { remembered(session) }
}

fn remembered(session: &Session) -> anyhow::Result<Outcome> {
    let status: Status = socket::ask(&session.node.status_socket, "/status")?;
    let mut table = Table::new(&["TIME", "KIND", "DETAIL"], &[]);
    let mut values = Vec::new();
    let rounds = status.rounds.iter().chain(&status.last_lease_change);
    let mut rounds: Vec<_> = rounds.collect();
    rounds.sort_by_key(|round| round.at_unix_seconds);
    for round in rounds {
        table.push(vec![ago(round.at_unix_seconds).into(), "round".into(), round_text(round).into()]);
        values.push(json!({"kind": "round", "round": round}));
    }
    for Condition { about, reason } in &status.conditions {
        let detail = Cell::from(format!("{about}: {reason}")).styled(Style::Bad);
        table.push(vec!["now".into(), "condition".into(), detail]);
        values.push(json!({"kind": "condition", "about": about, "reason": reason}));
    }
    session.output.page(&Page::table(values.into(), table))?;
    Ok(Outcome::Fine)
}

/// Runs until it is stopped, or until nobody reads any more.
async fn watch(session: &Session) -> anyhow::Result<Outcome> {
    let (events, mut received) = mpsc::channel(64);
    let leases = leases(session, events.clone());
    let node = node(session, events);
    let showing = async {
        session.output.titles(&table())?;
        while let Some(event) = received.recv().await {
            show(session, &event)?;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::select! {
        result = showing => result?,
        (leases, ()) = async { tokio::join!(leases, node) } => leases?,
    }
    Ok(Outcome::Fine)
}

fn table() -> Table {
    Table::new(&["KIND", "EVENT", "ABOUT", "DETAIL"], &[]).at_least(&[9, 8, 14])
}

fn show(session: &Session, event: &Event) -> anyhow::Result<()> {
    let Event { kind, about, event, detail } = event;
    let mut table = table().without_titles();
    let style = match *event {
        "began" | "lost" | "away" => Style::Bad,
        "ended" | "ready" | "back" => Style::Good,
        _ => Style::Plain,
    };
    table.push(vec![
        (*kind).into(),
        Cell::from(*event).styled(style),
        about.clone().into(),
        detail.clone().into(),
    ]);
    let value = json!({"kind": kind, "event": event, "about": about, "detail": detail});
    session.output.event(&Page::table(value, table).named(vec![about.clone()]))
}

/// Follows the daemon: what begins and ends to be wrong, and what it does.
async fn node(session: &Session, events: mpsc::Sender<Event>) {
    let mut before: Option<Status> = None;
    let mut answered = true;
    loop {
        let now = socket::ask::<Status>(&session.node.status_socket, "/status");
        let told = match now {
            Ok(status) => {
                let mut told = Vec::new();
                if !answered {
                    told.push(Event::new("daemon", "back", "flanneld", format!("process {}", status.pid)));
                }
                answered = true;
                told.extend(changes(before.as_ref(), &status));
                before = Some(status);
                told
            }
            Err(error) if answered => {
                answered = false;
                vec![Event::new("daemon", "away", "flanneld", format!("{error:#}"))]
            }
            Err(_) => Vec::new(),
        };
        for event in told {
            if events.send(event).await.is_err() {
                return;
            }
        }
        sleep(PAUSE).await;
    }
}

impl Event {
    fn new(
        kind: &'static str,
        event: &'static str,
        about: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self { kind, event, about: about.into(), detail: detail.into() }
    }
}

/// What is different between two answers of the daemon; of the first one, what is wrong already.
fn changes(before: Option<&Status>, now: &Status) -> Vec<Event> {
    let mut events = Vec::new();
    let none = Vec::new();
    let old: BTreeSet<&Condition> = before.map_or(&none, |status| &status.conditions).iter().collect();
    let new: BTreeSet<&Condition> = now.conditions.iter().collect();
    let about = |conditions: &BTreeSet<&Condition>| -> BTreeSet<String> {
        conditions.iter().map(|condition| condition.about.clone()).collect()
    };
    for condition in new.difference(&old) {
        events.push(Event::new("condition", "began", &condition.about, &condition.reason));
    }
    for gone in about(&old).difference(&about(&new)) {
        events.push(Event::new("condition", "ended", gone, "it is all right again"));
    }
    if before.is_none_or(|before| before.ready != now.ready) {
        events.push(match now.ready {
            true => Event::new("ready", "ready", "this node", "pods can be served"),
            false => Event::new("ready", "lost", "this node", now.not_ready_reasons.join("; ")),
        });
    }
    // Only what the daemon did since, and only where it did something.
    if let Some(before) = before {
        let seen = before.rounds.last();
        let news = now.rounds.iter().rev().take_while(|round| Some(*round) != seen);
        let mut news: Vec<_> = news.filter(|round| round.set + round.deleted + round.failed > 0).collect();
        news.reverse();
        events.extend(
            news.into_iter().map(|round| Event::new("round", "done", &round.reason, round_text(round))),
        );
    }
    events
}

/// Follows the leases of the store.
async fn leases(session: &Session, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let store = session.store()?;
    let (sender, mut updates) = channel();
    let seed = u64::from(std::process::id());
    let following = follow(store, sender, Arc::default(), seed, CancellationToken::new());
    let telling = async {
        let mut known: Option<BTreeMap<String, Vec<u8>>> = None;
        while let Some(update) = updates.recv().await {
            for event in lease_events(&mut known, update) {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::join!(following, telling);
    let start = "start flanneld, or name the store: --etcd-endpoints, --lease-dir";
    Err(Failure::new(Kind::Unreachable, "the store is not followed any more", start).into())
}

/// What an update of the store means. Leases that stand when it begins are no event.
fn lease_events(known: &mut Option<BTreeMap<String, Vec<u8>>>, update: Update) -> Vec<Event> {
    match update {
        Update::Down(error) => vec![Event::new("store", "away", "store", flannel_core::error::chain(&error))],
        Update::Up => vec![Event::new("store", "back", "store", "it answers again")],
        Update::Listing(listing) => {
            let now: BTreeMap<String, Vec<u8>> =
                listing.records.iter().map(|record| (record.key.clone(), record.value.clone())).collect();
            let Some(before) = known.replace(now.clone()) else { return Vec::new() };
            let gone =
                before.keys().filter(|key| !now.contains_key(*key)).map(|key| lease(key, "deleted", ""));
            let mut events: Vec<Event> = gone.collect();
            events.extend(listing.records.iter().filter_map(|record| put(&before, record)));
            events
        }
        Update::Changes { changes, .. } => {
            let known = known.get_or_insert_default();
            let mut events = Vec::new();
            for change in changes {
                match change {
                    Change::Put(record) => {
                        events.extend(put(known, &record));
                        known.insert(record.key, record.value);
                    }
                    Change::Delete { key } => {
                        if known.remove(&key).is_some() {
                            events.push(lease(&key, "deleted", ""));
                        }
                    }
                    Change::Config(Some(config)) => {
                        events.push(Event::new(
                            "config",
                            "changed",
                            "config",
                            config.text.replace('\n', " "),
                        ));
                    }
                    Change::Config(None) => {
                        events.push(Event::new("config", "deleted", "config", ""));
                    }
                }
            }
            events
        }
    }
}

/// A renewal by a Go daemon writes the same value: no event.
fn put(known: &BTreeMap<String, Vec<u8>>, record: &Record) -> Option<Event> {
    let value = String::from_utf8_lossy(&record.value);
    match known.get(&record.key) {
        None => Some(lease(&record.key, "added", &value)),
        Some(before) if *before != record.value => Some(lease(&record.key, "changed", &value)),
        Some(_) => None,
    }
}

fn lease(key: &str, event: &'static str, detail: &str) -> Event {
    let subnets = Subnets::parse_key(key);
    let about = subnets.map_or_else(
        |_| key.to_owned(),
        |subnets| subnets.iter().map(|subnet| subnet.to_string()).collect::<Vec<_>>().join(" "),
    );
    Event::new("lease", event, about, detail)
}

#[cfg(test)]
mod tests;
