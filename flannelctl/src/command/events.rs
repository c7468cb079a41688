//! `flannelctl events`: what happened to this node, and with --watch what happens to it and to all leases.

use clap::Args;
use flannel_core::lease::Subnets;
use flannel_core::status::{Condition, Status};
use flannel_core::store::Record;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::failure::Outcome;
use crate::flags::Watch;
use crate::node::follow::{self, follow};
use crate::node::socket;
use crate::output::text::{ago, join, round};
use crate::output::{Cell, Page, Style, Table};
use crate::session::Session;

#[derive(Args, Debug)]
pub(crate) struct EventsArguments {
    #[command(flatten)]
    watch: Watch,
}

/// Interval of requests to the daemon.
const INTERVAL: Duration = Duration::from_millis(500);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    /// `lease`, `config`, `condition`, `ready`, `round`, `daemon`, `store`.
    kind: &'static str,
    event: &'static str,
    about: String,
    detail: String,
}

/// Shows the events in the memory of the daemon; with --watch, new ones.
pub(crate) async fn run(session: &Session, arguments: &EventsArguments) -> anyhow::Result<Outcome> {
    if arguments.watch.watch { watch(session).await } else { past(session).await }
}

async fn past(session: &Session) -> anyhow::Result<Outcome> {
    let status: Status = socket::ask(&session.node.status_socket, "/status").await?;
    let mut table = Table::new(&["TIME", "KIND", "DETAIL"], &[]);
    let mut values = Vec::new();
    let mut rounds: Vec<_> = status.rounds.iter().chain(&status.last_lease_change).collect();
    rounds.sort_by_key(|round| round.at_unix_seconds);
    for past in rounds {
        table.push(vec![ago(past.at_unix_seconds).into(), "round".into(), round(past).into()]);
        values.push(json!({"kind": "round", "round": past}));
    }
    for Condition { about, reason } in &status.conditions {
        let detail = Cell::from(format!("{about}: {reason}")).styled(Style::Bad);
        table.push(vec!["now".into(), "condition".into(), detail]);
        values.push(json!({"kind": "condition", "about": about, "reason": reason}));
    }
    session.output.page(&Page::table(values.into(), table))?;
    Ok(Outcome::Fine)
}

/// Runs until it is stopped, or until stdout is closed.
async fn watch(session: &Session) -> anyhow::Result<Outcome> {
    let (sender, mut of_store) = mpsc::channel(64);
    let (events, mut of_daemon) = mpsc::channel(64);
    let store = session.store();
    let following = async {
        if let Ok(store) = store {
            follow(store, sender).await;
        }
    };
    let showing = async {
        session.output.titles(&table())?;
        loop {
            let event = tokio::select! {
                Some(event) = of_store.recv() => of_leases(event),
                Some(event) = of_daemon.recv() => Some(event),
                else => return Ok(Outcome::Fine),
            };
            if let Some(event) = event {
                show(session, &event)?;
            }
        }
    };
    tokio::select! {
        result = showing => result,
        _ = async { tokio::join!(following, node(session, events)) } => Ok(Outcome::Fine),
    }
}

fn table() -> Table {
    Table::new(&["KIND", "EVENT", "ABOUT", "DETAIL"], &[]).at_least(&[9, 11, 14])
}

fn show(session: &Session, event: &Event) -> anyhow::Result<()> {
    let Event { kind, about, event, detail } = event;
    let mut table = table().without_titles();
    let style = match *event {
        "began" | "lost" | "unreachable" => Style::Bad,
        "ended" | "ready" | "reachable" => Style::Good,
        _ => Style::Plain,
    };
    let event_cell = Cell::from(*event).styled(style);
    table.push(vec![Cell::from(*kind), event_cell, Cell::lines([about]), Cell::lines([detail])]);
    let value = json!({"kind": kind, "event": event, "about": about, "detail": detail});
    session.output.event(&Page::table(value, table).named([about]))
}

/// Follows the conditions and rounds of the daemon.
async fn node(session: &Session, events: mpsc::Sender<Event>) {
    let mut before: Option<Status> = None;
    let mut reachable = true;
    loop {
        let mut new = Vec::new();
        match socket::ask::<Status>(&session.node.status_socket, "/status").await {
            Ok(status) => {
                if !reachable {
                    let detail = format!("process {}", status.pid);
                    new.push(Event::new("daemon", "reachable", "flanneld", detail));
                }
                reachable = true;
                new.extend(changes(before.as_ref(), &status));
                before = Some(status);
            }
            Err(error) if reachable => {
                reachable = false;
                new.push(Event::new("daemon", "unreachable", "flanneld", format!("{error:#}")));
            }
            Err(_) => {}
        }
        for event in new {
            if events.send(event).await.is_err() {
                return;
            }
        }
        sleep(INTERVAL).await;
    }
}

impl Event {
    fn new(kind: &'static str, event: &'static str, about: impl ToString, detail: impl ToString) -> Self {
        Self { kind, event, about: about.to_string(), detail: detail.to_string() }
    }
}

/// The difference between two statuses of the daemon; for the first one, the present conditions.
fn changes(before: Option<&Status>, now: &Status) -> Vec<Event> {
    let mut events = Vec::new();
    let old: BTreeSet<&Condition> = before.iter().flat_map(|status| &status.conditions).collect();
    let new: BTreeSet<&Condition> = now.conditions.iter().collect();
    let about = |conditions: &BTreeSet<&Condition>| -> BTreeSet<String> {
        conditions.iter().map(|condition| condition.about.clone()).collect()
    };
    for condition in new.difference(&old) {
        events.push(Event::new("condition", "began", &condition.about, &condition.reason));
    }
    for subject in about(&old).difference(&about(&new)) {
        events.push(Event::new("condition", "ended", subject, ""));
    }
    if before.is_none_or(|before| before.ready != now.ready) {
        events.push(match now.ready {
            true => Event::new("ready", "ready", "this node", "pods can start"),
            false => Event::new("ready", "lost", "this node", now.not_ready_reasons.join("; ")),
        });
    }
    // New rounds that changed something.
    if let Some(before) = before {
        let seen = before.rounds.last();
        let new = now.rounds.iter().rev().take_while(|round| Some(*round) != seen);
        let mut new: Vec<_> = new.filter(|round| round.set + round.deleted + round.failed > 0).collect();
        new.reverse();
        events.extend(new.into_iter().map(|new| Event::new("round", "done", &new.reason, round(new))));
    }
    events
}

/// The event of a change of the store. Leases of the first listing are no events.
fn of_leases(event: follow::Event) -> Option<Event> {
    Some(match event {
        follow::Event::Listed | follow::Event::Record { listed: true, .. } => return None,
        follow::Event::Unreachable(error) => {
            Event::new("store", "unreachable", "store", flannel_core::error::chain(&error))
        }
        follow::Event::Reachable => Event::new("store", "reachable", "store", ""),
        follow::Event::Config(Some(config)) => {
            Event::new("config", "changed", "config", config.text.replace('\n', " "))
        }
        follow::Event::Config(None) => Event::new("config", "deleted", "config", ""),
        follow::Event::Record { before, after, .. } => match (before, after) {
            (None, Some(record)) => lease("added", &record),
            (_, Some(record)) => lease("changed", &record),
            (before, None) => Event { detail: String::new(), ..lease("deleted", &before?) },
        },
    })
}

fn lease(event: &'static str, record: &Record) -> Event {
    let about =
        Subnets::parse_key(&record.key).map_or_else(|_| record.key.clone(), |nets| join(nets.iter(), " "));
    let about = record.node.as_ref().map_or_else(|| about.clone(), |node| format!("{about} of {node}"));
    Event::new("lease", event, about, String::from_utf8_lossy(&record.value))
}

#[cfg(test)]
mod tests;
