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

/// A response.
pub(crate) type Answer = Response<Full<Bytes>>;

/// The maximum number of connections. Then the oldest is dropped.
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// Time limit for the head of each request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of the head of a request.
pub(crate) const MAX_HEAD_BYTES: usize = 16 << 10;
/// Time limit for current requests when the daemon stops.
const GRACE: Duration = Duration::from_millis(500);
/// Pause after a failed accept: without file descriptors, the next one fails at once, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves requests until `stop`; then `listener` is dropped, and current requests have a short time to end.
pub(crate) async fn serve<L, S, F>(mut listener: L, service: S, stop: CancellationToken)
where
    L: Listener<Io: Unpin + Send + 'static> + Send,
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
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
                drop_oldest(&mut handles);
                let connection = serve_connection(stream, service.clone(), stop.clone());
                handles.push_back(connections.spawn(connection));
            }
            Err(error) => {
                if !failing {
                    warn!(%error, "could not accept a connection, retrying");
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

fn drop_oldest(handles: &mut VecDeque<AbortHandle>) {
    handles.retain(|handle| !handle.is_finished());
    if handles.len() >= MAX_CONNECTIONS
        && let Some(oldest) = handles.pop_front()
    {
        oldest.abort();
    }
}

async fn serve_connection<F>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: impl Fn(Request<Incoming>) -> F,
    stop: CancellationToken,
) where
    F: Future<Output = Answer>,
{
    let answer = service_fn(|request| {
        let answer = service(request);
        async { Ok::<_, Infallible>(answer.await) }
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
        debug!(%error, "connection ended early");
    }
}

const LOCALHOST: HeaderValue = HeaderValue::from_static("localhost");

/// Sends a GET request for `path` over a new connection and returns the whole response. The caller sets the time limit.
///
/// # Errors
/// If the connection breaks, or the peer does not speak HTTP.
pub async fn get<S>(stream: S, host: &str, path: &'static str) -> Result<Response<Bytes>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = Uri::from_static(path);
    request.headers_mut().insert(HOST, HeaderValue::from_str(host).unwrap_or(LOCALHOST));
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let exchange = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    };
    // The connection moves the bytes; why it ended is in the error of the exchange.
    tokio::join!(exchange, connection).0
}

/// Returns a response with a body of this type.
pub(crate) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
