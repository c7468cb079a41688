//! A real etcd for one test.

use etcd_client::Client;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::options;
use crate::store::etcd::EtcdStore;

/// A running etcd, killed when this is dropped (or, by `setpriv --pdeathsig`, when the test is).
pub(in crate::store) struct Server {
    child: Option<Child>,
    pub(in crate::store) directory: TempDir,
    pub(in crate::store) port: u16,
    scheme: &'static str,
    arguments: Vec<String>,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Server {
    /// Plain http, no authentication.
    pub(in crate::store) async fn start() -> Self {
        let server = Self::launch("http", &[]);
        server.ready().await;
        server
    }

    /// With more arguments; the caller waits until it is ready.
    pub(in crate::store) fn launch(scheme: &'static str, arguments: &[&str]) -> Self {
        let mut server = Self {
            child: None,
            directory: tempfile::Builder::new().prefix("flannel-etcd-").tempdir().unwrap(),
            port: free_port(),
            scheme,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        };
        server.run();
        server
    }

    /// Starts the process, on the data that is there.
    pub(in crate::store) fn run(&mut self) {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", free_port()));
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--name", "s", "--log-level", "error"])
            .args(["--heartbeat-interval", "20", "--election-timeout", "100", "--unsafe-no-fsync"])
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("s={peer}")])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv (util-linux) and etcd are installed where this test runs");
        self.child = Some(child);
    }

    pub(in crate::store) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    pub(in crate::store) fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    pub(in crate::store) fn store(&self) -> EtcdStore {
        EtcdStore::new(options(&self.url())).unwrap()
    }

    pub(in crate::store) async fn client(&self) -> Client {
        Client::connect([self.url()], None).await.unwrap()
    }

    /// Waits until it serves (plain http only).
    pub(in crate::store) async fn ready(&self) {
        let mut client = self.client().await;
        eventually("etcd serves", async || client.get("x", None).await.is_ok()).await;
    }

    /// Stops all of its threads, without ending it.
    pub(in crate::store) async fn freeze(&self) {
        let id = self.send_signal("STOP");
        // A thread on another processor runs on until it receives the signal.
        let is_stopped = |thread: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
            // The state follows the name, which is in parentheses (proc_pid_stat(5)).
            stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
        };
        let tasks = format!("/proc/{id}/task");
        eventually("etcd is stopped", async || std::fs::read_dir(&tasks).unwrap().all(is_stopped)).await;
    }

    /// Lets it continue.
    pub(in crate::store) fn thaw(&self) {
        self.send_signal("CONT");
    }

    fn send_signal(&self, name: &str) -> u32 {
        let id = self.child.as_ref().unwrap().id();
        assert!(Command::new("kill").args(["-s", name, &id.to_string()]).status().unwrap().success());
        id
    }

    /// Kills it.
    pub(in crate::store) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Polls a condition until it holds.
pub(in crate::store) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not so after {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(in crate::store) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
