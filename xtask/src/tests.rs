use super::Arguments;
use crate::process::root;
use clap::{CommandFactory, Parser as _};
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
