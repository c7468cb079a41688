//! `/healthz` and `/readyz` over HTTP, for kubelet, load balancers and people.
//!
//! Compatibility: paths, codes and bodies are those of the Go daemon, and a wildcard address serves both
//! families. Different on purpose: it is up before everything else, and `/readyz` can go back to 503.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Whether pods on this node can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Rules, routes and `subnet.env` are in place.
    Ready,
    /// Something is missing.
    NotReady {
        /// What, for status and log.
        reasons: Vec<String>,
    },
}

/// The listening end of the health endpoints.
#[derive(Debug)]
pub struct Healthz {
    listener: TcpListener,
}

/// The address of the health endpoints cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on {address} for health checks; {}", mend(source, *address))]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// More at a time are enemies or mistakes; then the oldest goes.
const MAX_CONNECTIONS: usize = 64;
/// Time for the head of a request, the first as well as the next of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Time for requests under way when the daemon stops.
const GRACE: Duration = Duration::from_millis(500);
/// Pause after a failed accept: with no file descriptor left the next one fails at once, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Healthz {
    /// Listens. A wildcard address of either family listens on both. Needs a runtime.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let listener =
            if address.ip().is_unspecified() { listen_on_both(address.port()) } else { listen(address) };
        Ok(Self { listener: listener.map_err(|source| BindError { address, source })? })
    }

    /// Where it listens.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`.
    pub async fn serve(self, readiness: watch::Receiver<Readiness>, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        let mut handles = VecDeque::new();
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    failing = false;
                    make_room(&mut handles);
                    let connection = serve_connection(stream, readiness.clone(), stop.clone());
                    handles.push_back(connections.spawn(connection));
                }
                Err(error) => {
                    if !failing {
                        warn!(%error, "could not accept a health check, will retry");
                    }
                    failing = true;
                    let _ = time::timeout(ACCEPT_PAUSE, stop.cancelled()).await;
                }
            }
        }
        drop(self.listener);
        let finished = async { while connections.join_next().await.is_some() {} };
        // Those that take longer are dropped with the set.
        let _ = time::timeout(GRACE, finished).await;
    }
}

/// Compatibility: a Go listener on `0.0.0.0` hears IPv6 as well; probes of IPv6-only clusters rely on it.
fn listen_on_both(port: u16) -> io::Result<TcpListener> {
    let both = TcpSocket::new_v6().and_then(|socket| {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
        start(socket, (Ipv6Addr::UNSPECIFIED, port).into())
    });
    match both {
        // No IPv6 in this kernel or namespace.
        Err(error)
            if matches!(error.raw_os_error(), Some(EAFNOSUPPORT))
                || error.kind() == ErrorKind::AddrNotAvailable =>
        {
            listen((Ipv4Addr::UNSPECIFIED, port).into())
        }
        listener => listener,
    }
}

const EAFNOSUPPORT: i32 = nix::errno::Errno::EAFNOSUPPORT as i32;

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    start(socket, address)
}

fn start(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    // Connections of the process before us may still linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(128)
}

fn make_room(handles: &mut VecDeque<AbortHandle>) {
    if handles.len() >= MAX_CONNECTIONS {
        handles.retain(|handle| !handle.is_finished());
    }
    if handles.len() >= MAX_CONNECTIONS
        && let Some(oldest) = handles.pop_front()
    {
        oldest.abort();
    }
}

async fn serve_connection(stream: TcpStream, readiness: watch::Receiver<Readiness>, stop: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(request.uri(), &readiness.borrow());
        async { Ok::<_, Infallible>(response) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        result = connection.as_mut() => Some(result),
        () = stop.cancelled() => None,
    };
    let result = match ended {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "a health check ended early");
    }
}

fn respond(uri: &Uri, readiness: &Readiness) -> Response<Full<Bytes>> {
    if let Some(location) = cleaned(uri) {
        let mut response = plain(StatusCode::MOVED_PERMANENTLY, "");
        response.headers_mut().insert(LOCATION, location);
        return response;
    }
    match (uri.path(), readiness) {
        ("/healthz", _) => plain(StatusCode::OK, "flanneld is running"),
        ("/readyz", Readiness::Ready) => plain(StatusCode::OK, "flanneld is ready"),
        ("/readyz", Readiness::NotReady { .. }) => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "flanneld is not ready yet")
        }
        _ => plain(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn plain(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Where a path with `//`, `/./` or `/../` belongs, or nothing if it is clean. Compatibility: Go's mux redirects.
fn cleaned(uri: &Uri) -> Option<HeaderValue> {
    let path = uri.path();
    let segments = path.strip_prefix('/')?.split('/');
    let mut kept = Vec::new();
    for segment in segments {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let mut clean = format!("/{}", kept.join("/"));
    if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    if clean == path {
        return None;
    }
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    HeaderValue::from_str(&format!("{clean}{query}")).ok()
}

fn mend(error: &io::Error, address: SocketAddr) -> String {
    let port = address.port();
    match error.kind() {
        ErrorKind::AddrInUse => format!(
            "something listens there already (ss -ltnp sport = :{port} shows what): stop it, or choose \
             another --healthz-port"
        ),
        ErrorKind::AddrNotAvailable => {
            "this host has no such address: choose another --healthz-ip, or 0.0.0.0 for all".to_owned()
        }
        ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: choose a --healthz-port above".to_owned()
        }
        _ => "choose another --healthz-ip or --healthz-port".to_owned(),
    }
}

#[cfg(test)]
mod tests;
