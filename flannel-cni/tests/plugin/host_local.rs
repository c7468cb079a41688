//! host-local and Debian's Go plugin on the same directory.

use flannel_core::json::Value;
use std::fs;
use std::path::PathBuf;

use crate::support::{Call, GO_PLUGINS, plugin};

/// A directory with the program under the name of the plugin, and a store.
struct Host {
    directory: tempfile::TempDir,
    go: String,
    flannel: String,
    /// The members of `ipam`.
    members: &'static str,
}

impl Host {
    fn new(members: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("host-local");
        std::os::unix::fs::symlink(plugin(), &link).unwrap();
        let (go, flannel) = (format!("{GO_PLUGINS}/host-local"), link.to_str().unwrap().to_owned());
        Self { directory, go, flannel, members }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("networks")
    }

    fn run(&self, program: &str, command: &str, id: &str, args: &str) -> Result<String, String> {
        let (root, members) = (self.path(), self.members);
        let config = format!(
            r#"{{"cniVersion":"0.4.0","name":"net","type":"x","ipam":{{"type":"host-local","dataDir":"{}",{members}}}}}"#,
            root.display()
        );
        Call {
            program,
            node: None,
            command,
            id,
            ifname: "eth0",
            netns: "/nowhere/pod",
            args,
            path: GO_PLUGINS,
            config: &config,
        }
        .run()
    }

    fn files(&self) -> Vec<(String, String)> {
        let Ok(listing) = fs::read_dir(self.path().join("net")) else { return Vec::new() };
        let file = |file: std::io::Result<fs::DirEntry>| {
            let file = file.unwrap();
            let text = fs::read_to_string(file.path()).unwrap();
            (file.file_name().into_string().unwrap(), text)
        };
        let mut files: Vec<_> = listing.map(file).collect();
        files.sort();
        files
    }
}

const DUAL: &str = r#""ranges":[[{"subnet":"10.1.2.0/29"}],[{"subnet":"2001:db8::/64"}]],
    "routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0","gw":"2001:db8::1"}]"#;

#[test]
#[ignore = "needs netns"]
fn each_continues_after_the_other() {
    let host = Host::new(DUAL);
    // The expected result is that of the same steps by Go alone.
    let model = Host::new(DUAL);
    let steps = [
        ("ADD", "a", ""),
        ("ADD", "b", ""),
        ("CHECK", "a", ""),
        ("CHECK", "x", ""),
        ("ADD", "c", "IP=10.1.2.4"),
        ("ADD", "c", ""),
        ("ADD", "d", "IP=10.1.2.1"),
        ("ADD", "e", "IP=10.1.2.4"),
        ("DEL", "a", ""),
        ("DEL", "a", ""),
        ("ADD", "f", ""),
        ("ADD", "g", "IgnoreUnknown=1;FOO=BAR"),
        ("ADD", "h", "FOO=BAR"),
        ("DEL", "b", ""),
        ("ADD", "i", ""),
        ("DEL", "c", ""),
        ("ADD", "j", ""),
    ];
    for turn in 0..2 {
        for (at, (command, id, args)) in steps.iter().enumerate() {
            let program = if (at + turn).is_multiple_of(2) { &host.go } else { &host.flannel };
            let ours = host.run(program, command, id, args);
            let expected = model.run(&model.go, command, id, args);
            assert_eq!(ours.is_ok(), expected.is_ok(), "{at} {command} {id}: {ours:?} {expected:?}");
            if let (Ok(ours), Ok(expected)) = (&ours, &expected) {
                assert_eq!(ours, expected, "{at} {command} {id}");
            }
        }
        let addresses = |host: &Host| {
            let files = host.files().into_iter();
            files.filter(|(name, _)| !name.starts_with("last_")).collect::<Vec<_>>()
        };
        assert_eq!(addresses(&host), addresses(&model));
        for id in ["f", "g", "i", "j"] {
            let program = if turn == 0 { &host.go } else { &host.flannel };
            host.run(program, "DEL", id, "").unwrap();
            model.run(&model.go, "DEL", id, "").unwrap();
        }
        assert_eq!(addresses(&host), [("lock".to_owned(), String::new())]);
    }
}

#[test]
#[ignore = "needs netns"]
fn adds_of_both_at_the_same_time_are_unique() {
    let host = Host::new(r#""ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"2001:db8::/120"}]]"#);
    let results: Vec<String> = std::thread::scope(|scope| {
        let add = |at: usize| {
            let host = &host;
            scope.spawn(move || {
                let program = if at.is_multiple_of(2) { &host.go } else { &host.flannel };
                host.run(program, "ADD", &format!("c{at}"), "").unwrap()
            })
        };
        let threads: Vec<_> = (0..50).map(add).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut addresses = Vec::new();
    for result in results {
        let value = Value::parse(result.as_bytes()).unwrap();
        let ips = value.as_object().unwrap().get("ips").unwrap().as_array().unwrap();
        for ip in ips {
            addresses.push(ip.as_object().unwrap().get("address").unwrap().as_str().unwrap().to_owned());
        }
    }
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 100);
    assert_eq!(host.files().len(), 100 + 3);
}

#[test]
#[ignore = "needs netns"]
fn a_full_range_has_the_same_error() {
    let host = Host::new(r#""ranges":[[{"subnet":"10.1.2.0/30"}]]"#);
    host.run(&host.go, "ADD", "a", "").unwrap();
    let error = host.run(&host.flannel, "ADD", "b", "").unwrap_err();
    assert_eq!(Some(error), host.run(&host.go, "ADD", "b", "").err());
}
