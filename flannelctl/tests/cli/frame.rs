//! What all commands have in common.

use insta::assert_snapshot;
use std::fs;
use std::process::Command;

use crate::support::{flannelctl, shown};

#[test]
fn errors_are_objects_in_json_output() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("leases");
    fs::create_dir(&directory).unwrap();
    assert_snapshot!(shown(&directory, &["config", "get", "-o", "json"]), @r#"
    1
    {
      "error": {
        "fix": "Run `flannelctl config set FILE`.",
        "kind": "not-found",
        "message": "[dir] has no network config"
      }
    }
    ---
    flannelctl: [dir] has no network config
      Run `flannelctl config set FILE`.
    "#);
    assert_snapshot!(shown(&directory, &["config", "get", "-o", "yaml"]), @r#"
    1
    error:
      fix: "Run `flannelctl config set FILE`."
      kind: not-found
      message: "[dir] has no network config"
    ---
    flannelctl: [dir] has no network config
      Run `flannelctl config set FILE`.
    "#);
    assert_snapshot!(shown(&directory, &["config", "gett", "-ojson"]), @r#"
    2
    {
      "error": {
        "fix": "Subcommands of `flannelctl config`: get, set, edit, validate, explain.",
        "kind": "usage",
        "message": "unrecognized subcommand 'gett'"
      }
    }
    ---
    flannelctl: unrecognized subcommand 'gett'
      Subcommands of `flannelctl config`: get, set, edit, validate, explain.
    "#);
    assert_snapshot!(shown(&directory, &["lease", "list", "--nothing", "-ojson"]), @r#"
    2
    {
      "error": {
        "fix": "Run `flannelctl --help`, or the command with --help.",
        "kind": "usage",
        "message": "unexpected argument '--nothing' found"
      }
    }
    ---
    flannelctl: unexpected argument '--nothing' found
      Run `flannelctl --help`, or the command with --help.
    "#);
    assert_snapshot!(shown(&directory, &["config", "validate", "/nowhere", "--output=name"]), @r"
    1
    ---
    flannelctl: could not read /nowhere: No such file or directory (os error 2)
    ");
}

/// At each level, the subcommands that exist, the most similar one first.
#[test]
fn unknown_subcommand_lists_the_existing_ones() {
    let home = tempfile::tempdir().unwrap();
    let unknown = |words: &[&str]| {
        let shown = shown(home.path(), words);
        let tips = shown.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
        tips.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        unknown(&["config", "show"]),
        ["Subcommands of `flannelctl config`: set, get, edit, explain, validate."]
    );
    assert_eq!(unknown(&["support", "bundel"]), ["Subcommands of `flannelctl support`: bundle."]);
    let tips = unknown(&["-o", "wide", "stats"]);
    assert!(tips[0].starts_with("Subcommands of `flannelctl`: status, "), "{tips:?}");
    // The hidden command `man` is for packages.
    assert!(!tips[0].contains(" man"), "{tips:?}");
}

#[test]
fn closed_stdout_is_not_an_error() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("leases");
    fs::create_dir(&directory).unwrap();
    for arguments in [&["lease", "list"][..], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_flannelctl"))
            .arg("--lease-dir")
            .arg(&directory)
            .args(arguments)
            .env_clear()
            .stdout(writer)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn unreachable_store_has_its_own_exit_code() {
    let output = Command::new(env!("CARGO_BIN_EXE_flannelctl"))
        .args(["--etcd-endpoints", "http://127.0.0.1:1", "lease", "list"])
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("could not reach etcd at http://127.0.0.1:1"), "{said}");
}

#[test]
fn reading_does_not_create_a_missing_directory() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("leases");
    assert_snapshot!(shown(&directory, &["lease", "list"]), @r"
    4
    ---
    flannelctl: the lease directory [dir] does not exist
      Check --lease-dir, or run `flannelctl config set FILE` to create it.
    ");
    let config = home.path().join("config.json");
    fs::write(&config, r#"{"Network":"10.5.0.0/16"}"#).unwrap();
    let config = config.to_str().unwrap();
    let said = shown(&directory, &["config", "set", config, "--dry-run"]);
    assert!(said.starts_with("0\n") && !directory.exists(), "{said}");
    let said = shown(&directory, &["config", "set", config]);
    assert!(said.starts_with("0\n") && directory.join("config").exists(), "{said}");
}

#[test]
fn errors_of_the_command_line_ignore_the_environment() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flannelctl"));
        let output = command.args(arguments).env_clear().env("FLANNELD_ETCD_ENDPOINTS", "nowhere").output();
        let output = output.unwrap();
        format!("{}\n{}", output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_snapshot!(run(&["lease", "release"]), @r"
    2
    error: the following required arguments were not provided:
      <TARGET>

    Usage: flannelctl lease release <TARGET>

    For more information, try '--help'.
    ");
    assert_snapshot!(run(&["lease", "list"]), @r#"
    2
    flannelctl: --etcd-endpoints: "nowhere" has no port; write it as http://host:2379 or https://host:2379
    "#);
    let subnet = run(&["lease", "reserve", "192.168.64.9", "--subnet", "10.5.9.0"]);
    assert!(subnet.contains("\"10.5.9.0\" is not a subnet such as 10.5.3.0/24"), "{subnet}");
    let help = run(&[]);
    assert!(help.starts_with("2\n") && help.contains("Show and change leases"), "{help}");
}

#[test]
fn completions_name_the_commands() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = shown(home.path(), &["completion", shell]);
        assert!(script.starts_with("0\n") && script.contains("unreserve"), "{script}");
    }
}

#[test]
fn every_command_and_the_daemon_have_a_man_page() {
    let home = tempfile::tempdir().unwrap();
    let pages = home.path().join("man");
    let said = shown(home.path(), &["man", "--dir", pages.to_str().unwrap()]);
    assert!(said.starts_with("0\n") && said.ends_with("---\n"), "{said}");
    let page = |name: &str| fs::read_to_string(pages.join(name)).unwrap();
    assert!(page("flannelctl-lease-reserve.8").contains("Reserve a subnet for a node"));
    assert!(page("flannelctl.8").contains("flannelctl\\-lease(8)"), "{}", page("flannelctl.8"));
    let daemon = page("flanneld.8");
    assert!(daemon.contains("etcd\\-endpoints") && daemon.contains("FLANNELD_ETCD_ENDPOINTS"), "{daemon}");
    assert!(!pages.join("flannelctl-man.8").exists());
}

#[test]
fn version_is_shown_in_every_format() {
    let home = tempfile::tempdir().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(shown(home.path(), &["version"]), format!("0\nflannelctl {version}\n---\n"));
    let json: serde_json::Value =
        serde_json::from_slice(&flannelctl(home.path(), &["version", "-o", "json"]).stdout).unwrap();
    assert_eq!(json["version"], version);
}
