//! Errors of etcd, from those of etcd-client, with their fix.
//!
//! A response of the server is distinguished from a broken connection by the gRPC status, which has no source, and from other
//! responses by the code. A code is sufficient, because the requests are few and well-formed.

use rustls::{AlertDescription, CertificateError};
use std::error::Error;
use std::io;

use super::options::{CONNECT_LIMIT, PING_LIMIT, Target};
use crate::error::{chain, find, inner, is_elapsed};
use crate::store::error::{Detail, StoreError};
use crate::store::operation::Operation;

/// A failed request to etcd.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct EtcdError {
    pub(super) kind: Kind,
    pub(super) text: String,
    pub(super) source: Option<Cause>,
}

/// What determines retries and advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No response in time. A write may or may not have happened.
    TimedOut,
    /// No connection, a broken one, or an overloaded server. A write may or may not have happened.
    Unreachable,
    /// A certificate or key is rejected, or cannot be read.
    Certificate,
    /// The server requires another user or password.
    Login,
    /// The user lacks a permission.
    Permission,
    /// The server rejected the request for another reason.
    Rejected,
}

/// The message of a lower layer, as text: its types are many, and some of them print secrets.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Cause(String);

impl From<EtcdError> for StoreError {
    fn from(error: EtcdError) -> Self {
        let (variant, advice): (fn(Detail) -> Self, _) = match error.kind {
            Kind::TimedOut => (Self::TimedOut, ""),
            Kind::Unreachable => (Self::Unavailable, "Check --etcd-endpoints and the health of etcd."),
            Kind::Certificate => {
                (Self::Unusable, "Check the certificates: --etcd-cafile, --etcd-certfile, --etcd-keyfile.")
            }
            Kind::Login => (Self::Unusable, "Check --etcd-username and --etcd-password."),
            Kind::Permission => (Self::Unusable, "Grant the user a role with access to the keys."),
            Kind::Rejected => (Self::Unusable, "Check --etcd-endpoints and the log of etcd."),
        };
        variant(Detail::new(error, advice))
    }
}

impl EtcdError {
    pub(super) fn new(kind: Kind, text: String, cause: Option<String>) -> Self {
        Self { kind, text, source: cause.map(Cause) }
    }

    /// Combines the errors of all endpoints, in the order of the attempts.
    pub(super) fn all(mut attempts: Vec<Self>) -> Self {
        if attempts.len() == 1 {
            return attempts.remove(0);
        }
        let is_transient = attempts.iter().any(|error| error.kind == Kind::Unreachable);
        let texts: Vec<String> = attempts.iter().map(|error| chain(error)).collect();
        let kind = if is_transient { Kind::Unreachable } else { Kind::Rejected };
        Self::new(kind, format!("could not use any of the etcd endpoints: {}", texts.join("; ")), None)
    }
}

/// The circumstances of a failed request.
pub(super) struct Failure<'a> {
    pub(super) target: &'a Target,
    pub(super) endpoint: &'a str,
    /// The connection has not received a response yet.
    pub(super) fresh: bool,
    pub(super) operation: Operation,
}

/// Numbers of gRPC codes (grpc/grpc: doc/statuscodes.md); etcd-client does not export the type.
const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
pub(super) const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

/// The code of the server's response; `None` without a response.
pub(super) fn answer(error: &etcd_client::Error) -> Option<i32> {
    match error {
        etcd_client::Error::GRpcStatus(status) if status.source().is_none() => Some(status.code() as i32),
        _ => None,
    }
}

/// The server rejected the token: it has expired (`invalid auth token`), is older than the last change of users
/// (`revision of auth store is old`), or is missing (`user name is empty`). Nothing was executed.
pub(super) fn is_login_needed(error: &etcd_client::Error) -> bool {
    matches!(answer(error), Some(UNAUTHENTICATED | INVALID_ARGUMENT))
}

/// The revision is compacted or in the future.
pub(super) fn is_out_of_range(error: &etcd_client::Error) -> bool {
    answer(error) == Some(OUT_OF_RANGE)
}

/// The server does not have the grant.
pub(super) fn is_not_found(error: &etcd_client::Error) -> bool {
    answer(error) == Some(NOT_FOUND)
}

impl Failure<'_> {
    pub(super) fn classify(&self, error: etcd_client::Error) -> EtcdError {
        let Self { endpoint, operation, .. } = self;
        let status = match error {
            etcd_client::Error::GRpcStatus(status) => status,
            etcd_client::Error::TransportError(error) => return self.broken(&error),
            error => return self.unreachable(error.to_string()),
        };
        if let Some(source) = status.source() {
            return self.broken(source);
        }
        let (kind, text) = match status.code() as i32 {
            INVALID_ARGUMENT | UNAUTHENTICATED => (
                Kind::Login,
                format!(
                    "etcd at {endpoint} requires a user; set --etcd-username and --etcd-password, or use a client certificate \
                     whose common name is the user"
                ),
            ),
            PERMISSION_DENIED => return self.denied(),
            DEADLINE_EXCEEDED | RESOURCE_EXHAUSTED | UNAVAILABLE => (
                Kind::Unreachable,
                format!("etcd at {endpoint} is unavailable: {operation}; check the health of its cluster"),
            ),
            _ => (Kind::Rejected, format!("etcd at {endpoint} rejected the request: {operation}")),
        };
        EtcdError::new(kind, text, Some(status.message().to_owned()))
    }

    /// The user lacks a permission.
    pub(super) fn denied(&self) -> EtcdError {
        let user = self.target.login.as_ref();
        let user = user.map_or_else(|| "this client".to_owned(), |(user, _)| format!("user {user:?}"));
        let text = format!(
            "etcd at {} does not permit {user}: {}; grant a role of that user the keys: \
             etcdctl role grant-permission ROLE readwrite --prefix=true {}/",
            self.endpoint, self.operation, self.target.keys.prefix
        );
        EtcdError::new(Kind::Permission, text, None)
    }

    fn unreachable(&self, cause: String) -> EtcdError {
        let text = format!(
            "could not reach etcd at {}; check that it runs there and that --etcd-endpoints is correct (host, port, http or https)",
            self.endpoint
        );
        EtcdError::new(Kind::Unreachable, text, Some(cause))
    }

    /// The connection could not be made, or broke.
    fn broken(&self, error: &(dyn Error + 'static)) -> EtcdError {
        let endpoint = self.target.endpoints.iter().find(|endpoint| endpoint.url == self.endpoint);
        let (kind, problem) = match find::<rustls::Error>(error) {
            Some(error) => {
                let host = endpoint.map_or(self.endpoint, |endpoint| &endpoint.host);
                (Kind::Certificate, tls_problem(error, self.target, host))
            }
            None if self.fresh && is_hangup(error) && endpoint.is_some_and(|endpoint| endpoint.tls) => {
                let perhaps = if self.target.identity.is_some() {
                    "perhaps it does not accept the client certificate of --etcd-certfile"
                } else {
                    "perhaps it requires a client certificate (set --etcd-certfile and --etcd-keyfile)"
                };
                let problem = format!(
                    "it closed the connection without a response; {perhaps}, or does not speak TLS on that port (then use http://)"
                );
                (Kind::Unreachable, problem)
            }
            None => return self.unreachable(silence(error).unwrap_or_else(|| innermost(error))),
        };
        let text = format!("no TLS session with etcd at {}: {problem}", self.endpoint);
        EtcdError::new(kind, text, Some(innermost(error)))
    }
}

/// What the server did not answer, and in which time.
fn silence(error: &(dyn Error + 'static)) -> Option<String> {
    if is_elapsed(error) {
        return Some(format!("it did not accept a connection in {} s", CONNECT_LIMIT.as_secs()));
    }
    let is_ping = find::<hyper::Error>(error).is_some_and(hyper::Error::is_timeout);
    is_ping.then(|| format!("it did not answer a ping in {} s", PING_LIMIT.as_secs()))
}

/// The innermost message of a chain of errors: the outer ones are only "transport error".
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = inner(innermost) {
        innermost = source;
    }
    innermost.to_string()
}

/// The peer accepted the connection and closed it: during the TLS handshake, or in HTTP after it.
fn is_hangup(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    find::<hyper::Error>(error).is_some()
        || find::<io::Error>(error)
            .is_some_and(|error| matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe))
}

/// Returns what is wrong with a TLS session, and the fix.
fn tls_problem(error: &rustls::Error, target: &Target, host: &str) -> String {
    let problem = match error {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            return format!(
                "its certificate is not valid for {host}; use a name that is in it, or add {host} to it as subject alternative name"
            );
        }
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => {
            let trusted = || "a CA that this system trusts".to_owned();
            let ca =
                target.cafile.as_ref().map_or_else(trusted, |file| format!("a CA in {}", file.display()));
            return format!(
                "its certificate is not signed by {ca}; set the CA of that server with --etcd-cafile"
            );
        }
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "its certificate is expired or not valid yet; renew it, or set the clock of this host",
        rustls::Error::AlertReceived(alert) => match alert {
            // The second is what Go sends in TLS 1.2.
            AlertDescription::CertificateRequired | AlertDescription::BadCertificate
                if *alert == AlertDescription::CertificateRequired || target.identity.is_none() =>
            {
                "it requires a client certificate (set --etcd-certfile and --etcd-keyfile)"
            }
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => {
                "it does not accept the client certificate of --etcd-certfile; check its issuer, its dates and its usage (clientAuth)"
            }
            _ => "the handshake failed",
        },
        rustls::Error::InvalidMessage(_) => {
            "it does not speak TLS on that port; use http:// if that is meant"
        }
        _ => "the handshake failed",
    };
    problem.to_owned()
}
