//! The status socket: HTTP and JSON on a socket file, for flannelctl.

use flannel_core::status::{Failure, PATHS};
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, StatusCode};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::{Board, Question, json, metrics};
use crate::error::chain;
use crate::files::{self, FileError};
use crate::http::{self, Answer};

/// Owner and group may connect.
const MODE: u32 = 0o660;

/// The listening end of the status socket.
#[derive(Debug)]
pub(crate) struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// The status socket is not available.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Another process serves it.
    #[error(
        "another process{} serves {}: two daemons on one host conflict; stop one of them, or set another --status-socket \
         if both are needed",
        pid.map_or_else(String::new, |pid| format!(" ({pid})")),
        path.display()
    )]
    InUse {
        /// The path.
        path: PathBuf,
        /// The process.
        pid: Option<i32>,
    },
    /// The path is that of another file.
    #[error("{} exists and is not a socket: remove it, or choose another --status-socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A stale file cannot be removed.
    #[error(transparent)]
    Stale(#[from] FileError),
    /// The file cannot be created.
    #[error("could not create the status socket {}: choose another --status-socket", path.display())]
    Create {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl StatusSocket {
    /// Listens at `path`, and replaces a stale socket. Needs a runtime.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let create = |source| SocketError::Create { path: path.to_owned(), source };
        let directory = match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        fs::create_dir_all(directory).map_err(create)?;
        // Two daemons that start at the same time must not both replace a stale socket.
        let lock = File::open(directory).map_err(create)?;
        lock.lock().map_err(create)?;
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::NotASocket { path: path.to_owned() });
            }
            Ok(_) if is_served(path) => {
                return Err(SocketError::InUse { path: path.to_owned(), pid: server_of(path) });
            }
            _ => {}
        }
        // Under another name until its mode is set.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        files::remove(&new)?;
        let listener = UnixListener::bind(&new).map_err(create)?;
        fs::set_permissions(&new, Permissions::from_mode(MODE)).map_err(create)?;
        fs::rename(&new, path).map_err(create)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until `stop`.
    pub(crate) async fn serve(self, board: Arc<Board>, stop: CancellationToken) {
        let Self { listener, path } = self;
        // While this process listens no other one takes the path, so that it removes its own socket.
        let removed = CancellationToken::new();
        let remove = async {
            stop.cancelled().await;
            let _ = fs::remove_file(&path);
            removed.cancel();
        };
        tokio::join!(
            http::serve(listener, move |request| respond(Arc::clone(&board), request), removed.clone()),
            remove
        );
    }
}

/// Whether a process listens, also one that is stopped or hangs: only a refusal means that none does.
fn is_served(path: &Path) -> bool {
    match BlockingStream::connect(path) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound),
    }
}

fn server_of(path: &Path) -> Option<i32> {
    use nix::sys::socket::{getsockopt, sockopt};
    let stream = BlockingStream::connect(path).ok()?;
    getsockopt(&stream, sockopt::PeerCredentials).ok().map(|peer| peer.pid())
}

async fn respond(board: Arc<Board>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path();
    if !PATHS.contains(&path) {
        return failure(StatusCode::NOT_FOUND, format!("{path} does not exist, only {}", PATHS.join(", ")));
    }
    if request.method() != Method::GET {
        let text = format!("{path} is read-only: use GET, not {}", request.method());
        let mut answer = failure(StatusCode::METHOD_NOT_ALLOWED, text);
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    let question = match path {
        "/peers" => Question::Peers,
        "/desired" => Question::Desired,
        "/actual" => Question::Actual,
        "/diff" => Question::Diff,
        "/metrics" => {
            return http::answer(StatusCode::OK, metrics::CONTENT_TYPE, metrics::page(&board));
        }
        _ => return http::answer(StatusCode::OK, JSON, json(&board.status())),
    };
    match board.ask(question).await {
        Ok(body) => http::answer(StatusCode::OK, JSON, body),
        Err(error) => failure(StatusCode::SERVICE_UNAVAILABLE, chain(&error)),
    }
}

const JSON: &str = "application/json";

fn failure(status: StatusCode, error: String) -> Answer {
    http::answer(status, JSON, json(&Failure { error }))
}

#[cfg(test)]
mod tests;
