//! Runs the test on every node by a command of the administrator.

use flannel_core::lease::table::LeaseTable;
use futures_util::stream::{self, StreamExt as _};
use std::net::IpAddr;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

use super::TestArguments;
use super::report::{Node, Report};
use crate::failure::{Kind, fail};
use crate::session::Session;

/// Time limit of the command. A path takes at most two dozen packets.
const LIMIT: Duration = Duration::from_secs(300);

pub(super) async fn everywhere(
    session: &Session,
    arguments: &TestArguments,
    command: &str,
) -> anyhow::Result<Report> {
    if !command.contains("{node}") && !command.contains("{subnet}") {
        let message = format!("--exec {command:?} runs on the same host for every node");
        let fix = "Use {node} or {subnet} for the host: --exec 'ssh root@{node} flannelctl'.";
        return fail(Kind::Usage, message, fix);
    }
    let listing = session.store()?.list().await?;
    let mut table = LeaseTable::default();
    table.replace(&listing.records);
    let nodes = table.leases().iter().map(|(subnets, entry)| Node::new(subnets, &entry.lease.attrs));
    let nodes: Vec<Node> = nodes.collect();
    let total = nodes.len();
    let mut report = Report { nodes: nodes.clone(), ..Report::default() };
    let flags = flags(session, arguments);
    let results = stream::iter(nodes)
        .map(async |node| {
            let failed = |error, node| Report {
                nodes: vec![Node { error: Some(error), ..node }],
                ..Report::default()
            };
            on(words(command, &node, &flags)).await.unwrap_or_else(|error| failed(error, node))
        })
        .buffer_unordered(usize::from(arguments.parallel));
    let mut measured = Vec::new();
    let mut results = pin!(results.enumerate());
    session.output.progress(&format!("0 of {total} nodes"));
    while let Some((done, result)) = results.next().await {
        measured.push(result);
        session.output.progress(&format!("{} of {total} nodes", done + 1));
    }
    session.output.progress("");
    report.merge(measured);
    Ok(report)
}

/// The arguments of flannelctl on the other nodes.
fn flags(session: &Session, arguments: &TestArguments) -> Vec<String> {
    let mut flags = session.store_options().public_flags();
    flags.extend(["connectivity", "test", "-o", "json"].map(str::to_owned));
    flags.push(format!("--count={}", arguments.count));
    flags.push(format!("--timeout={}", arguments.timeout));
    flags.push(format!("--parallel={}", arguments.parallel));
    flags.extend(arguments.no_size.then(|| "--no-size".to_owned()));
    flags
}

fn words(command: &str, node: &Node, flags: &[String]) -> Vec<String> {
    let public = node.public_addresses.first().map(IpAddr::to_string).unwrap_or_default();
    let filled = |word: &str| word.replace("{node}", &public).replace("{subnet}", &node.key);
    command.split_whitespace().map(filled).chain(flags.iter().cloned()).collect()
}

/// Runs the command on a node. Exit code 3 has a result, too.
async fn on(words: Vec<String>) -> Result<Report, String> {
    let Some((program, arguments)) = words.split_first() else { return Err("empty command".to_owned()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("could not start {program}: {error}")),
        Err(_) => return Err(format!("{program} did not finish in {} s", LIMIT.as_secs())),
    };
    Report::parse(&String::from_utf8_lossy(&output.stdout)).map_err(|_| {
        let messages = String::from_utf8_lossy(&output.stderr);
        let last = messages.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("no message");
        format!("{program} failed ({}): {last}", output.status)
    })
}

#[cfg(test)]
mod tests;
