//! `flannelctl status`: how this node is.

use clap::Args;
use flannel_core::status::Status;
use flanneld::host::daemons;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::sleep;

use crate::failure::{Failure, Kind, Outcome};
use crate::node::cluster::{Cluster, Entry, own_subnets};
use crate::node::socket;
use crate::output::text::{ago, life_text, round_text};
use crate::output::{Cell, Page, Style, Table};
use crate::session::Session;

#[derive(Args, Debug)]
pub(crate) struct StatusArguments {
    /// Wait until the node is ready
    #[arg(long)]
    wait: bool,
    /// How long --wait waits, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "wait")]
    timeout: u64,
}

/// How often --wait looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Shows how this node is; findings if it is not ready, or if something is wrong.
pub(crate) async fn run(session: &Session, arguments: &StatusArguments) -> anyhow::Result<Outcome> {
    let answer = match arguments.wait {
        true => Ok(wait(session, Duration::from_secs(arguments.timeout)).await?),
        false => socket::ask::<Status>(&session.node.status_socket, "/status"),
    };
    match answer {
        Ok(status) => {
            let healthy = status.ready && status.conditions.is_empty();
            session.output.page(&Page::table(serde_json::to_value(&status)?, table(&status)))?;
            Ok(if healthy { Outcome::Fine } else { Outcome::Findings })
        }
        Err(error) => without_daemon(session, &Failure::of(&error)).await,
    }
}

/// Asks until the node is ready.
async fn wait(session: &Session, limit: Duration) -> anyhow::Result<Status> {
    let end = Instant::now() + limit;
    loop {
        let last = match socket::ask::<Status>(&session.node.status_socket, "/status") {
            Ok(status) if status.ready => return Ok(status),
            Ok(status) => status.not_ready_reasons.join("; "),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= end {
            return Err(Failure::new(
                Kind::TimedOut,
                format!("this node is not ready after {} s: {last}", limit.as_secs()),
                "mend what is named, or wait longer with --timeout",
            )
            .into());
        }
        sleep(PAUSE).await;
    }
}

/// What can be told while no daemon answers: what it has left here, and what the store says of this node.
async fn without_daemon(session: &Session, failure: &Failure) -> anyhow::Result<Outcome> {
    let subnets: Vec<String> = own_subnets(session).iter().map(|subnet| subnet.to_string()).collect();
    let process = daemons::running();
    let lease = own_lease(session).await;
    let mut table = Table::new(&["ITEM", "STATE"], &[]);
    let mut add = |item: &'static str, text: String, style| {
        table.push(vec![item.into(), Cell::from(text).styled(style)]);
    };
    add("daemon", failure.to_string(), Style::Bad);
    if let Some(process) = process {
        add("process", format!("a flanneld runs here all the same: {process}"), Style::Warning);
    }
    match subnets.is_empty() {
        true => add("subnet", "none was ever told to the CNI plugin here".to_owned(), Style::Warning),
        false => add("subnet", format!("{}, by its last run", subnets.join(" ")), Style::Plain),
    }
    match &lease {
        Ok(Some(entry)) => {
            let left = entry
                .life
                .map_or_else(|| "never ends".to_owned(), |life| format!("ends in {}", life_text(life.left)));
            add("lease", format!("{}, {left}", entry.title()), Style::Plain);
        }
        Ok(None) => add("lease", "the store has none for this node".to_owned(), Style::Bad),
        Err(error) => add("lease", format!("{error:#}"), Style::Warning),
    }
    let value = json!({
        "error": failure.to_json()["error"],
        "process": process,
        "subnets": subnets,
        "lease": lease.ok().flatten().map(|entry| entry.to_json()),
    });
    session.output.message(&failure.to_text());
    session.output.page(&Page::table(value, table))?;
    Ok(Outcome::Unreachable(failure.exit_code()))
}

/// The lease of this node in the store.
async fn own_lease(session: &Session) -> anyhow::Result<Option<Entry>> {
    let store = session.store()?;
    let entries = Cluster::read(session, &store).await?.entries;
    let Some(mut own) = entries.into_iter().find(|entry| entry.is_own) else { return Ok(None) };
    own.life = store.life(&own.record).await?;
    Ok(Some(own))
}

fn table(status: &Status) -> Table {
    let mut table = Table::new(&["ITEM", "STATE"], &[]);
    for (item, text, style) in rows(status) {
        table.push(vec![Cell::from(item), Cell::from(text).styled(style)]);
    }
    table
}

type Row = (&'static str, String, Style);

fn rows(status: &Status) -> Vec<Row> {
    let judged = |good| if good { Style::Good } else { Style::Bad };
    let uptime = life_text(Duration::from_secs(status.uptime_seconds));
    let mut rows = vec![
        ("daemon", format!("flanneld {}, process {}, up {uptime}", status.version, status.pid), Style::Plain),
        match status.ready {
            true => ("ready", "yes".to_owned(), Style::Good),
            false => ("ready", format!("no: {}", status.not_ready_reasons.join("; ")), Style::Bad),
        },
    ];
    rows.push(lease(status));
    let store = &status.store;
    let latency = store.last_request.as_ref().map_or_else(String::new, |request| {
        format!(", last request ({}) {:.1} ms", request.operation, request.latency_milliseconds)
    });
    let up = if store.up { "up" } else { "away" };
    rows.push(("store", format!("{} {}: {up}{latency}", store.kind, store.location), judged(store.up)));
    if let (Some(interface), Some(backend)) = (&status.interface, &status.backend) {
        let addresses: Vec<String> =
            interface.public_addresses.iter().map(|address| address.to_string()).collect();
        let text = format!(
            "{} ({}), {}, MTU {}",
            interface.name,
            interface.chosen_by,
            addresses.join(" "),
            interface.mtu_bytes
        );
        rows.push(("interface", text, Style::Plain));
        let pods = status.pod_mtu_bytes.map_or_else(String::new, |mtu| format!(", MTU of pods {mtu}"));
        rows.push(("backend", format!("{backend}{pods}"), Style::Plain));
    }
    rows.extend(cluster(status));
    let firewall = &status.firewall;
    let mode = firewall.mode.as_deref().unwrap_or("not set up yet");
    let text = match (&firewall.error, firewall.correct) {
        (Some(error), _) => format!("{mode}: {error}"),
        (None, true) => format!("{mode}: rules are right, put back {} times", firewall.repairs),
        (None, false) => format!("{mode}: rules are not in place"),
    };
    rows.push(("firewall", text, judged(firewall.correct)));
    if let Some(round) = status.rounds.last() {
        let text = format!("{}, {}", ago(round.at_unix_seconds), round_text(round));
        rows.push(("last round", text, judged(round.failed == 0)));
    }
    rows.extend(status.failing_ops.iter().map(|op| ("failing", op.clone(), Style::Bad)));
    rows.extend(
        status
            .conditions
            .iter()
            .map(|condition| ("wrong", format!("{}: {}", condition.about, condition.reason), Style::Bad)),
    );
    rows
}

fn lease(status: &Status) -> Row {
    let Some(lease) = &status.lease else { return ("lease", "none".to_owned(), Style::Bad) };
    let subnets: Vec<String> = lease.subnets.iter().map(|subnet| subnet.to_string()).collect();
    let left = match (lease.remaining_seconds, lease.reservation) {
        (Some(left), _) => format!("ends in {} unless renewed", life_text(Duration::from_secs(left))),
        (None, true) => "reserved, never ends".to_owned(),
        (None, false) if lease.confirmed => "its end is not known yet".to_owned(),
        (None, false) => "of the last run, not confirmed by the store yet".to_owned(),
    };
    ("lease", format!("{}, {left}", subnets.join(" ")), Style::Plain)
}

fn cluster(status: &Status) -> Vec<Row> {
    let peers = &status.peers;
    let mut parts = vec![peers.total.to_string()];
    for (count, what) in [
        (peers.faulty, "faulty"),
        (peers.kept, "lost by the store and kept"),
        (peers.unreadable, "unreadable"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    let style = if parts.len() > 1 { Style::Warning } else { Style::Plain };
    let mut rows = vec![("peers", parts.join(", "), style)];
    for allocation in &status.allocation {
        let text = format!("{} of {} in {}", allocation.used, allocation.capacity, allocation.network);
        let full = u128::from(allocation.used) >= allocation.capacity;
        rows.push(("subnets", text, if full { Style::Warning } else { Style::Plain }));
    }
    rows
}
