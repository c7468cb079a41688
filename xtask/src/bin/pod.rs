//! What runs in the containers of the tests: the only file of their image, so linked statically.
//!
//! | arguments | what it does |
//! |---|---|
//! | none | answers whoever connects to port 8080 with a line: its host name, and the address that it sees |
//! | `wait` | nothing, for ever |
//! | `ask ADDRESS:PORT…` | prints the line that each of them answers; fails if one does not |
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "whoever runs it in a container reads its stdout")]

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

const PORT: u16 = 8080;
/// How long an answer may take: longer than the kernel takes to send a lost packet again.
const LIMIT: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        [] => listen(),
        ["wait"] => loop {
            thread::park();
        },
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

/// Answers for ever. The socket takes both families.
fn listen() -> io::Result<()> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
    loop {
        // A client that is gone again is its own affair.
        if let Ok((mut stream, peer)) = listener.accept() {
            let _ = writeln!(stream, "{} {}", name.trim(), peer.ip().to_canonical());
        }
    }
}

fn ask(server: &str) -> io::Result<()> {
    let answer = answer_of(server).map_err(|error| io::Error::other(format!("{server}: {error}")))?;
    println!("{answer}");
    Ok(())
}

fn answer_of(server: &str) -> io::Result<String> {
    let server: SocketAddr = server.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let answer = answer.trim();
    if answer.is_empty() {
        return Err(io::Error::other("closed without an answer"));
    }
    Ok(answer.to_owned())
}
