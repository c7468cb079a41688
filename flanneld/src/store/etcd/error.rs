//! Why etcd did not do what it was asked, with what to do about it.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::store::error::{Detail, StoreError};
use crate::store::operation::Operation;

/// Why etcd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum EtcdError {
    /// No connection, or it broke. A write may or may not have happened.
    #[error(
        "could not reach etcd at {endpoint}; check that it runs there and that --etcd-endpoints is right (host, port, http or https)"
    )]
    Unreachable {
        /// The endpoint.
        endpoint: String,
        /// What the connection said.
        #[source]
        cause: Cause,
    },

    /// None of several endpoints could be used.
    #[error("could not use any of the etcd endpoints: {}", Attempts(.attempts))]
    NoEndpoint {
        /// What each one said, in the order they were tried; never empty.
        attempts: Vec<EtcdError>,
    },

    /// No answer in time. A write may or may not have happened.
    #[error("etcd at {endpoint} did not answer in {} s: {operation}", .limit.as_secs_f32())]
    TimedOut {
        /// The endpoint.
        endpoint: String,
        /// What was asked.
        operation: Operation,
        /// How long it had.
        limit: Duration,
    },

    /// The server answers that it cannot serve at present: no leader, no quorum, overloaded.
    #[error("etcd at {endpoint} cannot do this now: {operation}; check the health of its cluster")]
    Unavailable {
        /// The endpoint.
        endpoint: String,
        /// What was asked.
        operation: Operation,
        /// The server's words.
        #[source]
        cause: Cause,
    },

    /// No TLS session with the server.
    #[error("no TLS session with etcd at {endpoint}: {problem}")]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// What is wrong and what to do.
        problem: TlsProblem,
        /// The words of the TLS library.
        #[source]
        cause: Cause,
    },

    /// A certificate or key file cannot be used.
    #[error("could not use {path} given as --{flag}; check that it exists, is readable and in PEM format")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The flag that named it.
        flag: &'static str,
        /// Why.
        #[source]
        cause: Cause,
    },

    /// The server refuses user or password.
    #[error(
        "etcd at {endpoint} refuses user {user:?} or its password; check --etcd-username and --etcd-password"
    )]
    AuthenticationFailed {
        /// The endpoint.
        endpoint: String,
        /// The user, never the password.
        user: String,
        /// The server's words.
        #[source]
        cause: Cause,
    },

    /// The server wants to know who asks.
    #[error(
        "etcd at {endpoint} wants a user; set --etcd-username and --etcd-password, or use a client certificate \
         whose common name is the user"
    )]
    UserNeeded {
        /// The endpoint.
        endpoint: String,
        /// The server's words.
        #[source]
        cause: Cause,
    },

    /// The user lacks a permission.
    #[error(
        "etcd at {endpoint} does not permit {}: {operation}; grant a role of that user the keys: \
         etcdctl role grant-permission ROLE readwrite --prefix=true {prefix}/",
        .user.as_ref().map_or_else(|| "this client".to_owned(), |user| format!("user {user:?}"))
    )]
    PermissionDenied {
        /// The endpoint.
        endpoint: String,
        /// The user, if one was given.
        user: Option<String>,
        /// What was asked.
        operation: Operation,
        /// Where the keys are.
        prefix: String,
    },

    /// The server rejected the request for another reason.
    #[error("etcd at {endpoint} rejected the request: {operation}")]
    Rejected {
        /// The endpoint.
        endpoint: String,
        /// What was asked.
        operation: Operation,
        /// The server's words.
        #[source]
        cause: Cause,
    },

    /// The server ended a watch.
    #[error("etcd at {endpoint} ended the watch")]
    WatchEnded {
        /// The endpoint.
        endpoint: String,
        /// The server's words.
        #[source]
        cause: Cause,
    },
}

impl EtcdError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Unavailable { .. }
            | Self::WatchEnded { .. }
            | Self::Tls { problem: TlsProblem::Closed { .. }, .. } => true,
            Self::NoEndpoint { attempts } => attempts.iter().any(Self::is_transient),
            _ => false,
        }
    }
}

impl From<EtcdError> for StoreError {
    fn from(error: EtcdError) -> Self {
        let is_transient = error.is_transient();
        let advice = match &error {
            EtcdError::TimedOut { .. } => return Self::TimedOut(Detail::new(error, "")),
            _ if is_transient => "Check --etcd-endpoints and the health of etcd.",
            EtcdError::Certificate { .. } | EtcdError::Tls { .. } => {
                "Check the certificates: --etcd-cafile, --etcd-certfile, --etcd-keyfile."
            }
            EtcdError::AuthenticationFailed { .. } | EtcdError::UserNeeded { .. } => {
                "Check --etcd-username and --etcd-password."
            }
            EtcdError::PermissionDenied { .. } => "Grant the user a role with access to the keys.",
            _ => "Check --etcd-endpoints and the log of etcd.",
        };
        let detail = Detail::new(error, advice);
        if is_transient { Self::Unavailable(detail) } else { Self::Unusable(detail) }
    }
}

/// What the layer below said, as text: its own types are too many, and some of them print secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Cause(pub(super) String);

impl Cause {
    /// The innermost message of a chain of errors: the outer ones only say "transport error".
    pub(super) fn innermost(error: &(dyn Error + 'static)) -> Self {
        let mut innermost = error;
        while let Some(source) = inner(innermost) {
            innermost = source;
        }
        Self(innermost.to_string())
    }
}

/// The next error of a chain. `io::Error::source` skips the error that it wraps.
pub(super) fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

/// What stands in the way of a TLS session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TlsProblem {
    /// No trust in the issuer.
    #[error(
        "its certificate is not signed by {}; give the CA of that server with --etcd-cafile",
        .cafile.as_ref().map_or_else(
            || "a CA that this system trusts".to_owned(),
            |cafile| format!("a CA in {}", cafile.display())
        )
    )]
    UnknownIssuer {
        /// The CA file in use; `None` for the system's.
        cafile: Option<PathBuf>,
    },
    /// The name asked for is not in the certificate.
    #[error(
        "its certificate is not valid for {host}; use a name that is in it, or add {host} to it as subject alternative name"
    )]
    WrongName {
        /// The host of the endpoint.
        host: String,
    },
    /// Out of its time.
    #[error("its certificate is expired or not valid yet; renew it, or set the clock of this host")]
    OutOfTime,
    /// The server wants a client certificate.
    #[error("it wants a client certificate (give --etcd-certfile and --etcd-keyfile)")]
    ClientCertificateNeeded,
    /// The server does not take the client certificate.
    #[error(
        "it does not accept the client certificate of --etcd-certfile; check its issuer, its dates and its usage (clientAuth)"
    )]
    ClientCertificateRefused,
    /// Something else answers on that port.
    #[error("it does not speak TLS on that port; use http:// if that is meant")]
    NotTls,
    /// The server hung up, which is how etcd says several things.
    #[error(
        "it closed the connection without an answer; {}, or does not speak TLS on that port (then use http://)",
        if *.certificate {
            "perhaps it does not accept the client certificate of --etcd-certfile"
        } else {
            "perhaps it wants a client certificate (give --etcd-certfile and --etcd-keyfile)"
        }
    )]
    Closed {
        /// A client certificate was offered.
        certificate: bool,
    },
    /// Anything else.
    #[error("the handshake failed")]
    Other,
}

struct Attempts<'a>(&'a [EtcdError]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}")?;
            if let Some(source) = error.source() {
                write!(f, ": {source}")?;
            }
        }
        Ok(())
    }
}
