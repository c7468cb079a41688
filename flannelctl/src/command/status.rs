//! `flannelctl status`: the state of this node.

use clap::Args;
use flannel_core::status::Status;
use flanneld::host::daemons;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::sleep;

use crate::failure::{Failure, Kind, Outcome, fail};
use crate::node::cluster::{Cluster, Entry, own_subnets};
use crate::node::socket;
use crate::output::text::{ago, duration, join, round};
use crate::output::{Cell, Page, Style, Table};
use crate::session::Session;

#[derive(Args, Debug)]
pub(crate) struct StatusArguments {
    /// Wait until the node is ready
    #[arg(long)]
    wait: bool,
    /// Time limit of --wait in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "wait")]
    timeout: u64,
}

/// Interval of requests of --wait.
const INTERVAL: Duration = Duration::from_millis(200);

/// Shows the state of the node; findings if it is not ready or has conditions.
pub(crate) async fn run(session: &Session, arguments: &StatusArguments) -> anyhow::Result<Outcome> {
    let status = match arguments.wait {
        true => wait(session, Duration::from_secs(arguments.timeout)).await?,
        false => match socket::ask::<Status>(&session.node.status_socket, "/status").await {
            Ok(status) => status,
            Err(error) => return without_daemon(session, &Failure::of(&error)).await,
        },
    };
    session.output.page(&Page::table(serde_json::to_value(&status)?, table(rows(&status))))?;
    let healthy = status.ready && status.conditions.is_empty();
    Ok(if healthy { Outcome::Fine } else { Outcome::Findings })
}

/// Waits until the node is ready.
async fn wait(session: &Session, limit: Duration) -> anyhow::Result<Status> {
    let end = Instant::now() + limit;
    loop {
        let last = match socket::ask::<Status>(&session.node.status_socket, "/status").await {
            Ok(status) if status.ready => return Ok(status),
            Ok(status) => status.not_ready_reasons.join("; "),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= end {
            let message = format!("this node is not ready after {} s: {last}", limit.as_secs());
            let fix = "Fix the reported problem, or wait longer with --timeout.";
            return fail(Kind::TimedOut, message, fix);
        }
        sleep(INTERVAL).await;
    }
}

/// Shows what is known without the daemon: its files on this node, and the lease in the store.
async fn without_daemon(session: &Session, failure: &Failure) -> anyhow::Result<Outcome> {
    let subnets: Vec<String> = own_subnets(session).iter().map(|subnet| subnet.to_string()).collect();
    let process = daemons::running();
    let lease = own_lease(session).await;
    let mut rows = vec![("daemon", failure.to_string(), Style::Bad)];
    if let Some(process) = process {
        rows.push(("process", format!("flanneld is running nevertheless: {process}"), Style::Warning));
    }
    rows.push(match subnets.is_empty() {
        true => ("subnet", "flanneld has never written subnet.env here".to_owned(), Style::Warning),
        false => ("subnet", format!("{}, according to its last run", subnets.join(" ")), Style::Plain),
    });
    rows.push(match &lease {
        Ok(Some(entry)) => {
            let end = match entry.life {
                Some(life) => format!("expires in {}", duration(life.left)),
                None if entry.record.node.is_some() => "exists as long as the node".to_owned(),
                None => "never expires".to_owned(),
            };
            ("lease", format!("{}, {end}", entry.title()), Style::Plain)
        }
        Ok(None) => ("lease", "the store has no lease of this node".to_owned(), Style::Bad),
        Err(error) => ("lease", format!("{error:#}"), Style::Warning),
    });
    let value = json!({
        "error": failure.to_json()["error"],
        "process": process,
        "subnets": subnets,
        "lease": lease.ok().flatten().map(|entry| entry.to_json()),
    });
    session.output.message(&failure.to_text());
    session.output.page(&Page::table(value, table(rows)))?;
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

fn table(rows: Vec<Row>) -> Table {
    let mut table = Table::new(&["ITEM", "STATE"], &[]);
    for (item, text, style) in rows {
        table.push(vec![Cell::from(item), Cell::from(text).styled(style)]);
    }
    table
}

type Row = (&'static str, String, Style);

fn rows(status: &Status) -> Vec<Row> {
    let judged = |good| if good { Style::Good } else { Style::Bad };
    let uptime = duration(Duration::from_secs(status.uptime_seconds));
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
    let up = if store.up { "up" } else { "unreachable" };
    rows.push(("store", format!("{} {}: {up}{latency}", store.kind, store.location), judged(store.up)));
    if let (Some(interface), Some(backend)) = (&status.interface, &status.backend) {
        let text = format!(
            "{} ({}), {}, MTU {}",
            interface.name,
            interface.chosen_by,
            join(&interface.public_addresses, " "),
            interface.mtu_bytes
        );
        rows.push(("interface", text, Style::Plain));
        let pods = status.pod_mtu_bytes.map_or_else(String::new, |mtu| format!(", pod MTU {mtu}"));
        rows.push(("backend", format!("{backend}{pods}"), Style::Plain));
    }
    rows.extend(cluster(status));
    let firewall = &status.firewall;
    let mode = firewall.mode.as_deref().unwrap_or("not started yet");
    let text = match (&firewall.error, firewall.correct) {
        (Some(error), _) => format!("{mode}: {error}"),
        (None, true) => format!("{mode}: rules in sync, restored {} times", firewall.repairs),
        (None, false) => format!("{mode}: rules out of sync"),
    };
    rows.push(("firewall", text, judged(firewall.correct)));
    if let Some(last) = status.rounds.last() {
        let text = format!("{}, {}", ago(last.at_unix_seconds), round(last));
        rows.push(("last round", text, judged(last.failed == 0)));
    }
    rows.extend(status.failing_ops.iter().map(|op| ("failing", op.clone(), Style::Bad)));
    rows.extend(
        status
            .conditions
            .iter()
            .map(|condition| ("condition", format!("{}: {}", condition.about, condition.reason), Style::Bad)),
    );
    rows
}

fn lease(status: &Status) -> Row {
    let Some(lease) = &status.lease else { return ("lease", "none".to_owned(), Style::Bad) };
    let left = match (lease.remaining_seconds, lease.reservation) {
        (Some(left), _) => format!("expires in {} unless renewed", duration(Duration::from_secs(left))),
        (None, true) => "reserved, never expires".to_owned(),
        (None, false) if lease.confirmed => "expiry not known yet".to_owned(),
        (None, false) => "from the last run, not confirmed by the store yet".to_owned(),
    };
    ("lease", format!("{}, {left}", join(&lease.subnets, " ")), Style::Plain)
}

fn cluster(status: &Status) -> Vec<Row> {
    let peers = &status.peers;
    let mut parts = vec![peers.total.to_string()];
    for (count, what) in
        [(peers.faulty, "faulty"), (peers.kept, "kept without a lease"), (peers.unreadable, "malformed")]
    {
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
