use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::register::{Coverage, PAGES};
use super::{entries, parse};

#[test]
fn blocks_are_indented_or_fenced() {
    let text = "# A\n\n    one\n      two\n\n    three\ntext\n    not code\n\n- item\n  more\n\n```\nfour\n\nfive\n```\n";
    let blocks: Vec<(usize, String)> =
        parse("page", text).into_iter().map(|block| (block.line, block.text)).collect();
    let expected = [(3, "one\n  two\n"), (6, "three\n"), (14, "four\n\nfive\n")]
        .map(|(line, text)| (line, text.to_owned()));
    assert_eq!(blocks, expected);
}

#[test]
fn every_block_of_every_document_has_an_existing_test() {
    let pages: BTreeSet<String> = PAGES.iter().map(|page| page.name.to_owned()).collect();
    let found = files(&root().join("docs"), "md").into_iter().chain([root().join("README.md")]);
    let found = found.map(|file| file.strip_prefix(root()).unwrap().display().to_string());
    assert_eq!(pages, found.collect(), "documents in the register, and existing documents");

    let sources: Vec<String> = ["integration/tests", "integration/src"]
        .iter()
        .flat_map(|directory| files(&root().join(directory), "rs"))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    for (block, coverage) in entries().unwrap() {
        let Coverage::Test(test) = coverage else { continue };
        assert!(
            sources.iter().any(|source| walks(source, test)),
            "{block}: test {test} does not exist or does not run it"
        );
    }
}

/// Whether the source contains this function, and the function requests its blocks.
fn walks(source: &str, test: &str) -> bool {
    let function = test.rsplit("::").next().unwrap_or(test);
    let bodies = source.split("fn ").filter(|rest| rest.starts_with(&format!("{function}(")));
    bodies
        .map(|body| body.split_whitespace().collect::<String>())
        .any(|body| body.contains(&format!("walk(\"{test}\"")))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}
