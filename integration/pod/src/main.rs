//! The program in the containers of the tests: the only file of their image, so it is linked statically.
//!
//! | arguments | what it does |
//! |---|---|
//! | none | replies on port 8080, by TCP and UDP, with a line: its host name, and the address of the client |
//! | `wait`, or only flags | waits until it is killed, as a daemon does that has nothing left to do |
//! | `ask ADDRESS:PORT…` | prints the reply of each server; fails if one does not reply |
//! | `ask udp:ADDRESS:PORT…` | the same by UDP, always from the same port, so that all requests are one flow |
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the tests read its stdout")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

const PORT: u16 = 8080;
/// Source port of UDP requests.
const ASKING_PORT: u16 = 8081;
/// Time limit of a reply, longer than the kernel takes to retransmit a lost packet.
const LIMIT: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        [] => listen(),
        ["wait"] => wait(),
        [flag, ..] if flag.starts_with("--") => wait(),
        ["ask", servers @ ..] => servers.iter().try_for_each(|server| ask(server)),
        _ => Err(io::Error::other(format!("no such task: {}", words.join(" ")))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn wait() -> io::Result<()> {
    loop {
        thread::park();
    }
}

/// Replies until it is killed. The sockets accept both families.
fn listen() -> io::Result<()> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
    let line = move |peer: IpAddr| format!("{name} {}\n", peer.to_canonical());
    let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
    let line_of_datagram = line.clone();
    thread::spawn(move || {
        loop {
            if let Ok((_, peer)) = datagrams.recv_from(&mut [0]) {
                let _ = datagrams.send_to(line_of_datagram(peer.ip()).as_bytes(), peer);
            }
        }
    });
    loop {
        // A client may disconnect early.
        if let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(line(peer.ip()).as_bytes());
        }
    }
}

fn ask(server: &str) -> io::Result<()> {
    let answer = match server.strip_prefix("udp:") {
        Some(server) => datagram_from(server),
        None => line_from(server),
    };
    let answer = answer.map_err(|error| io::Error::other(format!("{server}: {error}")))?;
    match answer.trim() {
        "" => Err(io::Error::other(format!("{server}: closed without a reply"))),
        answer => {
            println!("{answer}");
            Ok(())
        }
    }
}

fn line_from(server: &str) -> io::Result<String> {
    let server: SocketAddr = server.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn datagram_from(server: &str) -> io::Result<String> {
    let server: SocketAddr = server.parse().map_err(io::Error::other)?;
    let own: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((own, ASKING_PORT))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.send(b"?")?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}
