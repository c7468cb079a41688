//! A model of CRI-O's socket, since no package of Debian contains CRI-O: gRPC for the Container Runtime Interface, and
//! HTTP/1.1 for `/config`, told apart by the first bytes as CRI-O does. Made from the source of CRI-O 1.34
//! (`server/runtime_status.go`, `server/inspect.go`, `internal/config/cnimgr`) and of ocicni (`loadNetworks`), on which it
//! relies for the rules: a config that is invalid or has a plugin that is not installed is skipped, and the status names only
//! the directory.

use anyhow::{Context, Result};
use h2::RecvStream;
use h2::server::SendResponse;
use integration::Node;
use k8s_cri::v1::{RuntimeCondition, RuntimeStatus, StatusRequest, StatusResponse};
use prost::Message as _;
use prost::bytes::Bytes;
use serde_json::{Value, json};
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tonic::codegen::http::{HeaderMap, Request, Response};

/// A running model. It ends with the test.
pub(crate) struct CriO {
    _thread: JoinHandle<()>,
}

/// The settings that it was started with.
struct Settings {
    text: String,
    /// Where the node keeps the files of `network_dir`.
    kept: PathBuf,
    network_dir: String,
    plugin_dirs: Vec<PathBuf>,
    network: String,
}

impl CriO {
    /// Starts it with a configuration.
    pub(crate) fn start(socket: &Path, text: &str, node: &Node) -> Result<Self> {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix('='));
            let line = line.with_context(|| format!("no {key} in {text}"))?;
            Ok::<_, anyhow::Error>(line.trim().trim_matches(['[', ']', '\'']).to_owned())
        };
        let network_dir = value("network_dir")?;
        let settings = Arc::new(Settings {
            text: format!("[crio]\nroot = \"/var/lib/containers/storage\"\n\n{text}"),
            kept: node.file(&network_dir)?,
            network_dir,
            plugin_dirs: vec![value("plugin_dirs")?.into()],
            network: value("cni_default_network")?,
        });
        let runtime = Builder::new_current_thread().enable_all().build().context("no runtime")?;
        let listener = {
            let _guard = runtime.enter();
            UnixListener::bind(socket).with_context(|| format!("could not listen on {}", socket.display()))?
        };
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let settings = Arc::clone(&settings);
                    connections.spawn(async move { serve(stream, &settings).await });
                }
            });
        });
        Ok(Self { _thread: thread })
    }
}

async fn serve(mut stream: UnixStream, settings: &Arc<Settings>) -> Result<()> {
    let mut first = [0; 3];
    stream.read_exact(&mut first).await?;
    if &first == b"PRI" {
        return serve_grpc(first, stream, settings).await;
    }
    let mut head = first.to_vec();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let (status, body) = match head.starts_with(b"GET /config ") {
        true => ("200 OK", settings.text.as_str()),
        false => ("404 Not Found", "404 page not found\n"),
    };
    let length = body.len();
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/toml\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    Ok(stream.write_all(response.as_bytes()).await?)
}

async fn serve_grpc(first: [u8; 3], stream: UnixStream, settings: &Arc<Settings>) -> Result<()> {
    let (reader, writer) = stream.into_split();
    let stream = tokio::io::join(Cursor::new(first).chain(reader), writer);
    let mut connection = h2::server::handshake(stream).await?;
    // The body of a request arrives only while the connection is served.
    let mut responses = JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let (request, responder) = accepted?;
        responses.spawn(respond(request, responder, Arc::clone(settings)));
    }
    Ok(())
}

async fn respond(
    request: Request<RecvStream>,
    mut responder: SendResponse<Bytes>,
    settings: Arc<Settings>,
) -> Result<()> {
    let is_status = request.uri().path() == "/runtime.v1.RuntimeService/Status";
    let mut body = request.into_body();
    let mut message = Vec::new();
    while let Some(part) = body.data().await {
        message.extend_from_slice(&part?);
    }
    let head = Response::builder().header("content-type", "application/grpc");
    let mut stream = responder.send_response(head.body(())?, false)?;
    let mut trailers = HeaderMap::new();
    if is_status {
        // A gRPC message has a flag and its length before it.
        let verbose = StatusRequest::decode(message.get(5..).unwrap_or_default())?.verbose;
        let message = settings.status(verbose).encode_to_vec();
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len())?.to_be_bytes());
        frame.extend(message);
        stream.send_data(Bytes::from(frame), false)?;
        trailers.insert("grpc-status", "0".parse()?);
    } else {
        trailers.insert("grpc-status", "12".parse()?);
    }
    Ok(stream.send_trailers(trailers)?)
}

impl Settings {
    fn status(&self, verbose: bool) -> StatusResponse {
        let condition = |r#type: &str, failure: Option<String>| RuntimeCondition {
            r#type: r#type.to_owned(),
            status: failure.is_none(),
            reason: failure.as_ref().map_or_else(String::new, |_| "NetworkPluginNotReady".to_owned()),
            message: failure.unwrap_or_default(),
        };
        let network = condition("NetworkReady", self.failure());
        let conditions = vec![condition("RuntimeReady", None), network];
        let mut response =
            StatusResponse { status: Some(RuntimeStatus { conditions }), ..StatusResponse::default() };
        if verbose {
            let config =
                json!({"sandboxImage": "registry.k8s.io/pause:3.10", "crio": {"DefaultRuntime": "crun"}});
            response.info.insert("config".to_owned(), config.to_string());
        }
        response
    }

    /// What the status reports if there is no default network.
    fn failure(&self) -> Option<String> {
        let mut names: Vec<PathBuf> =
            fs::read_dir(&self.kept).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        names.sort();
        let found = names.iter().filter_map(|path| self.network_of(path));
        let is_default = |name: &String| self.network.is_empty() || *name == self.network;
        if found.into_iter().any(|name| is_default(&name)) {
            return None;
        }
        Some(format!(
            "Network plugin returns error: no CNI configuration file in {}/. Has your network provider started?",
            self.network_dir.trim_end_matches('/')
        ))
    }

    /// The name of the network of a file, if it is valid and its plugins are installed.
    fn network_of(&self, path: &Path) -> Option<String> {
        let value: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
        let plugins = value["plugins"].as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        let is_installed = |plugin: &Value| {
            let name = plugin["type"].as_str().unwrap_or_default();
            self.plugin_dirs.iter().any(|directory| directory.join(name).is_file())
        };
        plugins.iter().all(is_installed).then(|| value["name"].as_str().unwrap_or_default().to_owned())
    }
}
