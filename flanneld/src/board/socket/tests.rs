use super::*;
use crate::testing::board::Fixture;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// A server beside `client`; ends when the client does.
async fn with_server<F: Future<Output = ()>>(fixture: &Fixture, client: impl FnOnce(PathBuf) -> F) {
    let path = fixture.home.path().join("run/flanneld.sock");
    let socket = StatusSocket::bind(&path).unwrap();
    let stop = CancellationToken::new();
    let client = async {
        client(path.clone()).await;
        stop.cancel();
    };
    let both = async { tokio::join!(socket.serve(Arc::clone(&fixture.board), stop.clone()), client) };
    tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
    assert!(!path.exists(), "it is removed at the end");
}

async fn ask(path: &Path, method: &str, target: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: "), "{head}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn paths_and_methods() {
    with_server(&Fixture::busy(), async |path| {
        let (code, body) = ask(&path, "GET", "/status").await;
        assert_eq!(code, 200);
        let status: flannel_core::status::Status = serde_json::from_str(&body).unwrap();
        assert!(status.ready);
        let about: Vec<&str> = status.conditions.iter().map(|condition| condition.about.as_str()).collect();
        assert_eq!(
            about,
            ["10.42.7.0-24", "10.42.8.0-24", "claim", "firewall", "host", "public address", "readiness report", "store"]
        );
        let reasons: Vec<&str> = status.rounds.iter().map(|round| round.reason.as_str()).collect();
        assert_eq!(reasons, ["start", "hint", "resync"]);
        assert_eq!(status.last_lease_change.unwrap().set, 3);

        let (code, body) = ask(&path, "GET", "/metrics").await;
        assert!(code == 200 && body.contains("\nflannel_peers 5000\n"), "{body}");
        insta::assert_snapshot!(ask(&path, "GET", "/nothing?at=all").await.1, @r#"{"error":"/nothing does not exist, only /status, /peers, /desired, /actual, /diff, /metrics"}"#);
        assert_eq!(ask(&path, "GET", "/").await.0, 404);
        assert_eq!(ask(&path, "GET", "//status").await.0, 404);
        let (code, body) = ask(&path, "DELETE", "/status").await;
        assert_eq!(code, 405);
        insta::assert_snapshot!(body, @r#"{"error":"/status is read-only: use GET, not DELETE"}"#);
    })
    .await;
}

#[tokio::test]
async fn a_daemon_without_a_config_reports_that_it_waits() {
    with_server(&Fixture::new(), async |path| {
        for target in ["/peers", "/desired", "/actual", "/diff"] {
            let (code, body) = ask(&path, "GET", target).await;
            assert_eq!(code, 503, "{target}");
            insta::allow_duplicates! {
                insta::assert_snapshot!(body, @r#"{"error":"flanneld is still starting: starting"}"#);
            }
        }
        let (_, body) = ask(&path, "GET", "/status").await;
        let status: flannel_core::status::Status = serde_json::from_str(&body).unwrap();
        assert!(!status.ready && status.lease.is_none() && status.backend.is_none());
        assert_eq!(status.not_ready_reasons, ["starting"]);
    })
    .await;
}

#[tokio::test]
async fn it_belongs_to_owner_and_group() {
    with_server(&Fixture::new(), async |path| {
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, 0o660);
    })
    .await;
}

#[tokio::test]
async fn a_leftover_is_replaced_and_a_live_one_is_not() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("flanneld.sock");
    let first = StatusSocket::bind(&path).unwrap();
    let error = StatusSocket::bind(&path).unwrap_err().to_string();
    let error =
        error.replace(&path.display().to_string(), "PATH").replace(&std::process::id().to_string(), "PID");
    insta::assert_snapshot!(error, @"another process (PID) serves PATH: two daemons on one host conflict; stop one of them, or set another --status-socket if both are needed");
    // Killed: the file stays, and nobody listens.
    drop(first);
    assert!(path.exists());
    StatusSocket::bind(&path).unwrap();
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("precious");
    fs::write(&path, "text").unwrap();
    let error =
        StatusSocket::bind(&path).unwrap_err().to_string().replace(&path.display().to_string(), "PATH");
    insta::assert_snapshot!(error, @"PATH exists and is not a socket: remove it, or choose another --status-socket");
    assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    let below = path.join("flanneld.sock");
    let error = StatusSocket::bind(&below).unwrap_err();
    assert!(matches!(error, SocketError::Create { .. }), "{error}");
    let long = home.path().join("x".repeat(120));
    let error = chain(&StatusSocket::bind(&long).unwrap_err());
    assert!(error.contains("could not create the status socket") && error.contains("SUN_LEN"), "{error}");
}

#[tokio::test]
async fn the_client_reads_a_complete_response() {
    with_server(&Fixture::busy(), async |path| {
        let stream = UnixStream::connect(&path).await.unwrap();
        let response = http::get(stream, "localhost", "/status").await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (StatusCode::OK, &HeaderValue::from_static(JSON))
        );
        let status: flannel_core::status::Status = serde_json::from_slice(response.body()).unwrap();
        assert!(status.ready);
    })
    .await;
}
