//! The same objects as JSON, for a proxy that does not pass protocol buffers on.

use serde::Deserialize;
use std::collections::BTreeMap;

use super::annotations::Prefix;
use super::list::ListEnd;
use super::node::{Condition, Node, PodCidrs, note_other, revision};
use super::watch::{ApiStatus, INITIAL_END, WatchItem, item};
use super::wire::WireError;
use crate::lease::Revision;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonNode {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    uid: String,
    resource_version: String,
    creation_timestamp: String,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Deserialize)]
struct Pod {
    spec: PodSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    node_name: String,
}

#[derive(Deserialize)]
struct ConfigMap {
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Review {
    status: ReviewStatus,
}

#[derive(Deserialize)]
struct ReviewStatus {
    allowed: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    conditions: Vec<JsonCondition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
}

#[derive(Deserialize)]
struct List {
    metadata: ListMetadata,
    items: Option<Vec<JsonNode>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
    #[serde(default, rename = "continue")]
    next_page: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    message: String,
    reason: String,
    code: u16,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

impl JsonNode {
    fn into_node(self, prefix: &Prefix) -> Result<(Node, bool), WireError> {
        let Self { metadata, spec, status } = self;
        let mut node = Node {
            name: metadata.name,
            uid: metadata.uid,
            revision: revision(&metadata.resource_version)?,
            created: unix_secs(&metadata.creation_timestamp).unwrap_or_default(),
            pod_cidrs: PodCidrs(spec.pod_cidrs),
            ..Node::default()
        };
        if node.pod_cidrs.0.is_empty() && !spec.pod_cidr.is_empty() {
            node.pod_cidrs.0.push(spec.pod_cidr);
        }
        let mut is_initial = false;
        for (name, value) in metadata.annotations.unwrap_or_default() {
            is_initial |= name == INITIAL_END;
            match prefix.key(name.as_bytes()) {
                Some(key) => node.annotations.set(key, value),
                None => note_other(&mut node, name.as_bytes(), value.as_bytes()),
            }
        }
        let condition =
            status.conditions.into_iter().find(|condition| condition.kind == "NetworkUnavailable");
        node.network_unavailable = condition.map(|JsonCondition { status, reason, message, .. }| Condition {
            status,
            reason,
            message,
        });
        Ok((node, is_initial))
    }
}

/// Converts a time such as `2026-01-02T03:04:05Z`.
/// Source of the calendar: <https://howardhinnant.github.io/date_algorithms.html#days_from_civil>.
fn unix_secs(time: &str) -> Option<i64> {
    let parts = time.split(|char: char| !char.is_ascii_digit()).take(6).map(|part| part.parse().ok());
    let [year, month, day, hours, minutes, seconds]: [i64; 6] =
        parts.collect::<Option<Vec<_>>>()?.try_into().ok()?;
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, WireError> {
    serde_json::from_slice(body).map_err(|error| WireError::Json(error.to_string()))
}

/// Decodes a node, or the metadata of one.
///
/// # Errors
///
/// Fails if the body is not a node.
pub fn decode_node(body: &[u8], prefix: &Prefix) -> Result<Node, WireError> {
    Ok(parse::<JsonNode>(body)?.into_node(prefix)?.0)
}

/// Returns the node that a pod is assigned to, if it is.
///
/// # Errors
///
/// Fails if the body is not a pod.
pub fn decode_pod_node(body: &[u8]) -> Result<Option<String>, WireError> {
    let Pod { spec } = parse(body)?;
    Ok(Some(spec.node_name).filter(|name| !name.is_empty()))
}

/// Decodes a ConfigMap: its revision, and the value of a key.
///
/// # Errors
///
/// Fails if the body is not a ConfigMap.
pub fn decode_config_map(body: &[u8], key: &str) -> Result<(Revision, Option<String>), WireError> {
    let ConfigMap { metadata, mut data } = parse(body)?;
    Ok((revision(&metadata.resource_version)?, data.remove(key)))
}

/// Decodes the answer to a `SelfSubjectAccessReview`.
///
/// # Errors
///
/// Fails if the body is not a review.
pub fn decode_review(body: &[u8]) -> Result<bool, WireError> {
    let Review { status } = parse(body)?;
    Ok(status.allowed)
}

/// Decodes a list of nodes.
///
/// # Errors
///
/// Fails if the body is not a list of nodes.
pub fn decode_list(body: &[u8], prefix: &Prefix) -> Result<(Vec<Node>, ListEnd), WireError> {
    let List { metadata, items } = parse(body)?;
    let nodes = items.unwrap_or_default().into_iter().map(|node| Ok(node.into_node(prefix)?.0));
    let end = ListEnd { revision: revision(&metadata.resource_version)?, next_page: metadata.next_page };
    Ok((nodes.collect::<Result<_, WireError>>()?, end))
}

/// Decodes the error in the body of a response.
///
/// # Errors
///
/// Fails if the body is not an error of the API server.
pub fn decode_status(body: &[u8]) -> Result<ApiStatus, WireError> {
    let Status { message, reason, code } = parse(body)?;
    Ok(ApiStatus { message, reason, code })
}

/// Decodes a line of a watch.
///
/// # Errors
///
/// Fails if the line is not an event of a node.
pub fn decode_event(line: &[u8], prefix: &Prefix) -> Result<WatchItem, WireError> {
    let Event { kind, object } = parse(line)?;
    let object = object.get().as_bytes();
    if kind == "ERROR" {
        return Ok(WatchItem::Failed(decode_status(object)?));
    }
    let (node, is_initial) = parse::<JsonNode>(object)?.into_node(prefix)?;
    item(kind.as_bytes(), node, || is_initial).ok_or_else(|| WireError::Json(format!("an event {kind:?}")))
}
