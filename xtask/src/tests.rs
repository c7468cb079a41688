use super::Arguments;
use crate::build::TEST_FEATURES;
use crate::process::{cargo, root, stdout};
use clap::{CommandFactory, Parser as _};
use std::collections::BTreeSet;
use std::fs;

#[test]
fn command_line_is_consistent() {
    Arguments::command().debug_assert();
}

/// No test runs these commands: most take minutes.
#[test]
fn documented_commands_are_valid() {
    let pages = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let texts = pages.chain([root().join("README.md")]).map(|page| fs::read_to_string(page).unwrap());
    let mut commands = 0;
    for text in texts {
        for rest in text.split("cargo xtask ").skip(1) {
            let line = rest.split(['\n', '`', '#']).next().unwrap_or_default();
            let parsed = Arguments::try_parse_from(["xtask"].into_iter().chain(line.split_whitespace()));
            assert!(parsed.is_ok(), "cargo xtask {line}: {}", parsed.err().unwrap());
            commands += 1;
        }
    }
    assert!(commands > 10, "found only {commands} commands");
}

/// Otherwise cargo would build them twice, which takes most of a minute.
#[test]
fn programs_and_tests_share_their_dependencies() {
    let tree = |selection: &str| -> BTreeSet<String> {
        let line = format!("tree --locked --edges {selection} --prefix none --format {{p}}:{{f}}");
        let tree = stdout(&mut cargo(&line)).unwrap();
        let crates = tree.lines().map(|line| line.trim_end_matches(" (*)").to_owned());
        // The crates of the workspace have a path.
        crates.filter(|line| !line.contains(" (")).collect()
    };
    let tests = tree("normal,build,dev --workspace");
    for programs in [
        format!("normal -p flannel-cni -p flanneld -p flannelctl -p integration {TEST_FEATURES}"),
        "normal -p flanneld --features test-features".to_owned(),
    ] {
        let other: Vec<String> = tree(&programs).difference(&tests).cloned().collect();
        assert!(other.is_empty(), "with other features than in tests: {other:?}");
    }
}
