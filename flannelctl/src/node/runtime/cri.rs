//! The Container Runtime Interface, as far as the doctor uses it: the status of a running runtime.
//!
//! The messages are those of `api.proto` of the interface with the fields that are used here, so that a build needs
//! neither the file nor its compiler.

use prost::Message;
use serde_json::Value;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::settings::Settings;
use crate::node::process;

/// What a running runtime reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Running {
    /// Start of its process, if known.
    pub(crate) started: Option<SystemTime>,
    /// The effective settings, if it reports them.
    pub(crate) settings: Option<Settings>,
    /// Why pods have no network, in the words of the runtime; empty if they have.
    pub(crate) words: Vec<String>,
    /// The networks that it has loaded; empty if it does not report them.
    pub(crate) networks: Vec<Network>,
}

/// A network that a runtime has loaded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Network {
    pub(crate) name: String,
    /// The chained plugins.
    pub(crate) plugins: Vec<Value>,
}

/// The reason why a runtime did not report its status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatusError {
    #[error("could not connect")]
    Connect(#[source] io::Error),
    #[error("not the path of a socket")]
    Path(#[source] tonic::transport::Error),
    /// The runtime runs for other clients only, such as Docker.
    #[error("its CRI plugin is disabled")]
    Disabled,
    #[error("no response in {} seconds", .0.as_secs())]
    TimedOut(Duration),
    #[error("{}", .0.message())]
    Rejected(Status),
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {
    #[prost(bool, tag = "1")]
    verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<RuntimeCondition>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeCondition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "3")]
    reason: String,
    #[prost(string, tag = "4")]
    message: String,
}

/// The method in both versions of the interface; the messages are the same. containerd before 1.6 has only the second.
const METHODS: [&str; 2] = ["/runtime.v1.RuntimeService/Status", "/runtime.v1alpha2.RuntimeService/Status"];
/// The condition whether pods get a network.
const NETWORK_READY: &str = "NetworkReady";

/// Requests the status of a runtime, with the verbose part as it is. The caller limits the time.
pub(super) async fn status(socket: &Path) -> Result<(Running, HashMap<String, String>), StatusError> {
    let stream = UnixStream::connect(socket).await.map_err(StatusError::Connect)?;
    // The first process of a system holds the sockets of others until they are used.
    let process = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|process| *process > 1);
    drop(stream);
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).map_err(StatusError::Path)?;
    let mut client = Grpc::new(endpoint.connect_lazy());
    for method in METHODS {
        match request(&mut client, method).await {
            Ok(StatusResponse { status, info }) => {
                let started = process.and_then(process::started);
                let words = status.iter().flat_map(words).collect();
                return Ok((Running { started, words, ..Running::default() }, info));
            }
            Err(status) if status.code() == Code::Unimplemented => {}
            Err(status) => return Err(StatusError::Rejected(status)),
        }
    }
    Err(StatusError::Disabled)
}

async fn request(client: &mut Grpc<Channel>, method: &'static str) -> Result<StatusResponse, Status> {
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(method);
    let codec: ProstCodec<StatusRequest, StatusResponse> = ProstCodec::default();
    let response = client.unary(Request::new(StatusRequest { verbose: true }), path, codec).await?;
    Ok(response.into_inner())
}

/// Why pods have no network, according to the conditions.
fn words(status: &RuntimeStatus) -> impl Iterator<Item = String> {
    let failed =
        status.conditions.iter().filter(|condition| condition.kind == NETWORK_READY && !condition.status);
    failed.map(|RuntimeCondition { reason, message, .. }| format!("{reason}: {message}"))
}
