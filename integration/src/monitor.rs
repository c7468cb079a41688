//! The kernel's own news of routes and forwarding entries, with the time of each.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use crate::netns::Netns;
use crate::wait;

/// A running `ip monitor`.
pub struct Monitor {
    child: Child,
    events: Receiver<News>,
}

/// One change, as iproute2 words it.
#[derive(Clone, Debug)]
pub struct News {
    /// When, as time since midnight UTC.
    pub at: Duration,
    /// What: `Deleted 10.42.2.0/24 via 10.42.2.0 dev flannel.1 …`; a forwarding entry looks like a neighbour
    /// with the outer address: `192.168.50.2 dev flannel.1 lladdr 0a:… NOARP PERMANENT`.
    pub text: String,
}

impl Monitor {
    /// Starts to listen for routes, neighbours and forwarding entries.
    pub fn start(netns: &Netns) -> Result<Self> {
        let mut command = Command::new("ip");
        command.args(["-ts", "monitor", "route", "neigh"]);
        let monitor = Self::run(netns, command)?;
        // It listens once a change shows.
        wait::until("`ip monitor` listens", wait::LONG, || {
            netns.ip("route add blackhole 198.51.100.1/32")?;
            netns.ip("route del blackhole 198.51.100.1/32")?;
            monitor.next(Duration::from_millis(100)).map(drop)
        })?;
        Ok(monitor)
    }

    fn run(netns: &Netns, mut command: Command) -> Result<Self> {
        command.env("TZ", "UTC").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = netns.spawn(&mut command)?;
        let stdout = child.stdout.take().context("stdout was asked for as a pipe")?;
        let (send, events) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Some(news) = News::of(&line) else { continue };
                if send.send(news).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, events })
    }

    /// The next change.
    pub fn next(&self, limit: Duration) -> Result<News> {
        self.events.recv_timeout(limit).context("no change came")
    }

    /// The next change that fits.
    pub fn find(&self, fits: impl Fn(&str) -> bool) -> Result<News> {
        loop {
            let news = self.next(wait::LONG)?;
            if fits(&news.text) {
                return Ok(news);
            }
        }
    }

    /// Changes that have come in.
    pub fn so_far(&self) -> Vec<News> {
        self.events.try_iter().collect()
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<()> {
        self.child.kill().context("could not end a monitor")?;
        self.child.wait().context("could not wait for a monitor").map(drop)
    }
}

impl News {
    /// Reads `[2026-01-31T12:34:56.789012] Deleted 10.42.1.0/24 …`.
    fn of(line: &str) -> Option<Self> {
        let (stamp, text) = line.strip_prefix('[')?.split_once(']')?;
        let mut parts = stamp.split_once('T')?.1.split(':');
        let hours: u64 = parts.next()?.parse().ok()?;
        let minutes: u64 = parts.next()?.parse().ok()?;
        let (seconds, micros) = parts.next()?.split_once('.')?;
        let seconds = hours * 3600 + minutes * 60 + seconds.parse::<u64>().ok()?;
        let at = Duration::from_secs(seconds) + Duration::from_micros(micros.parse().ok()?);
        Some(Self { at, text: text.trim().to_owned() })
    }
}

#[cfg(test)]
mod tests;
