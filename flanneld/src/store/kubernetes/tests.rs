//! The store on a server that answers what a test wants, for what a real API server does not do on request. The bodies are those of
//! a real one.

use flannel_core::lease::Revision;
use flannel_core::store::Change;
use http_body_util::Full;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Request, Response};
use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::options::KubernetesOptions;
use super::store::KubernetesStore;
use crate::http::{Bytes, serve};
use crate::store::{LeaseStore as _, Serving, StoreError, WatchEvent};

const LIST: &[u8] = include_bytes!("../../../../flannel-core/src/kubernetes/samples/list.pb");
const PAGE: &[u8] = include_bytes!("../../../../flannel-core/src/kubernetes/samples/page1.pb");
const STREAM: &[u8] = include_bytes!("../../../../flannel-core/src/kubernetes/samples/stream.pb");
const WATCH: &[u8] = include_bytes!("../../../../flannel-core/src/kubernetes/samples/watch.pb");
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON: &str = "application/json";

const STREAM_FORM: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// What the server answers, in order: status, form and body.
type Script = VecDeque<(u16, &'static str, Bytes)>;

struct Scene {
    store: KubernetesStore,
    script: Arc<Mutex<Script>>,
    /// Path and `Accept` of each request.
    requests: Arc<Mutex<Vec<(String, String)>>>,
    config: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<()>,
    _directory: TempDir,
}

impl Scene {
    /// A server without streaming lists, which a client learns from the first one that it requests.
    async fn start() -> Self {
        let scene = Self::start_with(false).await;
        scene.answer(422, JSON, status(422, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden"));
        scene
    }

    /// With `--report-node-network-unavailable`, if requested.
    async fn start_with(reports_unavailable: bool) -> Self {
        let directory = TempDir::new().unwrap();
        let config = directory.path().join("net-conf.json");
        fs::write(&config, r#"{"Network":"10.42.0.0/16"}"#).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::<Mutex<Script>>::default();
        let requests = Arc::<Mutex<Vec<(String, String)>>>::default();
        let service = {
            let (script, requests) = (Arc::clone(&script), Arc::clone(&requests));
            move |request: Request<hyper::body::Incoming>| {
                let accept = request.headers()[ACCEPT].to_str().unwrap().to_owned();
                let method = if request.method() == "GET" { "" } else { "PATCH " };
                requests.lock().unwrap().push((format!("{method}{}", request.uri()), accept));
                let (status, kind, body) =
                    script.lock().unwrap().pop_front().unwrap_or((500, JSON, Bytes::from_static(b"{}")));
                let response = Response::builder().status(status).header(CONTENT_TYPE, kind);
                async move { response.body(Full::new(body)).unwrap() }
            }
        };
        let stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "a test has no JoinSet of the daemon")]
        let task = tokio::spawn(serve(listener, service, stop.clone()));
        let file = config.display().to_string();
        let value = move |flag: &crate::flag::Flag| match flag.name {
            "kube-api-url" => Some(url.clone()),
            "net-config-path" => Some(file.clone()),
            "report-node-network-unavailable" => Some(reports_unavailable.to_string()),
            _ => None,
        };
        let env = |name: &str| (name == "NODE_NAME").then(|| "node-1".to_owned());
        let store = KubernetesStore::new(KubernetesOptions::new(value, env).unwrap());
        Self { store, script, requests, config, stop, task, _directory: directory }
    }

    fn answer(&self, status: u16, kind: &'static str, body: impl Into<Bytes>) {
        self.script.lock().unwrap().push_back((status, kind, body.into()));
    }

    fn requests(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn status(code: u16, message: &str) -> String {
    format!(r#"{{"kind":"Status","message":"{message}","code":{code}}}"#)
}

fn node_list(names: &[&str], next_page: &str) -> String {
    let items: Vec<String> = names
        .iter()
        .map(|name| format!(r#"{{"metadata":{{"name":"{name}","uid":"{name}","resourceVersion":"5"}}}}"#))
        .collect();
    format!(
        r#"{{"metadata":{{"resourceVersion":"9","continue":"{next_page}"}},"items":[{}]}}"#,
        items.join(",")
    )
}

#[tokio::test]
async fn a_listing_starts_again_when_its_pages_expire() {
    let scene = Scene::start().await;
    scene.answer(200, PROTOBUF, PAGE);
    scene.answer(410, JSON, status(410, "The provided continue parameter is too old"));
    scene.answer(200, PROTOBUF, LIST);
    let listing = scene.store.list().await.unwrap();
    assert_eq!(listing.revision, Revision::new(231));
    scene.requests.lock().unwrap().remove(0);
    let keys: Vec<&str> = listing.records.iter().map(|record| record.key.as_str()).collect();
    assert_eq!(keys, ["10.42.0.0-24"], "node-2 is not managed, and node-1 of the config without IPv6");
    assert_eq!(listing.own.published.unwrap().backend_type, "vxlan");
    assert_eq!(listing.config.unwrap().text, r#"{"Network":"10.42.0.0/16"}"#);
    let paths: Vec<String> = scene.requests().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths[0], "/api/v1/nodes?limit=500&resourceVersion=0");
    assert!(paths[1].starts_with("/api/v1/nodes?limit=500&continue=eyJ"), "{paths:?}");
    assert_eq!(paths[2], paths[0]);
    scene.end().await;
}

#[tokio::test]
async fn a_list_is_streamed_where_the_server_does() {
    let scene = Scene::start_with(false).await;
    scene.answer(200, STREAM_FORM, STREAM);
    let listing = scene.store.list().await.unwrap();
    let keys: Vec<&str> = listing.records.iter().map(|record| record.key.as_str()).collect();
    assert_eq!(keys, ["10.42.0.0-24", "10.42.1.0-24"]);
    let requests = scene.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(
        requests[0].0.contains("sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
        "{requests:?}"
    );
    assert!(requests[0].1.starts_with("application/vnd.kubernetes.protobuf;stream=watch,"), "{requests:?}");
    // One that ends before its bookmark is no listing.
    scene.answer(200, STREAM_FORM, &STREAM[..STREAM.len() - 20]);
    assert!(matches!(scene.store.list().await, Err(StoreError::Unavailable(_))));
    // The next one comes in pages.
    scene.answer(200, PROTOBUF, LIST);
    scene.store.list().await.unwrap();
    // Of a server on an old etcd, which says so in the stream.
    scene.requests();
    let error =
        format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", status(500, "RequestWatchProgress is disabled"));
    scene.answer(200, JSON, error);
    scene.answer(200, PROTOBUF, LIST);
    assert_eq!(scene.store.list().await.unwrap().revision, Revision::new(231));
    scene.answer(200, PROTOBUF, LIST);
    scene.store.list().await.unwrap();
    assert_eq!(scene.requests().len(), 3, "it is not requested again");
    scene.end().await;
}

#[tokio::test]
async fn json_is_used_where_a_proxy_breaks_protobuf() {
    let scene = Scene::start().await;
    let mut damaged = LIST.to_vec();
    damaged[40] = 0xff;
    damaged.truncate(60);
    scene.answer(200, PROTOBUF, damaged);
    assert!(matches!(scene.store.list().await, Err(StoreError::Unavailable(_))));
    scene.answer(200, JSON, node_list(&["node-1"], "next"));
    scene.answer(200, JSON, node_list(&["node-2"], ""));
    assert_eq!(scene.store.list().await.unwrap().revision, Revision::new(9));
    let requests = scene.requests().split_off(1);
    assert!(requests[0].1.starts_with(PROTOBUF), "{requests:?}");
    assert_eq!(requests[1], ("/api/v1/nodes?limit=500".to_owned(), JSON.to_owned()));
    assert_eq!(requests[2].0, "/api/v1/nodes?limit=500&continue=next");
    // A server that offers nothing else needs no failure.
    scene.answer(200, JSON, node_list(&[], ""));
    scene.store.list().await.unwrap();
    scene.end().await;
}

/// A watch after a listing of `node-1` and `node-2`.
async fn watching(scene: &Scene, stream: impl Into<Bytes>) -> crate::store::Watch {
    scene.answer(200, PROTOBUF, LIST);
    let listing = scene.store.list().await.unwrap();
    scene.answer(200, STREAM_FORM, stream);
    scene.requests();
    scene.store.watch(listing.revision).await.unwrap()
}

#[tokio::test]
async fn a_watch_requests_metadata_and_ends_with_the_stream() {
    let scene = Scene::start().await;
    // These events are older than the listing: such a server has lost what it had.
    let mut watch = watching(&scene, WATCH).await;
    let (path, accept) = scene.requests().remove(0);
    assert!(
        path.starts_with("/api/v1/nodes?watch=1&allowWatchBookmarks=true&resourceVersion=231&"),
        "{path}"
    );
    assert!(accept.starts_with("application/vnd.kubernetes.protobuf;stream=watch;as=PartialObjectMetadata;"));
    assert_eq!(watch.next().await.unwrap(), WatchEvent::Outdated);
    let mut watch = watching(&scene, Bytes::new()).await;
    assert!(matches!(watch.next().await, Err(StoreError::Unavailable(_))));
    scene.end().await;
}

#[tokio::test]
async fn a_revision_that_is_too_old_means_listing_again() {
    let scene = Scene::start().await;
    scene.answer(200, PROTOBUF, LIST);
    let after = scene.store.list().await.unwrap().revision;
    scene.answer(410, JSON, status(410, "too old resource version"));
    assert_eq!(scene.store.watch(after).await.unwrap().next().await.unwrap(), WatchEvent::Outdated);
    // In the stream, as JSON.
    scene.answer(200, JSON, node_list(&[], ""));
    let expired = format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", status(410, "too old resource version"));
    scene.answer(200, JSON, expired);
    let revision = Revision::new(9);
    assert_eq!(scene.store.watch(revision).await.unwrap().next().await.unwrap(), WatchEvent::Outdated);
    // After a break: a store restored from a backup counts from an earlier revision.
    scene.answer(200, JSON, node_list(&[], ""));
    assert_eq!(scene.store.watch(after).await.unwrap().next().await.unwrap(), WatchEvent::Outdated);
    scene.end().await;
}

#[tokio::test]
async fn the_network_config_is_delivered_when_it_changes() {
    let scene = Scene::start().await;
    scene.answer(200, PROTOBUF, LIST);
    let after = scene.store.list().await.unwrap().revision;
    fs::write(&scene.config, r#"{"Network":"10.40.0.0/13"}"#).unwrap();
    scene.answer(200, JSON, "");
    let WatchEvent::Changes { revision, changes } =
        scene.store.watch(after).await.unwrap().next().await.unwrap()
    else {
        panic!("no change");
    };
    assert_eq!(revision, after);
    let [Change::Config(Some(config))] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!(config.text, r#"{"Network":"10.40.0.0/13"}"#);
    fs::remove_file(&scene.config).unwrap();
    scene.answer(200, JSON, node_list(&[], ""));
    assert_eq!(scene.store.list().await.unwrap().config, None);
    scene.end().await;
}

#[tokio::test]
async fn a_rejected_token_is_read_again_once() {
    let scene = Scene::start().await;
    scene.answer(401, JSON, status(401, "Unauthorized"));
    scene.answer(200, PROTOBUF, LIST);
    scene.store.list().await.unwrap();
    scene.answer(401, JSON, status(401, "Unauthorized"));
    scene.answer(401, JSON, status(401, "Unauthorized"));
    let error = scene.store.list().await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("rejects the identity"), "{error}");
    scene.answer(403, JSON, status(403, "nodes is forbidden"));
    let error = scene.store.list().await.unwrap_err();
    assert!(error.to_string().contains("verbs: [get, list, watch]"), "{error}");
    scene.answer(503, "text/plain", "upstream connect error");
    let error = scene.store.list().await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("upstream connect error"), "{error}");
    scene.end().await;
}

#[tokio::test]
async fn readiness_is_reported_once() {
    let node = |condition: &str| {
        format!(
            r#"{{"metadata":{{"name":"node-1","uid":"u","resourceVersion":"5"}},"status":{{"conditions":[{condition}]}}}}"#
        )
    };
    let up = r#"{"type":"NetworkUnavailable","status":"False","reason":"FlannelIsUp","message":"Flannel is running on this node"}"#;
    let scene = Scene::start_with(false).await;
    let not_ready = Serving::NotReady("no route".to_owned());
    scene.store.announce(&not_ready).await.unwrap();
    assert_eq!(scene.requests(), [], "without the flag, nobody is told");
    scene.answer(200, JSON, node(""));
    scene.answer(200, JSON, node(up));
    scene.store.announce(&Serving::Ready).await.unwrap();
    scene.answer(200, JSON, node(up));
    scene.store.announce(&Serving::Ready).await.unwrap();
    let paths: Vec<String> = scene.requests().into_iter().map(|(path, _)| path).collect();
    let node_path = "/api/v1/nodes/node-1";
    assert_eq!(paths, [node_path, "PATCH /api/v1/nodes/node-1/status", node_path]);
    scene.answer(404, JSON, status(404, "not found"));
    scene.store.announce(&Serving::Ready).await.unwrap();
    scene.end().await;

    let scene = Scene::start_with(true).await;
    scene.answer(200, JSON, node(up));
    scene.answer(403, JSON, status(403, "nodes is forbidden"));
    let error = scene.store.announce(&not_ready).await.unwrap_err();
    assert!(error.to_string().contains("resources: [nodes/status], verbs: [patch]"), "{error}");
    scene.end().await;
}
