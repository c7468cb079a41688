//! Messages to the service manager (sd_notify(3)): ready, status, stopping, watchdog.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;
use tracing::{debug, warn};

/// The connection to the service manager. Without a service manager, messages are dropped.
#[derive(Debug)]
pub(crate) struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    ping_interval: Option<Duration>,
    status: String,
    failing: bool,
}

impl Notifier {
    /// Finds the service manager in the environment of this process, whose id is `pid`.
    pub(crate) fn from_env(env: impl Fn(&str) -> Option<OsString>, pid: u32) -> Self {
        let manager = env("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| {
            match address(name.as_bytes()).and_then(|address| Ok((socket()?, address))) {
                Ok(manager) => Some(manager),
                Err(error) => {
                    warn!(socket = %name.display(), %error, "could not use NOTIFY_SOCKET, the service manager is not notified");
                    None
                }
            }
        });
        let number = |name| env(name).and_then(|text| text.to_str()?.parse::<u64>().ok());
        let is_watched = number("WATCHDOG_PID").is_none_or(|watched| watched == u64::from(pid));
        // Half of the limit, as sd_watchdog_enabled(3) advises.
        let ping_interval = number("WATCHDOG_USEC")
            .filter(|limit| is_watched && manager.is_some() && *limit > 0)
            .map(|limit| Duration::from_micros(limit) / 2);
        Self { manager, ping_interval, status: String::new(), failing: false }
    }

    /// Returns the interval at which [`Notifier::ping`] is expected, if any.
    #[must_use]
    pub(crate) fn ping_interval(&self) -> Option<Duration> {
        self.ping_interval
    }

    /// Reports that the node is ready.
    pub(crate) fn ready(&mut self) {
        self.send("READY=1");
    }

    /// Reports a status in one line, unless it is unchanged.
    pub(crate) fn status(&mut self, text: &str) {
        let text = text.replace(['\n', '\r'], " ");
        if text != self.status {
            self.send(&format!("STATUS={text}"));
            self.status = text;
        }
    }

    /// Reports that the daemon is stopping.
    pub(crate) fn stopping(&mut self) {
        self.send("STOPPING=1");
    }

    /// Reports that the loop is alive.
    pub(crate) fn ping(&mut self) {
        self.send("WATCHDOG=1");
    }

    fn send(&mut self, message: &str) {
        let Some((socket, address)) = &self.manager else { return };
        match socket.send_to_addr(message.as_bytes(), address) {
            Ok(_) => self.failing = false,
            Err(error) => {
                if !self.failing {
                    warn!(%error, "could not notify the service manager");
                }
                self.failing = true;
            }
        }
        debug!(message, "notified the service manager");
    }
}

fn address(name: &[u8]) -> io::Result<SocketAddr> {
    match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}

/// Does not block, because a service manager that does not read must not stop the daemon.
fn socket() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
