use super::*;
use crate::http::{MAX_CONNECTIONS, MAX_HEAD_BYTES};
use crate::status::Readiness;
use crate::testing::board::Fixture;
use std::error::Error as _;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time;

fn not_ready() -> Readiness {
    Readiness::waiting("no lease")
}

/// A server on a port of the kernel's choice, run beside `client`; ends when the client does.
async fn with_server<F: Future<Output = ()>>(
    ip: &str,
    client: impl FnOnce(u16, watch::Sender<Readiness>, CancellationToken) -> F,
) {
    let listener = bind(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let fixture = Fixture::new();
    fixture.readiness.send_replace(not_ready());
    let stop = CancellationToken::new();
    let client = async {
        client(port, fixture.readiness.clone(), stop.clone()).await;
        stop.cancel();
    };
    time::timeout(Duration::from_secs(30), async {
        tokio::join!(serve(listener, Arc::clone(&fixture.board), stop.clone()), client)
    })
    .await
    .unwrap();
}

async fn connect(ip: &str, port: u16) -> io::Result<TcpStream> {
    TcpStream::connect(SocketAddr::new(ip.parse().unwrap(), port)).await
}

async fn talk(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn ask(port: u16, method: &str, path: &str) -> String {
    let mut stream = connect("127.0.0.1", port).await.unwrap();
    talk(&mut stream, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
}

fn check(answer: &str, status: u16, body: &str) {
    let (head, found) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(head.contains("\r\ncontent-type: text/plain; charset=utf-8\r\n"), "{answer}");
    assert_eq!(found, body, "{answer}");
}

#[tokio::test]
async fn paths_codes_and_bodies() {
    with_server("127.0.0.1", async |port, readiness, _| {
        check(&ask(port, "GET", "/healthz").await, 200, "flanneld is running");
        check(&ask(port, "GET", "/readyz").await, 503, "flanneld is not ready yet");
        readiness.send(Readiness::default()).unwrap();
        check(&ask(port, "GET", "/readyz").await, 200, "flanneld is ready");
        check(&ask(port, "GET", "/readyz?verbose=1").await, 200, "flanneld is ready");
        let metrics = ask(port, "GET", "/metrics").await;
        assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
        assert!(metrics.contains("\nflannel_ready 1\n"), "{metrics}");
        readiness.send(not_ready()).unwrap();
        check(&ask(port, "GET", "/readyz").await, 503, "flanneld is not ready yet");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
            check(&ask(port, method, "/healthz").await, 200, "flanneld is running");
        }
        check(&ask(port, "HEAD", "/healthz").await, 200, "");
        for path in ["/", "/healthz/", "/Healthz", "/metrics2", "/healthz/x", "*"] {
            check(&ask(port, "GET", path).await, 404, "404 page not found\n");
        }
        for (path, location) in [
            ("//healthz", "/healthz"),
            ("/./healthz", "/healthz"),
            ("/x/../healthz?a=b", "/healthz?a=b"),
            ("//evil.example/", "/evil.example/"),
            ("/..", "/"),
        ] {
            let answer = ask(port, "GET", path).await;
            check(&answer, 301, "");
            assert!(answer.contains(&format!("\r\nlocation: {location}\r\n")), "{answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    with_server("127.0.0.1", async |port, _, _| {
        let mut stream = connect("127.0.0.1", port).await.unwrap();
        let one = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        let last = "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        let answer = talk(&mut stream, &format!("{one}{one}{last}")).await;
        assert_eq!(answer.matches("flanneld is running").count(), 3, "{answer}");
    })
    .await;
}

/// Of these addresses those that this machine has: not every container has IPv6.
fn local<'a>(addresses: &[&'a str]) -> Vec<&'a str> {
    let is_local = |ip: &&str| std::net::TcpListener::bind((*ip, 0)).is_ok();
    addresses.iter().copied().filter(is_local).collect()
}

#[tokio::test]
async fn wildcards_serve_both_families() {
    for ip in ["0.0.0.0", "::"] {
        with_server(ip, async |port, _, _| {
            for ip in local(&["127.0.0.1", "127.0.0.2", "::1"]) {
                connect(ip, port).await.unwrap_or_else(|error| panic!("{ip}: {error}"));
            }
        })
        .await;
    }
}

#[tokio::test]
async fn an_address_serves_itself_only() {
    let addresses = local(&["127.0.0.1", "127.0.0.2", "::1"]);
    for ip in &addresses {
        with_server(ip, async |port, _, _| {
            connect(ip, port).await.unwrap();
            for other in addresses.iter().filter(|other| *other != ip) {
                assert_eq!(connect(other, port).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            }
        })
        .await;
    }
}

#[tokio::test]
async fn stops_within_a_second_whatever_clients_do() {
    with_server("127.0.0.1", async |port, _, stop| {
        let mut idle = connect("127.0.0.1", port).await.unwrap();
        let mut half = connect("127.0.0.1", port).await.unwrap();
        half.write_all(b"GET /healthz HTTP/1.1\r\nHost").await.unwrap();
        let mut kept = connect("127.0.0.1", port).await.unwrap();
        kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 8];
        kept.read_exact(&mut first).await.unwrap();
        let begin = Instant::now();
        stop.cancel();
        for stream in [&mut idle, &mut half, &mut kept] {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        assert_eq!(connect("127.0.0.1", port).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    })
    .await;
}

#[tokio::test]
async fn idle_crowds_do_not_keep_others_out() {
    with_server("127.0.0.1", async |port, _, _| {
        let mut crowd = Vec::new();
        for _ in 0..3 * MAX_CONNECTIONS {
            crowd.push(connect("127.0.0.1", port).await.unwrap());
        }
        check(&ask(port, "GET", "/healthz").await, 200, "flanneld is running");
        // The oldest had to go.
        assert_eq!(crowd[0].read(&mut [0; 8]).await.unwrap_or(0), 0);
    })
    .await;
}

/// With the clock paused, time jumps to the next timer whenever nobody has anything to do.
#[tokio::test]
async fn slow_heads_are_cut_off() {
    with_server("127.0.0.1", async |port, _, _| {
        let mut slow = connect("127.0.0.1", port).await.unwrap();
        slow.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
        let mut kept = connect("127.0.0.1", port).await.unwrap();
        kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 64];
        assert!(kept.read(&mut answer).await.unwrap() > 0);
        time::pause();
        for stream in [&mut slow, &mut kept] {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        time::resume();
    })
    .await;
}

#[tokio::test]
async fn nonsense_is_refused() {
    with_server("127.0.0.1", async |port, _, _| {
        let mut stream = connect("127.0.0.1", port).await.unwrap();
        let answer = talk(&mut stream, "\x16\x03\x01 nonsense\r\n\r\n").await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let mut stream = connect("127.0.0.1", port).await.unwrap();
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(2 * MAX_HEAD_BYTES));
        let _ = stream.write_all(long.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        check(&ask(port, "GET", "/healthz").await, 200, "flanneld is running");
    })
    .await;
}

#[tokio::test]
async fn an_unavailable_address_is_reported() {
    let shown = |address: SocketAddr| {
        let error = bind(address).unwrap_err();
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        let process = format!("process {} ({})", std::process::id(), name.trim_end());
        let text = format!("{error} ({})", error.source().unwrap()).replace(&process, "process PID (NAME)");
        text.replace(&address.port().to_string(), "PORT")
    };
    let taken = bind("0.0.0.0:0".parse().unwrap()).unwrap();
    let port = taken.local_addr().unwrap().port();
    insta::assert_snapshot!(shown((Ipv4Addr::UNSPECIFIED, port).into()), @"could not listen on 0.0.0.0:PORT for health checks; process PID (NAME) listens there: stop it, or choose another --healthz-port (Address already in use (os error 98))");
    insta::assert_snapshot!(shown(SocketAddr::new("192.0.2.1".parse().unwrap(), port)), @"could not listen on 192.0.2.1:PORT for health checks; this host does not have this address: choose another --healthz-ip, or 0.0.0.0 for all (Cannot assign requested address (os error 99))");
}
