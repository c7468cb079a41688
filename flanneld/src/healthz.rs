//! `/healthz`, `/readyz` and `/metrics` over HTTP, for kubelet, load balancers, Prometheus and people.
//!
//! Compatibility: paths, codes and bodies are those of the Go daemon, and a wildcard address serves both families. Different on
//! purpose: it starts before everything else, and `/readyz` can return 503 again.

use hyper::body::Incoming;
use hyper::header::{HeaderValue, LOCATION};
use hyper::{Request, StatusCode, Uri};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::board::{Board, metrics};
use crate::go_path::clean;
use crate::host::sockets;
use crate::http::{self, Answer};

/// The address of the health endpoints is not available.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on {address} for health checks; {}", advice(source, *address))]
pub(crate) struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// Listens. A wildcard address of either family listens on both. Needs a runtime.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let listener =
        if address.ip().is_unspecified() { listen_on_both(address.port()) } else { listen(address) };
    listener.map_err(|source| BindError { address, source })
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: TcpListener, board: Arc<Board>, stop: CancellationToken) {
    let service = move |request: Request<Incoming>| {
        let is_ready = board.sources.readiness.borrow().is_ready();
        let answer = match request.uri().path() {
            "/metrics" => http::answer(StatusCode::OK, metrics::CONTENT_TYPE, metrics::page(&board)),
            _ => respond(request.uri(), is_ready),
        };
        std::future::ready(answer)
    };
    http::serve(listener, service, stop).await;
}

/// Compatibility: a Go listener on `0.0.0.0` accepts IPv6, too; probes of IPv6-only clusters rely on it.
fn listen_on_both(port: u16) -> io::Result<TcpListener> {
    let both = TcpSocket::new_v6().and_then(|socket| {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
        start(socket, (Ipv6Addr::UNSPECIFIED, port).into())
    });
    match both {
        // No IPv6 in this kernel or namespace.
        Err(error)
            if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32)
                || error.kind() == ErrorKind::AddrNotAvailable =>
        {
            listen((Ipv4Addr::UNSPECIFIED, port).into())
        }
        listener => listener,
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    start(socket, address)
}

fn start(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    // Connections of the previous process may still exist.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(128)
}

fn respond(uri: &Uri, is_ready: bool) -> Answer {
    if let Some(location) = cleaned(uri) {
        let mut response = plain(StatusCode::MOVED_PERMANENTLY, "");
        response.headers_mut().insert(LOCATION, location);
        return response;
    }
    match uri.path() {
        "/healthz" => plain(StatusCode::OK, "flanneld is running"),
        "/readyz" if is_ready => plain(StatusCode::OK, "flanneld is ready"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "flanneld is not ready yet"),
        _ => plain(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn plain(status: StatusCode, body: &'static str) -> Answer {
    http::answer(status, "text/plain; charset=utf-8", body)
}

/// Returns the clean form of a path with `//`, `/./` or `/../`. Compatibility: Go's mux redirects to it.
fn cleaned(uri: &Uri) -> Option<HeaderValue> {
    let path = uri.path();
    if !path.starts_with('/') {
        return None;
    }
    let mut clean = clean(path);
    if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    if clean == path {
        return None;
    }
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    HeaderValue::from_str(&format!("{clean}{query}")).ok()
}

fn advice(error: &io::Error, address: SocketAddr) -> String {
    let port = address.port();
    match error.kind() {
        ErrorKind::AddrInUse => {
            let other = match sockets::tcp_listener(port) {
                Some((pid, name)) => format!("process {pid} ({name}) listens there"),
                None => format!("another process listens there (`ss -ltnp sport = :{port}` shows it)"),
            };
            format!("{other}: stop it, or choose another --healthz-port")
        }
        ErrorKind::AddrNotAvailable => {
            "this host does not have this address: choose another --healthz-ip, or 0.0.0.0 for all".to_owned()
        }
        ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: choose a --healthz-port above".to_owned()
        }
        _ => "choose another --healthz-ip or --healthz-port".to_owned(),
    }
}

#[cfg(test)]
mod tests;
