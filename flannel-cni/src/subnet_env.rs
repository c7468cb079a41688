//! The plugin's reader of `subnet.env`, in which flanneld publishes the node's subnet: strict, line by line.

use flannel_core::family::DualStack;
use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::address::{ParseCidrError, parse_cidr};
use crate::error::PathError;

/// The content of `subnet.env`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubnetEnv {
    /// Networks of the cluster, masked, each once; those of `FLANNEL_NETWORK` first.
    pub(crate) networks: Vec<IpNet>,
    /// This node's subnets, masked.
    pub(crate) subnets: DualStack<IpNet>,
    pub(crate) mtu: u32,
    /// flanneld masquerades, so the bridge plugin must not.
    pub(crate) ip_masq: bool,
}

/// An unusable `subnet.env`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubnetEnvError {
    #[error(transparent)]
    Read(#[from] PathError),
    #[error(transparent)]
    Cidr(#[from] ParseCidrError),
    #[error("{0}")]
    Content(String),
}

impl SubnetEnvError {
    /// Whether the file does not exist: flanneld has not written it yet.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Read(read) if read.error.kind() == io::ErrorKind::NotFound)
    }
}

const KEYS: [&str; 6] = [
    "FLANNEL_NETWORK",
    "FLANNEL_IPV6_NETWORK",
    "FLANNEL_SUBNET",
    "FLANNEL_IPV6_SUBNET",
    "FLANNEL_MTU",
    "FLANNEL_IPMASQ",
];

impl SubnetEnv {
    /// Reads the file.
    pub(crate) fn read(path: &Path) -> Result<Self, SubnetEnvError> {
        let text = std::fs::read(path).map_err(|error| PathError::new("open", path, error))?;
        Self::parse(&String::from_utf8_lossy(&text), path)
    }

    /// Reads the file, after waiting up to `timeout` for it: after a boot the runtime may start before flanneld.
    pub(crate) fn wait_and_read(path: &Path, timeout: Duration) -> Result<Self, SubnetEnvError> {
        let deadline = Instant::now() + timeout;
        // It nearly always exists. Closing a watch takes 12 ms (the kernel waits for its readers).
        let result = Self::read(path);
        if !Self::is_worth_waiting(&result, path) || timeout.is_zero() {
            return result;
        }
        loop {
            // The watch is set before the next read, so that no change is missed.
            let watch = watch_nearest(path);
            let result = Self::read(path);
            let left = deadline.saturating_duration_since(Instant::now());
            if !Self::is_worth_waiting(&result, path) || left.is_zero() {
                return result;
            }
            let Some(watch) = watch else { return result };
            // Wait for an event in the directory, or for a directory nearer to the file to appear.
            let pause = left.min(Duration::from_secs(1)).as_millis() + 1;
            let pause = PollTimeout::try_from(pause).unwrap_or(PollTimeout::ZERO);
            // If it is interrupted or fails: read again, until the deadline.
            let _ = poll(&mut [PollFd::new(watch.as_fd(), PollFlags::POLLIN)], pause);
        }
    }

    fn is_worth_waiting(result: &Result<Self, SubnetEnvError>, path: &Path) -> bool {
        !path.as_os_str().is_empty() && matches!(result, Err(error) if error.is_absent())
    }

    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, SubnetEnvError> {
        let mut values: [Option<&str>; 6] = [None; 6];
        for line in text.split('\n') {
            let line = line.strip_suffix('\r').unwrap_or(line);
            let (key, value) = line.split_once('=').map_or((line, None), |(key, value)| (key, Some(value)));
            if let Some(at) = KEYS.iter().position(|known| *known == key) {
                let missing = || format!("the line {key:?} has no '=': must be {key}=VALUE");
                values[at] = Some(value.ok_or_else(missing).map_err(SubnetEnvError::Content)?);
            }
        }
        let [network, network_v6, subnet, subnet_v6, mtu, ip_masq] = values;

        let mut networks = Vec::new();
        for text in [network, network_v6].into_iter().flatten().flat_map(|list| list.split(',')) {
            let network = parse_cidr(text)?.trunc();
            if !networks.contains(&network) {
                networks.push(network);
            }
        }
        let net = |text: Option<&str>| text.map(parse_cidr).transpose().map(|net| net.map(|net| net.trunc()));
        let subnets = DualStack { v4: net(subnet)?, v6: net(subnet_v6)? };
        let mtu = mtu.map(parse_mtu).transpose()?;

        let (no_network, no_subnet) = (networks.is_empty(), subnets == DualStack::default());
        let lacks = [no_network, no_network, no_subnet, no_subnet, mtu.is_none(), ip_masq.is_none()];
        let (Some(mtu), Some(ip_masq), false, false) = (mtu, ip_masq, no_network, no_subnet) else {
            let keys = KEYS.into_iter().zip(lacks).filter_map(|(key, lacks)| lacks.then_some(key));
            let keys = keys.collect::<Vec<_>>().join(", ");
            return Err(SubnetEnvError::Content(format!("{} is missing {keys}", path.display())));
        };
        Ok(Self { networks, subnets, mtu, ip_masq: ip_masq == "true" })
    }
}

/// Parses an unsigned number of 32 bits; the errors are those of Go's `strconv`.
fn parse_mtu(text: &str) -> Result<u32, SubnetEnvError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let error = |rule| SubnetEnvError::Content(format!("strconv.ParseUint: parsing {text:?}: {rule}"));
    if !digits {
        return Err(error("invalid syntax"));
    }
    text.parse().map_err(|_| error("value out of range"))
}

/// Watches the directory of `path`, or the nearest ancestor that exists.
fn watch_nearest(path: &Path) -> Option<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).ok()?;
    let events = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE;
    path.ancestors().skip(1).find(|directory| inotify.add_watch(*directory, events).is_ok())?;
    Some(inotify)
}

#[cfg(test)]
mod tests;
