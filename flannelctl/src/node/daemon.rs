//! The daemons of this network namespace, how they are started, and so where their store is.

use flannel_core::status::Status;
use flanneld::cli::{Options, Parsed};
use flanneld::host::daemons::{Process, processes};
use flanneld::store::StoreOptions;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::socket;
use crate::flags::NodeFlags;

/// The options that it was started with, where they can be read.
pub(crate) fn options(process: &Process) -> Option<Options> {
    let arguments = process.words("cmdline")?;
    let environment = process.environment();
    let variable =
        |name: &str| environment.iter().find_map(|(key, value)| (key == name).then(|| value.clone()));
    match Options::parse(arguments.into_iter().skip(1), variable) {
        Ok(Parsed::Run(options)) => Some(*options),
        _ => None,
    }
}

/// What `/etc/default/flanneld` may set: the environment of the unit file.
const DEFAULTS: &str = "/etc/default/flanneld";

/// A variable of the daemon's, from our environment or from the file of its unit.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().or_else(|| {
        let defaults = fs::read_to_string(DEFAULTS).ok()?;
        let lines = defaults.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let mut assigned = lines.filter_map(|line| line.split_once('=')).filter(|(key, _)| *key == name);
        assigned.next_back().map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
    })
}

/// The store of the daemon that runs, or that of the one that the unit would start. Several daemons with stores of their
/// own name none.
pub(crate) fn store() -> Option<StoreOptions> {
    let mut running = processes().into_iter().filter_map(|process| Some(options(&process)?.store));
    if let Some(store) = running.next() {
        return running.all(|other| other.scope() == store.scope()).then_some(store);
    }
    match Options::parse(std::iter::empty(), variable) {
        Ok(Parsed::Run(options)) => Some(options.store),
        _ => None,
    }
}

/// A daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Daemon {
    pub(crate) pid: u32,
    /// The kernel's letter for it: `S` sleeps, `T` is stopped.
    pub(crate) state: char,
    /// What tells its store from others of this host; `None` where its command line does not parse.
    pub(crate) scope: Option<String>,
}

impl Daemon {
    /// Stopped by a signal, or by a debugger.
    pub(crate) const fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// What the daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DaemonAnswer {
    /// There is none, several, or none that can be asked.
    NotAsked,
    /// It is ready.
    Ready,
    /// It is not, with its words.
    NotReady(String),
    /// It says nothing.
    Silent(String),
}

/// The daemons, and the options of one that runs or would be started.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) options: Options,
}

impl Invocation {
    /// Finds the daemons. The options are those of the one that runs; where none does, `given` with the environment and
    /// the file of the unit, and the store that flannelctl was told.
    pub(crate) fn of(given: &[OsString], store: StoreOptions, node: &NodeFlags) -> anyhow::Result<Self> {
        let found = running();
        let daemons = found.iter().map(|(daemon, _)| daemon.clone()).collect();
        let of_running = found.into_iter().find_map(|(_, options)| options);
        if let Some(options) = of_running.filter(|_| given.is_empty()) {
            return Ok(Self { daemons, options });
        }
        match Options::parse(given.iter().cloned(), variable)? {
            Parsed::Run(parsed) => {
                let mut options = *parsed;
                options.store = store;
                let named = |flag: &str| given.iter().any(|word| word.to_string_lossy().contains(flag));
                if !named("-subnet-file") {
                    options.subnet_file.clone_from(&node.subnet_file);
                }
                if !named("-state-dir") {
                    options.state_dir.clone_from(&node.state_dir);
                }
                Ok(Self { daemons, options })
            }
            Parsed::Help(_) | Parsed::Version => {
                anyhow::bail!("only flags of flanneld that run it can stand behind --")
            }
        }
    }
}

/// The flanneld processes of this network namespace, with their options where they can be read.
fn running() -> Vec<(Daemon, Option<Options>)> {
    let with_options = |process: Process| {
        let options = options(&process);
        let scope = options.as_ref().map(|options| options.store.scope());
        (Daemon { pid: process.pid, state: process.state, scope }, options)
    };
    processes().into_iter().map(with_options).collect()
}

/// How long a daemon may take to answer.
const LIMIT: Duration = Duration::from_secs(3);

/// Asks the only daemon whether it is ready: by its status socket, otherwise (an older one, or one of Go) by its health
/// port.
pub(crate) async fn ask(invocation: &Invocation) -> DaemonAnswer {
    let [daemon] = invocation.daemons.as_slice() else { return DaemonAnswer::NotAsked };
    if daemon.is_stopped() {
        return DaemonAnswer::NotAsked;
    }
    if let Some(socket) = invocation.options.status_socket.as_ref().filter(|path| path.exists()) {
        return match socket::ask::<Status>(socket, "/status") {
            Ok(status) if status.ready => DaemonAnswer::Ready,
            Ok(status) => DaemonAnswer::NotReady(status.not_ready_reasons.join("; ")),
            Err(error) => DaemonAnswer::Silent(format!("{error:#}")),
        };
    }
    let Some(address) = invocation.options.healthz else { return DaemonAnswer::NotAsked };
    let address = match address.ip() {
        ip if ip.is_unspecified() => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()),
        _ => address,
    };
    let readyz = async { exchange(TcpStream::connect(address).await?, "/readyz").await };
    match timeout(LIMIT, readyz).await {
        Ok(Ok(answer)) => {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
            match head.split(' ').nth(1) {
                Some("200") => DaemonAnswer::Ready,
                _ => DaemonAnswer::NotReady(body.split_whitespace().collect::<Vec<_>>().join(" ")),
            }
        }
        Ok(Err(error)) => DaemonAnswer::Silent(format!("{address}: {error}")),
        Err(_) => DaemonAnswer::Silent(format!("no answer from {address} in {} s", LIMIT.as_secs())),
    }
}

/// Sends a request over HTTP/1.0 and reads the answer to its end.
pub(crate) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // More than such pages have.
    stream.take(1 << 16).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
