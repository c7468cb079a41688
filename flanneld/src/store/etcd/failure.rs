//! From the errors of etcd-client to [`EtcdError`].
//!
//! Server answers are told from broken connections by whether the gRPC status has a source, and from each
//! other by the code. A code is enough, because the requests here are few and well-formed.

use rustls::{AlertDescription, CertificateError};
use std::error::Error;
use std::io;

use super::error::{Cause, EtcdError, TlsProblem, inner};
use super::options::Target;
use crate::store::operation::Operation;

/// What was going on when a request failed.
pub(super) struct Failure<'a> {
    pub(super) target: &'a Target,
    pub(super) endpoint: &'a str,
    /// The connection has not given any answer yet.
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

/// The code with which the server answered; `None` if there was no answer.
pub(super) fn answer(error: &etcd_client::Error) -> Option<i32> {
    match error {
        etcd_client::Error::GRpcStatus(status) if status.source().is_none() => Some(status.code() as i32),
        _ => None,
    }
}

/// The server did not take the token: expired (`invalid auth token`), or older than the last change of users
/// (`revision of auth store is old`), or there is none (`user name is empty`). Nothing was executed.
pub(super) fn is_login_needed(error: &etcd_client::Error) -> bool {
    matches!(answer(error), Some(UNAUTHENTICATED | INVALID_ARGUMENT))
}

/// A revision that is compacted, or that the store has not reached.
pub(super) fn is_out_of_range(error: &etcd_client::Error) -> bool {
    answer(error) == Some(OUT_OF_RANGE)
}

/// A grant that the server does not know.
pub(super) fn is_not_found(error: &etcd_client::Error) -> bool {
    answer(error) == Some(NOT_FOUND)
}

pub(super) fn classify(error: etcd_client::Error, failure: &Failure<'_>) -> EtcdError {
    let endpoint = failure.endpoint.to_owned();
    let operation = failure.operation;
    let status = match error {
        etcd_client::Error::GRpcStatus(status) => status,
        etcd_client::Error::TransportError(error) => return broken(&error, failure),
        error => return EtcdError::Unreachable { endpoint, cause: Cause(error.to_string()) },
    };
    if let Some(source) = status.source() {
        return broken(source, failure);
    }
    let cause = Cause(status.message().to_owned());
    match status.code() as i32 {
        INVALID_ARGUMENT | UNAUTHENTICATED => EtcdError::UserNeeded { endpoint, cause },
        PERMISSION_DENIED => denied(failure),
        DEADLINE_EXCEEDED | RESOURCE_EXHAUSTED | UNAVAILABLE => {
            EtcdError::Unavailable { endpoint, operation, cause }
        }
        _ => EtcdError::Rejected { endpoint, operation, cause },
    }
}

pub(super) fn denied(failure: &Failure<'_>) -> EtcdError {
    EtcdError::PermissionDenied {
        endpoint: failure.endpoint.to_owned(),
        user: failure.target.login.as_ref().map(|(user, _)| user.clone()),
        operation: failure.operation,
        prefix: failure.target.keys.prefix.clone(),
    }
}

/// A connection that could not be made or that broke.
fn broken(error: &(dyn Error + 'static), failure: &Failure<'_>) -> EtcdError {
    let endpoint = failure.endpoint.to_owned();
    let cause = Cause::innermost(error);
    let tls =
        failure.target.endpoints.iter().any(|endpoint| endpoint.url == failure.endpoint && endpoint.tls);
    let problem = match find::<rustls::Error>(error) {
        Some(error) => tls_problem(error, failure),
        None if tls && failure.fresh && is_hangup(error) => {
            TlsProblem::Closed { certificate: failure.target.identity.is_some() }
        }
        None => return EtcdError::Unreachable { endpoint, cause },
    };
    EtcdError::Tls { endpoint, problem, cause }
}

/// The other side took the connection and ended it: during the TLS handshake, or in HTTP after it.
fn is_hangup(error: &(dyn Error + 'static)) -> bool {
    find::<hyper::Error>(error).is_some()
        || find::<io::Error>(error).is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            )
        })
}

/// The first error of a type in a chain.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        next = inner(error);
    }
    None
}

fn tls_problem(error: &rustls::Error, failure: &Failure<'_>) -> TlsProblem {
    let target = failure.target;
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            let endpoint = target.endpoints.iter().find(|endpoint| endpoint.url == failure.endpoint);
            let host = endpoint.map_or(failure.endpoint, |endpoint| &endpoint.host);
            TlsProblem::WrongName { host: host.to_owned() }
        }
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => TlsProblem::OutOfTime,
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => TlsProblem::UnknownIssuer { cafile: target.cafile.clone() },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => TlsProblem::ClientCertificateNeeded,
            AlertDescription::BadCertificate if target.identity.is_none() => {
                // Go's way to say it in TLS 1.2.
                TlsProblem::ClientCertificateNeeded
            }
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => TlsProblem::ClientCertificateRefused,
            _ => TlsProblem::Other,
        },
        rustls::Error::InvalidMessage(_) => TlsProblem::NotTls,
        _ => TlsProblem::Other,
    }
}
