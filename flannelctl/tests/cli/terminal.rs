//! What is different where a person sits: questions, and colours. On real pseudo-terminals.

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::{command, shown};

const KEY: &str = "10.5.3.0-24";

/// A network with a reservation, and the lease of this node.
struct Store(tempfile::TempDir);

impl Store {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("the store can be laid out");
        let directory = home.path().join("leases");
        fs::create_dir_all(directory.join("subnets")).expect("the store can be laid out");
        fs::write(directory.join("config"), r#"{"Network":"10.5.0.0/16"}"#)
            .expect("the store can be laid out");
        for (key, address) in [(KEY, "192.168.64.9"), ("10.5.4.0-24", "192.168.64.4")] {
            let record = format!(r#"{{"PublicIP":"{address}","PublicIPv6":null}}"#);
            fs::write(directory.join("subnets").join(key), record).expect("the store can be laid out");
        }
        fs::write(home.path().join("subnet.env"), "FLANNEL_SUBNET=10.5.4.1/24\n")
            .expect("the store can be laid out");
        Self(home)
    }

    fn directory(&self) -> PathBuf {
        self.0.path().join("leases")
    }

    fn has_lease(&self) -> bool {
        self.directory().join("subnets").join(KEY).exists()
    }
}

/// Both ends of a terminal: that of the person, and that of the program.
fn terminal() -> (File, File) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&person).expect("a terminal");
    unlockpt(&person).expect("a terminal");
    let name = ptsname(&person, Vec::new()).expect("a terminal");
    let program =
        File::options().read(true).write(true).open(name.to_str().expect("a terminal")).expect("a terminal");
    (File::from(person), program)
}

/// Asks for the lease to be released, and types an answer. Exit code, stdout and stderr.
fn answered(store: &Store, typed: &str) -> (i32, String, String) {
    let (mut person, program) = terminal();
    let child = command(&store.directory(), &["lease", "release", KEY])
        .stdin(program)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("flannelctl runs");
    person.write_all(typed.as_bytes()).expect("flannelctl runs");
    let output = child.wait_with_output().expect("flannelctl runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("flannelctl runs");
    (output.status.code().expect("flannelctl runs"), text(output.stdout), text(output.stderr))
}

#[test]
fn lease_is_released_only_after_yes() {
    let question = "Release 10.5.3.0/24 of node 192.168.64.9? [y/N] ";
    let refusal = "flannelctl: not confirmed, nothing was done\n  Answer y to confirm.\n";
    let store = Store::new();
    // What is typed is echoed by the terminal, the end of its line too; Ctrl-D is not.
    for (typed, line_end) in [("n\n", ""), ("\n", ""), ("yesterday\n", ""), ("\x04", "\n")] {
        let said = answered(&store, typed);
        assert_eq!(said, (1, String::new(), format!("{question}{line_end}{refusal}")), "after {typed:?}");
        assert!(store.has_lease(), "after {typed:?}");
    }
    for typed in ["y\n", "Yes\n"] {
        let store = Store::new();
        let said = answered(&store, typed);
        assert_eq!(said, (0, "10.5.3.0/24 of node 192.168.64.9 released\n".to_owned(), question.to_owned()));
        assert!(!store.has_lease());
    }
}

#[test]
fn confirmation_without_a_terminal_is_refused() {
    let store = Store::new();
    insta::assert_snapshot!(shown(&store.directory(), &["lease", "release", KEY]), @r"
    1
    ---
    flannelctl: Release 10.5.3.0/24 of node 192.168.64.9? Confirmation is required, and standard input is not a terminal
      Confirm with --yes.
    ");
    assert!(store.has_lease());
}

/// What a command shows on a terminal, with a variable of the environment.
fn seen(directory: &Path, arguments: &[&str], (name, value): (&str, &str)) -> String {
    let (mut person, program) = terminal();
    let mut command = command(directory, arguments);
    let mut child =
        command.env(name, value).stdin(Stdio::null()).stdout(program).spawn().expect("flannelctl runs");
    // Or the terminal would have a writer for ever.
    drop(command);
    let mut text = Vec::new();
    // It ends with EIO when the last program has closed the terminal.
    let _ = person.read_to_end(&mut text);
    assert!(child.wait().expect("flannelctl runs").success());
    String::from_utf8(text).expect("flannelctl runs")
}

#[test]
fn colours_are_for_terminals_only() {
    let store = Store::new();
    let list = |arguments: &[&str], variable| seen(&store.directory(), arguments, variable);
    let usual = ("TERM", "xterm");
    assert!(list(&["lease", "list"], usual).contains("\x1b[1m10.5.4.0/24 *\x1b[0m"));
    for (arguments, variable) in [
        (&["lease", "list"][..], ("NO_COLOR", "1")),
        (&["lease", "list"], ("TERM", "dumb")),
        (&["lease", "list", "-o", "json"], usual),
        (&["lease", "list", "-o", "name"], usual),
    ] {
        let text = list(arguments, variable);
        assert!(text.contains("10.5.4.0") && !text.contains('\x1b'), "{arguments:?} {variable:?}: {text}");
    }
    let piped = shown(&store.directory(), &["lease", "list"]);
    assert!(piped.contains("10.5.4.0/24 *") && !piped.contains('\x1b'), "{piped}");
}
