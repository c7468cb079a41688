//! Traffic whose loss is counted: pings, a stream of datagrams, a TCP connection.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::netns::Netns;
use crate::wait;

/// What `ping` counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ping {
    /// Requests sent.
    pub sent: u32,
    /// Replies received.
    pub received: u32,
    /// Average round trip, in milliseconds; 0 without replies.
    pub average_ms: f64,
}

impl Netns {
    /// Sends `count` echo requests of 56 bytes.
    pub fn ping(&self, to: IpAddr, count: u32) -> Result<Ping> {
        self.ping_with(to, count, &[])
    }

    /// Sends one packet of exactly `mtu` bytes that may not be fragmented. Fails if no reply comes.
    pub fn ping_full(&self, to: IpAddr, mtu_bytes: u32) -> Result<()> {
        let headers = if to.is_ipv4() { 20 + 8 } else { 40 + 8 };
        let size = (mtu_bytes - headers).to_string();
        let ping = self.ping_with(to, 1, &["-M", "do", "-s", &size])?;
        ensure!(ping.received == 1, "no reply from {to} to a packet of {mtu_bytes} bytes");
        Ok(())
    }

    /// Sends a packet of one byte more than `mtu` that may not be fragmented. Fails unless it is refused
    /// because of exactly this MTU.
    pub fn ping_too_large(&self, to: IpAddr, mtu_bytes: u32) -> Result<()> {
        let headers = if to.is_ipv4() { 20 + 8 } else { 40 + 8 };
        let line = format!("ping -n -M do -W 0.2 -c 1 -s {} {to}", mtu_bytes + 1 - headers);
        wait::until(
            format!("{} refuses more than {mtu_bytes} bytes to {to}", self.name()),
            wait::LONG,
            || {
                let mut command = Command::new("ping");
                command.env("LC_ALL", "C").args(line.split(' ').skip(1)).stdin(Stdio::null());
                let output = self.output(&mut command)?;
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text);
                let refused = [format!("mtu={mtu_bytes}"), format!("mtu: {mtu_bytes}")];
                ensure!(
                    !output.status.success() && refused.iter().any(|words| text.contains(words.as_str())),
                    "{line}: {text}"
                );
                Ok(())
            },
        )
    }

    /// Waits until an echo request is answered.
    pub fn wait_ping(&self, to: IpAddr) -> Result<()> {
        wait::until(format!("{} reaches {to}", self.name()), wait::LONG, || {
            let ping = self.ping_with(to, 1, &["-W", "0.2"])?;
            ensure!(ping.received == 1, "no reply");
            Ok(())
        })
    }

    fn ping_with(&self, to: IpAddr, count: u32, arguments: &[&str]) -> Result<Ping> {
        let mut command = Command::new("ping");
        command
            .env("LC_ALL", "C")
            .args(["-n", "-q", "-i", "0.02", "-W", "1", "-c", &count.to_string()])
            .args(arguments)
            .arg(to.to_string())
            .stdin(Stdio::null());
        let output = self.output(&mut command)?;
        let text = String::from_utf8_lossy(&output.stdout);
        parse_ping(&text).with_context(|| {
            format!("ping {to} from {}: {text} {}", self.name(), String::from_utf8_lossy(&output.stderr))
        })
    }
}

/// Reads `3 packets transmitted, 3 received, 0% packet loss` and `rtt min/avg/max/mdev = 0.1/0.2/0.3/0 ms`.
fn parse_ping(text: &str) -> Result<Ping> {
    let counts = text.lines().find(|line| line.contains(" packets transmitted")).context("no counts")?;
    let number = |part: Option<&str>| {
        part.and_then(|part| part.split_whitespace().next())
            .and_then(|word| word.parse().ok())
            .context("no count")
    };
    let mut parts = counts.split(',');
    let (sent, received) = (number(parts.next())?, number(parts.next())?);
    let average_ms = text
        .lines()
        .find_map(|line| line.strip_prefix("rtt ")?.split(" = ").nth(1)?.split('/').nth(1)?.parse().ok())
        .unwrap_or(0.0);
    Ok(Ping { sent, received, average_ms })
}

/// How long late replies are waited for when a stream ends.
const LAST_REPLIES: Duration = Duration::from_secs(2);

/// A stream of numbered datagrams that are echoed, until it is stopped.
pub struct Datagrams {
    stop: Arc<AtomicBool>,
    stop_echo: Arc<AtomicBool>,
    waiting: Arc<Mutex<BTreeMap<u64, Instant>>>,
    answered: Arc<AtomicU64>,
    sender: JoinHandle<Result<u64>>,
    started: Instant,
}

/// What became of a stream of datagrams.
#[derive(Clone, Debug)]
pub struct DatagramReport {
    /// How many were sent.
    pub sent: u64,
    /// Those that were never answered: number, and when it was sent after the start.
    pub lost: Vec<(u64, Duration)>,
}

impl DatagramReport {
    /// Fails if anything was lost.
    pub fn expect_none_lost(&self) -> Result<()> {
        ensure!(self.sent > 0, "nothing was sent");
        ensure!(
            self.lost.is_empty(),
            "{} of {} datagrams were lost, the first ones {:?} after the start",
            self.lost.len(),
            self.sent,
            self.lost.iter().take(10).map(|(_, at)| *at).collect::<Vec<_>>()
        );
        Ok(())
    }
}

impl Datagrams {
    /// Starts to send one every `interval`.
    pub fn start(from: &Netns, to: &Netns, address: IpAddr, interval: Duration) -> Result<Self> {
        let stop_echo = Arc::new(AtomicBool::new(false));
        let server = echo_datagrams(to, address, &stop_echo)?;
        let socket = from.enter(|| {
            let any: SocketAddr = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
            let socket = UdpSocket::bind(any).context("could not open a socket")?;
            socket.connect(server).with_context(|| format!("no way to {server}"))?;
            socket.set_read_timeout(Some(Duration::from_millis(50))).context("could not set a time limit")?;
            Ok(socket)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let waiting = Arc::new(Mutex::new(BTreeMap::new()));
        let receiving = socket.try_clone().context("could not share a socket")?;
        let answered = Arc::new(AtomicU64::new(0));
        let (waiting_there, answered_there) = (Arc::clone(&waiting), Arc::clone(&answered));
        let stop_there = Arc::clone(&stop_echo);
        thread::spawn(move || receive_replies(&receiving, &waiting_there, &answered_there, &stop_there));
        let (waiting_there, stop_there) = (Arc::clone(&waiting), Arc::clone(&stop));
        let sender = thread::spawn(move || send_datagrams(&socket, &waiting_there, &stop_there, interval));
        Ok(Self { stop, stop_echo, waiting, answered, sender, started: Instant::now() })
    }

    /// How many are unanswered at the moment.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until this many more have been answered.
    pub fn wait_answered(&self, more: u64) -> Result<()> {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        wait::until(format!("{more} datagrams are answered"), wait::LONG, || {
            let answered = self.answered.load(Ordering::Relaxed);
            ensure!(answered >= goal, "{} missing", goal - answered);
            Ok(())
        })
    }

    /// Stops and waits for late replies.
    pub fn stop(self) -> Result<DatagramReport> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = match self.sender.join() {
            Ok(sent) => sent?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let deadline = Instant::now() + LAST_REPLIES;
        let left = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
        while !left().is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        self.stop_echo.store(true, Ordering::Relaxed);
        let lost = left().into_iter().map(|(number, at)| (number, at - self.started)).collect();
        Ok(DatagramReport { sent, lost })
    }
}

fn echo_datagrams(to: &Netns, address: IpAddr, stop: &Arc<AtomicBool>) -> Result<SocketAddr> {
    let socket = to.enter(|| {
        let socket =
            UdpSocket::bind((address, 0)).with_context(|| format!("could not listen on {address}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(50))).context("could not set a time limit")?;
        Ok(socket)
    })?;
    let server = socket.local_addr().context("a socket without an address")?;
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while !stop.load(Ordering::Relaxed) {
            // A time limit, or an ICMP error from earlier: what matters is counted by the sender.
            let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
            let _ = socket.send_to(&buffer[..length], peer);
        }
    });
    Ok(server)
}

fn send_datagrams(
    socket: &UdpSocket,
    waiting: &Mutex<BTreeMap<u64, Instant>>,
    stop: &AtomicBool,
    interval: Duration,
) -> Result<u64> {
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Instant::now());
        // A datagram that cannot be sent has no reply, and so is counted as lost.
        let _ = socket.send(&number.to_be_bytes());
        number += 1;
        thread::sleep(interval);
    }
    Ok(number)
}

fn receive_replies(
    socket: &UdpSocket,
    waiting: &Mutex<BTreeMap<u64, Instant>>,
    answered: &AtomicU64,
    stop: &AtomicBool,
) {
    let mut buffer = [0; 8];
    while !stop.load(Ordering::Relaxed) {
        if let Ok(8) = socket.recv(&mut buffer) {
            let number = u64::from_be_bytes(buffer);
            if waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&number).is_some() {
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// A TCP connection that carries data both ways until it is stopped; every byte is compared.
pub struct Connection {
    stop: Arc<AtomicBool>,
    client: JoinHandle<Result<ConnectionReport>>,
}

/// What a connection carried.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionReport {
    /// Bytes that came back as they were sent.
    pub bytes: u64,
    /// The longest time that nothing came back.
    pub longest_stall: Duration,
}

/// How long a connection may stall before it counts as dead.
const DEAD: Duration = Duration::from_secs(30);
const BLOCK: usize = 16 * 1024;

impl Connection {
    /// Connects and starts to send.
    pub fn start(from: &Netns, to: &Netns, address: IpAddr) -> Result<Self> {
        let listener = to.enter(|| {
            TcpListener::bind((address, 0)).with_context(|| format!("could not listen on {address}"))
        })?;
        let server = listener.local_addr().context("a socket without an address")?;
        thread::spawn(move || echo_stream(&listener));
        let stream = from.enter(|| {
            TcpStream::connect_timeout(&server, DEAD)
                .with_context(|| format!("could not connect to {server}"))
        })?;
        stream.set_read_timeout(Some(DEAD)).context("could not set a time limit")?;
        stream.set_write_timeout(Some(DEAD)).context("could not set a time limit")?;
        stream.set_nodelay(true).context("could not set TCP_NODELAY")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stop_there = Arc::clone(&stop);
        let client = thread::spawn(move || converse(stream, &stop_there));
        Ok(Self { stop, client })
    }

    /// Ends it. Fails if the connection broke, stalled for long, or changed a byte.
    pub fn stop(self) -> Result<ConnectionReport> {
        self.stop.store(true, Ordering::Relaxed);
        match self.client.join() {
            Ok(report) => report,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn echo_stream(listener: &TcpListener) {
    let Ok((mut stream, _)) = listener.accept() else { return };
    let mut buffer = vec![0; BLOCK];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Sends blocks and compares what comes back. Paced, so that it does not take a whole processor.
fn converse(mut stream: TcpStream, stop: &AtomicBool) -> Result<ConnectionReport> {
    let mut report = ConnectionReport { bytes: 0, longest_stall: Duration::ZERO };
    let mut received = vec![0; BLOCK];
    let mut seed = 1_u64;
    let block_bytes = u64::try_from(BLOCK).context("a block is small")?;
    while !stop.load(Ordering::Relaxed) {
        let sent: Vec<u8> = std::iter::repeat_with(|| next_byte(&mut seed)).take(BLOCK).collect();
        let started = Instant::now();
        let after = |report: &ConnectionReport| format!("after {} bytes", report.bytes);
        stream.write_all(&sent).with_context(|| format!("the connection broke {}", after(&report)))?;
        stream
            .read_exact(&mut received)
            .with_context(|| format!("the connection broke {}", after(&report)))?;
        if sent != received {
            bail!("the connection changed data {}", after(&report));
        }
        report.bytes += block_bytes;
        report.longest_stall = report.longest_stall.max(started.elapsed());
        thread::sleep(Duration::from_millis(2));
    }
    Ok(report)
}

/// Bytes that do not repeat soon (xorshift64).
fn next_byte(seed: &mut u64) -> u8 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    seed.to_be_bytes()[0]
}

#[cfg(test)]
mod tests;
