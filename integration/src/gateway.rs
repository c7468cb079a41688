//! JSON over one connection: for writes in numbers or at a rate that `etcdctl` or `kubectl`, a process per write, does not
//! reach. Plain HTTP only: the gateway of etcd, or the Kubernetes API behind `kubectl proxy`.

use anyhow::{Context, Result, ensure};
use base64::prelude::{BASE64_STANDARD as BASE64, Engine as _};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::netns::Netns;

const LIMIT: Duration = Duration::from_secs(10);
/// As many as etcd takes in one transaction by default (`--max-txn-ops`).
const TRANSACTION: usize = 128;

/// A connection to one member.
pub struct Gateway {
    stream: BufReader<TcpStream>,
}

impl Gateway {
    /// Connects from inside a namespace.
    pub fn connect(from: &Netns, server: SocketAddr) -> Result<Self> {
        let stream = from.enter(|| {
            TcpStream::connect_timeout(&server, LIMIT)
                .with_context(|| format!("could not connect to {server}"))
        })?;
        stream.set_nodelay(true).context("could not set TCP_NODELAY")?;
        stream.set_read_timeout(Some(LIMIT)).context("could not set a time limit")?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Makes an etcd lease.
    pub fn grant(&mut self, secs: u32) -> Result<String> {
        let answer = self.post("/v3/lease/grant", &json!({"TTL": secs}))?;
        answer["ID"].as_str().map(str::to_owned).context("a lease without a number")
    }

    /// Writes a key.
    pub fn put(&mut self, key: &str, value: &str, lease: &str) -> Result<()> {
        self.post("/v3/kv/put", &put_request(key, value, lease)).map(drop)
    }

    /// Writes many keys, in as few transactions as possible.
    pub fn put_all(&mut self, records: &[(String, String)], lease: &str) -> Result<()> {
        for records in records.chunks(TRANSACTION) {
            let puts: Vec<Value> = records
                .iter()
                .map(|(key, value)| json!({"requestPut": put_request(key, value, lease)}))
                .collect();
            self.post("/v3/kv/txn", &json!({"success": puts}))?;
        }
        Ok(())
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: &str) -> Result<()> {
        self.post("/v3/kv/deleterange", &json!({"key": BASE64.encode(key.as_bytes())})).map(drop)
    }

    fn post(&mut self, path: &str, body: &Value) -> Result<Value> {
        self.send("POST", path, "application/json", body)
    }

    /// Sends a request and returns the response.
    pub fn send(&mut self, method: &str, path: &str, content_type: &str, body: &Value) -> Result<Value> {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).context("could not send a request")?;
        let status = self.line()?;
        let (mut length, mut chunked) = (None, false);
        loop {
            let header = self.line()?.to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = Some(value.trim().parse().context("a length that is no number")?);
            }
            chunked |=
                header.strip_prefix("transfer-encoding:").is_some_and(|value| value.trim() == "chunked");
        }
        let mut answer = Vec::new();
        if chunked {
            self.chunks(&mut answer)?;
        } else {
            self.bytes(length.context("an answer of unknown length")?, &mut answer)?;
        }
        let answer = String::from_utf8_lossy(&answer);
        ensure!(status.contains(" 200 ") || status.contains(" 201 "), "{path}: {status}: {answer}");
        serde_json::from_str(&answer).with_context(|| format!("{path}: not JSON: {answer}"))
    }

    fn chunks(&mut self, answer: &mut Vec<u8>) -> Result<()> {
        loop {
            let size = usize::from_str_radix(&self.line()?, 16).context("a chunk without a size")?;
            self.bytes(size, answer)?;
            self.line()?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn bytes(&mut self, count: usize, answer: &mut Vec<u8>) -> Result<()> {
        let start = answer.len();
        answer.resize(start + count, 0);
        self.stream.read_exact(&mut answer[start..]).context("could not read an answer")
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("could not read an answer")?;
        ensure!(line.ends_with('\n'), "the connection was closed");
        Ok(line.trim_end().to_owned())
    }
}

fn put_request(key: &str, value: &str, lease: &str) -> Value {
    json!({
        "key": BASE64.encode(key.as_bytes()),
        "value": BASE64.encode(value.as_bytes()),
        "lease": lease,
    })
}
