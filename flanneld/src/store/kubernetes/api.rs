//! Requests to the Kubernetes API. Connection and identity are those of `kube`; requests and bodies are our own.
//!
//! Every call is one attempt with a time limit. Only a request that the server rejected because of an old token is repeated, with the
//! credentials read again.

use flannel_core::kubernetes::{self, ApiStatus, WireError};
use http_body_util::BodyExt as _;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::error::Error;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};
use tokio::sync;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{RequestError, malformed, rejected, timed_out, unreachable, unusable};
use super::options::KubernetesOptions;
use crate::error::{chain, is_elapsed};
use crate::http::Bytes;
use crate::store::error::StoreError;
use crate::store::operation::Operation;
use crate::store::stats::StoreStats;

/// Time limit of a call. A control plane that changes its leader needs seconds.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Time limit of a listing until its answer begins, and of each piece of it: a busy server encodes all nodes first.
pub(super) const LIST_LIMIT: Duration = Duration::from_secs(30);
/// Where a pod has its identity.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Objects and errors are smaller.
const BODY_LIMIT: usize = 16 << 20;

/// The form of an answer that is requested.
pub(super) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON: &str = "application/json";

/// Whether objects are requested whole, or their metadata alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Metadata,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) path: String,
    /// The `Accept` header.
    pub(super) accept: String,
    /// What is written; `None` is a GET.
    pub(super) content: Option<Content>,
}

/// What a request writes, as JSON.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A strategic merge patch.
    Patch(String),
    /// A new object, or a question.
    New(String),
}

/// The API server.
pub(super) struct Api {
    options: KubernetesOptions,
    link: sync::Mutex<Option<Link>>,
    stats: sync::watch::Sender<StoreStats>,
}

/// A client, which keeps its connections.
#[derive(Clone)]
struct Link {
    client: Client,
    url: String,
    made: Instant,
}

/// A successful answer whose body has not been read.
pub(super) struct Answer {
    pub(super) url: String,
    pub(super) is_json: bool,
    pub(super) body: Body,
}

impl Call {
    /// A GET for one object, in any form.
    pub(super) fn get(operation: Operation, path: String) -> Self {
        Self { operation, path, accept: accept(false, Part::Whole, false), content: None }
    }

    /// The same, in JSON only.
    pub(super) fn in_json(self) -> Self {
        Self { accept: accept(true, Part::Whole, false), ..self }
    }

    /// A strategic merge patch; the answer is the object.
    pub(super) fn patch(operation: Operation, path: String, patch: String) -> Self {
        Self { content: Some(Content::Patch(patch)), ..Self::get(operation, path) }
    }
}

/// Returns an `Accept` header. JSON comes second, for a server or proxy that does not offer protocol buffers.
pub(super) fn accept(json_only: bool, part: Part, is_stream: bool) -> String {
    let kind = match (part, is_stream) {
        (Part::Whole, _) => "",
        (Part::Metadata, false) => ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        (Part::Metadata, true) => ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    };
    let json = format!("{JSON}{kind}");
    let stream = if is_stream { ";stream=watch" } else { "" };
    if json_only { json } else { format!("{PROTOBUF}{stream}{kind},{json}") }
}

impl Api {
    pub(super) fn new(options: KubernetesOptions) -> Self {
        Self { options, link: sync::Mutex::default(), stats: sync::watch::Sender::default() }
    }

    pub(super) fn stats(&self) -> StoreStats {
        *self.stats.borrow()
    }

    /// Sends a request and reads the answer.
    pub(super) async fn call(&self, call: &Call) -> Result<(Bytes, bool), RequestError> {
        let started = Instant::now();
        let result = async {
            let answer = self.send(call).await?;
            let body = collect(answer.body, call.operation, &answer.url, started + CALL_LIMIT).await?;
            Ok((body, answer.is_json))
        }
        .await;
        self.count(call.operation, started, &result);
        result
    }

    /// Sends a request, and returns the answer without its body. The caller counts it.
    pub(super) async fn send(&self, call: &Call) -> Result<Answer, RequestError> {
        let limit = if call.operation == Operation::List { LIST_LIMIT } else { CALL_LIMIT };
        let deadline = Instant::now() + limit;
        let mut is_repeated = false;
        loop {
            let link = self.link(call.operation, deadline).await.map_err(RequestError::Failed)?;
            let sent = timeout_at(deadline, link.client.send(request(call)?)).await;
            let response = match sent {
                Err(_) => {
                    self.forget(&link).await;
                    return Err(RequestError::Failed(timed_out(&link.url, call.operation, limit)));
                }
                Ok(Err(error)) => {
                    self.forget(&link).await;
                    return Err(RequestError::Failed(unreachable(&link.url, call.operation, &cause(&error))));
                }
                Ok(Ok(response)) => response,
            };
            if response.status() == StatusCode::UNAUTHORIZED && !is_repeated {
                // Nothing was executed. The token may have been replaced since it was read.
                is_repeated = true;
                self.forget(&link).await;
                continue;
            }
            return check(response, call.operation, link.url, deadline).await;
        }
    }

    pub(super) fn count<T>(&self, operation: Operation, started: Instant, result: &Result<T, RequestError>) {
        let failed =
            matches!(result, Err(RequestError::Failed(error)) if !matches!(error, StoreError::Raced));
        self.stats.send_modify(|stats| stats.record(operation, started.elapsed(), failed));
    }

    /// Returns the present client, or a new one.
    async fn link(&self, operation: Operation, deadline: Instant) -> Result<Link, StoreError> {
        let mut link = self.link.lock().await;
        if let Some(link) = &*link {
            return Ok(link.clone());
        }
        let config = timeout_at(deadline, self.config())
            .await
            .map_err(|_| timed_out(&self.location(), operation, CALL_LIMIT))??;
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = Client::try_from(config).map_err(|error| {
            unusable(format!("could not use the identity for the Kubernetes API: {}", chain(&error)))
        })?;
        Ok(link.insert(Link { client, url, made: Instant::now() }).clone())
    }

    /// Drops a client: the next one reads all credentials again.
    async fn forget(&self, failed: &Link) {
        let mut link = self.link.lock().await;
        if link.as_ref().is_some_and(|current| current.made == failed.made) {
            *link = None;
        }
    }

    /// Reads the credentials.
    async fn config(&self) -> Result<Config, StoreError> {
        let KubernetesOptions { kubeconfig, api_url, service, root, .. } = &self.options;
        let parse = |url: &str| url.parse().map_err(|_| unusable(format!("{url:?} is not a URL")));
        let mut config = match (kubeconfig, api_url) {
            (Some(path), _) => {
                let fail = |error: &dyn Error| {
                    unusable(format!("could not use the kubeconfig {}: {}", path.display(), chain(error)))
                };
                let mut file =
                    Kubeconfig::read_from(self.options.path(path)).map_err(|error| fail(&error))?;
                if let Some(root) = root {
                    place_files(&mut file, root);
                }
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| fail(&error))?
            }
            (None, Some(url)) => Config::new(parse(url)?),
            (None, None) if root.is_some() => {
                let mut config = Config::new(parse(service.as_deref().unwrap_or_default())?);
                let file = |name: &str| self.options.path(&Path::new(SERVICE_ACCOUNT).join(name));
                config.root_cert_file = Some(file("ca.crt"));
                let token_file = Some(file("token").display().to_string());
                config.auth_info = AuthInfo { token_file, ..AuthInfo::default() };
                config
            }
            (None, None) => Config::incluster().map_err(|error| {
                unusable(format!("could not use the service account of the pod: {}", chain(&error)))
            })?,
        };
        if let Some(url) = api_url {
            config.cluster_url = parse(url)?;
        }
        trim_token(&mut config);
        config.connect_timeout = Some(CONNECT_LIMIT);
        // The caller decides about retries and time limits.
        config.default_retry = false;
        config.read_timeout = None;
        config.write_timeout = None;
        Ok(config)
    }

    /// Where the API is, for messages.
    pub(super) fn location(&self) -> String {
        let KubernetesOptions { kubeconfig, api_url, service, root, .. } = &self.options;
        match (api_url, kubeconfig) {
            (Some(url), _) => url.clone(),
            (None, Some(path)) => format!("the server of {}", path.display()),
            (None, None) if root.is_some() => service.clone().unwrap_or_default(),
            (None, None) => "the cluster of this pod".to_owned(),
        }
    }
}

/// Compatibility: Go removes white space around the token in a file, such as the line break at its end; kube does not. Such a file is
/// read again when the server rejects its token.
fn trim_token(config: &mut Config) {
    let user = &mut config.auth_info;
    let text = user.token_file.as_ref().and_then(|file| fs::read_to_string(file).ok());
    if let Some(text) = text.filter(|text| text.trim() != text) {
        user.token_file = None;
        user.token = Some(text.trim().to_owned().into());
    }
}

/// Prefixes the absolute paths in the kubeconfig of a process with its root directory.
fn place_files(kubeconfig: &mut Kubeconfig, root: &Path) {
    let place = |path: &mut Option<String>| {
        let relative = path.as_ref().and_then(|path| Path::new(path).strip_prefix("/").ok());
        if let Some(relative) = relative.filter(|relative| !Path::new("/").join(relative).starts_with(root)) {
            *path = Some(root.join(relative).display().to_string());
        }
    };
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        place(&mut cluster.certificate_authority);
    }
    for user in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        place(&mut user.client_certificate);
        place(&mut user.client_key);
        place(&mut user.token_file);
    }
}

fn request(call: &Call) -> Result<Request<Body>, RequestError> {
    let invalid = |error: hyper::http::Error| {
        RequestError::Failed(unusable(format!("the request {} is invalid: {error}", call.path)))
    };
    let accept = HeaderValue::from_str(&call.accept).map_err(|error| invalid(error.into()))?;
    let builder = Request::builder().uri(&call.path).header(ACCEPT, accept);
    let (method, kind, text) = match &call.content {
        None => return builder.method(Method::GET).body(Body::empty()).map_err(invalid),
        Some(Content::Patch(text)) => (Method::PATCH, "application/strategic-merge-patch+json", text),
        Some(Content::New(text)) => (Method::POST, JSON, text),
    };
    builder
        .method(method)
        .header(CONTENT_TYPE, kind)
        .body(Body::from(text.clone().into_bytes()))
        .map_err(invalid)
}

/// Returns the answer, or the error in it.
async fn check(
    response: Response<Body>,
    operation: Operation,
    url: String,
    deadline: Instant,
) -> Result<Answer, RequestError> {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let (is_json, status) = (!kind.starts_with(PROTOBUF), response.status());
    let body = response.into_body();
    if status.is_success() {
        return Ok(Answer { url, is_json, body });
    }
    let body = collect(body, operation, &url, deadline).await?;
    let decoded =
        if is_json { kubernetes::json::decode_status(&body) } else { kubernetes::decode_status(&body) };
    // A proxy answers in plain text.
    let message = || String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned();
    let decoded =
        decoded.unwrap_or_else(|_: WireError| ApiStatus { message: message(), ..ApiStatus::default() });
    Err(rejected(&url, operation, &ApiStatus { code: status.as_u16(), ..decoded }))
}

/// Reads a short body.
async fn collect(
    mut body: Body,
    operation: Operation,
    url: &str,
    deadline: Instant,
) -> Result<Bytes, RequestError> {
    let mut whole = Vec::new();
    loop {
        match timeout_at(deadline, body.frame()).await {
            Err(_) => return Err(RequestError::Failed(timed_out(url, operation, CALL_LIMIT))),
            Ok(None) => return Ok(whole.into()),
            Ok(Some(Err(error))) => {
                return Err(RequestError::Failed(unreachable(url, operation, &cause(&error))));
            }
            Ok(Some(Ok(frame))) => whole.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
        }
        if whole.len() > BODY_LIMIT {
            return Err(RequestError::Failed(malformed(url, operation, &WireError::Invalid)));
        }
    }
}

/// Reads the next piece of a long body; `None` is its end. Cancel-safe.
pub(super) async fn piece(
    answer: &mut Answer,
    operation: Operation,
    limit: Option<Duration>,
) -> Result<Option<Bytes>, StoreError> {
    let frame = match limit {
        Some(limit) => {
            timeout(limit, answer.body.frame()).await.map_err(|_| timed_out(&answer.url, operation, limit))?
        }
        None => answer.body.frame().await,
    };
    match frame {
        None => Ok(None),
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
        Some(Err(error)) => Err(unreachable(&answer.url, operation, &cause(&error))),
    }
}

/// The text of a failed request, without the layers of kube, which repeat it.
fn cause(error: &kube::Error) -> String {
    if is_timeout(error) {
        return format!("no connection in {} s", CONNECT_LIMIT.as_secs());
    }
    match error {
        error if is_elapsed(error) => {
            format!("it did not accept a connection in {} s", CONNECT_LIMIT.as_secs())
        }
        kube::Error::Service(error) => chain(error.as_ref()),
        kube::Error::HyperError(error) => chain(error),
        error => chain(error),
    }
}

/// Whether the time limit of a connection is the cause.
fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    let is_own = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    error.downcast_ref().is_some_and(is_own) || error.source().is_some_and(is_timeout)
}
