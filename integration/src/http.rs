//! As much HTTP as `GET` on a daemon's own endpoints needs.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::netns::Netns;

const LIMIT: Duration = Duration::from_secs(5);

/// A status code and a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Body as text.
    pub body: String,
}

/// Asks for a path, from inside a namespace.
pub fn get(from: &Netns, server: SocketAddr, path: &str) -> Result<Response> {
    from.enter(|| {
        let stream = TcpStream::connect_timeout(&server, LIMIT)
            .with_context(|| format!("could not connect to {server}"))?;
        stream.set_read_timeout(Some(LIMIT)).context("could not set a time limit")?;
        exchange(stream, path)
    })
}

/// Asks for a path on a socket file, as it is seen inside a namespace.
pub fn get_unix(from: &Netns, socket: &Path, path: &str) -> Result<Response> {
    from.enter(|| {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("could not connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(LIMIT)).context("could not set a time limit")?;
        exchange(stream, path)
    })
}

fn exchange(mut stream: impl Read + Write, path: &str) -> Result<Response> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .context("could not send a request")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("could not read an answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a header")?;
    let status =
        head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("an answer without a status")?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok(Response { status, body: if chunked { unchunk(body)? } else { body.to_owned() } })
}

fn unchunk(mut body: &str) -> Result<String> {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).context("a chunk without a size")?;
        if size == 0 {
            break;
        }
        text.push_str(rest.get(..size).context("a chunk that ends early")?);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    Ok(text)
}
