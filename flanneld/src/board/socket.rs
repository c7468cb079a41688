//! The status socket: HTTP and JSON on a socket file, for flannelctl and whoever may read it.

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

use super::{Board, Question, json, metrics, reason};
use crate::http::{self, Answer, Service};

/// Owner and group read and write: who may talk to the daemon.
const MODE: u32 = 0o660;

/// The listening end of the status socket.
#[derive(Debug)]
pub(crate) struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// The status socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Another daemon serves it.
    #[error(
        "another process{} serves {}: two daemons on one host get in each other's way; stop one of them, or give this one \
         a --status-socket of its own if both are wanted",
        pid.map_or_else(String::new, |pid| format!(" ({pid})")),
        path.display()
    )]
    InUse {
        /// The path.
        path: PathBuf,
        /// Who serves it.
        pid: Option<i32>,
    },
    /// Something else has its name.
    #[error("{} is there and is not a socket: remove it, or choose another --status-socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The file cannot be made.
    #[error("could not make the status socket {}: choose another --status-socket", path.display())]
    Create {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl StatusSocket {
    /// Listens at `path`. What a daemon that is gone left there is replaced. Needs a runtime.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let create = |source| SocketError::Create { path: path.to_owned(), source };
        let directory = match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        fs::create_dir_all(directory).map_err(create)?;
        // Two that start at one time must not both take the same leftover for theirs to replace.
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
        // Under another name until its mode is right, then in place of what was there.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        remove(&new).map_err(create)?;
        let listener = UnixListener::bind(&new).map_err(create)?;
        fs::set_permissions(&new, Permissions::from_mode(MODE)).map_err(create)?;
        fs::rename(&new, path).map_err(create)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers until `stop`.
    pub(crate) async fn serve(self, board: Arc<Board>, stop: CancellationToken) {
        let Self { listener, path } = self;
        // While we still listen nobody else takes the name, so what is removed is ours.
        let removed = CancellationToken::new();
        let remove = async {
            stop.cancelled().await;
            let _ = remove(&path);
            removed.cancel();
        };
        tokio::join!(http::serve(listener, Questions { board }, removed.clone()), remove);
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether somebody listens. A daemon that is stopped or hangs counts: only a refusal says that nobody does.
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

#[derive(Clone)]
struct Questions {
    board: Arc<Board>,
}

impl Service for Questions {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if !PATHS.contains(&path) {
            return failure(
                StatusCode::NOT_FOUND,
                format!("there is no {path} here: ask for one of {}", PATHS.join(", ")),
            );
        }
        if request.method() != Method::GET {
            let text = format!("{path} can be read only: use GET, not {}", request.method());
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
                return http::answer(StatusCode::OK, metrics::CONTENT_TYPE, metrics::page(&self.board));
            }
            _ => return http::answer(StatusCode::OK, JSON, json(&self.board.status())),
        };
        match self.board.ask(question).await {
            Ok(body) => http::answer(StatusCode::OK, JSON, body),
            Err(error) => failure(StatusCode::SERVICE_UNAVAILABLE, reason(&error)),
        }
    }
}

const JSON: &str = "application/json";

fn failure(status: StatusCode, error: String) -> Answer {
    http::answer(status, JSON, json(&Failure { error }))
}

#[cfg(test)]
mod tests;
