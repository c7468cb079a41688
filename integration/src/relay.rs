//! A relay for TCP that takes its time, between a client and a server that answers at once.

use anyhow::{Context, Result};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::netns::Netns;

/// Listens on a port of `at` and passes every piece of data on after `delay`, in both directions. It lives as long as the
/// test.
pub fn slow(
    at: &Netns,
    address: std::net::IpAddr,
    server: SocketAddr,
    delay: Duration,
) -> Result<SocketAddr> {
    let listener =
        at.enter(|| TcpListener::bind((address, 0)).context("could not open a port for a relay"))?;
    let local = listener.local_addr().context("a relay without an address")?;
    let at = at.clone();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let connected = at.enter(|| TcpStream::connect(server).context("could not connect a relay"));
            let Ok(server) = connected else { continue };
            let ends = (client.try_clone(), server.try_clone());
            if let (Ok(client_too), Ok(server_too)) = ends {
                thread::spawn(move || pass(client, server, delay));
                thread::spawn(move || pass(server_too, client_too, delay));
            }
        }
    });
    Ok(local)
}

fn pass(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let mut buffer = [0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        thread::sleep(delay);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
