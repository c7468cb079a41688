//! Errors of the Kubernetes API, with their fix.

use flannel_core::kubernetes::ApiStatus;
use hyper::StatusCode;
use std::time::Duration;

use super::facts::Rule;
use crate::store::error::{Detail, StoreError};
use crate::store::operation::Operation;

/// A failed request. What the caller handles itself has a variant of its own.
#[derive(Debug)]
pub(super) enum RequestError {
    /// 404.
    NotFound,
    /// 410: the revision, or the token of the next page, is too old.
    Gone,
    /// 400, 406, 415 or 422: the server, or a proxy before it, does not offer this form of a request or answer.
    NotAcceptable(StoreError),
    /// Anything else.
    Failed(StoreError),
}

/// The text of a failed request.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct KubernetesError(String);

const REACH: &str = "Check the Kubernetes API server, and --kube-api-url or --kubeconfig-file.";
const IDENTITY: &str = "Check the token of the ServiceAccount, or the credentials in --kubeconfig-file.";

/// flanneld may not read ConfigMaps, and does not need to.
const ADMINISTRATOR: &str = "Use --kubeconfig with an identity that may get and patch the ConfigMap, such as that of an administrator.";

/// The rule that an operation needs.
fn rule(operation: Operation) -> String {
    match operation {
        Operation::Update | Operation::Announce => Rule::STATUS.to_string(),
        Operation::FindNode => format!("{} (or set NODE_NAME)", Rule::PODS),
        Operation::ReadConfig | Operation::PutConfig => Rule::CONFIG_MAPS.to_string(),
        Operation::Review => {
            "apiGroups: [authorization.k8s.io], resources: [selfsubjectaccessreviews], verbs: [create]"
                .to_owned()
        }
        _ => Rule::NODES.to_string(),
    }
}

/// What to do about a missing rule.
fn remedy(operation: Operation) -> String {
    match operation {
        Operation::ReadConfig | Operation::PutConfig => {
            format!(
                "use --kubeconfig with an identity that has the right {}, such as that of an administrator",
                rule(operation)
            )
        }
        _ => format!("add this rule to the ClusterRole of flannel: {}", rule(operation)),
    }
}

const fn advice_of(operation: Operation) -> &'static str {
    match operation {
        Operation::Update | Operation::Announce => {
            "Add the right to patch nodes/status to the ClusterRole flannel."
        }
        Operation::FindNode => "Add the right to get pods to the ClusterRole flannel, or set NODE_NAME.",
        Operation::ReadConfig | Operation::PutConfig => ADMINISTRATOR,
        _ => "Add the rights to get, list and watch nodes to the ClusterRole flannel.",
    }
}

fn text(error: String, advice: &'static str) -> Detail {
    Detail::new(KubernetesError(error), advice)
}

/// No connection, or a broken one.
pub(super) fn unreachable(url: &str, operation: Operation, cause: &str) -> StoreError {
    let error = format!("the Kubernetes API at {url} is unreachable: {operation}: {cause}");
    StoreError::Unavailable(text(error, REACH))
}

/// No response in time.
pub(super) fn timed_out(url: &str, operation: Operation, limit: Duration) -> StoreError {
    let error = format!("the Kubernetes API at {url} did not answer in {} s: {operation}", limit.as_secs());
    StoreError::TimedOut(text(error, REACH))
}

/// Options or files that do not describe a connection.
pub(super) fn unusable(error: String) -> StoreError {
    StoreError::Unusable(text(error, REACH))
}

/// A body that cannot be read.
pub(super) fn malformed(url: &str, operation: Operation, cause: &dyn std::error::Error) -> StoreError {
    let error =
        format!("the Kubernetes API at {url} sent an answer that cannot be read: {operation}: {cause}");
    StoreError::Unavailable(text(error, REACH))
}

/// What this store does not do.
pub(super) fn unsupported(error: &str, advice: &'static str) -> StoreError {
    StoreError::Unusable(text(error.to_owned(), advice))
}

/// Classifies an error of the server.
pub(super) fn rejected(url: &str, operation: Operation, status: &ApiStatus) -> RequestError {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let message = if status.message.is_empty() { "no reason given" } else { status.message.as_str() };
    let answer = format!("{code}: {message}");
    RequestError::Failed(match code {
        StatusCode::NOT_FOUND => return RequestError::NotFound,
        StatusCode::GONE => return RequestError::Gone,
        StatusCode::BAD_REQUEST
        | StatusCode::NOT_ACCEPTABLE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => {
            let error =
                format!("the Kubernetes API at {url} does not offer this form: {operation}: {answer}");
            return RequestError::NotAcceptable(StoreError::Unavailable(text(error, REACH)));
        }
        StatusCode::CONFLICT => StoreError::Raced,
        StatusCode::UNAUTHORIZED => {
            let error = format!(
                "the Kubernetes API at {url} rejects the identity of flanneld: {operation}: {answer}; it must be a \
                 valid token or certificate with the right {}",
                rule(operation)
            );
            StoreError::Unusable(text(error, IDENTITY))
        }
        StatusCode::FORBIDDEN => {
            let error = format!(
                "the Kubernetes API at {url} denies permission: {operation}: {message}; {}",
                remedy(operation)
            );
            StoreError::Unusable(text(error, advice_of(operation)))
        }
        code if code.is_server_error() || code == StatusCode::TOO_MANY_REQUESTS => {
            let error = format!("the Kubernetes API at {url} is unavailable: {operation}: {answer}");
            StoreError::Unavailable(text(error, REACH))
        }
        _ => {
            let error = format!("the Kubernetes API at {url} rejected the request: {operation}: {answer}");
            StoreError::Unusable(text(error, REACH))
        }
    })
}
