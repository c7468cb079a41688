//! Common code of the tests: namespaces, and calls of plugins like those of a runtime.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Returns the path of the plugin: that in `FLANNEL_PLUGIN`, a release build, or the one that was built with the tests.
pub(crate) fn plugin() -> &'static str {
    static PATH: LazyLock<String> = LazyLock::new(|| {
        std::env::var("FLANNEL_PLUGIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_flannel").to_owned())
    });
    &PATH
}

/// The directory of Debian's `containernetworking-plugins`.
pub(crate) const GO_PLUGINS: &str = "/usr/lib/cni";

/// A namespace with a unique name, which is deleted on drop.
pub(crate) struct Netns(pub(crate) String);

impl Netns {
    pub(crate) fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let netns = Self(format!("flannel-cni-{}-{count}-{name}", std::process::id()));
        sh(&["ip", "netns", "add", &netns.0]);
        netns
    }

    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// Runs `work` on a thread in the namespace, where its sockets remain.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    /// Runs a command in the namespace and returns its stdout.
    pub(crate) fn sh(&self, command: &[&str]) -> String {
        sh(&[&["ip", "netns", "exec", &self.0], command].concat())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

pub(crate) fn sh(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// One call of a plugin.
pub(crate) struct Call<'a> {
    pub(crate) program: &'a str,
    /// The namespace of the node; `None` is that of the test.
    pub(crate) node: Option<&'a Netns>,
    pub(crate) command: &'a str,
    pub(crate) id: &'a str,
    pub(crate) ifname: &'a str,
    pub(crate) netns: &'a str,
    pub(crate) args: &'a str,
    /// The search path of delegates.
    pub(crate) path: &'a str,
    pub(crate) config: &'a str,
}

impl Call<'_> {
    /// Runs it; the error is its output.
    pub(crate) fn run(&self) -> Result<String, String> {
        let mut command = match self.node {
            Some(node) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &node.0, self.program]);
                command
            }
            None => Command::new(self.program),
        };
        let mut child = command
            .envs([
                ("CNI_COMMAND", self.command),
                ("CNI_CONTAINERID", self.id),
                ("CNI_NETNS", self.netns),
                ("CNI_IFNAME", self.ifname),
                ("CNI_ARGS", self.args),
                ("CNI_PATH", self.path),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A plugin may fail before it reads.
        let _ = child.stdin.take().unwrap().write_all(self.config.as_bytes());
        let output = child.wait_with_output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        if output.status.success() {
            Ok(stdout)
        } else {
            Err(format!("{stdout}{}", String::from_utf8_lossy(&output.stderr)))
        }
    }
}
