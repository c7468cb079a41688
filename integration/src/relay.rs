//! A relay for TCP that takes its time, between a client and a server that answers at once.

use anyhow::{Context, Result};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::netns::Netns;

/// How a relay passes on what the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    Prompt,
    /// Every piece of data after this time.
    After(Duration),
    /// The first half of a piece at once, the rest at the next change of the pace.
    Half,
}

/// A relay whose pace can change. It runs as long as the test.
#[derive(Clone)]
pub struct Relay {
    address: SocketAddr,
    pace: Arc<Mutex<Pace>>,
    clients: Arc<AtomicUsize>,
    /// One end of each connection since the last cut.
    open: Arc<Mutex<Vec<TcpStream>>>,
}

/// Listens on a port of `at` and passes every piece of data on after `delay`, in both directions. It lives as long as the
/// test.
pub fn slow(at: &Netns, address: IpAddr, server: SocketAddr, delay: Duration) -> Result<SocketAddr> {
    listen(at, address, server, move |client, server| {
        let ends = (client.try_clone(), server.try_clone());
        if let (Ok(client_too), Ok(server_too)) = ends {
            thread::spawn(move || pass(client, server, |_| thread::sleep(delay)));
            thread::spawn(move || pass(server_too, client_too, |_| thread::sleep(delay)));
        }
    })
}

/// Listens on a port of `at` and passes data on at once, but with `old` replaced by `new` in what the server sends: a proxy that damages
/// content. Both have the same length. It lives as long as the test.
pub fn damaging(
    at: &Netns,
    address: IpAddr,
    server: SocketAddr,
    (old, new): (&'static [u8], &'static [u8]),
) -> Result<SocketAddr> {
    listen(at, address, server, move |client, server| {
        if let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) {
            thread::spawn(move || pass(client, server, |_| {}));
            thread::spawn(move || {
                pass(server_too, client_too, |data| {
                    while let Some(at) = data.windows(old.len()).position(|part| part == old) {
                        data[at..at + new.len()].copy_from_slice(new);
                    }
                });
            });
        }
    })
}

/// A forward proxy that knows one server: answers the request `CONNECT`, then passes data on. It lives as long as the test.
pub fn tunnel(at: &Netns, address: IpAddr, server: SocketAddr) -> Result<SocketAddr> {
    listen(at, address, server, |mut client, server| {
        thread::spawn(move || {
            let (mut request, mut byte) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\n") && client.read_exact(&mut byte).is_ok() {
                request.extend(byte);
            }
            let ends = (client.try_clone(), server.try_clone());
            if request.starts_with(b"CONNECT ")
                && client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").is_ok()
                && let (Ok(client_too), Ok(server_too)) = ends
            {
                thread::spawn(move || pass(client, server, |_| {}));
                pass(server_too, client_too, |_| {});
            }
        });
    })
}

impl Relay {
    /// Listens on a port of `at` for clients of `server`.
    pub fn start(at: &Netns, address: IpAddr, server: SocketAddr) -> Result<Self> {
        let pace = Arc::new(Mutex::new(Pace::Prompt));
        let clients = Arc::<AtomicUsize>::default();
        let open = Arc::<Mutex<Vec<TcpStream>>>::default();
        let shared = (Arc::clone(&pace), Arc::clone(&clients), Arc::clone(&open));
        let address = listen(at, address, server, move |client, server| {
            let (pace, clients) = (Arc::clone(&shared.0), Arc::clone(&shared.1));
            shared.2.lock().unwrap_or_else(PoisonError::into_inner).extend(client.try_clone());
            if let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) {
                clients.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || {
                    pass(client, server, |_| {});
                    clients.fetch_sub(1, Ordering::Relaxed);
                });
                thread::spawn(move || {
                    pass_paced(server_too, client_too, &pace);
                });
            }
        })?;
        Ok(Self { address, pace, clients, open })
    }

    /// Where clients connect.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the pace, also of data that waits.
    pub fn set(&self, pace: Pace) {
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner) = pace;
    }

    /// Closes all connections. Clients can connect again at once.
    pub fn cut(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// The number of clients that are connected.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }
}

/// Accepts clients, and connects each to the server.
fn listen(
    at: &Netns,
    address: IpAddr,
    server: SocketAddr,
    connect: impl Fn(TcpStream, TcpStream) + Send + 'static,
) -> Result<SocketAddr> {
    let listener =
        at.enter(|| TcpListener::bind((address, 0)).context("could not open a port for a relay"))?;
    let local = listener.local_addr().context("a relay without an address")?;
    let at = at.clone();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let connected = at.enter(|| TcpStream::connect(server).context("could not connect a relay"));
            if let Ok(server) = connected {
                connect(client, server);
            }
        }
    });
    Ok(local)
}

fn pass(mut from: TcpStream, mut to: TcpStream, before: impl Fn(&mut [u8])) {
    let mut buffer = [0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        before(&mut buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn pass_paced(mut from: TcpStream, mut to: TcpStream, pace: &Mutex<Pace>) {
    let now = || *pace.lock().unwrap_or_else(PoisonError::into_inner);
    let mut buffer = [0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let (begun, started) = (now(), Instant::now());
        let (first, limit) = match begun {
            Pace::Prompt => (length, Duration::ZERO),
            Pace::After(delay) => (0, delay),
            Pace::Half => (length / 2, Duration::MAX),
        };
        if to.write_all(&buffer[..first]).is_err() {
            break;
        }
        while now() == begun && started.elapsed() < limit {
            thread::sleep(Duration::from_millis(20));
        }
        if to.write_all(&buffer[first..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
