//! Asks the flanneld of this node by its status socket.

use anyhow::Context as _;
use flannel_core::status::Failure as Refusal;
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::failure::{Failure, Kind};

/// How long an answer about the kernel may take: longer than the daemon itself waits for a round.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same for the status, for which the daemon waits for nothing.
const STATUS_PATIENCE: Duration = Duration::from_secs(3);

/// The answer to a path of the socket.
///
/// # Errors
/// Fails if no daemon answers, or cannot yet.
pub(crate) fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    let limit = if path == "/status" { STATUS_PATIENCE } else { PATIENCE };
    ask_within(socket, path, limit)
}

/// The same with a limit.
pub(crate) fn ask_within<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    limit: Duration,
) -> anyhow::Result<T> {
    serde_json::from_str(&text_within(socket, path, limit)?).with_context(|| {
        format!(
            "the answer of flanneld to {path} cannot be read: are flanneld and flannelctl of one version?"
        )
    })
}

/// The answer as it is.
pub(crate) fn text(socket: &Path, path: &str) -> anyhow::Result<String> {
    text_within(socket, path, PATIENCE)
}

fn text_within(socket: &Path, path: &str, limit: Duration) -> anyhow::Result<String> {
    let answer = exchange(socket, path, limit).map_err(|error| unreachable(socket, &error))?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| {
        format!("what {} answers is no HTTP: is it the socket of flanneld?", socket.display())
    })?;
    let code = head.split(' ').nth(1).unwrap_or_default();
    if code != "200" {
        let reason = serde_json::from_str(body).map_or_else(|_| body.to_owned(), |Refusal { error }| error);
        return Err(Failure::new(
            Kind::Unreachable,
            reason,
            "flannelctl status shows what it waits for, and with --wait waits until it is ready",
        )
        .into());
    }
    Ok(body.to_owned())
}

fn exchange(socket: &Path, path: &str, limit: Duration) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: flanneld\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Why there is no answer, and what to do.
fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let path = socket.display();
    let start = "start it (systemctl start flanneld), or name its socket: --status-socket";
    match error.kind() {
        ErrorKind::NotFound => Failure::new(
            Kind::Unreachable,
            format!("no flanneld runs here: there is no socket {path}"),
            start,
        ),
        ErrorKind::ConnectionRefused => Failure::new(
            Kind::Unreachable,
            format!("no flanneld runs here: the one that served {path} is gone"),
            start,
        ),
        ErrorKind::PermissionDenied => Failure::new(
            Kind::Error,
            format!("you may not use {path}"),
            "be root, or in the group that the socket belongs to",
        ),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::new(
            Kind::TimedOut,
            format!("flanneld does not answer on {path}: it is stopped, or hangs"),
            "look at its process and its log (journalctl -u flanneld)",
        ),
        _ => Failure::new(Kind::Error, format!("could not ask flanneld on {path}: {error}"), start),
    }
}
