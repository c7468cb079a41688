//! The daemons of this network namespace, how they are started, and so where their store is.

use flannel_core::status::{Firewall, Status};
use flanneld::cli::{CliError, Options, Parsed};
use flanneld::flag::Flag;
use flanneld::host::daemons::{Process, processes};
use flanneld::http::{self, StatusCode};
use flanneld::store::StoreOptions;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::socket;
use crate::flags::NodeFlags;
use crate::output::text::join;

/// The options of a running daemon, if they can be read.
fn options(process: &Process) -> Option<Options> {
    let arguments = process.words("cmdline")?;
    let environment: BTreeMap<String, String> = process.environment().into_iter().collect();
    let mut options =
        parsed(Options::parse(arguments.into_iter().skip(1), |name| environment.get(name).cloned()))?;
    if process.has_other_files() {
        options.store = options.store.seen_from(process.root());
    }
    Some(options)
}

fn parsed(result: Result<Parsed, CliError>) -> Option<Options> {
    match result {
        Ok(Parsed::Run(options)) => Some(*options),
        _ => None,
    }
}

/// The environment of the unit file.
const DEFAULTS: &str = "/etc/default/flanneld";

/// A variable of the daemon, from the environment or from the file of its unit.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().or_else(|| {
        let defaults = fs::read_to_string(DEFAULTS).ok()?;
        let lines = defaults.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let mut assigned = lines.filter_map(|line| line.split_once('=')).filter(|(key, _)| *key == name);
        assigned.next_back().map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
    })
}

/// The store of a pod without a running daemon: the cluster of the pod.
fn of_pod() -> Option<StoreOptions> {
    std::env::var_os("KUBERNETES_SERVICE_HOST")?;
    let value = |flag: &Flag| {
        let default = match flag.name {
            "kube-subnet-mgr" => Some("true"),
            "net-config-path" => Some(flag.default).filter(|path| Path::new(path).exists()),
            _ => None,
        };
        variable(&flag.variable()).or_else(|| default.map(str::to_owned))
    };
    StoreOptions::client(value, variable).ok()
}

/// The store of the running daemon, otherwise that of the pod or the unit. `None` if several daemons use different stores.
pub(crate) fn store() -> Option<StoreOptions> {
    let mut running = processes().into_iter().filter_map(|process| Some(options(&process)?.store));
    if let Some(store) = running.next() {
        return running.all(|other| other.scope() == store.scope()).then_some(store);
    }
    of_pod().or_else(|| Some(parsed(Options::parse(std::iter::empty(), variable))?.store))
}

/// A daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Daemon {
    pub(crate) pid: u32,
    /// State in the notation of the kernel: `S` sleeping, `T` stopped.
    pub(crate) state: char,
    /// Scope of its store; `None` if its command line does not parse.
    pub(crate) scope: Option<String>,
    /// Its status socket.
    pub(crate) socket: Option<PathBuf>,
    /// Whether it is Go flannel.
    pub(crate) is_go: bool,
    /// Its pod in Kubernetes: namespace and name.
    pub(crate) pod: Option<(String, String)>,
}

impl Daemon {
    /// Whether a signal or a debugger stopped it.
    pub(crate) const fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// Whether a program is written in Go, whose heap begins at this address on all 64-bit systems.
/// Source: <https://go.dev/src/runtime/malloc.go>, `mallocinit`.
fn is_go(process: &Process) -> bool {
    let maps = fs::read_to_string(format!("/proc/{}/maps", process.pid)).unwrap_or_default();
    maps.lines().any(|line| line.starts_with("c000000000-"))
}

/// The response of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DaemonAnswer {
    /// No daemon, several, or none with an endpoint.
    NotAsked,
    /// Ready.
    Ready,
    /// Not ready, with its reasons.
    NotReady(String),
    /// No response, with the reason.
    Silent(String),
}

/// The daemons, and the options of the running one, or of the one that would be started.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) options: Options,
}

impl Invocation {
    /// Finds the daemons. The options are those of the running one; if none runs, `flags` with the environment and the
    /// file of the unit, and the store of flannelctl.
    pub(crate) fn of(flags: &[OsString], store: StoreOptions, node: &NodeFlags) -> anyhow::Result<Self> {
        let found: Vec<(Process, Option<Options>)> =
            processes().into_iter().map(|process| (process, options(&process))).collect();
        let daemon = |(process, options): &(Process, Option<Options>)| {
            let scope = options.as_ref().map(|options| options.store.scope());
            let socket = options.as_ref().and_then(|options| options.status_socket.clone());
            let variables: BTreeMap<String, String> = process.environment().into_iter().collect();
            let variable = |name: &str| variables.get(name).cloned();
            Daemon {
                pid: process.pid,
                state: process.state,
                scope,
                socket,
                is_go: is_go(process),
                pod: variable("POD_NAMESPACE").zip(variable("POD_NAME")),
            }
        };
        let daemons = found.iter().map(daemon).collect();
        let of_running = found.into_iter().find_map(|(_, options)| options);
        if let Some(options) = of_running.filter(|_| flags.is_empty()) {
            return Ok(Self { daemons, options });
        }
        let Parsed::Run(parsed) = Options::parse(flags.iter().cloned(), variable)? else {
            anyhow::bail!("only flanneld flags are allowed after `--`, except --help and --version");
        };
        let mut options = *parsed;
        options.store = store;
        let is_set = |flag: &str| flags.iter().any(|word| word.to_string_lossy().contains(flag));
        if !is_set("-subnet-file") {
            options.subnet_file.clone_from(&node.subnet_file);
        }
        if !is_set("-state-dir") {
            options.state_dir.clone_from(&node.state_dir);
        }
        Ok(Self { daemons, options })
    }
}

/// Asks several daemons for the state of their firewall rules; returns the answers by process.
pub(crate) async fn firewalls(daemons: &[Daemon]) -> Vec<(u32, Firewall)> {
    let mut firewalls = Vec::new();
    for daemon in daemons.iter().filter(|daemon| daemons.len() > 1 && !daemon.is_stopped()) {
        let Some(socket) = daemon.socket.as_ref().filter(|path| path.exists()) else { continue };
        // A daemon that does not respond is reported elsewhere.
        if let Ok(status) = socket::ask::<Status>(socket, "/status").await {
            firewalls.push((status.pid, status.firewall));
        }
    }
    firewalls
}

/// Time limit of the health port.
const LIMIT: Duration = Duration::from_secs(3);

/// Asks the daemon, if there is only one, whether it is ready: through its status socket, or, for an older version or
/// Go flannel, through its health port.
pub(crate) async fn ask(invocation: &Invocation) -> DaemonAnswer {
    let [daemon] = invocation.daemons.as_slice() else { return DaemonAnswer::NotAsked };
    if daemon.is_stopped() {
        return DaemonAnswer::NotAsked;
    }
    if let Some(socket) = invocation.options.status_socket.as_ref().filter(|path| path.exists()) {
        return match socket::ask::<Status>(socket, "/status").await {
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
    let readyz =
        async { anyhow::Ok(http::get(TcpStream::connect(address).await?, "localhost", "/readyz").await?) };
    match timeout(LIMIT, readyz).await {
        Ok(Ok(response)) if response.status() == StatusCode::OK => DaemonAnswer::Ready,
        Ok(Ok(response)) => {
            let body = String::from_utf8_lossy(response.body());
            DaemonAnswer::NotReady(join(body.split_whitespace(), " "))
        }
        Ok(Err(error)) => DaemonAnswer::Silent(format!("{address}: {error:#}")),
        Err(_) => DaemonAnswer::Silent(format!("no response from {address} in {} s", LIMIT.as_secs())),
    }
}
