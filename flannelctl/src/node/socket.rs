//! Requests to the status socket of the flanneld of this node.

use anyhow::Context as _;
use flannel_core::status;
use flanneld::http::{self, Bytes, Response, StatusCode};
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::failure::{Failure, Kind, fail};

/// Time limit of responses about the kernel, longer than the daemon itself waits for a round.
const LIMIT: Duration = Duration::from_secs(10);
/// Time limit of the status, for which the daemon waits for nothing, and of optional requests.
pub(crate) const SHORT_LIMIT: Duration = Duration::from_secs(3);

/// Requests a path of the socket.
///
/// # Errors
/// Fails if no daemon responds, or if it is not ready to.
pub(crate) async fn ask<T: DeserializeOwned>(socket: &Path, path: &'static str) -> anyhow::Result<T> {
    let limit = if path == "/status" { SHORT_LIMIT } else { LIMIT };
    ask_within(socket, path, limit).await
}

/// Requests a path with a time limit.
pub(crate) async fn ask_within<T: DeserializeOwned>(
    socket: &Path,
    path: &'static str,
    limit: Duration,
) -> anyhow::Result<T> {
    let response = get(socket, path, limit).await?;
    serde_json::from_slice(response.body()).with_context(|| {
        format!("could not read the response of flanneld to {path}; flanneld and flannelctl may have different versions")
    })
}

/// Requests a path whose response is text.
pub(crate) async fn text(socket: &Path, path: &'static str) -> anyhow::Result<String> {
    let response = get(socket, path, LIMIT).await?;
    Ok(String::from_utf8_lossy(response.body()).into_owned())
}

async fn get(socket: &Path, path: &'static str, limit: Duration) -> anyhow::Result<Response<Bytes>> {
    let exchange = async {
        let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
        let response = http::get(stream, "localhost", path).await;
        anyhow::Ok(response.with_context(|| format!("no HTTP response from {}", socket.display()))?)
    };
    let Ok(response) = timeout(limit, exchange).await else {
        let message = format!("flanneld does not respond on {}: it is stopped, or hangs", socket.display());
        let fix = "Check its process and its log: `journalctl -u flanneld`.";
        return fail(Kind::TimedOut, message, fix);
    };
    let response = response?;
    if response.status() != StatusCode::OK {
        let reason = serde_json::from_slice(response.body()).map_or_else(
            |_| String::from_utf8_lossy(response.body()).into_owned(),
            |status::Failure { error }| error,
        );
        let fix = "Run `flannelctl status` for the reason, or `flannelctl status --wait` to wait until it is ready.";
        return fail(Kind::Unreachable, reason, fix);
    }
    Ok(response)
}

/// The failure of a connection.
fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let path = socket.display();
    let start = "Run `systemctl start flanneld`, or specify --status-socket.";
    let (kind, message, fix) = match error.kind() {
        ErrorKind::NotFound => {
            (Kind::Unreachable, format!("flanneld is not running: no socket {path}"), start)
        }
        ErrorKind::ConnectionRefused => {
            (Kind::Unreachable, format!("flanneld is not running: nobody listens on {path}"), start)
        }
        ErrorKind::PermissionDenied => {
            let fix = "Run the command as root, or as a member of the group of the socket.";
            (Kind::Error, format!("no permission to use {path}"), fix)
        }
        _ => (Kind::Error, format!("could not connect to {path}: {error}"), start),
    };
    Failure::new(kind, message, fix)
}
