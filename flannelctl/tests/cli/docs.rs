//! The examples of docs/flannelctl.md, run as written.

use std::env;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// What the examples begin with.
fn lay_out(home: &Path) {
    let network = home.join("networks/cbr0");
    fs::create_dir_all(&network).expect("a directory can be made");
    fs::write(
        home.join("network.json"),
        "{\"Network\":\"10.5.0.0/18\",\"EnableNFTables\":true,\"Backend\":{\"Type\":\"vxlan\"}}\n",
    )
    .expect("a file can be written");
    let address = network.join("10.5.9.2");
    fs::write(&address, "0123456789abcdef0123\r\neth0").expect("a file can be written");
    let file = File::options().write(true).open(&address).expect("a file can be opened");
    // Half a minute to spare before another age is shown.
    file.set_modified(SystemTime::now() - Duration::from_secs(90)).expect("a time can be set");
}

fn answer(home: &Path, line: &str) -> String {
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some("flannelctl"), "{line}");
    let output = Command::new(env!("CARGO_BIN_EXE_flannelctl"))
        .args(words)
        .args(["--subnet-file", "subnet.env", "--state-dir", "state"])
        .current_dir(home)
        .env_clear()
        .env("FLANNELD_LEASE_DIR", "leases")
        .output()
        .expect("flannelctl starts");
    assert!(output.status.success(), "an example of the manual fails: {line}: {output:?}");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8(text).expect("output is text").replace(&format!("{}/", home.display()), "")
}

/// Revisions begin with the time.
fn masked(text: &str) -> String {
    let words = text.split_inclusive(char::is_whitespace);
    words
        .map(|word| {
            if word.trim().len() > 12 && word.trim().bytes().all(|b| b.is_ascii_digit()) {
                "#\n"
            } else {
                word
            }
        })
        .collect()
}

#[test]
fn the_examples_of_the_manual_are_right() {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/flannelctl.md");
    let text = fs::read_to_string(&manual).unwrap();
    let home = tempfile::tempdir().unwrap();
    lay_out(home.path());
    let mut run = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        run += &format!("{line}\n");
        let Some(example) = line.strip_prefix("    $ ") else { continue };
        while lines.next_if(|line| line.starts_with("    ") && !line.starts_with("    $ ")).is_some() {}
        for line in answer(home.path(), example).lines() {
            run += &format!("    {line}\n");
        }
    }
    if env::var_os("FLANNEL_UPDATE_DOCS").is_some() {
        fs::write(&manual, &run).unwrap();
    }
    assert_eq!(masked(&run), masked(&text), "FLANNEL_UPDATE_DOCS=1 writes what is said now");
}
