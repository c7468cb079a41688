//! One connection to one member of the etcd cluster, chosen by racing all of them.
//!
//! etcd-client can balance over several endpoints, but a dead one then receives its share of the requests. So every connection here
//! has one endpoint: the first that responds. After a failure it is dropped, and the next request starts a new race, in which that
//! endpoint is last.

use etcd_client::{Client, ConnectOptions, GetOptions, KvClient, LeaseClient, TlsOptions, WatchClient};
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::error::{EtcdError, FAILED_PRECONDITION, Failure, Kind, answer, innermost};
use super::options::{CAFILE, CERTFILE, CONNECT_LIMIT, Endpoint, KEYFILE, PING_LIMIT, Target};
use crate::store::operation::Operation;
use crate::store::stats::StoreStats;

/// Head start of an endpoint before the next one.
const STAGGER: Duration = Duration::from_millis(250);
/// Pause before an HTTP/2 ping. etcd closes connections that ping more often than every 5 s
/// (`--grpc-keepalive-min-time`), or that ping without an open stream.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const TCP_KEEPALIVE: Duration = Duration::from_secs(10);
/// Maximum size of a response: a listing of 20,000 records has 5 MB, and tonic's default is 4 MB.
const MESSAGE_LIMIT: usize = 256 << 20;

/// A connection. Cloning shares it.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) kv: KvClient,
    pub(super) lease: LeaseClient,
    pub(super) watch: WatchClient,
    /// Position of its endpoint in the target.
    pub(super) at: usize,
    pub(super) url: Arc<str>,
    /// Distinguishes it from the ones before and after it.
    pub(super) generation: u64,
    /// A response was received.
    pub(super) proven: Arc<AtomicBool>,
}

/// Makes connections.
#[derive(Default)]
pub(super) struct Connector {
    generation: u64,
    /// The first endpoint of the next race; initially random, so that nodes are spread over the members.
    first: Option<usize>,
}

impl Connector {
    /// Tries all endpoints, each a little after the previous one or as soon as that has failed. The first success wins.
    pub(super) async fn connect(
        &mut self,
        target: &Target,
        stats: &watch::Sender<StoreStats>,
    ) -> Result<Connection, EtcdError> {
        let count = target.endpoints.len();
        let chance = || usize::try_from(RandomState::new().hash_one(0) % count as u64).unwrap_or(0);
        let first = *self.first.get_or_insert_with(chance) % count;
        self.generation += 1;
        let generation = self.generation;

        let mut waiting = (first..first + count).map(|at| at % count);
        let mut running = Vec::new();
        let mut attempts = Vec::new();
        running.extend(waiting.next().map(|at| Box::pin(open(target, at, generation, stats))));
        while !running.is_empty() {
            let finished = tokio::select! {
                finished = any(&mut running) => Some(finished),
                () = sleep(STAGGER), if waiting.len() > 0 => None,
            };
            match finished {
                Some(Ok(connection)) => {
                    self.first = Some(connection.at);
                    return Ok(connection);
                }
                Some(Err(error)) => attempts.push(error),
                None => {}
            }
            running.extend(waiting.next().map(|at| Box::pin(open(target, at, generation, stats))));
        }
        Err(EtcdError::all(attempts))
    }

    /// Lets the next race begin after an endpoint that has failed.
    pub(super) fn avoid(&mut self, at: usize) {
        self.first = Some(at + 1);
    }
}

/// Waits until one of the futures is done, and removes it.
async fn any<F: Future + ?Sized>(running: &mut Vec<Pin<Box<F>>>) -> F::Output {
    poll_fn(|context| {
        for at in 0..running.len() {
            if let Poll::Ready(output) = running[at].as_mut().poll(context) {
                drop(running.swap_remove(at));
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    })
    .await
}

async fn open(
    target: &Target,
    at: usize,
    generation: u64,
    stats: &watch::Sender<StoreStats>,
) -> Result<Connection, EtcdError> {
    let endpoint = &target.endpoints[at];
    let started = Instant::now();
    let result = open_client(target, endpoint).await;
    stats.send_modify(|stats| stats.record(Operation::Connect, started.elapsed(), result.is_err()));
    let mut client = result?;
    if let Some(login) = &target.login {
        let started = Instant::now();
        let result = authenticate(&mut client, target, endpoint, login).await;
        stats.send_modify(|stats| stats.record(Operation::Authenticate, started.elapsed(), result.is_err()));
        result?;
    }
    Ok(Connection {
        kv: client.kv_client().max_decoding_message_size(MESSAGE_LIMIT),
        lease: client.lease_client(),
        watch: client.watch_client().max_decoding_message_size(MESSAGE_LIMIT),
        at,
        url: endpoint.url.as_str().into(),
        generation,
        proven: Arc::new(AtomicBool::new(target.login.is_some() || target.endpoints.len() > 1)),
    })
}

/// Prepares a client. It connects with the first request: the login, a probe if there is a choice of endpoints, or
/// the request that the connection is made for.
async fn open_client(target: &Target, endpoint: &Endpoint) -> Result<Client, EtcdError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_LIMIT)
        .with_tcp_keepalive(TCP_KEEPALIVE)
        .with_keep_alive(PING_INTERVAL, PING_LIMIT)
        .with_keep_alive_while_idle(false)
        .with_require_leader(true);
    if endpoint.tls {
        options = options.with_tls(tls_options(target).await?);
    }
    let failure = Failure { target, endpoint: &endpoint.url, fresh: true, operation: Operation::Connect };
    let mut client = Client::connect([&endpoint.url], Some(options))
        .await
        .map_err(|error| unusable_files(target, error).unwrap_or_else(|error| failure.classify(error)))?;
    if target.login.is_none() && target.endpoints.len() > 1 {
        probe(&mut client, target, &failure).await?;
    }
    Ok(client)
}

/// Reads the certificates for each connection, so that a renewed one is used.
async fn tls_options(target: &Target) -> Result<TlsOptions, EtcdError> {
    let mut tls = TlsOptions::new().timeout(CONNECT_LIMIT);
    tls = match &target.cafile {
        Some(cafile) => {
            tls.ca_certificate(etcd_client::Certificate::from_pem(read(cafile, CAFILE.name).await?))
        }
        None => tls.with_enabled_roots(),
    };
    if let Some((certificate, key)) = &target.identity {
        let (certificate, key) = (read(certificate, CERTFILE.name).await?, read(key, KEYFILE.name).await?);
        tls = tls.identity(etcd_client::Identity::from_pem(certificate, key));
    }
    Ok(tls)
}

async fn read(path: &Path, flag: &'static str) -> Result<Vec<u8>, EtcdError> {
    let unusable = |cause: String| unusable(path, flag, cause);
    let text = tokio::fs::read(path).await.map_err(|error| unusable(error.to_string()))?;
    // The TLS library treats a CA file without certificates as an empty list.
    let armoured = text.windows(PEM_BEGIN.len()).any(|window| window == PEM_BEGIN);
    if armoured { Ok(text) } else { Err(unusable("it holds no PEM block".to_owned())) }
}

const PEM_BEGIN: &[u8] = b"-----BEGIN ";

fn unusable(path: &Path, flag: &str, cause: String) -> EtcdError {
    let path = path.display();
    let text = format!(
        "could not use {path} given as --{flag}; check that it exists, is readable and in PEM format"
    );
    EtcdError::new(Kind::Certificate, text, Some(cause))
}

/// If a client cannot be prepared, the TLS library rejected a certificate.
fn unusable_files(target: &Target, error: etcd_client::Error) -> Result<EtcdError, etcd_client::Error> {
    let etcd_client::Error::TransportError(error) = error else { return Err(error) };
    let (path, flag) = match (&target.identity, &target.cafile) {
        (Some((certificate, _)), _) => (certificate, CERTFILE.name),
        (None, Some(cafile)) => (cafile, CAFILE.name),
        (None, None) => return Err(etcd_client::Error::TransportError(error)),
    };
    Ok(unusable(path, flag, innermost(&error)))
}

/// Requests a token. The response needs a quorum, so it proves that the endpoint works.
async fn authenticate(
    client: &mut Client,
    target: &Target,
    endpoint: &Endpoint,
    login: &(String, String),
) -> Result<(), EtcdError> {
    let error = match client.update_user(Some(login.clone())).await {
        Ok(()) => return Ok(()),
        // Authentication is not enabled.
        Err(error) if answer(&error) == Some(FAILED_PRECONDITION) => return Ok(()),
        Err(error) => error,
    };
    let failure =
        Failure { target, endpoint: &endpoint.url, fresh: true, operation: Operation::Authenticate };
    let error = failure.classify(error);
    if error.kind != Kind::Login {
        return Err(error);
    }
    let text = format!(
        "etcd at {} refuses user {:?} or its password; check --etcd-username and --etcd-password",
        endpoint.url, login.0
    );
    Err(EtcdError { text, ..error })
}

/// A small read that needs a quorum: a member without connection to the others must not win the race.
async fn probe(client: &mut Client, target: &Target, failure: &Failure<'_>) -> Result<(), EtcdError> {
    let request = client.get(target.keys.config.as_str(), Some(GetOptions::new().with_count_only()));
    match request.await.map_err(|error| failure.classify(error)) {
        // A response, too; the request itself reports what is missing.
        Err(error) if !matches!(error.kind, Kind::Permission | Kind::Login) => Err(error),
        _ => Ok(()),
    }
}
