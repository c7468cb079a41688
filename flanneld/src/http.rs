//! HTTP/1.1: the server behind the health endpoints and the status socket, and a client for one request.
//!
//! The server has few clients and short responses, and no client can block the daemon.

use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time;
use tokio_util::net::Listener;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub use hyper::body::Bytes;
pub use hyper::{Response, StatusCode};

/// An answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// More at a time are enemies or mistakes; then the oldest goes.
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// Time for the head of a request, the first as well as the next of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request.
pub(crate) const MAX_HEAD_BYTES: usize = 16 << 10;
/// Time for requests under way when the daemon stops.
const GRACE: Duration = Duration::from_millis(500);
/// Pause after a failed accept: with no file descriptor left the next one fails at once, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers requests.
pub(crate) trait Service: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

/// Answers until `stop`; then requests under way get a moment, and `listener` is gone.
pub(crate) async fn serve<L>(mut listener: L, service: impl Service, stop: CancellationToken)
where
    L: Listener<Io: Unpin + Send + 'static> + Send,
{
    let mut connections = JoinSet::new();
    let mut handles = VecDeque::new();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                failing = false;
                make_room(&mut handles);
                let connection = serve_connection(stream, service.clone(), stop.clone());
                handles.push_back(connections.spawn(connection));
            }
            Err(error) => {
                if !failing {
                    warn!(%error, "could not accept a connection, will retry");
                }
                failing = true;
                let _ = time::timeout(ACCEPT_PAUSE, stop.cancelled()).await;
            }
        }
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    // Those that take longer are dropped with the set.
    let _ = time::timeout(GRACE, finished).await;
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

async fn serve_connection<S>(stream: S, service: impl Service, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), answer)
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
        debug!(%error, "a request ended early");
    }
}

/// Sends a GET request for `path` over a new connection and returns the whole response. The caller sets the time limit.
///
/// # Errors
/// If the connection breaks, or the peer does not speak HTTP.
pub async fn get<S>(stream: S, path: &'static str) -> Result<Response<Bytes>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = Uri::from_static(path);
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let exchange = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    };
    // The connection moves the bytes; why it ended is in the error of the exchange.
    tokio::join!(exchange, connection).0
}

/// An answer with a body of this type.
pub(crate) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
