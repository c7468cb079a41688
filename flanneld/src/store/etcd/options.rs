//! How to reach etcd, from the flags.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::flag::{Flag, Kind};
use crate::go_path::clean;
use crate::store::error::StoreOptionsError;

/// Time limit of the TCP handshake, and of that of TLS.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Time limit of the response to a ping: a dead peer is detected in 9 s.
pub(super) const PING_LIMIT: Duration = Duration::from_secs(3);

/// The values of the `--etcd-*` flags. Empty text counts as not given, as with Go's flags.
#[derive(Clone, Default)]
pub(crate) struct EtcdOptions {
    /// `--etcd-endpoints`: comma list of `http://host:port`, `https://host:port`, `host:port`.
    pub endpoints: String,
    /// `--etcd-prefix`.
    pub prefix: String,
    /// `--etcd-cafile`.
    pub cafile: Option<PathBuf>,
    /// `--etcd-certfile`.
    pub certfile: Option<PathBuf>,
    /// `--etcd-keyfile`.
    pub keyfile: Option<PathBuf>,
    /// `--etcd-username`.
    pub username: Option<String>,
    /// `--etcd-password`.
    pub password: Option<String>,
}

/// Without the password.
impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.public_flags()).finish()
    }
}

/// Endpoints and prefix as in Go's flanneld.
const ENDPOINTS: Flag = Flag::text(
    "etcd-endpoints",
    "LIST",
    "http://127.0.0.1:4001,http://127.0.0.1:2379",
    "Comma-separated list of etcd endpoints",
);
const PREFIX: Flag =
    Flag::text("etcd-prefix", "KEY", "/coreos.com/network", "Prefix of the etcd keys of config and leases");
pub(super) const KEYFILE: Flag =
    Flag::text("etcd-keyfile", "FILE", "", "Private key of the client certificate for etcd");
pub(super) const CERTFILE: Flag = Flag::text("etcd-certfile", "FILE", "", "Client certificate for etcd");
pub(super) const CAFILE: Flag =
    Flag::text("etcd-cafile", "FILE", "", "CA certificates that the certificate of etcd is verified with");
const USERNAME: Flag = Flag::text("etcd-username", "NAME", "", "etcd user");
const PASSWORD: Flag =
    Flag::text("etcd-password", "PASSWORD", "", "Password of the etcd user").with_kind(Kind::Secret);

/// The flags of this store, in the order of Go's.
pub(in crate::store) const FLAGS: [Flag; 7] =
    [ENDPOINTS, PREFIX, KEYFILE, CERTFILE, CAFILE, USERNAME, PASSWORD];

/// Flags that have an effect only together, and the reason.
pub(in crate::store) const PAIRS: [(Flag, Flag, &str); 2] =
    [(CERTFILE, KEYFILE, "a client certificate needs both"), (USERNAME, PASSWORD, "a login needs both")];

impl EtcdOptions {
    /// Converts the values of [`FLAGS`].
    pub(in crate::store) fn from_flags(value: impl Fn(&Flag) -> Option<String>) -> Self {
        let or_default = |flag: &Flag| value(flag).unwrap_or_else(|| flag.default.to_owned());
        let text = |flag| value(flag).filter(|text| !text.is_empty());
        Self {
            endpoints: or_default(&ENDPOINTS),
            prefix: or_default(&PREFIX),
            cafile: text(&CAFILE).map(PathBuf::from),
            certfile: text(&CERTFILE).map(PathBuf::from),
            keyfile: text(&KEYFILE).map(PathBuf::from),
            username: text(&USERNAME),
            password: text(&PASSWORD),
        }
    }

    /// The flags that these options were made from, without the password.
    pub(in crate::store) fn public_flags(&self) -> Vec<String> {
        let text = |flag: Flag, text: &str| format!("{}={text}", flag.dashed());
        let mut flags = vec![text(ENDPOINTS, &self.endpoints), text(PREFIX, &self.prefix)];
        let files = [(CAFILE, &self.cafile), (CERTFILE, &self.certfile), (KEYFILE, &self.keyfile)];
        let named = files.into_iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?)));
        flags.extend(named.map(|(flag, path)| text(flag, &path.display().to_string())));
        flags.extend(self.username.as_ref().map(|name| text(USERNAME, name)));
        flags
    }
}

/// Valid options.
pub(super) struct Target {
    /// Never empty.
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) keys: Keys,
    pub(super) cafile: Option<PathBuf>,
    /// Certificate and key of the client.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    /// User and password.
    pub(super) login: Option<(String, String)>,
}

impl Target {
    pub(super) fn new(options: EtcdOptions) -> Result<Self, StoreOptionsError> {
        let EtcdOptions { cafile, certfile, keyfile, username, password, .. } = options;
        let [of_certificate, of_login] = PAIRS;
        let identity = both(of_certificate, certfile, keyfile)?;
        let login = both(of_login, username, password)?;
        // Compatibility: Go takes the scheme of the first endpoint for all.
        let tls_by_default = match options.endpoints.trim_start() {
            first if first.starts_with("https://") => true,
            first if first.starts_with("http://") => false,
            _ => cafile.is_some() || identity.is_some(),
        };
        let endpoints = options
            .endpoints
            .split(',')
            .map(str::trim)
            .filter(|endpoint| !endpoint.is_empty())
            .map(|endpoint| Endpoint::parse(endpoint, tls_by_default))
            .collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(StoreOptionsError(
                "--etcd-endpoints names no endpoint; give at least one, such as http://127.0.0.1:2379"
                    .to_owned(),
            ));
        }
        Ok(Self { endpoints, keys: Keys::new(&options.prefix), cafile, identity, login })
    }

    /// Whether certificates were given and are not used, because the endpoint is `http://`.
    pub(super) fn ignores_certificates(&self, endpoint: &Endpoint) -> bool {
        !endpoint.tls && (self.cafile.is_some() || self.identity.is_some())
    }
}

fn both<T>(
    (one, other, reason): (Flag, Flag, &'static str),
    first: Option<T>,
    second: Option<T>,
) -> Result<Option<(T, T)>, StoreOptionsError> {
    let half = |given: Flag, missing: Flag| {
        let (given, missing) = (given.name, missing.name);
        Err(StoreOptionsError(format!("--{given} is set and --{missing} is not; {reason}")))
    };
    match (first, second) {
        (Some(first), Some(second)) => Ok(Some((first, second))),
        (None, None) => Ok(None),
        (Some(_), None) => half(one, other),
        (None, Some(_)) => half(other, one),
    }
}

/// A member of the cluster. Each has its own scheme (the Go client uses that of the first for all).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `scheme://host:port`.
    pub url: String,
    /// The host, without the brackets of an IPv6 address.
    pub host: String,
    /// Whether it is reached over TLS.
    pub tls: bool,
}

impl Endpoint {
    /// Parses an endpoint. Without a scheme it has that of the first endpoint, and the first one `https` if there are certificates.
    /// A path is dropped, as in Go.
    fn parse(text: &str, tls_by_default: bool) -> Result<Self, StoreOptionsError> {
        let wrong = |problem| {
            StoreOptionsError(format!(
                "--etcd-endpoints: {text:?} {problem}; write it as http://host:2379 or https://host:2379"
            ))
        };
        // The address is not repeated, because errors are logged.
        let credentials = || {
            let text =
                "--etcd-endpoints contains a user name; use --etcd-username and --etcd-password instead";
            StoreOptionsError(text.to_owned())
        };
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) if text.contains('@') => return Err(credentials()),
            Some(_) => return Err(wrong("has a scheme other than http and https")),
            None => (tls_by_default, text),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(credentials());
        }
        let (host, port) = authority.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
        if !port.parse::<u16>().is_ok_and(|port| port != 0) {
            return Err(wrong("has no port between 1 and 65535 at its end"));
        }
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) if address.parse::<Ipv6Addr>().is_ok() => address,
            Some(_) => return Err(wrong("has brackets without an IPv6 address in them")),
            None if host.contains(':') => return Err(wrong("has an IPv6 address without brackets")),
            None => host,
        };
        let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(in_name) {
            return Err(wrong("has no valid host"));
        }
        let scheme = if tls { "https" } else { "http" };
        Ok(Self { url: format!("{scheme}://{authority}"), host: host.to_owned(), tls })
    }
}

/// The keys below the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) prefix: String,
    pub(super) config: String,
    /// With a slash at its end, so that other keys with the same prefix are not records.
    pub(super) subnets: String,
    /// The end of the range of `subnets`.
    pub(super) subnets_end: String,
}

impl Keys {
    /// Compatibility: built as Go's `path.Join` does it.
    fn new(prefix: &str) -> Self {
        let subnets = join(prefix, "subnets");
        Self {
            prefix: if prefix.is_empty() { String::new() } else { clean(prefix) },
            config: join(prefix, "config"),
            // '0' is the byte after '/'.
            subnets_end: format!("{subnets}0"),
            subnets: format!("{subnets}/"),
        }
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { clean(&format!("{prefix}/{name}")) }
}

#[cfg(test)]
mod tests;
